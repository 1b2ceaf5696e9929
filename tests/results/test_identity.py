"""Two different configurations never share a folder; the same one always finds its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ader.config.compose import compose
from ader.config.schema import Composition
from ader.data import load_index
from ader.results.identity import canonical, identify, readable, run_name
from ader.system.errors import UserError
from ader.testing.toy import write_mvtec

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = (
    SCALARS | st.lists(SCALARS, max_size=3) | st.sampled_from(["1", "1.0", "true", "null", "a,b", "1,2", "a", "a-b=c"])
)


def _composed(**method: object) -> Composition:
    base = {"method": {"a": 0, "b": "x", "seed": 1}, "trainer": {"epochs": 3, "precision": "fp32"}, "seed": 1}
    values = {**base, "method": {**base["method"], **method}, "run": None, "paths": {"results": "r"}}
    return Composition(values, {**base, "run": None}, {"metric": "histogram"})


@given(VALUES, VALUES)
@settings(max_examples=500, deadline=None)
def test_readable_tells_values_apart(one, other):
    assert (readable(one) == readable(other)) == (canonical(one) == canonical(other))
    assert readable(one).isascii()
    assert not set(readable(one)) & set("/\\ =\0")


@given(VALUES, VALUES, VALUES, VALUES)
@settings(max_examples=500, deadline=None)
def test_names_tell_configurations_apart(a, b, c, d):
    one, other = run_name(_composed(a=a, b=b)), run_name(_composed(a=c, b=d))
    assert (one == other) == (canonical([a, b]) == canonical([c, d]))
    assert len(one.encode()) <= 200


@pytest.mark.parametrize(("one", "other"), [(1e-5, 0.00001), (1, 1.0), ([1, 2.0], [1.0, 2])])
def test_equal_numbers_are_equal(one, other):
    assert readable(one) == readable(other)


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, "1"), ([1], 1), ("a b", "ab"), ([], ""), (math.inf, "Infinity")]
)
def test_similar_values_are_not(one, other):
    assert readable(one) != readable(other)


def _name(*words: str) -> str:
    return run_name(compose(["dataset=demo", "method=rd", *words]).composition)


def test_names_are_readable():
    assert _name() == "e100-s42"
    assert _name("trainer=e300", "seed=1") == "e300-s1"
    assert _name("trainer.epochs=300", "seed=1") == "e300-s1"
    assert _name("metric=exact") == "e100-s42-metric=exact"
    assert _name("method.lr=0.00001") == _name("method.lr=1e-5") == "e100-s42-lr=1e-05"
    assert _name("dataset.categories=[bolt]") == _name("dataset.categories=bolt")
    assert "dataset.categories=bolt," in _name("dataset.categories=[bolt]")


WAYS = [
    (),
    ("method.epochs=50",),
    ("trainer.epochs=50",),
    ("trainer.epochs=50", "method.epochs=100"),
    ("trainer.precision=bf16",),
    ("trainer.max_steps=5",),
    ("dataset.size=128",),
    ("dataset.seed=1",),
    ("seed=1",),
    ("image_size=128",),
    ("metric=exact",),
    ("metric=ader",),
    ("metric.size=original",),
    ("metric.size=256",),
    ("metric.size=original", "metric.map_interpolation=nearest"),
    ("metric.mask_interpolation=nearest",),
    ("metric.mask_rule=half",),
    ("dataset.categories=[bolt]",),
    ("dataset.categories=[bolt,wood]",),
    ("~method.clip",),
    ("method.clip=null",),
    ("method.backbone.name=a.b",),
    ("+method.weights=[1,2]",),
    ("+method.weights=[2,1]",),
    ("+method.size=128",),
    ("+method.image_size=128",),
]


def test_ways_to_differ():
    names = [_name(*words) for words in WAYS]
    assert len(set(names)) == len(names), names


NOT_IN_THE_NAME = [
    "trainer.workers=3",
    "trainer.device=cuda:1",
    "paths.weights=/w",
    "save_maps=true",
    "gallery=all",
    "logger=csv",
    "force=true",
]


@pytest.mark.parametrize("word", [*NOT_IN_THE_NAME, "trainer=e100", "metric.by_defect=true"])
def test_what_does_not_change_the_result_is_not_in_the_name(word):
    assert _name(word) == _name()


def test_an_experiment_is_named_by_its_values(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /trainer: e300\nmethod:\n  lr: 0.5\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    composed = compose(["dataset=demo", "method=rd", "experiment=mine"], str(tmp_path))
    assert run_name(composed.composition) == _name("trainer.epochs=300", "method.lr=0.5") == "e300-s42-lr=0.5"
    again = compose(["dataset=demo", "method=rd", "experiment=mine", "method.lr=0.005"], str(tmp_path))
    assert run_name(again.composition) == "e300-s42"


def test_a_trainer_of_ones_own_is_known_by_its_values(tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "mine.yaml").write_text("defaults: [e100]\nprecision: bf16\n")
    composed = compose(["dataset=demo", "method=rd", "trainer=mine"], str(tmp_path))
    assert run_name(composed.composition) == _name("trainer.precision=bf16") != _name()


def _folder(root: Path, *words: str) -> Path:
    composed = compose(["dataset=folder", f"dataset.root={root}", "method=rd", *words])
    return identify(composed, load_index("folder", root)).folder


def test_folders_of_images_are_told_apart_by_content(tmp_path):
    roots = [write_mvtec(tmp_path / str(seed) / "parts", seed=seed, extension="bmp") for seed in (0, 1)]
    moved = write_mvtec(tmp_path / "elsewhere" / "parts", seed=0, extension="bmp")
    folders = [_folder(root) for root in roots]
    assert folders[0] != folders[1]
    assert folders[0] == _folder(moved)
    assert folders[0].parents[2].name.startswith("folder-parts-")


def test_odd_folder_names(tmp_path):
    root = write_mvtec(tmp_path / ("ä ö" + "x" * 230), train=1)
    label = _folder(root).parents[2].name
    assert label.isascii()
    assert len(label) < 100


@pytest.mark.parametrize("name", ["a/b", "..", ".", "''", "x" * 300])
def test_a_run_is_a_plain_folder_name(tmp_path, name):
    with pytest.raises(UserError, match=r"is not a folder name|does not fit"):
        _folder(write_mvtec(tmp_path / "toy", train=1), f"run={name}")


def test_a_run_may_be_a_number(tmp_path):
    assert _folder(write_mvtec(tmp_path / "toy", train=1), "run=12").name == "12"
