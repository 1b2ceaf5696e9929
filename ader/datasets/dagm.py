"""DAGM 2007: ten synthetic textures with weakly labeled defects, in training data too.

Source: competition "Weakly supervised learning for industrial optical inspection", DAGM symposium 2007 (Wieler, Hahn).
License: CC BY 4.0. Images: 8-bit gray, 512x512, ``.PNG`` in capitals.

::

    <root>/Class1/Train/0576.PNG ...  Train/Label/0577_label.PNG ...   (a label file for defective images only)
                 /Test/0001.PNG ...   Test/Label/0002_label.PNG ...
          ...
          /Class10/

Often unpacked as ``Class1/Class1/Train``. Masks are coarse ellipses, some of them degenerate (most in Class8), so pixel
metrics mean little. ``Label/Labels.txt`` repeats what the label files say and is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.data.listing import AGAIN, SUFFIXES, image_files, listing, relative
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._masks import pair_masks
from ader.system.errors import UserError

CATEGORIES = tuple(f"Class{number}" for number in range(1, 11))
FOLDERS = {TEST: "Test", TRAIN: "Train"}


def dagm(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists DAGM 2007: ten textures, labeled defects in training and test, ellipses as masks.

    An image is defective if it has a label file. Defective training images have label 1.

    Args:
        root: the folder that holds ``Class1`` to ``Class10``.
        categories: those to read; None means all ten. The others need not be on disk.

    Raises:
        UserError: a folder is missing or has no images, or a label file has no image.
    """
    root = find_root(root, lambda folder: bool(_on_disk(folder)), "Class1/Train and Class1/Test")
    wanted = choose_categories("dagm", root, categories, _on_disk(root), CATEGORIES)
    samples: list[Sample] = []
    for category, (split, name) in product(wanted, FOLDERS.items()):
        folder = _place(root, category) / name
        images = [entry for entry in listing(folder) if entry.suffix.lower() in SUFFIXES]
        if not images:
            raise UserError(f"{folder} holds no images: {AGAIN}")
        masks = pair_masks(images, image_files(folder / "Label"), "_label")
        for image in images:
            paths = (relative(masks[image], root),) if image in masks else ()
            defect = "bad" if paths else "good"
            samples.append(Sample(relative(image, root), category, split, len(paths), paths, defect))
    return Index("dagm", root, tuple(samples), wanted, exceptions=("*/Label/Labels.txt",))  # the list of the masks


def _on_disk(root: Path) -> list[str]:
    return [name for name in CATEGORIES if (_place(root, name) / "Train").is_dir()]


def _place(root: Path, category: str) -> Path:
    """The folder of a category, which may lie in one of the same name."""
    nested = root / category / category
    return nested if nested.is_dir() else root / category
