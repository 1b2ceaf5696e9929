"""The archives of CIFAR-10 and CIFAR-100: pickled arrays, which become PNG files.

::

    <source>/cifar-10-batches-py/data_batch_1 ...   {"data": uint8 (10000, 3072), "labels": [int, ...], ...}
            /cifar-100-python/train, test           {"data": uint8 (50000, 3072), "fine_labels": [int, ...], ...}
    <root>/{train,test}/<class>/<batch>_<number of the image in its batch, 5 digits>.png
          /prepared.json                            written last

A row of ``data`` is the red, the green and the blue plane, 32 x 32 each. Python 2 wrote these pickles. A pickle is a
program; these are read without running it, by ``ader.mapfiles.pickled``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ader.data.index import TEST, TRAIN
from ader.data.listing import AGAIN, image_files, relative
from ader.datasets._class_splits import Images
from ader.datasets._locating import find_root
from ader.datasets._preparing import Work, keep_or_write, make_files, png
from ader.mapfiles.pickled import Array, ForeignError, Span, Walker, explained
from ader.system.errors import MissingDataError, UserError

MARKER = "prepared.json"
SIDE = 32  # pixels


@dataclass(frozen=True)
class Archive:
    """The archive of CIFAR-10 or of CIFAR-100: its files, and how they name classes.

    Attributes:
        name: of the dataset.
        file: of the archive.
        train, test: its batches.
        labels: the key of the classes' numbers.
        classes: their names.
    """

    name: str
    file: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    classes: tuple[str, ...]

    @property
    def batches(self) -> list[tuple[str, str]]:
        """Split and name of every batch."""
        return [*((TRAIN, name) for name in self.train), *((TEST, name) for name in self.test)]


def read_images(root: Path, archive: Archive) -> tuple[Images, Images]:
    """Training and test images that ``make_images`` made.

    Raises:
        UserError: they are not there, or not all.
    """
    if not (root / MARKER).is_file():
        raise MissingDataError(
            f"dataset.root: {root} is not prepared, it has no {MARKER}",
            f"unpack {archive.file} there and run `ader data prepare dataset={archive.name}_uni`, or set dataset.root",
        )
    again = f"delete {root / MARKER} and prepare the dataset again"
    train, test = (
        {name: [relative(image, root) for image in image_files(root / split / name, again)] for name in archive.classes}
        for split in (TRAIN, TEST)
    )
    return train, test


def make_images(root: Path, source: Path, work: Work, archive: Archive) -> None:
    """Makes a PNG file of every image, and the marker when all are there.

    Args:
        root: where to put them.
        source: the folder of the unpacked archive, or the one that holds it.
        work: surroundings.
        archive: which of the two.

    Raises:
        UserError: the batches are missing, damaged or hold something else, or the images cannot be written.
    """
    if (root / MARKER).is_file():
        work.console.say(f"{root} is prepared already; to do it again, delete {MARKER} there")
        return
    names = [name for _, name in archive.batches]
    source = find_root(source, lambda f: all((f / name).is_file() for name in names), f"{names[0]} of {archive.file}")
    for split, _ in archive.batches:
        if (root / split).is_file():  # a batch of CIFAR-100
            raise UserError(f"{root / split} is a file where a folder is to be made: move {archive.file}'s folder down")
    counts = {TRAIN: 0, TEST: 0}
    for split, name in archive.batches:
        work.check()
        pixels, labels = read_batch(source / name, archive)
        folders = [root / split / archive.classes[label] for label in labels]

        def make(number: int) -> tuple[Path, bytes]:
            return folders[number] / f"{name}_{number:05}.png", png(pixels[number])  # noqa: B023 used in this turn only

        make_files(work, f"{archive.name} {name}", range(len(labels)), make)
        counts[split] += len(labels)
    keep_or_write(root / MARKER, f"{json.dumps({'dataset': archive.name, **counts})}\n".encode())


def read_batch(path: Path, archive: Archive) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """A batch's images, (N, 32, 32, 3), and their classes' numbers.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    with explained(path, f"{AGAIN} ({archive.file})", AGAIN):
        with path.open("rb") as file:
            content = _Python2(file).walk()
        data, labels = (content.get(key) for key in ("data", archive.labels)) if isinstance(content, dict) else (0, 0)
        if not isinstance(data, Array) or not isinstance(labels, list):
            raise ForeignError(f"holds no array 'data' with a list {archive.labels!r}")
        wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label < len(archive.classes)]
        if wrong:
            last = len(archive.classes) - 1
            raise ForeignError(f"holds a label {str(wrong[0])[:20]!r}, which is no number from 0 to {last}")
        data.check()
        values = data.load(path)
        if values.dtype != np.uint8 or values.shape != (len(labels), 3 * SIDE * SIDE):
            raise ForeignError(f"holds {len(labels)} labels and {values.dtype} images of shape {values.shape}")
    return values.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels


class _Python2(Walker):
    """Reads lists as well, and the strings of Python 2: short ones as texts, long ones as bytes."""

    def other(self, name: str, argument: Any) -> None:
        if name == "EMPTY_LIST":
            self.stack.append([])
        elif name in ("APPEND", "APPENDS"):
            items = self.take(len(self.stack) - 1 if name == "APPEND" else self.marks.pop())
            self.stack[-1].extend(items)
        elif name == "SHORT_BINSTRING":
            self.stack.append(argument)
        elif name == "BINSTRING":
            self.stack.append(Span(self.file.tell() - len(argument), len(argument)))
        else:
            super().other(name, argument)
