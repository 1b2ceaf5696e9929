"""What a stage may ask of the loader: several splits, a share of them, less supervision than the method's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ader.data.index import Index, Sample
from ader.methods._base import FitPass, Tags
from ader.system.errors import UserError
from ader.training.loader import Loader

KINDS = [("train", 0, 10), ("train", 1, 4), ("forest", 0, 6), ("forest", 1, 5), ("test", 0, 3)]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    root: Path = tmp_path_factory.mktemp("stages")
    samples = []
    for category in ("a", "b"):
        for split, label, count in KINDS:
            for number in range(count):
                name = f"{category}_{split}_{label}_{number}.png"
                Image.fromarray(np.full((8, 8, 3), len(samples), np.uint8)).save(root / name)
                samples.append(Sample(image=name, category=category, split=split, label=label))
    return Index(name="made_up", root=root, samples=tuple(samples), categories=("a", "b"), has_masks=False)


def seen(index: Index, supervision: str = "image", seed: int = 0, **options) -> list[tuple[str, int | None]]:
    """Image names (recognized by their gray value) and labels that a pass gets."""
    loader = Loader(index, 8, torch.device("cpu"), seed, 0, Tags(supervision=supervision))
    stage = FitPass(name="look", batch_size=7, update=lambda batch: None, finish=lambda: None, **options)
    result = []
    for batch in loader.train(stage, 0, loader.order(stage).steps_per_epoch):
        gray = (batch.image_BCHW[:, 0, 0, 0] * 255).round().long().tolist()
        labels = batch.label_B.tolist() if batch.label_B is not None else [None] * len(gray)
        result += [(index.samples[value].image, label) for value, label in zip(gray, labels, strict=True)]
    return result


def names(index: Index, *kinds: tuple[str, int]) -> set[str]:
    return {sample.image for sample in index if (sample.split, sample.label) in kinds}


def test_one_split(index):
    assert {name for name, _ in seen(index)} == names(index, ("train", 0), ("train", 1))
    assert all(label == int(name.split("_")[2]) for name, label in seen(index))


def test_several_splits(index):
    found = seen(index, split=("train", "forest", "absent"))
    assert {name for name, _ in found} == names(index, ("train", 0), ("train", 1), ("forest", 0), ("forest", 1))
    assert len(found) == 50


def test_less_supervision(index):
    """A detector inside a supervised method sees no defect and no label."""
    found = seen(index, supervision="pixel", split=("train", "forest"))
    assert len(found) == 50
    loader = Loader(index, 8, torch.device("cpu"), 0, 0, Tags(supervision="image"))
    stage = FitPass(name="x", batch_size=5, update=print, finish=print, supervision="normal")
    batches = list(loader.train(stage, 0, loader.order(stage).steps_per_epoch))
    assert loader.order(stage).images == 20
    assert all(batch.label_B is None for batch in batches)


def test_supervision_is_never_more_than_the_tags(index):
    assert {name for name, _ in seen(index, supervision="normal", split="forest")} == names(index, ("forest", 0))
    loader = Loader(index, 8, torch.device("cpu"), 0, 0, Tags(supervision="normal"))
    stage = FitPass(name="x", batch_size=5, update=print, finish=print, supervision="image")
    assert all(batch.label_B is None for batch in loader.train(stage, 0, 4))


def test_share(index):
    """Of each category's normal and defective images, over the splits together; nested; another seed, another draw."""
    part = {name for name, _ in seen(index, split=("train", "forest"), share=0.5)}
    for category in ("a", "b"):
        of = [name.split("_")[2] for name in part if name.startswith(category)]
        assert (of.count("0"), of.count("1")) == (8, 4)  # of 16 and 9
    less = {name for name, _ in seen(index, split=("train", "forest"), share=0.25)}
    assert less < part
    assert part != {name for name, _ in seen(index, split=("train", "forest"), share=0.5, seed=1)}
    tiny = {name for name, _ in seen(index, split="forest", share=0.01)}
    assert len(tiny) == 4  # at least one of each kind


def test_never_the_test(index):
    for split in ("test", ("train", "test")):
        with pytest.raises(ValueError, match="never sees test data"):
            seen(index, split=split)


def test_nothing_to_see(index):
    with pytest.raises(UserError, match="needs images of split 'x' or 'y'"):
        seen(index, split=("x", "y"))
