"""CIFAR-100 as anomaly detection: half of its hundred classes are normal, the others anomalous; no masks.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; protocol of ADer and InvAD
(``ader.datasets._class_splits``), on the fine labels. License: not stated by the authors. Images: RGB, 32x32. The
archive holds pickled arrays, of which ``prepare`` makes PNG files (``ader.datasets._cifar_batches``).

::

    <root>/{train,test}/<class>/{train,test}_<number>.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.config.ranges import Natural
from ader.data.index import Index
from ader.datasets._cifar_batches import Archive, make_images, read_images
from ader.datasets._class_splits import class_index, unified
from ader.datasets._preparing import Work

ARCHIVE = Archive(
    "cifar100",
    "cifar-100-python.tar.gz",
    train=("train",),
    test=("test",),
    labels="fine_labels",
    classes=(
        *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle"),
        *("bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle"),
        *("chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur"),
        *("dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard"),
        *("lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain"),
        *("mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck"),
        *("pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road"),
        *("rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake"),
        *("spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television"),
        *("tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf"),
        *("woman", "worm"),
    ),
)


def cifar100(root: Path, categories: Sequence[str] | None = None, split: Natural = 0) -> Index:
    """Lists one split of CIFAR-100: images of fifty normal and fifty anomalous classes, without masks; one category.

    Args:
        root: the folder that ``prepare`` filled.
        categories: the split's one category (``split0``) or None.
        split: 0 to 3, see ``ader.datasets._class_splits.unified``.

    Raises:
        UserError: the dataset is not prepared, or there is no such split.
    """
    data = read_images(root, ARCHIVE)
    return class_index("cifar100", root, categories, data, unified(*data, split))


def prepare(root: Path, source: Path, work: Work) -> None:
    """Makes a PNG file of each of the 60,000 images in the unpacked archive.

    Args:
        root: where to put them.
        source: the folder that holds ``cifar-100-python``, or this one itself.
        work: surroundings.

    Raises:
        UserError: the batches are missing, damaged or hold something else, or the images cannot be written.
    """
    make_images(root, source, work, ARCHIVE)
