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
Published copies hold pictures twice: kos26 is kos01 and kos34 is kos27, two of them with cracks. Copies stay on one
side of the split, so that no tested image was trained on; the numbers of images are those of anomalib's split.
``KolektorSDD-boxes.zip`` has other masks under the same names and is read alike.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ader.config.ranges import Probability, Seed
from ader.data.index import TRAIN, Index, Sample
from ader.data.listing import folders, image_files
from ader.datasets._hold_out import hold_out_share
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._masks import pair_masks, sample_by_mask
from ader.system.errors import some
from ader.system.files import sha256

log = logging.getLogger(__name__)

CATEGORIES = ("kolektor_sdd",)


def kolektor_sdd(
    root: Path, categories: Sequence[str] | None = None, train_share: Probability = 0.8, seed: Seed = 42
) -> Index:
    """Lists KolektorSDD: one category, tested on all defects and on normal images that are drawn.

    Masks of normal images are kept: they are files of zeros. Images that are copies of others are drawn together, and
    the log names them.

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
    copies = _copies(root, samples)
    if copies:
        named = some((f"{one} = {other}" for one, other in copies.items()), 2)
        log.warning("%s: %d images are copies (%s), and stay on one side of the split", root, len(copies), named)
    return Index("kolektor_sdd", root, tuple(hold_out_share(samples, train_share, seed, copies)), wanted)


def _copies(root: Path, samples: Sequence[Sample]) -> dict[str, str]:
    """Images whose files equal that of an earlier one, and which."""
    sizes = Counter((root / sample.image).stat().st_size for sample in samples)
    first: dict[str, str] = {}
    copies: dict[str, str] = {}
    for sample in samples:
        file = root / sample.image
        if sizes[file.stat().st_size] > 1:
            original = first.setdefault(sha256(file), sample.image)
            if original != sample.image:
                copies[sample.image] = original
    return copies
