"""MAD-Sim: 20 simulated toy animals seen from many poses.

Paper: Zhou et al., "PAD: A Dataset and Benchmark for Pose-agnostic Anomaly Detection", NeurIPS 2023 Datasets and
Benchmarks. License: CC BY-NC-SA 4.0. Layout of MVTec AD::

    <category>/transforms.json and readme files   (camera poses, not read)
              /train/good/0.png, 1.png ... 10.png
              /test/{good,Burrs,Missing,Stains}/0.png
              /ground_truth/<defect>/0_mask.png

Numbers are not padded: masks belong to images by name, whatever the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import Index
from ader.datasets._tree import read_tree

# Spelt as the dataset's folders are.
CATEGORIES = (
    *("01Gorilla", "02Unicorn", "03Mallard", "04Turtle", "05Whale", "06Bird", "07Owl", "08Sabertooth", "09Swan"),
    *("10Sheep", "11Pig", "12Zalika", "13Pheonix", "14Elephant", "15Parrot", "16Cat", "17Scorpion", "18Obesobeso"),
    *("19Bear", "20Puppy"),
)


def mad_sim(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists MAD-Sim: rendered images of 20 toy animals in many poses, a category each.

    Args:
        root: the folder that holds ``01Gorilla``, ``02Unicorn`` and so on.
        categories: those to read; None means all 20. The others need not be on disk.

    Raises:
        UserError: a category, its images or a mask is missing.
    """
    return read_tree("mad_sim", root, categories, known=CATEGORIES)
