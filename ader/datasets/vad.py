"""VAD, the Valeo Anomaly Dataset: one category, with labeled defects for training and without masks.

Paper: Baitieva et al., "Supervised Anomaly Detection for Complex Industrial Images" (SegAD), CVPR 2024. License:
CC BY-NC-SA 4.0. Images: PNG, 512x512; some have a thin black strip at the lower border.

::

    <root>/train/{good,bad}/<number>.png
          /test/{good,bad,bad_unseen_defects}/<number>.png
          /low_shot_train.json                              {"<run>": [<100 names of files in train/bad>], ...}

``bad_unseen_defects`` holds kinds of defect that training does not have; nothing but the folder says so. The official
script copies the listed images to ``low_shot_train/<run>/bad``; the copies are not read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ader.data.index import TRAIN, Index
from ader.data.listing import AGAIN
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._tree import Tree, read_category
from ader.system.errors import UserError, some
from ader.system.files import check_regular

CATEGORIES = ("vad",)
TREE = Tree(masks=False, train_defects=True)


def vad(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists VAD: one category, labeled defects in training, further kinds of defect in the test, no masks.

    Defective training images have label 1. A copy without ``train/bad`` (one-class) is read as well.

    Args:
        root: the folder that holds ``train`` and ``test``.
        categories: ``vad`` or None.

    Returns:
        ``Index.lists`` has a list ``low_shot_<run>`` for each of ``low_shot_train.json``, in the file's order; none
        where there is no such file or no ``train/bad``.

    Raises:
        UserError: a folder is missing or empty, or the lists do not fit the images.
    """
    wanted = choose_categories("vad", root, categories, CATEGORIES, CATEGORIES)
    root = find_root(root, lambda folder: (folder / "train" / "good").is_dir(), "train/good and test/good")
    samples = read_category(root, ".", TREE, "vad")
    defective = {sample.image for sample in samples if sample.split == TRAIN and sample.label}
    file = root / "low_shot_train.json"
    lists = _read_lists(file, defective) if defective and file.exists() else {}
    return Index("vad", root, tuple(samples), wanted, has_masks=False, lists=lists, exceptions=("low_shot_train/*",))


def _read_lists(file: Path, defective: set[str]) -> dict[str, tuple[str, ...]]:
    """The lists of the low-shot protocol, as paths of images."""
    check_regular(file)
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): {AGAIN}") from error
    if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
        raise UserError(f"{file} is no object of lists of file names: {AGAIN}")
    lists = {f"low_shot_{key}": tuple(f"train/bad/{name}" for name in names) for key, names in content.items()}
    for key, names in lists.items():
        unknown = sorted(set(names) - defective)
        if unknown:
            raise UserError(f"{file} lists for {key} what is not there ({some(unknown, 3)}): {AGAIN}")
    return lists
