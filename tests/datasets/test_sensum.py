"""SensumSODF: the drawn split and the published folds, whose pickles are never run."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from ader.config.options import read_option
from ader.data import load_index
from ader.datasets.sensum_sodf import sensum_sodf
from ader.system.errors import UserError
from tests.layouts import sensum_sodf as layout


@pytest.fixture
def root(tmp_path) -> Path:
    return layout.write(tmp_path / "SensumSODF")


def fails(match: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index("sensum_sodf", root, **options)
    return str(caught.value)


def test_samples(root):
    index = load_index("sensum_sodf", root)
    assert index.tally() == {
        "capsule": {"train_good": 3, "test_good": 150, "test_bad": 4},
        "softgel": {"train_good": 6, "test_good": 150, "test_bad": 6},
    }
    data, truth = "capsule/positive/data", "capsule/positive/annotation"
    assert [(s.image, s.split, s.masks, s.defect) for s in index if s.label][:4] == [
        (f"{data}/{number:03}.png", "test", (f"{truth}/{number:03}.png",), "bad") for number in range(4)
    ]
    assert all(not s.masks and s.defect == "good" for s in index if not s.label)
    names = [s.image for s in index if s.category == "capsule"]
    assert names == sorted(names)
    assert load_index("sensum_sodf", root.parent, ["softgel"]).root == root


def test_the_draw_is_fixed(root):
    index = load_index("sensum_sodf", root)
    for category, count in layout.GOOD.items():
        order = np.random.RandomState(143).permutation(count)
        expected = sorted(f"{category}/negative/data/{number:03}.png" for number in order[150:])
        assert [s.image for s in index if s.category == category and s.split == "train"] == expected
    # a category's draw does not depend on the other's
    alone = load_index("sensum_sodf", root, ["softgel"]).samples
    assert alone == tuple(s for s in index if s.category == "softgel")


def test_the_draw_is_that_of_scikit_learn(root):
    names = [f"capsule/negative/data/{number:03}.png" for number in range(153)]
    train, _ = train_test_split(names, test_size=60, random_state=5)
    index = load_index("sensum_sodf", root, ["capsule"], test_good=60, seed=5)
    assert [s.image for s in index.split("train")] == sorted(train)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_folds(root, fold):
    index = load_index("sensum_sodf", root, fold=fold)
    for category in layout.GOOD:
        for kind, count in (("negative", layout.GOOD[category] - 1), ("positive", layout.BAD[category])):
            found = {int(Path(s.image).stem): s for s in index if s.image.startswith(f"{category}/{kind}/")}
            assert sorted(found) == list(range(count))
            assert all((s.split == "test") == (number % 3 == fold) for number, s in found.items())
            assert {s.label for s in found.values()} == {int(kind == "positive")}
    assert all(s.masks for s in index if s.label)
    assert index.exceptions == ("capsule/negative/data/152.png", "softgel/negative/data/155.png")


def test_missing_lists_are_named(root):
    shutil.rmtree(root / "sensum_splits" / "softgel")
    message = fails("dataset.fold=null", root, fold=1)
    assert str(root / "sensum_splits/softgel/1/train/neg.pckl") in message
    assert load_index("sensum_sodf", root, ["capsule"], fold=1)
    fails("fold=3 does not fit", root, fold=3)


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_are_never_run(root, tmp_path, protocol):
    file = root / "sensum_splits/capsule/0/train/pos.pckl"
    file.write_bytes(pickle.dumps([Evil(f"touch {tmp_path / 'run'}")], protocol))
    assert str(file) in fails(r"names (posix|nt)\.system", root, fold=0)
    assert not (tmp_path / "run").exists()
    pickle.loads(file.read_bytes())
    assert (tmp_path / "run").exists()  # it would have


@pytest.mark.parametrize(
    "content",
    [
        {0: True},
        [0, 1],
        [(0, True, 1)],
        [("000", True)],
        [(True, True)],
        [(0, "yes")],
        [(0.0, True)],
    ],
)
def test_lists_of_another_shape_are_errors(root, content):
    file = root / "sensum_splits/capsule/0/test/neg.pckl"
    file.write_bytes(pickle.dumps(content))
    assert str(file) in fails("is not a list of pairs", root, fold=0)


def test_damaged_lists_are_errors(root):
    file = root / "sensum_splits/capsule/0/test/neg.pckl"
    whole = file.read_bytes()
    for content in (b"", whole[:-20], b"junk", b"\x80\x05]\x94}b."):
        file.write_bytes(content)
        assert str(file) in fails("is damaged", root, fold=0)
    file.write_bytes(pickle.dumps([(np.int64(3), True)]))
    fails(r"names numpy\.", root, fold=0)


def test_lists_that_do_not_fit_the_images_are_errors(root):
    file = root / "sensum_splits/capsule/0/test/pos.pckl"
    file.write_bytes(pickle.dumps([(77, True)]))
    fails("lists capsule/positive/data/077, which is not there", root, fold=0)
    file.write_bytes(pickle.dumps([(1, True)]))  # in training as well
    fails("lists capsule/positive/data/001, twice", root, fold=0)


def test_pairs_may_be_lists(root):
    expected = load_index("sensum_sodf", root, fold=0)
    for file in root.rglob("*.pckl"):
        file.write_bytes(pickle.dumps(tuple([number, int(flag)] for number, flag in pickle.loads(file.read_bytes()))))
    assert load_index("sensum_sodf", root, fold=0) == expected


def test_masks_are_needed(root):
    mask = root / "softgel/positive/annotation/003.png"
    mask.unlink()
    assert str(mask) in fails("is defective and has no mask", root)
    Image.new("L", (16, 16), 1).save(mask.with_name("999.png"))
    fails("has no image 999", root)


def test_draws_that_leave_nothing_are_errors(root, tmp_path):
    fails("dataset.test_good=-1 does not fit", root, test_good=-1)
    for number in (0, 153, 200):
        fails(f"dataset.test_good: {number} of 153 normal images", root, test_good=number)
    for seed in (-1, 1 << 32):
        with pytest.raises(UserError, match=f"seed={seed}"):
            sensum_sodf(root, seed=seed)
    shutil.rmtree(root / "capsule/negative/data")
    assert str(root / "capsule/negative/data") in fails("does not exist", root)
    (tmp_path / "empty").mkdir()
    fails("does not hold capsule/negative/data", tmp_path / "empty")


def test_published_counts():
    assert read_option("dataset", "sensum_sodf")["counts"] == {"capsule": [686, 150, 153], "softgel": [696, 150, 345]}
    assert 686 + 150 == 836
    assert 696 + 150 == 846
    folds = read_option("dataset", "sensum_sodf_folds")
    assert (folds["fold"], folds["counts"]) == (0, None)
