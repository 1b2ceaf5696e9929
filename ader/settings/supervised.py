"""Labeled defects in the training data, and images kept apart for SegAD's forest (protocols (c))."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from ader.config.ranges import Natural, Seed, Share
from ader.data.index import TEST, TRAIN, Index, Sample
from ader.settings import FOREST
from ader.settings._drawing import (
    Unit,
    as_training,
    draw_defective,
    draw_normal,
    enough,
    trained_categories,
    with_changed,
)
from ader.system.errors import UserError, some


def supervised(
    index: Index,
    seed: int,
    source: Literal["train", "test"] = "train",
    shots: Natural | Literal["all", "list"] = "all",
    draw: Natural | None = None,
    detector_share: Share = 1.0,
    split_seed: Seed | None = None,
    splitter: Literal["hash", "scikit-learn"] = "hash",
) -> Index:
    """All normal training images and labeled defects of each category.

    Args:
        index: the dataset.
        seed: of all draws.
        source: the defects are the training data's own, or move there from the test.
        shots: how many of each category; ``"list"``: those of a list that the dataset publishes.
        draw: which of the lists, from 0; None: the seed modulo their number.
        detector_share: below 1, this share of each category's normal training images stays in ``"train"``, for the
            detectors; the others and the defects become the split ``"forest"``.
        split_seed: decides which normal images stay for the detectors; None: the seed does. A fixed one lets detectors
            that were trained once serve runs of all seeds, which then differ in their defects and forests only.
        splitter: how both are drawn: by hashes of the images' names, or as scikit-learn's ``train_test_split`` draws
            them from images in the order of their names (SegAD's released code).

    Raises:
        UserError: there are too few defects, none would be left in the test, or there are no lists.
    """
    keep: set[str] = set()
    moved: dict[str, Sample] = {}
    without: list[str] = []
    for category in trained_categories(index):
        drawn = draw_defective(index, category, source, seed)
        if splitter == "scikit-learn":
            drawn = _as_scikit_learn(drawn, seed)
        if shots == "list":
            names = _published_list(index, seed, draw)
            drawn = [kept for unit in drawn if (kept := [sample for sample in unit if sample.image in names])]
        elif shots != "all":
            drawn = enough(drawn, shots, category, f"setting.shots={shots}", leave=source == "test")
        elif source == "test":
            raise UserError("setting.shots=all would leave no defect in the test that setting.source=test takes from")
        if not drawn and shots != 0:
            without.append(category)
        keep.update(sample.image for unit in drawn for sample in unit)
        moved |= as_training(drawn)
    result = with_changed(index, moved).where(lambda s: s.split == TEST or not s.label or s.image in keep)
    if without:
        result = result.cautioned(f"the training data of {some(without)} has no labeled defects: normal images only")
    if detector_share == 1:
        return result
    return _with_forest(result, seed if split_seed is None else split_seed, detector_share, splitter)


def _published_list(index: Index, seed: int, draw: int | None) -> set[str]:
    """The images of one of the dataset's published lists."""
    lists = list(index.lists.values())
    if not lists:
        raise UserError(f"setting.shots=list: dataset {index.name!r} publishes no lists: give a number")
    number = seed % len(lists) if draw is None else draw
    if number >= len(lists):
        raise UserError(
            f"setting.draw={number}: dataset {index.name!r} has {len(lists)} lists: give 0 to {len(lists) - 1}"
        )
    return set(lists[number])


def _as_scikit_learn(units: list[Unit], seed: int) -> list[Unit]:
    """Objects in an order whose first k are the training part of ``train_test_split(..., random_state=seed)`` wherever
    that has k objects: it shuffles, and takes the test from the front."""
    by_name = sorted(units, key=lambda unit: unit[0].image)
    order = np.random.RandomState(seed % 2**32).permutation(len(units))
    return [by_name[place] for place in order[::-1]]


def _with_forest(index: Index, seed: int, share: float, splitter: str) -> Index:
    """Normal training images divided between detectors and forest; training defects are the forest's."""
    detectors: set[str] = set()
    for category in trained_categories(index):
        units = draw_normal(index, category, seed, "halves")
        stay = round(share * len(units))
        if splitter == "scikit-learn":
            units = _as_scikit_learn(units, seed)
            stay = len(units) - math.ceil(round(1 - share, 12) * len(units))
        if not 0 < stay < len(units):
            raise UserError(
                f"setting.detector_share={share}: category {category!r} has {len(units)} normal training images, which "
                "leaves the detectors or the forest without any: choose another share"
            )
        detectors.update(sample.image for unit in units[:stay] for sample in unit)
    return index.with_samples(
        replace(s, split=FOREST) if s.split == TRAIN and (s.label or s.image not in detectors) else s for s in index
    )
