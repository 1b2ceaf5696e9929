"""Decodes every image and mask once before training, so that a bad file is found now and not after hours."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ader.data.image import BadImageError, read_image, read_mask
from ader.data.index import Index, Sample
from ader.errors import UserError, some
from ader.files import write_atomic

RULES = 1  # part of the stamp: raise it when a check is added
SHOWN = 3

Progress = Callable[[int, int], object]


def check_files(index: Index, cache: Path, workers: int, progress: Progress | None = None) -> None:
    """Checks that every image and mask of an index can be used.

    A successful check is remembered under ``cache/checked``; while no path, size or time of change differs,
    the next one only looks at those.

    Args:
        index: the dataset.
        cache: a folder for the stamp and for the report on bad files.
        workers: threads (Pillow decodes without holding the interpreter's lock); below 1 counts as 1.
        progress: called with (samples done, samples in all).

    Raises:
        UserError: a file is missing or unreadable, or a mask does not fit its image or label. The message
            names the first few and the report that lists all.
    """
    before = _fingerprint(index)
    if before is not None and _stamp(cache, before).exists():
        return
    problems = _decode_all(index, workers, progress)
    if problems:
        _fail(index, cache, problems)
    # A file that changed while it was being read has not been checked.
    if before is not None and before == _fingerprint(index):
        write_atomic(_stamp(cache, before), json.dumps({"dataset": index.name, "samples": len(index)}) + "\n")


def problems_of(index: Index, sample: Sample) -> list[str]:
    """What is wrong with one sample's files, one line each, paths relative to the index's root."""
    found = []
    size = None
    try:
        size = read_image(index.path(sample.image)).size
    except BadImageError as error:
        found.append(f"{sample.image} {error.reason}")
    marked, masks = False, 0
    for name in sample.masks:
        try:
            mask = read_mask(index.path(name))
        except BadImageError as error:
            found.append(f"{name} {error.reason}")
            continue
        marked, masks = marked or bool(np.asarray(mask).any()), masks + 1
        if size is not None and mask.size != size:
            found.append(f"{name} is {_by(mask.size)} pixels but its image {sample.image} is {_by(size)}")
    if sample.label and not marked and 0 < masks == len(sample.masks):
        found.append(f"{some(sample.masks)} is all zero but its image {sample.image} is defective")
    if marked and not sample.label:
        found.append(f"{some(sample.masks)} marks a defect but its image {sample.image} is normal")
    return found


def _decode_all(index: Index, workers: int, progress: Progress | None) -> list[str]:
    problems: list[str] = []
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="check")
    try:
        for done, found in enumerate(pool.map(lambda sample: problems_of(index, sample), index), start=1):
            problems += found
            if progress is not None:
                progress(done, len(index))
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C do not decode the rest first
    return list(dict.fromkeys(problems))


def _fail(index: Index, cache: Path, problems: list[str]) -> None:
    # One report per set of samples: two runs on different parts of a dataset must not replace each other's.
    report = (cache / f"bad_files_{index.name}_{index.digest()[:8]}.txt").absolute()
    write_atomic(report, f"{index.root}\n" + "".join(f"{problem}\n" for problem in problems))
    raise UserError(
        f"dataset {index.name!r} at {index.root}: {len(problems)} bad file{'s' * (len(problems) > 1)}: "
        f"{'; '.join(problems[:SHOWN])}{'; ...' * (len(problems) > SHOWN)}: "
        f"mend or remove them (full list: {report})"
    )


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


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
