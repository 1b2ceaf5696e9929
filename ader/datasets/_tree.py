"""The folder layout of MVTec AD, which many datasets share.

::

    <root>/<category>/train/good/<stem>.<ext>
                     /validation/good/<stem>.<ext>             (some)
                     /test/<good or defect>/<stem>.<ext>
                     /ground_truth/<defect>/<stem>_mask.<ext>  or  <stem>.<ext>
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.data.listing import AGAIN, KINDS, SUFFIXES, folders, image_files, listing, relative
from ader.datasets._locating import NORMAL, choose_categories, find_categories, is_normal
from ader.datasets._masks import holds_masks, masks_among, masks_by_name
from ader.system.errors import UserError, some


@dataclass(frozen=True)
class Tree:
    """How a dataset's folders differ from MVTec AD's.

    Attributes:
        train, test, truth: folders of a category; ``truth`` may lie in ``test``.
        validation: the folder of further normal images, split ``"validation"``; None if there is none.
        masks: whether every defective test image has a mask; False: it may lack one.
        train_defects: whether training may hold folders of defective images (label 1).
        train_truth: the folder of their masks, which ``masks`` holds for as well; None: they have none.
        own: whether these are images of the user's own, whose folders and files are named in many ways.
        pair: finds the masks of each of these images in this folder, which need not exist.
    """

    train: str = "train"
    test: str = "test"
    truth: str = "ground_truth"
    validation: str | None = None
    masks: bool = True
    train_defects: bool = False
    train_truth: str | None = None
    own: bool = False
    pair: Callable[[Sequence[Path], Path], Mapping[Path, Sequence[Path]]] = masks_by_name

    def is_normal(self, name: str) -> bool:
        """Whether a folder of this name holds normal images."""
        return is_normal(name) if self.own else name in NORMAL

    @property
    def text(self) -> str:
        """The layout in a clause."""
        return (
            f"<category>/{self.train}/good, <category>/{self.test}/<good or defect>, <category>/{self.truth}/<defect>"
        )


MVTEC = Tree()


def read_tree(
    name: str,
    root: Path,
    categories: Sequence[str] | None = None,
    *,
    known: Sequence[str] | None = None,
    tree: Tree = MVTEC,
    exceptions: tuple[str, ...] = (),
) -> Index:
    """Lists a dataset in this layout; no image is opened.

    Args:
        name: the index's name.
        root: the folder that holds one folder per category. For a published dataset (``known``), or the folder that
            holds this one alone.
        categories: the categories to read; None means all. Others need not be on disk.
        known: the dataset's categories in its own order; None means those on disk, alphabetically.
        tree: the folders' names.
        exceptions: the index's.

    Returns:
        Samples category by category, in each sorted by POSIX path. A mask of a normal image is kept.
        ``has_masks`` is False when masks are optional and no defective image has one.

    Raises:
        UserError: a folder is missing or empty, or images and masks cannot be paired by name.
    """
    if known is None:
        wanted = choose_categories(name, root, categories, _categories_on_disk(root, tree))
    else:
        if root.name in known and is_category(root, tree):
            raise UserError(f"dataset.root: {root} {_is_one(root)}")
        root, wanted = find_categories(name, root, categories, known, tree.text)
    samples = [sample for category in wanted for sample in read_category(root, category, tree)]
    has_masks = tree.masks or any(sample.masks for sample in samples if sample.label)
    return Index(name, root, tuple(samples), wanted, has_masks, exceptions=exceptions)


def read_category(root: Path, folder: str, tree: Tree = MVTEC, category: str | None = None) -> list[Sample]:
    """The samples of one category, sorted by path.

    Args:
        root: what sample paths are relative to.
        folder: of the category, relative to it.
        tree: the folders' names.
        category: its name, where that is not the folder's.

    Raises:
        UserError: a folder is missing or empty, or images and masks cannot be paired by name.
    """
    place, category = root / folder, category or folder
    samples = [*_read_train(root, place, category, tree), *_read_test(root, place, category, tree)]
    if tree.validation is not None:
        part = place / tree.validation / "good"
        images = [relative(image, root) for image in image_files(part)]
        samples += [Sample(image, category, "validation", 0) for image in images]
    return sorted(samples, key=lambda sample: sample.image)


def _categories_on_disk(root: Path, tree: Tree) -> tuple[str, ...]:
    if not root.exists():
        raise UserError(f"dataset.root: {root} does not exist: put the dataset there, or set dataset.root")
    if not root.is_dir():
        raise UserError(f"dataset.root: {root} is a file, not a folder: set it to the unpacked folder")
    found = tuple(folder.name for folder in folders(root) if is_category(folder, tree))
    if found:
        return found
    # the user may have meant the layout one level up or down
    deeper = (folder for folder in folders(root) if any(is_category(inner, tree) for inner in folders(folder)))
    if is_category(root, tree):
        hint = f"it {_is_one(root)}"
    elif (folder := next(deeper, None)) is not None:
        hint = f"the categories lie one folder deeper, set dataset.root={folder}"
    else:
        hint = "put the dataset there, or set dataset.root to the folder that holds the category folders"
    raise UserError(f"dataset.root: {root} holds no category ({tree.text}): {hint}")


def is_category(folder: Path, tree: Tree = MVTEC) -> bool:
    """Whether a folder looks like a category's: it has the folder of training or of test images."""
    return (folder / tree.train).exists() or (folder / tree.test).exists()


def _is_one(root: Path) -> str:
    return f"is one category: set dataset.root={root.parent} and 'dataset.categories=[{root.name}]'"


def _read_train(root: Path, place: Path, category: str, tree: Tree) -> list[Sample]:
    folder = place / tree.train
    parts = _parts(folder, tree)
    other = [part.name for part in parts if not tree.is_normal(part.name)]
    if other and not tree.train_defects:
        raise UserError(
            f"{folder} holds {some(other, 3)}, but training images are normal and lie in {folder / 'good'}: "
            f"move defective ones to {place / tree.test}"
        )
    truth = place / tree.train_truth if tree.train_truth is not None else None
    samples = _read_parts(root, category, parts, truth, tree, TRAIN)
    if all(sample.label for sample in samples):
        raise UserError(f"category {category!r} has no training images: put some ({KINDS}) in {folder / 'good'}")
    return samples


def _read_test(root: Path, place: Path, category: str, tree: Tree) -> list[Sample]:
    folder, truth = place / tree.test, _truth(place, tree)
    parts = [part for part in _parts(folder, tree) if part != truth]
    truths = _parts(truth, tree, [part.name for part in parts if not tree.is_normal(part.name)])
    known = {_key(part, tree) for part in parts}
    orphans = [part for part in truths if _key(part, tree) not in known]
    if any(listing(orphan) for orphan in orphans):
        names = some(map(str, orphans), 3)
        raise UserError(f"masks without images: {names} has no folder of the same name in {folder}")
    samples = _read_parts(root, category, parts, truth, tree, TEST)
    if not samples:
        raise UserError(f"category {category!r} has no test images: put some ({KINDS}) in {folder / 'good'}")
    return samples


def _read_parts(
    root: Path, category: str, parts: Sequence[Path], truths: Path | None, tree: Tree, split: str
) -> list[Sample]:
    """The samples of folders that are named by what they show, as the folders of their masks in ``truths`` are."""
    samples: list[Sample] = []
    there = folders(truths) if truths is not None and truths.exists() else []
    for part in parts:
        named = [each for each in there if _key(each, tree) == _key(part, tree) and each.name != part.name]
        truth = None if truths is None else truths / part.name
        if truth is not None and not truth.exists() and len(named) == 1:
            truth = named[0]
        samples += read_part(root, category, part, truth, part.name, tree, split)
    return samples


def read_part(
    root: Path, category: str, folder: Path, truth: Path | None, defect: str, tree: Tree = MVTEC, split: str = TEST
) -> Iterator[Sample]:
    """The samples of one folder of images, for layouts whose folders are no ``Tree``.

    Args:
        root: what sample paths are relative to.
        category: of all of them.
        folder: holds the images.
        truth: the folder of their masks, which need not exist; None where there is none to look for.
        defect: what they show; ``good`` and ``ok`` mean normal.
        tree: how masks are paired, and whether each defective image must have one.
        split: of all of them.

    Raises:
        UserError: images and masks cannot be paired, or a mask is missing.
    """
    label = 0 if tree.is_normal(defect) else 1
    if tree.own:
        _refuse_masks_among(folder, truth)
    images = image_files(folder)
    pairs = {} if truth is None else tree.pair(images, truth)
    for image in images:
        masks = tuple(relative(mask, root) for mask in pairs.get(image, ()))
        if label and not masks and truth is not None and tree.masks:
            raise UserError(f"{image} is defective and has no mask: expected one of its name in {truth}: {AGAIN}")
        yield Sample(relative(image, root), category, split, label, masks, defect if label else "good")


def _key(part: Path, tree: Tree) -> str:
    """What two folders of one kind of defect have in common."""
    return part.name.casefold() if tree.own else part.name


def _truth(place: Path, tree: Tree) -> Path:
    """The folder of a category's masks, which need not exist."""
    if not tree.own:
        return place / tree.truth
    found = [folder for folder in folders(place) if holds_masks(folder.name) and _holds_images(folder)]
    if len(found) > 1:
        raise UserError(f"{place} has several folders of masks ({some([each.name for each in found])}): keep one")
    return found[0] if found else place / tree.truth


def _holds_images(folder: Path) -> bool:
    """Whether it does, or a folder in it: ``labels`` may hold text."""
    entries = [*listing(folder), *(entry for inner in folders(folder) for entry in listing(inner))]
    return any(entry.suffix.lower() in SUFFIXES for entry in entries)


def _refuse_masks_among(folder: Path, truth: Path | None) -> None:
    """A mask that is taken for an image would be scored as one."""
    entries = listing(folder)
    to = "remove them, training images are normal" if truth is None else f"move them to {truth}"
    nested = [entry.name for entry in entries if entry.is_dir() and holds_masks(entry.name)]
    if nested:
        raise UserError(f"{folder} holds a folder of masks ({nested[0]}): {to}")
    among = masks_among([entry for entry in entries if entry.suffix.lower() in SUFFIXES])
    for mask, image in among.items():
        raise UserError(
            f"{folder} holds masks among its images ({len(among)}, such as {mask.name} of {image.name}): {to}, or "
            "rename what is no mask"
        )


def _parts(folder: Path, tree: Tree, defects: Sequence[str] | None = None) -> list[Path]:
    """The sub-folders of ``train``, ``test`` or, for the test's ``defects``, of their masks.

    Raises:
        UserError: images lie beside them, or the user's own are named so that it is doubtful what they hold.
    """
    if defects is not None and not folder.exists():
        return []
    expected = f"a dataset in MVTec layout holds {tree.text}"
    others = [entry for entry in listing(folder, expected) if not entry.is_dir()]
    loose = [entry.name for entry in others if entry.suffix.lower() in SUFFIXES]
    if loose:
        if defects is not None:
            to = f"{folder / (defects[0] if len(defects) == 1 else '<defect>')}, named as the folder of their images"
        elif folder.name == tree.train:
            to = str(folder / "good")
        else:
            to = f"{folder / 'good'}, or those of defects to {folder / '<defect>'}"
        what = "images" if defects is None else "masks"
        raise UserError(f"{folder} holds {what} beside its folders ({some(loose, 3)}): move them to {to}")
    files = [entry for entry in others if entry.name in NORMAL]
    if files:
        raise UserError(f"{files[0]} is a file where a folder is expected: {AGAIN}")
    parts = folders(folder)
    if tree.own and defects is None:
        _refuse_doubtful(folder, [part.name for part in parts])
    return parts


def _refuse_doubtful(folder: Path, names: Sequence[str]) -> None:
    normal = [repr(name) for name in names if is_normal(name)]
    if len(normal) > 1:
        raise UserError(
            f"{folder} has {' and '.join(normal)}, which all say that images are normal: keep one, or rename what is "
            "a defect"
        )
    # "label" may well be a kind of defect
    masks = [name for name in names if holds_masks(name) and "label" not in name.casefold()]
    if masks:
        raise UserError(
            f"{folder} holds {masks[0]!r}, named as a folder of masks, among its folders of images: move masks to "
            f"{folder.parent / 'ground_truth' / '<defect>'}, or rename what is a defect"
        )
