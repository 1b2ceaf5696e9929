"""A results tree, read as runs: what they are, how they ended, and why a value is missing."""

from __future__ import annotations

import math

import pytest

from ader.report.collection import collect
from ader.system.errors import UserError
from tests.support.trees import a_run, a_sweep


def test_finished_failed_unfinished_and_damaged_runs(tmp_path):
    a_run(tmp_path, "mvtec", "rd", 1, values={("cable", "pixel_aupro"): None, ("bottle", "image_auroc"): 0.75})
    damaged = a_run(tmp_path, "mvtec", "rd", 2)
    (damaged / "record.json").write_text("{")
    (tmp_path / "visa/multi_class/rd/e100-s1").mkdir(parents=True)
    (tmp_path / "visa/multi_class/rd/e100-s1/config.yaml").write_text("seed: 1\ntrainer: {epochs: 100}\n")
    a_sweep(tmp_path, {"visa/multi_class/cfa/e100-s1": "out of memory"})
    cfa, (done, wrong, unfinished) = (
        (runs := {run.place: run for run in collect(tmp_path)}).pop(("visa", "multi_class", "cfa", "e100-s1")),
        runs.values(),
    )
    assert (done.state, wrong.state, unfinished.state, cfa.state) == ("done", "damaged", "unfinished", "failed")
    assert (done.keys["method"], done.keys["seed"], done.keys["epochs"]) == ("rd", 1, 100)
    assert done.keys["backbone"] == "wide_resnet50_2.tv_in1k"
    assert done.keys["profile"] == "histogram"
    assert done.value("bottle", "image_auroc") == 0.75
    assert math.isnan(done.value("cable", "pixel_aupro"))
    assert done.missing("cable", "pixel_aupro") == "undefined: pixel_aupro is undefined: no defective pixels"
    assert done.missing("bottle", "image_auroc") == ""
    assert "no category x" in done.missing("x", "image_auroc")
    assert unfinished.keys["trainer.epochs"] == unfinished.keys["epochs"] == 100
    assert cfa.reason == "memory: out of memory"
    assert (cfa.keys["dataset"], cfa.keys["method"]) == ("visa", "cfa")
    assert done.categories == ["bottle", "cable", "capsule"]


def test_no_tree(tmp_path):
    with pytest.raises(UserError, match="there is no results tree at"):
        collect(tmp_path / "none")
