"""Tiny ImageNet as anomaly detection: half of its 200 classes are normal, the others anomalous; no masks.

A course's excerpt of ImageNet (Stanford CS231n); protocol of ADer (``ader.datasets._class_splits``). License: terms of
ImageNet. Images: JPEG, 64x64, some gray. Classes are numbered in the order of their WordNet numbers.

::

    <root>/train/<WordNet number>/images/<WordNet number>_<number>.JPEG     also a list of boxes, not needed
          /val/images/val_<number>.JPEG                                     the test images
          /val/val_annotations.txt                                          <file> TAB <WordNet number> TAB <box>
          /test/images/test_<number>.JPEG                                   without labels, not used
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.config.ranges import Natural
from ader.data.index import Index
from ader.data.listing import AGAIN, folders, image_files, relative
from ader.datasets._class_splits import class_index, unified
from ader.datasets._locating import find_root
from ader.system.errors import UserError, some
from ader.system.files import check_regular

CLASSES = 200
LIST = "val/val_annotations.txt"


def tiny_imagenet(root: Path, categories: Sequence[str] | None = None, split: Natural = 0) -> Index:
    """Lists one split of Tiny ImageNet as unpacked from ``tiny-imagenet-200.zip``.

    Args:
        root: the folder that holds ``train`` and ``val``, or the one that holds this one alone.
        categories: the split's one category (``split0``) or None.
        split: 0 to 3, see ``ader.datasets._class_splits.unified``.

    Raises:
        UserError: a class, an image or the list of labels is missing, or there is no such split.
    """
    root = find_root(
        root, lambda folder: (folder / "train").is_dir() and (folder / LIST).is_file(), f"train and {LIST}"
    )
    classes = folders(root / "train")
    if len(classes) != CLASSES:
        raise UserError(f"{root / 'train'} holds {len(classes)} folders, one for each of {CLASSES} classes: {AGAIN}")
    train = {folder.name: [relative(image, root) for image in image_files(folder / "images")] for folder in classes}
    labels = _read_labels(root / LIST, list(train))
    found = image_files(root / "val" / "images", f"the {LIST} beside it names its images; {AGAIN}")
    missing, more = labels.keys() - {image.name for image in found}, {image.name for image in found} - labels.keys()
    if missing or more:
        what = f"lacks {some(sorted(missing), 3)}" if missing else f"has {some(sorted(more), 3)}"
        raise UserError(f"{root / 'val' / 'images'} {what}, against {root / LIST}: {AGAIN}")
    test: dict[str, list[str]] = {name: [] for name in train}
    for image in found:
        test[labels[image.name]].append(relative(image, root))
    return class_index(
        "tiny_imagenet", root, categories, (train, test), unified(train, test, split), ("test/images/*",)
    )


def _read_labels(file: Path, classes: Sequence[str]) -> dict[str, str]:
    """The class of every file."""
    check_regular(file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}): {AGAIN}") from error
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if label not in classes or name in labels:
            raise UserError(f"{file}, line {number} ({line[:40]!r}) is not a new file's name and its class: {AGAIN}")
        labels[name] = label
    return labels
