"""What stands in every cell of a table over runs: a published value, ours, and which runs that takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ader.metrics import METRICS
from ader.report.collection import Run
from ader.report.papers.chosen import Own, fitting, own_mean, own_value
from ader.report.papers.counts import COUNTS, stated
from ader.report.papers.points import Need, Point, points_of
from ader.report.papers.spec import INSIDE, KNOWN, Seeds, Spec, ordered
from ader.report.where import as_text, select
from ader.system.errors import UserError, some

#: Values of a row's or a column's coordinates.
Key = tuple[str, ...]

#: How a paper computed its metrics, in the words of ``metric=``.
PROFILES = {"ader": "ader", "invad": "invad"}

#: What one's own table has if no metrics are named.
MAIN = tuple(each.slug for each in METRICS if each.table == "main")

#: Keys in which the runs of one cell must not differ.
TOLD = ("dataset", "setting", "method", "epochs", "recipe", "image_size", "profile", "protocol", "backbone")


@dataclass(frozen=True)
class Place:
    """One cell before it is shown.

    Attributes:
        at: its coordinates.
        point: what was published there.
        own: what one's own runs give; None where they are not asked for, or nobody knows which they are.
    """

    at: Mapping[str, str]
    point: Point | None = None
    own: Own | None = None

    @property
    def has_own(self) -> bool:
        """Whether there is a value of ours."""
        return self.own is not None and not math.isnan(self.own.value)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must be said of ours."""
        return self.own.remarks if self.own is not None and self.has_own else ()


Places = dict[tuple[Key, Key], Place]


@dataclass(frozen=True)
class Filled:
    """A table's places by row and column, both in their order."""

    spec: Spec
    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    places: Places = field(default_factory=dict)

    @property
    def has_own(self) -> bool:
        """Whether any cell has a value of ours."""
        return any(place.has_own for place in self.places.values())

    def row(self, row: Key) -> list[Place | None]:
        """Its places from left to right."""
        return [self.places.get((row, column)) for column in self.columns]


def fill(
    spec: Spec, runs: Sequence[Run], methods: Sequence[str] = (), seeds: Seeds = "mean", own: bool = True
) -> Filled:
    """Finds what stands in every cell.

    Args:
        spec: of the table.
        runs: of the results tree.
        methods: the options of ``method=`` that there are; others cannot be run here.
        seeds: whether to average over them.
        own: False: published values alone.

    Raises:
        UserError: the condition on runs holds for none, a cell would mix what must not be mixed, or nothing is left.
    """
    chosen = select(runs, spec.where) if own else []
    if not spec.source:
        spec = _told_apart(spec, chosen)
        places = _free(spec, chosen, seeds)
    else:
        places = _published(spec, chosen, methods, seeds, own)
        if own and spec.own:
            places |= _others(spec, chosen, places, seeds)
    if not places:
        raise UserError(f"the table is empty: {'no value is published' if spec.source else 'there are no runs'}")
    rows = _together(list(dict.fromkeys(row for row, _ in places)))
    if first := [name for names in spec.sections.values() for name in names]:
        heads = list(dict.fromkeys(row[:-1] for row in rows))
        rows = [(*head, last) for head in heads for last in ordered([r[-1] for r in rows if r[:-1] == head], first)]
    return Filled(spec, tuple(rows), tuple(_in_order(spec, dict.fromkeys(column for _, column in places))), places)


def allowed(at: Mapping[str, str], spec: Spec) -> bool:
    """Whether a published value belongs to a table."""
    if spec.metrics and at["metric"] not in spec.metrics:
        return False
    pairs = ((at.get(key), (wanted,) if isinstance(wanted, str) else wanted) for key, wanted in spec.only.items())
    return all(value in wanted for value, wanted in pairs)


def _together(rows: list[Key]) -> list[Key]:
    """Rows with the same beginning stand together, in the order in which beginnings first come."""
    numbers = range(1, len(rows[0]) + 1)
    places = {row[:number]: place for place, row in reversed(list(enumerate(rows))) for number in numbers}
    return sorted(rows, key=lambda row: [places[row[:number]] for number in numbers])


def _in_order(spec: Spec, columns: Iterable[Key]) -> list[Key]:
    """What stands before the metric as it comes; metrics as they are asked for."""
    found = list(columns)
    if "metric" not in spec.columns:
        return found
    number = spec.columns.index("metric")
    heads = list(dict.fromkeys((column[:number], column[number + 1 :]) for column in found))
    metrics = ordered([column[number] for column in found], spec.metrics or KNOWN)
    whole = [(*before, metric, *after) for before, after in heads for metric in metrics]
    return [column for column in whole if column in found]


def _key(at: Mapping[str, str], names: Sequence[str]) -> Key:
    return tuple(at.get(name, "") for name in names)


def _published(spec: Spec, runs: Sequence[Run], methods: Sequence[str], seeds: Seeds, own: bool) -> Places:
    """The places of published values, ours beside them."""
    found: Places = {}
    for point in points_of(spec.source, spec.tables, methods):
        if not allowed(point.at, spec):
            continue
        key = _key(point.at, spec.rows), _key(point.at, spec.columns)
        if key in found:
            differing = sorted(name for name in point.at if point.at[name] != found[key].at.get(name))
            raise UserError(
                f"two published values stand in one cell, they differ in {some(differing) or 'nothing'}: add that to "
                "rows, columns or only"
            )
        mine = own_of(point.needs, runs, point.at, seeds, spec.source) if own and point.needs else None
        if point.at["metric"] in COUNTS:
            count = stated(point.at["dataset"], point.at["metric"])
            mine = Own(count, reason="" if count == count else "no number is stated here")
        found[key] = Place(point.at, point, mine)
    return found


def own_of(needs: Sequence[Need], runs: Sequence[Run], at: Mapping[str, str], seeds: Seeds, source: str) -> Own:
    """What our runs give at some coordinates: the mean over what a published value is the mean of."""
    profile = PROFILES.get(source, "")
    return own_mean(
        [
            Own(reason=need.impossible)
            if need.impossible
            else own_value(fitting(runs, need), at["category"], at["metric"], seeds, profile)
            for need in needs
        ]
    )


def _others(spec: Spec, runs: Sequence[Run], published: Places, seeds: Seeds) -> Places:
    """Beside published ones the places where nothing was published, and methods that the paper does not have."""
    others = [run for run in runs if run.record is not None and "method" in run.keys]
    frames = {
        tuple(sorted(pair for pair in place.at.items() if pair[0] != "method")): place.point
        for place in published.values()
        if place.point is not None and place.point.needs
    }
    found: Places = {}
    for method in dict.fromkeys(str(run.keys["method"]) for run in others):
        for point in frames.values():
            at = {**point.at, "method": method}
            key = _key(at, spec.rows), _key(at, spec.columns)
            if key in published:
                continue
            needs = [Need({**need.keys, "method": method}, ()) for need in point.needs]
            place = Place(at, None, own_of(needs, others, at, seeds, spec.source))
            if place.has_own:
                found[key] = place
    return found


def _known(run: Run, name: str) -> str:
    """Of a run that left nothing only what was typed is known."""
    return as_text(run.keys.get(name)) if run.record is not None or name in run.keys else "unknown"


def _told_apart(spec: Spec, runs: Sequence[Run]) -> Spec:
    """With those rows that tell the runs of a cell apart."""
    for name in spec.split:
        cells: dict[Key, set[str]] = {}
        names = [each for each in (*spec.rows, *spec.columns) if each not in INSIDE]
        for run in runs:
            if run.record is not None:
                cell = tuple(as_text(run.keys.get(each)) for each in names)
                cells.setdefault(cell, set()).add(as_text(run.keys.get(name)))
        if name not in names and any(len(values) > 1 for values in cells.values()):
            spec = replace(spec, rows=(*spec.rows, name))
    return spec


def _free(spec: Spec, runs: Sequence[Run], seeds: Seeds) -> Places:
    """A pivot over runs alone."""
    names = [name for name in (*spec.rows, *spec.columns) if name not in INSIDE]
    for name in names:
        if runs and not any(name in run.keys for run in runs):
            known = sorted({key for run in runs for key in run.keys if "." not in key} | {*INSIDE})
            raise UserError(f"no run has a key {name!r}: {some(known, 30)}, or a dotted key of the configuration")
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(_known(run, name) for name in names), []).append(run)
    found: Places = {}
    for values, group in sorted(groups.items(), key=lambda pair: tuple(map(_natural, pair[0]))):
        refuse_mixture(group, names)
        inside = ["mean"]
        if "category" in (*spec.rows, *spec.columns):  # the means last
            inside = [*dict.fromkeys(name for run in group for name in run.categories), "mean"]
        for category in inside:
            for metric in spec.metrics or MAIN:
                at = {**dict(zip(names, values, strict=True)), "category": category, "metric": metric}
                own = own_value(group, category, metric, seeds)
                found[_key(at, spec.rows), _key(at, spec.columns)] = Place(at, None, own)
    means = {key: place for key, place in found.items() if place.at["category"] == "mean"}
    return {**{key: place for key, place in found.items() if key not in means}, **means}


def refuse_mixture(group: Sequence[Run], names: Sequence[str]) -> None:
    """One cell, one kind of run: a mean over datasets or methods that nobody asked for is no number.

    Raises:
        UserError: the runs differ in what no name of the table tells.
    """
    for name in TOLD:
        values = {as_text(run.keys.get(name)) for run in group if run.record is not None}
        if name not in names and len(values) > 1:
            raise UserError(
                f"the runs of a cell differ in {name} ({some(sorted(values), 4)}): add {name} to rows or columns, or "
                f"choose, as in where='{name}={min(values)}'"
            )


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers by size, before words, which stay as they come."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text
