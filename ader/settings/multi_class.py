"""One model for all categories, trained on normal images: the setting of ADer's tables (protocols (a))."""

from __future__ import annotations

from ader.data.index import Index
from ader.settings import Models
from ader.settings._drawing import only_normal

MODELS: Models = "all"


def multi_class(index: Index, seed: int) -> Index:
    """Every normal training image; labeled defects in the training data are left out, published noise is not."""
    return only_normal(index)
