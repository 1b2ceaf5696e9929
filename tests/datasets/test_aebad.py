"""AeBAD-S and AeBAD-V."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ader.data import load_index
from ader.system.errors import UserError
from tests.layouts import aebad_s, aebad_v


def fails(match: str, name: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index(name, root, **options)
    return str(caught.value)


def test_conditions_are_categories(tmp_path):
    index = load_index("aebad_s", aebad_s.write(tmp_path))
    assert index.categories == ("same", "background", "illumination", "view")
    defects = ("ablation", "breakdown", "fracture", "groove")
    tested = [(f"test/{d}/view/IMG_000.png", 1, (f"ground_truth/{d}/view/IMG_000.png",), d) for d in defects]
    normal = [
        ("test/good/view/IMG_000.png", 0, (), "good"),
        ("train/good/view/IMG_000.png", 0, (), "good"),
        ("train/good/view/IMG_001.png", 0, (), "good"),
    ]
    found = [(s.image, s.label, s.masks, s.defect) for s in index if s.category == "view"]
    assert found == sorted([*tested, *normal])
    assert {(s.category, s.split) for s in index if s.category == "same"} == {("same", "test")}
    assert index.counts() == {"same": (0, 1, 4), **dict.fromkeys(("background", "illumination", "view"), (2, 1, 4))}


@pytest.mark.parametrize("below", ["", "AeBAD", "AeBAD/AeBAD_S"])
def test_aebad_s_is_found_from_three_levels(below, tmp_path):
    root = aebad_s.write(tmp_path)
    assert load_index("aebad_s", root / below).root == root / "AeBAD/AeBAD_S"


def test_aebad_s_errors_name_what_is_missing(tmp_path):
    root = aebad_s.write(tmp_path) / "AeBAD/AeBAD_S"
    mask = root / "ground_truth/fracture/same/IMG_000.png"
    mask.unlink()
    message = fails("is defective and has no mask", "aebad_s", root)
    assert str(root / "test/fracture/same/IMG_000.png") in message
    assert str(mask.parent) in message
    assert load_index("aebad_s", root, ["view", "background"]).categories == ("background", "view")
    shutil.rmtree(root / "train/good/view")
    assert str(root / "train/good/view") in fails("does not exist", "aebad_s", root, categories=["view"])
    shutil.rmtree(root / "test/groove/background")
    assert str(root / "test/groove/background") in fails("does not exist", "aebad_s", root, categories=["background"])
    fails("did you mean 'same'", "aebad_s", root, categories=["sane"])


def test_videos_are_categories(tmp_path):
    index = load_index("aebad_v", aebad_v.write(tmp_path))
    assert index.root == tmp_path / "AeBAD_V"
    assert not index.has_masks
    assert index.counts() == {**dict.fromkeys(("video1", "video2", "video3"), (2, 2, 2)), "video4": (2, 0, 0)}
    assert [(s.image, s.split, s.label, s.masks, s.defect) for s in index if s.category == "video2"] == [
        ("test/video2/anomaly/frame_00000.jpg", "test", 1, (), "anomaly"),
        ("test/video2/anomaly/frame_00001.jpg", "test", 1, (), "anomaly"),
        ("test/video2/good/frame_00000.jpg", "test", 0, (), "good"),
        ("test/video2/good/frame_00001.jpg", "test", 0, (), "good"),
        ("train/good/video2_train/frame_00000.jpg", "train", 0, (), "good"),
        ("train/good/video2_train/frame_00001.jpg", "train", 0, (), "good"),
    ]


@pytest.mark.parametrize("below", ["", "AeBAD", "AeBAD/AeBAD_V"])
def test_aebad_v_is_found_from_three_levels(below, tmp_path):
    aebad_v.write(tmp_path / "AeBAD")
    assert load_index("aebad_v", tmp_path / below).root == tmp_path / "AeBAD/AeBAD_V"


def test_only_the_fourth_video_is_optional(tmp_path):
    root = aebad_v.write(tmp_path) / "AeBAD_V"
    shutil.rmtree(root / "train/good/video4_train")
    assert load_index("aebad_v", root).categories == ("video1", "video2", "video3")
    shutil.rmtree(root / "test/video3")
    assert str(root / "test/video3") in fails("does not exist", "aebad_v", root)
    shutil.rmtree(root / "train/good/video3_train")
    assert "video3" in fails("does not exist", "aebad_v", root)
    shutil.rmtree(root / "train/good/video1_train")
    assert str(root / "train/good/video1_train") in fails("does not exist", "aebad_v", root, categories=["video1"])
    assert load_index("aebad_v", root, ["video2"]).categories == ("video2",)
