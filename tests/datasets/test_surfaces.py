"""KolektorSDD, KolektorSDD2, DAGM and the magnetic tiles: masks beside images, labels from masks, drawn splits."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from ader.config.options import read_option
from ader.data import load_index
from ader.data.index import Sample
from ader.data.masks import load_mask
from ader.datasets._hold_out import hold_out_share
from ader.system.errors import UserError
from ader.testing.dataset_checks import check_dataset
from tests.layouts import dagm as dagm_layout
from tests.layouts import kolektor_sdd as sdd_layout
from tests.layouts import kolektor_sdd2 as sdd2_layout
from tests.layouts import mtd as mtd_layout


def fails(match: str, name: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index(name, root, **options)
    return str(caught.value)


@pytest.fixture
def sdd(tmp_path) -> Path:
    return sdd_layout.write(tmp_path / "KolektorSDD")


@pytest.fixture
def sdd2(tmp_path) -> Path:
    return sdd2_layout.write(tmp_path / "KolektorSDD2")


@pytest.fixture
def dagm(tmp_path) -> Path:
    return dagm_layout.write(tmp_path / "DAGM")


@pytest.fixture
def mtd(tmp_path) -> Path:
    return mtd_layout.write(tmp_path / "tiles")


def test_the_drawn_split_is_scikit_learns():
    for count, share, seed in ((347, 0.8, 42), (952, 0.8, 42), (10, 0.55, 7), (3, 0.34, 0)):
        samples = [Sample(f"{number:04}", "c", "train", int(number % 7 == 6)) for number in range(count)]
        good = [s.image for s in samples if not s.label]
        train, test = train_test_split(good, train_size=share, random_state=seed)
        split = {s.image: s.split for s in hold_out_share(samples, share, seed)}
        assert {name for name in good if split[name] == "train"} == set(train)
        assert {name for name in good if split[name] == "test"} == set(test)
        assert all(split[s.image] == "test" for s in samples if s.label)
    sizes = [Counter(s.split for s in hold_out_share(samples, 0.8, 42)) for samples in (normal(347), normal(952))]
    assert sizes == [{"train": 277, "test": 70}, {"train": 761, "test": 191}]


def normal(count: int) -> list[Sample]:
    return [Sample(f"{number:04}", "c", "train", 0) for number in range(count)]


def test_the_drawn_split_stays_what_it_was():
    """Written down from scikit-learn 1.9: a change would make old results incomparable."""
    drawn = [int(s.image) for s in hold_out_share(normal(347), 0.8, 42) if s.split == "test"]
    _, expected = train_test_split(range(347), train_size=0.8, random_state=42)
    assert drawn == sorted(expected)
    assert drawn[:5] == [3, 5, 9, 22, 25]


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, 0.05, float("nan")])
def test_shares_that_leave_nothing_are_errors(sdd, mtd, share):
    for name, root in (("kolektor_sdd", sdd), ("mtd", mtd)):
        fails("dataset.train_share", name, root, train_share=share)


def test_kolektor_sdd_labels_come_from_the_masks(sdd):
    index = load_index("kolektor_sdd", sdd)
    assert index.tally() == {"kolektor_sdd": {"train_good": 8, "test_good": 2, "test_bad": 2}}
    names = [f"kos{item}/Part{part}" for item in ("01", "02", "03", "50") for part in range(3)]
    assert [(s.image, s.masks) for s in index] == [(f"{name}.jpg", (f"{name}_label.bmp",)) for name in names]
    bad = {"kos01/Part2.jpg", "kos03/Part0.jpg"}
    assert {s.image for s in index if s.label} == {s.image for s in index if s.defect == "bad"} == bad
    good = [f"{name}.jpg" for name in names if f"{name}.jpg" not in bad]
    train, _ = train_test_split(good, train_size=0.8, random_state=42)
    assert [s.image for s in index.split("train")] == sorted(train)
    assert load_index("kolektor_sdd", sdd.parent).root == sdd


def test_kolektor_sdd_keeps_copies_on_one_side(sdd, caplog):
    """As published: an item of other images, again, one of them with a crack; the numbers stay."""
    before = load_index("kolektor_sdd", sdd)
    assert caplog.text == ""
    for part in range(3):
        for ending in (".jpg", "_label.bmp"):
            shutil.copy(sdd / f"kos01/Part{part}{ending}", sdd / f"kos50/Part{part}{ending}")
    sides = set()
    for seed in range(20):
        split = {s.image: s.split for s in load_index("kolektor_sdd", sdd, seed=seed)}
        assert len({split["kos01/Part2.jpg"], split["kos50/Part2.jpg"], "test"}) == 1
        assert Counter(split.values()) == {"train": 7, "test": 5}
        for part in (0, 1):
            assert split[f"kos01/Part{part}.jpg"] == split[f"kos50/Part{part}.jpg"]
            sides.add(split[f"kos01/Part{part}.jpg"])
    assert sides == {"train", "test"}
    assert (
        "3 images are copies (kos50/Part0.jpg = kos01/Part0.jpg, kos50/Part1.jpg = kos01/Part1.jpg and" in caplog.text
    )
    assert before.tally()["kolektor_sdd"] == {"train_good": 8, "test_good": 2, "test_bad": 2}


def test_kolektor_sdd_does_not_train_on_a_defect(sdd):
    """A copy of a cracked image whose mask says that it is normal."""
    shutil.copy(sdd / "kos01/Part2.jpg", sdd / "kos50/Part0.jpg")
    for seed in range(5):
        split = {s.image: s.split for s in load_index("kolektor_sdd", sdd, seed=seed)}
        assert split["kos50/Part0.jpg"] == "test"


def test_the_published_copies_of_kolektor_sdd():
    """347 normal and 52 defective images, 16 of them again: the others are drawn as they were."""
    names = [f"kos{item:02}/Part{part}.jpg" for item in range(1, 51) for part in range(8)][:399]
    defective = {*names[5::8], "kos26/Part6.jpg", "kos01/Part6.jpg"}
    copies = {
        f"kos{a}/Part{part}.jpg": f"kos{b}/Part{part}.jpg" for a, b in (("26", "01"), ("34", "27")) for part in range(8)
    }
    samples = [Sample(name, "c", "train", int(name in defective)) for name in names]
    plain, apart = hold_out_share(samples, 0.8, 42), hold_out_share(samples, 0.8, 42, copies)
    split = {s.image: s.split for s in apart}
    assert all(split[one] == split[other] for one, other in copies.items())
    assert Counter(s.split for s in apart) == Counter(s.split for s in plain)
    assert sum(a != b for a, b in zip(plain, apart, strict=True)) <= 2 * len(copies)
    assert hold_out_share(samples, 0.8, 42, {}) == plain


def test_kolektor_sdd_one_pixel_is_a_defect(sdd):
    mask = np.zeros((50, 20), np.uint8)
    mask[49, 19] = 1
    Image.fromarray(mask).save(sdd / "kos02/Part1_label.bmp")
    assert load_index("kolektor_sdd", sdd).tally()["kolektor_sdd"]["test_bad"] == 3


def test_kolektor_sdd_errors(sdd, tmp_path):
    (tmp_path / "empty").mkdir()
    fails("does not hold kos01 to kos50", "kolektor_sdd", tmp_path / "empty")
    fails("not a category", "kolektor_sdd", sdd, categories=["kos01"])
    mask = sdd / "kos02/Part1_label.bmp"
    mask.write_bytes(b"BM")
    assert str(mask) in fails("is not an image", "kolektor_sdd", sdd)
    mask.unlink()
    assert str(mask) in fails("has no mask, which alone says", "kolektor_sdd", sdd)
    (sdd / "kos02/Part1.jpg").rename(sdd / "kos02/Part7.jpg")
    shutil.copy(sdd / "kos02/Part0_label.bmp", mask)
    fails("has no image Part1", "kolektor_sdd", sdd)


def test_kolektor_sdd2_keeps_defects_in_training_and_skips_strays(sdd2):
    index = load_index("kolektor_sdd2", sdd2)
    assert [(s.image, s.split, s.label, s.masks, s.defect) for s in index] == [
        ("test/20000.png", "test", 0, ("test/20000_GT.png",), "good"),
        ("test/20041.png", "test", 0, ("test/20041_GT.png",), "good"),
        ("test/20042.png", "test", 1, ("test/20042_GT.png",), "bad"),
        ("train/10000.png", "train", 0, ("train/10000_GT.png",), "good"),
        ("train/10001.png", "train", 0, ("train/10001_GT.png",), "good"),
        ("train/10021.png", "train", 1, ("train/10021_GT.png",), "bad"),
        ("train/10301.png", "train", 0, ("train/10301_GT.png",), "good"),
    ]
    assert index.exceptions == ("* (copy).png",)
    assert load_index("kolektor_sdd2", sdd2.parent).root == sdd2


def test_kolektor_sdd2_errors(sdd2):
    mask = sdd2 / "test/20041_GT.png"
    mask.unlink()
    assert str(mask) in fails("has no mask, which alone says", "kolektor_sdd2", sdd2)
    Image.new("L", (20, 40)).save(sdd2 / "test/20043_GT.png")
    fails("has no image 20043", "kolektor_sdd2", sdd2)
    for file in (sdd2 / "test").iterdir():
        file.unlink()
    assert str(sdd2 / "test") in fails("holds no images", "kolektor_sdd2", sdd2)
    shutil.rmtree(sdd2 / "test")
    assert str(sdd2 / "test") in fails("does not exist", "kolektor_sdd2", sdd2)
    shutil.rmtree(sdd2 / "train")
    fails("does not hold train/10000.png and test/20000.png", "kolektor_sdd2", sdd2)


def test_dagm_labels_come_from_label_files(dagm):
    index = load_index("dagm", dagm)
    assert index.categories == tuple(f"Class{number}" for number in range(1, 11))
    assert [(s.image, s.split, s.label, s.masks, s.defect) for s in index if s.category == "Class1"] == [
        ("Class1/Test/0001.PNG", "test", 0, (), "good"),
        ("Class1/Test/0002.PNG", "test", 1, ("Class1/Test/Label/0002_label.PNG",), "bad"),
        ("Class1/Test/0003.PNG", "test", 0, (), "good"),
        ("Class1/Train/0576.PNG", "train", 0, (), "good"),
        ("Class1/Train/0577.PNG", "train", 1, ("Class1/Train/Label/0577_label.PNG",), "bad"),
        ("Class1/Train/0578.PNG", "train", 0, (), "good"),
    ]
    assert set(map(str, index.tally().values())) == {str(index.tally()["Class10"])}
    nested = [s.image for s in index if s.category == "Class3"]
    assert nested[0] == "Class3/Class3/Test/0001.PNG"
    assert load_index("dagm", dagm.parent, ["Class10", "Class2"]).categories == ("Class2", "Class10")


def test_dagm_errors(dagm):
    labels = dagm / "Class2/Train/Label"
    (labels / "0577_label.PNG").rename(labels / "0999_label.PNG")
    assert str(labels / "0999_label.PNG") in fails("has no image 0999", "dagm", dagm)
    shutil.rmtree(labels)  # every image would count as normal
    assert str(labels) in fails("does not exist", "dagm", dagm)
    labels.mkdir()
    for image in labels.parent.glob("*.PNG"):
        image.unlink()
    assert str(labels.parent) in fails("holds no images", "dagm", dagm)
    shutil.rmtree(labels.parent)
    assert "(Class2)" in fails("lacks 1 of 10 categories", "dagm", dagm)
    assert str(dagm / "Class4/Test") in _without(dagm / "Class4/Test", dagm)


def _without(folder: Path, root: Path) -> str:
    shutil.rmtree(folder)
    return fails("does not exist", "dagm", root, categories=["Class4"])


def test_mtd_kinds_of_defect_and_empty_masks(mtd):
    index = load_index("mtd", mtd)
    uneven = "MT_Uneven/Imgs/exp"
    assert [(s.image, s.split, s.masks, s.defect) for s in index if s.label] == [
        ("MT_Blowhole/Imgs/exp1_num_108719.jpg", "test", ("MT_Blowhole/Imgs/exp1_num_108719.png",), "blowhole"),
        ("MT_Break/Imgs/exp2_num_30.jpg", "test", ("MT_Break/Imgs/exp2_num_30.png",), "break"),
        ("MT_Crack/Imgs/exp3_num_7.jpg", "test", ("MT_Crack/Imgs/exp3_num_7.png",), "crack"),
        ("MT_Fray/Imgs/exp6_num_2.jpg", "test", ("MT_Fray/Imgs/exp6_num_2.png",), "fray"),
        (f"{uneven}1_num_1.jpg", "test", (f"{uneven}1_num_1.png",), "uneven"),
        (f"{uneven}3_num_45042.jpg", "test", (), "uneven"),
        (f"{uneven}4_num_124690.jpg", "test", (), "uneven"),
        (f"{uneven}4_num_352527.jpg", "test", (), "uneven"),
        (f"{uneven}4_num_45057.jpg", "test", (), "uneven"),
    ]
    assert index.tally() == {"magnetic_tile": {"train_good": 8, "test_good": 2, "test_bad": 9}}
    assert [s.image for s in index] == sorted(path.relative_to(mtd).as_posix() for path in mtd.glob("MT_*/Imgs/*.jpg"))
    good = sorted(path.relative_to(mtd).as_posix() for path in mtd.glob("MT_Free/Imgs/*.jpg"))
    train, _ = train_test_split(good, train_size=0.8, random_state=42)
    assert [s.image for s in index.split("train")] == sorted(train)
    # the empty masks and the readme's pictures are no news to a check
    assert {f"{uneven}3_num_45042.*", f"{uneven}4_num_124690.*", "dataset.*"} <= set(index.exceptions)
    assert load_index("mtd", mtd.parent).root == mtd


def test_mtd_soft_borders_belong_to_the_defect(mtd):
    mask = mtd / "MT_Crack/Imgs/exp3_num_7.png"
    assert (np.asarray(Image.open(mask)) > 127).sum() == 36
    assert load_mask([mask], (30, 20)).sum() == 64


def test_mtd_errors(mtd, tmp_path):
    mask = mtd / "MT_Fray/Imgs/exp6_num_2.png"
    mask.unlink()
    assert str(mask) in fails("has no mask", "mtd", mtd)
    Image.new("L", (20, 30)).save(mask.with_stem("other"))
    fails("has no image other", "mtd", mtd)
    shutil.rmtree(mtd / "MT_Break")
    assert str(mtd / "MT_Break/Imgs") in fails("does not exist", "mtd", mtd)
    (tmp_path / "empty").mkdir()
    fails("does not hold MT_Free", "mtd", tmp_path / "empty")


def test_other_shares_and_seeds_change_the_split(sdd, mtd):
    for name, root in (("kolektor_sdd", sdd), ("mtd", mtd)):
        index = load_index(name, root)
        assert load_index(name, root, seed=1).split("train") != index.split("train")
        assert len(load_index(name, root, train_share=0.5).split("train")) == 5
        check_dataset(lambda name=name, root=root: load_index(name, root, train_share=0.5, seed=3))


def test_published_counts():
    assert read_option("dataset", "kolektor_sdd")["counts"] == {"kolektor_sdd": [277, 70, 52]}
    assert read_option("dataset", "kolektor_sdd2")["counts"] == {
        "kolektor_sdd2": {"train_good": 2085, "train_bad": 246, "test_good": 894, "test_bad": 110}
    }
    assert read_option("dataset", "mtd")["counts"] == {"magnetic_tile": [761, 191, 392]}
    counts = read_option("dataset", "dagm")["counts"]
    assert [row["train_bad"] for row in counts.values()] == [79, 66, 66, 82, 70, 83, 150, 150, 150, 150]
    assert [row["test_bad"] for row in counts.values()] == [71, 84, 84, 68, 80, 67, 150, 150, 150, 150]
    for number, (category, row) in enumerate(counts.items(), start=1):
        assert category == f"Class{number}"
        half = 575 if number <= 6 else 1150
        assert row["train_good"] + row["train_bad"] == row["test_good"] + row["test_bad"] == half
    assert sum(row["train_good"] for row in counts.values()) == 7004
    assert sum(row["test_good"] for row in counts.values()) == 6996
