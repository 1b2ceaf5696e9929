"""Makes COCO-AD from COCO's annotations. Nothing is drawn at random: the same annotations give the same bytes.

The rules, of the script in the releases of InvAD and ADer:

- An image takes part if it has any annotation, of any category; crowds count like other objects.
- Training: the images of train2017 without an anomaly. Testing: all images of val2017 that take part; those with an
  anomaly are anomalous, even if its mask marks nothing.
- A mask is the union of its image's anomalies. A polygon is cut to whole pixels (not rounded) and filled by OpenCV's
  ``fillPoly``, one call each, so that several parts of an object cannot cancel out; boundary pixels belong to it.
  Run-length codes are decoded by pycocotools.

OpenCV before 4.11 fills other pixels along the boundary: 4.8 to 4.10 too many, 4.7 and older ones where a vertex lies
outside of the image (its issues 22012 and 26130). It is refused, so that masks do not depend on the version.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ader.data.index import TEST, Index
from ader.data.listing import AGAIN
from ader.datasets._locating import find_root
from ader.datasets._preparing import Work, keep_or_write, make_files, png
from ader.system.errors import UserError, some

U8 = npt.NDArray[np.uint8]

CATEGORIES = 80
ANOMALIES = 20  # categories of each split
TRAIN_FILE, VAL_FILE = (f"annotations/instances_{part}2017.json" for part in ("train", "val"))
OPENCV = (4, 11)
FARTHEST = 1 << 20  # pixels from the image's corner; OpenCV walks along every row of a polygon

#: What is kept of the annotations while they are read: of 450 MB, the outlines and boxes are nearly all.
NEEDED = {"images", "annotations", "categories", "id", "file_name", "height", "width", "image_id", "category_id"}
OUTLINES = {"segmentation", "size", "counts"}

#: SHA-256 of the sorted names of the published splits' normal and anomalous test images, a line each.
DIGESTS = (
    (
        "573e3b2a9dd8d8974aa10e17e085c841281fca1f629909ad9889dd077fba9228",
        "c9fb150830ce63a9204e70e53267786f3972dd0b3dad96b6b94c8653fa753bd4",
    ),
    (
        "4f731d6e69d0bb5426c217797632c2ae7995e0c7a3c8f0f71fb65dca535d7e73",
        "13052fbc1fd747f142a3b5a0f38913fcff61062adb7dd6db5d108f2fb5029850",
    ),
    (
        "391e582a5b34be93a5440c6a1c0bf3bb6343802e383b19b0c8df4a2e4d294567",
        "e9e2e95156ca9919170bf4a2e6842cfa0ce217d3253bf06a5ebce9af2e6c7329",
    ),
    (
        "4f47922d14cc06f4e77ab9402ae012c7949e3d0d172cedfcd226c982f04fdd81",
        "fe60bf01fd5cf7ba8ac1bc5d809395fbf91984bf96618dcd73a70bce8e3327ce",
    ),
)
ALL_DIGEST = "4292e4f11f1f3d460a5d29958230a3345d518adea52811f0b2ac2942988c388a"
TEST_IMAGES = 4952


class Thing(NamedTuple):
    """One annotation.

    Attributes:
        split: in which its category is an anomaly.
        outline: what ``segmentation`` says; None where it was not read.
        number: of the annotation in its file, from 1.
    """

    split: int
    outline: Any
    number: int


@dataclass
class Picture:
    """An image, and what is annotated in it."""

    file: Path
    name: str
    height: int
    width: int
    things: list[Thing] = field(default_factory=list)

    def anomalies(self, split: int) -> list[Thing]:
        return [thing for thing in self.things if thing.split == split]

    def error(self, thing: Thing, what: str) -> UserError:
        return UserError(f"{self.file}, annotations, entry {thing.number} (image {self.name}) {what}: {AGAIN}")


def generate(root: Path, source: Path, work: Work) -> None:
    """Makes ``meta_20_<split>.json`` and the masks of the four splits.

    Files that are there and right are kept; a split's list is written after all of its masks.

    Args:
        root: where to put them.
        source: the folder that holds ``annotations``, or the one folder in it that does.
        work: surroundings.

    Raises:
        UserError: the annotations are missing or damaged, a package is not installed, or a file cannot be written.
    """
    _packages()  # before the long reading
    source = find_root(source, lambda folder: (folder / VAL_FILE).is_file(), f"{TRAIN_FILE} and {VAL_FILE}")
    pictures, ids = {}, {}
    for file in (TRAIN_FILE, VAL_FILE):
        work.check()
        work.console.say(f"reading {source / file}")
        pictures[file], ids[file] = read_pictures(source / file, outlines=file == VAL_FILE)
    if ids[TRAIN_FILE] != ids[VAL_FILE]:
        raise UserError(f"{source / TRAIN_FILE} and {source / VAL_FILE} have different categories: {AGAIN}")
    for split in range(CATEGORIES // ANOMALIES):
        _make_split(root, split, pictures[TRAIN_FILE], pictures[VAL_FILE], work)


def _make_split(root: Path, split: int, train: Sequence[Picture], test: Sequence[Picture], work: Work) -> None:
    work.check()
    file, masks = root / f"meta_20_{split}.json", f"val2017_mask_ad_20_{split}"
    text = json.dumps(_meta(split, train, test, masks), indent=4).encode() + b"\n"
    if file.is_file() and file.read_bytes() != text:
        file.unlink()  # from here on its masks may be missing or new
    empty = []

    def make(picture: Picture) -> tuple[Path, bytes]:
        mask = draw(picture, split)
        if not mask.any():
            empty.append(picture.name)
        return root / masks / _png_name(picture), png(mask)

    make_files(work, f"masks of split {split}", [picture for picture in test if picture.anomalies(split)], make)
    if empty:
        work.console.say(f"split {split}: the anomalies of {some(sorted(empty))} cover no pixel")
    keep_or_write(file, text)


def _meta(split: int, train: Sequence[Picture], test: Sequence[Picture], masks: str) -> dict[str, Any]:
    """The split's list in ADer's format."""

    def entry(folder: str, picture: Picture) -> dict[str, Any]:
        anomalous = bool(picture.anomalies(split))
        return {
            "img_path": f"{folder}/{picture.name}",
            "mask_path": f"{masks}/{_png_name(picture)}" if anomalous else "",
            "cls_name": "coco",
            "specie_name": "",
            "anomaly": int(anomalous),
        }

    normal = [entry("train2017", picture) for picture in train if not picture.anomalies(split)]
    return {"train": {"coco": normal}, "test": {"coco": [entry("val2017", picture) for picture in test]}}


def _png_name(picture: Picture) -> str:
    return f"{PurePosixPath(picture.name).stem}.png"


def read_pictures(path: Path, outlines: bool) -> tuple[list[Picture], list[int]]:
    """The images of an annotation file that take part, sorted by name, and the sorted ids of all categories.

    Args:
        path: ``instances_*.json``.
        outlines: whether to keep what annotations mark.

    Raises:
        UserError: the file is damaged, or not as COCO publishes it.
    """
    needed = NEEDED | OUTLINES if outlines else NEEDED
    try:
        with path.open(encoding="utf-8") as file:
            # object by object, so that what is not needed never fills the memory
            content = json.load(file, object_hook=lambda entry: {key: entry[key] for key in entry if key in needed})
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {AGAIN}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path} has no list {key!r}: {AGAIN}")
    ids = sorted(_integers(entry, ("id",), path, "categories", n)[0] for n, entry in _numbered(content["categories"]))
    if len(set(ids)) != CATEGORIES:
        raise UserError(f"{path} has {len(set(ids))} categories, of which COCO has {CATEGORIES}: {AGAIN}")
    splits = {category: place // ANOMALIES for place, category in enumerate(ids)}
    pictures = _pictures(path, content["images"])
    for number, entry in _numbered(content["annotations"]):
        image, category = _integers(entry, ("image_id", "category_id"), path, "annotations", number)
        if image not in pictures or category not in splits:
            what = f"category_id {category}" if image in pictures else f"image_id {image}"
            raise UserError(f"{path}, annotations, entry {number} has {what}, which is not in the file: {AGAIN}")
        pictures[image].things.append(Thing(splits[category], entry.get("segmentation"), number))
    return sorted((p for p in pictures.values() if p.things), key=lambda picture: picture.name), ids


def _numbered(entries: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Entries and their numbers, from 1."""
    return enumerate(entries, start=1)


def _pictures(path: Path, entries: Sequence[Any]) -> dict[int, Picture]:
    """All images by id."""
    pictures: dict[int, Picture] = {}
    stems: set[str] = set()
    for number, entry in _numbered(entries):
        one, height, width = _integers(entry, ("id", "height", "width"), path, "images", number)
        name, place = entry.get("file_name"), f"{path}, images, entry {number}"
        plain = isinstance(name, str) and re.fullmatch(r"[^./\\\0][^/\\\0]*", name)
        if not plain or min(height, width) < 1:
            raise UserError(f"{place} has no plain file_name ({name!r}) or no size ({width} x {height}): {AGAIN}")
        if one in pictures or PurePosixPath(name).stem in stems:
            raise UserError(f"{place} has the id or name of an earlier one ({one}, {name}): {AGAIN}")
        pictures[one] = Picture(path, name, height, width)
        stems.add(PurePosixPath(name).stem)
    return pictures


def _integers(entry: Any, keys: tuple[str, ...], path: Path, part: str, number: int) -> list[int]:
    values = []
    for key in keys:
        value = entry.get(key) if isinstance(entry, dict) else None
        if type(value) is not int:
            found = str(value)[:40]
            raise UserError(f"{path}, {part}, entry {number} has {key} {found}, which is no whole number: {AGAIN}")
        values.append(value)
    return values


def draw(picture: Picture, split: int) -> U8:
    """The mask of an image: 255 where an anomaly of the split is, else 0; (height, width).

    Raises:
        UserError: an annotation is not as COCO publishes them.
    """
    mask = np.zeros((picture.height, picture.width), np.uint8)
    for thing in picture.anomalies(split):
        if isinstance(thing.outline, dict):
            mask[_decode(thing, picture)] = 255
            continue
        if not isinstance(thing.outline, list):
            raise picture.error(thing, "has no segmentation")
        for polygon in thing.outline:
            numbers = isinstance(polygon, list) and all(type(value) in (int, float) for value in polygon)
            if not numbers or not polygon or len(polygon) % 2 or not all(abs(value) < FARTHEST for value in polygon):
                raise picture.error(thing, f"has a polygon that is no list x, y, x, y ... ({str(polygon)[:40]})")
            # fractions are cut off, not rounded, and each polygon is filled by itself: see above
            vertices = np.array(polygon, np.float64).astype(np.int32).reshape(-1, 2)
            _packages().cv2.fillPoly(mask, [vertices], 255)
    return mask


def _decode(thing: Thing, picture: Picture) -> npt.NDArray[np.bool_]:
    """The pixels of a run-length code, (height, width).

    What a code that is too short leaves open, pycocotools takes from memory as it is: such a code is refused.
    """
    codec, size = _packages().rle, [picture.height, picture.width]
    counts = thing.outline.get("counts")
    found = None
    if thing.outline.get("size") == size and isinstance(counts, list):
        if all(type(run) is int and run >= 0 for run in counts) and sum(counts) == picture.height * picture.width:
            found = codec.decode(codec.frPyObjects(thing.outline, *size))
    elif thing.outline.get("size") == size and isinstance(counts, str):
        with suppress(ValueError):
            found = codec.decode(thing.outline)
            found = found if codec.encode(found)["counts"].decode() == counts else None
    if found is None:
        raise picture.error(thing, "has a run-length code that does not fill its image")
    pixels: npt.NDArray[np.bool_] = found > 0.5
    return pixels


def check_digests(index: Index, split: int) -> Iterator[str]:
    """A clause for each list of test images that differs from the published one; none where their number does."""
    images = [sample for sample in index if sample.split == TEST]
    if len(images) != TEST_IMAGES:
        return
    lists = {
        "test": ([0, 1], ALL_DIGEST),
        "normal test": ([0], DIGESTS[split][0]),
        "anomalous test": ([1], DIGESTS[split][1]),
    }
    for name, (labels, published) in lists.items():
        names = sorted(PurePosixPath(sample.image).name for sample in images if sample.label in labels)
        if hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest() != published:
            yield f"its {name} images are others"


class _Packages(NamedTuple):
    cv2: Any
    rle: Any


@cache
def _packages() -> _Packages:
    """OpenCV and the codec of pycocotools.

    Raises:
        UserError: one is not installed, or OpenCV draws other pixels.
    """
    try:
        packages = _Packages(importlib.import_module("cv2"), importlib.import_module("pycocotools.mask"))
    except ImportError as error:
        raise UserError(
            f"COCO-AD's masks are made with opencv-python-headless and pycocotools ({error}): "
            "pip install 'ader-bench[coco]'"
        ) from error
    version = packages.cv2.__version__
    if tuple(map(int, version.split(".")[:2])) < OPENCV:
        raise UserError(
            f"OpenCV {version} fills polygons beyond their boundary, which 4.11 fixed: "
            "pip install -U 'ader-bench[coco]'"
        )
    return packages
