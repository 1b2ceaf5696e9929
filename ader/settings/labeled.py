"""A few labeled defects to train on: SegAD's protocol for VisA (k = 10) and MVTec AD (k = 20), protocols (c)."""

from __future__ import annotations

from ader.data.index import Index
from ader.settings._drawing import Count
from ader.settings.supervised import supervised


def labeled(index: Index, seed: int, k: Count) -> Index:
    """All normal training images, and ``k`` defective ones of each category that move from test to training, labeled.

    Raises:
        UserError: a category would have no defective test image left.
    """
    return supervised(index, seed, source="test", shots=k)
