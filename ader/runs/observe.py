"""What the evaluator is told of test images, whoever made their maps.

Letters: B images, H rows, W columns (pixels).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ader.data.index import Sample
from ader.data.sizes import Sizes
from ader.metrics import Evaluator
from ader.metrics.planes import Planes, equal_runs, stacked
from ader.results.pixels import Sketches
from ader.runs.sketching import sketch

#: Images of one size go to the evaluator together, up to so many pixels: 5,000 x 5,000 masks come one by one.
PIXELS = 2**26


def observe(
    evaluator: Evaluator,
    sizes: Sizes,
    samples: Sequence[Sample],
    score_B: Tensor,
    maps: Planes | None,
    masks: Planes | None,
    sketches: Sketches | None = None,
) -> None:
    """Gives a batch to the evaluator, neighbors of equal size in one update.

    Args:
        evaluator: is updated.
        sizes: how maps get to the size of their masks.
        samples: what the dataset says of the images.
        score_B: higher is more anomalous.
        maps: on the evaluator's device; None: the predictions do not localize.
        masks: at the evaluation size, 0/1, on that device; None: the dataset has none.
        sketches: take the images' pixels, where given.

    Raises:
        UserError: NaN in a score or map, or a normal image with a defective mask.
    """
    planes = [each for each in (maps, masks) if each is not None]

    def most(shapes: Sequence[torch.Size]) -> int:
        """How many images go together, given the sizes of one's planes."""
        return max(1, PIXELS // max((shape.numel() for shape in shapes), default=1))

    for part in equal_runs(planes, len(samples), most):
        chosen = samples[part]
        mask_BHW = None if masks is None else stacked(masks[part])
        map_BHW = None if maps is None else stacked(maps[part])
        if map_BHW is not None and mask_BHW is not None:
            map_BHW = sizes.fit(map_BHW, (mask_BHW.shape[1], mask_BHW.shape[2]))
        known = [sample.label == 0 or bool(sample.masks) for sample in chosen]
        evaluator.update(
            category=[sample.category for sample in chosen],
            score=score_B[part],
            label=torch.tensor([sample.label for sample in chosen]),
            map=map_BHW,
            mask=mask_BHW,
            pixel_truth=torch.tensor(known),
            names=[sample.image for sample in chosen],
            group=[sample.group for sample in chosen],
            defect=[sample.defect for sample in chosen],
        )
        if sketches is not None and map_BHW is not None and mask_BHW is not None:
            made = zip(chosen, sketch(map_BHW.float(), mask_BHW, known), strict=True)
            sketches.images.update((sample.image, each) for sample, each in made if each is not None)
