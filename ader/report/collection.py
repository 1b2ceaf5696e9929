"""Every run of a results tree, with what it was and how it ended: what tables, figures and the page are made of.

Nothing but the tree is read, and of a finished run nothing but its ``record.json``: 200 runs take about a second.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from ader.config.options import read_option
from ader.results import record
from ader.results.identity import canonical, recipe_but_seed
from ader.results.lock import FILE as LOCK
from ader.results.lock import holder
from ader.results.record import read
from ader.results.schema import Record
from ader.results.sweeps import ledger
from ader.results.sweeps.schema import JobRecord
from ader.system.errors import UserError

#: How far a run has come. ``failed``: a sweep says why; ``unfinished``: nobody is at work in its folder or says why;
#: ``damaged``: its record cannot be read.
State = Literal["done", "running", "failed", "unfinished", "damaged"]

#: Config groups whose chosen option is a key of a run.
GROUPS = ("dataset", "setting", "method", "trainer", "protocol", "experiment")

#: Short names of configuration keys.
SHORT = {"epochs": "trainer.epochs", "backbone": "method.backbone.name", "precision": "trainer.precision"}


@dataclass(frozen=True)
class Run:
    """One run of a tree.

    Attributes:
        folder: of the run.
        place: its path below the tree: dataset, setting, method and run.
        state: how far it has come.
        reason: why it has no numbers, in one line; empty where it has.
        record: of a finished run.
        keys: what it is, by key: the options of config groups (``dataset``, ``method`` ...), ``seed``, ``run``,
            ``recipe``, ``epochs``, ``backbone``, ``profile`` (how metrics are computed: ``histogram``, ``exact`` ...),
            and every key of the configuration, dotted (``method.lr``).
    """

    folder: Path
    place: tuple[str, ...]
    state: State
    reason: str = ""
    record: Record | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """``<dataset> / <setting> / <method> / <run>``"""
        return " / ".join(self.place)

    def value(self, category: str, metric: str) -> float:
        """A metric's value as a fraction; NaN where it is undefined, or where there is none.

        Args:
            category: of the dataset, or ``mean``.
            metric: its slug.
        """
        found = self.record.rows.get(category, {}).get(metric) if self.record else None
        return math.nan if found is None else found

    def missing(self, category: str, metric: str) -> str:
        """Why there is no value; empty where there is one."""
        if self.record is None:
            return self.reason
        if category not in self.record.rows:
            return f"{self.title} has no category {category}"
        if metric not in self.record.rows[category]:
            return f"{self.title} was evaluated before {metric} was known: ader eval {self.folder}"
        if not math.isnan(self.value(category, metric)):
            return ""
        reasons = self.record.undefined.items()
        why = next((reason for reason, where in reasons if category in where and metric in reason), None)
        why = why or next((reason for reason, where in reasons if category in where), "")
        return f"undefined: {why}" if why else "undefined"

    @cached_property
    def likeness(self) -> str:
        """A mark of all that decides a finished run's numbers but its seed: runs that share it may be averaged."""
        if self.record is None:
            return ""
        values = recipe_but_seed(self.record.config)
        return canonical([sorted(values.items()), self.record.data_hash, self.record.metric])

    @cached_property
    def categories(self) -> list[str]:
        """In the order of the record, without ``mean``."""
        return [name for name in (self.record.rows if self.record else {}) if name != "mean"]


def collect(root: Path) -> list[Run]:
    """All runs below a results tree, ordered by their place: finished, failed in a sweep, and under way.

    Args:
        root: of the tree (``paths.results``).

    Raises:
        UserError: it is no folder.
    """
    if not root.is_dir():
        raise UserError(f"there is no results tree at {root}: give paths.results=FOLDER")
    runs = {place: _run(root / place, place) for place in _places(root)}
    for place, job in _failures(root):
        run = runs.get(place)
        if run is None or run.state == "unfinished":
            keys = {**_keys_of_place(Path(place).parts), **_keys_of_words(job.words), **(run.keys if run else {})}
            assert job.ending is not None
            why = f"{job.ending.kind}: {job.ending.reason}" if job.ending.reason else job.ending.kind
            runs[place] = Run(root / place, Path(place).parts, "failed", why, keys=keys)
    return [runs[place] for place in sorted(runs, key=lambda place: Path(place).parts)]


def done(runs: Sequence[Run]) -> list[tuple[Run, Record]]:
    """The finished ones, with their records."""
    return [(run, run.record) for run in runs if run.record is not None]


def _places(root: Path) -> Iterator[str]:
    """Folders of runs, finished or not, relative to the tree."""
    for place, folders, files in os.walk(root):
        folders.sort()
        if Path(place) == root:
            folders[:] = [name for name in folders if name not in (ledger.FOLDER, "tables", "figures", "report")]
        if {record.FILE, "config.yaml", LOCK} & {*files}:
            folders.clear()  # maps are thousands of files
            yield os.path.relpath(place, root)


def _run(folder: Path, place: str) -> Run:
    parts = Path(place).parts
    try:
        found = read(folder)
    except UserError as error:
        return Run(folder, parts, "damaged", str(error), keys=_keys_of_place(parts))
    if found is not None:
        return Run(folder, parts, "done", record=found, keys=keys_of(found, parts))
    keys = {**_keys_of_place(parts), **_keys_of_file(folder / "config.yaml")}
    if (at_work := holder(folder)) is not None:
        return Run(folder, parts, "running", f"running: {at_work}", keys=keys)
    return Run(folder, parts, "unfinished", "not finished: give its command again", keys=keys)


def keys_of(result: Record, place: Sequence[str]) -> dict[str, Any]:
    """What a finished run is, by key (``Run.keys``)."""
    keys = _flat(result.config)
    own: dict[str, Any] = {name: option for name, option in result.choices.items() if name in GROUPS}
    own |= {"seed": result.seed, "profile": result.metric, "recipe": result.config.get("recipe") or "default"}
    short = {name: keys[key] for name, key in SHORT.items() if key in keys}
    return {**keys, **_keys_of_place(place), **own, **short}


def _keys_of_place(place: Sequence[str]) -> dict[str, Any]:
    return dict(zip(("dataset", "setting", "method", "run"), place, strict=False))


def _keys_of_file(file: Path) -> dict[str, Any]:
    """Of a run that has no record yet: those of its configuration, as far as it can be read."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        keys = _flat({key: value for key, value in config.items() if key != "fingerprint"})
    except (OSError, yaml.YAMLError, ValueError, AttributeError, RecursionError):
        return {}
    return {**keys, **{name: keys[key] for name, key in SHORT.items() if key in keys}}


def _keys_of_words(words: Sequence[str]) -> dict[str, Any]:
    """Of a run that left no folder: those that were typed."""
    pairs = (word.lstrip("+").partition("=") for word in words if "=" in word)
    keys = {key: _typed(value) for key, _, value in pairs}
    with suppress(UserError, KeyError):  # an option of someone's own folder
        keys.setdefault("trainer.epochs", read_option("trainer", str(keys.get("trainer", "e100")))["epochs"])
    return {**keys, **{name: keys[key] for name, key in SHORT.items() if key in keys}}


def _typed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys, dotted."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _failures(root: Path) -> Iterator[tuple[str, JobRecord]]:
    """Jobs of sweeps that ended without a result, with the place of theirs."""
    for name in ledger.names(root):
        try:
            _, sweep = ledger.find(root, name)
        except UserError:
            continue
        for job in sweep.jobs:
            if job.state == "failed" and job.ending is not None:
                yield os.path.normpath(job.folder), job
