"""What the evaluator is told of test images, whoever made their maps.

Letters: B images, H rows, W columns (pixels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from ader.data.index import Sample
from ader.data.sizes import Sizes
from ader.metrics import Evaluator

#: Images of one size go to the evaluator together, up to so many pixels: 5,000 x 5,000 masks come one by one.
PIXELS = 2**26

#: One tensor, or a list of (H, W) where their sizes differ.
Planes = Tensor | list[Tensor]


def observe(
    evaluator: Evaluator,
    sizes: Sizes,
    samples: Sequence[Sample],
    score_B: Tensor,
    maps: Planes | None,
    masks: Planes | None,
) -> None:
    """Gives a batch to the evaluator, neighbours of equal size in one update.

    Args:
        evaluator: is updated.
        sizes: how maps get to the size of their masks.
        samples: what the dataset says of the images.
        score_B: higher is more anomalous.
        maps: on the evaluator's device; None: the predictions do not localise.
        masks: at the evaluation size, 0/1, on that device; None: the dataset has none.

    Raises:
        UserError: NaN in a score or map, or a normal image with a defective mask.
    """
    for part in _runs(len(samples), maps, masks):
        chosen = samples[part]
        mask_BHW = None if masks is None else _stack(masks[part])
        map_BHW = None if maps is None else _stack(maps[part])
        if map_BHW is not None and mask_BHW is not None:
            map_BHW = sizes.fit(map_BHW, (mask_BHW.shape[1], mask_BHW.shape[2]))
        evaluator.update(
            category=[sample.category for sample in chosen],
            score=score_B[part],
            label=torch.tensor([sample.label for sample in chosen]),
            map=map_BHW,
            mask=mask_BHW,
            pixel_truth=torch.tensor([sample.label == 0 or sample.mask is not None for sample in chosen]),
            names=[sample.image for sample in chosen],
            group=[sample.group for sample in chosen],
            defect=[sample.defect for sample in chosen],
        )


def _runs(count: int, maps: Planes | None, masks: Planes | None) -> Iterator[slice]:
    """Neighbours whose maps and masks have one size each, at most ``PIXELS`` together."""
    given = [planes for planes in (maps, masks) if planes is not None]
    for shapes, numbers in groupby(range(count), key=lambda number: [planes[number].shape for planes in given]):
        positions = list(numbers)
        most = max(1, PIXELS // max((shape.numel() for shape in shapes), default=1))
        for start in range(positions[0], positions[-1] + 1, most):
            yield slice(start, min(start + most, positions[-1] + 1))


def _stack(planes: Planes) -> Tensor:
    return planes if isinstance(planes, Tensor) else torch.stack(planes)
