"""VisA: the raw layout through its lists, the converted layouts, and the conversion."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ader.config.options import read_option
from ader.data import load_index
from ader.data.masks import load_mask
from ader.datasets._preparing import Work
from ader.datasets.visa import CATEGORIES, prepare
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.interrupt import Stopped
from ader.testing.dataset_checks import check_dataset
from tests.layouts import visa as layout

SPLITS = ("1cls", "2cls_fewshot", "2cls_highshot")
IMAGES, MASKS = "capsules/Data/Images", "capsules/Data/Masks/Anomaly"


@pytest.fixture
def raw(tmp_path) -> Path:
    return layout.write(tmp_path / "raw")


def fails(match: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index("visa", root, **options)
    return str(caught.value)


def rows(root: Path, split: str, category: str) -> list[tuple]:
    index = load_index("visa", root, [category], split=split)
    return [(s.image, s.split, s.label, s.masks, s.defect) for s in index]


def work(check=lambda: None, workers: int = 2) -> Work:
    return Work(Console(quiet=True), check, workers)


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_stems_shared_by_normal_and_anomalous_images_do_not_mix(raw):
    assert rows(raw, "1cls", "capsules") == [
        (f"{IMAGES}/Anomaly/000.JPG", "test", 1, (f"{MASKS}/000.png",), "bad"),
        (f"{IMAGES}/Anomaly/001.JPG", "test", 1, (f"{MASKS}/001.png",), "bad"),
        (f"{IMAGES}/Normal/000.JPG", "test", 0, (), "good"),
        (f"{IMAGES}/Normal/001.JPG", "train", 0, (), "good"),
        (f"{IMAGES}/Normal/002.JPG", "train", 0, (), "good"),
    ]


def test_two_class_splits_train_on_defects_with_masks(raw):
    assert rows(raw, "2cls_fewshot", "capsules") == [
        (f"{IMAGES}/Anomaly/000.JPG", "test", 1, (f"{MASKS}/000.png",), "bad"),
        (f"{IMAGES}/Anomaly/001.JPG", "train", 1, (f"{MASKS}/001.png",), "bad"),
        (f"{IMAGES}/Normal/000.JPG", "test", 0, (), "good"),
        (f"{IMAGES}/Normal/001.JPG", "test", 0, (), "good"),
        (f"{IMAGES}/Normal/002.JPG", "train", 0, (), "good"),
    ]
    tally = load_index("visa", raw, ["candle"], split="2cls_highshot").tally()["candle"]
    assert tally == {"train_good": 2, "train_bad": 1, "test_good": 1, "test_bad": 1}


def test_names_with_four_digits(raw):
    assert "candle/Data/Images/Normal/0002.JPG" in [row[0] for row in rows(raw, "1cls", "candle")]


def test_masks_of_class_ids_are_not_empty(raw):
    mask = raw / "pcb1/Data/Masks/Anomaly/000.png"
    assert set(np.unique(np.asarray(Image.open(mask)))) == {0, 1}
    assert load_mask([mask], (20, 24)).sum() == 100


def test_order_and_categories(raw):
    assert load_index("visa", raw).categories == CATEGORIES
    assert CATEGORIES[0] == "pcb1"
    assert len(CATEGORIES) == 12
    assert load_index("visa", raw, ["fryum", "pcb4"]).categories == ("pcb4", "fryum")
    shutil.rmtree(raw / "cashew")
    assert "(cashew)" in fails("lacks 1 of 12 categories", raw)
    assert "cashew" not in load_index("visa", raw, [name for name in CATEGORIES if name != "cashew"]).categories


def test_one_more_level_and_a_byte_order_mark(raw):
    expected = load_index("visa", raw)
    file = raw / "split_csv/1cls.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    index = load_index("visa", raw.parent)
    assert index.root == raw
    assert index.samples == expected.samples


def test_roots_without_either_layout_name_both_paths(tmp_path):
    message = fails("does not hold", tmp_path, split="2cls_fewshot")
    assert "split_csv/2cls_fewshot.csv" in message
    assert "2cls_fewshot/candle/train/good" in message
    fails("does not exist", tmp_path / "gone")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("candles,train,normal,a.JPG,", "unknown object 'candles'"),
        ("candle,val,normal,a.JPG,", "unknown split 'val'"),
        ("candle,train,good,a.JPG,", "unknown label 'good'"),
        ("candle,train,normal,a.JPG,a.png", "the normal image a.JPG has a mask"),
        ("candle,test,anomaly,a.JPG,", "the anomalous image a.JPG has no mask"),
        ("candle,train,normal,a.JPG", "4 columns where 5"),
        ("candle,train,normal,../a.JPG,", "'../a.JPG' is no path below"),
        ("candle,test,anomaly,a.JPG,/a.png", "'/a.png' is no path below"),
        (f"capsules,train,normal,{IMAGES}/Normal/000.JPG,", "000.JPG is listed a second time"),
    ],
)
def test_bad_rows_are_named(raw, row, problem):
    file = raw / "split_csv/1cls.csv"
    file.write_bytes(file.read_bytes() + f"{row}\r\n".encode())
    assert problem in fails(r"1cls\.csv, line 62: ", raw)  # a header and five images of twelve objects come first


def test_a_wrong_header_is_an_error(raw):
    file = raw / "split_csv/1cls.csv"
    file.write_text("image,label,mask\n")
    assert str(file) in fails("begins with 'image,label,mask'", raw)
    file.write_bytes(b"\xff\xfe")
    fails("cannot be read", raw)


def test_anomalibs_copy_inside_is_no_news(raw):
    index = load_index("visa", raw)
    assert set(index.exceptions) == {"visa_pytorch/*", "VisA_pytorch/*"}


def test_conversion_has_the_official_layout(raw, tmp_path):
    target = tmp_path / "converted"
    prepare(target, raw, work())
    made = files(target)
    for split, place in (("1cls", "ground_truth/bad"), ("2cls_highshot", "ground_truth/test/bad")):
        assert made[f"{split}/capsules/test/bad/000.JPG"] == (raw / IMAGES / "Anomaly/000.JPG").read_bytes()
        mask = np.asarray(Image.open(target / split / "capsules" / place / "000.png"))
        assert set(np.unique(mask)) == {0, 255}
        assert (mask > 0).sum() == 100
    assert "2cls_fewshot/capsules/train/bad/001.JPG" in made
    assert "2cls_fewshot/capsules/ground_truth/train/bad/001.png" in made
    assert not any("/train/bad/" in name for name in made if name.startswith("1cls"))
    assert len(made) == len(SPLITS) * len(CATEGORIES) * (5 + 2)
    assert not [name for name in made if ".tmp" in name]


@pytest.mark.parametrize("split", SPLITS)
def test_converted_copies_say_what_the_list_says(raw, tmp_path, split):
    prepare(tmp_path / "VisA_pytorch", raw, work())
    read = [load_index("visa", root, split=split) for root in (raw, tmp_path / "VisA_pytorch")]
    plain = [[(s.category, s.split, s.label, s.defect, bool(s.masks), Path(s.image).name) for s in i] for i in read]
    assert sorted(plain[0]) == sorted(plain[1])
    assert read[1].root == tmp_path / "VisA_pytorch" / split
    assert read[1].categories == CATEGORIES
    check_dataset(lambda: load_index("visa", tmp_path / "VisA_pytorch", split=split), labeled_train=split != "1cls")
    shutil.move(tmp_path / "VisA_pytorch" / split, tmp_path / "visa_pytorch")  # anomalib's: without the level
    alone = load_index("visa", tmp_path / "visa_pytorch", split=split)
    assert replace(alone, root=read[1].root) == read[1]


def test_a_converted_copy_of_another_kind_of_split_is_not_taken_for_it(raw, tmp_path):
    prepare(tmp_path / "copy", raw, work())
    fails("does not hold split_csv/1cls.csv", tmp_path / "copy" / "2cls_highshot")
    fails("does not hold split_csv/2cls_highshot.csv", tmp_path / "copy" / "1cls", split="2cls_highshot")
    shutil.rmtree(tmp_path / "copy" / "1cls")
    fails("does not hold split_csv/1cls.csv", tmp_path / "copy")


def test_raw_wins_over_converted(raw):
    prepare(raw / "copy", raw, work())
    shutil.move(raw / "copy" / "1cls", raw / "1cls")
    assert load_index("visa", raw).root == raw


def test_converted_masks_are_needed(raw, tmp_path):
    prepare(tmp_path / "copy", raw, work())
    mask = tmp_path / "copy/2cls_fewshot/pcb1/ground_truth/train/bad/001.png"
    mask.unlink()
    message = fails("is defective and has no mask", tmp_path / "copy", split="2cls_fewshot")
    assert "pcb1/train/bad/001.JPG" in message
    assert str(mask.parent) in message
    Image.new("L", (24, 20)).save(mask.with_name("007.png"))
    fails("has no image 007", tmp_path / "copy", split="2cls_fewshot")


def test_converting_goes_on_after_an_interruption(raw, tmp_path):
    prepare(tmp_path / "whole", raw, work())
    steps = iter(range(20))

    def interrupt() -> None:
        if next(steps, None) is None:
            raise Stopped("stopped")

    target = tmp_path / "part"
    with pytest.raises(Stopped):
        prepare(target, raw, work(interrupt, workers=1))
    part = files(target)
    assert 20 <= len(part) < len(files(tmp_path / "whole"))
    before = {name: (target / name).stat().st_mtime_ns for name in part}
    prepare(target, raw, work())
    assert files(target) == files(tmp_path / "whole")
    assert {name: (target / name).stat().st_mtime_ns for name in part} == before  # not made again


def test_a_file_is_whole_or_not_there(raw, tmp_path, monkeypatch):
    def half(source, target) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(UserError, match=r"cannot be copied to .* \(No space left on device\): make room"):
            prepare(tmp_path / "copy", raw, work())
    assert not [name for name in files(tmp_path / "copy") if name.endswith((".JPG", ".tmp"))]


def test_converting_needs_the_raw_layout_elsewhere(raw, tmp_path):
    for root, source in ((raw, raw), (raw, raw.parent), (raw.parent, raw.parent)):
        with pytest.raises(UserError, match="needs no conversion: the archive's own layout is read as it is"):
            prepare(root, source, work())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty/split_csv/1cls\.csv does not exist"):
        prepare(tmp_path / "copy", tmp_path / "empty", work())
    (raw / IMAGES / "Normal/000.JPG").unlink()
    with pytest.raises(UserError, match=r"Normal/000\.JPG does not exist"):
        prepare(tmp_path / "copy", raw, work())


def test_published_counts():
    sheet = (
        "pcb1 904/100/100, pcb2 901/100/100, pcb3 905/101/100, pcb4 904/101/100, macaroni1 900/100/100, "
        "macaroni2 900/100/100, capsules 542/60/100, candle 900/100/100, cashew 450/50/100, chewinggum 453/50/100, "
        "fryum 450/50/100, pipe_fryum 450/50/100"
    )
    stated = [item.split() for item in sheet.split(", ")]
    rows = {name: [int(number) for number in numbers.split("/")] for name, numbers in stated}
    counts = read_option("dataset", "visa")["counts"]
    assert counts == rows
    assert tuple(counts) == CATEGORIES
    few = {"train_good": 1924, "train_bad": 240, "test_good": 7697, "test_bad": 960}
    many = {"train_good": 5773, "train_bad": 720, "test_good": 3848, "test_bad": 480}
    for name, totals in (("visa_2cls_fewshot", few), ("visa_2cls_highshot", many)):
        counts = read_option("dataset", name)["counts"]
        assert tuple(counts) == CATEGORIES
        assert {key: sum(row[key] for row in counts.values()) for key in totals} == totals
        for category, row in counts.items():
            assert row["train_good"] + row["test_good"] == sum(rows[category][:2])
            assert row["train_bad"] + row["test_bad"] == 100
