"""A run says which files among its images it left out, and so does its record."""

from __future__ import annotations

import json

import pytest

from tests.support.running import Bench


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_the_run_and_its_record_name_them(bench, capsys):
    for name in ("000.json", "photo.dng", ".hidden"):
        (bench.data / "bottle/train/good" / name).touch()
    assert bench.run() == 0
    caution = (
        "2 files among the images are left out, having no image's ending (1 .json, 1 .dng): "
        "bottle/train/good/000.json, bottle/train/good/photo.dng"
    )
    assert f"CAUTION  {caution}" in capsys.readouterr().out
    assert caution in json.loads((bench.folder() / "record.json").read_text())["warnings"]


def test_bits_are_part_of_the_recipe(bench, capsys):
    """Asked for where they are in doubt, before anything is trained."""
    from PIL import Image

    for file in bench.data.rglob("*/good/*.png"):
        with Image.open(file) as image:
            gray = image.convert("L")
        gray.point(lambda value: value * 16, "I").convert("I;16").save(file)
    assert bench.run() == 2
    error = capsys.readouterr().err
    assert "category 'bottle' has no value above " in error
    assert "give dataset.bits=12, or dataset.bits=16" in error
    assert error.count("\n") == 1
    assert bench.run("dataset.bits=12", results="told") == 0
    record = json.loads((bench.folder("told") / "record.json").read_text())
    assert record["config"]["dataset"]["bits"] == 12
    assert "dataset.bits=12" in bench.folder("told").name
