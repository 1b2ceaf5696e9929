"""Tables as values: what the project prints or writes as one is made as this and shown by ``ader.report.renderers``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

#: What a column's values are: names; fractions that are shown as percentages; numbers; whole numbers; numbers of any
#: size, which are shown with an exponent.
Kind = Literal["text", "percent", "number", "count", "power"]


@dataclass(frozen=True)
class Cell:
    """One value, and what is known of it.

    Attributes:
        value: of the column's kind; None or NaN is a gap.
        deviation: over seeds, in the unit of the value.
        bound: the exact value is at most this far from ``value``.
        published: what a paper has in its place, in the unit of the value.
        reason: why there is a gap.
        mark: stands before the shown value (``~``: extrapolated).
        bad: to be seen at a glance, as a value that random scores would surpass.
        rank: 1, 2 and 3 for the best values that it may be compared with; 0 for others.
        footnotes: letters of the table's notes that one must know to read it.
        repeated: the same as above, so that readers are spared it; data are not.
    """

    value: float | str | None = None
    deviation: float | None = None
    bound: float | None = None
    published: float | None = None
    reason: str = ""
    mark: str = ""
    bad: bool = False
    rank: int = 0
    footnotes: str = ""
    repeated: bool = False

    @property
    def empty(self) -> bool:
        """Whether it is a gap."""
        return self.value is None or (isinstance(self.value, float) and math.isnan(self.value))


@dataclass(frozen=True)
class Column:
    """What a column holds, and how it is shown.

    Attributes:
        heading: its own.
        group: a heading that it shares with neighbors; empty for none.
        kind: of its values.
        digits: after the decimal point.
        wrap: of a name that is too long for a terminal: ``fold`` it, cut it (``ellipsis``), or ``never`` do either.
        widest: most characters on a terminal; None for no limit but the terminal's.
    """

    heading: str
    group: str = ""
    kind: Kind = "text"
    digits: int = 1
    wrap: Literal["fold", "ellipsis", "never"] = "fold"
    widest: int | None = None

    @property
    def right(self) -> bool:
        """Whether it is aligned to the right, as numbers are."""
        return self.kind != "text"

    def text(self, cell: Cell, plus_minus: str = "+-") -> str:
        """A cell in words: ``90.2``, ``90.2 +- 0.4``, ``80.61 (80.6)``, or ``-`` for a gap.

        What was published is shown with the digits that it was published with. Footnotes are left to who shows it.
        """
        if cell.repeated:
            return ""
        if cell.empty:
            return "-"
        shown = cell.mark + self._shown(cell.value)
        if cell.deviation is not None and not math.isnan(cell.deviation):
            shown += f" {plus_minus} {self._shown(cell.deviation)}"
        if cell.published is not None:
            shown += f" ({100 * cell.published if self.kind == 'percent' else cell.published:g})"
        return shown

    def _shown(self, value: float | str | None) -> str:
        if self.kind == "text" or isinstance(value, str) or value is None:
            return str(value)
        if self.kind == "percent":
            return f"{100 * value:.{self.digits}f}"
        formats = {"number": f",.{self.digits}f", "count": ",.0f", "power": f".{self.digits}e"}
        return format(value, formats[self.kind])


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        cells: one for each column.
        role: what it is, if not one of many: ``mean``, ``chance``.
        section: whether a gap or a rule stands before it.
    """

    cells: tuple[Cell, ...]
    role: Literal["", "mean", "chance"] = ""
    section: bool = False

    @classmethod
    def of(cls, *values: Cell | float | str | None, section: bool = False) -> Row:
        """From cells, or bare values."""
        return cls(tuple(each if isinstance(each, Cell) else Cell(each) for each in values), section=section)


@dataclass(frozen=True)
class Table:
    """Columns and rows, with what stands above and below.

    Attributes:
        title: one line; empty for none.
        notes: what one must know to read it, a line each.

    Raises:
        ValueError: a row has too few or too many cells.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [len(row.cells) for row in self.rows if len(row.cells) != len(self.columns)]
        if wrong:
            raise ValueError(f"a row has {wrong[0]} cells, the table has {len(self.columns)} columns")

    @classmethod
    def of_figures(cls, headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
        """Of values that are in words already: the first column names what the others, to the right, are figures of."""
        first, *others = headings
        columns = (Column(first), *(Column(heading, kind="number") for heading in others))
        return cls(columns, tuple(Row.of(*line) for line in lines))

    @property
    def grouped(self) -> bool:
        """Whether any columns share a heading."""
        return any(column.group for column in self.columns)

    def spans(self) -> list[tuple[str, int]]:
        """The shared headings from left to right, each with the number of columns that it spans; columns without one
        stand alone."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and column.group and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found

    def texts(self, plus_minus: str = "+-", footnotes: bool = True) -> list[list[str]]:
        """All cells in words, with the letters of their footnotes: ``80.6 [a]``."""
        return [
            [
                column.text(cell, plus_minus) + (f" [{cell.footnotes}]" if footnotes and cell.footnotes else "")
                for column, cell in zip(self.columns, row.cells, strict=True)
            ]
            for row in self.rows
        ]
