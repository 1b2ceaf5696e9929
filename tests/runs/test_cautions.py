"""What readers of a result must know: in its record, table and log, and in its name where the recipe decides it."""

from __future__ import annotations

import json

import pytest

from ader.config.compose import compose
from ader.runs.facts import cautions
from ader.runs.plan import make_plan
from ader.testing.toy import write_mvtec
from tests.support.running import Bench

OTHER = "the images are not those of the published dataset: bottle has 5 train_good (published 209), "
FEW = "so few test images that one of them decides image metrics: bottle 2 normal and 2 defective, "
TRIAL = "a trial: no stage was trained for more than 2 steps (trainer.max_steps)"
UNLABELED = "the training data of bottle, cable has no labeled defects: normal images only"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_a_run_that_is_not_what_its_name_promises(bench, capsys):
    """MVTec AD, it says, of which there are 18 images, trained for two steps with defects that there are none of."""
    command = ["dataset=mvtec", "dataset.categories=[bottle,cable]", "setting=supervised", "setting.models=all"]
    assert bench.run(*command, "dataset.check_counts=false", "trainer.max_steps=2") == 0
    out = " ".join(capsys.readouterr().out.split())
    folder = bench.folder()
    result, log = json.loads((folder / "record.json").read_text()), (folder / "run.log").read_text()
    for caution in (OTHER, FEW, TRIAL, UNLABELED):
        assert sum(warning.startswith(caution) for warning in result["warnings"]) == 1
        assert f"CAUTION {caution}" in out  # before training
        assert f"CAUTION: {caution}" in out  # below the table
        assert f"CAUTION  {caution}" in log
    assert folder.parts[-4:-1] == ("mvtec", "supervised", "made_up")
    for mark in ("dataset.check_counts=false", "trainer.max_steps=2"):
        assert mark in folder.name
    assert bench.run(*command, "trainer.max_steps=2") == 2
    assert "is not as published" in capsys.readouterr().err


def plan(root, *words):
    common = [f"dataset.root={root}", "method=patchcore", "trainer.device=cpu", f"paths.results={root}/results"]
    return make_plan(compose(["dataset=folder", *common, *words]))


def test_what_is_as_it_should_be_has_no_caution(tmp_path):
    assert cautions(plan(write_mvtec(tmp_path / "enough", train=5, good=5, bad=5, size=40))) == ()


def test_few_test_images_are_those_that_decide(tmp_path):
    """A kind without any image is not one of them: its metrics are undefined, which the table says anyway."""
    few = plan(write_mvtec(tmp_path / "few", train=5, good=5, bad=1, size=40))
    assert cautions(few)[0].startswith("so few test images")
    root = write_mvtec(tmp_path / "none", train=5, good=5, bad=5, size=40)
    for category in ("bottle", "cable"):
        for image in (root / category / "test" / "good").iterdir():
            image.unlink()
    assert cautions(plan(root)) == ()


def test_settings_pass_theirs_on(tmp_path):
    root = write_mvtec(tmp_path / "toy", train=5, good=5, bad=6, size=40)
    (caution, few) = cautions(plan(root, "setting=semi", "setting.n=6"))
    assert caution.startswith("setting.n=6: at most 75 % of a category's defects move: ")
    assert few.startswith("so few test images")


def test_a_protocol_is_said(bench, capsys):
    assert bench.run("protocol=ader", method="patchcore") == 0
    note = "protocol=ader; in force: metric=ader, recipe=ader, trainer.precision=torch; whether published rows"
    assert note in capsys.readouterr().out
    assert json.loads((bench.folder() / "record.json").read_text())["choices"]["protocol"] == "ader"
