"""What a table over runs is: rows, columns, metrics, and the paper's table that it stands for (``configs/table``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ader.config.options import option_file, options
from ader.metrics import METRICS
from ader.published import SOURCES
from ader.report.papers.costs import COSTS
from ader.report.papers.counts import COUNTS
from ader.results.record import fault
from ader.system.errors import UserError, suggest

GROUP = "table"

#: Coordinates that are no key of a run, but of what is in its table.
INSIDE = ("category", "metric")

#: What a cell shows. ``both``: ours, published and the difference; ``auto``: ``both`` where there are runs.
Show = Literal["auto", "both", "ours", "published"]

#: Which runs of one recipe a cell is made of: the mean over seeds, or the one that was made last.
Seeds = Literal["mean", "latest"]

#: What only ablations have.
ABLATIONS = ("pearson", "eval_seconds", "pixel_f1_avg", "pixel_acc_avg", "pixel_iou_avg")

KNOWN = (*(each.slug for each in METRICS), *COSTS, *COUNTS, *ABLATIONS)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Spec:
    """One table.

    Attributes:
        title: one line.
        source: the paper that it stands in; empty for none.
        tables: its numbers there.
        rows: the coordinates that rows are made of: ``method``, ``dataset``, ``category``, ``seed`` ... or any key of
            the configuration.
        split: further ones, for one's own runs: rows are made of those in which the runs of a cell differ.
        columns: the same of columns, two at most; ``metric`` is one of them, or of the rows, unless there is one.
        metrics: slugs of metrics and names of costs, in their order; empty for all that are published.
        only: coordinates that a published value must have, each one or several values.
        where: a condition on own runs, as ``ader.report.where`` reads it.
        sections: groups of rows by the values of their last coordinate, with headings; others follow.
        own: whether runs of methods that the paper does not have are added.
        tolerance: by how many points a value may be off the published one in ``ader reproduce``.
        tolerances: the same for some metrics; of a cost as a fraction of the published value.
        notes: what one must know.
    """

    title: str = ""
    source: str = ""
    tables: tuple[str, ...] = ()
    rows: tuple[str, ...] = ("method",)
    split: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("metric",)
    metrics: tuple[str, ...] = ()
    only: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    where: str = ""
    sections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own: bool = True
    tolerance: float = 1.0
    tolerances: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.source and self.source not in SOURCES:
            raise ValueError(f"source {self.source!r}: {suggest(self.source, SOURCES)}")
        if len(self.columns) > 2 or not self.rows or not self.columns:
            raise ValueError("give one or more rows, and one or two columns")
        if both := {*self.rows} & {*self.columns}:
            raise ValueError(f"{', '.join(sorted(both))} is in rows and in columns")
        for name in self.metrics:
            if name not in KNOWN:
                raise ValueError(f"metric {name!r}: {suggest(name, KNOWN)}")

    def allowed(self, metric: str) -> float:
        """By how much a value may be off: a fraction; of a cost relative to what was published."""
        if metric in COSTS:
            return self.tolerances.get(metric, 0.05)
        return self.tolerances.get(metric, self.tolerance) / 100


SPEC = TypeAdapter(Spec)


def names(config_dir: Path | None = None) -> list[str]:
    """The tables that there are, by name."""
    return options(GROUP, config_dir)


def read_spec(name: str, config_dir: Path | None = None) -> Spec:
    """A table by its name.

    Raises:
        UserError: there is none, or its file is wrong.
    """
    if name not in (known := names(config_dir)):
        raise UserError(f"there is no table {name!r}: {suggest(name, known)} (ader list tables)")
    file = option_file(GROUP, name, config_dir)
    try:
        return spec_of(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{file}: {error}") from error


def spec_of(values: Mapping[str, Any]) -> Spec:
    """From plain values.

    Raises:
        ValueError: they are no table.
    """
    try:
        return SPEC.validate_python(_lists(values))
    except ValidationError as error:
        first = error.errors()[0]
        why = str(first["ctx"]["error"]) if "ctx" in first and "error" in first["ctx"] else fault(error)
        raise ValueError(why) from error


def _lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """A single name is a list of one; numbers of tables are text."""
    found = dict(values)
    for key in ("tables", "rows", "split", "columns", "metrics", "notes"):
        if key in found:
            value = found[key]
            found[key] = tuple(map(str, value if isinstance(value, (list, tuple)) else [value]))
    if "only" in found:
        found["only"] = {
            key: tuple(map(str, value)) if isinstance(value, list) else str(value)
            for key, value in found["only"].items()
        }
    return found


def ordered(values: Sequence[str], first: Sequence[str]) -> list[str]:
    """Without repetition: those of ``first`` in their order, then the others as they come."""
    there = dict.fromkeys(values)
    return [
        *(value for value in dict.fromkeys(first) if value in there),
        *(value for value in there if value not in first),
    ]
