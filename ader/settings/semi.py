"""Labeled defects to train on, never most of what there is (IM-IAD "semi", protocols (h))."""

from __future__ import annotations

from ader.data.index import Index, Sample
from ader.settings._drawing import Capped, Count, as_training, only_normal, trained_categories, with_changed


def semi(index: Index, seed: int, n: Count) -> Index:
    """As ``labeled`` with ``k=n``, but with at most 75 % of a category's defective images.

    Raises:
        UserError: a category has fewer than ``n`` defective test images.
    """
    index, capped, moved = only_normal(index), Capped(f"setting.n={n}"), dict[str, Sample]()
    for category in trained_categories(index):
        moved |= as_training(capped.draw(index, category, n, seed))
    return capped.mark(with_changed(index, moved))
