"""The MVTec folder layout, which many datasets share.

::

    <root>/<category>/train/good/<stem>.<ext>
                     /test/<good or defect>/<stem>.<ext>
                     /ground_truth/<defect>/<stem>_mask.<ext>  or  <stem>.<ext>
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ader.data.index import TEST, Index, Sample
from ader.errors import UserError, some, suggest

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
NORMAL = frozenset({"good", "ok"})
KINDS = " ".join(sorted(suffix[1:] for suffix in SUFFIXES))
CLUTTER = frozenset({"Thumbs.db", "__MACOSX"})
LAYOUT = "<category>/train/good, <category>/test/<good or defect>, <category>/ground_truth/<defect>"


def read_mvtec_layout(
    name: str,
    root: Path,
    categories: Sequence[str] | None = None,
    *,
    known: Sequence[str] | None = None,
    masks_optional: bool = False,
) -> Index:
    """Lists a dataset in MVTec layout; no image is opened.

    Args:
        name: the index's name.
        root: the folder that holds one folder per category.
        categories: the categories to read; None means all. Others need not be on disk.
        known: the dataset's categories in its own order; None means those on disk, alphabetically.
        masks_optional: whether a defective image may lack a mask (``mask=None``).

    Returns:
        Samples category by category, in each sorted by POSIX path. A mask in ``ground_truth/good`` is kept.
        ``masks`` is False when no defective image has a mask.

    Raises:
        UserError: a folder is missing or empty, or images and masks cannot be paired by name.
    """
    on_disk = _categories_on_disk(root, known)
    wanted = _wanted(name, root, categories, on_disk, known)
    samples: list[Sample] = []
    for category in wanted:
        samples += _read_category(root, category, masks_optional)
    masks = any(sample.mask is not None for sample in samples if sample.label)
    return Index(name, root, tuple(samples), wanted, masks or not masks_optional)


def image_files(folder: Path) -> list[Path]:
    """The images directly in ``folder``, sorted by name.

    Raises:
        UserError: the folder cannot be listed or holds folders (the layout is then another one).
    """
    entries = _listing(folder)
    nested = [entry.name for entry in entries if entry.is_dir()]
    if nested:
        raise UserError(f"{folder} holds folders ({some(nested, 3)}) where images are expected: move their images up")
    # A broken link is kept: it is reported as a missing file before training instead of being skipped here.
    return [entry for entry in entries if entry.suffix.lower() in SUFFIXES]


def _listing(folder: Path) -> list[Path]:
    """The entries of a folder without hidden files and operating-system clutter, sorted by name."""
    if not folder.exists():
        raise UserError(f"{folder} does not exist: a dataset in MVTec layout holds {LAYOUT}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file where a folder is expected: unpack the archive again")
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): change its permissions") from error
    return sorted((entry for entry in entries if entry.name not in CLUTTER), key=lambda entry: entry.name)


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _listing(folder) if entry.is_dir()]


def _is_category(folder: Path) -> bool:
    return (folder / "train").exists() or (folder / TEST).exists()


def _categories_on_disk(root: Path, known: Sequence[str] | None) -> tuple[str, ...]:
    if not root.exists():
        raise UserError(f"dataset.root: {root} does not exist: put the dataset there, or set dataset.root")
    if not root.is_dir():
        raise UserError(f"dataset.root: {root} is a file, not a folder: set it to the unpacked folder")
    found = [folder.name for folder in _folders(root) if _is_category(folder)]
    if known is not None:
        found = [name for name in known if name in found]
    if not found:
        such = "" if known is None else f" such as {known[0]!r}"
        raise UserError(f"dataset.root: {root} holds no category{such} ({LAYOUT}): {_where_else(root)}")
    return tuple(found)


def _where_else(root: Path) -> str:
    """Guesses what the user meant by a root without categories: the layout one level up or down."""
    if _is_category(root):
        return f"it is one category, set dataset.root={root.parent} and dataset.categories=[{root.name}]"
    for folder in _folders(root):
        if any(_is_category(inner) for inner in _folders(folder)):
            return f"the categories lie one folder deeper, set dataset.root={folder}"
    return "put the dataset there, or set dataset.root to the folder that holds the category folders"


def _wanted(
    name: str,
    root: Path,
    categories: Sequence[str] | None,
    on_disk: Sequence[str],
    known: Sequence[str] | None,
) -> tuple[str, ...]:
    """The categories to read, in the dataset's own order."""
    choices = on_disk if known is None else known
    if categories is None:
        asked = set(choices)
    else:
        asked = {categories} if isinstance(categories, str) else {str(category) for category in categories}
    if not asked:
        raise UserError("dataset.categories is empty: name at least one category, or set it to null for all")
    for category in sorted(asked - set(choices)):
        where = f"in {root}" if known is None else f"of dataset {name!r}"
        raise UserError(f"dataset.categories: {category!r} is not a category {where}: {suggest(category, choices)}")
    missing = [category for category in choices if category in asked and category not in on_disk]
    if missing:
        raise UserError(
            f"dataset {name!r}: {root} lacks {len(missing)} of {len(asked)} categories ({some(missing)}): "
            f"unpack the whole archive there, or set dataset.categories to those on disk ({some(on_disk)})"
        )
    return tuple(category for category in choices if category in asked)


def _read_category(root: Path, category: str, masks_optional: bool) -> list[Sample]:
    samples = _read_train(root, category) + _read_test(root, category, masks_optional)
    return sorted(samples, key=lambda sample: sample.image)


def _read_train(root: Path, category: str) -> list[Sample]:
    folder = root / category / "train"
    parts = _parts(folder)
    other = [part.name for part in parts if part.name not in NORMAL]
    if other:
        raise UserError(
            f"{folder} holds {some(other, 3)}, but training images are normal and lie in {folder / 'good'}: "
            f"move defective ones to {root / category / TEST}"
        )
    images = [image for part in parts for image in image_files(part)]
    if not images:
        raise UserError(f"category {category!r} has no training images: put some ({KINDS}) in {folder / 'good'}")
    return [Sample(_relative(image, root), category, "train", 0) for image in images]


def _read_test(root: Path, category: str, masks_optional: bool) -> list[Sample]:
    folder, truth = root / category / TEST, root / category / "ground_truth"
    parts = _parts(folder)
    truths = {part.name: part for part in (_parts(truth) if truth.exists() else [])}
    orphans = [str(truths[name]) for name in truths if name not in {part.name for part in parts}]
    if any(image_files(Path(orphan)) for orphan in orphans):
        raise UserError(f"masks without images: {some(orphans, 3)} has no folder of the same name in {folder}")
    samples: list[Sample] = []
    for part in parts:
        samples += _read_part(root, category, part, truths.get(part.name), masks_optional)
    if not samples:
        raise UserError(f"category {category!r} has no test images: put some ({KINDS}) in {folder / 'good'}")
    return samples


def _read_part(root: Path, category: str, folder: Path, truth: Path | None, masks_optional: bool) -> list[Sample]:
    """The samples of one folder of test images; its name says whether they are normal."""
    label = 0 if folder.name in NORMAL else 1
    images = image_files(folder)
    masks = pair_masks(images, image_files(truth) if truth else [])
    samples = []
    for image in images:
        mask = masks.get(image)
        if label and mask is None and not masks_optional:
            expected = root / category / "ground_truth" / folder.name / f"{image.stem}_mask.png"
            raise UserError(f"{image} is defective and has no mask: expected {expected}, unpack the archive again")
        truth_path = None if mask is None else _relative(mask, root)
        defect = folder.name if label else "good"
        samples.append(Sample(_relative(image, root), category, TEST, label, truth_path, defect))
    return samples


def pair_masks(images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path]:
    """Pairs the masks of one folder with the images of another by name, never by position.

    A mask belongs to the image of the same stem, or of the stem before ``_mask``.

    Raises:
        UserError: two images share a stem, an image has two masks, or a mask has no image.
    """
    by_stem: dict[str, Path] = {}
    for image in images:
        twin = by_stem.setdefault(_stem(image), image)
        if twin is not image:
            # Results are named by the stem as well, so this holds for images without masks too.
            raise UserError(
                f"{twin} and {image.name} have the same stem, so their masks cannot be told apart: rename one"
            )
    pairs: dict[Path, Path] = {}
    for mask in masks:
        stem = _stem(mask)
        owner = by_stem.get(stem) or by_stem.get(stem.removesuffix("_mask"))
        if owner is None:
            raise UserError(f"mask {mask} has no image {stem.removesuffix('_mask')}.*: add it, or remove the mask")
        if owner in pairs:
            raise UserError(f"{owner} has two masks, {pairs[owner]} and {mask.name}: remove one")
        pairs[owner] = mask
    return pairs


def _stem(path: Path) -> str:
    """The name without extension; composed, because some file systems store accents decomposed."""
    return unicodedata.normalize("NFC", path.stem)


def _parts(folder: Path) -> list[Path]:
    """The sub-folders of ``train``, ``test`` or ``ground_truth``; images beside them are an error."""
    others = [entry for entry in _listing(folder) if not entry.is_dir()]
    loose = [entry.name for entry in others if entry.suffix.lower() in SUFFIXES]
    if loose:
        raise UserError(f"{folder} holds images beside its folders ({some(loose, 3)}): move them to {folder / 'good'}")
    files = [entry for entry in others if entry.name in NORMAL]
    if files:
        raise UserError(f"{files[0]} is a file where a folder is expected: unpack the archive again")
    return _folders(folder)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
