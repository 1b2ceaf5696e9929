"""Decodes every image and mask once before training, so that a bad file is found now and not after hours."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ader.data.image import BadImageError, open_image, read_image, read_mask
from ader.data.index import Index, Sample
from ader.system.errors import UserError, some
from ader.system.files import remove_leftovers, write_atomic
from ader.system.parallel import threads

RULES = 1  # part of the stamp: raise it when a check is added
SHOWN = 3

#: Kinds of problems.
MISSING, UNREADABLE = "missing files", "unreadable files"
MASK_SIZE, ALL_ZERO, MARKED_NORMAL = "mask sizes", "all-zero masks", "marked normal images"

Progress = Callable[[int, int], object]
Reader = Callable[[Path], Image.Image]


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
        problems: in the order in which they were found.
    """

    image: Image.Image | None = None
    marks: dict[str, bool] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check_files(
    index: Index, cache: Path, workers: int, progress: Progress | None = None, decoded: Container[str] = ()
) -> None:
    """Checks that every image and mask of an index can be used.

    A successful check is remembered under ``cache/checked``; while no path, size or time of change differs,
    the next one only looks at those.

    Args:
        index: the dataset.
        cache: a folder for the stamp and for the report on bad files.
        workers: threads (Pillow decodes without holding the interpreter's lock); below 1 counts as 1.
        progress: called with (samples done, samples in all).
        decoded: images that are known to be whole, because they lie decoded in the image cache.

    Raises:
        UserError: a file is missing or unreadable, or a mask does not fit its image or label. The message
            names the first few and the report that lists all.
    """
    before = _fingerprint(index)
    if before is not None and _stamp(cache, before).exists():
        return
    problems = _decode_all(index, workers, progress, decoded)
    if problems:
        # One report per set of samples: two runs on different parts of a dataset must not replace each other's.
        report = (cache / f"bad_files_{index.name}_{index.digest()[:8]}.txt").absolute()
        write_atomic(report, f"{index.root}\n" + "".join(f"{problem}\n" for problem in problems))
        raise UserError(
            f"dataset {index.name!r} at {index.root}: {len(problems)} bad file{'s' * (len(problems) > 1)}: "
            f"{'; '.join(problems[:SHOWN])}{'; ...' * (len(problems) > SHOWN)}: "
            f"fix or remove them (full list: {report})"
        )
    # A file that changed while it was being read has not been checked.
    if before is not None and before == _fingerprint(index):
        remove_leftovers(cache / "checked", older=3600)
        write_atomic(_stamp(cache, before), json.dumps({"dataset": index.name, "samples": len(index)}) + "\n")


def problems_of(index: Index, sample: Sample, decoded: bool = False) -> list[str]:
    """What is wrong with one sample's files, one line each, paths relative to the index's root."""
    return [str(problem) for problem in look_at(index, sample, open_image if decoded else read_image).problems]


def look_at(index: Index, sample: Sample, reader: Reader = read_image) -> Look:
    """Decodes the image, unless ``reader`` leaves that out, and the masks of a sample, each once."""
    look = Look()
    look.image = _read(reader, index, sample.image, look)
    for name in sample.masks:
        mask = _read(read_mask, index, name, look)
        if mask is None:
            continue
        look.marks[name] = mask.getbbox() is not None
        if look.image is not None and mask.size != look.image.size:
            what = f"is {by(mask.size)} pixels but its image {sample.image} is {by(look.image.size)}"
            look.problems.append(Problem(MASK_SIZE, (name,), what))
    marking = tuple(name for name, marks in look.marks.items() if marks)
    judged = 0 < len(look.marks) == len(sample.masks) and not index.excepted(sample.image)
    if sample.label and not marking and judged:
        what = f"is all zero but its image {sample.image} is defective"
        look.problems.append(Problem(ALL_ZERO, sample.masks, what))
    if marking and not sample.label:
        what = f"marks a defect but its image {sample.image} is normal"
        look.problems.append(Problem(MARKED_NORMAL, marking, what))
    return look


def _read(reader: Reader, index: Index, name: str, look: Look) -> Image.Image | None:
    """A decoded file; where that is not possible, ``look`` is told why."""
    try:
        return reader(index.path(name))
    except BadImageError as error:
        kind = MISSING if isinstance(error.__cause__, FileNotFoundError) else UNREADABLE
        look.problems.append(Problem(kind, (name,), error.reason))
        return None


def _decode_all(index: Index, workers: int, progress: Progress | None, decoded: Container[str]) -> list[str]:
    problems: list[str] = []

    def look(sample: Sample) -> list[str]:
        return problems_of(index, sample, sample.image in decoded)

    with threads(workers, "check") as pool:
        for done, found in enumerate(pool.map(look, index), start=1):
            problems += found
            if progress is not None:
                progress(done, len(index))
    return list(dict.fromkeys(problems))


def _fingerprint(index: Index) -> str | None:
    """SHA-256 over labels, absolute paths, sizes and times of change; None when a file is missing."""
    digest = hashlib.sha256(f"{RULES}".encode())
    try:
        for sample in index:
            files = [sample.image, *sample.masks]
            rows = [(os.path.abspath(index.path(name)), index.path(name).stat()) for name in files]
            row = [sample.label, *((path, stat.st_size, stat.st_mtime_ns) for path, stat in rows)]
            digest.update(json.dumps(row).encode())
    except OSError:
        return None
    return digest.hexdigest()


def _stamp(cache: Path, fingerprint: str) -> Path:
    return cache / "checked" / f"{fingerprint}.json"


def by(size: tuple[int, int]) -> str:
    """``WxH``."""
    return f"{size[0]}x{size[1]}"
