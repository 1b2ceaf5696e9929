"""KolektorSDD: surfaces of electrical commutators with cracks; one category.

Paper: Tabernik et al., "Segmentation-based deep-learning approach for surface-defect detection", Journal of
Intelligent Manufacturing 2020. License: CC BY-NC-SA 4.0. Images: gray JPEG, 500 wide, 1240 to 1270 high.

::

    <root>/kos01/Part0.jpg  Part0_label.bmp  Part1.jpg  Part1_label.bmp ...
          ...
          /kos50/

Every image has a label file, and nothing but its pixels says whether the image is defective, so the reader opens all
399 of them. The archive has no split for training on normal images only; this one is anomalib's: of the normal images
by path, 80 % are for training (``train_test_split`` of scikit-learn with ``random_state=42``), all defects for testing.
``KolektorSDD-boxes.zip`` has other masks under the same names and is read alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ader.data.index import TRAIN, Index, Sample
from ader.data.listing import folders, image_files
from ader.datasets._hold_out import hold_out_share
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._masks import pair_masks, sample_by_mask

CATEGORIES = ("kolektor_sdd",)


def kolektor_sdd(
    root: Path, categories: Sequence[str] | None = None, train_share: float = 0.8, seed: int = 42
) -> Index:
    """Lists KolektorSDD: one category, tested on all defects and on normal images that are drawn.

    Masks of normal images are kept: they are files of zeros.

    Args:
        root: the folder that holds ``kos01`` to ``kos50``.
        categories: ``kolektor_sdd`` or None.
        train_share: of the normal images, between 0 and 1.
        seed: of the draw of normal images for testing.

    Raises:
        UserError: a mask is missing or unreadable, or a part of the split would be empty.
    """
    wanted = choose_categories("kolektor_sdd", root, categories, CATEGORIES, CATEGORIES)
    root = find_root(root, lambda folder: (folder / "kos01").is_dir(), "kos01 to kos50")
    samples: list[Sample] = []
    for item in folders(root):
        if re.fullmatch(r"kos\d+", item.name):
            files = image_files(item)
            images = [file for file in files if not file.stem.endswith("_label")]
            pairs = pair_masks(images, [file for file in files if file.stem.endswith("_label")], "_label")
            samples += [sample_by_mask(root, image, pairs, "_label.bmp", "kolektor_sdd", TRAIN) for image in images]
    return Index("kolektor_sdd", root, tuple(hold_out_share(samples, train_share, seed)), wanted)
