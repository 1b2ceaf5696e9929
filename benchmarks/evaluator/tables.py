"""The figures as tables: everything at one size, and the documentation's over all sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ader.report.renderers import markdown
from ader.report.tables import Table
from benchmarks.evaluator.comparing import Row
from benchmarks.evaluator.competitors import COMPETITORS

COLUMNS = "s", "ns/pixel", "Mpixel/s", "/ ADEval", "/ copy fresh", "/ copy", "MiB", "one-off s", "error", "bound"


def terminal_table(size: dict[str, Any]) -> str:
    """Everything at one size."""
    lines = [line(name, row, size["images"]) for name, row in size["rows"].items()]
    said = [f"{COMPETITORS[name].title}: {note}" for name, row in size["rows"].items() for note in notes(name, row)]
    check = size["check"]
    if not isinstance(check, str):
        check = ", ".join(f"{slug} {power(each)}" for slug, each in check.items())
    said.append(f"exact values of one category against scikit-learn and another AUPRO: {check}")
    return markdown(Table.of_figures(["", *COLUMNS], lines)) + "\n".join(said)


def line(name: str, row: Row, images: int) -> list[str]:
    """A competitor's cells; its seconds are of all images."""
    if "problem" in row:
        return [COMPETITORS[name].title, *"-" * len(COLUMNS)]
    mark, share = ("~", images / row["images"]) if row["extrapolated"] else ("", 1)
    return [
        COMPETITORS[name].title,
        number(row["seconds"] * share, mark),
        number(row["ns_per_pixel"], mark),
        number(row["megapixels_per_second"], mark),
        number(row.get("ratio_adeval"), mark),
        number(row["ratio_copy_fresh"], mark),
        number(row["ratio_copy_existing"], mark),
        memory(row),
        number(row["one_off_seconds"]),
        power(row["error"]),
        power(row["bound"]),
    ]


def notes(name: str, row: Row) -> Iterator[str]:
    """What the cells do not say."""
    if "problem" in row:
        yield row["problem"]
        return
    for each in row["broken_bounds"]:
        yield f"certified bound does not hold: {each}"
    if name.startswith("copy"):
        yield f"{2 * row['bytes'] / row['seconds'] / 1e9:.1f} GB/s, read and written"


def markdown_table(sizes: Sequence[dict[str, Any]]) -> str:
    """The documentation's table: ratios at the first size, memory at the first and the last, error over all."""
    scales = [f"ns/pixel, {size['scale']}x" for size in sizes]
    heading = ["", *scales, "/ ADEval", "/ copy (fresh, existing memory)", "extra MiB", "largest error"]
    lines = []
    for name in sizes[0]["rows"]:
        rows = [size["rows"][name] for size in sizes]
        problems = [row["problem"] for row in rows if "problem" in row]
        cells = [problems[0], *"-" * (len(heading) - 2)] if problems else summary(rows)
        lines.append([COMPETITORS[name].title, *cells])
    return markdown(Table.of_figures(heading, lines))


def summary(rows: Sequence[Row]) -> list[str]:
    """A competitor's cells over all sizes."""
    first, marks = rows[0], ["~" if row["extrapolated"] else "" for row in rows]
    return [
        *(number(row["ns_per_pixel"], mark) for row, mark in zip(rows, marks, strict=True)),
        number(first.get("ratio_adeval"), marks[0]),
        ", ".join(number(first[f"ratio_copy_{kind}"], marks[0]) for kind in ("fresh", "existing")),
        memory(first) if len(rows) == 1 else f"{memory(first)} to {memory(rows[-1])}",
        power(max((row["error"] for row in rows if row["error"] is not None), default=None)),
    ]


def number(value: float | None, mark: str = "") -> str:
    """Three significant digits, no exponent; "-" for None."""
    if value is None:
        return "-"
    decimals = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{mark}{value:,.{min(decimals, 6)}f}"


def power(value: float | None) -> str:
    """An error: two significant digits."""
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def memory(row: Row) -> str:
    """MiB at the peak, of a part of the images only where ">"."""
    return number(row["peak_bytes"] / 2**20, ">" if row["extrapolated"] else "")
