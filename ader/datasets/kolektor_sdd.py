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
from collections.abc import Mapping, Sequence
from pathlib import Path

from ader.data.image import read_image
from ader.data.index import TRAIN, Index, Sample
from ader.data.listing import AGAIN, folders, image_files, relative
from ader.datasets._base import choose, hold_out_share, pair_masks, settle
from ader.system.errors import UserError

CATEGORIES = ("kolektor_sdd",)


def kolektor_sdd(
    root: Path, categories: Sequence[str] | None = None, train_share: float = 0.8, seed: int = 42
) -> Index:
    """Lists KolektorSDD.

    Masks of normal images are kept: they are files of zeros.

    Args:
        root: the folder that holds ``kos01`` to ``kos50``.
        categories: ``kolektor_sdd`` or None.
        train_share: of the normal images, between 0 and 1.
        seed: of the draw of normal images for testing.

    Raises:
        UserError: a mask is missing or unreadable, or a part of the split would be empty.
    """
    wanted = choose("kolektor_sdd", root, categories, CATEGORIES, CATEGORIES)
    root = settle(root, lambda folder: (folder / "kos01").is_dir(), "kos01 to kos50")
    samples: list[Sample] = []
    for item in folders(root):
        if re.fullmatch(r"kos\d+", item.name):
            files = image_files(item)
            images = [file for file in files if not file.stem.endswith("_label")]
            pairs = pair_masks(images, [file for file in files if file.stem.endswith("_label")], "_label")
            samples += [judged(root, image, pairs, "_label.bmp", "kolektor_sdd", TRAIN) for image in images]
    return Index("kolektor_sdd", root, tuple(hold_out_share(samples, train_share, seed)), wanted)


def judged(root: Path, image: Path, masks: Mapping[Path, Path], ending: str, category: str, split: str) -> Sample:
    """The sample of an image whose mask alone says whether it is defective.

    Args:
        root: what paths are relative to.
        image: its file.
        masks: those of its folder, by image.
        ending: of the mask's name, for messages.
        category, split: the sample's.

    Raises:
        UserError: the mask is missing or cannot be read.
    """
    if image not in masks:
        expected = image.with_name(image.stem + ending)
        raise UserError(f"{image} has no mask, which alone says whether it is defective: expected {expected}, {AGAIN}")
    # These masks have 8 bits: what read_mask does for others takes ten times as long, and there are up to 3,335.
    label = int(read_image(masks[image]).getbbox() is not None)
    paths = (relative(masks[image], root),)
    return Sample(relative(image, root), category, split, label, paths, "bad" if label else "good")
