"""Made-up galleries of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def a_gallery(run: Path, entries: int = 2, **changes: Any) -> Path:
    """Writes a gallery of small pictures, no two alike, and returns its folder.

    Args:
        run: the run's folder.
        entries: how many.
        **changes: of each entry.
    """
    folder = run / "gallery"
    folder.mkdir()
    listed = []
    for number in range(entries):
        name = f"{number:03}.webp"
        mark = sum(map(ord, str(run))) % 200
        Image.fromarray(np.full((8, 24, 3), (number, mark, 99), np.uint8)).save(folder / name, lossless=True)
        entry = {"category": "bottle", "defect": "hole", "image": f"bottle/test/hole/{number:03}.png", "label": 1}
        listed.append({"file": name, **entry, "score": number / 4, "why": "miss", **changes})
    text = json.dumps({"schema": 1, "kind": "worst", "scales": {"bottle": [0, 1]}, "entries": listed})
    (folder / "gallery.json").write_text(text)
    return folder
