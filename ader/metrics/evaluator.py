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

from ader.metrics.checks import Observations, Pixels, UpdateChecker
from ader.metrics.curves import Bins
from ader.metrics.definitions import IMAGE_METRICS, OBJECT_METRICS, PUBLISHED, SLUGS, check_kind, reserved
from ader.metrics.exact import ExactState, Images, ImageState
from ader.metrics.histogram import BINS, HistogramState
from ader.metrics.kernels import Scan
from ader.metrics.operating import COLUMNS, operating_points
from ader.metrics.regions import label_regions
from ader.metrics.results import (
    Row,
    add_averages,
    add_image_metrics,
    add_object_metrics,
    add_pixel_metrics,
    add_published_metrics,
)
from ader.system.errors import UserError

STATE_VERSION = 4
MEAN = "mean"
_TALLIES = ("regions", "vanished", "pixel_images", "normal_pixels", "defective_pixels", "mapped")


class PixelState(Protocol):
    """Where a kind of evaluation keeps its pixels; see `HistogramState`. Rows are categories, or parts of them."""

    def extend(self, rows: int) -> None:
        """Adds empty rows."""

    def add(self, row_B: Tensor, map_BHW: Tensor, position_M: Tensor, weight_M: Tensor, scan: Scan) -> None:
        """Counts the pixels of a batch."""

    def merge(self, other: Any, rows: Sequence[int]) -> None:
        """Adds a state of the same kind and settings to these rows, one for each of the other's."""

    def bins(self, rows: Sequence[int]) -> Bins:
        """Counts of some rows together, in descending order of score."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Fills an empty state with as many rows."""


class Evaluator:
    """All metrics of a set of categories, from batches in any order, partition and number of processes.

    Counts are integers, and sums of region weights are kept so that nothing is rounded, so the answers do not depend
    on the order or the partition, to the last bit. (Kinds that keep every score add weights in the order of arrival:
    their AUPRO may then differ by rounding, about 1e-15.)

    Args:
        categories: names, in the order of the table's rows; ``"mean"`` and ``"chance"`` are taken.
        device: where maps and masks are and the counting is done.
        metric: the kind of evaluation. ``"histogram"``: memory independent of the number of pixels, values with
            bounds. ``"exact"``: keeps and sorts every score. ``"ader"``, ``"invad"``: the definitions of the tables
            that ADer, and InvAD and ViTAD have published, see `published`; keep every score, and take image labels
            from the masks where those are known.
        bins: budget per category of the histogram, see `layout`; no effect on the other kinds.
        by_defect: keep the kinds of defect apart, for `breakdown`; the histogram then has a budget for each.

    Raises:
        UserError: unknown ``metric``; no, repeated or reserved category names.
        ValueError: too few ``bins``.
    """

    def __init__(
        self,
        categories: Sequence[str],
        device: torch.device | str = "cpu",
        metric: str = "histogram",
        bins: int = BINS,
        by_defect: bool = False,
    ) -> None:
        if isinstance(categories, str) or not categories:
            raise UserError(f"categories: expected a list of at least one name, got {categories!r}")
        self.categories = list(categories)
        repeated = [name for name in self.categories if self.categories.count(name) > 1]
        if wrong := repeated or reserved(self.categories):
            raise UserError(f"category {wrong[0]!r} is {'repeated' if repeated else 'reserved'}: rename it")
        self.metric = check_kind(metric)
        self.bins = bins
        self.by_defect = by_defect
        self.device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as tensors report it
        self._checker = UpdateChecker(self.categories, self.device)
        self._images = ImageState()
        # A row of the pixel state for each category; by defect: for its normal images, and for each kind of defect.
        self._row_of = {(category, ""): category for category in range(len(self.categories))}
        self._pixels: PixelState = (
            HistogramState(len(self.categories), self.device, bins)
            if metric == "histogram"
            else ExactState(len(self.categories))
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
        group: Sequence[str | None] | None = None,
        defect: Sequence[str | None] | None = None,
    ) -> None:
        """Counts a batch, of any size, none included. Nothing is counted if the batch is refused.

        Args:
            category: per image, its name or its index in ``categories``.
            score: (B,) floating; higher is more anomalous; infinities are ordered. Kept in float64.
            label: (B,) 0 normal, 1 defective; from the dataset, not from a resized mask.
            map: (B, H, W) or (B, 1, H, W), floating, on the evaluator's device; None: the batch counts for image
                metrics only. float16, bfloat16 and float64 are converted to float32, so float64 scores may become
                ties. Sizes may differ from batch to batch.
            mask: as the map: bool; integer, nonzero where defective (0 and 255 as well as 0 and 1); or floating, 0 and
                1 and nothing else. None: as for ``map``. A defective image with an empty mask stays a defective image,
                and its pixels count as normal.
            pixel_truth: (B,) bool, False where the mask is unknown: those count for image metrics only.
                Default: every mask given is known.
            names: per image, for error messages.
            group: per image, the object that it shows (unique within its category), or None; for object metrics.
            defect: per image, its kind of defect; for `breakdown`, where those that are not told are one kind.

        Raises:
            UserError: NaN in a score or map, a floating mask that is not of 0 and 1, a normal image with a defective
                mask, an unknown category name.
            ValueError: a shape, dtype, device or index other than expected.
        """
        observed = self._checker.check(category, score, label, map, mask, pixel_truth, names, group, defect)
        if len(observed.category_B) == 0:
            return
        self._rows = None
        label_B = observed.label_B
        if self.metric in PUBLISHED and observed.pixels is not None:
            label_B = label_B.clone()  # ADer calls an image defective if its mask is, at the size of evaluation
            label_B[observed.pixels.image_B] = observed.pixels.scan.marked_B
        self._images.add(observed.category_B, observed.score_B, label_B, observed.groups, observed.defects)
        if observed.mapped:
            self._add_tally("mapped", observed.category_B, torch.ones_like(observed.category_B))
        if observed.pixels is not None:
            self._add_pixels(observed, observed.pixels)

    def _add_pixels(self, observed: Observations, pixels: Pixels) -> None:
        marked_B, image_B = pixels.scan.marked_B, pixels.image_B
        mask_BHW = pixels.mask_BHW
        if self.device.type != "cpu":  # few images have a defective pixel, and only their masks are worth a copy
            mask_BHW = torch.zeros(mask_BHW.shape, dtype=torch.uint8)
            mask_BHW[marked_B] = pixels.mask_BHW[marked_B.to(self.device)].cpu()
        regions = label_regions(mask_BHW.numpy(), marked_B.numpy())
        position_M, weight_M = (torch.from_numpy(each).to(self.device) for each in regions[:2])
        category_B, size = observed.category_B[image_B], pixels.map_BHW[0].numel()
        row_B = category_B
        if self.by_defect:
            defects = [observed.defects[image] if observed.label_B[image] else "" for image in image_B.tolist()]
            parts = zip(category_B.tolist(), defects, strict=True)
            row_B = torch.tensor([self._row(part) for part in parts], dtype=torch.int64)
        self._pixels.add(row_B, pixels.map_BHW, position_M, weight_M, pixels.scan)
        defective_B = torch.from_numpy(regions.size_B)
        self._add_tally("pixel_images", category_B, torch.ones_like(category_B))
        self._add_tally("defective_pixels", category_B, defective_B)
        self._add_tally("normal_pixels", category_B, size - defective_B)
        self._add_tally("vanished", category_B, (observed.label_B[image_B] & ~marked_B).long())
        self._add_tally("regions", category_B, torch.from_numpy(regions.count_B))

    def _row(self, part: tuple[int, str]) -> int:
        """Index of a part's row of the pixel state, which is made when the part is first met."""
        if part not in self._row_of:
            self._row_of[part] = len(self._row_of)
            self._pixels.extend(1)
        return self._row_of[part]

    def _add_tally(self, name: str, category_B: Tensor, amount_B: Tensor) -> None:
        self._tally[:, _TALLIES.index(name)].index_add_(0, category_B, amount_B)

    def merge(self, other: Evaluator) -> None:
        """Adds all that ``other`` has counted; ``other`` stays as it is and may live on another device.

        Raises:
            ValueError: metric, bins, by_defect or category names (their order included) differ.
        """
        for setting in ("metric", "categories", "bins", "by_defect"):
            mine, theirs = getattr(self, setting), getattr(other, setting)
            if mine != theirs:
                raise ValueError(f"merge: expected an evaluator with {setting} {mine!r}, got {theirs!r}")
        self._rows = None
        self._images.merge(other._images)
        self._pixels.merge(other._pixels, [self._row(part) for part in other._row_of])
        self._tally += other._tally

    def all_reduce(self, group: Any = None) -> None:
        """Every process of a ``torch.distributed`` group ends with what all of them have counted.

        One collective: an all-gather of the bins in use (which differ from process to process), merged in the order
        of the ranks, so that all processes get the same numbers.
        """
        states: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(states, self.state_dict(), group)
        whole = Evaluator(self.categories, self.device, self.metric, self.bins, self.by_defect)
        for state in states:
            whole.merge(Evaluator.from_state_dict(state, self.device))
        self.__dict__.update(whole.__dict__)

    def compute(self) -> pd.DataFrame:
        """All metrics: a row per category and ``mean``, a column per slug; fractions, NaN where undefined.

        Every entry of the ``mean`` row is the mean of its column over the categories where it is defined
        (`support` says how many). So is ``mad``; it equals the mean of the means if its parts are defined
        everywhere.
        """
        return self._frame([row.value for row in self._results()])

    def bounds(self) -> pd.DataFrame:
        """Certified half-widths, in the shape of `compute`: the exact value is at most that far away.

        0 for image metrics; for an average and the ``mean`` row the mean of the bounds. NaN where the value is
        undefined, and where nothing is certified: by the formulas of published tables, or with labels from masks
        that are not the dataset's.
        """
        rows = self._results()
        bounds = self._frame([row.half for row in rows])
        unknown = self._frame([row.value for row in rows]).notna() & bounds.isna()
        bounds.loc[MEAN] = bounds.loc[MEAN].mask(unknown.any())
        return bounds

    def breakdown(self) -> pd.DataFrame:
        """All metrics for each kind of defect: its images against all normal ones of the category.

        A row per (category, defect), in the order of the categories and of the names; columns as in `compute`.

        Raises:
            ValueError: the evaluator was not made with ``by_defect``.
        """
        if not self.by_defect:
            raise ValueError("breakdown: expected an evaluator made with by_defect=True")
        values: dict[tuple[str, str], dict[str, float]] = {}
        for category, name in enumerate(self.categories):
            images = self._images.images(category)
            for defect in np.unique(images.defect_N[images.label_N]).tolist():
                mine_N = ~images.label_N | (images.defect_N == defect)
                rows = [self._row_of[part] for part in ((category, ""), (category, defect)) if part in self._row_of]
                values[name, defect] = self._result(category, images.where(mine_N), rows).value
        index = pd.MultiIndex.from_tuples(list(values), names=["category", "defect"]) if values else None
        frame: pd.DataFrame = pd.DataFrame(list(values.values()), index=index, columns=list(SLUGS), dtype=np.float64)
        return frame

    def curves(self) -> pd.DataFrame:
        """Points of every category's pixel curves, from the highest threshold to the lowest: ``threshold``, ``fpr``,
        ``tpr`` (which is recall), ``precision``, ``pro`` (the mean share of a region that is found); fractions.

        A row per point, some hundred for each category that has normal and defective pixels; the index is the category.
        Thresholds are exact, in float64: at a score that is not below it a pixel counts as defective.
        """
        parts = {}
        for category, name in enumerate(self.categories):
            rows = [row for (owner, _), row in self._row_of.items() if owner == category]
            points = operating_points(self._pixels.bins(rows)) if rows else None
            if points is not None:
                parts[name] = pd.DataFrame(points, columns=list(COLUMNS))
        if not parts:
            return pd.DataFrame(columns=list(COLUMNS), index=pd.Index([], name="category"), dtype=np.float64)
        found: pd.DataFrame = pd.concat(parts).droplevel(1)
        found.index.name = "category"
        return found

    def counts(self) -> pd.DataFrame:
        """What stands behind each category, int64: ``normal`` and ``defective`` images, ``regions``,
        ``vanished`` defects (label 1, empty mask), ``pixel_images`` (images that count for pixel metrics) with
        their ``normal_pixels`` and ``defective_pixels``, and ``objects`` (distinct groups)."""
        images = [self._images.images(category) for category in range(len(self.categories))]
        columns = {"normal": [int((~each.label_N).sum()) for each in images]}
        columns["defective"] = [int(each.label_N.sum()) for each in images]
        columns |= {name: self._tally[:, i].tolist() for i, name in enumerate(_TALLIES) if name != "mapped"}
        columns["objects"] = [len(set(each.group_N.tolist()) - {""}) for each in images]
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
        """All that was counted: strings, numbers and CPU tensors, loadable with ``weights_only=True``."""
        return {
            "version": STATE_VERSION,
            "categories": list(self.categories),
            "metric": self.metric,
            "bins": self.bins,
            "by_defect": self.by_defect,
            "parts": list(self._row_of),
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
        evaluator = cls(state["categories"], device, state["metric"], state["bins"], state["by_defect"])
        for category, defect in state["parts"]:
            evaluator._row((category, defect))
        evaluator._images.load_state_dict(state["images"])
        evaluator._pixels.load_state_dict(state["pixels"])
        evaluator._tally = state["tally"].cpu().clone()
        return evaluator

    def _results(self) -> list[Row]:
        """Values, bounds and reasons per category; kept until something is added."""
        if self._rows is None:
            self._rows = []
            for category in range(len(self.categories)):
                rows = [row for (owner, _), row in self._row_of.items() if owner == category]
                self._rows.append(self._result(category, self._images.images(category), rows))
        return self._rows

    def _result(self, category: int, images: Images, rows: Sequence[int]) -> Row:
        """All metrics of some images of a category, and the rows of the pixel state that hold their pixels."""
        row = Row()
        add_image_metrics(row, images)
        add_object_metrics(row, images)
        vanished, mapped = (int(self._tally[category, _TALLIES.index(name)]) for name in ("vanished", "mapped"))
        if self.metric in PUBLISHED:
            assert isinstance(self._pixels, ExactState)
            if vanished:  # their labels are not the dataset's
                row.half |= dict.fromkeys((*IMAGE_METRICS, *OBJECT_METRICS), np.nan)
            add_published_metrics(row, self.metric, *self._pixels.scores(rows), mapped)
        else:
            add_pixel_metrics(row, self._pixels.bins(rows), mapped)
        add_averages(row)
        return row

    def _frame(self, rows: list[dict[str, float]]) -> pd.DataFrame:
        frame: pd.DataFrame = pd.DataFrame(rows, index=self._index(), columns=list(SLUGS), dtype=np.float64)
        frame.loc[MEAN] = frame.mean()
        return frame

    def _index(self) -> pd.Index[str]:
        index: pd.Index[str] = pd.Index(self.categories, name="category")
        return index
