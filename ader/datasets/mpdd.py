"""MPDD, Metal Parts Defect Detection: 6 kinds of painted metal parts.

Paper: Jezek et al., "Deep learning-based defect detection of metal parts: evaluating current methods in complex
conditions", ICUMT 2021. License: CC BY-NC-SA 4.0 (as readers give it). The layout, names and masks are those of
MVTec AD. MPDD2 is another dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import Index
from ader.datasets._tree import read_tree

CATEGORIES = ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes")


def mpdd(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists MPDD: six kinds of painted metal parts, a category each, with masks.

    Args:
        root: the folder that holds ``bracket_black``, ``bracket_brown`` and so on.
        categories: those to read; None means all 6. The others need not be on disk.

    Raises:
        UserError: a category, its images or a mask is missing.
    """
    return read_tree("mpdd", root, categories, known=CATEGORIES)
