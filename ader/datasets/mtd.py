"""Magnetic tile defects: photographs of magnetic tiles with five kinds of defect; one category.

Paper: Huang, Qiu, Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2020. License: none
stated. Images: 8-bit gray JPEG, sizes vary.

::

    <root>/MT_Blowhole/Imgs/exp1_num_108719.jpg  exp1_num_108719.png ...   (image and mask)
          /MT_Break  MT_Crack  MT_Fray  MT_Uneven
          /MT_Free/Imgs/exp0_num_743.jpg  exp0_num_743.png ...             (normal, masks all zero)

There is no official split: this one tests on all defects and on 20 % of the normal images, drawn. Masks have soft
borders with many gray levels; everything above 0 counts as defective. Four masks of ``MT_Uneven`` are all zero: those
images are defective and have no pixel truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.config.ranges import Probability, Seed
from ader.data.index import TRAIN, Index, Sample
from ader.data.listing import AGAIN, image_files, relative
from ader.datasets._hold_out import hold_out_share
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._masks import pair_masks
from ader.system.errors import UserError

CATEGORIES = ("magnetic_tile",)
FOLDERS = ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Free", "MT_Uneven")
#: Defective images whose mask is all zero.
EMPTY_MASKS = tuple(
    f"MT_Uneven/Imgs/{stem}" for stem in ("exp3_num_45042", "exp4_num_124690", "exp4_num_352527", "exp4_num_45057")
)


def mtd(root: Path, categories: Sequence[str] | None = None, train_share: Probability = 0.8, seed: Seed = 42) -> Index:
    """Lists the magnetic tile defects as they lie in their repository.

    Masks of normal images are kept: they are files of zeros.

    Args:
        root: the folder that holds ``MT_Free`` and so on.
        categories: ``magnetic_tile`` or None.
        train_share: of the normal images, between 0 and 1.
        seed: of the draw of normal images for testing.

    Raises:
        UserError: a folder or a mask is missing, or a part of the split would be empty.
    """
    wanted = choose_categories("mtd", root, categories, CATEGORIES, CATEGORIES)
    root = find_root(root, lambda folder: (folder / "MT_Free").is_dir(), "MT_Free, MT_Blowhole and so on")
    samples: list[Sample] = []
    for name in FOLDERS:
        files = image_files(root / name / "Imgs")
        images = [file for file in files if file.suffix.lower() != ".png"]
        pairs = pair_masks(images, [file for file in files if file.suffix.lower() == ".png"])
        defect = "good" if name == "MT_Free" else name.removeprefix("MT_").lower()
        for image in images:
            if image not in pairs:
                raise UserError(f"{image} has no mask: expected {image.with_suffix('.png')}, {AGAIN}")
            path = relative(image, root)
            empty = path.rpartition(".")[0] in EMPTY_MASKS
            paths = () if empty else (relative(pairs[image], root),)
            samples.append(Sample(path, "magnetic_tile", TRAIN, int(defect != "good"), paths, defect))
    return Index(
        "mtd",
        root,
        tuple(hold_out_share(samples, train_share, seed)),
        wanted,
        exceptions=(*(f"{stem}.*" for stem in EMPTY_MASKS), "dataset.*"),  # the readme's pictures
    )
