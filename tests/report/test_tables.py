"""Tables: every renderer shows every table, with the same values, whatever names hold; a result as it always was."""

from __future__ import annotations

import csv as csv_module
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console as RichConsole

from ader.__main__ import main
from ader.metrics import AVERAGES, METRICS, chance
from ader.report.renderers import WIDTH, csv, html, latex, markdown, rich_table, terminal
from ader.report.result import result_tables, show
from ader.report.result_tables import category_tables
from ader.report.seeds import Spread, seeds_table
from ader.report.tables import Cell, Column, Row, Table
from ader.results import record
from ader.system.console import Console
from ader.system.text import clean
from tests.support.records import a_record

HERE = Path(__file__).parent

ODD = ("a|b", "a&b", "_x_", "x_1", "[bold]", "[", "*", "50%", "$1^2~", "<b>", "&amp;", "\\", "--", "`c`", "{", "#", '"')
ODD += (
    "",
    " ",
    "Prüfung 日本",
    "a\nb",
    "\x1b[31m",
    "\udce4",
    "\x00",
    "\t",
    "x" * 200,
    "e\u0301",
    "\u202e",
    "\r\n",
    "<br>",
)
NAMES = st.one_of(st.sampled_from(ODD), st.text(max_size=12), st.lists(st.sampled_from(ODD), max_size=3).map("".join))
VALUES = st.one_of(st.none(), st.just(math.nan), st.floats(0, 1), st.floats(0, 1e5).map(lambda value: round(value, 3)))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Names in the first and perhaps in later columns, gaps, deviations, shared headings, sections."""
    kinds = ["text", *draw(st.lists(st.sampled_from(["text", "percent", "number", "count", "power"]), max_size=6))]
    groups = draw(st.lists(st.sampled_from(["", "image", "pixel", "a&b"]), min_size=len(kinds), max_size=len(kinds)))
    columns = [
        Column(draw(NAMES), group, kind, draw(st.integers(0, 3)), draw(st.sampled_from(["fold", "ellipsis"])))
        for kind, group in zip(kinds, groups, strict=True)
    ]
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        cells = [
            Cell(draw(NAMES))
            if kind == "text"
            else Cell(draw(VALUES), *(draw(st.one_of(st.none(), st.floats(0, 1))) for _ in range(3)), draw(NAMES))
            for kind in kinds
        ]
        rows.append(Row(tuple(cells), draw(st.sampled_from(["", "mean", "chance"])), draw(st.booleans())))
    return Table(tuple(columns), tuple(rows), draw(NAMES), tuple(draw(st.lists(NAMES, max_size=2))))


EVERY = settings(max_examples=80, deadline=None, derandomize=True)


def shown(table: Table, plus_minus: str = "+-") -> list[list[str]]:
    """The cells in words, as they are to be found."""
    return [[clean(text) for text in texts] for texts in table.texts(plus_minus)]


# what a cell says


@pytest.mark.parametrize(
    ("column", "cell", "text"),
    [
        (Column("", kind="percent"), Cell(0.9024), "90.2"),
        (Column("", kind="percent", digits=3), Cell(0.9024), "90.240"),
        (Column("", kind="percent"), Cell(0.902, deviation=0.0041), "90.2 +- 0.4"),
        (Column("", kind="percent"), Cell(0.902, deviation=math.nan), "90.2"),
        (Column("", kind="percent"), Cell(0.902, published=0.9), "90.2 (90)"),
        (Column("", kind="percent"), Cell(0.902, bound=0.1), "90.2"),
        (Column("", kind="percent"), Cell(1.0), "100.0"),
        (Column("", kind="percent"), Cell(math.nan, deviation=0.1), "-"),
        (Column("", kind="percent"), Cell(None, reason="no maps"), "-"),
        (Column("", kind="number", digits=2), Cell(17.6612, published=17.715), "17.66 (17.715)"),
        (Column("", kind="number", digits=2), Cell(1234.5, mark="~"), "~1,234.50"),
        (Column("", kind="count"), Cell(1234567), "1,234,567"),
        (Column("", kind="power", digits=0), Cell(0.000012), "1e-05"),
        (Column("", kind="text"), Cell("a[b]"), "a[b]"),
        (Column("", kind="text"), Cell(), "-"),
    ],
)
def test_cells_in_words(column, cell, text):
    assert column.text(cell) == text


def test_rows_are_as_long_as_the_table_is_wide():
    with pytest.raises(ValueError, match="a row has 1 cells, the table has 2 columns"):
        Table((Column("a"), Column("b")), (Row.of("x"),))


def test_shared_headings():
    columns = [Column("a"), Column("b", "g"), Column("c", "g"), Column("d"), Column("e"), Column("f", "h")]
    table = Table(tuple(columns), ())
    assert table.spans() == [("", 1), ("g", 2), ("", 1), ("", 1), ("h", 1)]
    assert r"{} & \multicolumn{2}{c}{g} & {} & {} & \multicolumn{1}{c}{h} \\" in latex(table)
    assert r"\cmidrule(lr){2-3}" in latex(table)
    assert r"\cmidrule(lr){6-6}" in latex(table)
    assert '<th colspan="2">g</th>' in html(table)
    assert markdown(table).startswith("| a   | g b | g c | d   | e   | h f |\n")
    assert csv(table) == "a,g b,g c,d,e,h f\n"


def test_what_would_control_a_terminal_is_spelled_out():
    assert clean("a\x1b[31m\u2028\x00\udce4\tü\nb") == "a\\x1b[31m\\u2028\\x00\\udce4\\tü\nb"


# renderers


@EVERY
@given(tables())
def test_terminal(table):
    """Numbers of a row stand together and whole, in the order of the rows; names may be cut or go on below."""
    lines = terminal(Table(table.columns, table.rows)).splitlines()
    place = 0
    for texts in shown(table):
        numbers = [text for text, column in zip(texts, table.columns, strict=True) if column.right]
        pattern = re.compile(r"(?:^|\s).*?".join(map(re.escape, numbers)) + "(?:$| )")
        place = next(n for n in range(place, len(lines)) if pattern.search(lines[n] + " ")) + 1
    text = terminal(table)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    text.encode()


def test_terminal_at_its_width():
    """Names give way to numbers; where not even those fit, the table is wider and nothing is lost."""
    numbers = [Column("AUROC", "image", "percent") for _ in range(8)]
    short = Table((Column("category", wrap="ellipsis"), *numbers), (Row.of("x" * 200, *[0.5] * 8),))
    lines = terminal(short).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[-1].split()[1:] == ["50.0"] * 8
    assert lines[-1].split()[0].endswith("…")
    wide = Table((Column("category"), *numbers * 5), (Row.of("x", *[0.5] * 40),))
    assert terminal(wide).splitlines()[-1].split() == ["x", *["50.0"] * 40]
    folded = Table((Column("category", widest=10),), (Row.of("y" * 25),))
    assert [line.strip() for line in terminal(folded).splitlines()[-3:]] == ["y" * 10, "y" * 10, "y" * 5]
    assert rich_table(folded).columns[0].max_width == 10


def cells_of(line: str) -> list[str]:
    """A line of a pipe table, read as GitHub does: a sign after a backslash is no end of a cell."""
    parts = re.findall(r"((?:\\.|[^|\\])*)(?:\||$)", line)
    return [part.strip() for part in parts[1:-1]]


def unescaped(text: str) -> str:
    text = text.replace("<br>", "\n")
    text = re.sub(r"\\([\\`*|\[\]_])", r"\1", text)
    return text.replace("&lt;", "<").replace("&amp;", "&")


@EVERY
@given(tables())
def test_markdown(table):
    lines = markdown(Table(table.columns, table.rows)).splitlines()
    assert len(lines) == 2 + len(table.rows)
    assert len({len(line) for line in lines}) == 1
    assert all(re.fullmatch(r"-{2,}[-:]", cell) for cell in cells_of(lines[1]))
    for line, texts in zip(lines[2:], shown(table), strict=True):
        assert [unescaped(cell).strip() for cell in cells_of(line)] == [text.strip() for text in texts]
    markdown(table).encode()


@EVERY
@given(tables())
def test_csv_reads_back(table):
    lines = list(csv_module.reader(io.StringIO(csv(table), newline="")))
    assert len(lines) == 1 + len(table.rows)
    assert {len(line) for line in lines} == {len(lines[0])}
    for line, row in zip(lines[1:], table.rows, strict=True):
        left = iter(line)
        for number, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
            text = next(left)
            if column.kind == "text":
                assert text == str(cell.value).encode(errors="backslashreplace").decode().replace("\r", "\\r")
            else:
                assert text == "" if cell.empty else float(text) == cell.value
            for name in ("deviation", "bound", "published"):
                if any(getattr(each.cells[number], name) is not None for each in table.rows):
                    value, text = getattr(cell, name), next(left)
                    assert text == "" if value is None else float(text) == value
        assert not list(left)


class Page(HTMLParser):
    """Checks that tags match, and keeps the texts of cells."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.spans: list[list[tuple[int, int]]] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "br":
            self.handle_data("\n")
            return
        self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
            self.spans.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
            self.spans[-1].append((int(given.get("colspan", 1)), int(given.get("rowspan", 1))))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


@EVERY
@given(tables())
def test_html_is_well_formed(table):
    page = Page()
    page.feed(html(table))
    page.close()
    assert page.open == []
    body = page.cells[-len(table.rows) :] if table.rows else []
    assert body == shown(table, "±")
    heads = page.spans[: len(page.spans) - len(table.rows)]
    assert len(heads) == 1 + table.grouped
    assert sum(columns for columns, _ in heads[0]) == len(table.columns)
    if table.grouped:
        assert len(heads[1]) == len(table.columns) - sum(rows == 2 for _, rows in heads[0])


PLAIN = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textasciigrave": "`",
}


def plain_latex(cell: str) -> str:
    """A cell's text, read as TeX does."""
    cell = cell.strip(" ")
    if cell.startswith(("{[", "{*")):
        cell = cell[1:-1]
    inner = re.fullmatch(r"\\begin\{tabular\}\[t\]\{@\{\}l@\{\}\}(.*)\\end\{tabular\}", cell)
    if inner:
        return "\n".join(plain_latex(line) for line in re.split(r" \\\\ ", inner[1]))
    cell = cell.replace("$\\pm$", "±").replace("-{}-", "--").replace("-{}-", "--")
    return re.sub(r"\\(?:([a-z]+)\{\}|(.))", lambda found: PLAIN[found[1]] if found[1] else found[2], cell)


def latex_cells(line: str) -> list[str]:
    """Split at every ``&`` that is not escaped."""
    assert line.endswith(r" \\")
    return re.findall(r"((?:\\.|[^&\\])*)&", line.removesuffix(r" \\") + "&")


@EVERY
@given(tables())
def test_latex_is_well_formed(table):
    text = latex(table)
    bare = re.sub(r"\\[{}\\%$#&_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert "#" not in bare
    assert "%" not in bare
    found = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    open_: list[str] = []
    for kind, name in found:
        if kind == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert not open_
    lines = latex(Table(table.columns, table.rows)).splitlines()
    body = [line for line in lines[lines.index(r"\midrule") + 1 :] if line not in (r"\midrule", r"\bottomrule")]
    assert len(body) == len(table.rows) + 1  # \end{tabular}
    for line, texts in zip(body, shown(table, "±"), strict=False):
        cells = latex_cells(line)
        assert not cells[0].startswith(("[", "*"))
        assert [plain_latex(cell).strip() for cell in cells] == [text.strip() for text in texts]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path):
    names = [name for name in ODD if name.isascii()]
    columns = (Column("a_b"), Column("c&d", "x^2", "percent"), Column("e", "x^2", "percent"))
    table = Table(columns, tuple(Row.of(name, 0.5, Cell(0.25, deviation=0.1)) for name in names), "T_1", ("50 %",))
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{latex(table)}\end{{document}}"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


# tables of results


@pytest.fixture
def folder(tmp_path):
    """A result of the version with schema 2: per category, by defect, from a run on two of them."""
    shutil.copytree(HERE / "result", tmp_path / "run")
    shutil.copy(HERE.parent / "results" / "records" / "schema2_run.json", tmp_path / "run" / "record.json")
    return tmp_path / "run"


def test_a_result_is_printed_as_it_was(folder, capsys):
    """``shown.txt`` has the numbers that that version printed."""
    show(folder, Console())
    assert capsys.readouterr().out == (folder / "shown.txt").read_text() + f"written to {folder}\n"


def test_colors_are_for_terminals(folder, monkeypatch):
    """What warns and what is worse than chance is red; the log, files and NO_COLOR have the same letters alone."""
    monkeypatch.setenv("TERM", "xterm")
    metrics = folder / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("bottle,1.0", "bottle,0.3"))
    fpr = pd.read_csv(metrics, index_col="category")
    fpr.loc["cable", "image_fpr95"] = 0.99
    fpr.to_csv(metrics)
    result = json.loads((folder / "record.json").read_text())
    result["rows"] = record.rows(fpr)
    (folder / "record.json").write_text(json.dumps(result))
    shown = {}
    for name, is_terminal, no_color in (("color", True, ""), ("plain", False, ""), ("no color", True, "1")):
        monkeypatch.setenv("NO_COLOR", no_color)
        console, output = Console(folder / f"{name}.log"), io.StringIO()
        console.rich = RichConsole(file=output, highlight=False, soft_wrap=True, force_terminal=is_terminal)
        show(folder, console)
        shown[name] = output.getvalue()
        log = (folder / f"{name}.log").read_text()
        assert [line[21:] for line in log.splitlines() if line[21:]] == [
            line for line in re.sub(r"\x1b\[\d+m", "", shown[name]).splitlines() if line
        ]
    assert shown["plain"] == shown["no color"] == re.sub(r"\x1b\[\d+m", "", shown["color"])
    red = [text.strip() for text in re.findall(r"\x1b\[31m(.*?)\x1b\[0m", shown["color"])]
    assert red == ["30.0", "99.0", "CAUTION: backbone resnet18 has random weights (not pretrained)"]
    assert "worse than chance: image_auroc of bottle, image_fpr95 of cable\n" in shown["plain"]


def test_shared_headings_of_a_printed_table():
    """Over all of their columns, which are wide enough for them."""
    columns = [Column("a"), Column("b", "g", "percent"), Column("c", "g", "percent"), Column("d", "longer", "percent")]
    lines = terminal(Table(tuple(columns), (Row.of("x", 1.0, 1.0, 0.0),))).splitlines()
    assert lines[0] == "  ──── g ──── longer"
    assert lines[1].split() == ["a", "b", "c", "d"]
    assert lines[-1] == "x 100.0 100.0    0.0"


def test_headings_are_those_of_the_list_of_metrics(folder, capsys):
    """Every metric is listed by the words that stand above its column."""
    assert main(["list", "metrics"]) == 0
    listed = {line[:16].strip(): line for line in capsys.readouterr().out.splitlines()}
    for table in result_tables(folder)[:2]:
        for metric in METRICS:
            headings = {f"{column.group} {column.heading}".strip() for column in table.columns}
            if metric.heading in headings:
                assert f"   {metric.heading}   " in listed[metric.slug]
    assert [metric.heading for metric in METRICS if metric.slug in ("mad", "pixel_ioumax", "pixel_f1_02_08")] == [
        *("pixel IoUmax", "pixel .2-.8 F1", "mAD")
    ]


def test_values_of_a_result_in_full(folder):
    main, more, defects = result_tables(folder)
    metrics, bounds = (pd.read_csv(folder / f"{name}.csv", index_col="category") for name in ("metrics", "bounds"))
    head, *lines = csv_module.reader(io.StringIO(csv(main)))
    assert [line[0] for line in lines] == ["bottle", "cable", "mean", "chance"]
    for line in lines[:3]:
        assert float(line[head.index("pixel AUROC")]) == metrics.loc[line[0], "pixel_auroc"]
        assert float(line[head.index("pixel AUROC bound")]) == bounds.loc[line[0], "pixel_auroc"]
    assert [row.role for row in main.rows] == ["", "", "mean", "chance"]
    assert [row.section for row in main.rows] == [False, False, True, False]
    assert main.title == "folder-toy-2d8b63 / single_class / patchcore / old  (percent)"
    assert (more.title, more.notes, defects.title) == ("", (), "")
    assert len(defects.rows) == 4
    assert "CAUTION: backbone resnet18 has random weights (not pretrained)" in defects.notes


def test_a_gap_says_why():
    slugs = [*AVERAGES, *pd.read_csv(HERE / "result" / "metrics.csv", index_col="category").columns]
    frame = pd.DataFrame(0.5, index=["a", "b", "mean"], columns=list(dict.fromkeys(slugs)))
    frame.loc["b", "pixel_auroc"] = math.nan
    undefined = {"no maps": ("b",), "mad is undefined: no maps": ("b",), "other": ("a",)}
    main, _, _ = category_tables(frame, frame, a_record(undefined=undefined))
    gaps = [(row.cells[0].value, cell.reason) for row in main.rows for cell in row.cells[1:] if cell.reason]
    assert gaps == [("b", "no maps")]
    assert 'title="no maps">-</td>' in html(main)


def test_seeds():
    frame = pd.DataFrame(
        {("image_auroc", "mean"): [80.0, 65.0], ("image_auroc", "std"): [10.0, math.nan], ("image_auroc", "seeds"): 3},
        index=["a", "mean"],
    )
    assert terminal(seeds_table(frame)).splitlines()[-3:] == ["a        80.0 +- 10.0", "", "mean             65.0"]
    assert str(Spread(80.0, 10.0, 3)) == "80.0 +- 10.0"
    assert str(Spread(math.nan, math.nan, 3)) == "-"


def test_chance_is_the_last_row_of_a_result(folder):
    counts = pd.read_csv(folder / "counts.csv", index_col="category")
    main = result_tables(folder)[0]
    assert main.rows[-1].cells[1].value == chance(counts)["image_auroc"] == 0.5


def test_footnotes_of_names_that_are_cut_stay():
    """What a short name leaves is the other one's, and the letters are never what is cut."""
    columns = (Column("dataset", wrap="ellipsis"), Column("method", wrap="ellipsis"), Column("AUROC", kind="percent"))
    names = Row.of("a-dataset-with-a-long-name", Cell("patchcore_of_many_words", footnotes="ab"), Cell(0.5))
    lines = terminal(Table(columns, (names,)), 36).splitlines()
    assert max(map(len, lines)) <= 36
    assert lines[-1] == "a-dataset-wit… patchcor… [ab]  50.0"
    short = Row.of("mvtec", Cell("patchcore_of_many_words", footnotes="ab"), Cell(0.5))
    assert "patchcore_of_man… [ab]" in terminal(Table(columns, (short,)), 36)
