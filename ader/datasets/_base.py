"""What readers share: finding the dataset below its root, choosing categories, pairing masks, splitting what has no
split.

Nothing here opens an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ader.data.index import TEST, TRAIN, Sample
from ader.data.listing import folders, image_files, stem_of
from ader.system.errors import UserError, some, suggest

NORMAL = frozenset({"good", "ok"})


def settle(root: Path, holds: Callable[[Path], bool], expected: str) -> Path:
    """The folder that holds a published dataset: its root, or the only folder in it that does.

    Archives often have one more folder level than expected.

    Args:
        root: what the user gave.
        holds: whether a folder holds the dataset.
        expected: what it then contains, for messages.

    Raises:
        UserError: there is none, or several.
    """
    if not root.exists():
        raise UserError(f"dataset.root: {root} does not exist: put the dataset there ({expected}), or set dataset.root")
    if not root.is_dir():
        raise UserError(f"dataset.root: {root} is a file, not a folder: set it to the unpacked folder")
    if holds(root):
        return root
    deeper = [folder for folder in folders(root) if holds(folder)]
    if len(deeper) == 1:
        return deeper[0]
    if deeper:
        raise UserError(
            f"dataset.root: {root} holds several copies ({some([f.name for f in deeper])}): set dataset.root to one"
        )
    raise UserError(f"dataset.root: {root} does not hold {expected}: put the dataset there, or set dataset.root")


def choose(
    name: str,
    root: Path,
    categories: Sequence[str] | None,
    on_disk: Sequence[str],
    known: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """The categories to read, in the dataset's own order.

    Args:
        name: the dataset's.
        root: its folder.
        categories: those asked for; None means all.
        on_disk: those that are there.
        known: all that the dataset has; None means those that are there.

    Raises:
        UserError: one is unknown or not there.
    """
    choices = on_disk if known is None else known
    if categories is None:
        asked = set(choices)
    else:
        asked = {categories} if isinstance(categories, str) else {str(category) for category in categories}
    if not asked:
        raise UserError("dataset.categories is empty: name at least one category, or set it to null for all")
    for category in sorted(asked - set(choices)):
        where = f"in {root}" if known is None else f"of dataset {name!r}"
        hint = " (in YAML, quote a name that looks like a number)" if category.isdigit() else ""
        raise UserError(
            f"dataset.categories: {category!r} is not a category {where}: {suggest(category, choices)}{hint}"
        )
    missing = [category for category in choices if category in asked and category not in on_disk]
    if missing:
        raise UserError(
            f"dataset {name!r}: {root} lacks {len(missing)} of {len(asked)} categories ({some(missing)}): "
            f"unpack the whole archive there, or set dataset.categories to those on disk ({some(on_disk)})"
        )
    return tuple(category for category in choices if category in asked)


def find_categories(
    name: str, root: Path, categories: Sequence[str] | None, known: Sequence[str], layout: str
) -> tuple[Path, tuple[str, ...]]:
    """The folder of a published dataset that has one folder per category, and the categories to read.

    Args:
        name: the dataset's.
        root: what the user gave.
        categories: those asked for; None means all.
        known: all that the dataset has, in its own order.
        layout: the folders in a clause, for messages.

    Raises:
        UserError: the dataset, or a category that was asked for, is not there.
    """
    root = settle(root, lambda folder: any((folder / one).is_dir() for one in known), f"{known[0]} ({layout})")
    on_disk = [one for one in known if (root / one).is_dir()]
    return root, choose(name, root, categories, on_disk, known)


def masks_by_name(images: Sequence[Path], truth: Path) -> dict[Path, tuple[Path, ...]]:
    """The mask of each image that has one: see ``pair_masks``.

    Args:
        images: of one folder.
        truth: the folder of their masks; it need not exist.

    Raises:
        UserError: images and masks cannot be paired.
    """
    masks = image_files(truth) if truth.exists() else []
    return {image: (mask,) for image, mask in pair_masks(images, masks).items()}


def pair_masks(images: Sequence[Path], masks: Sequence[Path], suffix: str = "_mask") -> dict[Path, Path]:
    """Pairs the masks of one folder with the images of another by name, never by position.

    A mask belongs to the image of the same stem, or of the stem before ``suffix``.

    Raises:
        UserError: two images share a stem, an image has two masks, or a mask has no image.
    """
    by_stem: dict[str, Path] = {}
    for image in images:
        twin = by_stem.setdefault(stem_of(image), image)
        if twin is not image:
            # Results are named by the stem as well, so this holds for images without masks too.
            raise UserError(
                f"{twin} and {image.name} have the same stem, so their masks cannot be told apart: rename one"
            )
    pairs: dict[Path, Path] = {}
    for mask in masks:
        stem = stem_of(mask)
        owner = by_stem.get(stem) or by_stem.get(stem.removesuffix(suffix))
        if owner is None:
            raise UserError(f"mask {mask} has no image {stem.removesuffix(suffix)}.*: add it, or remove the mask")
        if owner in pairs:
            raise UserError(f"{owner} has two masks, {pairs[owner]} and {mask.name}: remove one")
        pairs[owner] = mask
    return pairs


def hold_out(samples: Sequence[Sample], number: int, seed: int, option: str) -> list[Sample]:
    """Splits a dataset that has no split: tests on every defective image and on some normal ones, drawn.

    For a seed these are the same on every machine: those that scikit-learn's ``train_test_split`` puts into its test
    part with ``random_state=seed``.

    Args:
        samples: in a fixed order; their ``split`` is replaced.
        number: how many normal images to draw.
        seed: of the generator.
        option: of the dataset, that says how many; for messages.

    Raises:
        UserError: training or testing would have no normal images, or the seed is out of range.
    """
    good = [sample for sample in samples if not sample.label]
    if not 0 < number < len(good):
        raise UserError(
            f"dataset.{option}: {number} of {len(good)} normal images would be for testing, the others for training: "
            "give a value that leaves some for both"
        )
    if not 0 <= seed < 1 << 32:
        raise UserError(f"dataset.seed={seed}: give a number from 0 to {(1 << 32) - 1}")
    order = np.random.RandomState(seed).permutation(len(good))  # its numbers are the same in every version of NumPy
    drawn = {good[place] for place in order[:number]}
    return [replace(s, split=TEST if s.label or s in drawn else TRAIN) for s in samples]


def hold_out_share(samples: Sequence[Sample], train_share: float, seed: int) -> list[Sample]:
    """As ``hold_out``, with a share of the normal images for training (rounded down, as scikit-learn does).

    Raises:
        UserError: as for ``hold_out``.
    """
    if not 0 < train_share < 1:
        raise UserError(f"dataset.train_share={train_share}: give a number between 0 and 1")
    good = sum(not sample.label for sample in samples)
    return hold_out(samples, good - int(train_share * good), seed, "train_share")


def inside(path: str, where: str) -> str:
    """A path that a list gives, as samples have it: without double slashes and ``.``.

    Args:
        path: relative to the dataset's folder, POSIX.
        where: the list and the place in it, for messages.

    Raises:
        UserError: it is empty, absolute, leads out of the folder or has backslashes.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or re.match("/|[A-Za-z]:", path) or "\\" in path or "\0" in path:
        raise UserError(f"{where}: {path!r} is no path below the dataset's folder, with / between its parts: fix it")
    return "/".join(parts)
