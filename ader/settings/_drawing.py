"""What settings share: drawing objects by the seed alone, and moving them between training and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ader.config.ranges import Count as Count
from ader.data.index import TEST, TRAIN, Index, Sample
from ader.system.errors import UserError, some

Ratio = Annotated[float, Field(gt=0, lt=1)]

#: All images of one object: of several views, or the only one.
Unit = list[Sample]

#: IM-IAD never takes more of a category's defective test images than this share.
MOST = 0.75


def only_normal(index: Index) -> Index:
    """Without the training data's labeled defects (ADer, protocols (a); IM-IAD "vanilla", (b)).

    Defects that a dataset publishes as noise, labeled normal, stay.
    """
    return index.where(lambda sample: sample.split == TEST or sample.label == 0)


def trained_categories(index: Index) -> tuple[str, ...]:
    """The categories that have training images; drifts may be tested only."""
    return index.split(TRAIN).categories


def of_split(index: Index, category: str, split: str) -> list[Sample]:
    """The samples of one category in one split, in the index's order."""
    return [sample for sample in index if sample.category == category and sample.split == split]


def draw(samples: Iterable[Sample], seed: int, purpose: str) -> list[Unit]:
    """Objects in random order, of which a setting takes the first so many: draws of all sizes are nested.

    An object's place comes from the SHA-256 of seed, purpose and name, so that neither a library's version nor other
    images change it.

    Args:
        samples: to draw from.
        seed: of the run.
        purpose: what is drawn; different words draw independently.
    """
    units: dict[str, Unit] = {}
    for sample in samples:
        units.setdefault(sample.group or sample.image, []).append(sample)
    order = sorted(units, key=lambda name: hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest())
    return [units[name] for name in order]


def draw_normal(index: Index, category: str, seed: int, purpose: str) -> list[Unit]:
    """A category's normal training objects in random order.

    Of an object with a labeled defect these are the views that do not show it.
    """
    return draw([sample for sample in of_split(index, category, TRAIN) if not sample.label], seed, purpose)


def draw_defective(index: Index, category: str, split: str, seed: int) -> list[Unit]:
    """A category's defective objects in random order, their views without a defect included."""
    units = draw(of_split(index, category, split), seed, "defective")
    return [unit for unit in units if any(sample.label for sample in unit)]


def enough(units: list[Unit], wanted: int, category: str, asked: str, leave: bool) -> list[Unit]:
    """The first ``wanted`` units.

    Args:
        units: a category's defective objects.
        wanted: so many.
        category: its name, for messages.
        asked: the key and value that ask for them, for messages.
        leave: one has to stay in the test.

    Raises:
        UserError: there are fewer, or with ``leave`` none would remain.
    """
    most = max(0, len(units) - leave)
    if wanted > most:
        raise UserError(
            f"{asked}: category {category!r} has {len(units)} defective images to draw {wanted} from: choose at most "
            f"{most}{' (one has to stay in the test)' if leave else ''}, or name other categories"
        )
    return units[:wanted]


class Capped:
    """Draws from the defective test objects as IM-IAD does: never more than 75 % of a category's.

    Args:
        asked: the key and value that ask for them, for messages.
    """

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.fewer: list[str] = []

    def draw(self, index: Index, category: str, wanted: int, seed: int) -> list[Unit]:
        """``wanted`` of a category's, or the 75 %; ``mark`` then says so.

        Raises:
            UserError: there are not so many at all, or 75 % of them is none.
        """
        units = draw_defective(index, category, TEST, seed)
        most = int(MOST * len(units))
        if wanted > len(units) or not most:
            raise UserError(
                f"{self.asked}: of category {category!r}, {wanted} defective images are to move to training; the test "
                f"has {len(units)}, of which at most {most} (75 %) move: choose less, or name other categories"
            )
        if wanted > most:
            self.fewer.append(f"{category} {most} instead of {wanted}")
        return units[:most][:wanted]

    def mark(self, index: Index) -> Index:
        """The index, with a caution where there were fewer than asked for."""
        if not self.fewer:
            return index
        return index.cautioned(f"{self.asked}: at most 75 % of a category's defects move: {some(self.fewer)}")


def at_least_one(wanted: int, category: str, normal: int, asked: str) -> int:
    """``wanted``, the number that a ratio asks for.

    Raises:
        UserError: it is none, so that the category's training data would be as before.
    """
    if wanted < 1:
        raise UserError(
            f"{asked}: of the {normal} training images of category {category!r} that is less than one: choose more, or "
            "name other categories"
        )
    return wanted


def as_training(units: Iterable[Unit]) -> dict[str, Sample]:
    """The samples as training data, by image, with their labels and masks."""
    return {sample.image: replace(sample, split=TRAIN) for unit in units for sample in unit}


def as_normal(units: Iterable[Unit]) -> dict[str, Sample]:
    """The samples as training data that is said to be normal, by image: label 0, no masks."""
    return {sample.image: replace(sample, split=TRAIN, label=0, masks=()) for unit in units for sample in unit}


def with_changed(index: Index, changed: Mapping[str, Sample]) -> Index:
    """The index with some samples, by image, in place of its own."""
    return index.with_samples(changed.get(sample.image, sample) for sample in index)
