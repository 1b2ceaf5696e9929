"""A share of the training images is defective and said to be normal ("Beyond Academic Benchmarks", protocols (d))."""

from __future__ import annotations

from typing import Literal

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.settings._drawing import (
    Ratio,
    Unit,
    as_normal,
    at_least_one,
    draw_defective,
    draw_normal,
    enough,
    only_normal,
    trained_categories,
    with_changed,
)
from ader.system.errors import UserError


def contamination(
    index: Index,
    seed: int,
    ratio: Ratio,
    of: Literal["normal", "all"] = "normal",
    mode: Literal["add", "replace"] = "add",
) -> Index:
    """Defects come from the training data's labeled ones where there are enough (VAD), else from the test.

    The test loses what moves.

    Args:
        index: the dataset.
        seed: of the draw; a smaller ratio's images are among a larger one's.
        ratio: how many, in relation to what ``of`` says.
        of: the category's normal training images, or all training images that result.
        mode: add them, or put them in the place of as many normal ones.

    Raises:
        UserError: a category has too few, or the ratio is less than one image of it.
    """
    moved: dict[str, Sample] = {}
    dropped: set[str] = set()
    asked = f"setting.ratio={ratio}"
    for category in trained_categories(index):
        units = draw_normal(index, category, seed, "replaced")
        share = ratio / (1 - ratio) if of == "all" and mode == "add" else ratio
        wanted = at_least_one(round(share * len(units)), category, len(units), asked)
        if mode == "replace" and wanted == len(units):
            raise UserError(f"{asked}: no normal training image of category {category!r} would be left: choose less")
        moved |= as_normal(_draw_noise(index, category, seed, wanted, asked))
        if mode == "replace":
            dropped.update(sample.image for unit in units[:wanted] for sample in unit)
    return only_normal(with_changed(index, moved)).where(lambda sample: sample.image not in dropped)


def _draw_noise(index: Index, category: str, seed: int, wanted: int, asked: str) -> list[Unit]:
    """Defects to contaminate with: the training data's own, or else the test's."""
    own = draw_defective(index, category, TRAIN, seed)
    if len(own) >= wanted:
        return own[:wanted]
    return enough(draw_defective(index, category, TEST, seed), wanted, category, asked, leave=True)
