"""What a dataset is: a list of samples."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ader.system.errors import UserError, suggest

TRAIN, TEST = "train", "test"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what the dataset says of it.

    Attributes:
        image: path relative to the index's root, POSIX.
        category: what tables have a row for.
        split: ``"test"``, or a part of the training data: ``"train"``, ``"validation"``, or a part that a setting or a
            method's hold-out sets apart. Nothing with split ``"test"`` ever reaches a training stage.
        label: 1 = defective; from the dataset, never from a resized mask. A training image with label 0 and a
            defect's name is a wrong label, made on purpose (noisy training data).
        masks: paths of the masks whose union marks the defect. Label 1 and none: no pixel truth, the image is left out
            of pixel metrics.
        defect: ``"good"`` or the kind of defect.
        group: the object, where several images show views of one.
    """

    image: str
    category: str
    split: str
    label: int
    masks: tuple[str, ...] = ()
    defect: str = "good"
    group: str | None = None


@dataclass(frozen=True)
class Index:
    """A dataset's samples in a fixed order.

    Attributes:
        name: the dataset's name, used for the results folder.
        root: the folder that sample paths are relative to.
        samples: all samples, sorted by the reader.
        categories: category names in the dataset's own order; every one has samples.
        has_masks: whether the dataset has pixel truth at all (False: pixel metrics are undefined).
        lists: names of images that the dataset publishes for a protocol, by the list's name.
        exceptions: glob patterns (``*`` matches ``/`` too) of files that are as they are in the release: files that
            this index leaves out on purpose, and defective images that have no mask or an empty one.
        cautions: what readers of a result must know of the data, one clause each.
        bits: that the values in 16-bit images use, the same for all; None: nobody said so, and all 16 are taken.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    categories: tuple[str, ...] = field(default=())
    has_masks: bool = True
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exceptions: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    bits: int | None = None

    def __post_init__(self) -> None:
        if not self.categories:
            found = dict.fromkeys(sample.category for sample in self.samples)
            object.__setattr__(self, "categories", tuple(found))

    def __repr__(self) -> str:
        """One line, however many samples."""
        return (
            f"Index({self.name!r}, {len(self)} samples of {len(self.categories)} categories, root={str(self.root)!r})"
        )

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def path(self, relative: str) -> Path:
        """The absolute path of a sample's image or mask."""
        return self.root / relative

    def excepted(self, relative: str) -> bool:
        """Whether ``exceptions`` have a file."""
        return self._excepted is not None and self._excepted.match(relative) is not None

    @cached_property
    def _excepted(self) -> re.Pattern[str] | None:
        """One expression, because a dataset may except thousands of files."""
        return re.compile("|".join(map(fnmatch.translate, self.exceptions))) if self.exceptions else None

    def where(self, keep: Callable[[Sample], bool]) -> Index:
        """The samples for which ``keep`` holds, as an index of the categories that remain."""
        return self.with_samples(sample for sample in self.samples if keep(sample))

    def with_samples(self, samples: Iterable[Sample]) -> Index:
        """Other samples of the same dataset; categories without any are dropped."""
        chosen = tuple(samples)
        present = {sample.category for sample in chosen}
        categories = tuple(name for name in self.categories if name in present)
        return replace(self, samples=chosen, categories=categories)

    def cautioned(self, *cautions: str) -> Index:
        """The same index with more to know of it."""
        return replace(self, cautions=tuple(dict.fromkeys((*self.cautions, *cautions))))

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
        """Per category: images that are not for testing, normal test images, defective test images."""
        table = {name: [0, 0, 0] for name in self.categories}
        for sample in self.samples:
            column = 1 + sample.label if sample.split == TEST else 0
            table[sample.category][column] += 1
        return {name: (row[0], row[1], row[2]) for name, row in table.items()}

    def tally(self) -> dict[str, Counter[str]]:
        """Per category, images by split and label: ``train_good``, ``test_bad`` and so on."""
        table: dict[str, Counter[str]] = {name: Counter() for name in self.categories}
        for sample in self.samples:
            table[sample.category][f"{sample.split}_{'bad' if sample.label else 'good'}"] += 1
        return table

    def digest(self) -> str:
        """SHA-256 over the samples (relative paths, labels, splits): equal for a dataset that was moved."""
        rows: list[object] = []
        for s in sorted(self.samples, key=lambda s: (s.category, s.split, s.image)):
            # one mask by its name alone, not as a list of one: digests on disk have it so
            masks = s.masks[0] if len(s.masks) == 1 else list(s.masks) or None
            rows.append([s.image, s.category, s.split, s.label, masks, s.defect, s.group])
        if self.lists:
            rows.append({name: self.lists[name] for name in sorted(self.lists)})
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
