"""All metrics of arrays in memory, in one call.

Example:
    >>> import numpy as np
    >>> mask = np.zeros((2, 4, 4), dtype=bool)
    >>> mask[0, 1:3, 1:3] = True
    >>> float(evaluate(mask.astype(np.float32), mask).loc["all", "pixel_auroc"])
    1.0

Letters: N images, H rows, W columns (pixels), X pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ader.metrics.evaluator import Evaluator
from ader.metrics.planes import as_tensor, equal_runs, stacked

BATCH = 32  # images that are counted at a time


def evaluate(
    maps: Any,
    masks: Any,
    scores: Any = None,
    labels: Any = None,
    categories: Sequence[str] | None = None,
    metric: str = "histogram",
    groups: Sequence[str | None] | None = None,
) -> pd.DataFrame:
    """All metrics of arrays in memory, in one call: `Evaluator.compute` of everything.

    Args:
        maps: (N, H, W) or (N, 1, H, W) array or tensor, or a list of (H, W) or (1, H, W) of any sizes; floating. None:
            image metrics only.
        masks: as ``maps``: bool; integer, nonzero where defective; or floating, 0 and 1; on the device of ``maps``.
            None: image metrics only.
        scores: (N,) floating; default: the maximum of each map.
        labels: (N,) 0 or 1; default: whether the mask has a defective pixel.
        categories: per image, its category's name; rows appear in the order of first mention.
            Default: all images belong to one category, ``"all"``.
        metric: as for `Evaluator`.
        groups: per image, the object that it shows, or None.

    Raises:
        UserError, ValueError: as for `Evaluator.update`; or what a default would be made from is missing.
    """
    maps, masks = _to_tensors(maps), _to_tensors(masks)
    scores = _default(scores, maps, "scores", "maps", lambda map_NX: map_NX.amax(1))
    labels = _default(labels, masks, "labels", "masks", lambda mask_NX: (mask_NX != 0).any(1))
    names = ["all"] * len(scores) if categories is None else list(categories)
    given = {"maps": maps, "masks": masks, "labels": labels, "categories": names, "groups": groups}
    for what, values in given.items():
        if values is not None and len(values) != len(scores):
            raise ValueError(f"{what}: expected {len(scores)} entries, got {len(values)}")
    device = maps[0].device if maps is not None and len(maps) else "cpu"
    evaluator = Evaluator(list(dict.fromkeys(names)) or ["all"], device, metric)
    for part in equal_runs([each for each in (maps, masks) if each is not None], len(scores), lambda _: BATCH):
        image, truth = (None if each is None else stacked(each[part]) for each in (maps, masks))
        evaluator.update(
            names[part],
            scores[part],
            labels[part],
            image,
            truth,
            names=[f"{i}" for i in range(part.start, part.stop)],
            group=None if groups is None else groups[part],
        )
    return evaluator.compute()


def _to_tensors(images: Any) -> Any:
    """Tensors and arrays (N, ...) become a tensor, whose memory they share; a list becomes a list of tensors."""
    if images is None:
        return None
    if isinstance(images, Tensor) or (isinstance(images, np.ndarray) and images.dtype != object):
        return as_tensor(images)
    return [as_tensor(image) for image in images]


def _default(given: Any, images: Any, what: str, source: str, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """``given`` as a tensor, or one value per image made from ``images``: ``reduce`` takes (N, pixels)."""
    if given is not None:
        return as_tensor(given)
    if images is None:
        raise ValueError(f"{what}: expected values, as there are no {source} to take them from")
    if len(images) == 0:
        return torch.zeros(0)
    if isinstance(images, Tensor):
        return reduce(images.flatten(1))
    return torch.cat([reduce(image.reshape(1, -1)) for image in images])
