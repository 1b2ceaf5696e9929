"""MVTec 3D-AD, its RGB images: 10 categories.

Paper: Bergmann et al., "The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and Localization",
VISAPP 2022. License: CC BY-NC-SA 4.0. There is no ``ground_truth``: each folder of test images has its masks beside it,
of the same names::

    <category>/train/good/rgb/000.png          (xyz/000.tiff beside it: 3-D points, left out)
              /validation/good/rgb/000.png
              /test/<good or defect>/rgb/000.png
              /test/<defect>/gt/000.png        (of good images too, all zero)

ADer trains on ``train`` and ``validation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import TRAIN, Index, Sample
from ader.data.listing import folders
from ader.datasets._locating import find_categories
from ader.datasets._tree import read_part

CATEGORIES = ("bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire")


def mvtec3d(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists the RGB images of MVTec 3D-AD as unpacked from ``mvtec_3d_anomaly_detection.tar.xz``.

    Args:
        root: the folder that holds ``bagel``, ``cable_gland`` and so on.
        categories: those to read; None means all 10. The others need not be on disk.

    Raises:
        UserError: a category, its images or the mask of a defective one is missing.
    """
    layout = "<category>/train/good/rgb, <category>/test/<good or defect>/rgb and gt"
    root, wanted = find_categories("mvtec3d", root, categories, CATEGORIES, layout)
    samples: list[Sample] = []
    for category in wanted:
        place = root / category
        found: list[Sample] = []
        for split in (TRAIN, "validation"):
            found += read_part(root, category, place / split / "good" / "rgb", None, "good", split=split)
        for part in folders(place / "test"):
            found += read_part(root, category, part / "rgb", part / "gt", part.name)
        samples += sorted(found, key=lambda sample: sample.image)
    return Index("mvtec3d", root, tuple(samples), wanted, exceptions=("*/xyz/*",))
