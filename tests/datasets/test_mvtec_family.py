"""MVTec 3D-AD, MVTec LOCO AD and MVTec AD 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ader.config.options import read_option
from ader.data import load_index
from ader.data.counts import check_counts
from ader.data.index import Index
from ader.data.masks import load_mask
from ader.system.errors import UserError
from tests.layouts import mvtec3d, mvtec_ad2, mvtec_loco

FAMILY = {"mvtec3d": mvtec3d, "mvtec_loco": mvtec_loco, "mvtec_ad2": mvtec_ad2}


def fails(match: str, name: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index(name, root, **options)
    return str(caught.value)


def rows(index: Index, category: str) -> list[tuple]:
    return [(s.image, s.split, s.label, s.masks, s.defect) for s in index if s.category == category]


def test_mvtec3d_samples(tmp_path):
    index = load_index("mvtec3d", mvtec3d.write(tmp_path))
    assert index.categories[0] == "bagel"
    assert rows(index, "bagel") == [
        ("bagel/test/combined/rgb/000.png", "test", 1, ("bagel/test/combined/gt/000.png",), "combined"),
        ("bagel/test/good/rgb/000.png", "test", 0, ("bagel/test/good/gt/000.png",), "good"),
        ("bagel/test/hole/rgb/000.png", "test", 1, ("bagel/test/hole/gt/000.png",), "hole"),
        ("bagel/train/good/rgb/000.png", "train", 0, (), "good"),
        ("bagel/validation/good/rgb/000.png", "validation", 0, (), "good"),
    ]
    assert not mvtec3d.WITHOUT_EMPTY_MASKS.startswith("bagel")
    assert rows(index, "tire")[1] == ("tire/test/good/rgb/000.png", "test", 0, (), "good")


def test_mvtec3d_errors_name_what_is_missing(tmp_path):
    root = mvtec3d.write(tmp_path)
    mask = root / "rope/test/hole/gt/000.png"
    mask.rename(mask.with_name("001.png"))
    assert str(mask.with_name("001.png")) in fails("has no image 001", "mvtec3d", root)
    mask.with_name("001.png").unlink()
    message = fails("is defective and has no mask", "mvtec3d", root)
    assert str(root / "rope/test/hole/rgb/000.png") in message
    assert str(root / "rope/test/hole/gt") in message
    shutil.rmtree(root / "peach/validation")
    assert str(root / "peach/validation/good/rgb") in fails("does not exist", "mvtec3d", root)
    assert len(load_index("mvtec3d", root, ["bagel"])) == 5
    shutil.rmtree(root / "bagel")
    fails("lacks 1 of 10 categories .bagel.", "mvtec3d", root)


def test_loco_samples(tmp_path):
    index = load_index("mvtec_loco", mvtec_loco.write(tmp_path))
    assert index.categories == ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")
    truth = "pushpins/ground_truth"
    both = (f"{truth}/logical_anomalies/000/000.png", f"{truth}/logical_anomalies/000/001.png")
    structural = (f"{truth}/structural_anomalies/000/000.png",)
    expected = [
        ("test/good/000.png", "test", 0, (), "good"),
        ("test/good/001.png", "test", 0, (), "good"),
        ("test/logical_anomalies/000.png", "test", 1, both, "logical_anomalies"),
        ("test/logical_anomalies/001.png", "test", 1, (f"{truth}/logical_anomalies/001/000.png",), "logical_anomalies"),
        ("test/structural_anomalies/000.png", "test", 1, structural, "structural_anomalies"),
        ("train/good/000.png", "train", 0, (), "good"),
        ("train/good/001.png", "train", 0, (), "good"),
        ("validation/good/000.png", "validation", 0, (), "good"),
        ("validation/good/001.png", "validation", 0, (), "good"),
    ]
    assert rows(index, "pushpins") == [(f"pushpins/{image}", *rest) for image, *rest in expected]


def test_loco_masks_are_unions_of_all_positive_values(tmp_path):
    index = load_index("mvtec_loco", mvtec_loco.write(tmp_path), ["screw_bag"])
    files = {s.image.split("/", 2)[2]: [index.path(mask) for mask in s.masks] for s in index if s.label}
    masks = {name: load_mask(paths, (16, 24)) for name, paths in files.items()}
    two = np.zeros((16, 24), np.uint8)
    two[0:4, 0:4] = two[8:16, 10:24] = 1
    assert (masks["logical_anomalies/000.png"] == two).all()
    assert masks["logical_anomalies/001.png"].all()  # a mask without any 0
    low = np.zeros((16, 24), np.uint8)
    low[3:9, 2:12] = 1  # its value is 1 of 255
    assert (masks["structural_anomalies/000.png"] == low).all()


def test_loco_errors_name_what_is_missing(tmp_path):
    root = mvtec_loco.write(tmp_path)
    truth = root / "juice_bottle/ground_truth/logical_anomalies"
    (truth / "001/000.png").unlink()
    message = fails("is defective and has no mask", "mvtec_loco", root)
    assert str(root / "juice_bottle/test/logical_anomalies/001.png") in message
    (truth / "001").rmdir()
    assert str(truth) in fails("001.png is defective and has no mask", "mvtec_loco", root)
    shutil.copytree(truth / "000", truth / "007")
    assert str(truth / "007") in fails("has no image 007", "mvtec_loco", root)
    shutil.rmtree(root / "juice_bottle/test/logical_anomalies")
    assert str(truth) in fails("masks without images", "mvtec_loco", root)
    assert len(load_index("mvtec_loco", root, ["pushpins"])) == 9


def test_ad2_samples(tmp_path):
    index = load_index("mvtec_ad2", mvtec_ad2.write(tmp_path))
    assert index.categories == ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")
    lights = ("overexposed", "regular", "shift_1", "underexposed")
    public, truth = "vial/test_public", "vial/test_public/ground_truth/bad"
    assert rows(index, "vial") == [
        *((f"{public}/bad/000_{x}.png", "test", 1, (f"{truth}/000_{x}_mask.png",), "bad") for x in lights),
        *((f"{public}/good/000_{x}.png", "test", 0, (), "good") for x in lights),
        ("vial/train/good/000_regular.png", "train", 0, (), "good"),
        ("vial/validation/good/000_regular.png", "validation", 0, (), "good"),
    ]
    assert {s.group for s in index} == {None}


def test_ad2_needs_no_private_images(tmp_path):
    root = mvtec_ad2.write(tmp_path)
    whole = load_index("mvtec_ad2", root)
    for folder in root.glob("*/test_private*"):
        shutil.rmtree(folder)
    assert load_index("mvtec_ad2", root) == whole
    shutil.rmtree(root / "rice/validation")
    assert str(root / "rice/validation/good") in fails("does not exist", "mvtec_ad2", root)


@pytest.mark.parametrize("name", FAMILY)
def test_one_more_folder_level(name, tmp_path):
    root = FAMILY[name].write(tmp_path / "archive")
    assert load_index(name, tmp_path) == load_index(name, root)


@pytest.mark.parametrize(("name", "trained"), [("mvtec3d", 2), ("mvtec_loco", 4), ("mvtec_ad2", 1)])
def test_what_is_trained_on(name, trained, tmp_path):
    """3D and LOCO are trained on train and validation, as ADer does; AD 2 is not."""
    config = read_option("dataset", name)
    splits = config.get("train_on", ["train"])
    assert splits == (["train"] if name == "mvtec_ad2" else ["train", "validation"])
    index = load_index(name, FAMILY[name].write(tmp_path), train_on=splits)
    assert {len(index.select([category]).split("train")) for category in index.categories} == {trained}


def sums(name: str) -> list[int]:
    """Over the YAML's categories, the first of alternatives: train, validation, normal test, defective test."""
    keys = ("train_good", "validation_good", "test_good", "test_bad")
    numbers = [[row[key] for key in keys] for row in read_option("dataset", name)["counts"].values()]
    flat = [[number if isinstance(number, int) else number[0] for number in row] for row in numbers]
    return [sum(column) for column in zip(*flat, strict=True)]


def test_published_counts():
    assert sums("mvtec3d") == [2656, 294, 249, 948]
    assert sums("mvtec_loco") == [1778, 305, 575, 993]
    assert sums("mvtec_ad2") == [2528, 302, 379, 705]


@pytest.mark.parametrize(("train", "validation", "right"), [(360, 60, True), (354, 59, True), (355, 60, False)])
def test_splicing_connectors_have_two_published_counts(train, validation, right, tmp_path):
    index = load_index("mvtec_loco", mvtec_loco.write(tmp_path), ["splicing_connectors"])
    wanted = {"train": (train, 0), "validation": (validation, 0), "test": (119, 193)}
    samples = []
    for split, numbers in wanted.items():
        for label, number in enumerate(numbers):
            some = next((s for s in index if (s.split, s.label) == (split, label)), None)
            samples += [some] * number
    counts = read_option("dataset", "mvtec_loco")["counts"]
    if right:
        check_counts(index.with_samples(samples), counts, whole=False)
    else:
        with pytest.raises(UserError, match=r"355 train_good \(published 360 or 354\)"):
            check_counts(index.with_samples(samples), counts, whole=False)
