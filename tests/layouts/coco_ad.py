"""COCO-AD, made by hand from a small COCO: an independent, slow reading of the rules, without other packages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
IDS = [number for number in range(1, 91) if number not in UNUSED]
#: First and last id of the anomalies of each split, as the papers' classes are listed.
RANGES = ((1, 21), (22, 44), (46, 65), (67, 90))
PERSON, DOG, COW, ELEPHANT, BOTTLE, WINE_GLASS, CUP, BED, TABLE, BOOK, TOOTHBRUSH = (
    *(1, 18, 21, 22, 44, 46, 47, 65, 67, 84, 90),
)

Points = Sequence[tuple[int, int]]


def write(root: Path) -> Path:
    """Writes COCO, and what is made of it, into ``root``; returns what ``dataset.root`` is to be."""
    write_coco(root)
    for split in range(4):
        for name, content in expected(root, split).items():
            path = root / name
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, dict):
                path.write_text(json.dumps(content, indent=4) + "\n")
            else:
                Image.fromarray(content).save(path)
    return root


# A small COCO

#: Height and width, of val2017 and train2017 images alike.
SIZES = {"a": (20, 30), "b": (24, 18), "c": (40, 32), "d": (16, 21), "e": (30, 30), "g": (33, 47), "h": (28, 28)}
SIZES |= {"k": (19, 23), "l": (25, 35), "m": (22, 26), "n": (17, 17)}
NUMBERS = {"a": 4795, "b": 776, "c": 139, "d": 100010, "e": 285, "g": 632, "h": 2299, "k": 7, "l": 581929, "m": 724}
NUMBERS |= {"n": 98}


def things() -> dict[str, list[tuple[int, int, Any]]]:
    """Category, whether it is a crowd, and outline of what each image shows; ``a`` shows nothing."""
    return {
        "b": [(CUP, 0, [[3, 3, 12, 3, 12, 15, 3, 15]])],
        # two parts, two overlapping parts (a union, no hole) and another object that is not to be drawn for split 0
        "c": [
            (PERSON, 0, [[2, 2, 10, 2, 10, 9, 2, 9], [20, 25, 29, 25, 29, 36, 20, 36]]),
            (PERSON, 0, [[4, 15, 12, 15, 12, 23, 4, 23], [8, 19, 16, 19, 16, 27, 8, 27]]),
            (BOTTLE, 0, [[15, 3, 25, 3, 25, 10, 15, 10]]),
        ],
        "d": [(PERSON, 1, {"size": [16, 21], "counts": [35, 7, 9, 7, 9, 7, 200, 5, 57]})],
        "e": [(DOG, 0, [[3, 3, 20, 5, 18, 22]]), (BOOK, 0, [[10, 8, 27, 8, 27, 26, 10, 26]])],
        # fractions, vertices outside, an edge exactly on the border
        "g": [
            (ELEPHANT, 0, [[5.99, 3.2, 52.7, 14.99, 30.01, 41.5, -6.5, 22.75]]),
            (WINE_GLASS, 0, [[40.5, 0.0, 47.0, 0.0, 47.0, 9.99, 40.5, 33.0]]),
        ],
        "h": [(TABLE, 0, [[1, 1, 26, 1, 14, 26]]), (CUP, 0, [[2, 2, 5, 2, 5, 5]])],
        "k": [(TOOTHBRUSH, 0, {"size": [19, 23], "counts": compress([40, 6, 13, 6, 13, 6, 150, 1, 202])})],
        # ids next to the borders between splits; a polygon that crosses itself; a line; a pixel
        "l": [
            (COW, 0, [[2, 2, 20, 20, 2, 20, 20, 2]]),
            (ELEPHANT, 0, [[25, 4, 32, 11]]),
            (BED, 0, [[30, 20]]),
            (TABLE, 0, [[28, 2, 33, 2, 33, 8], [5.5, 22.5, 12.5, 23.9]]),
        ],
        "m": [(BOTTLE, 1, {"size": [22, 26], "counts": [0, 22, 500, 50]})],
        "n": [(COW, 0, [[1, 1, 9, 1, 9, 9, 1, 9]]), (BED, 0, [[4, 4, 14, 4, 14, 14, 4, 14]])],
    }


def content(shown: dict[str, list[tuple[int, int, Any]]]) -> dict[str, Any]:
    """An annotation file; neither its images nor its annotations are in order."""
    images = [
        {"license": 4, "file_name": f"{NUMBERS[key]:012}.jpg", "height": h, "width": w, "id": NUMBERS[key]}
        for key, (h, w) in sorted(SIZES.items(), key=lambda item: NUMBERS[item[0]] % 97)
    ]
    flat = [(key, *thing) for key, group in shown.items() for thing in group]
    annotations = [
        {
            "segmentation": outline,
            "area": 1.5,
            "iscrowd": crowd,
            "image_id": NUMBERS[key],
            "bbox": [1.0, 2.0, 3.0, 4.0],
            "category_id": category,
            "id": 900 + number,
        }
        for number, (key, category, crowd, outline) in enumerate(flat)
    ]
    categories = [{"supercategory": "thing", "id": number, "name": f"name {number}"} for number in IDS]
    return {
        "info": {"year": 2017},
        "licenses": [{"url": "http://example.org", "id": 4, "name": "none"}],
        "images": images,
        "annotations": annotations[::2] + annotations[1::2][::-1],
        "categories": categories,
    }


def write_coco(root: Path) -> Path:
    """Images and annotations alone, as unpacked from COCO's archives."""
    shown = things()
    rest = {key: shown[key] for key in ("b", "d", "h", "k")}  # with b, h and k every split has normal training images
    for part, kinds in (("train", rest | {"n": [(BOOK, 0, [[1, 1, 3, 3, 1, 3]])]}), ("val", shown)):
        folder = root / f"{part}2017"
        folder.mkdir(parents=True, exist_ok=True)
        file = root / "annotations" / f"instances_{part}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content(kinds)))
        for number, (key, (height, width)) in enumerate(SIZES.items()):
            noise = np.random.default_rng([number, part == "val"]).integers(0, 256, (height, width, 3), np.uint8)
            picture = Image.fromarray(noise).convert("L" if key == "h" else "RGB")
            picture.save(folder / f"{NUMBERS[key]:012}.jpg")
    (root / "annotations" / "captions_val2017.json").write_text("{}")
    (root / ".DS_Store").touch()
    return root


# What is to be made of it


def expected(root: Path, split: int) -> dict[str, Any]:
    """The files of one split: the list as an object, masks as arrays."""
    files: dict[str, Any] = {}
    normal = [
        entry(f"train2017/{image['file_name']}")
        for image, found in grouped(root, "train")
        if not any(is_anomaly(thing, split) for thing in found)
    ]
    test = []
    for image, found in grouped(root, "val"):
        marked = [thing["segmentation"] for thing in found if is_anomaly(thing, split)]
        mask = f"val2017_mask_ad_20_{split}/{image['file_name'].replace('.jpg', '.png')}" if marked else ""
        test.append(entry(f"val2017/{image['file_name']}", mask))
        if marked:
            files[mask] = mask_of(image["height"], image["width"], marked)
    files[f"meta_20_{split}.json"] = {"train": {"coco": normal}, "test": {"coco": test}}
    return files


def entry(image: str, mask: str = "") -> dict[str, Any]:
    return {"img_path": image, "mask_path": mask, "cls_name": "coco", "specie_name": "", "anomaly": int(bool(mask))}


def is_anomaly(thing: dict[str, Any], split: int) -> bool:
    first, last = RANGES[split]
    return first <= thing["category_id"] <= last


def grouped(root: Path, part: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The images that have annotations, by name, and these."""
    whole = json.loads((root / "annotations" / f"instances_{part}2017.json").read_text())
    for image in sorted(whole["images"], key=lambda image: image["file_name"]):
        found = [thing for thing in whole["annotations"] if thing["image_id"] == image["id"]]
        if found:
            yield image, found


def mask_of(height: int, width: int, outlines: Sequence[Any]) -> np.ndarray:
    """The union, pixel by pixel."""
    mask = np.zeros((height, width), np.uint8)
    for outline in outlines:
        if isinstance(outline, dict):
            runs = outline["counts"] if isinstance(outline["counts"], list) else expand(outline["counts"])
            mask[run_lengths(height, width, runs)] = 255
        else:
            for polygon in outline:
                whole = [math.trunc(value) for value in polygon]
                mask[fill(height, width, list(zip(whole[::2], whole[1::2], strict=True)))] = 255
    return mask


def run_lengths(height: int, width: int, runs: Sequence[int]) -> np.ndarray:
    """Runs of 0 and 1 in turn, 0 first, down one column after the other."""
    values = [number % 2 for number, run in enumerate(runs) for _ in range(run)]
    assert len(values) == height * width
    mask = np.zeros((height, width), bool)
    for place, value in enumerate(values):
        mask[place % height, place // height] = value
    return mask


def compress(runs: Sequence[int]) -> str:
    """COCO's text for run lengths: from the fourth on the difference to the last but one; five bits a character."""
    text = ""
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while not -16 <= value < 16:
            text += chr(48 + 32 + value % 32)
            value //= 32
        text += chr(48 + value % 32)
    return text


def expand(text: str) -> list[int]:
    """The inverse of ``compress``."""
    runs: list[int] = []
    value, weight = 0, 1
    for code in (ord(letter) - 48 for letter in text):
        value, weight = value + weight * (code % 32), weight * 32
        if code < 32:
            value -= weight if code >= 16 else 0  # its highest bit is a sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, weight = 0, 1
    return runs


def fill(height: int, width: int, points: Points) -> np.ndarray:
    """A polygon of whole numbers: the pixels inside of it by the even-odd rule, and those of its outline.

    The sides of a polygon in the image are exact. One that leaves it is first cut to a part inside, the ends of which
    are whole pixels again; the line through these is the side (OpenCV from 4.11 on).
    """
    mask = np.zeros((height, width), bool)
    sides = []
    for start, end in zip([points[-1], *points[:-1]], points, strict=True):
        first, last, visible = cut(height, width, start, end)
        if visible:
            for x, y in line(first, last):
                mask[y, x] = True
        if start[1] != end[1]:
            through = (first[1], last[1]) if first[1] != last[1] else (start[1], end[1])
            slope = Fraction(last[0] - first[0], through[1] - through[0])
            sides.append((min(start[1], end[1]), max(start[1], end[1]), first[0] - slope * through[0], slope))
    for y in range(height):
        crossings = sorted(at_0 + slope * y for top, bottom, at_0, slope in sides if top <= y < bottom)
        for left, right in zip(crossings[::2], crossings[1::2], strict=True):
            mask[y, max(0, math.ceil(left)) : max(0, math.floor(right) + 1)] = True
    return mask


def line(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The pixels of a line: one in each column, or row if it is steep, nearest to it; halves towards the left end."""
    (x, y), (right, other) = sorted((start, end), key=lambda point: point[0])
    long, down = max(right - x, abs(other - y)), 1 if other >= y else -1
    steep = abs(other - y) > right - x
    short = right - x if steep else abs(other - y)
    for step in range(long + 1):
        aside = math.ceil(Fraction(step * short, long) - Fraction(1, 2)) if long else 0
        yield (x + aside, y + down * step) if steep else (x + step, y + down * aside)


def cut(
    height: int, width: int, start: tuple[int, int], end: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], bool]:
    """The part of a line in the image, and whether there is any: ends are moved to the border, first vertically."""
    ends, limits = [list(start), list(end)], (width - 1, height - 1)
    for axis in (1, 0):
        if any(_same_side(ends, limits, other) for other in (0, 1)):
            break
        for this, that in ((ends[0], ends[1]), (ends[1], ends[0])):
            border = min(max(this[axis], 0), limits[axis])
            if border != this[axis]:
                move = Fraction((border - this[axis]) * (that[1 - axis] - this[1 - axis]), that[axis] - this[axis])
                this[1 - axis] += math.trunc(move)
                this[axis] = border
    visible = all(0 <= end[axis] <= limits[axis] for end in ends for axis in (0, 1))
    return (ends[0][0], ends[0][1]), (ends[1][0], ends[1][1]), visible


def _same_side(ends: Sequence[Sequence[int]], limits: Sequence[int], axis: int) -> bool:
    return all(end[axis] < 0 for end in ends) or all(end[axis] > limits[axis] for end in ends)
