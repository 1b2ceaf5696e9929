"""``ader data check``: every kind of fault planted alone in a clean dataset is found, and nothing else is."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ader.__main__ import main
from ader.data import Index, Sample, load_index
from ader.data import audit as module
from ader.data import check as check_module
from ader.data import image as image_module
from ader.data import load as load_module
from ader.data.audit import CHECKS, Finding, audit
from ader.datasets.folder import folder
from ader.system import parallel
from ader.system.interrupt import Interrupt
from ader.testing.toy import write_mvtec

NOTES = {
    *("all-zero among several", "duplicates", "vanishing defects", "masks with soft edges"),
    *("left-out files", "turned by orientation tag"),
}
WRONG = {
    *("counts", "missing files", "unreadable files", "extra files", "mask sizes", "all-zero masks"),
    *("bits of 16-bit images",),
    *("marked normal images", "defects without mask", "test images in training", "conflicting duplicates"),
}


class Desk:
    """A clean dataset, and the command on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.root = write_mvtec(folder / "set")
        self.report = self.cache / "reports" / "data_folder-set.csv"

    def check(self, *words: str) -> int:
        own = ["dataset=folder", f"dataset.root={self.root}", f"paths.cache={self.cache}", "workers=2"]
        return main(["data", "check", *own, *words])

    def rows(self, report: Path | None = None) -> list[tuple[str, str, str]]:
        """The report without its details."""
        return [(row["verdict"], row["check"], row["path"]) for row in self.details(report)]

    def details(self, report: Path | None = None) -> list[dict[str, str]]:
        with (report or self.report).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


def verdicts(out: str) -> dict[str, str]:
    """By check, as printed."""
    table = out[out.index("verdict") :]
    found = {name: re.search(rf"^{name}(?: at \d+x\d+)?  +(-|ok|\d+|note \d+)(?:  |$)", table, re.M) for name in CHECKS}
    return {name: match[1] for name, match in found.items() if match}


def findings(index: Index, **options) -> list[tuple[str, str]]:
    """What is found in an index made by hand: check and path."""
    own = {"whole": False, "image_size": 32, "workers": 1}
    return [(each.check, each.path) for each in audit(index, None, **{**own, **options}).findings]


def paint(path: Path, box: tuple[int, int, int, int] | None, size: tuple[int, int] = (48, 48)) -> str:
    """Writes a mask that marks a box, or nothing; returns its name."""
    mask = Image.new("L", size)
    if box is not None:
        mask.paste(255, box)
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)
    return path.name


# Faults: each changes a clean dataset at ``root``.


def _truncated_image(root: Path) -> None:
    file = root / "bottle/train/good/001.png"
    file.write_bytes(file.read_bytes()[:200])


def _truncated_mask(root: Path) -> None:
    file = root / "cable/ground_truth/hole/000_mask.png"
    file.write_bytes(file.read_bytes()[:60])


def _float_image(root: Path) -> None:
    (root / "bottle/train/good/001.png").unlink()
    Image.fromarray(np.ones((48, 48), np.float32)).save(root / "bottle/train/good/001.tiff")


def _broken_link(root: Path) -> None:
    (root / "cable/test/good/001.png").unlink()
    (root / "cable/test/good/001.png").symlink_to(root / "gone.png")


def _pages(root: Path) -> None:
    images = [Image.new("L", (48, 48), value) for value in (10, 20, 30)]
    images[0].save(root / "bottle/train/good/new.tiff", save_all=True, append_images=images[1:])


def _wrong_checksum(root: Path) -> None:
    file = root / "bottle/train/good/001.png"
    content = file.read_bytes()
    file.write_bytes(content[:-16] + bytes(4) + content[-12:])


def _fifo(root: Path) -> None:
    (root / "cable/test/good/001.png").unlink()
    os.mkfifo(root / "cable/test/good/001.png")


def _left_out(root: Path) -> None:
    for name in ("bottle/train/good/b.npy", "cable/test/hole/a.json", "cable/test/hole/.hidden"):
        (root / name).touch()
    (root / "cable/test/readme.txt").touch()  # not among the images


def _twelve_bits(root: Path) -> None:
    for part in ("train", "test"):
        values = np.random.default_rng(len(part)).integers(0, 4096, (48, 48), np.uint16)
        Image.fromarray(values).save(root / "bottle" / part / "good/new.png")


def _turned(root: Path) -> None:
    tag = Image.Exif()
    tag[274] = 3
    with Image.open(root / "bottle/test/hole/000.png") as image:
        image.rotate(180).save(root / "bottle/test/hole/000.png", exif=tag)


def _turned_by_a_quarter(root: Path) -> None:
    tag = Image.Exif()
    tag[274] = 6
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8)).save(
        root / "bottle/test/hole/001.png", exif=tag
    )
    paint(root / "bottle/ground_truth/hole/001_mask.png", (0, 0, 30, 30), (60, 30))


def _strays(root: Path) -> None:
    for name in ("IMG_1.JPG", "bottle/old/[red]1.bmp", "bottle/deep/er/a.png", ".hidden.png", ".git/a.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not looked into")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX/a.png").touch()
    (root / "readme.txt").touch()


def _loop(root: Path) -> None:
    (root / "cable/more").mkdir()
    (root / "cable/more/up").symlink_to(root / "cable")
    (root / "cable/more/itself").symlink_to(root / "cable/more")


def _linked_category(root: Path) -> None:
    (root / "cable").rename(root.parent / "elsewhere")
    (root / "cable").symlink_to(root.parent / "elsewhere")


def _small_mask(root: Path) -> None:
    paint(root / "bottle/ground_truth/hole/000_mask.png", (0, 0, 30, 30), (48, 47))


def _zero_mask(root: Path) -> None:
    paint(root / "bottle/ground_truth/hole/000_mask.png", None)


def _alpha_mask(root: Path) -> None:
    values = np.zeros((48, 48, 4), np.uint8)
    values[10:30, 10:30, 3] = 255
    Image.fromarray(values).save(root / "bottle/ground_truth/hole/000_mask.png")


def _empty_mask_of_a_normal_image(root: Path) -> None:
    paint(root / "bottle/ground_truth/good/000_mask.png", None)


def _marked_normal(root: Path) -> None:
    paint(root / "bottle/ground_truth/good/000_mask.png", (4, 4, 5, 5))


def _no_mask(root: Path) -> None:
    (root / "cable/ground_truth/scratch/000_mask.png").unlink()


def _leak(root: Path) -> None:
    Image.open(root / "bottle/train/good/002.png").save(root / "bottle/test/good/new.bmp")


def _other_label(root: Path) -> None:
    Image.open(root / "bottle/test/hole/000.png").save(root / "bottle/test/good/new.bmp")


def _other_category(root: Path) -> None:
    shutil.copy(root / "bottle/train/good/000.png", root / "cable/train/good/new.png")


def _twice_in_training(root: Path) -> None:
    Image.open(root / "bottle/train/good/000.png").save(root / "bottle/train/good/new.tiff")


def _twice_in_test(root: Path) -> None:
    shutil.copy(root / "bottle/test/good/000.png", root / "bottle/test/good/new.png")


def _vanishing(root: Path) -> None:
    paint(root / "bottle/ground_truth/hole/000_mask.png", (10, 10, 11, 11))


FAULTS = [
    (_truncated_image, [("unreadable files", "bottle/train/good/001.png")], "truncated or damaged"),
    (_truncated_mask, [("unreadable files", "cable/ground_truth/hole/000_mask.png")], "truncated or damaged"),
    (_float_image, [("unreadable files", "bottle/train/good/001.tiff")], "float pixels, whose range is unknown"),
    (_pages, [("unreadable files", "bottle/train/good/new.tiff")], "has 3 pages or frames"),
    (_wrong_checksum, [("unreadable files", "bottle/train/good/001.png")], "checksum of 'IDAT' at byte 33 is wrong"),
    (_fifo, [("unreadable files", "cable/test/good/001.png")], "is a FIFO, not an image"),
    (
        _left_out,
        [("left-out files", "bottle/train/good/b.npy"), ("left-out files", "cable/test/hole/a.json")],
        "has no image's ending",
    ),
    (_twelve_bits, [("bits of 16-bit images", "")], "'bottle' has no value above 4095 in its 16-bit images"),
    (_turned, [("turned by orientation tag", "bottle/test/hole/000.png")], "has orientation 3, and is turned upright"),
    (
        _turned_by_a_quarter,
        [
            ("mask sizes", "bottle/ground_truth/hole/001_mask.png"),
            ("turned by orientation tag", "bottle/test/hole/001.png"),
        ],
        "turned ",
    ),
    (_broken_link, [("missing files", "cable/test/good/001.png")], "does not exist"),
    (
        _strays,
        [("extra files", name) for name in ("IMG_1.JPG", "bottle/deep/er/a.png", "bottle/old/[red]1.bmp")],
        "belongs to no sample",
    ),
    (_loop, [], ""),
    (_linked_category, [], ""),
    (
        _small_mask,
        [("mask sizes", "bottle/ground_truth/hole/000_mask.png")],
        "is 48x47 pixels but its image bottle/test/hole/000.png is 48x48",
    ),
    (
        _zero_mask,
        [("all-zero masks", "bottle/ground_truth/hole/000_mask.png")],
        "bottle/test/hole/000.png is defective",
    ),
    (_alpha_mask, [("all-zero masks", "bottle/ground_truth/hole/000_mask.png")], "is all zero"),
    (_empty_mask_of_a_normal_image, [], ""),
    (
        _marked_normal,
        [("marked normal images", "bottle/ground_truth/good/000_mask.png")],
        "marks a defect but its image bottle/test/good/000.png is normal",
    ),
    (_no_mask, [("defects without mask", "cable/test/scratch/000.png")], "has no mask"),
    (_leak, [("test images in training", "bottle/test/good/new.bmp")], "bottle/train/good/002.png (bottle, good)"),
    (_other_label, [("conflicting duplicates", "bottle/test/hole/000.png")], "bottle/test/good/new.bmp (bottle, good)"),
    (_other_category, [("conflicting duplicates", "cable/train/good/new.png")], "bottle/train/good/000.png (bottle"),
    (_twice_in_training, [("duplicates", "bottle/train/good/new.tiff")], "bottle/train/good/000.png"),
    (_twice_in_test, [("duplicates", "bottle/test/good/new.png")], "bottle/test/good/000.png"),
    (
        _vanishing,
        [("vanishing defects", "bottle/test/hole/000.png")],
        "bottle/ground_truth/hole/000_mask.png marks, but not at 32x32 pixels",
    ),
]


@pytest.mark.parametrize(("plant", "expected", "detail"), FAULTS, ids=[plant.__name__ for plant, _, _ in FAULTS])
def test_a_fault_is_found_and_nothing_else(desk, capsys, plant, expected, detail):
    assert desk.check("image_size=32") == 0
    assert desk.rows() == []
    plant(desk.root)
    capsys.readouterr()
    status = desk.check("image_size=32")
    captured = capsys.readouterr()
    assert desk.rows() == [("note" if check in NOTES else "wrong", check, path) for check, path in expected]
    assert all(detail in row["detail"] for row in desk.details())
    wrong = [path for check, path in expected if check in WRONG]
    assert status == (2 if wrong else 0)
    assert captured.err.count("\n") == bool(wrong)
    found = Counter(check for check, _ in expected)
    for check, verdict in verdicts(captured.out).items():
        many = f"note {found[check]}" if check in NOTES else str(found[check])
        assert verdict == (many if check in found else "-" if check in ("counts", "all-zero among several") else "ok")
    assert all(path in captured.out for _, path in expected)
    assert (f"report   {desk.report}" in captured.out) == bool(expected)


def test_a_clean_set(desk, capsys):
    assert desk.check() == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    first, second, third, *_ = captured.out.splitlines()
    assert first == "dataset  folder-set"
    assert second == f"         {desk.root}"
    assert third == "images   2 categories: 8 training, 4 normal and 4 defective test images"
    table = [line.split() for line in captured.out.splitlines()]
    assert ["category", "train", "good", "defects", "masks", "image", "sizes"] in table
    assert ["bottle", "4", "2", "2", "2", "48x48"] in table
    assert ["all", "8", "4", "4", "4", "48x48"] in table
    assert verdicts(captured.out) == {
        check: "-" if check in ("counts", "all-zero among several") else "ok" for check in CHECKS
    }
    assert "\x1b" not in captured.out
    assert "report" not in captured.out
    assert desk.report.read_text() == "verdict,check,path,detail\n"


def test_all_faults_are_counted_in_one_line(desk, capsys):
    _truncated_image(desk.root)
    _broken_link(desk.root)
    for number in range(5):
        (desk.root / f"{number}.png").touch()
    _twice_in_training(desk.root)
    assert desk.check() == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"ader: error: dataset 'folder-set' at {desk.root}: 7 things are wrong (missing files 1, unreadable files 1, "
        f"extra files 5): see {desk.report}\n"
    )
    assert "2.png" in captured.out
    assert "3.png" not in captured.out
    assert "and 2 more" in captured.out
    assert len(desk.rows()) == 8
    assert [check for _, check, _ in desk.rows()] == [
        "missing files",
        "unreadable files",
        *["extra files"] * 5,
        "duplicates",
    ]


def test_sizes_of_a_category(desk, capsys):
    """The smallest and the largest by area; their masks have their sizes."""
    Image.new("RGB", (100, 20)).save(desk.root / "bottle/train/good/a.png")
    Image.new("RGB", (60, 50)).save(desk.root / "bottle/train/good/b.png")
    assert desk.check() == 0
    rows = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert ["bottle", "6", "2", "2", "2", "100x20 to 60x50"] in rows
    assert ["cable", "4", "2", "2", "2", "48x48"] in rows
    assert ["all", "10", "4", "4", "4", "100x20 to 60x50"] in rows


# Counts.

COUNTS = "dataset.counts={bottle:[4,2,2],cable:[5,2,2]}"


def test_counts_are_compared_with_the_stated_ones(desk, capsys):
    assert desk.check(COUNTS) == 2
    out, error = capsys.readouterr()
    assert error.endswith(f": 1 thing is wrong (counts 1): see {desk.report}\n")
    assert desk.rows() == [("wrong", "counts", "")]
    (row,) = desk.details()
    assert row["detail"] == "cable has 4 train_good (published 5)"
    assert row["detail"] in out
    assert verdicts(out)["counts"] == "1"
    assert desk.check(COUNTS, "dataset.check_counts=false") == 0
    assert verdicts(capsys.readouterr().out)["counts"] == "-"
    assert desk.check(COUNTS, "dataset.categories=[bottle]") == 0
    assert verdicts(capsys.readouterr().out)["counts"] == "ok"


def test_totals_are_compared_for_all_categories_only(desk, capsys):
    assert desk.check("dataset.counts={total:[8,4,5]}") == 2
    assert verdicts(capsys.readouterr().out)["counts"] == "1"
    assert desk.check("dataset.counts={total:[8,4,5]}", "dataset.categories=[bottle]") == 0
    assert verdicts(capsys.readouterr().out)["counts"] == "-"


def test_splits_are_not_joined(desk, capsys, monkeypatch):
    """A run on both would count validation images as training images."""

    def reader(root: Path, categories: list[str] | None = None) -> Index:
        index = folder(root, categories)
        return index.with_samples(replace(s, split="validation") if "/003" in s.image else s for s in index)

    monkeypatch.setattr(load_module, "find_reader", lambda name: reader)
    row = "{train_good:3,validation_good:1,test_good:2,test_bad:2}"
    words = [f"dataset.counts={{bottle:{row},cable:{row}}}", "+dataset.train_on=[train,validation]"]
    assert desk.check(*words) == 0
    out = capsys.readouterr().out
    assert verdicts(out)["counts"] == "ok"
    table = [line.split() for line in out.splitlines()]
    assert ["category", "train", "validation", "good", "defects", "masks", "image", "sizes"] in table
    assert ["bottle", "3", "1", "2", "2", "2", "48x48"] in table


def test_a_copy_in_another_training_split_is_a_leak(desk):
    index = load_index("folder", desk.root)
    samples = [replace(s, split="validation") if s.split == "train" else s for s in index]
    twin = replace(samples[0], image="bottle/test/good/000.png", split="validation")
    assert findings(index.with_samples([*samples, twin])) == [("test images in training", "bottle/test/good/000.png")]


def test_training_defects_have_a_column(desk):
    index = load_index("folder", desk.root)
    moved = index.with_samples(replace(s, split="train") if s.defect == "hole" else s for s in index)
    numbers = audit(moved, None, whole=True, image_size=48, workers=1).numbers()
    one = {"train": 4, "training defects": 1, "test good": 2, "test defects": 1, "masks": 2}
    assert numbers == {"bottle": one, "cable": one}


# What does not apply.


def test_a_selection_has_no_extra_files(desk, capsys):
    _strays(desk.root)
    assert desk.check("dataset.categories=[bottle]") == 0
    assert verdicts(capsys.readouterr().out)["extra files"] == "-"
    assert desk.rows() == []


def test_a_dataset_without_masks(desk, capsys):
    for category in ("bottle", "cable"):
        shutil.rmtree(desk.root / category / "ground_truth")
    assert desk.check() == 0
    none = {"counts", "mask sizes", "all-zero masks", "all-zero among several", "marked normal images"}
    none |= {"defects without mask", "vanishing defects", "masks with soft edges"}
    out = capsys.readouterr().out
    assert verdicts(out) == {check: "-" if check in none else "ok" for check in CHECKS}
    assert "masks" not in next(line for line in out.splitlines() if line.startswith("category"))


def test_exceptions_admit_extra_files_and_defects_without_mask(desk):
    _no_mask(desk.root)
    _strays(desk.root)
    index = load_index("folder", desk.root)
    stray = [("extra files", "IMG_1.JPG"), ("extra files", "bottle/deep/er/a.png")]
    red, bare = ("extra files", "bottle/old/[red]1.bmp"), ("defects without mask", "cable/test/scratch/000.png")
    assert findings(index, whole=True) == [*stray, red, bare]

    def left(*patterns: str) -> list[tuple[str, str]]:
        return findings(replace(index, exceptions=patterns), whole=True)

    assert left("cable/test/*/000.png") == [*stray, red]
    assert left("bottle/old/*", "nothing") == [*stray, bare]
    assert left("bottle/*") == [stray[0], bare]
    assert left("*.jpg", "img_1*", "MG_1.JPG", "IMG_1") == [*stray, red, bare]  # whole paths, and case counts
    assert left("*") == []


def test_exceptions_admit_nothing_else(desk):
    _truncated_image(desk.root)
    _zero_mask(desk.root)  # admitted: some releases have empty masks
    _leak(desk.root)
    index = replace(load_index("folder", desk.root), exceptions=("*",))
    assert [check for check, _ in findings(index)] == ["unreadable files", "test images in training"]


# Several masks of an image.


@pytest.fixture
def several(desk) -> Index:
    """A normal and a defective image with two masks each."""
    Image.new("RGB", (48, 48), "red").save(desk.folder / "good.png")
    Image.new("RGB", (48, 48), "blue").save(desk.folder / "bad.png")
    for name in ("a", "b"):
        paint(desk.folder / f"{name}.png", (10, 10, 20, 20))
        paint(desk.folder / f"{name}0.png", None)
    samples = (
        Sample("good.png", "one", "test", 0, ("a0.png", "b0.png")),
        Sample("bad.png", "one", "test", 1, ("a.png", "b.png"), "bad"),
    )
    return Index("made-up", desk.folder, samples)


def test_several_masks(several):
    assert findings(several) == []
    assert [check_module.problems_of(several, sample) for sample in several] == [[], []]
    paint(several.root / "b.png", None)
    assert findings(several) == [("all-zero among several", "b.png")]
    paint(several.root / "a.png", None)
    assert findings(several) == [("all-zero masks", "a.png"), ("all-zero masks", "b.png")]
    (several.root / "b.png").unlink()  # what it marked is not known
    assert findings(several) == [("missing files", "b.png")]


def test_one_of_several_masks_of_another_size(several):
    paint(several.root / "b.png", (0, 0, 20, 20), (47, 48))
    assert findings(several) == [("mask sizes", "b.png")]


def test_one_of_several_masks_of_a_normal_image(several):
    paint(several.root / "b0.png", (0, 0, 20, 20))
    assert findings(several) == [("marked normal images", "b0.png")]


def test_several_masks_vanish_together_only(several):
    """What one mask marks is too small for 32x32 pixels, and with what the other one marks beside it it is not."""
    paint(several.root / "a.png", (10, 10, 11, 12))
    paint(several.root / "b.png", (30, 30, 31, 31))
    assert findings(several) == [("vanishing defects", "bad.png")]
    paint(several.root / "b.png", (11, 10, 12, 12))  # beside it
    assert findings(several) == []
    assert findings(several, image_size=48) == []


def test_a_file_of_several_samples_is_named_once(several):
    """And one in training and test is a leak."""
    good, bad = several.samples
    assert findings(several.with_samples([good, replace(good, split="train"), bad])) == [
        ("test images in training", "good.png")
    ]
    (several.root / "a.png").unlink()
    assert findings(several.with_samples([bad, replace(bad, image="good.png")])) == [("missing files", "a.png")]


def test_many_equal_images(several):
    """Each is named once, with a twin that contradicts it where there is one."""
    good = replace(several.samples[0], masks=())
    samples = [good, good, replace(good, category="two"), good]
    index = replace(several, samples=tuple(samples), categories=("one", "two"))
    found = audit(index, None, whole=False, image_size=32, workers=1).findings
    assert [(each.check, each.detail) for each in found] == [
        ("conflicting duplicates", "has the pixels of good.png (one, good)"),
        ("conflicting duplicates", "has the pixels of good.png (two, good)"),
        ("duplicates", "has the pixels of good.png (one, good)"),
    ]


def test_size_counts_for_equality(several):
    """The same bytes of pixels in another shape are another image."""
    for name, size in (("x.png", (24, 96)), ("y.png", (96, 24))):
        Image.new("RGB", size, "green").save(several.root / name)
    one = Sample("x.png", "one", "train", 0)
    assert findings(several.with_samples([one, replace(one, image="y.png", split="test")])) == []


# Work.


def test_every_image_is_decoded_once_and_forgotten(desk, monkeypatch):
    opened, references, alive, steps = [], [], [], []
    decode, original = image_module.decode, module.look_at

    def look_at(index: Index, sample: Sample, **options: Any) -> check_module.Look:
        look = original(index, sample, **options)
        references.append(weakref.ref(look.image))
        alive.append(sum(reference() is not None for reference in references))
        return look

    monkeypatch.setattr(image_module, "decode", lambda path, *rest: opened.append(path) or decode(path, *rest))
    monkeypatch.setattr(module, "look_at", look_at)
    index = load_index("folder", desk.root)
    audit(index, None, whole=True, image_size=32, workers=1, step=lambda: steps.append(0))
    images = [index.path(sample.image) for sample in index]
    assert sorted(path for path in opened if path in images) == sorted(images)
    assert len(alive) == len(steps) == 16
    assert max(alive) <= 2


@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interrupt_ends_it_at_once(desk, capsys, monkeypatch, swallowed):
    """Also a signal whose exception is lost because it comes in a destructor; the report of before stays."""
    if swallowed:
        monkeypatch.setattr(Interrupt, "_take", lambda self, number, frame: setattr(self, "name", "SIGINT"))
    _truncated_image(desk.root)
    assert desk.check() == 2
    before = desk.report.read_bytes()
    _loop(desk.root)
    write_mvtec(desk.root, ["many"], train=60)
    capsys.readouterr()
    looked, original = [], module.look_at

    def look_at(index: Index, sample: Sample, **options: Any) -> check_module.Look:
        looked.append(sample.image)
        if len(looked) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(index, sample, **options)

    monkeypatch.setattr(module, "look_at", look_at)
    handler = signal.getsignal(signal.SIGINT)
    assert desk.check("workers=1") == 1
    assert capsys.readouterr().err.startswith("ader: stopped by SIGINT while checking files")
    assert len(looked) < 20
    assert desk.report.read_bytes() == before
    assert signal.getsignal(signal.SIGINT) is handler


def test_what_a_step_raises_ends_it_at_once(desk, monkeypatch):
    """Samples that wait for a thread are not decoded first, and the threads have ended."""
    release, looked = threading.Event(), []

    def look_at(index: Index, sample: Sample, **options: Any) -> check_module.Look:
        looked.append(sample.image)
        if len(looked) > 1:
            release.wait(10)
        return check_module.Look()

    def step() -> None:
        threading.Timer(0.3, release.set).start()
        raise ZeroDivisionError

    monkeypatch.setattr(module, "look_at", look_at)
    with pytest.raises(ZeroDivisionError) as caught:
        audit(load_index("folder", desk.root), None, whole=True, image_size=32, workers=1, step=step)
    assert caught.tb is not None  # and whoever holds it does not hold the threads with it
    assert len(looked) <= 2
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("audit")]


@pytest.mark.parametrize(("workers", "threads"), [("3", 3), ("0", 1)])
def test_workers(desk, monkeypatch, workers, threads):
    asked, pool = [], parallel.ThreadPoolExecutor
    monkeypatch.setattr(parallel, "ThreadPoolExecutor", lambda most, **words: asked.append(most) or pool(most, **words))
    assert desk.check(f"workers={workers}") == 0
    assert set(asked) == {threads}


# The report.


def test_the_report_goes_where_it_is_asked_for(desk, capsys):
    _strays(desk.root)
    report = desk.folder / "new" / "my report.csv"
    assert desk.check(f"report={report}") == 2
    captured = capsys.readouterr()
    assert f"report   {report}\n" in captured.out
    assert captured.err.endswith(f": see {report}\n")
    assert len(desk.rows(report)) == 3
    assert not desk.report.exists()


def test_a_label_names_the_report(desk):
    assert desk.check("+dataset.label=mine") == 0
    assert (desk.cache / "reports" / "data_mine.csv").exists()
    assert desk.check("+dataset.label=a/b") == 2


def test_the_report_of_ones_home(desk, monkeypatch):
    monkeypatch.setenv("HOME", str(desk.folder))
    monkeypatch.chdir(desk.root)
    assert desk.check("report=~/mine.csv") == desk.check("paths.cache=~/other") == 0
    assert desk.rows(desk.folder / "mine.csv") == desk.rows(desk.folder / "other" / "reports" / desk.report.name) == []


def test_an_old_report_does_not_outlive_what_it_names(desk):
    _no_mask(desk.root)
    assert desk.check() == 2
    assert len(desk.rows()) == 1
    write_mvtec(desk.root)
    assert desk.check() == 0
    assert desk.rows() == []


@pytest.mark.parametrize(("place", "why"), [("set", "it is a folder"), ("set/bottle/test/good/000.png/x.csv", "")])
def test_a_report_that_cannot_be_written_is_said_first(desk, capsys, monkeypatch, place, why):
    monkeypatch.setattr(module, "look_at", lambda *arguments, **options: pytest.fail("looked at files first"))
    assert desk.check(f"report={desk.folder / place}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ader: error: report {desk.folder / place} cannot be written ({why}")
    assert "give report=FILE.csv" in error


def test_names_that_are_not_unicode(desk, capsys):
    try:
        Path(os.fsdecode(os.fsencode(desk.root) + b"/b\xff.png")).touch()
    except OSError:
        pytest.skip("this file system has Unicode names only")
    assert desk.check() == 2
    assert desk.rows() == [("wrong", "extra files", "b\\udcff.png")]
    assert "b\\udcff.png" in capsys.readouterr().out


def test_what_is_wrong_and_what_is_noted():
    assert {check for check in CHECKS if Finding(check, "a.png", "").verdict == "note"} == NOTES
    assert {check for check in CHECKS if Finding(check, "a.png", "").verdict == "wrong"} == WRONG


# The command line.


def test_a_layout_that_the_reader_refuses(desk, capsys):
    shutil.rmtree(desk.root / "bottle/train/good")
    (desk.root / "bottle/train/good").mkdir()
    assert desk.check() == 2
    captured = capsys.readouterr()
    assert "category 'bottle' has no training images" in captured.err
    assert captured.out == ""
    assert not desk.report.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imag_size=32"], "imag_size=32: there is no key 'imag_size': did you mean 'image_size'"),
        (["+foo=1"], "there is no key foo: choose from: dataset, image_size"),
        (["image_size=7"], "image_size=7 does not fit"),
        (["workers=-1"], "workers=-1 does not fit"),
        (["dataset.rot=x"], "did you mean 'dataset.root'"),
        (["dataset=foldr"], "dataset=foldr does not exist: did you mean 'folder'"),
        (["metric=exact"], "there is no key 'metric'"),
        (["source=x"], "source is a key of ader data prepare"),
        (["+dataset.foo=1"], "dataset.foo is not known to folder"),
    ],
)
def test_bad_keys(desk, capsys, words, message):
    assert desk.check(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not desk.cache.exists()


def test_the_name_alone_will_do(capsys, tmp_path):
    for command in ("check", "prepare"):
        assert main(["data", command, "mvtec", "--cfg"]) == 0
        assert "name: mvtec" in capsys.readouterr().out
    assert main(["data", "prepare", "mvtek"]) == 2
    assert "did you mean 'mvtec'" in capsys.readouterr().err


def test_bad_commands(capsys):
    for words, message in (([], "ader data: choose from"), (["chek"], "ader data chek: did you mean 'check'")):
        assert main(["data", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["data", "check"]) == 2
    assert "dataset is not given: add dataset=NAME" in capsys.readouterr().err
    assert main(["data", "check", "dataset=folder"]) == 2
    assert "dataset.root is not given" in capsys.readouterr().err


def test_help(capsys):
    assert main(["help"]) == 0
    out = capsys.readouterr().out
    assert "ader data check dataset=NAME" in out
    assert "ader data --help" in out
    for words in (["--help"], ["check", "-h"], ["check", "dataset=demo", "--help"]):
        assert main(["data", *words]) == 0
        assert capsys.readouterr().out.startswith("ader data check dataset=NAME")


def test_help_imports_nothing_heavy():
    heavy = "torch hydra omegaconf pandas numpy rich pydantic PIL"
    code = (
        "import sys; from ader.__main__ import main; main(['data', '-h']); "
        f"print('HEAVY', [name for name in '{heavy}'.split() if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in result.stdout


def test_the_composed_configuration(desk, capsys):
    assert desk.check("image_size=64", "--cfg") == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["image_size"] == 64
    assert values["dataset"]["root"] == str(desk.root)
    assert not desk.cache.exists()


def test_a_generated_dataset(tmp_path, capsys):
    """The demo set is made by its reader, and nothing is wrong with it."""
    words = ["dataset=demo", f"paths.data={tmp_path}", f"paths.cache={tmp_path / 'cache'}", "dataset.size=64"]
    words += ["dataset.train=2", "dataset.test_good=1", "dataset.per_defect=1", "dataset.categories=[metal,bolt]"]
    assert main(["data", "check", *words]) == 0
    assert "dataset  demo" in capsys.readouterr().out
