"""KolektorSDD2: surfaces of production items with scratches, spots and so on; one category, with defects to train on.

Paper: Božič et al., "Mixed supervision for surface-defect detection", Computers in Industry 2021. License:
CC BY-NC-SA 4.0. Images: RGB PNG, about 230x630, sizes vary.

::

    <root>/train/10000.png  10000_GT.png ... 12330.png  12330_GT.png
          /test/20000.png   20000_GT.png ... 21003.png  21003_GT.png

Every image has a mask, and nothing but its pixels says whether the image is defective, so the reader opens all of them.
The archive holds two strays, ``train/10301 (copy).png`` and its mask: only names that are numbers count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.data.listing import AGAIN, image_files
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._masks import pair_masks, sample_by_mask
from ader.system.errors import UserError

CATEGORIES = ("kolektor_sdd2",)


def kolektor_sdd2(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists KolektorSDD2: one category with labeled defects in training and test.

    Defective training images have label 1. Masks of normal images are kept: they are files of zeros.

    Args:
        root: the folder that holds ``train`` and ``test``.
        categories: ``kolektor_sdd2`` or None.

    Raises:
        UserError: a folder is missing or empty, or a mask is missing or unreadable.
    """
    wanted = choose_categories("kolektor_sdd2", root, categories, CATEGORIES, CATEGORIES)
    root = find_root(root, lambda folder: (folder / "train").is_dir(), "train/10000.png and test/20000.png")
    samples: list[Sample] = []
    for split in (TEST, TRAIN):
        files = image_files(root / split)
        images = [file for file in files if re.fullmatch(r"\d+", file.stem)]
        masks = [file for file in files if re.fullmatch(r"\d+_GT", file.stem)]
        if not images:
            raise UserError(f"{root / split} holds no images: {AGAIN}")
        pairs = pair_masks(images, masks, "_GT")
        samples += [sample_by_mask(root, image, pairs, "_GT.png", "kolektor_sdd2", split) for image in images]
    return Index("kolektor_sdd2", root, tuple(samples), wanted, exceptions=("* (copy).png",))
