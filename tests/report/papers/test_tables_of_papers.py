"""Tables of papers: printed values cell by cell, ours beside them, and which runs they take."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import ader.published
from ader.__main__ import main
from ader.config.compose import compose
from ader.config.options import options
from ader.published import SOURCES, read
from ader.report.collection import collect
from ader.report.papers.places import fill
from ader.report.papers.points import points_of
from ader.report.papers.spec import names, read_spec, spec_of
from ader.report.papers.table import table_of
from ader.report.renderers import csv as as_csv
from ader.report.renderers import html, latex, markdown, split, terminal
from ader.report.where import is_same
from ader.system.errors import UserError
from tests.support.trees import a_run, a_sweep

PUBLISHED = Path(ader.published.__file__).parent
METHODS = options("method")
OF_PAPERS = [name for name in names() if read_spec(name).source]


def printed(source: str, table: str) -> dict[tuple[str, ...], str]:
    """What stands in the file, read without any of the program."""
    with (PUBLISHED / f"{source}.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == table]
    return {(row["dataset"], row["split"], row["epochs"], row["method"], row["metric"]): row["value"] for row in rows}


def published(name: str):
    return table_of(fill(read_spec(name), [], METHODS, own=False), "published")


@pytest.mark.parametrize(("name", "table"), [("ader_3", "3"), ("ader_4", "4"), ("ader_5", "5"), ("ader_6", "6")])
def test_published_tables_are_as_printed(name, table):
    """Every cell of the file is in the rendered table, once, at its method's row and its column."""
    spec, found = read_spec(name), published(name)
    filled = fill(spec, [], METHODS, own=False)
    lines = [line for line in markdown(found).splitlines() if line.startswith("|")][2:]
    cells = [[re.sub(r"\*|</?u>", "", cell).strip() for cell in line.strip("|").split(" | ")] for line in lines]
    shown = {
        (row[-1], *column): text
        for row, texts in zip(filled.rows, cells, strict=True)
        for column, text in zip(filled.columns, texts[2:], strict=True)
        if text != "-"
    }
    expected = {}
    for (dataset, _, epochs, method, metric), value in printed("ader", table).items():
        where = {"epochs": epochs, "metric": metric, "dataset": dataset}
        expected[(method, *(where[key] for key in spec.columns))] = f"{float(value):.1f}"
    assert shown == expected
    assert len(shown) == {"3": 277, "4": 270, "5": 126, "6": 238}[table]


def test_some_values_by_hand():
    """RD and PatchCore on MVTec AD as ADer prints them."""
    filled = fill(read_spec("ader_3"), [], METHODS, own=False)
    values = {(row[-1], *column): place.point.value for (row, column), place in filled.places.items()}
    assert [round(100 * values["rd", "100", slug], 1) for slug in ("image_auroc", "pixel_ap", "mad")] == [
        93.6,
        48.2,
        82.2,
    ]
    assert round(100 * values["patchcore", "100", "pixel_aupro"], 1) == 94.2


@pytest.mark.parametrize("name", OF_PAPERS)
def test_every_table_of_a_paper_is_shown_whole(name, tmp_path):
    spec, table = read_spec(name), published(name)
    sources = [point for point in points_of(spec.source, spec.tables, METHODS) if not math.isnan(point.value)]
    wanted = [point for point in sources if not spec.metrics or point.at["metric"] in spec.metrics]
    for key, value in spec.only.items():
        wanted = [point for point in wanted if point.at[key] in ((value,) if isinstance(value, str) else value)]
    shown = [cell for row in table.rows for cell in row.cells if isinstance(cell.value, float) and not cell.empty]
    assert len(shown) == len(wanted) > 0
    assert not [point for point in sources if spec.metrics and point.at["metric"] not in spec.metrics] or name in (
        "ader_1",
        "ader_2",
        "invad_1",
    )
    for text in (terminal(table), as_csv(table), markdown(table), latex(table), html(table)):
        assert SOURCES[spec.source] in text or text == as_csv(table)


def test_all_published_results_are_in_a_table():
    """No row of the files of results is left over, but those of running text."""
    shown = {(spec.source, table) for spec in map(read_spec, OF_PAPERS) for table in spec.tables}
    for source in SOURCES:
        tables = {(source, str(table)) for table in read(source)["table"]}
        assert {each for each in tables - shown if not each[1].startswith("text")} == set()
    left = {(row["source"], row["table"]) for row in read("ablations").to_dict("records")} - shown
    assert all(table.startswith("text") for _, table in left)


def test_what_a_published_value_needs_can_be_composed_and_is_found_again():
    """The words of a need compose, and the run that they stand for has the keys by which it is looked for."""
    needs = {
        need.words: need
        for name in OF_PAPERS
        for point in points_of(read_spec(name).source, read_spec(name).tables, METHODS)
        for need in point.needs
        if not need.impossible
    }
    assert len(needs) > 60
    left, known = {word for words in needs for word in words}, {}
    while left:  # every word once, with as many others as there are
        words = max(needs, key=lambda words: len(left & {*words}))
        left -= {*words}
        need, config = needs[words], compose(list(words), known=known)
        values = {**_flat(config.composition.values), **config.composition.choices}
        values["epochs"] = values["trainer.epochs"]
        for key, wanted in need.keys.items():
            assert is_same(values[key], wanted), (words, key, values[key], wanted)


def _flat(values, above=""):
    found = {}
    for key, value in values.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return found


def test_ours_stand_beside_the_published(tmp_path):
    values = {(c, "image_auroc"): v for c, v in (("bottle", 0.90), ("cable", 0.94), ("capsule", 0.98))}
    a_run(tmp_path, "mvtec", "rd", 1, values=values)
    a_run(tmp_path, "mvtec", "rd", 2, values={key: value - 0.02 for key, value in values.items()})
    a_run(tmp_path, "mvtec", "mine", 1)
    a_run(tmp_path, "mvtec", "simplenet", 1, pretrained=False)
    a_sweep(tmp_path, {"mvtec/multi_class/cflow/e100-s42": "CUDA out of memory"})
    table = table_of(fill(read_spec("ader_3"), collect(tmp_path), METHODS))
    lines = [[column.text(cell) for column, cell in zip(table.columns, row.cells, strict=True)] for row in table.rows]
    at = next(number for number, line in enumerate(lines) if line[1] == "rd")
    deviation = np.std([94.0, 92.0], ddof=1)
    assert lines[at][3] == f"93.0 +- {deviation:.1f}"
    assert lines[at + 1][2:4] == ["published", "93.6"]
    assert lines[at + 2][2:4] == ["difference", "-0.6"]
    cflow = next(row for row in table.rows if row.cells[1].value == "cflow")
    assert cflow.cells[3].empty
    assert "memory: CUDA out of memory" in cflow.cells[3].reason
    assert next(line for line in lines if line[1] == "mine")[0] == "others"
    simplenet = next(row for row in table.rows if row.cells[1].value == "simplenet")
    letters = {note[1]: note for note in table.notes if note.startswith("[")}
    assert any("random" in letters[mark] for mark in simplenet.cells[1].footnotes)
    assert any("metric=histogram" in letter for letter in letters.values())
    assert any(re.match(r"'-': not run \(\d+ cells\)", note) for note in table.notes)


def test_the_leaderboard_tells_apart_what_would_be_mixed(tmp_path):
    """A column comes where runs of one cell differ in it, and only then; a table of one's own refuses to mix them."""
    for dataset, run, changes in (
        ("mvtec", "e100-s1", {}),
        ("visa", "small", {"metric": "ader"}),
        ("visa", "e100-s1", {}),
    ):
        a_run(tmp_path, dataset, "rd", 1, run=run, **changes)
    a_sweep(tmp_path, {"visa/multi_class/cfa/e100-s1": "out of memory"})
    runs = collect(tmp_path)
    table = table_of(fill(read_spec("leaderboard"), runs))
    assert [column.heading for column in table.columns[:5]] == ["dataset", "setting", "epochs", "method", "profile"]
    assert [line[3:5] for line in table.texts(footnotes=False)] == [
        ["rd", "histogram"],
        ["cfa", "unknown"],
        ["rd", "ader"],
        ["", "histogram"],
    ]
    found = [*csv.DictReader(as_csv(table).splitlines())]  # data have every name in full
    assert [row["method"] for row in found] == ["rd", "cfa", "rd", "rd"]
    alike = [run for run in runs if run.folder.name != "small"]
    assert "profile" not in [column.heading for column in table_of(fill(read_spec("leaderboard"), alike)).columns]
    with pytest.raises(UserError, match="differ in profile"):
        fill(spec_of({"rows": ["dataset", "method"]}), runs)


def test_the_best_are_marked_and_lower_may_be_better(tmp_path):
    for method, value in (("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6)):
        a_run(
            tmp_path, "mvtec", method, categories=["x"], values={("x", s): value for s in ("image_ap", "image_fpr95")}
        )
    spec = spec_of({"rows": "method", "metrics": ["image_ap", "image_fpr95"]})
    table = table_of(fill(spec, collect(tmp_path)))
    assert [[cell.rank for cell in row.cells[1:]] for row in table.rows] == [[1, 0], [2, 3], [3, 2], [0, 1]]
    assert r"\textbf{90.0}" in latex(table)
    assert "**90.0**" in markdown(table)
    assert '<td class="best"' in html(table)


def test_what_must_not_be_mixed_is_refused(tmp_path):
    a_run(tmp_path, "mvtec", "rd")
    a_run(tmp_path, "visa", "rd")
    a_run(tmp_path, "visa", "rd", epochs=300)
    runs = collect(tmp_path)
    with pytest.raises(UserError, match=r"differ in dataset \(mvtec, visa\): add dataset to rows or columns"):
        fill(spec_of({"rows": "method"}), runs)
    with pytest.raises(UserError, match="differ in epochs"):
        fill(spec_of({"rows": "method", "columns": ["dataset", "metric"]}), runs)
    fill(spec_of({"rows": ["method", "epochs"], "columns": ["dataset"], "metrics": "mad"}), runs)
    with pytest.raises(UserError, match="no run has a key 'colour'"):
        fill(spec_of({"rows": "colour"}), runs)


def test_another_recipe_is_told_and_not_averaged(tmp_path):
    one = a_run(tmp_path, "mvtec", "rd", 1, categories=["x"], values={("x", "mad"): 0.5})
    text = (one / "record.json").read_text().replace('"lr": 0.005', '"lr": 0.05').replace("2026-01-02", "2026-02-02")
    other = one.with_name("lr=0.05")
    shutil.copytree(one, other)
    (other / "record.json").write_text(text.replace('"mad": 0.5', '"mad": 0.75'))
    table = table_of(fill(spec_of({"rows": "method", "metrics": "mad"}), collect(tmp_path)))
    (row,) = table.rows
    assert row.cells[1].value == 0.75
    assert row.cells[1].deviation is None
    assert any("runs of 2 recipes fit" in note for note in table.notes)
    split_ = table_of(fill(spec_of({"rows": ["method", "method.lr"], "metrics": "mad"}), collect(tmp_path)))
    assert sorted(row.cells[2].value for row in split_.rows) == [0.5, 0.75]


def test_a_mean_over_splits_needs_all_of_them(tmp_path):
    for number in range(3):
        a_run(tmp_path, f"coco_ad_{number}", "rd", categories=["coco"], values={("coco", "mad"): 0.5 + number / 10})
    spec = read_spec("ader_6")
    own = fill(spec, collect(tmp_path), METHODS).places[("rd",), ("coco_ad", "mad")].own
    assert own.reason == "3 of 4 runs of a mean are there: not run"
    a_run(tmp_path, "coco_ad_3", "rd", categories=["coco"], values={("coco", "mad"): 0.8})
    own = fill(spec, collect(tmp_path), METHODS).places[("rd",), ("coco_ad", "mad")].own
    assert own.value == pytest.approx(0.65)


def test_a_wide_table_is_divided_without_losing_a_cell():
    table = published("ader_3")
    parts = split(table, 80)
    assert all(max(map(len, terminal(part, 80).splitlines()[2:-6] or [""])) <= 80 for part in parts[:-1])
    columns = [column for part in parts for column in part.columns if column.right]
    assert columns == [column for column in table.columns if column.right]
    assert [part.title for part in parts].count(table.title) == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path):
    tree = tmp_path / "tree"
    for seed in (1, 2):
        a_run(tree, "mvtec", "rd", seed, pretrained=False)
    runs = collect(tree)
    tables = [published(name) for name in ("ader_6", "invad_3")] + [table_of(fill(read_spec("ader_3"), runs, METHODS))]
    body = "\n\\clearpage\n".join(map(latex, tables))
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_the_command(tmp_path, capsys, monkeypatch):
    a_run(tmp_path / "results", "mvtec", "rd")
    monkeypatch.chdir(tmp_path)
    assert main(["table", "ader_3", "show=published"]) == 0
    assert "ADer, Table 3" in capsys.readouterr().out
    assert main(["table", "rows=method", "where=dataset=mvtec", "format=csv", "out=t/x.csv"]) == 0
    assert (tmp_path / "t/x.csv").read_text().startswith("method,image AUROC")
    capsys.readouterr()
    for words, message in (
        ([], "no table is given"),
        (["ader_33"], "did you mean 'ader_3"),
        (["ader_3", "colour=1"], "colour"),
        (["ader_3", "rows=method"], "is for tables of your own"),
        (["rows=method", "metrics=auroc"], "metric 'auroc'"),
        (["rows=method", "columns=method"], "is in rows and in columns"),
        (["rows=method", "paths.results=none"], "there is no results tree at none"),
        (["ader_3", "format=pdf"], "format=pdf is not known"),
    ):
        assert main(["table", *words]) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main(["list", "tables"]) == 0
    assert "ader_6" in capsys.readouterr().out
