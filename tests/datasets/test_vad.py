"""VAD: defects in training, unseen defects, published lists, no masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ader.config.options import read_option
from ader.data import load_index
from ader.data.counts import check_counts
from ader.system.errors import UserError
from ader.testing.dataset_checks import check_dataset
from tests.layouts import vad as layout


@pytest.fixture
def root(tmp_path) -> Path:
    return layout.write(tmp_path / "vad")


def fails(match: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index("vad", root, **options)
    return str(caught.value)


def test_samples(root):
    index = load_index("vad", root)
    assert [(s.image, s.split, s.label, s.defect) for s in index] == [
        ("test/bad/11.png", "test", 1, "bad"),
        ("test/bad/2041.png", "test", 1, "bad"),
        ("test/bad_unseen_defects/8.png", "test", 1, "bad_unseen_defects"),
        ("test/good/12.png", "test", 0, "good"),
        ("test/good/5.png", "test", 0, "good"),
        ("train/bad/1001.png", "train", 1, "bad"),
        ("train/bad/37.png", "train", 1, "bad"),
        ("train/bad/4.png", "train", 1, "bad"),
        ("train/good/10.png", "train", 0, "good"),
        ("train/good/2041.png", "train", 0, "good"),
        ("train/good/9.png", "train", 0, "good"),
    ]
    assert {s.category for s in index} == {"vad"}
    assert not index.has_masks
    assert not any(s.masks for s in index)
    assert index.exceptions == ("low_shot_train/*",)
    assert load_index("vad", root.parent, ["vad"]).root == root


def test_lists_are_paths_in_the_files_order(root):
    lists = load_index("vad", root).lists
    assert list(lists.items()) == [
        ("low_shot_143", ("train/bad/4.png", "train/bad/1001.png")),
        ("low_shot_7", ("train/bad/37.png", "train/bad/4.png")),
    ]
    (root / "low_shot_train.json").unlink()
    assert load_index("vad", root).lists == {}


def test_lists_that_do_not_fit_are_errors(root):
    file = root / "low_shot_train.json"
    file.write_text(json.dumps({"7": ["4.png", "11.png"]}))  # 11.png lies in test/bad only
    assert str(file) in fails(r"lists for low_shot_7 what is not there \(train/bad/11.png\)", root)
    file.write_text("[")
    assert str(file) in fails("cannot be read", root)
    for content in (["4.png"], {"7": "4.png"}):
        file.write_text(json.dumps(content))
        assert str(file) in fails("is no object of lists", root)
    file.write_text(json.dumps({"7": [["4.png"]]}))
    fails("what is not there", root)


def test_one_class_copies_have_no_defects_to_train_on(root):
    shutil.rmtree(root / "train" / "bad")
    index = load_index("vad", root)
    assert index.tally() == {"vad": {"train_good": 3, "test_good": 2, "test_bad": 3}}
    assert index.lists == {}
    check_dataset(lambda: load_index("vad", root))


def test_missing_folders_are_named(root, tmp_path):
    (tmp_path / "nothing").mkdir()
    fails("does not hold train/good and test/good", tmp_path / "nothing")
    shutil.rmtree(root / "test")
    assert str(root / "test") in fails("does not exist", root)
    fails("not a category of dataset 'vad'", root, categories=["bottle"])


def test_published_counts(root):
    counts = read_option("dataset", "vad")["counts"]
    assert counts == {"vad": {"train_good": 2000, "train_bad": [1000, 0], "test_good": 1000, "test_bad": 1000}}
    shrunk = {"vad": {"train_good": 3, "train_bad": [3, 0], "test_good": 2, "test_bad": 3}}
    check_counts(load_index("vad", root), shrunk)
    shutil.rmtree(root / "train" / "bad")
    check_counts(load_index("vad", root), shrunk)
