"""One model for each category, trained on normal images: what most papers report (IM-IAD "vanilla", protocols (b))."""

from __future__ import annotations

from ader.data.index import Index
from ader.settings import Models
from ader.settings._drawing import only_normal

MODELS: Models = "category"


def single_class(index: Index, seed: int) -> Index:
    """Every normal training image; labeled defects in the training data are left out, published noise is not."""
    return only_normal(index)
