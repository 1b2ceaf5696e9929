"""Whether what was published was reached: which runs that takes, which there are, and where a number is off."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ader.config.options import option_file, options
from ader.metrics import METRICS
from ader.published import read
from ader.report.collection import Run
from ader.report.papers.chosen import Own, fitting
from ader.report.papers.costs import COSTS
from ader.report.papers.places import allowed, own_of
from ader.report.papers.points import DOUBTFUL, Need, Point, points_of
from ader.report.papers.spec import Spec
from ader.report.tables import Cell, Column, Row, Table
from ader.report.where import parse
from ader.results.record import fault
from ader.system.errors import UserError, suggest

GROUP = "expected"

#: Costs that depend on no machine.
EVERYWHERE = ("params", "macs")

#: What a sweep runs through.
SWEPT = ("dataset=", "method=")

SLUGS = {each.slug for each in METRICS}


@dataclass(frozen=True)
class Judged:
    """One published or expected value beside ours.

    Attributes:
        point: what is expected.
        own: ours.
        tolerance: by how much it may be off, in the unit of the value.
    """

    point: Point
    own: Own
    tolerance: float

    @property
    def there(self) -> bool:
        """Whether there is a value of ours."""
        return not math.isnan(self.own.value)

    @property
    def off(self) -> bool:
        """Whether ours is further away than it may be."""
        return self.there and not abs(self.own.value - self.point.value) <= self.tolerance + 1e-9

    @property
    def name(self) -> str:
        """The cell in words."""
        names = ("dataset", "setting", "epochs", "method", "category")
        words = {name: self.point.at.get(name, "") for name in names}
        words["epochs"] = f"{words['epochs']} epochs" if words["epochs"] else ""
        return " / ".join(filter(None, words.values()))


@dataclass(frozen=True)
class Needed:
    """One run that a table takes.

    Attributes:
        need: what it must be.
        state: ``done``, ``missing``, ``impossible`` or how far it has come.
        reason: why it is not done.
        hours: of training it may take, on the GPU of whoever measured; None where nobody did.
        measured: by whom.
    """

    need: Need
    state: str
    reason: str
    hours: float | None
    measured: str


class Reproduction:
    """A table's values beside ours.

    Args:
        name: of the table.
        title: in words.
        points: what is expected.
        spec: says what may be off.
        runs: of the results tree.
        source: the paper; empty for values of one's own.
    """

    def __init__(
        self, name: str, title: str, points: Sequence[Point], spec: Spec, runs: Sequence[Run], source: str = ""
    ) -> None:
        self.name, self.title, self.runs, self.source = name, title, runs, source
        self.points = [point for point in points if point.needs and not math.isnan(point.value)]
        self.spec = spec

    @cached_property
    def judged(self) -> list[Judged]:
        """Every value that can be compared; what a machine decides, such as times, is not, nor what was misprinted."""
        found = []
        for point in self.points:
            metric = point.at["metric"]
            if any(need.impossible for need in point.needs) or (metric in COSTS and metric not in EVERYWHERE):
                continue
            if DOUBTFUL.search(point.note):
                continue
            allowance = self.spec.allowed(metric)
            tolerance = allowance * point.value if metric in COSTS else allowance
            found.append(Judged(point, own_of(point.needs, self.runs, point.at, "mean", self.source), tolerance))
        return found

    @cached_property
    def needed(self) -> list[Needed]:
        """Every run once."""
        found: dict[tuple[tuple[str, str], ...], Needed] = {}
        for point in self.points:
            for need in point.needs:
                key = tuple(sorted(need.keys.items()))
                if key not in found:
                    found[key] = self._needed(need)
        return list(found.values())

    def _needed(self, need: Need) -> Needed:
        if need.impossible:
            return Needed(need, "impossible", need.impossible, None, "")
        runs = fitting(self.runs, need)
        if any(run.state == "done" for run in runs):
            return Needed(need, "done", "", None, "")
        hours, measured = self._hours(need)
        if not runs:
            return Needed(need, "missing", "not run", hours, measured)
        return Needed(need, runs[0].state, runs[0].reason, hours, measured)

    def _hours(self, need: Need) -> tuple[float | None, str]:
        """Of training: what a finished run of this method took on this dataset, or what ADer's Table 1 says."""
        epochs = float(need.keys.get("epochs", "100"))
        method, dataset = need.keys["method"], need.keys.get("dataset", "")
        for run in self.runs:
            if run.record is not None and (str(run.keys["method"]), str(run.keys["dataset"])) == (method, dataset):
                return COSTS["train_hours"].value(run.record) * epochs / float(
                    run.keys.get("epochs", epochs)
                ), "runs here"
        table = read("ader_efficiency").set_index("method")
        column = f"{dataset}_train_hours"
        if method in table.index and column in table and str(table.loc[method, column]).replace(".", "", 1).isdigit():
            return float(str(table.loc[method, column])) * epochs / 100, "ADer, Table 1: one L40S"
        return None, ""

    @property
    def off(self) -> list[Judged]:
        """Values that are further away than they may be."""
        return [each for each in self.judged if each.off]

    @property
    def missing(self) -> list[Needed]:
        """Runs that could be made, and are not done."""
        return [each for each in self.needed if each.state not in ("done", "impossible")]

    def lines(self) -> list[tuple[str, ...]]:
        """The words of as few sweeps as make all that is missing."""
        groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
        for each in self.missing:
            words = each.need.words
            own = dict(word.split("=", 1) for word in words if word.startswith(SWEPT))
            rest = tuple(word for word in words if not word.startswith(SWEPT))
            if len(own) < len(SWEPT):
                groups.setdefault(words, {})
                continue
            groups.setdefault(rest, {}).setdefault(own["dataset"], []).append(own["method"])
        found = []
        for rest, datasets in groups.items():
            by_methods: dict[tuple[str, ...], list[str]] = {}
            for dataset, methods in datasets.items():
                by_methods.setdefault(tuple(methods), []).append(dataset)
            found += [
                (f"dataset={','.join(names)}", f"method={','.join(methods)}", *rest)
                for methods, names in by_methods.items()
            ] or [rest]
        return found

    def tables(self) -> list[Table]:
        """Which runs it takes, and what is off."""
        rows = [
            Row.of(" ".join(each.need.words), each.state, each.hours, each.reason)
            for each in self.needed
            if each.state != "impossible"
        ]
        columns = Column("run"), Column("state", wrap="never"), Column("hours", kind="number"), Column("why")
        return [Table(columns, tuple(rows), f"{self.title}: the runs that it takes", tuple(self._notes()))]

    def _notes(self) -> Iterator[str]:
        impossible = Counter(each.reason for each in self.needed if each.state == "impossible")
        yield from (
            f"cannot be run here: {reason} ({count} run{'s' * (count > 1)})" for reason, count in impossible.items()
        )
        if doubtful := sum(bool(DOUBTFUL.search(point.note)) for point in self.points):
            yield f"not compared, since the printed value is doubtful: {doubtful} (ader table {self.name} says why)"
        known = [each for each in self.missing if each.hours is not None]
        if known:
            total = sum(each.hours or 0.0 for each in known)
            who = ", ".join(sorted({each.measured for each in known}))
            more = len(self.missing) - len(known)
            unknown = f", and {more} runs that nobody measured" if more else ""
            yield f"hours of training to come: {total:.1f}{unknown} ({who})"


def reproduction(name: str, spec: Spec, runs: Sequence[Run], methods: Sequence[str], only: str = "") -> Reproduction:
    """Of a paper's table.

    Args:
        name: of the table.
        spec: of it.
        runs: of the results tree.
        methods: the options of ``method=`` that there are.
        only: the coordinates that count, as in ``method=rd epochs=100``.

    Raises:
        UserError: it is no table of a paper, or nothing of it is left.
    """
    if not spec.source:
        raise UserError(f"{name} is no table of a paper, so that there is nothing to reproduce: ader table {name}")
    points = [point for point in points_of(spec.source, spec.tables, methods) if allowed(point.at, spec)]
    return Reproduction(name, spec.title, chosen(points, only), spec, runs, spec.source)


def chosen(points: Sequence[Point], only: str) -> list[Point]:
    """Those at some coordinates.

    Raises:
        UserError: there are none.
    """
    wanted = parse(only).wanted
    found = [point for point in points if all(point.at.get(key, "") in values for key, values in wanted.items())]
    if not found:
        known = sorted({key for point in points for key in point.at})
        raise UserError(f"only={only!r} leaves nothing: coordinates are {', '.join(known)}")
    return found


@checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ExpectedRun:
    """One run, and what it must reach.

    Attributes:
        words: that make it, as after ``ader``.
        where: that finds it among all runs.
        values: metrics in percent, by category or ``mean``.
    """

    words: str
    where: str
    values: dict[str, dict[str, float]]


@checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Expected:
    """Values that were reached before, for a gate (``configs/expected/*.yaml``).

    Attributes:
        title: one line.
        tolerance: by how many points a value may be off.
        tolerances: the same for some metrics.
        runs: with their values.
    """

    title: str
    tolerance: float = 1.0
    tolerances: dict[str, float] = field(default_factory=dict)
    runs: tuple[ExpectedRun, ...]


EXPECTED = TypeAdapter(Expected)


def expected_names(config_dir: Path | None = None) -> list[str]:
    """The files with expected values that there are, by name."""
    return options(GROUP, config_dir)


def expected(name: str, runs: Sequence[Run], only: str = "", config_dir: Path | None = None) -> Reproduction:
    """Of a file with expected values.

    Args:
        name: one of ``expected_names``, or the path of a file.
        runs: of the results tree.
        only: as for ``reproduction``.
        config_dir: a folder with further files.

    Raises:
        UserError: the file is wrong.
    """
    file = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else option_file(GROUP, name, config_dir)
    try:
        values = EXPECTED.validate_python(yaml.safe_load(file.read_text(encoding="utf-8")))
        points = list(_points(values))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise UserError(f"{file}: {fault(error)}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{file}: {error}") from error
    spec = Spec(tolerance=values.tolerance, tolerances=values.tolerances)
    return Reproduction(name, values.title, chosen(points, only), spec, runs)


def _points(values: Expected) -> Iterator[Point]:
    for run in values.runs:
        keys = {key: each[0] for key, each in parse(run.where).wanted.items()}
        need = Need(keys, tuple(run.words.split()))
        for category, metrics in run.values.items():
            for metric, value in metrics.items():
                if metric not in SLUGS:
                    raise ValueError(f"metric {metric!r}: {suggest(metric, SLUGS)}")
                at: dict[str, Any] = {**keys, "category": category, "metric": metric}
                yield Point(at, value / 100, needs=(need,))


def totals(reproduction: Reproduction) -> Mapping[str, int]:
    """How many runs are in which state."""
    return Counter(each.state for each in reproduction.needed)


def off_table(found: Reproduction) -> Table | None:
    """What is off, the furthest first; None where nothing is."""
    off = sorted(found.off, key=lambda each: -abs(each.own.value - each.point.value))
    if not off:
        return None
    columns = (
        Column("cell", wrap="fold"),
        Column("metric", wrap="never"),
        *(Column(heading, kind="number", digits=2) for heading in ("ours", "expected", "off by", "allowed")),
    )
    rows = []
    for each in off:
        metric = each.point.at["metric"]
        scale = 1 if metric in COSTS else 100
        values = (each.own.value, each.point.value, each.own.value - each.point.value, each.tolerance)
        rows.append(Row.of(Cell(each.name), metric, *(scale * value for value in values)))
    return Table(columns, tuple(rows), "off")
