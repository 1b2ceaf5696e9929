"""Which mask belongs to which image: by name, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ader.data.image import read_image
from ader.data.index import Sample
from ader.data.listing import AGAIN, image_files, relative, stem_of
from ader.system.errors import UserError


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


def sample_by_mask(
    root: Path, image: Path, masks: Mapping[Path, Path], ending: str, category: str, split: str
) -> Sample:
    """The sample of an image whose mask alone says whether it is defective.

    Args:
        root: what paths are relative to.
        image: its file.
        masks: those of its folder, by image.
        ending: of the mask's name, for messages.
        category, split: the sample's.

    Raises:
        UserError: the mask is missing or cannot be read.
    """
    if image not in masks:
        expected = image.with_name(image.stem + ending)
        raise UserError(f"{image} has no mask, which alone says whether it is defective: expected {expected}, {AGAIN}")
    # These masks have 8 bits: what read_mask does for others takes ten times as long, and there are up to 3,335.
    label = int(read_image(masks[image]).getbbox() is not None)
    paths = (relative(masks[image], root),)
    return Sample(relative(image, root), category, split, label, paths, "bad" if label else "good")
