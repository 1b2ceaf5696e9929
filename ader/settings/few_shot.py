"""A few normal training images (IM-IAD, protocols (h))."""

from __future__ import annotations

from ader.data.index import TRAIN, Index
from ader.settings._drawing import Count, draw_normal, only_normal, trained_categories
from ader.system.errors import UserError


def few_shot(index: Index, seed: int, k: Count) -> Index:
    """``k`` normal training images of each category, or objects where they have several views.

    Raises:
        UserError: a category has fewer.
    """
    index, keep = only_normal(index), set[str]()
    for category in trained_categories(index):
        drawn = draw_normal(index, category, seed, "few_shot")
        if len(drawn) < k:
            raise UserError(
                f"setting.k={k}: category {category!r} has {len(drawn)} normal training images: choose at most "
                f"{len(drawn)}, or name other categories"
            )
        keep.update(sample.image for unit in drawn[:k] for sample in unit)
    return index.where(lambda sample: sample.split != TRAIN or sample.image in keep)
