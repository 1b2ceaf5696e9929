"""CIFAR-10 as anomaly detection: some of its ten classes are normal, the others anomalous; no masks.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; protocols of ADer and InvAD
(``ader.datasets._class_splits``). License: not stated by the authors. Images: RGB, 32x32. The archive holds pickled
arrays, of which ``prepare`` makes PNG files (``ader.datasets._cifar_batches``).

::

    <root>/{train,test}/<class>/<batch>_<number>.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ader.config.ranges import Natural
from ader.data.index import Index
from ader.datasets._cifar_batches import Archive, make_images, read_images
from ader.datasets._class_splits import class_index, one_anomaly, one_normal, unified
from ader.datasets._preparing import Work

ARCHIVE = Archive(
    "cifar10",
    "cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    labels="labels",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
PROTOCOLS = {"uni": unified, "one_normal": one_normal, "one_anomaly": one_anomaly}


def cifar10(
    root: Path,
    categories: Sequence[str] | None = None,
    protocol: Literal["uni", "one_normal", "one_anomaly"] = "uni",
    split: Natural = 0,
) -> Index:
    """Lists one split of CIFAR-10: images of normal and of anomalous classes, without masks; one category.

    Args:
        root: the folder that ``prepare`` filled.
        categories: the split's one category (``split0``, ``normal3``, ``anomaly7``) or None.
        protocol: five normal classes, one, or nine; see ``ader.datasets._class_splits``.
        split: 0 to 3 for ``uni``, else the number of the one class.

    Raises:
        UserError: the dataset is not prepared, or there is no such split.
    """
    data = read_images(root, ARCHIVE)
    return class_index("cifar10", root, categories, data, PROTOCOLS[protocol](*data, split))


def prepare(root: Path, source: Path, work: Work) -> None:
    """Makes a PNG file of each of the 60,000 images in the unpacked archive.

    Args:
        root: where to put them.
        source: the folder that holds ``cifar-10-batches-py``, or this one itself.
        work: surroundings.

    Raises:
        UserError: the batches are missing, damaged or hold something else, or the images cannot be written.
    """
    make_images(root, source, work, ARCHIVE)
