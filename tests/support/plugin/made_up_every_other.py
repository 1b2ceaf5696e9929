"""A third party's setting."""

from ader.data.index import TEST, Index
from ader.settings._drawing import Count


def every_other(index: Index, seed: int, step: Count = 2, leak: bool = False) -> Index:
    """Every ``step``-th training image; with ``leak``, the test's images are trained on."""
    if leak:
        return index.with_samples([*index, *index.split(TEST)])
    trained = [sample for sample in index if sample.split != TEST][::step]
    return index.where(lambda sample: sample.split == TEST or sample in trained)
