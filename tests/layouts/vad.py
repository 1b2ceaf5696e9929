"""VAD: labelled defects in training, unseen ones in testing, no masks, lists of a protocol and the copies they make."""

from __future__ import annotations

import json
from pathlib import Path

from layouts.visa import photo

NAMES = {
    "train/good": ("10.png", "2041.png", "9.png"),
    "train/bad": ("1001.png", "37.png", "4.png"),
    "test/good": ("12.png", "5.png"),
    "test/bad": ("11.png", "2041.png"),  # as one of the normal training images
    "test/bad_unseen_defects": ("8.png",),
}
LISTS = {"143": ["4.png", "1001.png"], "7": ["37.png", "4.png"]}


def write(root: Path) -> Path:
    """Eleven images and the copies of the official script."""
    for folder, names in NAMES.items():
        for name in names:
            photo(root / folder / name)
    (root / "low_shot_train.json").write_text(json.dumps(LISTS))
    for run, names in LISTS.items():
        for name in names:
            photo(root / "low_shot_train" / run / "bad" / name)
    (root / "train" / ".DS_Store").touch()
    return root
