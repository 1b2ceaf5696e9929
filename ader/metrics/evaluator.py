"""The streaming evaluator: batches in, any order; a table of all metrics with certified bounds out.

Example:
    >>> ev = Evaluator(categories=["bottle"])
    >>> ev.update(category=["bottle"] * 2, score=[0.9, 0.1], label=[1, 0])
    >>> float(ev.compute().loc["bottle", "image_auroc"])
    1.0

Letters: B images, H rows, W columns (pixels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ader.errors import UserError
from ader.metrics.batch import BatchChecker, Pixels, as_tensor
from ader.metrics.curves import Bins
from ader.metrics.exact import ExactState, ImageState
from ader.metrics.histogram import MANTISSA_BITS, HistogramState
from ader.metrics.names import SLUGS, check_profile
from ader.metrics.regions import label_regions
from ader.metrics.results import Row, add_averages, add_image_metrics, add_pixel_metrics

STATE_VERSION = 1
MEAN = "mean"
_TALLIES = ("regions", "vanished", "pixel_images", "normal_pixels", "defective_pixels", "mapped")


class PixelState(Protocol):
    """What a metric profile has to offer; see `HistogramState`."""

    def add(self, category_B: Tensor, map_BHW: Tensor, mask_BHW: Tensor, weight_M: Tensor) -> None:
        """Counts the pixels of a batch."""

    def merge(self, other: Any) -> None:
        """Adds a state of the same kind and settings."""

    def bins(self, category: int) -> Bins:
        """Counts of one category, in descending order of score."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the counts."""


class Evaluator:
    """All metrics of a set of categories, from batches in any order, partition and number of processes.

    Integer counts make the answers independent of the order; sums of region weights are floating-point, so
    AUPRO may differ by rounding (about 1e-15).

    Args:
        categories: names, in the order of the table's rows; ``"mean"`` is taken.
        device: where maps and masks are and the counting is done.
        profile: ``"histogram"`` (memory independent of the number of pixels, values with bounds) or
            ``"exact"`` (keeps and sorts every score).
        mantissa_bits: resolution of the histogram's bins, see `HistogramState`; no effect on ``"exact"``.

    Raises:
        UserError: unknown profile; no, repeated or reserved category names.
        ValueError: ``mantissa_bits`` out of range.
    """

    def __init__(
        self,
        categories: Sequence[str],
        device: torch.device | str = "cpu",
        profile: str = "histogram",
        mantissa_bits: int = MANTISSA_BITS,
    ) -> None:
        self.categories = _check_categories(categories)
        self.profile = check_profile(profile)
        self.mantissa_bits = mantissa_bits
        self.device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as tensors report it
        self._checker = BatchChecker(self.categories, self.device)
        self._images = ImageState()
        self._pixels: PixelState = (
            ExactState(len(self.categories), self.device)
            if profile == "exact"
            else HistogramState(len(self.categories), self.device, mantissa_bits)
        )
        self._tally = torch.zeros((len(self.categories), len(_TALLIES)), dtype=torch.int64)
        self._rows: list[Row] | None = None

    def update(
        self,
        category: Tensor | Sequence[int] | Sequence[str],
        score: Any,
        label: Any,
        map: Any = None,
        mask: Any = None,
        pixel_truth: Any = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Counts a batch, of any size, none included. Nothing is counted if the batch is refused.

        Args:
            category: per image, its name or its index in ``categories``.
            score: (B,) floating; higher is more anomalous; infinities are ordered. Kept in float64.
            label: (B,) 0 normal, 1 defective; from the dataset, not from a resized mask.
            map: (B, H, W) floating, on the evaluator's device; None: the batch counts for image metrics only.
                float16, bfloat16 and float64 are converted to float32, so float64 scores may become ties.
            mask: (B, H, W) bool or integer, nonzero where defective; None: as for ``map``. A defective image
                with an empty mask stays a defective image, and its pixels count as normal.
            pixel_truth: (B,) bool, False where the mask is unknown: those count for image metrics only.
                Default: every mask given is known.
            names: per image, for error messages.

        Raises:
            UserError: NaN in a score or map, a normal image with a defective mask, an unknown category name.
            ValueError: a shape, dtype, device or index other than expected.
        """
        batch = self._checker.check(category, score, label, map, mask, pixel_truth, names)
        if len(batch.category_B) == 0:
            return
        self._rows = None
        self._images.add(batch.category_B, batch.score_B, batch.label_B)
        if batch.mapped:
            self._add_tally("mapped", batch.category_B, torch.ones_like(batch.category_B))
        if batch.pixels is not None and len(batch.pixels.category_B):
            self._add_pixels(batch.pixels)

    def _add_pixels(self, pixels: Pixels) -> None:
        category_B = pixels.category_B.cpu()
        defective = pixels.any_B.to(self.device)
        regions = label_regions(pixels.mask_BHW[defective].cpu().numpy())
        weight_M = torch.from_numpy(regions.weight_M).to(self.device)
        self._pixels.add(pixels.category_B, pixels.map_BHW, pixels.mask_BHW, weight_M)
        self._add_tally("pixel_images", category_B, torch.ones_like(category_B))
        marked_B = pixels.mask_BHW.flatten(1).sum(dim=1).cpu()
        self._add_tally("defective_pixels", category_B, marked_B)
        self._add_tally("normal_pixels", category_B, pixels.mask_BHW[0].numel() - marked_B)
        self._add_tally("vanished", category_B, (pixels.label_B & ~pixels.any_B).long())
        self._add_tally("regions", category_B[pixels.any_B], torch.from_numpy(regions.count_B))

    def _add_tally(self, name: str, category_B: Tensor, amount_B: Tensor) -> None:
        self._tally[:, _TALLIES.index(name)].index_add_(0, category_B, amount_B)

    def merge(self, other: Evaluator) -> None:
        """Adds all that ``other`` has counted; ``other`` stays as it is and may live on another device.

        Raises:
            ValueError: profile, resolution or category names (their order included) differ.
        """
        for setting in ("profile", "categories", "mantissa_bits"):
            mine, theirs = getattr(self, setting), getattr(other, setting)
            if mine != theirs:
                raise ValueError(f"merge: expected an evaluator with {setting} {mine!r}, got {theirs!r}")
        self._rows = None
        self._images.merge(other._images)
        self._pixels.merge(other._pixels)
        self._tally += other._tally

    def compute(self) -> pd.DataFrame:
        """All metrics: a row per category and ``mean``, a column per slug; fractions, NaN where undefined.

        Every entry of the ``mean`` row is the mean of its column over the categories where it is defined
        (`support` says how many). So is ``mad``; it equals the mean of the means if its parts are defined
        everywhere.
        """
        return self._frame([row.value for row in self._results()])

    def bounds(self) -> pd.DataFrame:
        """Certified half-widths, in the shape of `compute`: the exact value is at most that far away.

        0 for image metrics, NaN where undefined; for an average and the ``mean`` row the mean of the bounds.
        """
        return self._frame([row.half for row in self._results()])

    def counts(self) -> pd.DataFrame:
        """What stands behind each category, int64: ``normal`` and ``defective`` images, ``regions``,
        ``vanished`` defects (label 1, empty mask), ``pixel_images`` (images that count for pixel metrics) with
        their ``normal_pixels`` and ``defective_pixels``."""
        labels = [self._images.scores(category)[1] for category in range(len(self.categories))]
        columns = {"normal": [int((~each).sum()) for each in labels]}
        columns["defective"] = [int(each.sum()) for each in labels]
        columns |= {name: self._tally[:, i].tolist() for i, name in enumerate(_TALLIES) if name != "mapped"}
        counts: pd.DataFrame = pd.DataFrame(columns, index=self._index(), dtype=np.int64)
        return counts

    def undefined(self) -> dict[tuple[str, str], str]:
        """Why entries of `compute` are NaN: (category, slug) -> reason, such as "no defective image"."""
        pairs = zip(self.categories, self._results(), strict=True)
        return {(name, slug): row.undefined[slug] for name, row in pairs for slug in SLUGS if slug in row.undefined}

    def support(self) -> pd.Series[int]:
        """Over how many categories each entry of the ``mean`` row was taken: slug -> count."""
        support: pd.Series[int] = self.compute().drop(index=MEAN).notna().sum()
        return support

    def state_dict(self) -> dict[str, Any]:
        """All that was counted: strings, integers and CPU tensors, loadable with ``weights_only=True``."""
        return {
            "version": STATE_VERSION,
            "categories": list(self.categories),
            "profile": self.profile,
            "mantissa_bits": self.mantissa_bits,
            "images": self._images.state_dict(),
            "pixels": self._pixels.state_dict(),
            "tally": self._tally.clone(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device | str = "cpu") -> Evaluator:
        """An evaluator that goes on where `state_dict` was taken, on any device.

        Raises:
            UserError: the state was written by another version.
        """
        if state.get("version") != STATE_VERSION:
            found = state.get("version")
            raise UserError(f"evaluator state has version {found!r}, expected {STATE_VERSION}: evaluate again")
        evaluator = cls(state["categories"], device, state["profile"], state["mantissa_bits"])
        evaluator._images.load_state_dict(state["images"])
        evaluator._pixels.load_state_dict(state["pixels"])
        evaluator._tally = state["tally"].cpu().clone()
        return evaluator

    def _results(self) -> list[Row]:
        """Values, bounds and reasons per category; kept until something is added."""
        if self._rows is None:
            self._rows = [self._row(category) for category in range(len(self.categories))]
        return self._rows

    def _row(self, category: int) -> Row:
        row = Row()
        add_image_metrics(row, *self._images.scores(category))
        mapped = int(self._tally[category, _TALLIES.index("mapped")])
        add_pixel_metrics(row, self._pixels.bins(category), mapped)
        add_averages(row)
        return row

    def _frame(self, rows: list[dict[str, float]]) -> pd.DataFrame:
        frame: pd.DataFrame = pd.DataFrame(rows, index=self._index(), columns=list(SLUGS), dtype=np.float64)
        frame.loc[MEAN] = frame.mean()
        return frame

    def _index(self) -> pd.Index[str]:
        index: pd.Index[str] = pd.Index(self.categories, name="category")
        return index


def _check_categories(categories: Sequence[str]) -> list[str]:
    if isinstance(categories, str) or not categories:
        raise UserError(f"categories: expected a list of at least one name, got {categories!r}")
    names = list(categories)
    repeated = {name for name in names if names.count(name) > 1}
    if repeated or MEAN in names:
        raise UserError(f"category {min(repeated, default=MEAN)!r} is repeated or reserved: rename it")
    return names


def evaluate(
    maps: Any,
    masks: Any,
    scores: Any = None,
    labels: Any = None,
    categories: Sequence[str] | None = None,
    profile: str = "histogram",
) -> pd.DataFrame:
    """All metrics of arrays in memory, in one call: `Evaluator.compute` of everything.

    Args:
        maps: (N, H, W) array or tensor, or a list of (H, W) of any sizes; floating. None: image metrics only.
        masks: as ``maps``, bool or integer, nonzero where defective; on the device of ``maps``.
            None: image metrics only.
        scores: (N,) floating; default: the maximum of each map.
        labels: (N,) 0 or 1; default: whether the mask has a defective pixel.
        categories: per image, its category's name; rows appear in the order of first mention.
            Default: all images belong to one category, ``"all"``.
        profile: as for `Evaluator`.

    Raises:
        UserError, ValueError: as for `Evaluator.update`; or what a default would be made from is missing.
    """
    maps, masks = _to_tensors(maps), _to_tensors(masks)
    scores = _default(scores, maps, "scores", "maps", lambda map: map.max())
    labels = _default(labels, masks, "labels", "masks", lambda mask: (mask != 0).any())
    names = ["all"] * len(scores) if categories is None else list(categories)
    for what, given in (("maps", maps), ("masks", masks), ("labels", labels), ("categories", names)):
        if given is not None and len(given) != len(scores):
            raise ValueError(f"{what}: expected {len(scores)} entries, got {len(given)}")
    device = maps[0].device if maps is not None and len(maps) else "cpu"
    evaluator = Evaluator(list(dict.fromkeys(names)) or ["all"], device, profile)
    for i in range(len(scores)):
        image, truth = (None if each is None else each[i][None] for each in (maps, masks))
        evaluator.update(names[i : i + 1], scores[i : i + 1], labels[i : i + 1], image, truth, names=[f"{i}"])
    return evaluator.compute()


def _to_tensors(images: Any) -> Any:
    """A tensor (N, H, W) stays one; a list becomes a list of tensors (H, W)."""
    if images is None or isinstance(images, Tensor):
        return images
    return [as_tensor(image) for image in images]


def _default(given: Any, images: Any, what: str, source: str, reduce: Any) -> Tensor:
    """``given`` as a tensor, or one value per image made from ``images``."""
    if given is not None:
        return as_tensor(given)
    if images is None:
        raise ValueError(f"{what}: expected values, as there are no {source} to take them from")
    return torch.stack([reduce(image) for image in images]) if len(images) else torch.zeros(0)
