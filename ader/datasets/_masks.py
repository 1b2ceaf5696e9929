"""Which mask belongs to which image: by name, never by position."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ader.data.image import read_image
from ader.data.index import Sample
from ader.data.listing import AGAIN, image_files, relative, stem_of
from ader.system.errors import UserError, some

#: Words that say that a file or folder is a mask, or holds masks; between separators, in any case.
MASK_WORDS = frozenset({"mask", "masks", "gt", "groundtruth", "label", "labels", "seg", "segmentation", "annotation"})

#: And those that say that it is an image.
IMAGE_WORDS = frozenset({"image", "images", "img", "rgb"})


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


def own_masks_by_name(images: Sequence[Path], truth: Path) -> dict[Path, tuple[Path, ...]]:
    """As ``masks_by_name``, for files that a user or a labelling tool named."""
    masks = image_files(truth) if truth.exists() else []
    return {image: (mask,) for image, mask in pair_masks(images, masks, own=True).items()}


def masks_among(files: Sequence[Path]) -> dict[Path, Path]:
    """Files of one folder that are named as masks of others in it: mask -> image."""
    says_mask = {file: not MASK_WORDS.isdisjoint(_words(stem_of(file))) for file in files}
    images = {bare(stem_of(file)): file for file in files if not says_mask[file]}
    return {file: images[name] for file in files if says_mask[file] and (name := bare(stem_of(file))) in images}


def holds_masks(name: str) -> bool:
    """Whether a folder's name says nothing but that it holds masks: ``Ground_truth``, ``gt``, not ``solder_mask``."""
    return not MASK_WORDS.isdisjoint(_words(name)) and not bare(name)


def bare(stem: str) -> tuple[str, ...]:
    """The words of a stem, without case, but those for masks and images."""
    return tuple(word for word in _words(stem) if word not in MASK_WORDS | IMAGE_WORDS)


def _words(name: str) -> list[str]:
    joined = re.sub("ground[ ._-]*truth", "groundtruth", name.casefold())
    return [word for word in re.split("[ ._-]+", joined) if word]


def pair_masks(
    images: Sequence[Path], masks: Sequence[Path], suffix: str = "_mask", own: bool = False
) -> dict[Path, Path]:
    """Pairs the masks of one folder with the images of another by name, never by position.

    A mask belongs to the image of the same stem, or of the stem before ``suffix``. Where a user named the files
    (``own``), it may also belong to the only image with the same ``bare`` name.

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
    by_name: dict[tuple[str, ...], list[Path]] = {}
    for image in images:
        by_name.setdefault(bare(stem_of(image)), []).append(image)
    pairs: dict[Path, Path] = {}
    for mask in masks:
        stem = stem_of(mask)
        owner = by_stem.get(stem) or by_stem.get(stem.removesuffix(suffix))
        near = by_name.get(bare(stem), [])
        if owner is None and len(near) == 1:
            if not own:
                name = f"{near[0].stem}{suffix}{mask.suffix}"
                raise UserError(
                    f"mask {mask} is not named as that of {near[0].name} is expected to be: rename it {name}"
                )
            owner = near[0]
        if owner is None:
            if near:
                names = some([image.name for image in near], 3)
                raise UserError(f"mask {mask} fits several images ({names}): name it as one of them, before {suffix}")
            name = "_".join(bare(stem)) if own else stem.removesuffix(suffix)
            raise UserError(f"mask {mask} has no image {name}.*: add it, or remove the mask")
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
