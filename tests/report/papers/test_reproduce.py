"""``ader reproduce``: what a table takes, what is missing, and which number is off."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import ader.published
from ader.__main__ import main
from ader.config.options import options
from ader.metrics import SLUGS
from ader.report.collection import collect
from ader.report.papers.reproduce import reproduction
from ader.report.papers.spec import read_spec
from tests.support.trees import a_run


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Runs that reach what ADer prints for RD and InvAD on MVTec AD, 100 epochs."""
    monkeypatch.chdir(tmp_path)
    for method in ("rd", "invad"):
        run(tmp_path / "results", method)
    return tmp_path / "results"


def run(tree: Path, method: str, **wrong: float) -> None:
    with Path(ader.published.__file__).with_name("ader.csv").open() as file:
        rows = [
            row for row in csv.DictReader(file) if (row["table"], row["epochs"], row["method"]) == ("3", "100", method)
        ]
    values = {("x", slug): 0.5 for slug in SLUGS} | {("x", row["metric"]): float(row["value"]) / 100 for row in rows}
    values |= {("x", slug): value for slug, value in wrong.items()}
    a_run(tree, "mvtec", method, categories=["x"], values=values)


def test_reached_and_missing(tree, capsys):
    assert main(["reproduce", "ader_3", "only=method=rd,invad epochs=100"]) == 0
    assert "runs: 2 done. Values: 18 of 18 there, 0 off" in capsys.readouterr().out
    assert main(["reproduce", "ader_3", "only=method=rd"]) == 1
    said = capsys.readouterr().out
    assert "  ader -m dataset=mvtec method=rd trainer=e300 protocol=ader\n" in said
    assert "9 of 18 there, 0 off" in said
    assert main(["reproduce", "ader_3", "only=method=rd", "missing=ok"]) == 0


def test_a_planted_wrong_number_is_named(tree, capsys):
    run(tree / "more", "rd", pixel_ap=0.455)
    words = ["reproduce", "ader_3", "only=method=rd epochs=100", "paths.results=results/more"]
    assert main(words) == 1
    said = capsys.readouterr().out
    line = "mvtec / multi_class / 100 epochs / rd / pixel_ap 45.50 48.20 -2.70 1.00 mean"
    assert " ".join(said.split()).count(line) == 1
    assert "9 of 9 there, 1 off" in said
    assert main([*words, "tolerance=3"]) == 0


def test_what_cannot_be_run_is_said_and_hours_are_estimated(tree):
    found = reproduction("ader_3", read_spec("ader_3"), collect(tree), options("method"))
    states = {(each.need.keys["method"], each.need.keys.get("epochs")): each for each in found.needed}
    assert states["rd", "100"].state == "done"
    assert states["uniad", "300"].hours == pytest.approx(3 * 0.8)  # ADer's Table 1: 0.8 h for 100 epochs
    absent = {"cfa", "diad", "mambaad", "pyramidflow", "rdpp", "realnet"} - {*options("method")}
    assert all(states[method, "100"].state == "impossible" for method in absent)
    lines = found.lines()
    assert ("dataset=mvtec", "protocol=ader") not in lines
    assert all(words[0] == "dataset=mvtec" for words in lines)


def test_values_of_ones_own(tree, capsys, tmp_path):
    file = tmp_path / "gate.yaml"
    file.write_text(
        "title: The gate\ntolerance: 0.5\nruns:\n"
        "  - words: dataset=mvtec method=rd\n    where: dataset=mvtec method=rd epochs=100\n"
        "    values: {mean: {image_auroc: 93.2}, x: {pixel_ap: 48.2}}\n"
    )
    assert main(["reproduce", str(file)]) == 0
    assert "2 of 2 there, 0 off" in capsys.readouterr().out
    file.write_text(file.read_text().replace("93.2", "93.0"))
    assert main(["reproduce", str(file)]) == 1
    assert "image_auroc" in capsys.readouterr().out
    for text, message in (
        ("title: x\n", "runs is missing"),
        (file.read_text().replace("image_auroc", "auroc"), "metric 'auroc'"),
        ("a: [", "while parsing"),
    ):
        file.write_text(text)
        assert main(["reproduce", str(file)]) == 2
        assert message in capsys.readouterr().err


def test_bad_words(tree, capsys):
    for words, message in (
        ([], "takes one table"),
        (["ader_99"], "there is no table 'ader_99'"),
        (["leaderboard"], "is no table of a paper"),
        (["ader_3", "only=method=xyz"], "leaves nothing"),
        (["ader_3", "tolerance=x"], "tolerance='x' is no number"),
        (["ader_3", "launcher.slots=2"], "run=true"),
    ):
        assert main(["reproduce", *words]) == 2, words
        assert message in capsys.readouterr().err


def test_what_all_detectors_are_and_misprints_are_not_held_against_anyone(tmp_path):
    """SegAD's Table 5 says which detectors ``all`` are; InvAD's Table 5 has one value that its categories refute."""
    known = options("method")
    needs = [each.need for each in reproduction("segad_5", read_spec("segad_5"), [], known).needed]
    assert any("method.detectors=[rd,efficientad_m]" in need.words for need in needs)
    found = reproduction("segad_9", read_spec("segad_9"), [], known)
    assert "which detectors these are is not stated" in [each.need.impossible for each in found.needed]
    a_run(tmp_path, "mvtec", "invad_lite", categories=["x"])
    spec = read_spec("invad_5")
    found = reproduction("invad_5", spec, collect(tmp_path), options("method"), "dataset=mvtec method=invad_lite")
    assert "pixel_f1_02_08" not in [each.point.at["metric"] for each in found.judged]
    assert any("the printed value is doubtful: 1" in note for note in found.tables()[0].notes)
