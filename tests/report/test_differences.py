"""``ader diff``: what differs between two runs, and that all the rest does not."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from ader.__main__ import main
from ader.report.differences import ABSENT, Change, changes, open_side, parts_of, remarks
from ader.results import record as records
from ader.results.schema import Commit
from tests.support.records import a_record
from tests.support.trees import a_run


def between(first, second, *metrics):
    sides = open_side(first), open_side(second)
    return changes(*sides, *([metrics] if metrics else []))


def rewritten(folder, **fields):
    """The run's record with other fields."""
    found = records.read(folder)
    assert found is not None
    records.write(folder, {}, dataclasses.replace(found, **fields))
    return folder


@pytest.fixture
def pair(tmp_path):
    """Two runs that are the same but for the name of their folder, which their configuration has."""
    given = {(name, "image_auroc"): 0.75 for name in ("bottle", "cable", "capsule")}
    return [a_run(tmp_path / tree, seed=1, run="same", values=given) for tree in "ab"]


def test_the_same(pair, capsys):
    assert between(*pair) == []
    assert main(["diff", *map(str, pair)]) == 0
    out = capsys.readouterr().out
    parts = "configuration, code and machine, data, weights, warnings, numbers"
    assert f"A and B are the same: {parts}" in out
    assert len(out.splitlines()) == 4


def test_numbers_largest_first(tmp_path):
    base = {("bottle", "mad"): 0.5, ("cable", "mad"): 0.5, ("capsule", "mad"): 0.75, ("bottle", "image_ap"): 0.1}
    other = {**base, ("bottle", "mad"): 0.625, ("cable", "mad"): 0.25, ("bottle", "image_ap"): 0.2}
    first = a_run(tmp_path / "a", seed=1, values=base)
    second = a_run(tmp_path / "b", seed=1, values=other)
    found = between(first, second, "mad")
    # means: (0.5 + 0.5 + 0.75) / 3 and (0.625 + 0.25 + 0.75) / 3
    assert [(change.category, round(change.difference, 9)) for change in found] == [
        ("cable", -0.25), ("bottle", 0.125), ("mean", round(-0.125 / 3, 9)),
    ]  # fmt: skip
    assert [change.what for change in between(first, second, "image_ap")] == ["image_ap", "image_ap"]


def test_undefined_on_one_side_comes_first(tmp_path):
    first = a_run(tmp_path / "a", seed=1, values={("cable", "mad"): None})
    second = a_run(tmp_path / "b", seed=1, values={("cable", "mad"): 0.5, ("bottle", "mad"): 0.1})
    found = between(first, second, "mad")
    assert {found[0].category, found[1].category} == {"cable", "mean"}
    assert found[0].first is ABSENT
    assert found[2].category == "bottle"


def test_differences_within_bounds_are_told(tmp_path, capsys):
    """Bounds of ``a_run`` are 1e-5 for pixel metrics: 1.5e-5 apart may be equal, 3e-5 are not; others are exact."""
    base = {("bottle", "pixel_ap"): 0.5, ("cable", "pixel_ap"): 0.5, ("bottle", "image_ap"): 0.5}
    near = {("bottle", "pixel_ap"): 0.500015, ("cable", "pixel_ap"): 0.50003, ("bottle", "image_ap"): 0.500001}
    first = a_run(tmp_path / "a", seed=1, values=base)
    second = a_run(tmp_path / "b", seed=1, values=near)
    sure = {(change.category, change.what): change.certain for change in between(first, second, "pixel_ap", "image_ap")}
    assert not sure["bottle", "pixel_ap"]
    assert sure["cable", "pixel_ap"]
    assert sure["bottle", "image_ap"]
    assert main(["diff", str(first), str(second), "metric=pixel_ap,image_ap"]) == 0
    assert "of 5 differences are within the certified bounds of both values" in capsys.readouterr().out


def test_configuration_says_what_decides(tmp_path):
    first, second = a_run(tmp_path, seed=1, epochs=100), a_run(tmp_path, seed=2, epochs=300)
    found = [change for change in between(first, second) if change.part == "configuration"]
    assert [(change.what, change.first, change.second, change.decides) for change in found] == [
        ("seed", 1, 2, True), ("trainer.epochs", 100, 300, True), ("run", "e100-s1", "e300-s2", False),
    ]  # fmt: skip


def test_code_data_weights_and_warnings(pair):
    first, second = pair
    made = records.read(first).provenance
    changed = dataclasses.replace(
        made, commit=Commit(sha="t", dirty=True), versions={"python": "3.12"}, time="later", command=("else",)
    )
    rewritten(second, provenance=changed, data_hash="other", images={"test_good": 3}, warnings=("look out",))
    found = {(change.part, change.what): (change.first, change.second) for change in between(first, second)}
    assert found == {
        ("code and machine", "commit"): ("s", "t"),
        ("code and machine", "changes in no commit"): (False, True),
        ("code and machine", "python"): ("3.11", "3.12"),
        ("data", "content of the dataset (SHA-256)"): ("x", "other"),
        ("data", "images.train_good"): (10, ABSENT),
        ("data", "images.test_good"): (2, 3),
        ("data", "images.test_bad"): (2, ABSENT),
        ("warnings", "look out"): (ABSENT, "yes"),
    }
    model = records.read(first).models["all"]
    other = dataclasses.replace(model, checkpoint=dataclasses.replace(model.checkpoint, sha256="d" * 64))
    rewritten(second, models={"all": other})
    assert ("weights", "after training: SHA-256") in {(each.part, each.what) for each in between(first, second)}


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"data_hash": "y"}, "the data are not the same"), ({"metric": "ader"}, "computed in different ways"), ({}, "")],
)
def test_what_keeps_numbers_from_comparison(pair, fields, said):
    sides = open_side(pair[0]), open_side(rewritten(pair[1], **fields))
    cautions = [line for line in remarks(*sides, changes(*sides)) if line.startswith("CAUTION")]
    assert len(cautions) == bool(said)
    assert said in "".join(cautions)


def test_an_unfinished_run_has_a_configuration_alone(tmp_path, capsys):
    first = a_run(tmp_path, seed=1)
    second = tmp_path / "going"
    second.mkdir()
    (second / "config.yaml").write_text("seed: 2\nfingerprint: {seed: 2}\n")
    sides = open_side(first), open_side(second)
    assert parts_of(*sides) == ("configuration",)
    assert {change.part for change in changes(*sides)} == {"configuration"}
    assert Change("configuration", "seed", 1, 2) in changes(*sides)
    assert main(["diff", str(second), str(first), "format=markdown"]) == 0
    out = capsys.readouterr().out
    assert "A is not finished: only configurations can be compared" in out
    assert "| seed" in out


def test_csv_has_everything_in_full(tmp_path, capsys):
    value = 0.1 + 0.2  # which has 17 digits
    first = a_run(tmp_path / "a", seed=1, values={("bottle", "mad"): value})
    second = a_run(tmp_path / "b", seed=1, values={("bottle", "mad"): 0.5})
    assert main(["diff", str(first), str(second), "metric=mad", "format=csv", "most=1"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["category"] for row in rows] == ["bottle", "mean"]
    assert float(rows[0]["A"]) == value
    assert float(rows[0]["difference"]) == 0.5 - value


def test_most(tmp_path, capsys):
    folders = [a_run(tmp_path / tree, method=tree) for tree in "ab"]
    for most, said in (("most=3", True), ("most=all", False)):
        assert main(["diff", *map(str, folders), most]) == 0
        assert ("smaller differences are not shown" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "two runs' folders are needed"),
        (["{run}"], "two runs' folders are needed"),
        (["{run}", "{tmp}/none"], "is not a folder"),
        (["{run}", "{tmp}"], "neither record.json nor config.yaml"),
        (["{run}", "{run}", "metric=image_aurox"], "did you mean 'image_auroc'"),
        (["{run}", "{run}", "most=-1"], "most=-1 is neither"),
        (["{run}", "{run}", "format=latex"], "format=latex is not known"),
        (["{run}", "{run}", "{run}"], "takes two runs"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, said):
    run = a_run(tmp_path)
    assert main(["diff", *(word.format(run=run, tmp=tmp_path) for word in words)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_names_do_not_rule_a_terminal(tmp_path, capsys):
    folders = []
    for tree, seed in (("a", 1), ("b", 2)):
        folder = tmp_path / f"{tree}\x1b[31m"
        rows = {"\x1b[2J|x": {"mad": seed / 4}, "mean": {"mad": seed / 4}}
        folder.mkdir()
        records.write(folder, {}, a_record(rows=rows, seed=seed, warnings=(f"\x1b[{seed}m",)))
        folders.append(folder)
    for form in ("terminal", "markdown"):
        assert main(["diff", *map(str, folders), f"format={form}"]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "x1b[2J" in out.replace("\\[", "[")
