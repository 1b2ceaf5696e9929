"""AeBAD-V: frames of videos of turning blades of aero engines.

Paper: Zhang et al., "Industrial Anomaly Detection with Domain Shift: A Real-world Dataset and Masked Multi-scale
Reconstruction", arXiv 2304.02216. License: CC BY 4.0. There are no masks. Layout::

    AeBAD_V/train/good/{video1_train,video2_train,video3_train}/*.jpg
           /test/{video1,video2,video3}/{good,anomaly}/*.jpg

The videos are the categories. One public reader names a ``video4_train``: where it is there, it makes a category
that has training images only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import TRAIN, Index, Sample
from ader.data.listing import folders
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._tree import read_part

VIDEOS = ("video1", "video2", "video3")


def aebad_v(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists AeBAD-V: frames of videos of blades, without masks; categories are the videos.

    Args:
        root: ``AeBAD_V``, or a folder above it.
        categories: the videos to read; None means all that are there.

    Raises:
        UserError: a folder of images is missing.
    """
    layout = "AeBAD_V (train/good/<video>_train, test/<video>/<good or anomaly>)"
    root = find_root(root, lambda folder: _holds(folder) or _holds(folder / "AeBAD_V"), layout)
    root = find_root(root, _holds, layout)
    trained = {folder.name.removesuffix("_train") for folder in folders(root / "train" / "good")}
    tested = {folder.name for folder in folders(root / "test")}
    wanted = choose_categories("aebad_v", root, categories, sorted({*VIDEOS, *trained, *tested}))
    samples: list[Sample] = []
    for video in wanted:
        train, test = root / "train" / "good" / f"{video}_train", root / "test" / video
        found: list[Sample] = []
        # a published video must be whole; of another one, what is there is read
        if video in VIDEOS or train.exists():
            found += read_part(root, video, train, None, "good", split=TRAIN)
        if video in VIDEOS or test.exists():
            for part in folders(test):
                found += read_part(root, video, part, None, part.name)
        samples += sorted(found, key=lambda sample: sample.image)
    return Index("aebad_v", root, tuple(samples), wanted, has_masks=False)


def _holds(folder: Path) -> bool:
    return any((folder / "test" / video).is_dir() for video in VIDEOS)
