"""Paired bootstrap intervals for the difference of two runs on the same test images.

Images are drawn with replacement within each category and label, the same for both runs, so that what an image adds to
both is no part of the difference; every draw has as many images of each kind as the test set. Efron and Tibshirani, "An
Introduction to the Bootstrap" (1993), chapters 8 and 14. What varies is the choice of test images: not the seed.

Letters: B draws, P defective and Q normal images of a category, C categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ader.metrics.definitions import AVERAGES
from ader.report.statistics.drawn import BINS, Category, Pixels, needs_pixels
from ader.results.pixels import Sketches
from ader.system.errors import UserError, some

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

DRAWS = 2000
LEVEL = 0.95

#: Values of one intermediate array: draws are taken in chunks of so many, or a large category would fill the memory.
CHUNK = 4_000_000

#: Fewer categories say nothing of further ones.
FEWEST_CATEGORIES = 5


class Interval(NamedTuple):
    """A difference B - A, and where it may lie.

    Attributes:
        a, b: the runs' values, fractions.
        low, high: ends of the interval for ``b - a``; NaN where there is none.
        units: what was drawn, and how many of them, as ``1725 images``; why there is no interval, where there is none.
    """

    a: float
    b: float
    low: float
    high: float
    units: str

    @property
    def difference(self) -> float:
        """B - A."""
        return self.b - self.a

    @property
    def certain(self) -> bool:
        """Whether it excludes 0."""
        return self.low > 0 or self.high < 0

    def around(self, a: float, b: float) -> Interval:
        """The same width about other values: those of all pixels, where it is from sketches of them."""
        shift = (b - a) - self.difference
        return Interval(a, b, self.low + shift, self.high + shift, self.units)


@dataclass(frozen=True)
class Pair:
    """Two runs' scores of the same test images, by category.

    Attributes:
        categories: of the dataset, which both kinds of images are in; (scores of A, scores of B).
        left_out: categories with one kind only, in which no image metric is defined.
    """

    categories: Mapping[str, tuple[Category, Category]]
    left_out: tuple[str, ...]

    @property
    def images(self) -> int:
        """Test images."""
        return sum(len(a.defective_P) + len(a.normal_Q) for a, _ in self.categories.values())


def pair(
    a: pd.DataFrame,
    b: pd.DataFrame,
    names: tuple[str, str] = ("A", "B"),
    pixels: tuple[Sketches, Sketches] | None = None,
) -> Pair:
    """Two runs' scores (``seeds.read_scores``), image by image.

    Args:
        a, b: indexed by image.
        names: of the runs, for messages.
        pixels: of both runs' images, where they are kept and wanted.

    Raises:
        UserError: the images, their categories or their labels differ, or a score is not finite.
    """
    if differing := sorted(set(a.index) ^ set(b.index)):
        raise UserError(
            f"{names[0]} and {names[1]} were tested on other images, such as {some(map(str, differing), 2)}: a paired "
            "comparison needs the same"
        )
    b = b.loc[a.index]
    wrong = a.index[(a["label"] != b["label"]) | (a["category"] != b["category"])]
    if len(wrong):
        raise UserError(f"{names[0]} and {names[1]} have other labels or categories for {some(map(str, wrong), 2)}")
    for name, scores in zip(names, (a, b), strict=True):
        if not np.isfinite(scores["score"]).all():
            raise UserError(f"{name} has scores that are not finite: nothing can be drawn from them")
    categories, left_out = {}, []
    for category, group in a.groupby("category", sort=False):
        bad_N = group["label"].to_numpy() == 1
        if bad_N.all() or not bad_N.any():
            left_out.append(str(category))
            continue
        ordered = [*group.index[bad_N], *group.index[~bad_N]]
        pixels_2 = [Pixels.of([each.images.get(str(name)) for name in ordered]) for each in pixels or ()]
        known_2 = pixels_2 if pixels_2 and None not in pixels_2 else (None, None)
        score_2N = [scores.loc[ordered, "score"].to_numpy(np.float64) for scores in (a, b)]
        bad = int(bad_N.sum())
        first, second = (
            Category(score_N[:bad], score_N[bad:], known) for score_N, known in zip(score_2N, known_2, strict=True)
        )
        categories[str(category)] = (first, second)
    if not categories:
        raise UserError(f"{names[0]} and {names[1]} have no category with normal and defective test images")
    return Pair(categories, tuple(left_out))


class Draws(NamedTuple):
    """Differences B - A of one metric in one category.

    Attributes:
        a, b: values of the test set.
        drawn_B: in each draw.
        without_P, without_Q: with one defective or normal image left out.
    """

    a: float
    b: float
    drawn_B: F8
    without_P: F8
    without_Q: F8


def intervals(
    both: Pair, slugs: Sequence[str], draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> dict[str, dict[str, Interval]]:
    """BCa intervals of metrics: by slug, then by category and ``mean``, that over categories.

    A metric of pixels has none in a category of which a run keeps no pixels; without any there is no ``mean``.

    Args:
        both: of ``pair``.
        slugs: of ``drawn.RESAMPLED``.
        draws: B.
        seed: of the draws, which are the same for every metric and for both runs.
        level: how much of the distribution an interval has.
    """
    parts = {slug: AVERAGES.get(slug, (slug,)) for slug in slugs}
    wanted = list(dict.fromkeys(part for each in parts.values() for part in each))
    found: dict[str, dict[str, Draws]] = {slug: {} for slug in slugs}
    for number, (name, (a, b)) in enumerate(both.categories.items()):
        here = [part for part in wanted if a.pixels is not None or not needs_pixels(part)]
        components = _differences(a, b, here, draws, np.random.default_rng([seed, number]))
        for slug in slugs:
            if {*parts[slug]} <= {*components}:
                found[slug][name] = _combined([components[part] for part in parts[slug]])
    return {slug: _of_categories(each, level) for slug, each in found.items() if each}


def _differences(
    a: Category, b: Category, slugs: Sequence[str], draws: int, rng: np.random.Generator
) -> dict[str, Draws]:
    """Of one category, by metric."""
    bad, good = len(a.defective_P), len(a.normal_Q)
    all_P, all_Q = np.arange(bad)[None], np.arange(good)[None]
    whole = [each.metrics(all_P, all_Q, slugs) for each in (a, b)]

    def differences(pairs: Iterator[tuple[I8, I8]]) -> dict[str, F8]:
        parts = [(a.metrics(*places, slugs), b.metrics(*places, slugs)) for places in pairs]
        return {slug: np.concatenate([second[slug] - first[slug] for first, second in parts]) for slug in slugs}

    step = max(1, CHUNK // max(bad + good, BINS if a.pixels is not None else 1))
    drawn = differences(
        (rng.integers(bad, size=(size, bad)), rng.integers(good, size=(size, good))) for size in _sizes(draws, step)
    )
    # Left out one by one. A single image of its kind cannot be: it adds nothing to the acceleration.
    none = dict.fromkeys(slugs, np.zeros(0))
    without_P = none if bad < 2 else differences((each, np.repeat(all_Q, len(each), 0)) for each in _without(bad, step))
    without_Q = (
        none if good < 2 else differences((np.repeat(all_P, len(each), 0), each) for each in _without(good, step))
    )
    return {
        slug: Draws(float(whole[0][slug][0]), float(whole[1][slug][0]), drawn[slug], without_P[slug], without_Q[slug])
        for slug in slugs
    }


def _sizes(total: int, step: int) -> Iterator[int]:
    yield from (min(step, total - start) for start in range(0, total, step))


def _without(count: int, step: int) -> Iterator[I8]:
    """Positions of all but one, for each of them, in chunks of rows."""
    for start in range(0, count, step):
        left_out = np.arange(start, min(start + step, count))[:, None]
        kept = np.arange(count - 1)[None]
        yield kept + (kept >= left_out)


def _combined(parts: Sequence[Draws]) -> Draws:
    """The mean of several metrics of one category."""
    return _mean_of(parts)._replace(
        without_P=np.mean([part.without_P for part in parts], axis=0),
        without_Q=np.mean([part.without_Q for part in parts], axis=0),
    )


def _mean_of(parts: Sequence[Draws]) -> Draws:
    """The mean of values and draws, without what single images do."""
    a, b = (float(np.mean([getattr(part, name) for part in parts])) for name in ("a", "b"))
    return Draws(a, b, np.mean([part.drawn_B for part in parts], axis=0), np.zeros(0), np.zeros(0))


def _of_categories(found: Mapping[str, Draws], level: float) -> dict[str, Interval]:
    """An interval for each category, and for the mean over them."""
    made = {name: _interval(each, [each], level) for name, each in found.items()}
    return {**made, "mean": _interval(_mean_of(list(found.values())), list(found.values()), level)}


def _interval(of: Draws, parts: Sequence[Draws], level: float) -> Interval:
    """Of a mean over categories, each of which counts alike."""
    samples = [sample for part in parts for sample in (part.without_P, part.without_Q) if len(sample)]
    images = sum(max(1, len(sample)) for part in parts for sample in (part.without_P, part.without_Q))
    if not np.isfinite(of.drawn_B).all():
        return Interval(of.a, of.b, math.nan, math.nan, "draws without a defective pixel")
    low, high = bca(of.b - of.a, of.drawn_B, samples, 1 / len(parts), level)
    return Interval(of.a, of.b, low, high, f"{images} images")


def bca(
    value: float, drawn_B: F8, without: Sequence[F8], weight: float = 1.0, level: float = LEVEL
) -> tuple[float, float]:
    """Ends of a bias-corrected and accelerated interval (Efron 1987), for several samples drawn apart.

    Where every draw gives the same, or the correction is undefined because no draw lies on one side of the value, it is
    the percentile interval.

    Args:
        value: of the data.
        drawn_B: of the draws.
        without: for each sample the values with one of its units left out.
        weight: what a sample's own value counts in ``value``.
        level: how much of the distribution the interval has.
    """
    from scipy.stats import norm

    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    below = float(np.mean(drawn_B < value) + np.mean(drawn_B == value) / 2)
    if 0 < below < 1:
        shift = norm.ppf(below) + norm.ppf(ends)
        ends = norm.cdf(norm.ppf(below) + shift / (1 - _acceleration(without, weight) * shift))
    low, high = np.quantile(drawn_B, ends)
    return float(low), float(high)


def _acceleration(without: Sequence[F8], weight: float) -> float:
    """Of several samples: Davison and Hinkley, "Bootstrap Methods and their Application" (1997), equation 5.27."""
    cubes = squares = 0.0
    for left_out in without:
        size = len(left_out)
        influence = weight * (size - 1) * (left_out.mean() - left_out)
        cubes += float(np.sum(influence**3)) / size**3
        squares += float(np.sum(influence**2)) / size**2
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def over_categories(a_C: F8, b_C: F8, draws: int = DRAWS, seed: int = 0, level: float = LEVEL) -> Interval:
    """For a metric of which no values per image are kept: categories are drawn instead, the same for both runs.

    It answers another question: how far the difference depends on which categories a benchmark has. No interval where
    there are fewer than five categories.

    Args:
        a_C, b_C: values per category; NaN where one is undefined.
    """
    kept_C = np.isfinite(a_C) & np.isfinite(b_C)
    a_C, b_C = a_C[kept_C], b_C[kept_C]
    if not len(a_C):
        return Interval(math.nan, math.nan, math.nan, math.nan, "undefined")
    a, b, count = float(a_C.mean()), float(b_C.mean()), len(a_C)
    if count < FEWEST_CATEGORIES:
        return Interval(a, b, math.nan, math.nan, f"too few categories ({count})")
    delta_C = b_C - a_C
    drawn_B = delta_C[np.random.default_rng(seed).integers(count, size=(draws, count))].mean(axis=1)
    without_C = (delta_C.sum() - delta_C) / (count - 1)
    return Interval(a, b, *bca(b - a, drawn_B, [without_C], 1.0, level), f"{count} categories")
