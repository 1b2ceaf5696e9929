"""Tables for a terminal, Markdown, LaTeX, a spreadsheet and a page: names stand as they are, whatever they hold."""

from __future__ import annotations

import csv as csv_module
import html as html_module
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ader.report.tables import Cell, Column, Table
from ader.system.text import clean

#: Characters of a printed table, if it fits.
WIDTH = 80

#: Color of what is bad.
BAD = "red"

#: How the best, the second and the third stand out.
STYLES = ("", "bold", "underline", "italic")
CLASSES = ("", "best", "second", "third")
LATEX_RANKS = ("", r"\textbf", r"\underline", r"\textit")
MARKDOWN_RANKS = (("", ""), ("**", "**"), ("<u>", "</u>"), ("*", "*"))

#: Characters that names are counted with where a table is divided.
MOST = 16

#: Characters that a name has at least, however many columns there are.
LEAST = 8

#: What CSV has of a cell beside its value, each in a column of its own.
MEASURES = ("deviation", "bound", "published")

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def rich_table(table: Table, gap: int = 1, widths: Sequence[int] | None = None) -> RichTable:
    """For a rich console.

    Args:
        table: what to show; its title and notes are left to the caller.
        gap: characters between columns.
        widths: of the columns, if shared headings are the caller's as well; None: they stand above each of their
            columns.
    """
    style = "table.header" if widths is None else ""
    shown = RichTable(
        box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False, header_style=style
    )
    for number, column in enumerate(table.columns):
        heading = f"{column.group}\n{column.heading}" if table.grouped and widths is None else column.heading
        shown.add_column(
            Text(clean(heading)),
            justify="right" if column.right else "left",
            overflow="ellipsis" if column.right or column.wrap == "ellipsis" else "fold",
            no_wrap=column.right or column.wrap != "fold",
            width=None if widths is None else widths[number],
            max_width=column.widest,
        )
    for row, texts in zip(table.rows, table.texts(), strict=True):
        if row.section:
            shown.add_section()
        cells = zip(row.cells, texts, table.columns, strict=True)  # no markup: brackets and colons are a name's own
        shown.add_row(*(Text(_cut(clean(text), cell, column), style=_style(cell)) for cell, text, column in cells))
    return shown


def _cut(text: str, cell: Cell, column: Column) -> str:
    """A name that is too long, with its footnotes: they are not what is cut."""
    if (
        not cell.footnotes
        or column.right
        or column.wrap != "ellipsis"
        or cell_len(text) <= (column.widest or sys.maxsize)
    ):
        return text
    mark = text[text.rindex(" ") :]
    return set_cell_size(text, max(1, (column.widest or 0) - cell_len(mark) - 1)).rstrip() + "…" + mark


def split(table: Table, width: int = WIDTH, gap: int = 1) -> list[Table]:
    """A table that is too wide, in parts with the same names; shared headings are not divided where that can be.

    Args:
        table: what to show; its title is the first part's, its notes are the last one's.
        width: characters.
        gap: between columns.
    """
    names = [number for number, column in enumerate(table.columns) if not column.right]
    widths, blocks, first = _spread(table, gap), list[list[int]](), 0
    for group, count in table.spans():
        numbers = [number for number in range(first, first + count) if number not in names]
        if not group and blocks and not table.columns[blocks[-1][-1]].group:
            blocks[-1] += numbers
        elif numbers:
            blocks.append(numbers)
        first += count
    room = width - sum(min(widths[number], MOST) + gap for number in names)
    parts, left = list[list[int]](), 0
    for block in blocks:
        needed = sum(widths[number] + gap for number in block)
        if parts and needed <= left:
            parts[-1] += block
            left -= needed
            continue
        parts.append([])
        left = room
        for number in block:
            if parts[-1] and widths[number] + gap > left:
                parts.append([])
                left = room
            parts[-1].append(number)
            left -= widths[number] + gap
    chosen = [[*names, *part] for part in parts] or [names]
    return [
        Table(
            tuple(table.columns[number] for number in numbers),
            tuple(replace(row, cells=tuple(row.cells[number] for number in numbers)) for row in table.rows),
            table.title if place == 0 else "",
            table.notes if place == len(chosen) - 1 else (),
        )
        for place, numbers in enumerate(chosen)
    ]


def _style(cell: Cell) -> str:
    return " ".join(filter(None, (STYLES[cell.rank], BAD if cell.bad else "")))


def terminal(table: Table, width: int = WIDTH, gap: int = 1) -> str:
    """For a terminal or a log file, with title and notes; wider than ``width`` where numbers would not fit."""
    return terminal_text(table, width, gap).plain


def terminal_text(table: Table, width: int = WIDTH, gap: int = 1) -> Text:
    """As ``terminal``, with colors: of cells that are bad, and of notes that begin with CAUTION."""
    fitted = _fitted(table, width, gap)
    widths = _spread(fitted, gap)
    console = Console(width=max(width, sum(widths) + gap * len(widths)), file=io.StringIO())
    drawn = console.render(rich_table(fitted, gap, widths))
    body = Text.assemble(*((segment.text, segment.style or "") for segment in drawn if not segment.control))
    lines = [*_heads(fitted, widths, gap), *body.split("\n")]
    for line in lines:
        line.rstrip()
    above = [Text(clean(table.title)), Text()] if table.title else []
    below = [Text(), *map(note_text, table.notes)] if table.notes else []
    return Text("\n").join([*above, *lines, *below])


def note_text(note: str) -> Text:
    """A note, which is colored if it warns."""
    return Text(clean(note), style=BAD if note.startswith("CAUTION") else "")


def _heads(table: Table, widths: Sequence[int], gap: int) -> Iterator[Text]:
    """The shared headings, each over all of its columns."""
    if not table.grouped:
        return
    first, parts = 0, []
    for name, count in table.spans():
        width = sum(widths[first : first + count]) + gap * (count - 1)
        name, first = clean(name), first + count
        ruled = name and cell_len(name) + 4 <= width
        parts.append(f" {name} ".center(width, "─") if ruled else name.center(width))
    yield Text((" " * gap).join(parts))


def _spread(table: Table, gap: int) -> list[int]:
    """Characters of each column, so many that shared headings fit over theirs."""
    widths, first = _widths(table), 0
    for name, count in table.spans():
        width = sum(widths[first : first + count]) + gap * (count - 1)
        widths[first] += max(0, cell_len(clean(name)) - width)
        first += count
    return widths


def _fitted(table: Table, width: int, gap: int) -> Table:
    """With narrower names, if it is too wide: rich would cut numbers as well."""
    widths, names = _spread(table, gap), [not column.right and column.wrap != "never" for column in table.columns]
    left = width - gap * (len(widths) - 1)
    if sum(widths) <= left or not any(names):
        return table
    left -= sum(each for each, is_name in zip(widths, names, strict=True) if not is_name)
    wanted = sorted(each for each, is_name in zip(widths, names, strict=True) if is_name)
    for place, narrow in enumerate(wanted):  # what narrow columns do not need is the others'
        share = max(LEAST, left // (len(wanted) - place))
        if narrow > share:
            break
        left -= narrow
    columns = [
        replace(column, widest=min(column.widest or share, share)) if is_name else column
        for column, is_name in zip(table.columns, names, strict=True)
    ]
    return replace(table, columns=tuple(columns))


def _widths(table: Table) -> list[int]:
    """Characters of each column on a terminal."""
    found = []
    for column, *texts in zip(table.columns, *table.texts(), strict=True):
        lines = clean("\n".join([column.heading, *texts])).split("\n")
        found.append(min(max(map(cell_len, lines)), column.widest or sys.maxsize))
    return found


def markdown(table: Table) -> str:
    """A pipe table whose columns line up; title above, notes as a list below."""
    head = [_markdown(_joined(column)) for column in table.columns]
    lines = [head]
    for row, texts in zip(table.rows, table.texts(), strict=True):
        ranks = (MARKDOWN_RANKS[cell.rank] for cell in row.cells)
        lines.append([f"{begin}{_markdown(text)}{end}" for text, (begin, end) in zip(texts, ranks, strict=True)])
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    sides = list(zip(widths, (column.right for column in table.columns), strict=True))
    rule = [f"{'-' * (width - 1)}:" if right else "-" * width for width, right in sides]
    padded = [
        [text.rjust(width) if right else text.ljust(width) for text, (width, right) in zip(line, sides, strict=True)]
        for line in lines
    ]
    body = [f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:])]
    above = [_markdown(table.title), ""] if table.title else []
    below = ["", *(f"- {_markdown(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([*above, *body, *below]) + "\n"


def _markdown(text: str) -> str:
    """Escaped where a sign would mean something; an underscore inside a word does not."""
    text = re.sub(r"[\\`*|\[\]]|(?<![^\W_])_|_(?![^\W_])", lambda found: f"\\{found[0]}", clean(text))
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")
    return text.replace("\n", "<br>")


def _joined(column: Column) -> str:
    """The heading where none can be shared."""
    return f"{column.group} {column.heading}".strip()


def latex(table: Table) -> str:
    """A ``tabular`` (package booktabs); in a ``table`` with a caption if there is a title."""
    sides = "".join("r" if column.right else "l" for column in table.columns)
    lines = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule"]
    if table.grouped:
        cells = [rf"\multicolumn{{{n}}}{{c}}{{{_latex(name)}}}" if name else "{}" for name, n in table.spans()]
        lines += [" & ".join(cells) + r" \\", *_rules(table)]
    lines += [_latex_row([column.heading for column in table.columns], sides=sides), r"\midrule"]
    for row, texts in zip(table.rows, table.texts(plus_minus="±", footnotes=False), strict=True):
        lines += [r"\midrule"] if row.section else []
        lines.append(_latex_row(texts, row.cells))
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [rf"\par {{\footnotesize {_latex(note)}}}" for note in table.notes]
    if not table.title:
        return "\n".join([*lines, *notes]) + "\n"
    caption = rf"\caption{{{_latex(table.title)}}}"
    return "\n".join([r"\begin{table}", r"\centering", caption, *lines, *notes, r"\end{table}"]) + "\n"


def _rules(table: Table) -> Iterator[str]:
    """Under every shared heading."""
    first = 1
    for name, count in table.spans():
        if name:
            yield rf"\cmidrule(lr){{{first}-{first + count - 1}}}"
        first += count


def _latex_row(texts: list[str], cells: Sequence[Cell] = (), sides: str = "") -> str:
    """Braces where a cell could be an argument of the end of the row before it."""
    shown = [_latex(text, side) for text, side in zip(texts, sides or "l" * len(texts), strict=True)]
    shown = [f"{{{one}}}" if text.startswith(("[", "*")) else one for one, text in zip(shown, texts, strict=True)]
    for number, cell in enumerate(cells):
        shown[number] = f"{LATEX_RANKS[cell.rank]}{{{shown[number]}}}" if cell.rank else shown[number]
        shown[number] += rf"\textsuperscript{{{_latex(cell.footnotes)}}}" if cell.footnotes else ""
    return " & ".join(shown) + r" \\"


def _latex(text: str, side: str = "l") -> str:
    lines = ["".join(LATEX.get(sign, sign) for sign in line) for line in clean(text).split("\n")]
    lines = [line.replace("±", r"$\pm$").replace("--", "-{}-").replace("--", "-{}-") for line in lines]  # no dashes
    return (
        lines[0]
        if len(lines) == 1
        else rf"\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"
    )


def csv(table: Table) -> str:
    """Comma-separated values in full precision, percentages as fractions; deviations, bounds and published values have
    columns of their own, a gap is empty. Names are data here: all but halves of pairs and returns stays as it is."""
    output = io.StringIO()
    writer = csv_module.writer(output, lineterminator="\n")
    measures = [_measures(table, number) for number in range(len(table.columns))]
    writer.writerow(
        _whole(" ".join([*_joined(column).split("\n"), measure]).strip())
        for column, names in zip(table.columns, measures, strict=True)
        for measure in ("", *names)
    )
    for row in table.rows:
        pairs = zip(row.cells, measures, strict=True)
        writer.writerow(_raw(cell, name) for cell, names in pairs for name in ("value", *names))
    return output.getvalue()


def _measures(table: Table, number: int) -> list[str]:
    """What any cell of a column has beside its value."""
    return [name for name in MEASURES if any(getattr(row.cells[number], name) is not None for row in table.rows)]


def _raw(cell: Cell, name: str) -> str:
    value = getattr(cell, name)
    return "" if value is None or value != value else _whole(str(value))


def _whole(text: str) -> str:
    """Without halves of pairs, which no encoding has, and returns, which readers take for the end of a row."""
    return text.encode(errors="backslashreplace").decode().replace("\r", "\\r")


def html(table: Table) -> str:
    """A fragment: ``<table>`` with title as caption, then the notes; a gap's reason is shown when it is hovered."""
    lines = ["<table>"] + ([f"<caption>{_html(table.title)}</caption>"] if table.title else [])
    lines += ["<thead>", *_html_head(table), "</thead>", "<tbody>"]
    for row, texts in zip(table.rows, table.texts(plus_minus="±", footnotes=False), strict=True):
        lines += ["</tbody>", "<tbody>"] if row.section else []
        cells = zip(table.columns, row.cells, texts, strict=True)
        lines.append(_html_row("".join(_html_cell(*each) for each in cells), row.role))
    notes = [f"<p>{_html(note)}</p>" for note in table.notes]
    return "\n".join([*lines, "</tbody>", "</table>", *notes]) + "\n"


def _html_head(table: Table) -> Iterator[str]:
    """One row of headings, or two where some are shared."""
    if not table.grouped:
        yield _html_row("".join(f"<th>{_html(column.heading)}</th>" for column in table.columns), "")
        return
    spans, cells, first = table.spans(), [], 0
    for name, count in spans:
        alone = f'<th rowspan="2">{_html(table.columns[first].heading)}</th>'
        cells.append(f'<th colspan="{count}">{_html(name)}</th>' if name else alone)
        first += count
    yield _html_row("".join(cells), "")
    yield _html_row("".join(f"<th>{_html(column.heading)}</th>" for column in table.columns if column.group), "")


def _html_row(cells: str, role: str) -> str:
    return f'<tr class="{role}">{cells}</tr>' if role else f"<tr>{cells}</tr>"


def _html_cell(column: Column, cell: Cell, text: str) -> str:
    side = ' style="text-align: right"' if column.right else ""
    why = f' title="{_html(cell.reason)}"' if cell.reason else ""
    rank = f' class="{CLASSES[cell.rank]}"' if cell.rank else ""
    mark = f"<sup>{_html(cell.footnotes)}</sup>" if cell.footnotes else ""
    return f"<td{rank}{side}{why}>{_html(text)}{mark}</td>"


def _html(text: str) -> str:
    return html_module.escape(clean(text)).replace("\n", "<br>")
