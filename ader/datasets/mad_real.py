"""MAD-Real: 10 real toy animals seen from many poses.

Paper: Zhou et al., "PAD: A Dataset and Benchmark for Pose-agnostic Anomaly Detection", NeurIPS 2023 Datasets and
Benchmarks. License: CC BY-NC-SA 4.0. Layout of MVTec AD; the masks are PNG and have the image's stem without suffix,
whatever the image's extension::

    <category>/train/good/<stem>.<ext>
              /test/<good or defect>/<stem>.<ext>
              /ground_truth/<defect>/<stem>.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import Index
from ader.datasets._tree import read_tree

CATEGORIES = ("Bear", "Bird", "Elephant", "Parrot", "Pig", "Puppy", "Scorpion", "Turtle", "Unicorn", "Whale")


def mad_real(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists MAD-Real: photographs of 10 toy animals in many poses, a category each.

    Args:
        root: the folder that holds ``Bear``, ``Bird`` and so on.
        categories: those to read; None means all 10. The others need not be on disk.

    Raises:
        UserError: a category, its images or a mask is missing.
    """
    return read_tree("mad_real", root, categories, known=CATEGORIES)
