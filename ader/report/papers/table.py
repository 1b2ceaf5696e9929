"""A filled table as it is shown: the best marked, gaps with their reasons, and what must be said in footnotes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from string import ascii_lowercase

from ader.metrics import METRICS
from ader.published import SOURCES
from ader.report.papers.costs import COSTS
from ader.report.papers.counts import COUNTS
from ader.report.papers.places import Filled, Key, Place
from ader.report.papers.points import PLAIN
from ader.report.papers.spec import Show, Spec
from ader.report.tables import Cell, Column, Kind, Row, Table

SLUGS = {each.slug: each for each in METRICS}

#: Headings of what only ablations have.
ABLATED = {
    "pearson": "Pearson",
    "eval_seconds": "seconds",
    "pixel_f1_avg": "F1",
    "pixel_acc_avg": "Acc",
    "pixel_iou_avg": "IoU",
}

#: Reasons of gaps, and doubts of published values, that are told below a table.
REASONS, DOUBTS = 8, 4


def table_of(filled: Filled, show: Show = "auto") -> Table:
    """The table.

    Where ours stand beside published values, a row has three lines: ours, published and the difference.

    Args:
        filled: what stands in the cells.
        show: what of it to show.
    """
    spec = filled.spec
    if show == "auto":
        show = "both" if spec.source and filled.has_own else "published" if spec.source else "ours"
    letters = _letters(filled) if show != "published" else {}
    ranks = _ranks(filled, show)
    sections = {name: title for title, names in spec.sections.items() for name in names}
    grouped = bool(sections) or len({row[0] for row in filled.rows}) < len(filled.rows)
    lines: list[Row] = []
    gaps: Counter[str] = Counter()
    above: Key = ()
    for row in filled.rows:
        named = (sections.get(row[-1], "others"), *row) if sections else row
        places = filled.row(row)
        marks = ["".join(letters.get(remark, "") for remark in place.remarks) if place else "" for place in places]
        told = [{*mark} for mark, place in zip(marks, places, strict=True) if place is not None and place.has_own]
        common = "".join(sorted(set.intersection(*told))) if told else ""
        names = [Cell(value, repeated=named[: n + 1] == above[: n + 1]) for n, value in enumerate(named)]
        names[-1] = Cell(named[-1], footnotes=common)
        begins = bool(lines) and (grouped and named[0] != above[0] if len(named) > 1 else "mean" in row)
        above = named
        for number, (kind, cells) in enumerate(_lines(places, show)):
            if kind in ("", "ours"):
                own = zip(cells, filled.columns, marks, strict=True)
                cells = [
                    replace(cell, rank=ranks.get((row, column), 0), footnotes="".join(sorted({*mark} - {*common})))
                    for cell, column, mark in own
                ]
                gaps.update(cell.reason for cell in cells if cell.empty and cell.reason)
            heads = names if number == 0 else [Cell(value, repeated=True) for value in named]
            kinds = [Cell(kind)] if show == "both" else []
            line = Row((*heads, *kinds, *cells), section=begins and number == 0)
            lines.append(replace(line, role="mean") if "mean" in row else line)
    columns = [Column(_heading(name), wrap="ellipsis") for name in ((["kind"] if sections else []) + [*spec.rows])]
    columns += [Column("", wrap="never")] if show == "both" else []
    columns += [_column(column, spec) for column in filled.columns]
    notes = tuple(_notes(filled, show, letters, gaps, bool(ranks)))
    return Table(tuple(columns), tuple(lines), spec.title, notes)


def _lines(places: Sequence[Place | None], show: Show) -> Iterator[tuple[str, list[Cell]]]:
    """The lines of one row, each with what it is."""
    if show != "both":
        yield "", [_cell(place, show) for place in places]
        return
    ours, published = [_cell(place, "ours") for place in places], [_cell(place, "published") for place in places]
    yield "ours", ours
    if any(not cell.empty for cell in published):
        yield "published", published
        if any(not cell.empty for cell in ours):
            yield "difference", [_difference(*pair) for pair in zip(ours, published, strict=True)]


def _cell(place: Place | None, show: Show) -> Cell:
    """Ours, or what was published."""
    if place is None:
        return Cell(reason="not in the paper" if show == "published" else "not run")
    point, own = place.point, place.own
    if show == "published":
        if point is None or math.isnan(point.value):
            return Cell(reason=(point.note if point else "") or "not in the paper")
        return Cell(point.value, deviation=None if math.isnan(point.std) else point.std)
    if own is None or math.isnan(own.value):
        return Cell(reason=own.reason if own else "which runs these are is not known here")
    return Cell(own.value, deviation=own.deviation)


def _difference(ours: Cell, published: Cell) -> Cell:
    if ours.empty or published.empty or isinstance(ours.value, str) or isinstance(published.value, str):
        return Cell("")
    value = (ours.value or 0.0) - (published.value or 0.0)
    return Cell(value, mark="+" if value >= 0 else "")


def _heading(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def _column(values: Key, spec: Spec) -> Column:
    """A metric's column has its own heading and kind; others are named by their values."""
    named = dict(zip(spec.columns, values, strict=True))
    metric = named.pop("metric", spec.metrics[0] if spec.metrics else "mad")
    others = [f"{value} epochs" if name == "epochs" and value else value for name, value in named.items()]
    kind: Kind = "percent"
    digits = 1
    if metric in COSTS:
        group, heading, digits, _ = COSTS[metric]
        kind = "number"
    elif metric in COUNTS:
        group, heading, kind = "images" if COUNTS[metric][1] else "", COUNTS[metric][0], "count"
    elif metric in SLUGS:
        group, heading = SLUGS[metric].column
    else:
        group, heading, kind = "", ABLATED.get(metric, metric), "number" if metric in PLAIN else "percent"
        digits = 3 if metric == "pearson" else 1
    if "metric" not in spec.columns:
        *first, heading = others
        group = " ".join(first)
    elif "".join(others):
        group, heading = " ".join(others), f"{group}\n{heading}".strip()
    return Column(heading, group, kind, digits)


def _ranks(filled: Filled, show: Show) -> dict[tuple[Key, Key], int]:
    """The three best of every column among what may be compared: rows that differ in their last name alone, which is
    the method's."""
    found: dict[tuple[Key, Key], int] = {}
    spec = filled.spec
    if spec.rows[-1] not in ("method", "row", "varied") and not spec.rows[-1].startswith("method."):
        return found
    for column in filled.columns:
        metric = dict(zip(spec.columns, column, strict=True)).get("metric", spec.metrics[0] if spec.metrics else "mad")
        if metric not in SLUGS:
            continue
        heads = {row[:-1] for row in filled.rows} if spec.rows[-1] != "varied" else {()}
        for head in heads:
            values = {}
            for row in (row for row in filled.rows if row[: len(head)] == head):
                cell = _cell(filled.places.get((row, column)), "published" if show == "published" else "ours")
                if isinstance(cell.value, float) and not cell.empty:
                    values[row] = round(cell.value, 6)
            best = sorted(set(values.values()), reverse=SLUGS[metric].higher_is_better)[:3]
            if len(values) > 1:
                found |= {(row, column): best.index(value) + 1 for row, value in values.items() if value in best}
    return found


def _letters(filled: Filled) -> dict[str, str]:
    """A letter for every remark that any cell needs, in the order of rows."""
    places = (place for row in filled.rows for place in filled.row(row) if place is not None)
    remarks = dict.fromkeys(remark for place in places for remark in place.remarks)
    names = [*ascii_lowercase, *map(str.upper, ascii_lowercase)]
    return dict(zip(remarks, names, strict=False))  # 52 are more than anyone reads


def _notes(filled: Filled, show: Show, letters: Mapping[str, str], gaps: Counter[str], ranked: bool) -> Iterator[str]:
    spec = filled.spec
    if spec.source and show != "ours":
        yield f"published: {SOURCES[spec.source]}, Table {', '.join(spec.tables)}"
        doubts = Counter(place.point.note for place in filled.places.values() if place.point and place.point.note)
        for note, count in doubts.most_common(DOUBTS):
            yield f"noted of {count} published {'values' if count > 1 else 'value'}: {note}"
    yield from spec.notes
    if ranked:
        yield "the best of what may be compared is bold, the second underlined, the third in italics"
    seeds = sorted({place.own.seeds for place in filled.places.values() if place.own and place.own.seeds})
    if show != "published" and seeds and seeds != [1]:
        counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        yield f"mean and sample deviation over {counts} seeds"
    yield from (f"[{letter}] {remark}" for remark, letter in letters.items())
    for reason, count in gaps.most_common(REASONS):
        yield f"'-': {reason} ({count} {'cells' if count > 1 else 'cell'})"
    if len(gaps) > REASONS:
        yield f"'-': {len(gaps) - REASONS} further reasons, which format=html has with their cells"
