"""AeBAD-S: blades of aero engines, single images, tested under four conditions.

Paper: Zhang et al., "Industrial Anomaly Detection with Domain Shift: A Real-world Dataset and Masked Multi-scale
Reconstruction", arXiv 2304.02216. License: CC BY 4.0. Layout::

    AeBAD_S/train/good/{background,illumination,view}/*.png
           /test/{good,ablation,breakdown,fracture,groove}/{same,background,illumination,view}/*.png
           /ground_truth/{ablation,breakdown,fracture,groove}/{same,background,illumination,view}/<same name>.png

The test is evaluated for each condition apart, its good images against its defects: the conditions are the categories
here. ``same`` has test images only. The training folders bear the names of the other three, and yet hold other
backgrounds, lights and views than their tests: all of them are to train one model (``setting=multi_class``). The
authors' code counts an image as good whose mask a center crop has emptied; here the folder decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import TRAIN, Index, Sample
from ader.data.listing import folders
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._tree import read_part

DOMAINS = ("same", "background", "illumination", "view")


def aebad_s(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists AeBAD-S: images of blades with masks; categories are the conditions of the test.

    Args:
        root: ``AeBAD_S``, or a folder above it.
        categories: the conditions to read; None means all 4.

    Raises:
        UserError: a folder of images or a mask is missing.
    """
    layout = "AeBAD_S (train/good/<domain>, test/<good or defect>/<domain>, ground_truth/<defect>/<domain>)"
    root = find_root(root, lambda folder: _holds(folder) or _holds(folder / "AeBAD_S"), layout)
    root = find_root(root, _holds, layout)
    wanted = choose_categories("aebad_s", root, categories, DOMAINS)
    samples: list[Sample] = []
    for domain in wanted:
        found: list[Sample] = []
        if domain != "same":  # which has no training images
            found += read_part(root, domain, root / "train" / "good" / domain, None, "good", split=TRAIN)
        for part in folders(root / "test"):
            found += read_part(root, domain, part / domain, root / "ground_truth" / part.name / domain, part.name)
        samples += sorted(found, key=lambda sample: sample.image)
    return Index("aebad_s", root, tuple(samples), wanted)


def _holds(folder: Path) -> bool:
    return any((folder / "test" / "good" / domain).is_dir() for domain in DOMAINS)
