"""Made-up test sets: anomaly maps with masks that are the same in every process, drawn a few at a time or held whole.

Letters: N all images, B of a batch, C categories, P patterns of a pool; H rows, W columns.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Array = npt.NDArray[Any]

DISTRIBUTIONS = ("smooth", "uniform", "gaussian", "exp", "negative")
POOL = 16  # noise fields and blob patterns that images are made from


class Images:
    """A made-up test set: image i is the same in every process, batch and order, and no two are equal.

    Noise fields from a small pool are shifted, mirrored and scaled; defective images get a raised bump over 1 to 3
    blobs, and every fifth image one over nothing, a false alarm. Images are sorted by category.

    Args:
        images: how many; at least two per category.
        categories: how many, of equal size but for rounding.
        distribution: ``smooth`` (Gaussian-filtered noise, sigma 4 pixels, positive and skewed, another range in every
            category), ``exp`` (exponential of that: ten decades), ``negative`` (that, stretched to about -100),
            ``uniform``, ``gaussian`` (independent noise per pixel).
        size: maps are (size, size).
        seed: of everything.
        share: of defective images, smallest and largest over the categories.
    """

    def __init__(
        self,
        images: int,
        categories: int,
        distribution: str = "smooth",
        size: int = 256,
        seed: int = 0,
        share: tuple[float, float] = (0.05, 0.30),
    ) -> None:
        if images < 2 * categories:
            raise ValueError(f"images: expected at least two for each of {categories} categories, got {images}")
        rng = np.random.default_rng(seed)
        self.size, self.distribution = size, distribution
        self.names = [f"category{number:02}" for number in range(categories)]
        self.first_C: list[int] = np.linspace(0, images, categories + 1).astype(int).tolist()
        self.category_N = np.repeat(np.arange(categories), np.diff(self.first_C))
        self.label_N = np.concatenate([_labels(rng, int(count), share) for count in np.diff(self.first_C)])
        self._noise = _noise_pool(rng, size, distribution)
        self._blob, self._bump = _blob_pool(rng, size)
        reach = self._blob.shape[1] - size + 1
        self._noise_at = rng.integers(0, [POOL, size, size, 2], (images, 4))
        self._blob_at = rng.integers(0, [POOL, reach, reach], (images, 2, 3))
        self._alarm_N = rng.random(images) < 0.2
        self._gain_N = rng.uniform(0.8, 1.25, images).astype(np.float32)
        height = {"uniform": 0.5, "gaussian": 3.0}.get(distribution, 5.0)
        self._height_N2 = (height * rng.uniform(0.2, [1.0, 0.6], (images, 2))).astype(np.float32)
        self._level_C = rng.uniform(0.02, 0.5, categories).astype(np.float32)

    def draw(self, first: int, map_BHW: Array, mask_BHW: Array) -> None:
        """Fills the arrays with the maps (float32) and masks (uint8, 0 or 1) of images ``first``, ``first + 1``, ..."""
        for offset in range(len(map_BHW)):
            self._draw(first + offset, map_BHW[offset], mask_BHW[offset])

    def _draw(self, i: int, map_HW: Array, mask_HW: Array) -> None:
        number, top, left, mirrored = self._noise_at[i]
        noise = self._noise[number, top : top + self.size, left : left + self.size]
        np.multiply(noise[:, ::-1] if mirrored else noise, self._gain_N[i], out=map_HW)
        mask_HW[:] = 0
        for which, there in enumerate((self.label_N[i], self._alarm_N[i])):
            if there:
                number, top, left = self._blob_at[i, which]
                window = (number, slice(top, top + self.size), slice(left, left + self.size))
                map_HW += self._bump[window] * self._height_N2[i, which]
                if which == 0:
                    mask_HW[:] = self._blob[window]
        if self.distribution == "smooth":
            map_HW *= self._level_C[self.category_N[i]]
        elif self.distribution == "exp":
            np.exp(np.multiply(map_HW, 3.0, out=map_HW), out=map_HW)
        elif self.distribution == "negative":
            np.subtract(np.multiply(map_HW, 10.0, out=map_HW), 100.0, out=map_HW)


def _labels(rng: np.random.Generator, images: int, share: tuple[float, float]) -> Array:
    """Labels of one category, both kinds among them, shuffled."""
    defective = min(max(round(rng.uniform(*share) * images), 1), images - 1)
    return rng.permutation(np.arange(images) < defective).astype(np.int64)


def _noise_pool(rng: np.random.Generator, size: int, distribution: str) -> Array:
    """(POOL, 2 size, 2 size): fields that repeat, so that every window of them is a shifted field."""
    shape = (POOL, size, size)
    if distribution == "uniform":
        field_PHW = rng.random(shape, dtype=np.float32)
    else:
        field_PHW = rng.standard_normal(shape, dtype=np.float32)
        if distribution != "gaussian":
            field_PHW = gaussian_filter(field_PHW, (0, 4, 4), mode="wrap")
            field_PHW = np.exp(0.3 / field_PHW.std() * field_PHW)
    return np.tile(field_PHW.astype(np.float32), (1, 2, 2))


def _blob_pool(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Masks (uint8) and bumps (float32) of 1 to 3 separate blobs, each wholly inside every window of (size, size)."""
    canvas = size + 2 * int(0.15 * size)
    row_HW, column_HW = np.mgrid[:canvas, :canvas] - (canvas - 1) / 2
    blob_PHW = np.zeros((POOL, canvas, canvas), dtype=np.uint8)
    for blob_HW in blob_PHW:
        for quadrant in rng.permutation(4)[: rng.integers(1, 4)]:
            y_HW = row_HW - 0.3 * size * (quadrant // 2 - 0.5)
            x_HW = column_HW - 0.3 * size * (quadrant % 2 - 0.5)
            angle_HW, (two, three) = np.arctan2(y_HW, x_HW), rng.uniform(0, 2 * np.pi, 2)
            wobble_HW = 1 + 0.25 * np.sin(2 * angle_HW + two) + 0.15 * np.sin(3 * angle_HW + three)
            blob_HW[np.hypot(x_HW, y_HW) <= rng.uniform(0.02, 0.1) * size * wobble_HW] = 1
    bump_PHW = gaussian_filter(blob_PHW.astype(np.float32), (0, size / 64, size / 64))
    return blob_PHW, bump_PHW.astype(np.float32)


@dataclass
class Data:
    """Whole categories in memory. ``low_C`` and ``high_C``: smallest and largest score, given to all for free."""

    map_NHW: Any  # float32: array, or CUDA tensor
    mask_NHW: Any  # uint8, 0 or 1
    score_N: Array  # float64: largest of the map
    label_N: Array
    category_N: Array
    names: list[str]
    first_C: list[int]
    low_C: list[float] = field(default_factory=list)
    high_C: list[float] = field(default_factory=list)

    @classmethod
    def make(cls, images: Images, first_category: int = 0, stop_category: int | None = None) -> Data:
        """Draws some categories, by default all."""
        names = images.names[first_category:stop_category]
        bounds = images.first_C[first_category : first_category + len(names) + 1]
        first, count = bounds[0], bounds[-1] - bounds[0]
        map_NHW = np.empty((count, images.size, images.size), dtype=np.float32)
        mask_NHW = np.empty(map_NHW.shape, dtype=np.uint8)
        images.draw(first, map_NHW, mask_NHW)
        score_N = map_NHW.max(axis=(1, 2)).astype(np.float64)
        category_N = images.category_N[first : first + count] - first_category
        first_C = [bound - first for bound in bounds]
        data = cls(map_NHW, mask_NHW, score_N, images.label_N[first : first + count], category_N, names, first_C)
        data.low_C = [float(map_NHW[part].min()) for _, part in data.parts()]
        data.high_C = [float(map_NHW[part].max()) for _, part in data.parts()]
        return data

    def parts(self) -> Iterator[tuple[str, slice]]:
        """Name and images of each category."""
        for number, name in enumerate(self.names):
            yield name, slice(self.first_C[number], self.first_C[number + 1])

    def batches(self, size: int, part: slice | None = None) -> Iterator[slice]:
        """All images, or those of one category, in batches."""
        first, stop = (0, len(self.score_N)) if part is None else (part.start, part.stop)
        for at in range(first, stop, size):
            yield slice(at, min(at + size, stop))

    def head(self, categories: int) -> Data:
        """The first categories; views."""
        first_C = self.first_C[: categories + 1]
        return self._take(slice(first_C[-1]), self.names[:categories], first_C)

    def sample(self, images: int) -> Data:
        """A part of the first category, with its share of defective images (at least one of each kind); copies."""
        label_N = self.label_N[: self.first_C[1]]
        kinds = [np.flatnonzero(label_N == kind) for kind in (0, 1)]
        kept = [each[: max(1, round(images * len(each) / len(label_N)))] for each in kinds]
        keep = np.sort(np.concatenate(kept))
        return self._take(keep, self.names[:1], [0, len(keep)])

    def _take(self, keep: slice | Array, names: list[str], first_C: list[int]) -> Data:
        arrays = ("map_NHW", "mask_NHW", "score_N", "label_N", "category_N")
        taken = {name: getattr(self, name)[keep] for name in arrays}
        return replace(self, **taken, names=names, first_C=first_C)

    def to_cuda(self) -> Data:
        """The same with maps and masks on the GPU."""
        torch = importlib.import_module("torch")
        on_gpu = {name: torch.from_numpy(getattr(self, name)).cuda() for name in ("map_NHW", "mask_NHW")}
        return replace(self, **on_gpu)
