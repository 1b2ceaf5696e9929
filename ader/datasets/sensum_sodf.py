"""SensumSODF: capsules and softgels (solid oral dosage forms) with surface defects.

Paper: Rački, Tomaževič, Skočaj, "Detection of surface defects on pharmaceutical solid oral dosage forms with
convolutional neural networks", Neural Computing and Applications 2021. License: not stated; on request from Sensum.

::

    <root>/capsule/negative/data/000.png ...         (normal)
                  /positive/data/000.png ...         (defective)
                  /positive/annotation/000.png ...   (mask, same name)
          /softgel/ ...
          /sensum_splits/<category>/<fold>/{train,test}/{neg,pos}.pckl   (optional, for folds)

The images have no split. By default this is that of Beyond Academic Benchmarks, 150 normal images of each category
drawn for testing, except that theirs depends on the order in which a file system lists its files: here names are
sorted. Published lists give three folds for cross-validation, pickles of pairs (number, whether it has a mask); a
pickle is a program, so one that holds anything but plain values is refused, and nothing in it is run.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

from ader.config.ranges import Natural, Seed
from ader.data.index import TEST, TRAIN, Index, Sample
from ader.data.listing import AGAIN, image_files, relative
from ader.datasets._hold_out import hold_out
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._masks import pair_masks
from ader.system.errors import UserError
from ader.system.files import check_regular

CATEGORIES = ("capsule", "softgel")
KINDS = {"neg": "negative", "pos": "positive"}


def sensum_sodf(
    root: Path,
    categories: Sequence[str] | None = None,
    fold: Literal[0, 1, 2] | None = None,
    test_good: Natural = 150,
    seed: Seed = 143,
) -> Index:
    """Lists SensumSODF: capsules and softgels, split by a draw or by a fold of the published cross-validation.

    Args:
        root: the folder that holds ``capsule`` and ``softgel``.
        categories: those to read; None means both. The other need not be on disk.
        fold: of the published cross-validation; its defective training images have label 1. None: the split by a
            draw, all defects for testing.
        test_good: normal images of each category to draw for testing, where there is no fold.
        seed: of that draw.

    Raises:
        UserError: a folder, a mask or a list is missing, or a list does not fit the images.
    """
    root = find_root(root, lambda folder: bool(_on_disk(folder)), "capsule/negative/data and capsule/positive/data")
    wanted = choose_categories("sensum_sodf", root, categories, _on_disk(root), CATEGORIES)
    samples: list[Sample] = []
    left_out: list[str] = []
    for category in wanted:
        found = [sample for kind in KINDS.values() for sample in _read(root, category, kind)]
        if fold is None:
            samples += hold_out(found, test_good, seed, "test_good")
            continue
        splits = _read_fold(root, category, fold, {_name(sample) for sample in found})
        samples += [replace(s, split=splits[_name(s)]) for s in found if _name(s) in splits]
        left_out += [path for s in found if _name(s) not in splits for path in (s.image, *s.masks)]
    return Index("sensum_sodf", root, tuple(samples), wanted, exceptions=tuple(left_out))


def _on_disk(root: Path) -> list[str]:
    return [name for name in CATEGORIES if (root / name / "negative").is_dir()]


def _name(sample: Sample) -> str:
    """An image as the published lists refer to it."""
    return sample.image.rpartition(".")[0]


def _read(root: Path, category: str, kind: str) -> Iterator[Sample]:
    """The images of one folder; they have no split yet."""
    label = int(kind == "positive")
    images = image_files(root / category / kind / "data")
    masks = pair_masks(images, image_files(root / category / kind / "annotation") if label else [])
    for image in images:
        if label and image not in masks:
            expected = root / category / kind / "annotation" / f"{image.stem}.png"
            raise UserError(f"{image} is defective and has no mask: expected {expected}, {AGAIN}")
        paths = (relative(masks[image], root),) if label else ()
        yield Sample(relative(image, root), category, TRAIN, label, paths, "bad" if label else "good")


def _read_fold(root: Path, category: str, fold: int, known: set[str]) -> dict[str, str]:
    """The split of every image that the lists of a fold name; ``known`` are those that are there."""
    folder = root / "sensum_splits" / category / str(fold)
    splits: dict[str, str] = {}
    for split in (TRAIN, TEST):
        for sign, kind in KINDS.items():
            file = folder / split / f"{sign}.pckl"
            whole = file.with_name(f"{sign}_100.pckl")  # lists for weaker supervision have such names: all have masks
            for number in _read_list(file if file.exists() or not whole.exists() else whole):
                name = f"{category}/{kind}/data/{number:03}"
                if name in splits or name not in known:
                    problem = "twice" if name in splits else "which is not there"
                    raise UserError(f"{folder} lists {name}, {problem}: {AGAIN}")
                splits[name] = split
    return splits


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts and lists, and runs nothing: whatever else a pickle makes, it has to name first."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only plain numbers and lists are read")


def _read_list(file: Path) -> list[int]:
    """The images' numbers of one list."""
    check_regular(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): put the published folder sensum_splits there, or set "
            "dataset.fold=null"
        ) from error
    try:
        pairs = _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle breaks anywhere
        raise UserError(f"{file} is damaged or no list of pairs ({error}): {AGAIN}") from error
    as_published = isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and type(pair[0]) is int and isinstance(pair[1], int)
        for pair in pairs
    )
    if not as_published:
        raise UserError(f"{file} is not a list of pairs (number, whether it has a mask): {AGAIN}")
    return [number for number, _ in pairs]
