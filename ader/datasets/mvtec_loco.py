"""MVTec LOCO AD: 5 categories with logical and structural anomalies.

Paper: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
Localization", IJCV 130, 2022. License: CC BY-NC-SA 4.0. As MVTec AD, with a validation split, and a folder of masks
for each anomalous image, one for each of its defects; their union is the mask::

    <category>/defects_config.json
              /train/good/000.png   /validation/good/000.png
              /test/{good,logical_anomalies,structural_anomalies}/000.png
              /ground_truth/{logical,structural}_anomalies/000/000.png, 001.png ...

A mask's only value besides 0 is the number of its kind of defect, often not 255, and it may have no 0 at all. The paper
reports both kinds of anomaly apart, each against all good images: that is ``metric.by_defect=true``. ADer trains on
``train`` and ``validation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import Index
from ader.data.listing import folders, image_files
from ader.datasets._masks import pair_masks
from ader.datasets._tree import Tree, read_tree

CATEGORIES = ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")


def mvtec_loco(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists MVTec LOCO AD as unpacked from ``mvtec_loco_anomaly_detection.tar.xz``.

    Args:
        root: the folder that holds ``breakfast_box``, ``juice_bottle`` and so on.
        categories: those to read; None means all 5. The others need not be on disk.

    Raises:
        UserError: a category, its images or the masks of an anomalous one are missing.
    """
    tree = Tree(validation="validation", pair=_mask_folders)
    return read_tree("mvtec_loco", root, categories, known=CATEGORIES, tree=tree)


def _mask_folders(images: Sequence[Path], truth: Path) -> dict[Path, list[Path]]:
    """The masks of an image are all files in the folder of its stem."""
    pairs = pair_masks(images, folders(truth) if truth.exists() else [], suffix="")
    return {image: image_files(folder) for image, folder in pairs.items()}
