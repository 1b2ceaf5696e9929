"""From Python, without a command line: read a dataset, make a method, run a configuration, look at the result.

    python examples/from_python.py [FOLDER]

Images are made up (the dataset ``demo``), and random weights make it run without a download.

Shapes in names: B images, H height, W width.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ader.config.compose import compose
from ader.data import load_index
from ader.methods import build
from ader.runs.run import run

SMALL: dict[str, Any] = {"size": 64, "train": 8, "test_good": 4, "per_defect": 2}
CATEGORIES = ["fabric", "bolt"]


def main(folder: Path) -> pd.DataFrame:
    """Everything below ``folder``; returns the table."""
    # A dataset is a list of samples: paths, labels, masks. Counts and filters need no image.
    index = load_index("demo", folder / "demo", categories=CATEGORIES, **SMALL)
    print(index)
    defective = index.split("test").where(lambda sample: sample.label == 1)
    print(f"{len(defective)} defective test images, the first is {defective.path(defective.samples[0].image)}")

    # A method is a torch module; its arguments are those of its YAML file, and checked.
    method = build("rd", image_size=64, backbone={"name": "resnet18", "pretrained": False}).eval()
    with torch.no_grad():
        score_B, map_BHW = method.predict(torch.rand(2, 3, 64, 64))
    assert map_BHW is not None  # rd localizes
    print(f"scores {tuple(score_B.shape)} and maps {tuple(map_BHW.shape)} of a method without training")

    # A run is a configuration, composed as on the command line; the same one again shows the result that is there.
    config = compose(
        [
            *("dataset=demo", f"dataset.root={folder / 'demo'}", "image_size=64"),
            *(f"dataset.{key}={value}" for key, value in SMALL.items()),
            f"dataset.categories=[{','.join(CATEGORIES)}]",
            *("method=patchcore", "method.backbone.name=resnet18", "method.backbone.pretrained=false"),
            *("trainer.device=cpu", f"paths.results={folder / 'results'}"),
        ]
    )
    results = run(config)
    return pd.read_csv(results / "metrics.csv", index_col="category")


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))[["image_auroc", "pixel_auroc"]])
