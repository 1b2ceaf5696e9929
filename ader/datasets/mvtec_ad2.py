"""MVTec AD 2, what is published with labels: 8 categories under changing light.

Paper: Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly Detection",
arXiv 2503.21622. License: CC BY-NC-SA 4.0. Layout::

    <category>/train/good/000_regular.png
              /validation/good/000_regular.png
              /test_public/{good,bad}/000_regular.png, 000_overexposed.png, 000_shift_1.png ...
              /test_public/ground_truth/bad/000_regular_mask.png
              /test_private/000_regular.png   /test_private_mixed/000_mixed.png

All defects lie in one folder ``bad``. Test images show a scene several times under other light; each is an image of its
own, so that no groups are made. The private test images have no labels (MVTec's server has them) and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import Index
from ader.datasets._tree import Tree, read_tree

CATEGORIES = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")
PRIVATE = ("*/test_private/*", "*/test_private_mixed/*")


def mvtec_ad2(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists MVTec AD 2 as unpacked from ``mvtec_ad_2.tar.gz``, or from the archives of its categories.

    Args:
        root: the folder that holds ``can``, ``fabric`` and so on.
        categories: those to read; None means all 8. The others need not be on disk.

    Raises:
        UserError: a category, its images or a mask is missing.
    """
    tree = Tree(test="test_public", truth="test_public/ground_truth", validation="validation")
    return read_tree("mvtec_ad2", root, categories, known=CATEGORIES, tree=tree, exceptions=PRIVATE)
