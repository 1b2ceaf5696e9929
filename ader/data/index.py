"""What a dataset is: a list of samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ader.errors import UserError, some, suggest

TEST = "test"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what the dataset says of it.

    ``split`` is ``"test"`` or the name of a part of the training data: ``"train"``, or a part that a setting or a
    method's hold-out sets apart (``"calibration"``). Nothing with split ``"test"`` ever reaches a training stage.
    """

    image: str  # relative to the index's root, POSIX
    category: str
    split: str
    label: int  # 1 = defective; from the dataset, never from a resized mask
    mask: str | None = None  # label 1 and None: no pixel truth, the image is left out of pixel metrics
    defect: str = "good"
    group: str | None = None  # several views of one object


@dataclass(frozen=True)
class Index:
    """A dataset's samples in a fixed order.

    Attributes:
        name: the dataset's name, used for the results folder.
        root: the folder that sample paths are relative to.
        samples: all samples, sorted by the reader.
        categories: category names in the dataset's own order; every one has samples.
        masks: whether the dataset has pixel truth at all (False: pixel metrics are undefined).
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    categories: tuple[str, ...] = field(default=())
    masks: bool = True

    def __post_init__(self) -> None:
        if not self.categories:
            found = dict.fromkeys(sample.category for sample in self.samples)
            object.__setattr__(self, "categories", tuple(found))

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def path(self, relative: str) -> Path:
        """The absolute path of a sample's image or mask."""
        return self.root / relative

    def where(self, keep: Callable[[Sample], bool]) -> Index:
        """The samples for which ``keep`` holds, as an index of the categories that remain."""
        samples = tuple(sample for sample in self.samples if keep(sample))
        present = {sample.category for sample in samples}
        categories = tuple(name for name in self.categories if name in present)
        return replace(self, samples=samples, categories=categories)

    def split(self, name: str) -> Index:
        """The samples of one split; categories without any are dropped."""
        return self.where(lambda sample: sample.split == name)

    def select(self, categories: Sequence[str]) -> Index:
        """Only the named categories, in the index's own order.

        Raises:
            UserError: a name is not in the index.
        """
        for name in categories:
            if name not in self.categories:
                raise UserError(
                    f"dataset.categories: {name!r} is not in dataset {self.name!r} at {self.root}: "
                    + suggest(name, self.categories)
                )
        return self.where(lambda sample: sample.category in set(categories))

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Per category: training images, normal test images, defective test images."""
        table = {name: [0, 0, 0] for name in self.categories}
        for sample in self.samples:
            column = 1 + sample.label if sample.split == TEST else 0
            table[sample.category][column] += 1
        return {name: (row[0], row[1], row[2]) for name, row in table.items()}

    def digest(self) -> str:
        """SHA-256 over the samples (relative paths, labels, splits): equal for a dataset that was moved."""
        rows = [
            [s.image, s.category, s.split, s.label, s.mask, s.defect, s.group]
            for s in sorted(self.samples, key=lambda s: (s.category, s.split, s.image))
        ]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def check_counts(index: Index, counts: Mapping[str, Sequence[int]]) -> None:
    """Compares an index with the counts its dataset publishes.

    Args:
        index: what was found.
        counts: per category, training images, normal and defective test images.

    Raises:
        UserError: any category differs or is missing.
    """
    found = index.counts()
    wrong = [
        f"{name} has {'/'.join(map(str, found.get(name, (0, 0, 0))))}, published {'/'.join(map(str, row))}"
        for name, row in counts.items()
        if name in found and tuple(row) != found[name]
    ]
    if wrong:
        raise UserError(
            f"dataset {index.name!r} at {index.root} is not as published (train/test good/test defective): "
            f"{some(wrong)}: unpack the archive again, or set dataset.check_counts=false to run on what is there"
        )
