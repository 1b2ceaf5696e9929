"""The check before training: all bad files are found at once, and a good dataset is decoded once only."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ader.data import Index, Sample, load_index
from ader.data import check as module
from ader.data.check import check_files
from ader.data.masks import MaskRule
from ader.system.errors import UserError
from ader.testing.toy import write_mvtec


@pytest.fixture
def index(tmp_path) -> Index:
    return load_index("folder", write_mvtec(tmp_path / "set"))


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The images that the check decodes, in any order."""
    seen, original = [], module.problems_of

    def spy(index: Index, sample: Sample, decoded: bool, *rule: MaskRule) -> list[str]:
        if not decoded:
            seen.append(sample.image)
        return original(index, sample, decoded, *rule)

    monkeypatch.setattr(module, "problems_of", spy)
    return seen


def report_of(error: UserError) -> list[str]:
    path = Path(str(error).rsplit("full list: ", 1)[1].rstrip(")"))
    return path.read_text().splitlines()


def test_a_good_dataset_is_decoded_once(index, tmp_path, decoded):
    steps = []
    check_files(index, tmp_path / "cache", 2, lambda done, total: steps.append((done, total)))
    assert sorted(decoded) == sorted(sample.image for sample in index)
    assert steps == [(done, 16) for done in range(1, 17)]
    check_files(index, tmp_path / "cache", 2)
    assert len(decoded) == 16
    check_files(index, tmp_path / "another cache", 0)
    assert len(decoded) == 32


def test_what_the_cache_has_is_not_decoded_again(index, tmp_path, decoded):
    whole = {sample.image for sample in index} - {"bottle/train/good/000.png"}
    Image.new("L", (48, 47), 255).save(index.root / "cable/ground_truth/scratch/000_mask.png")
    with pytest.raises(UserError, match=r"48x47 pixels but its image cable/test/scratch/000\.png is 48x48"):
        check_files(index, tmp_path / "cache", 2, decoded=whole)
    assert decoded == ["bottle/train/good/000.png"]


def test_a_changed_file_is_checked_again(index, tmp_path, decoded):
    check_files(index, tmp_path / "cache", 1)
    mask = next(index.path(sample.masks[0]) for sample in index if sample.masks)
    stat = mask.stat()
    os.utime(mask, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    check_files(index, tmp_path / "cache", 1)
    assert len(decoded) == 32


def test_a_selection_has_its_own_stamp(index, tmp_path, decoded):
    check_files(index.select(["bottle"]), tmp_path / "cache", 1)
    check_files(index, tmp_path / "cache", 1)
    assert len(decoded) == 8 + 16


def test_relabeled_samples_are_checked_again(index, tmp_path):
    check_files(index, tmp_path / "cache", 1)
    samples = tuple(replace(sample, label=0, defect="good") for sample in index)
    with pytest.raises(UserError, match="marks a defect but its image"):
        check_files(replace(index, samples=samples), tmp_path / "cache", 1)


def test_all_problems_are_listed_together(index, tmp_path):
    root = index.root
    (root / "bottle/train/good/000.png").unlink()
    cut = root / "bottle/train/good/001.png"
    cut.write_bytes(cut.read_bytes()[:200])
    (root / "cable/test/good/000.png").write_bytes(b"")
    Image.new("L", (48, 48)).save(root / "cable/ground_truth/hole/000_mask.png")
    Image.new("L", (48, 47), 255).save(root / "cable/ground_truth/scratch/000_mask.png")
    with pytest.raises(UserError) as caught:
        check_files(index, tmp_path / "cache", 2)
    message, (first, *listed) = str(caught.value), report_of(caught.value)
    assert "5 bad files" in message
    assert "\n" not in message
    assert sum(line in message for line in report_of(caught.value)[1:]) == 3  # the first three are shown
    assert str(tmp_path / "cache") in message
    assert first == str(root)
    assert sorted(line.split(" ")[0] for line in listed) == [
        "bottle/train/good/000.png",
        "bottle/train/good/001.png",
        "cable/ground_truth/hole/000_mask.png",
        "cable/ground_truth/scratch/000_mask.png",
        "cable/test/good/000.png",
    ]
    text = "\n".join(listed)
    for reason in ("does not exist", "truncated", "empty (0 bytes)", "all zero", "48x47 pixels but its image"):
        assert reason in text


def test_empty_masks_of_the_release_are_accepted(index, tmp_path):
    Image.new("L", (48, 48)).save(index.root / "cable/ground_truth/hole/000_mask.png")
    check_files(replace(index, exceptions=("cable/test/h*.png",)), tmp_path / "cache", 1)
    with pytest.raises(UserError, match="all zero"):
        check_files(replace(index, exceptions=("cable/test/x*.png", "bottle/*")), tmp_path / "cache 2", 1)


def test_a_failed_check_leaves_no_stamp(index, tmp_path):
    image = index.root / "bottle/train/good/001.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 bad file: bottle/train/good/001.png"):
            check_files(index, tmp_path / "cache", 1)
    image.write_bytes(whole)
    check_files(index, tmp_path / "cache", 1)


def test_mask_with_an_opaque_alpha_is_judged_by_its_colors(index, tmp_path):
    path = index.root / "bottle/ground_truth/hole/000_mask.png"
    values = np.zeros((48, 48, 4), np.uint8)
    values[..., 3] = 255
    Image.fromarray(values).save(path)
    with pytest.raises(UserError, match="all zero"):
        check_files(index, tmp_path / "cache", 1)


def test_an_interrupt_stops_at_once(index, tmp_path, monkeypatch):
    """Ctrl-C while 16 files wait must not decode them all first."""
    release, started = threading.Event(), []

    def slow(index: Index, sample: Sample, decoded: bool, *rule: MaskRule) -> list[str]:
        started.append(sample.image)
        if len(started) > 1:
            release.wait(10)
        return []

    def interrupt(done: int, total: int) -> None:
        threading.Timer(0.05, release.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "problems_of", slow)
    with pytest.raises(KeyboardInterrupt):
        check_files(index, tmp_path / "cache", 1, interrupt)
    assert len(started) <= 3
    assert not list((tmp_path / "cache").rglob("*.json"))
