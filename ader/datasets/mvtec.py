"""MVTec AD: 15 categories of textures and objects.

Paper: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
CVPR 2019, and IJCV 129(4) 2021. License: CC BY-NC-SA 4.0. Images: PNG, 700 to 1024 pixels a side; grid, screw
and zipper are gray. Every defective image has one mask (0 / 255, same size as the image).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import Index
from ader.datasets._tree import read_tree

# Textures, then objects: the order of ADer's tables.
CATEGORIES = (
    *("carpet", "grid", "leather", "tile", "wood"),
    *(
        "bottle",
        "cable",
        "capsule",
        "hazelnut",
        "metal_nut",
        "pill",
        "screw",
        "toothbrush",
        "transistor",
        "zipper",
    ),
)


def mvtec(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists MVTec AD as unpacked from ``mvtec_anomaly_detection.tar.xz``.

    Args:
        root: the folder that holds ``bottle``, ``cable`` and so on.
        categories: those to read; None means all 15. The others need not be on disk.

    Raises:
        UserError: a category, its images or a mask is missing.
    """
    return read_tree("mvtec", root, categories, known=CATEGORIES)
