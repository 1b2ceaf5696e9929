"""Two runs on the same test images: every metric of both, and how far their difference can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ader.metrics.definitions import METRICS, find_metric
from ader.report.seeds import read_scores
from ader.report.statistics.bootstrap import DRAWS, LEVEL, Interval, Pair, intervals, over_categories, pair
from ader.report.statistics.drawn import RESAMPLED, needs_pixels
from ader.report.tables import Cell, Column, Row, Table
from ader.report.where import as_text
from ader.results.identity import canonical, recipe
from ader.results.pixels import Sketches, read_sketches
from ader.results.schema import Record
from ader.results.tree import read_result
from ader.system.errors import UserError, some

#: What is compared where nothing is asked for.
MAIN = tuple(each.slug for each in METRICS if each.table == "main")

#: Before a difference whose interval excludes 0.
MARK = "*"


def comparison_table(
    a: Path, b: Path, metrics: Sequence[str] = (), draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Table:
    """Of two finished runs: a row for each metric, or of a single image metric a row for each category.

    Intervals are over test images, drawn in pairs: of image metrics from all scores, of pixel metrics from sketches of
    every image's pixels. A metric that is not computed so has one over categories, as has one of pixels where a run
    keeps no sketches.

    Args:
        a, b: results folders.
        metrics: slugs; by default those of the main table.
        draws: of the bootstrap.
        seed: of the draws.
        level: of the intervals.

    Raises:
        UserError: a run is not finished, a metric is unknown, or the runs have other test images.
    """
    first, second = _record(a), _record(b)
    slugs = list(metrics or MAIN)
    for slug in slugs:
        find_metric(slug)
    names = ("A", "B")
    resampled = [slug for slug in slugs if slug in RESAMPLED]
    both = pair(read_scores(a), read_scores(b), names, _pixels(a, b) if any(map(needs_pixels, resampled)) else None)
    drawn = intervals(both, resampled, draws, seed, level)
    drawn |= {slug: _centered(drawn[slug], slug, first, second) for slug in drawn if needs_pixels(slug)}
    notes = [f"A: {first.title}", f"B: {second.title}", *_differing(first, second)]
    if len(slugs) == 1 and slugs[0] in drawn:
        heading = "category"
        lines = [(name, found, name == "mean") for name, found in drawn[slugs[0]].items()]
        title = f"{find_metric(slugs[0]).heading} (percent)"
    else:
        heading = "metric"
        found = {
            slug: drawn[slug]["mean"] if slug in drawn else _categories(first, second, slug, draws, seed, level)
            for slug in slugs
        }
        lines = [(find_metric(slug).heading, each, False) for slug, each in found.items()]
        title = "Means over categories (percent)"
    percent = f"{100 * level:g} %"
    columns = (
        Column(heading, wrap="ellipsis"),
        *(Column(name, kind="percent", digits=2) for name in (*names, "B - A")),
        *(Column(name, percent, "percent", 2) for name in ("from", "to")),
        Column("over"),
    )
    rows = tuple(_row(name, each, section) for name, each, section in lines)
    kinds = {each.units for _, each, _ in lines}
    sketched = any(needs_pixels(slug) for slug in drawn)
    return Table(columns, rows, title, (*notes, *_explanations(kinds, draws, both, len(rows), sketched)))


def _record(run: Path) -> Record:
    result = read_result(run)
    if result is None:
        raise UserError(f"{run} holds no finished run: finish it first")
    return result.record


def _pixels(a: Path, b: Path) -> tuple[Sketches, Sketches] | None:
    first, second = read_sketches(a), read_sketches(b)
    return None if first is None or second is None else (first, second)


def _centered(found: Mapping[str, Interval], slug: str, a: Record, b: Record) -> dict[str, Interval]:
    """Intervals from sketches about the recorded values, which are those of all pixels."""
    names = [name for name in found if name != "mean"]
    value_2C = [[_value(record.rows[name].get(slug)) for name in names] for record in (a, b)]
    both_2 = [*zip(*value_2C, strict=True), (math.fsum(value_2C[0]) / len(names), math.fsum(value_2C[1]) / len(names))]
    return {name: found[name].around(*values) for name, values in zip((*names, "mean"), both_2, strict=True)}


def _categories(a: Record, b: Record, slug: str, draws: int, seed: int, level: float) -> Interval:
    """Over the categories that both have."""
    names = [name for name in a.rows if name != "mean" and name in b.rows]
    value_2C = [[_value(record.rows[name].get(slug)) for name in names] for record in (a, b)]
    return over_categories(np.array(value_2C[0]), np.array(value_2C[1]), draws, seed, level)


def _value(value: float | None) -> float:
    return math.nan if value is None else value


def _row(name: str, found: Interval, section: bool) -> Row:
    gap = found.units if math.isnan(found.low) else ""
    ends = [Cell(end, reason=gap) for end in (found.low, found.high)]
    difference = Cell(found.difference, mark=MARK if found.certain else "")
    return Row.of(name, Cell(found.a), Cell(found.b), difference, *ends, found.units, section=section)


def _differing(a: Record, b: Record) -> Iterator[str]:
    """What one must know before the numbers are called those of two methods."""
    if a.data_hash != b.data_hash:
        yield "CAUTION the runs' data differ (checksums), though their test images have the same names and labels"
    if a.metric != b.metric:
        yield f"CAUTION A is evaluated with metric={a.metric}, B with metric={b.metric}: pixel metrics differ by that"
    mine, theirs = _comparable(a), _comparable(b)
    keys = [key for key in sorted({*mine, *theirs}) if canonical(mine.get(key)) != canonical(theirs.get(key))]
    if "method.name" in keys:  # what another method is made of is no news
        keys = ["method.name", *(key for key in keys if not key.startswith("method."))]
    if keys:
        shown = (f"{key} ({as_text(mine.get(key))}, {as_text(theirs.get(key))})" for key in keys)
        yield f"A and B differ in {some(shown, 4)}"
    for warning in dict.fromkeys((*a.warnings, *b.warnings)):
        whose = " and ".join(name for name, record in (("A", a), ("B", b)) if warning in record.warnings)
        yield f"CAUTION {whose}: {warning}"


def _comparable(record: Record) -> dict[str, object]:
    return {"seed": record.seed, **recipe(record.config)}


def _explanations(kinds: set[str], draws: int, both: Pair, rows: int, sketched: bool) -> Iterator[str]:
    yield f"{MARK} the interval excludes 0; intervals are BCa, {draws} draws" + (
        f", none corrected for their number ({rows})" if rows > 1 else ""
    )
    if any(kind.endswith("images") for kind in kinds):
        yield (
            "over images: test images are drawn within category and label, the same for A and B: what would differ on "
            "other images, not with other seeds"
        )
    if sketched:
        yield "pixel metrics of draws are from sketches of each image's pixels, set about the values of all pixels"
    if any("categories" in kind for kind in kinds):
        yield "over categories: single images tell nothing here, so categories are drawn: with others of their kind"
    if both.left_out:
        yield f"CAUTION without {some(both.left_out)}: no image metric is defined where one kind of image is missing"
