"""Classification data as anomaly detection: images of some classes are normal, of the others anomalous.

The protocols of ADer and InvAD for CIFAR and Tiny ImageNet. There are no masks; the defect of an anomalous image is its
class. Every split of a protocol is a data set of its own, with one category named after it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.datasets._locating import choose_categories
from ader.system.errors import UserError

#: The images of each class, as sorted paths relative to the root; classes in the order of their numbers.
Images = Mapping[str, Sequence[str]]

QUOTA = 111  # anomalous test images of each class where one class is normal; of the class after that one, one more


def unified(train: Images, test: Images, split: int) -> list[Sample]:
    """Half of the classes are normal: the first half, the second half, those of even or those of odd number.

    Args:
        train, test: the data.
        split: 0 to 3, in this order.

    Raises:
        UserError: there is no such split.
    """
    classes, half = list(train), len(train) // 2
    rules = (slice(0, half), slice(half, None), slice(0, None, 2), slice(1, None, 2))
    normal = classes[rules[_checked(split, len(rules))]]
    category = f"split{split}"
    return [*_samples(_only(train, normal), normal, TRAIN, category), *_samples(test, normal, TEST, category)]


def one_normal(train: Images, test: Images, split: int) -> list[Sample]:
    """One class is normal; of each other one only the first test images are used.

    Args:
        train, test: the data.
        split: number of the normal class.

    Raises:
        UserError: there is no such class.
    """
    classes = list(train)
    normal, after = classes[_checked(split, len(classes))], classes[(split + 1) % len(classes)]
    few = {name: paths if name == normal else paths[: QUOTA + (name == after)] for name, paths in test.items()}
    category = f"normal{split}"
    return [*_samples(_only(train, [normal]), [normal], TRAIN, category), *_samples(few, [normal], TEST, category)]


def one_anomaly(train: Images, test: Images, split: int) -> list[Sample]:
    """All classes but one are normal; that one's training images are tested on as well.

    Args:
        train, test: the data.
        split: number of the anomalous class.

    Raises:
        UserError: there is no such class.
    """
    odd = list(train)[_checked(split, len(train))]
    normal = [name for name in train if name != odd]
    category = f"anomaly{split}"
    return [
        *_samples(_only(train, normal), normal, TRAIN, category),
        *_samples(test, normal, TEST, category),
        *_samples(_only(train, [odd]), normal, TEST, category),
    ]


def class_index(
    name: str,
    root: Path,
    categories: Sequence[str] | None,
    data: Sequence[Images],
    samples: Sequence[Sample],
    exceptions: Sequence[str] = (),
) -> Index:
    """The index of one split.

    Args:
        name: the dataset's.
        root: its folder.
        categories: the split's one category, or None.
        data: all images; folders of which some are not used become exceptions.
        samples: those that the split uses.
        exceptions: further ones.

    Raises:
        UserError: ``categories`` names another category.
    """
    used = {sample.image for sample in samples}
    paths = (path for images in data for some in images.values() for path in some)
    unused = {f"{posixpath.dirname(path)}/*" for path in paths if path not in used}
    category = samples[0].category
    return Index(
        name,
        root,
        tuple(sorted(samples, key=lambda sample: sample.image)),
        choose_categories(name, root, categories, (category,)),
        has_masks=False,
        exceptions=(*sorted(unused), *exceptions),
    )


def _checked(split: int, number: int) -> int:
    if not 0 <= split < number:
        raise UserError(f"dataset.split={split}: give a number from 0 to {number - 1}")
    return split


def _only(images: Images, classes: Sequence[str]) -> Images:
    return {name: images[name] for name in classes}


def _samples(images: Images, normal: Sequence[str], split: str, category: str) -> Iterator[Sample]:
    for name, paths in images.items():
        label, defect = (0, "good") if name in normal else (1, name)
        for path in paths:
            yield Sample(path, category, split, label, defect=defect)
