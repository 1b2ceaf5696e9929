"""The metrics alone: numpy arrays in, a table with certified bounds out. No Hydra, no model.

    python examples/metrics_on_arrays.py

Maps and masks here are made up: smooth noise, and a bright spot wherever the mask says that there is a defect.

Shapes in names: B images, H height, W width.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from ader.metrics import Evaluator

CATEGORIES = ("bottle", "cable")


def main() -> Evaluator:
    """Counts 20 batches and prints their table; returns what was counted."""
    rng = np.random.default_rng(0)
    evaluator = Evaluator(categories=CATEGORIES)
    for number in range(20):  # batches of any size, in any order, categories mixed as they come
        label_B = rng.integers(0, 2, 8)
        mask_BHW = np.zeros((8, 64, 64), dtype=np.uint8)
        mask_BHW[label_B == 1, 20:32, 24:40] = 1
        noise_BHW = gaussian_filter(rng.normal(size=mask_BHW.shape), sigma=(0, 2, 2))
        map_BHW = (noise_BHW + 0.2 * mask_BHW).astype(np.float32)  # any range: no threshold is needed
        evaluator.update(
            category=[CATEGORIES[(number + place) % 2] for place in range(8)],
            score=map_BHW.max(axis=(1, 2)),
            label=label_B,
            map=map_BHW,
            mask=mask_BHW,
        )
    chosen = ["image_auroc", "pixel_auroc", "pixel_ap", "pixel_aupro", "mad"]
    print("percent\n", (100 * evaluator.compute()[chosen]).round(2), sep="")
    print("\nat most so far from the exact value\n", evaluator.bounds()[chosen], sep="")
    return evaluator


if __name__ == "__main__":
    main()
