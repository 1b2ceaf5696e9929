"""Defects among the training images that nobody knows of (IM-IAD "noisy", protocols (d) and (h))."""

from __future__ import annotations

from ader.data.index import Index, Sample
from ader.settings._drawing import (
    Capped,
    Ratio,
    as_normal,
    at_least_one,
    draw_normal,
    only_normal,
    trained_categories,
    with_changed,
)


def noisy(index: Index, seed: int, ratio: Ratio) -> Index:
    """Defective test images move to training as if they were normal.

    Of each category the number of its training images (objects, where they have several views) times ``ratio``, cut to
    an integer, and at most 75 % of its defective ones. IM-IAD's published commands leave them in the test as well; this
    does not.

    Raises:
        UserError: a category has not so many, or the ratio is less than one image of it.
    """
    index, asked = only_normal(index), f"setting.ratio={ratio}"
    capped, moved = Capped(asked), dict[str, Sample]()
    for category in trained_categories(index):
        normal = len(draw_normal(index, category, seed, "noisy"))
        wanted = at_least_one(int(ratio * normal), category, normal, asked)
        moved |= as_normal(capped.draw(index, category, wanted, seed))
    return capped.mark(with_changed(index, moved))
