"""Labeled defects to train on, never most of what there is (IM-IAD "semi", protocols (h))."""

from __future__ import annotations

from ader.data.index import TEST, Index, Sample
from ader.settings._drawing import MOST, Count, as_training, draw_defective, only_normal, with_changed


def semi(index: Index, seed: int, n: Count) -> Index:
    """As ``labeled`` with ``k=n``, but with at most 75 % of a category's defective images."""
    index = only_normal(index)
    moved: dict[str, Sample] = {}
    for category in index.categories:
        drawn = draw_defective(index, category, TEST, seed)
        moved |= as_training(drawn[: min(n, int(MOST * len(drawn)))])
    return with_changed(index, moved)
