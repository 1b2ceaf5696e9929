"""Uni-Medical, and its preparation from BMAD."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ader.data import load_index
from ader.data.masks import load_mask
from ader.datasets import uni_medical as module
from ader.datasets._preparing import Work
from ader.datasets.uni_medical import prepare
from ader.system.console import Console
from ader.system.errors import UserError
from tests.layouts import uni_medical as layout

QUIET = Work(Console(quiet=True), lambda: None, 1)


def fails(match: str, root: Path) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index("uni_medical", root)
    return str(caught.value)


def contents(root: Path) -> dict[str, str]:
    files = [file for file in root.rglob("*") if file.is_file()]
    return {file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_samples(tmp_path):
    index = load_index("uni_medical", layout.write(tmp_path))
    assert index.categories == ("brain", "liver", "retinal")
    assert [(s.image, s.split, s.label, s.masks, s.defect) for s in index if s.category == "brain"] == [
        ("brain/test/Ungood/000.png", "test", 1, ("brain/ground_truth/Ungood/000.png",), "Ungood"),
        ("brain/test/Ungood/001.png", "test", 1, ("brain/ground_truth/Ungood/001.png",), "Ungood"),
        ("brain/test/good/000.png", "test", 0, (), "good"),
        ("brain/test/good/001.png", "test", 0, (), "good"),
        ("brain/train/good/000.png", "train", 0, (), "good"),
        ("brain/train/good/001.png", "train", 0, (), "good"),
    ]


def test_all_gray_values_of_brain_masks_count(tmp_path):
    index = load_index("uni_medical", layout.write(tmp_path), ["brain"])
    sample = next(sample for sample in index if sample.label)
    values = np.asarray(Image.open(index.path(sample.masks[0])))
    assert 1 < len(np.unique(values)) <= 25
    assert values.max() < 128
    assert (load_mask([index.path(sample.masks[0])], 24) == (values > 0)).all()


def test_masks_with_other_names_are_paired_by_position_and_it_is_said(tmp_path, caplog):
    root = layout.write(tmp_path)
    with caplog.at_level(logging.WARNING):
        index = load_index("uni_medical", root)
    assert [(s.image, s.masks) for s in index if s.category == "liver" and s.label] == [
        ("liver/test/Ungood/000.png", ("liver/ground_truth/Ungood/label_000.png",)),
        ("liver/test/Ungood/001.png", ("liver/ground_truth/Ungood/label_001.png",)),
    ]
    assert len(caplog.records) == 1
    assert str(root / "liver/ground_truth/Ungood") in caplog.text
    assert "positions" in caplog.text


def test_the_suffix_of_mvtec_is_a_name(tmp_path, caplog):
    root = layout.write(tmp_path)
    truth = root / "liver/ground_truth/Ungood"
    for mask in sorted(truth.iterdir()):
        mask.rename(truth / f"{mask.stem.removeprefix('label_')}_mask.png")
    masks = [s.masks for s in load_index("uni_medical", root) if s.category == "liver" and s.label]
    assert masks == [("liver/ground_truth/Ungood/000_mask.png",), ("liver/ground_truth/Ungood/001_mask.png",)]
    assert not caplog.records


def test_positions_need_equal_counts_and_no_name_in_common(tmp_path):
    root = layout.write(tmp_path)
    truth = root / "liver/ground_truth/Ungood"
    shutil.copy(truth / "label_000.png", truth / "label_002.png")
    assert str(truth) in fails("holds 3 masks for 2 images", root)
    (truth / "label_002.png").unlink()
    (truth / "label_001.png").rename(truth / "001.png")  # one name fits: the other must too
    assert str(truth / "label_000.png") in fails("is not named as that of 000.png", root)


def test_prepare_makes_what_the_reader_reads(tmp_path, caplog):
    source, root = layout.write_bmad(tmp_path / "bmad"), tmp_path / "medical"
    before = contents(source)
    prepare(root, source, QUIET)
    index = load_index("uni_medical", root)
    assert index.counts() == dict.fromkeys(("brain", "liver", "retinal"), (2, 2, 2))
    assert not caplog.records  # all are paired by name
    places = {"brain": "Brain", "liver": "Liver_AD/hist_DIY", "retinal": "Retina_RESC"}
    expected = {}
    for category, place in places.items():
        bad = "ungood" if category == "liver" else "Ungood"
        label = "anomaly_mask" if category == "retinal" else "label"
        train = "train/good/img" if category == "retinal" else "train/good"
        parts = {"train/good": train, "test/good": "test/good/img"}
        parts |= {f"test/{bad}": f"test/{bad}/img", f"ground_truth/{bad}": f"test/{bad}/{label}"}
        for target, part in parts.items():
            for name in ("000.png", "001.png"):
                expected[f"{category}/{target}/{name}"] = before[f"{place}/{part}/{name}"]
    assert contents(root) == expected  # no valid images, no empty masks, no OCT2017, no temporary files
    assert not any(file.is_symlink() for file in root.rglob("*"))
    assert contents(source) == before


def test_prepare_finds_bmad_one_level_deeper(tmp_path):
    source = layout.write_bmad(tmp_path / "download" / "bmad").parent
    prepare(tmp_path / "medical", source, QUIET)
    assert len(load_index("uni_medical", tmp_path / "medical")) == 18


def test_prepare_beside_bmad_and_without_it(tmp_path):
    """The source is the root unless given; once all is made, BMAD may be deleted."""
    root = layout.write_bmad(tmp_path / "medical")
    prepare(root, root, QUIET)
    index = load_index("uni_medical", root)
    assert len(index) == 18
    for folder in ("Brain", "Liver_AD", "Retina_RESC", "Retina_OCT2017"):
        shutil.rmtree(root / folder)
    made = contents(root)
    prepare(root, root, QUIET)
    assert contents(root) == made
    shutil.rmtree(root / "liver")
    with pytest.raises(UserError, match=r"no folder of BMAD .* for liver"):
        prepare(root, root, QUIET)


def test_prepare_goes_on_after_an_interruption(tmp_path, monkeypatch):
    source, root = layout.write_bmad(tmp_path / "bmad"), tmp_path / "medical"
    whole = tmp_path / "whole"
    prepare(whole, source, QUIET)
    calls = iter(range(10))

    def check() -> None:
        if next(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(root, source, Work(Console(quiet=True), check, 1))
    assert len(contents(root)) == 5

    def broken(original: Path, target: Path) -> None:
        target.write_bytes(original.read_bytes()[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "copy2", broken)
        with pytest.raises(UserError, match="No space left on device"):
            prepare(root, source, QUIET)
    assert len(contents(root)) == 5  # nothing half-written
    kept = next(root.rglob("*.png"))
    kept.write_bytes(b"mine")
    prepare(root, source, QUIET)
    assert kept.read_bytes() == b"mine"
    name = kept.relative_to(root).as_posix()
    assert {**contents(root), name: ""} == {**contents(whole), name: ""}


def test_prepare_says_what_is_missing(tmp_path):
    source = layout.write_bmad(tmp_path / "bmad")
    shutil.rmtree(source / "Liver_AD/hist_DIY/test/ungood/label")
    with pytest.raises(UserError, match="holds no label or anomaly_mask") as caught:
        prepare(tmp_path / "medical", source, QUIET)
    assert str(source / "Liver_AD/hist_DIY/test/ungood") in str(caught.value)
    assert not (tmp_path / "medical").exists()  # found before anything is copied
    with pytest.raises(UserError, match=r"for brain, liver, retinal, and .* source="):
        prepare(tmp_path / "medical", source / "Brain", QUIET)
    (source / "Brain").rename(tmp_path / "brain")
    shutil.copytree(source / "Retina_RESC", tmp_path / "retinal")
    shutil.copytree(source / "Retina_RESC", tmp_path / "liver")
    with pytest.raises(UserError, match="is BMAD's, and Uni-Medical's are to be made there"):
        prepare(tmp_path, tmp_path, QUIET)
