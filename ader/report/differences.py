"""What differs between two runs: configuration, code, data, weights, warnings and numbers, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ader.metrics import METRICS
from ader.metrics.definitions import find_metric
from ader.report.tables import Cell, Column, Row, Table
from ader.report.where import as_text
from ader.results.identity import canonical, flatten, recipe
from ader.results.record import FILE, read, read_table
from ader.results.schema import Record, plain
from ader.system.errors import UserError
from ader.system.files import check_regular

#: Metrics that are compared unless others are asked for: ADer's seven, their mean, and IoU-max.
CHOSEN = (*(each.slug for each in METRICS if each.table == "main"), "pixel_ioumax")

#: Stands for a key that a run does not have.
ABSENT = object()

#: What is compared of runs, in this order; of an unfinished one only the first.
PARTS = ("configuration", "code and machine", "data", "weights", "warnings", "numbers")


@dataclass(frozen=True)
class Side:
    """One of both runs.

    Attributes:
        folder: as it was given.
        config: its whole configuration.
        record: None while it is not finished.
    """

    folder: Path
    config: Mapping[str, Any]
    record: Record | None


@dataclass(frozen=True)
class Change:
    """A value that is not the same in both.

    Attributes:
        part: one of ``PARTS``.
        what: the key; of a number the metric's slug.
        first, second: the values; ``ABSENT`` where a run has none.
        category: of a number.
        decides: whether a key of the configuration decides the result.
        certain: whether a number differs by more than its certified bounds allow for.
    """

    part: str
    what: str
    first: Any
    second: Any
    category: str = ""
    decides: bool = True
    certain: bool = True

    @property
    def difference(self) -> float:
        """Second less first, of numbers; NaN where one is undefined."""
        values = [value for value in (self.first, self.second) if isinstance(value, (int, float))]
        return values[1] - values[0] if self.part == "numbers" and len(values) == 2 else math.nan


def open_side(path: Path) -> Side:
    """A run by its folder, finished or not.

    Raises:
        UserError: it is none, or its record or its configuration is damaged.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: give a run's, RESULTS/<dataset>/<setting>/<method>/<run>")
    if (record := read(path)) is not None:
        return Side(path, record.config, record)
    file = path / "config.yaml"
    check_regular(file)
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Side(path, {key: value for key, value in found.items() if key != "fingerprint"}, None)
    except FileNotFoundError as error:
        raise UserError(f"{path} is not a run's folder: it has neither {FILE} nor config.yaml") from error
    except (OSError, yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: restore it, or run again") from error


def changes(first: Side, second: Side, metrics: Sequence[str] = CHOSEN) -> list[Change]:
    """All that differs, part by part; numbers by how much, largest first, undefined ones before.

    Args:
        first, second: the runs.
        metrics: slugs of those that are compared.
    """
    found = [*_config(first, second)]
    if first.record is not None and second.record is not None:
        one, other = first.record, second.record
        found += _values("code and machine", _code(one), _code(other))
        found += _values("data", _data(one), _data(other))
        found += _values("weights", dict(_weights(one)), dict(_weights(other)))
        found += _warnings(one, other)
        found += _numbers(first, second, one, other, metrics)
    return found


def parts_of(first: Side, second: Side) -> tuple[str, ...]:
    """What could be compared."""
    return PARTS if first.record is not None and second.record is not None else PARTS[:1]


def _config(first: Side, second: Side) -> Iterator[Change]:
    """Keys that decide the result before those that do not."""
    one, other = (dict(flatten(side.config)) for side in (first, second))
    decisive = {*recipe(first.config), *recipe(second.config)}
    found = _values("configuration", one, other, decisive=decisive)
    yield from sorted(found, key=lambda change: not change.decides)


def _values(
    part: str, first: Mapping[str, Any], second: Mapping[str, Any], decisive: set[str] | None = None
) -> list[Change]:
    return [
        Change(part, key, *both, decides=decisive is None or key in decisive)
        for key in dict.fromkeys((*first, *second))
        if not _same(*(both := (first.get(key, ABSENT), second.get(key, ABSENT))))
    ]


def _same(first: Any, second: Any) -> bool:
    if first is ABSENT or second is ABSENT:
        return first is second
    return canonical(first) == canonical(second)


def _code(record: Record) -> dict[str, Any]:
    made = record.provenance
    commit = {"commit": made.commit.sha, "changes in no commit": made.commit.dirty} if made.commit else {}
    versions = {name: version for name, version in made.versions.items() if version is not None}
    return {**commit, **versions, **plain(made.hardware)}


def _data(record: Record) -> dict[str, Any]:
    """The folder's place is no part of it: the same files may lie elsewhere."""
    found = {
        "content of the dataset (SHA-256)": record.data_hash,
        "index of the setting (SHA-256)": record.index_hash,
        "images": record.images,
        "masks": plain(record.masks) if record.masks else None,
    }
    if record.source is not None:
        found["maps (SHA-256)"] = record.source.sha256
    return dict(flatten({key: value for key, value in found.items() if value is not None}))


def _weights(record: Record) -> Iterator[tuple[str, Any]]:
    for name, model in record.models.items():
        of = "" if name == "all" else f" of {name}"
        for each in model.network.weights:
            yield f"{each.name}{of}: source", each.source
            yield f"{each.name}{of}: SHA-256", each.sha256
        yield f"after training{of}: SHA-256", model.checkpoint.sha256


def _warnings(first: Record, second: Record) -> Iterator[Change]:
    for text in dict.fromkeys((*first.warnings, *second.warnings)):
        one, other = ("yes" if text in each.warnings else ABSENT for each in (first, second))
        if one != other:
            yield Change("warnings", text, one, other)


def _numbers(first: Side, second: Side, one: Record, other: Record, metrics: Sequence[str]) -> list[Change]:
    bounds = [_bounds(side.folder) for side in (first, second)]
    found = []
    for category in dict.fromkeys((*one.rows, *other.rows)):
        for slug in metrics:
            both = [each.rows.get(category, {}).get(slug) for each in (one, other)]
            if both[0] == both[1]:
                continue
            known = [value for value in both if value is not None]
            room = sum(each.get((category, slug), 0.0) for each in bounds)
            certain = len(known) < 2 or abs(known[0] - known[1]) > room
            left, right = (ABSENT if value is None else value for value in both)
            found.append(Change("numbers", slug, left, right, category=category, certain=certain))
    return sorted(found, key=lambda change: -abs(change.difference) if change.difference == change.difference else -2.0)


def _bounds(folder: Path) -> dict[tuple[str, str], float]:
    """Certified half-widths by category and metric; none where the table is missing."""
    try:
        table = read_table(folder / "bounds.csv")
    except UserError:
        return {}
    rows = table.to_dict("index").items()
    return {(str(name), str(slug)): value for name, row in rows for slug, value in row.items() if value == value}


def part_tables(found: Sequence[Change], most: int | None = None) -> list[Table]:
    """A table for each part that differs.

    Args:
        found: what differs.
        most: numbers that are shown; None: all.
    """
    return [
        _number_table(own, most) if part == "numbers" else _value_table(part, own)
        for part in PARTS
        if (own := [change for change in found if change.part == part])
    ]


def _value_table(part: str, found: Sequence[Change]) -> Table:
    names = [Column("key" if part == "configuration" else "what"), Column("A"), Column("B")]
    rows = [[change.what, _text(change.first), _text(change.second)] for change in found]
    if part != "configuration":
        return Table(tuple(names), tuple(Row.of(*row) for row in rows), title=part)
    decides = ["yes" if change.decides else "no" for change in found]
    lines = tuple(Row.of(*row, word) for row, word in zip(rows, decides, strict=True))
    return Table((*names, Column("decides the result")), lines, title=part)


def _number_table(found: Sequence[Change], most: int | None) -> Table:
    columns = [Column("category"), Column("metric"), *(Column(name, kind="percent") for name in ("A", "B"))]
    shown = found if most is None else found[:most]
    rows = [
        Row.of(
            change.category,
            find_metric(change.what).heading,
            *(Cell(None if value is ABSENT else value) for value in (change.first, change.second)),
            change.difference,
        )
        for change in shown
    ]
    notes = ["percent, the difference (B - A) in points"]
    if len(shown) < len(found):
        notes.append(f"{len(found) - len(shown)} smaller differences are not shown: most=all, or metric=")
    if unsure := sum(not change.certain for change in found):
        notes.append(f"{unsure} of {len(found)} differences are within the certified bounds of both values")
    difference = Column("B - A", kind="percent", digits=2)
    return Table((*columns, difference), tuple(rows), title="numbers", notes=tuple(notes))


def one_table(found: Sequence[Change]) -> Table:
    """All parts in one table of texts, for a spreadsheet; numbers are fractions in full precision."""
    names = ("part", "category", "what", "A", "B", "difference")
    rows = [
        Row.of(
            change.part,
            change.category,
            change.what,
            *(None if value is ABSENT else _text(value) for value in (change.first, change.second)),
            None if math.isnan(change.difference) else repr(change.difference),
        )
        for change in found
    ]
    return Table(tuple(Column(name) for name in names), tuple(rows))


def remarks(first: Side, second: Side, found: Sequence[Change]) -> list[str]:
    """What to say above the tables, a line each: which parts are the same, and what keeps numbers from comparison."""
    compared, differing = parts_of(first, second), {change.part for change in found}
    same = [part for part in compared if part not in differing]
    lines = [f"the same: {', '.join(same)}"] if same else []
    if not found:
        lines = [f"A and B are the same: {', '.join(compared)}"]
    for name, side in (("A", first), ("B", second)):
        if side.record is None:
            lines.append(f"{name} is not finished: only configurations can be compared")
    if "numbers" in compared:
        lines += _cautions(first, second)
    return lines


def _cautions(first: Side, second: Side) -> Iterator[str]:
    one, other = first.record, second.record
    assert one is not None
    assert other is not None
    if one.data_hash != other.data_hash:
        yield "CAUTION: the data are not the same, so that numbers do not compare methods"
    if not _same(_evaluation(one), _evaluation(other)):
        yield "CAUTION: metrics were computed in different ways, so that numbers do not compare methods"


def _evaluation(record: Record) -> dict[str, Any]:
    """How metrics were computed."""
    size = record.config["metric"]["size"]
    pixels = record.config.get("image_size") if size == "input" else None
    unlike = {key: value for key, value in record.config["metric"].items() if key not in ("name", "by_defect")}
    return {**unlike, "kind": record.metric, "pixels": pixels}


def _text(value: Any) -> str:
    return "-" if value is ABSENT else as_text(value)
