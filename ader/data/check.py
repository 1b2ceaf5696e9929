"""Decodes every image and mask once before training, so that a bad file is found now and not after hours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ader.data.depth import find_shallow
from ader.data.image import BadImageError, check_whole, open_image, read_header, read_image
from ader.data.index import Index, Sample
from ader.data.mask_rule import edges
from ader.data.masks import MaskRule, read_levels
from ader.system.contents import file_key
from ader.system.errors import UserError, some
from ader.system.files import remove_leftovers, write_atomic
from ader.system.parallel import threads

RULES = 2  # part of the stamp: raise it when a check is added
SHOWN = 3

#: Kinds of problems.
MISSING, UNREADABLE = "missing files", "unreadable files"
MASK_SIZE, ALL_ZERO, MARKED_NORMAL = "mask sizes", "all-zero masks", "marked normal images"

Progress = Callable[[int, int], object]
Reader = Callable[[Path], Image.Image]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with some of a sample's files, which are named relative to the index's root."""

    kind: str
    files: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        return f"{some(self.files)} {self.what}"


@dataclass(slots=True)
class Look:
    """What the files of a sample turned out to be.

    Attributes:
        image: decoded; None if it cannot be read.
        marks: of every mask that can be read, whether it marks anything.
        soft: those of them with soft edges, and how many levels each has.
        problems: in the order in which they were found.
    """

    image: Image.Image | None = None
    marks: dict[str, bool] = field(default_factory=dict)
    soft: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check_files(
    index: Index,
    cache: Path,
    workers: int,
    progress: Progress | None = None,
    decoded: Container[str] = (),
    rule: MaskRule = "any",
) -> None:
    """Checks that every image and mask of an index can be used.

    A successful check is remembered under ``cache/checked``; while no path, size or time of change of a file differs,
    the next one only looks at those.

    Args:
        index: the dataset.
        cache: a folder for the stamp and for the report on bad files.
        workers: threads (Pillow decodes without holding the interpreter's lock); below 1 counts as 1.
        progress: called with (samples done, samples in all).
        decoded: images that are known to be whole, because they lie decoded in the image cache.
        rule: which levels of masks are defective.

    Raises:
        UserError: a file is missing or unreadable, or a mask does not fit its image or label (the message names the
            first few and the report that lists all); or 16-bit images seem to use fewer bits.
    """
    before = _fingerprint(index, rule)
    if before is not None and _is_there(_stamp(cache, before)):
        return
    problems = _decode_all(index, workers, progress, decoded, rule)
    if problems:
        # One report per set of samples: two runs on different parts of a dataset must not replace each other's.
        report = (cache / f"bad_files_{index.name}_{index.digest()[:8]}.txt").absolute()
        try:
            write_atomic(report, f"{index.root}\n" + "".join(f"{problem}\n" for problem in problems))
            listed = f"full list: {report}"
        except OSError as error:
            listed = f"no full list: {report.parent} cannot be written, {error.strerror}"
        raise UserError(
            f"dataset {index.name!r} at {index.root}: {len(problems)} bad file{'s' * (len(problems) > 1)}: "
            f"{'; '.join(problems[:SHOWN])}{'; ...' * (len(problems) > SHOWN)}: "
            f"fix or remove them ({listed})"
        )
    if shallow := find_shallow(index, workers):
        clauses = "; ".join(f"category {category!r} {clause}" for category, clause in shallow.items())
        raise UserError(f"dataset {index.name!r} at {index.root}: {clauses}")
    # A file that changed while it was being read has not been checked.
    if before is not None and before == _fingerprint(index, rule):
        with suppress(OSError):  # files are checked again next time
            remove_leftovers(_stamp(cache, before).parent, older_than=3600)
            write_atomic(_stamp(cache, before), json.dumps({"dataset": index.name, "samples": len(index)}) + "\n")


def problems_of(index: Index, sample: Sample, decoded: bool = False, rule: MaskRule = "any") -> list[str]:
    """What is wrong with one sample's files, one line each, paths relative to the index's root."""
    return [str(problem) for problem in look_at(index, sample, open_image if decoded else None, rule).problems]


def look_at(index: Index, sample: Sample, reader: Reader | None = None, rule: MaskRule = "any") -> Look:
    """Decodes the image, unless ``reader`` leaves that out, and the masks of a sample, each once."""
    look = Look()
    look.image = _read(reader or partial(read_image, bits=index.bits), index, sample.image, look)
    for name in sample.masks:
        mask = _read(read_levels, index, name, look)
        if mask is None:
            continue
        look.marks[name] = bool((mask.values_HW >= mask.least(rule)).any())
        if edges(mask) == "soft":
            look.soft[name] = len(np.unique(mask.values_HW))
        height, width = mask.values_HW.shape
        if look.image is not None and (width, height) != look.image.size:
            what = f"is {by((width, height))} pixels but its image {sample.image} is {by(look.image.size)}"
            if read_header(index.path(sample.image)).orientation > 1:
                what += " when turned as its orientation tag says"
            look.problems.append(Problem(MASK_SIZE, (name,), what))
    marking = tuple(name for name, marks in look.marks.items() if marks)
    judged = 0 < len(look.marks) == len(sample.masks) and not index.excepted(sample.image)
    if sample.label and not marking and judged:
        zero = "all zero" if rule == "any" else "below one half everywhere (metric.mask_rule)"
        what = f"is {zero} but its image {sample.image} is defective"
        look.problems.append(Problem(ALL_ZERO, sample.masks, what))
    if marking and not sample.label:
        what = f"marks a defect but its image {sample.image} is normal"
        look.problems.append(Problem(MARKED_NORMAL, marking, what))
    return look


def _read(reader: Callable[[Path], T], index: Index, name: str, look: Look) -> T | None:
    """A decoded file; where that is not possible, ``look`` is told why."""
    try:
        if reader is not open_image:
            check_whole(index.path(name))
        return reader(index.path(name))
    except BadImageError as error:
        kind = MISSING if isinstance(error.__cause__, FileNotFoundError) else UNREADABLE
        look.problems.append(Problem(kind, (name,), error.reason))
        return None


def _decode_all(
    index: Index, workers: int, progress: Progress | None, decoded: Container[str], rule: MaskRule
) -> list[str]:
    problems: list[str] = []

    def look(sample: Sample) -> list[str]:
        return problems_of(index, sample, sample.image in decoded, rule)

    with threads(workers, "check") as pool:
        for done, found in enumerate(pool.map(look, index), start=1):
            problems += found
            if progress is not None:
                progress(done, len(index))
    return list(dict.fromkeys(problems))


def _fingerprint(index: Index, rule: MaskRule) -> str | None:
    """SHA-256 over labels and the files' keys; None when a file is missing."""
    digest = hashlib.sha256(f"{RULES} {index.bits} {rule}".encode())
    try:
        for sample in index:
            keys = [file_key(index.path(name)) for name in (sample.image, *sample.masks)]
            if None in keys:
                return None
            digest.update(json.dumps([sample.label, *(key.hex() for key in keys if key)]).encode())
    except OSError:
        return None
    return digest.hexdigest()


def _stamp(cache: Path, fingerprint: str) -> Path:
    return cache / "checked" / f"{fingerprint}.json"


def _is_there(stamp: Path) -> bool:
    with suppress(OSError):  # a folder that may not be looked into
        return stamp.exists()
    return False


def by(size: tuple[int, int]) -> str:
    """``WxH``."""
    return f"{size[0]}x{size[1]}"
