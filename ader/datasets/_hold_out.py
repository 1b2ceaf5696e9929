"""A split for datasets that are published without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ader.data.index import TEST, TRAIN, Sample
from ader.system.errors import UserError


def hold_out(
    samples: Sequence[Sample], number: int, seed: int, option: str, copies: Mapping[str, str] | None = None
) -> list[Sample]:
    """Splits a dataset that has no split: tests on every defective image and on some normal ones, drawn.

    For a seed these are the same on every machine: those that scikit-learn's ``train_test_split`` puts into its test
    part with ``random_state=seed``.

    Args:
        samples: in a fixed order; their ``split`` is replaced.
        number: how many normal images to draw.
        seed: of the generator.
        option: of the dataset, that says how many; for messages.
        copies: images that are the same picture as another, and which. They are drawn together, and those of a
            defective image are not trained on; others take the places in the draw.

    Raises:
        UserError: training or testing would have no normal images, or the seed is out of range.
    """
    good = [sample for sample in samples if not sample.label]
    if not 0 < number < len(good):
        raise UserError(
            f"dataset.{option}: {number} of {len(good)} normal images would be for testing, the others for training: "
            "give a value that leaves some for both"
        )
    if not 0 <= seed < 1 << 32:
        raise UserError(f"dataset.seed={seed}: give a number from 0 to {(1 << 32) - 1}")
    order = np.random.RandomState(seed).permutation(len(good))  # its numbers are the same in every version of NumPy
    drawn = (
        _drawn([good[place] for place in order], number, samples, copies)
        if copies
        else {good[place] for place in order[:number]}
    )
    return [replace(s, split=TEST if s.label or s in drawn else TRAIN) for s in samples]


def _drawn(ordered: Sequence[Sample], number: int, samples: Sequence[Sample], copies: Mapping[str, str]) -> set[Sample]:
    """The first ``number`` in an order, where each comes with its copies; as many fewer as do not fit."""
    shown = {sample: copies.get(sample.image, sample.image) for sample in samples}
    alike: dict[str, list[Sample]] = {}
    for sample in ordered:
        alike.setdefault(shown[sample], []).append(sample)
    spoiled = {shown[sample] for sample in samples if sample.label}
    drawn = {sample for sample in ordered if shown[sample] in spoiled}
    for sample in ordered:
        if sample not in drawn and len(drawn) + len(alike[shown[sample]]) <= number:
            drawn.update(alike[shown[sample]])
    return drawn


def hold_out_share(
    samples: Sequence[Sample], train_share: float, seed: int, copies: Mapping[str, str] | None = None
) -> list[Sample]:
    """As ``hold_out``, with a share of the normal images for training (rounded down, as scikit-learn does).

    Raises:
        UserError: as for ``hold_out``.
    """
    if not 0 < train_share < 1:
        raise UserError(f"dataset.train_share={train_share}: give a number between 0 and 1")
    good = sum(not sample.label for sample in samples)
    return hold_out(samples, good - int(train_share * good), seed, "train_share", copies)
