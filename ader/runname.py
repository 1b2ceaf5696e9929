"""Where a run's results live: the same configuration always finds its own folder, two never share one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ader.config import Composed
from ader.data.index import Index

#: Keys that do not change what a run computes.
NOT_RECIPE = re.compile(
    r"(paths|run|save_maps|force"
    r"|trainer\.(device|workers|test_batch_size|checkpoint_minutes)"
    r"|dataset\.(root|label|about|counts|check_counts)"
    r"|.*\.weights)(\..*)?"
)

#: Keys that the folder's name begins with.
IN_NAME = {"seed", "trainer.epochs", "method.epochs"}

LONGEST = 160  # characters; file systems allow 255 bytes


def flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists are values."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, values


def recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run's result, besides the data: dotted keys and values."""
    return {key: value for key, value in flatten(values) if not NOT_RECIPE.fullmatch(key)}


def marks(composed: Composed) -> list[str]:
    """A readable mark for every recipe value that differs from the chosen options' defaults."""
    base = recipe(composed.defaults)
    found = []
    if composed.choices["metric"] != "histogram":
        found.append(f"metric={composed.choices['metric']}")
    for key, value in sorted(recipe(composed.values).items()):
        if key in IN_NAME and not (key == "method.epochs" and value != composed.values["trainer"]["epochs"]):
            continue
        if key not in base or base[key] != value:
            short = re.sub(r"^(method|trainer|dataset|setting|metric)\.", "", key)
            found.append(f"{short}={_readable(value)}")
    return found


def run_name(composed: Composed) -> str:
    """``e100-s42``, and the marks."""
    values = composed.values
    name = "-".join([f"e{values['trainer']['epochs']}", f"s{values['seed']}", *marks(composed)])
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 11]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def _readable(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    plain = re.sub(r'[\[\]{}"\s]+', "", text)
    safe = re.sub(r"[^\w.,+=-]", "_", plain)
    # what cannot stand in a folder's name must still tell two values apart
    return safe if safe == plain and safe else f"{safe}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def dataset_label(composed: Composed, index: Index) -> str:
    """The dataset's folder: its option, or for a folder of the user's own its name and a mark of its content."""
    given = composed.values["dataset"].get("label")
    if given:
        return str(given)
    if index.name != composed.values["dataset"]["name"]:
        return f"{index.name}-{index.digest()[:6]}"
    return composed.choices["dataset"]


def run_folder(composed: Composed, index: Index) -> Path:
    """``<results>/<dataset>/<setting>/<method>/<run>``."""
    results = Path(composed.values["paths"]["results"]).expanduser()
    name = composed.values["run"] or run_name(composed)
    return results / dataset_label(composed, index) / composed.choices["setting"] / composed.choices["method"] / name


def fingerprint(composed: Composed, index: Index) -> dict[str, Any]:
    """What must be equal for two runs to be the same run: the recipe and the data."""
    return {**recipe(composed.values), "data": index.digest()}
