"""What a result keeps of the pixels of every test image: ``pixels.npz``, from which images can be drawn again.

A sketch of an image is the sorted scores of its pixels, cut into blocks: each block is a count of pixels and the score
in its middle. Blocks of normal pixels are the smaller the higher their scores, down to single pixels, since metrics
hang on the highest false alarms; blocks of defective pixels have equal shares of the image's pixels and regions. The
metrics of sketches are near those of all pixels, not equal to them: for the spread over images, not for tables.

Letters: N images with known pixels, M of them with defective ones, K and L blocks of normal and of defective pixels.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ader.system.errors import UserError
from ader.system.files import check_regular

FILE = "pixels.npz"

#: Blocks of an image's normal and of its defective pixels.
NORMAL, DEFECTIVE = 64, 64

#: Test images above which none are kept: about 8 MB.
MOST = 10_000

F4 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int64]


class Sketch(NamedTuple):
    """The pixels of one image, in blocks of descending scores.

    Attributes:
        normal_value_K: scores; meaningless where a block is empty.
        normal_count_K: pixels.
        defective_value_L, defective_count_L: as of normal ones; no blocks where the image has no defective pixel.
        defective_weight_L: sums of 1 / (area of the region, pixels): all blocks together give the number of regions.
    """

    normal_value_K: F4
    normal_count_K: I8
    defective_value_L: F4
    defective_count_L: I8
    defective_weight_L: F4


#: Of an image without defective pixels.
NONE = (np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Sketches:
    """Sketches of test images, by their names."""

    images: dict[str, Sketch] = field(default_factory=dict)

    def add(self, other: Sketches) -> None:
        """Takes those of other images."""
        self.images.update(other.images)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As the file has them.

        ``image`` (N,) names in their order, ``normal_value`` (N, K), ``normal_count``; ``defective`` (M,) places in
        ``image``, ``defective_value`` (M, L), ``defective_count``, ``defective_weight``.
        """
        names = sorted(self.images)
        all_N = [self.images[name] for name in names]
        bad_M = [place for place, each in enumerate(all_N) if len(each.defective_value_L)]
        columns: dict[str, npt.NDArray[Any]] = {
            "image": np.array(names, dtype=np.str_),
            "normal_value": np.array([each.normal_value_K for each in all_N], np.float32).reshape(-1, NORMAL),
            "normal_count": np.array([each.normal_count_K for each in all_N], np.uint32).reshape(-1, NORMAL),
            "defective": np.array(bad_M, np.uint32),
        }
        for name, kind in (("value", np.float32), ("count", np.uint32), ("weight", np.float32)):
            blocks_ML = [getattr(all_N[place], f"defective_{name}_L") for place in bad_M]
            columns[f"defective_{name}"] = np.array(blocks_ML, kind).reshape(-1, DEFECTIVE)
        return columns

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Sketches:
        """What ``arrays`` gave.

        Raises:
            ValueError, KeyError: it is not that.
        """
        names = [str(name) for name in arrays["image"]]
        normal_NK = _checked(arrays["normal_value"], len(names)), _checked(arrays["normal_count"], len(names))
        places = [int(place) for place in arrays["defective"]]
        bad_ML = [_checked(arrays[f"defective_{each}"], len(places)) for each in ("value", "count", "weight")]
        if normal_NK[0].shape != normal_NK[1].shape or len({each.shape for each in bad_ML}) > 1:
            raise ValueError("values and counts differ in their shapes")
        bad_M = zip(bad_ML[0], bad_ML[1].astype(np.int64), bad_ML[2], strict=True)
        rows = {names[place]: blocks for place, blocks in zip(places, bad_M, strict=True)}
        value_NK, count_NK = normal_NK[0], normal_NK[1].astype(np.int64)
        return cls({name: Sketch(value_NK[n], count_NK[n], *rows.get(name, NONE)) for n, name in enumerate(names)})

    def content(self) -> bytes:
        """The file's; the same for the same sketches."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **self.arrays())
        return buffer.getvalue()


def _checked(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    if array.ndim != 2 or len(array) != rows or array.dtype.kind not in "fui":
        raise ValueError(f"expected {rows} rows of numbers, got {array.dtype} of shape {array.shape}")
    return array


def read_sketches(folder: Path) -> Sketches | None:
    """Of a finished run; None where it keeps none: made by an earlier version, without maps, or with too many images.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / FILE
    check_regular(file)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Sketches.of(arrays)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} cannot be read ({error}): ader eval {folder} makes it again") from error


def normal_ends(pixels: int) -> I8:
    """Ranks at which the blocks of so many normal pixels end, (K,), ascending, the last one is ``pixels``.

    Few pixels have a block each. Of more, half of the blocks have equal shares of all pixels; the other half cut the
    highest of these shares, single pixels at first, then each block larger than the one before by the same factor.
    """
    if pixels <= NORMAL:
        return np.arange(1, NORMAL + 1).clip(max=pixels)
    equal = NORMAL // 2
    share = pixels / equal
    within = np.maximum(share ** np.linspace(0.0, 1.0, NORMAL - equal + 1), np.arange(1, NORMAL - equal + 2)).clip(
        max=share
    )
    ends_K: I8 = np.rint(np.concatenate([within, np.linspace(share, pixels, equal)[1:]])).astype(np.int64)
    return ends_K
