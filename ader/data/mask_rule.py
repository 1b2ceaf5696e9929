"""Which levels of a dataset's masks are defective: settled once, from all of its masks, and said in the record.

A mask may hold 0 and one other level, a class id for every kind of defect (every level above 0 is defective), or soft
edges, as lossy files and resampled or anti-aliased drawings have (what is below one half is background). One mask does
not tell them apart, so that all of them vote.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ader.data.image import BadImageError
from ader.data.index import Index
from ader.data.masks import MaskLevels, MaskRule, read_levels
from ader.system.contents import file_key
from ader.system.files import write_atomic
from ader.system.parallel import ahead, threads

#: What a configuration may ask for.
Wanted = Literal["auto", "any", "half"]

VERSION = 1  # part of the stamp: raise it when ``edges`` judges otherwise

#: What the levels of a mask are: ``"soft"`` ramps to a level above one half, ``"areas"`` of levels that one half would
#: lose, or neither (0 and one level above one half, nothing, or faint noise).
Edges = Literal["soft", "areas", "plain"]


@dataclass(frozen=True)
class MaskReading:
    """How the masks of a dataset are read, and what was found in them.

    Attributes:
        wanted: what the configuration asks for.
        rule: what is done.
        files: number of masks that could be read.
        soft: number of those with soft edges.
    """

    wanted: Wanted
    rule: MaskRule
    files: int
    soft: int


def settle(
    index: Index,
    wanted: Wanted,
    published: bool,
    cache: Path,
    workers: int,
    step: Callable[[], object] = lambda: None,
) -> MaskReading:
    """Looks at all masks of a dataset and settles the rule for them.

    What was found is remembered under ``cache/masks``; while no path, size or time of change differs, the next call
    only looks at those. Masks that cannot be read are left to those who read them.

    Args:
        index: all samples, of all splits.
        wanted: ``"auto"``: ``"half"`` where more masks have soft edges than areas of levels that one half would lose.
            In a published dataset only JPEGs count, because its tables were computed with every level above 0.
        published: whether the dataset is a known one and not the user's own images.
        cache: a folder for what can be made again.
        workers: threads; below 1 counts as 1.
        step: called after each mask that is decoded; may raise to interrupt.
    """
    found = _found(index, cache, workers, step)
    soft = found["soft", True] + (0 if published else found["soft", False])
    areas = found["areas", True] + found["areas", False]
    rule: MaskRule = ("half" if soft > areas else "any") if wanted == "auto" else wanted
    return MaskReading(wanted, rule, found.total(), found["soft", True] + found["soft", False])


def edges(levels: MaskLevels) -> Edges:
    """What the levels of one mask are.

    A pixel of an area has a neighbor of its own level and none that is brighter; on a ramp, and in the noise that a
    JPEG leaves behind, most pixels have not.
    """
    values_HW = levels.values_HW
    top = int(values_HW.max(initial=0))
    reaches = top >= levels.least("half")
    between_HW = (values_HW > 0) & (values_HW < 0.9 * top)
    between = np.count_nonzero(between_HW)
    if levels.lossy:
        return "soft" if between and reaches else "plain"
    if between == 0:
        return "areas" if top and not reaches else "plain"
    if 2 * np.count_nonzero(between_HW & _in_area(values_HW)) >= between:
        return "areas"
    return "soft" if reaches else "plain"


def _in_area(values_HW: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether a pixel has one of its eight neighbors at its own level, and none that is brighter."""
    height, width = values_HW.shape
    padded = np.pad(values_HW, 1)
    equal_HW, brighter_HW = np.zeros((2, height, width), np.bool_)
    for top, left in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)):
        neighbor_HW = padded[top : top + height, left : left + width]
        equal_HW |= neighbor_HW == values_HW
        brighter_HW |= neighbor_HW > values_HW
    found: npt.NDArray[np.bool_] = equal_HW & ~brighter_HW
    return found


def _found(index: Index, cache: Path, workers: int, step: Callable[[], object]) -> Counter[tuple[Edges, bool]]:
    """How many masks there are by their edges and whether they are JPEGs; from the stamp where nothing changed."""
    files = sorted({index.path(name) for sample in index for name in sample.masks})
    before = _fingerprint(files)
    stamp = cache / "masks" / f"{before}.json"
    with suppress(OSError, ValueError, TypeError):
        known = json.loads(stamp.read_text(encoding="utf-8"))
        return Counter({(kind, bool(lossy)): int(count) for kind, lossy, count in known})

    def look(file: Path) -> tuple[Edges, bool] | None:
        try:
            levels = read_levels(file)
        except BadImageError:  # said by the check of files, or where the mask is used
            return None
        return edges(levels), levels.lossy

    found: Counter[tuple[Edges, bool]] = Counter()
    with threads(workers, "masks") as pool:
        for seen in ahead(pool, look, files, 4 * max(1, workers)):
            if seen is not None:
                found[seen] += 1
            step()
    # a file that changed while it was being read has not been judged; one that is bad will be mended
    if found.total() == len(files) and before == _fingerprint(files):
        with suppress(OSError):
            write_atomic(stamp, json.dumps([[*kind, count] for kind, count in found.items()]) + "\n")
    return found


def _fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over the files' keys."""
    digest = hashlib.sha256(f"{VERSION}".encode())
    for file in files:
        with suppress(OSError):
            digest.update(file_key(file) or b"")
    return digest.hexdigest()
