"""Defects among the training images that nobody knows of (IM-IAD "noisy", protocols (d) and (h))."""

from __future__ import annotations

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.settings._drawing import MOST, Ratio, as_normal, draw_defective, of_split, only_normal, with_changed


def noisy(index: Index, seed: int, ratio: Ratio) -> Index:
    """Defective test images move to training as if they were normal.

    Of each category the number of its training images times ``ratio``, cut to an integer, and at most 75 % of its
    defective images. IM-IAD's published commands leave them in the test as well; this does not.
    """
    index = only_normal(index)
    moved: dict[str, Sample] = {}
    for category in index.categories:
        drawn = draw_defective(index, category, TEST, seed)
        wanted = int(ratio * len(of_split(index, category, TRAIN)))
        moved |= as_normal(drawn[: min(wanted, int(MOST * len(drawn)))])
    return with_changed(index, moved)
