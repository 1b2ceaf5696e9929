"""Whether 16-bit images use their 16 bits: sensors of 10, 12 and 14 bits are often saved as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from ader.data.image import BadImageError, read_header, read_image
from ader.data.index import Index
from ader.system.parallel import ahead, threads

#: Bits of what is often saved in 16.
USUAL = (8, 10, 12, 14)


def find_shallow(index: Index, workers: int) -> dict[str, str]:
    """``shallow``, of an index's images; those that cannot be read are passed over.

    Args:
        index: the dataset; where it says how many bits are used, that holds and nothing is found.
        workers: threads. Of a category that uses its bits only a few images are decoded.
    """
    if index.bits is not None:
        return {}
    deep: dict[str, list[Path]] = {}
    with threads(workers, "depth") as pool:
        files = [index.path(sample.image) for sample in index]
        for sample, file, is_deep in zip(index, files, pool.map(_is_deep, files), strict=True):
            if is_deep:
                deep.setdefault(sample.category, []).append(file)
        return shallow({category: _highest(pool, deep[category], 2 * max(1, workers)) for category in deep})


def shallow(highest: Mapping[str, int]) -> dict[str, str]:
    """The categories of which no 16-bit image has a value beyond 14 bits, and a clause for each.

    An image by itself may be dark; a whole category is more likely to be of fewer bits, of which hardly a gray level
    would be left in 8.

    Args:
        highest: the largest high byte (as ``top_of`` has it) of each category's 16-bit images.
    """
    return {
        category: f"has no value above {(top << 8) + 255} in its 16-bit images, as data of {bits} bits: give "
        f"dataset.bits={bits}, or dataset.bits=16 if they are that dark"
        for category, top in highest.items()
        if (bits := next((bits for bits in USUAL if top < 1 << (bits - 8)), None)) is not None
    }


def top_of(image: Image.Image) -> int:
    """The largest value in any channel of an RGB image."""
    return max(int(high) for _, high in image.getextrema())  # type: ignore[misc]


def _is_deep(file: Path) -> bool:
    try:
        return read_header(file).bits is None
    except BadImageError:
        return False


def _highest(pool: ThreadPoolExecutor, files: Iterable[Path], most: int) -> int:
    """The largest high byte of 16-bit images, or of the first ones if that is beyond 14 bits."""
    highest = 0
    for level in ahead(pool, _level, files, most):
        highest = max(highest, level)
        if highest >= 1 << (USUAL[-1] - 8):
            break
    return highest


def _level(file: Path) -> int:
    try:
        return top_of(read_image(file))
    except BadImageError:
        return 0
