"""Where a run's results live: the same configuration always finds its own folder, two never share one.

The folder's name lists every recipe value that differs from its default, in a form that can be read back without
doubt: keys are dotted names, simple values stand as they are, all others end in a mark of their content.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ader.config.keys import RECIPE, find
from ader.config.schema import Composition, Config, RunConfig, ScoreConfig
from ader.data.index import Index
from ader.system.console import Console
from ader.system.contents import Contents
from ader.system.errors import UserError

#: Keys that the folder's name begins with.
IN_NAME = {"seed", "trainer.epochs"}

LONGEST = 160  # characters, all ASCII; file systems allow 255 bytes


@dataclass(frozen=True)
class RunId:
    """A run's identity.

    Attributes:
        label: the dataset's, as in paths and tables.
        folder: of the results.
        fingerprint: what must be equal for two runs to be the same run: the recipe; ``index``, a checksum of names and
            labels; ``data``, one of those and of what is in the files; ``contents``, one for each kind of other files.
    """

    label: str
    folder: Path
    fingerprint: Mapping[str, Any]


def identify(config: RunConfig | ScoreConfig, index: Index, **contents: str) -> RunId:
    """``<results>/<dataset>/<setting>/<method>/<run>``, and whose folder that is.

    Args:
        config: the configuration.
        index: all samples.
        contents: marks of files besides the dataset's that decide the result, by their kind.

    Raises:
        UserError: ``run`` or ``dataset.label`` cannot name a folder.
    """
    choices = config.composition.choices
    data = content(index, contents_of(config))
    label = dataset_label(config, index, data)
    folder = config.paths.results / label / choices["setting"] / choices["method"] / folder_name(config)
    known = {"index": index.digest(), "data": data, "contents": contents}
    return RunId(label, folder, {**recipe(config.values, type(config)), **known})


def folder_name(config: RunConfig | ScoreConfig) -> str:
    """The name of a run's folder, which no data decides: the user's, or made from what differs from the defaults.

    Raises:
        UserError: ``run`` cannot name a folder.
    """
    return run_name(config.composition, type(config)) if config.run is None else check_name("run", config.run)


def contents_of(config: RunConfig | ScoreConfig) -> Contents:
    """Looks into files, remembers in ``paths.cache`` what is in them, and shows progress."""
    first = os.environ.get("RANK", "0") == "0"  # of several processes
    return Contents(config.paths.cache, Console(quiet=not first))


def check_name(key: str, name: object) -> str:
    """A name that the user chose for a folder.

    Raises:
        UserError: it is not one.
    """
    text = str(name)
    if text in ("", ".", "..") or "/" in text or "\0" in text or len(text.encode()) > 200:
        raise UserError(f"{key}={text!r} is not a folder name: give a short one without slashes")
    return text


def is_anonymous(config: RunConfig | ScoreConfig, index: Index) -> bool:
    """Whether these are images of the user's own, which no published name stands for."""
    return index.name != config.dataset.name


def dataset_label(config: RunConfig | ScoreConfig, index: Index, data: str) -> str:
    """The dataset's folder: its option, or for the user's own images their folder's name and a mark of the content."""
    if config.dataset.label is not None:
        return check_name("dataset.label", config.dataset.label)
    if is_anonymous(config, index):
        return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', index.name)[:80]}-{data[:6]}"
    return config.composition.choices["dataset"]


def content(index: Index, contents: Contents) -> str:
    """SHA-256 over an index and all that is in its files: a corrected mask makes other data. What cannot be read counts
    as that: the check of files says so."""
    names = {name for sample in index for name in (sample.image, *sample.masks)}
    return contents.mark({name: index.path(name) for name in names}, index.digest())


def flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists are values."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, values


def recipe(values: Mapping[str, Any], config_class: type[Config] | None = None) -> dict[str, Any]:
    """What decides a run's result, besides the data: dotted keys and values.

    Args:
        values: of a composed config, such as a record has.
        config_class: whose marks say which keys those are; None: a run's, or those of scored maps.
    """
    if config_class is None:
        config_class = RunConfig if "trainer" in values else ScoreConfig
    flat, kept = dict(flatten(values)), {}
    for key, value in flat.items():
        mark = find(config_class, key)
        parent, _, name = key.rpartition(".")
        # beside `pretrained` it says where a backbone's weights lie, not which they are
        is_folder = name == "weights" and f"{parent}.pretrained" in flat
        # a key that no schema knows decides, too: that keeps results apart
        if (mark is None or mark.role is RECIPE) and not is_folder:
            kept[key] = value
    if isinstance(kept.get("dataset.categories"), str):  # one name is the same as a list of one
        kept["dataset.categories"] = [kept["dataset.categories"]]
    return kept


#: Keys that may differ between runs that are averaged: the seed, and detectors that were trained for it.
_OF_A_SEED = re.compile(r"(seed$|method\.runs)")


def recipe_but_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``recipe`` what runs must share to be averaged over their seeds.

    Args:
        values: of a composed config, such as a record has.
    """
    return {key: value for key, value in recipe(values).items() if not _OF_A_SEED.match(key)}


def canonical(value: Any) -> str:
    """One text for equal values and different texts for different ones (1 and 1.0 are equal, true and 1 are not)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(canonical(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(key))}:{canonical(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def marks(composed: Composition, config_class: type[Config] | None = None) -> list[str]:
    """A readable mark for every recipe value that differs from the chosen options' defaults."""
    base, own = recipe(composed.defaults, config_class), recipe(composed.values, config_class)
    found = []
    if composed.choices["metric"] != "histogram":
        found.append(f"metric={readable(composed.choices['metric'])}")
    for key in sorted({*base, *own} - IN_NAME):
        if key not in own:
            found.append(f"{_short(key, own)}~")  # deleted
        elif key not in base or canonical(base[key]) != canonical(own[key]):
            found.append(f"{_short(key, own)}={readable(own[key])}")
    return found


def run_name(composed: Composition, config_class: type[Config] | None = None) -> str:
    """``e100-s42``, and the marks; for scored maps, which have neither epochs nor seed, the marks or ``default``.

    Args:
        composed: what the name is of.
        config_class: as for ``recipe``.
    """
    values = composed.values
    first = []
    if "trainer" in values:
        first = [f"e{readable(values['trainer']['epochs'])}", f"s{readable(values['seed'])}"]
    name = "-".join([*first, *marks(composed, config_class)]) or "default"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 13]}-{_hash(name, 12)}"


def _short(key: str, values: Mapping[str, Any]) -> str:
    """The key without ``method.``, where that is no other key's name."""
    short = key.removeprefix("method.")
    short = key if short.split(".")[0] in {name.split(".")[0] for name in values} else short
    return short if re.fullmatch(r"[A-Za-z0-9_.]+", short) else f"_{_hash(key, 10)}"


def readable(value: Any) -> str:
    """A value for a folder's name: no two values have the same. A list of one ends in a comma."""
    if isinstance(value, list) and value and all(_simple(item) for item in value):
        return ",".join(map(_plain, value)) + ("," if len(value) == 1 else "")
    if _simple(value):
        return _plain(value)
    text = canonical(value)
    return f"{re.sub('[^A-Za-z0-9_.]+', '_', text).strip('_')[:24]}~{_hash(text, 8)}"


def _simple(value: Any) -> bool:
    """Whether it can stand as it is: a number, or a word that is not the text of something else."""
    if not isinstance(value, str):
        return value is None or isinstance(value, (bool, int, float))
    try:
        json.loads(value)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9_.+-]+", value) is not None
    return False  # "12" and "true" read as a number and a truth value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)


def _hash(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
