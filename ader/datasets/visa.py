"""VisA: 12 objects, with three published splits.

Paper: Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and Segmentation", ECCV 2022.
License: CC BY 4.0 (the data's license file). Images: RGB JPEG, ``.JPG`` in capitals, 1.0 to 1.6 thousand pixels a side.

Raw, as in the archive, read through the lists of a split::

    <root>/split_csv/1cls.csv  2cls_fewshot.csv  2cls_highshot.csv     (object,split,label,image,mask)
          /candle/Data/Images/Normal/0000.JPG ...
                 /Data/Images/Anomaly/000.JPG ...
                 /Data/Masks/Anomaly/000.png ...

Converted by the official script or by ``prepare`` (anomalib's copy is the same without the level of the split)::

    <root>/1cls/candle/train/good/0836.JPG  test/{good,bad}/000.JPG  ground_truth/bad/000.png
          /2cls_fewshot/candle/{train,test}/{good,bad}/000.JPG       ground_truth/{train,test}/bad/000.png
          /2cls_highshot/ ...

Five objects number normal and anomalous images alike, so masks come from the list. Raw masks hold the number of a kind
of defect (1 to 9) and look black; everything above 0 is defective. The lists do not name kinds of defect (the raw
``image_anno.csv`` does, several for some images, and is not read): all are ``bad``.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.data.listing import AGAIN, folders
from ader.data.masks import read_mask
from ader.datasets._locating import checked_path, choose_categories, find_root
from ader.datasets._preparing import Work, copy, for_all
from ader.datasets._tree import MVTEC, Tree, read_tree
from ader.system.errors import UserError
from ader.system.files import check_regular

Split = Literal["1cls", "2cls_fewshot", "2cls_highshot"]

# The order of ADer's tables.
CATEGORIES = (
    *("pcb1", "pcb2", "pcb3", "pcb4", "macaroni1", "macaroni2"),
    *("capsules", "candle", "cashew", "chewinggum", "fryum", "pipe_fryum"),
)
HEADER = ["object", "split", "label", "image", "mask"]
LABELS = {"normal": 0, "anomaly": 1}
TWO_CLASS = Tree(truth="ground_truth/test", train_defects=True, train_truth="ground_truth/train")


def visa(root: Path, categories: Sequence[str] | None = None, split: Split = "1cls") -> Index:
    """Lists VisA, raw or converted; raw if both are there.

    Args:
        root: the folder that holds ``split_csv`` and the objects, or the converted objects or splits.
        categories: the objects to read; None means all 12. The others need not be on disk.
        split: ``"1cls"``: training is normal only, as in nearly all papers. The two-class splits have defective
            training images, label 1.

    Raises:
        UserError: neither layout is there, an object is missing, a list is wrong, or images and masks do not fit.
    """
    expected = f"{_list(Path(), split)} (as in the archive) or {split}/candle/train/good (converted)"
    root = find_root(root, lambda folder: _list(folder, split).is_file() or bool(_converted(folder, split)), expected)
    if _list(root, split).is_file():
        on_disk = [name for name in CATEGORIES if (root / name).is_dir()]
        wanted = choose_categories("visa", root, categories, on_disk, CATEGORIES)
        # whether the files exist is left to the check of files
        listed = sorted(_read_list(_list(root, split)), key=lambda sample: sample.image)
        samples = [sample for name in wanted for sample in listed if sample.category == name]
        # anomalib converts in place
        return Index("visa", root, tuple(samples), wanted, exceptions=("visa_pytorch/*", "VisA_pytorch/*"))
    tree = MVTEC if split == "1cls" else TWO_CLASS
    return read_tree("visa", _converted(root, split)[0], categories, known=CATEGORIES, tree=tree)


def _list(root: Path, split: Split) -> Path:
    return root / "split_csv" / f"{split}.csv"


def _converted(root: Path, split: Split) -> list[Path]:
    """The folders with converted objects of that split: with its level, or without."""
    found = []
    for folder in (root / split, root):
        trained = [folder / name / "train" for name in CATEGORIES if (folder / name / "train/good").is_dir()]
        # a copy without its level does not name its split: only the two-class ones train on defects
        if any((train / "bad").is_dir() == (split != "1cls") for train in trained):
            found.append(folder)
    return found


def _read_list(file: Path) -> Iterator[Sample]:
    """The samples of a list, in its order."""
    check_regular(file)
    seen: set[str] = set()
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            if header != HEADER:
                raise UserError(f"{file} begins with {','.join(header)!r}, not with {','.join(HEADER)!r}: {AGAIN}")
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                problem = _problem(row, seen)
                if problem:
                    raise UserError(f"{where}: {problem}: {AGAIN}")
                category, split, label, image, mask = row
                seen.add(image)
                masks, defect = ((checked_path(mask, where),), "bad") if mask else ((), "good")
                yield Sample(checked_path(image, where), category, split, LABELS[label], masks, defect)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}): {AGAIN}") from error


def _problem(row: Sequence[str], seen: set[str]) -> str:
    """What is wrong with a row of a list, or nothing."""
    if len(row) != len(HEADER):
        return f"{len(row)} columns where {len(HEADER)} are expected"
    category, split, label, image, mask = row
    if category not in CATEGORIES:
        return f"unknown object {category!r}"
    if split not in (TRAIN, TEST):
        return f"unknown split {split!r}"
    if label not in LABELS:
        return f"unknown label {label!r}"
    if image in seen:
        return f"{image} is listed a second time"
    if bool(mask) != bool(LABELS[label]):
        return f"the normal image {image} has a mask" if mask else f"the anomalous image {image} has no mask"
    return ""


def prepare(root: Path, source: Path, work: Work) -> None:
    """Converts the raw layout: all three splits, in folders as the official script makes them.

    Images are copied (three times the archive's size), masks become 0 / 255. What is there already is not made again.

    Args:
        root: where to put the splits.
        source: the folder that holds ``split_csv`` and the objects, or that holds this one alone.
        work: surroundings.

    Raises:
        UserError: ``source`` is ``root`` (nothing has to be converted) or not the raw layout, or a file is missing.
    """
    splits: tuple[Split, ...] = get_args(Split)
    places = [place for place in (source, *folders(source)) if all(_list(place, split).is_file() for split in splits)]
    if not places:
        raise UserError(f"{_list(source, splits[0])} does not exist: give the folder of the unpacked archive")
    if root.resolve() in (source.resolve(), places[0].resolve()):
        for split in splits:
            visa(root, split=split)  # says what is wrong with it, where that is why it was to be prepared
        raise UserError(
            f"{places[0]} needs no conversion: the archive's own layout is read as it is; to convert it all the same, "
            "give another folder to write to"
        )
    jobs: list[Callable[[], None]] = []
    for split in splits:
        for sample in _read_list(_list(places[0], split)):
            place, image = root / split / sample.category, places[0] / sample.image
            jobs.append(partial(copy, image, place / sample.split / sample.defect / image.name, shutil.copyfile))
            for mask in sample.masks:
                truth = place / "ground_truth" / ("" if split == "1cls" else sample.split) / "bad"
                jobs.append(partial(copy, places[0] / mask, truth / Path(mask).name, _write_mask))
    for_all(work, "visa", jobs, lambda job: job())


def _write_mask(source: Path, target: Path) -> None:
    read_mask(source).save(target, format="PNG")
