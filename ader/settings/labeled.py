"""A few labeled defects to train on: SegAD's protocol for VisA (k = 10) and MVTec AD (k = 20), protocols (c)."""

from __future__ import annotations

from ader.data.index import TEST, Index, Sample
from ader.settings._drawing import (
    Count,
    as_training,
    draw_defective,
    enough,
    only_normal,
    trained_categories,
    with_changed,
)


def labeled(index: Index, seed: int, k: Count) -> Index:
    """All normal training images, and ``k`` defective ones of each category that move from test to training, labeled.

    Raises:
        UserError: a category would have no defective test image left.
    """
    moved: dict[str, Sample] = {}
    for category in trained_categories(index):
        drawn = draw_defective(index, category, TEST, seed)
        moved |= as_training(enough(drawn, k, category, f"setting.k={k}", leave=True))
    return with_changed(only_normal(index), moved)
