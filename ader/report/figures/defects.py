"""What a dataset's defects are like (InvAD Fig. A1, of COCO-AD): from its index and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from ader.data.index import TEST, Index, Sample
from ader.data.masks import MaskRule, load_mask, own_mask
from ader.report.collection import Run
from ader.report.figures._style import COLUMN, DEFECTIVE, HEAT, NORMAL, headline, label, new_figure
from ader.system.errors import UserError
from ader.system.parallel import ahead, threads

#: Side of the map of where defects are.
SIDE = 64

#: 8-connected, as everywhere in the project.
EIGHT = np.ones((3, 3), dtype=np.int8)


@dataclass(frozen=True)
class Defects:
    """Of the defective test images that have masks.

    Attributes:
        share_N: defective pixels of each image, as a fraction; those with an empty mask are left out.
        regions_N: 8-connected regions of each.
        place_HW: share of the images that are defective there, all images scaled to one square.
        images: defective test images by category.
        normal: normal test images by category.
    """

    share_N: npt.NDArray[np.float64]
    regions_N: npt.NDArray[np.int64]
    place_HW: npt.NDArray[np.float64]
    images: Counter[str]
    normal: Counter[str]


def measure(index: Index, rule: MaskRule = "any", workers: int = 1) -> Defects:
    """Reads all masks of the test images.

    Args:
        index: of the dataset.
        rule: which levels of a mask are defective.
        workers: threads that read.

    Raises:
        UserError: the index has no masks.
        BadImageError: one cannot be read.
    """
    test = [sample for sample in index if sample.split == TEST]
    marked = [sample for sample in test if sample.label and sample.masks]
    if not marked:
        raise UserError(f"{index.name} has no masks of defective test images: there is nothing to measure")

    def look_at(sample: Sample) -> tuple[float, int, npt.NDArray[np.uint8]]:
        paths = [index.path(mask) for mask in sample.masks]
        mask_HW = own_mask(paths, rule)
        return float(mask_HW.mean()), int(ndimage.label(mask_HW, structure=EIGHT)[1]), load_mask(paths, SIDE, rule=rule)

    shares, regions, place_HW = [], [], np.zeros((SIDE, SIDE))
    with threads(workers, "masks") as pool:
        for share, count, small_HW in ahead(pool, look_at, marked, 4 * workers):
            if share > 0:
                shares.append(share)
                regions.append(count)
                place_HW += small_HW
    if not shares:
        raise UserError(f"all {len(marked)} masks of {index.name} are empty: check the dataset (ader data check)")
    return Defects(
        np.array(shares),
        np.array(regions),
        place_HW / max(1, len(shares)),
        Counter(sample.category for sample in test if sample.label),
        Counter(sample.category for sample in test if not sample.label),
    )


def draw(runs: Sequence[Run], *, index: Index | None = None, rule: MaskRule = "any", workers: int = 1) -> Figure:
    """Sizes, numbers and places of defects, and how many images have them.

    Args:
        runs: are not looked at.
        index: of the dataset.
        rule: which levels of a mask are defective.
        workers: threads that read.
    """
    if index is None:
        raise UserError("figure defects is of a dataset, not of runs: ader figure defects dataset=NAME")
    found = measure(index, rule, workers)
    figure = new_figure(COLUMN, 3.3)
    (sizes, numbers), (places, images) = figure.subplots(2, 2)
    _sizes(sizes, found)
    _numbers(numbers, found)
    image = places.imshow(100 * found.place_HW, cmap=HEAT, vmin=0)
    places.set_title("where (percent of images)", loc="left", fontsize=7)
    places.set_xticks([])
    places.set_yticks([])
    figure.colorbar(image, ax=places, fraction=0.046, pad=0.03).outline.set_visible(False)
    _images(images, found, index.categories)
    total = f"{len(found.share_N)} test images with defects"
    headline(figure, f"{index.name}: {total}")
    return figure


def _sizes(axes: Axes, found: Defects) -> None:
    """On a logarithmic axis: from a few pixels to whole images."""
    low = np.floor(np.log10(found.share_N.min()))
    axes.hist(found.share_N, bins=list(np.logspace(low, 0, 25)), color=DEFECTIVE)
    axes.axvline(float(np.median(found.share_N)), color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = 10.0 ** np.arange(low, 1)
    axes.set_xticks(ticks, [f"{100 * tick:.10g}" for tick in ticks], fontsize=6)
    axes.set_xlabel("area (percent of the image)", fontsize=7)
    axes.set_ylabel("images")
    axes.set_title(f"size, median {100 * np.median(found.share_N):.2g} %", loc="left", fontsize=7)


def _numbers(axes: Axes, found: Defects) -> None:
    """Many regions are one bar."""
    most = 10
    counts = np.bincount(np.minimum(found.regions_N, most), minlength=most + 1)[1:]
    axes.bar(range(1, most + 1), counts, color=DEFECTIVE)
    axes.set_xticks([1, 4, 7, most], ["1", "4", "7", f"{most}+"])
    axes.set_xlabel("regions in an image", fontsize=7)
    axes.set_title(f"number, mean {found.regions_N.mean():.1f}", loc="left", fontsize=7)


def _images(axes: Axes, found: Defects, categories: Sequence[str]) -> None:
    """By category, or all together where there are too many for names."""
    axes.set_title("test images", loc="left", fontsize=7)
    if len(categories) > 15:
        categories, normal, bad = ["all"], [found.normal.total()], [found.images.total()]
    else:
        normal, bad = ([counts[name] for name in categories] for counts in (found.normal, found.images))
    y = np.arange(len(categories))
    axes.barh(y, normal, color=NORMAL, label="normal")
    axes.barh(y, bad, left=normal, color=DEFECTIVE, label="defective")
    axes.set_yticks(y, [label(name, 14) for name in categories], fontsize=6 if len(categories) > 5 else 7)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, handlelength=0.8, columnspacing=0.8)
