"""What every case finds in its folder: images of one's own, maps, and a finished run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 32

Words = tuple[str, ...]

#: A run of a second: random weights, one stage without gradients.
RUN: Words = (
    "dataset=folder",
    "dataset.root=own",
    "+dataset.label=own",
    "method=patchcore",
    "recipe=small",
    "image_size=32",
    "trainer.device=cpu",
    "trainer.workers=0",
    "run=finished",
)
#: Its folder.
FINISHED = "results/own/multi_class/patchcore/finished"
#: Of gradient descent: two steps.
DESCENT: Words = (
    "dataset=folder",
    "dataset.root=own",
    "method=rd",
    "recipe=small",
    "image_size=32",
    "trainer.max_steps=2",
    "trainer.device=cpu",
    "trainer.workers=0",
)
SCORE: Words = ("score", "maps", "dataset=folder", "dataset.root=own")


@dataclass(frozen=True)
class World:
    """A case's folder, and ways to change what is in it.

    ::

        own/<nut|bolt>/{train/good,test/good,test/scratch,ground_truth/scratch}    images
        maps/<nut|bolt>/<good|scratch>/<stem>.npy                                 maps of all test images
        results/own/multi_class/patchcore/finished     of the command ``RUN``
        options/                                                                  for --config-dir; empty
    """

    folder: Path

    @property
    def own(self) -> Path:
        """Images."""
        return self.folder / "own"

    @property
    def finished(self) -> Path:
        """The finished run's folder."""
        return self.folder / FINISHED

    def environment(self) -> dict[str, str]:
        """Variables that keep everything inside the folder."""
        return {"HOME": str(self.folder / "home"), "ADER_CACHE": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def option(self, group: str, name: str, text: str | bytes) -> Path:
        """An option for ``--config-dir options``."""
        file = self.folder / "options" / group / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def edit(self, name: str, change: dict[str, Any]) -> None:
        """Replaces values in a JSON file of the finished run; keys are dotted, ``...`` removes."""
        file = self.finished / name
        content = json.loads(file.read_text())
        for key, value in change.items():
            place, parts = content, key.split(".")
            for part in parts[:-1]:
                place = place[int(part)] if isinstance(place, list) else place[part]
            if value is ...:
                del place[parts[-1]]
            else:
                place[parts[-1]] = value
        file.write_text(json.dumps(content))


def picture(rng: np.random.Generator, marked: bool = False) -> Image.Image:
    """Noise around gray; marked ones have a white square at (8, 8) to (16, 16)."""
    values = rng.integers(90, 130, (SIDE, SIDE, 3), dtype=np.uint8)
    if marked:
        values[8:16, 8:16] = 255
    return Image.fromarray(values)


def mask() -> Image.Image:
    """Of a marked picture."""
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[8:16, 8:16] = 255
    return Image.fromarray(values)


def make(folder: Path) -> World:
    """Writes all of it but the finished run."""
    world, rng = World(folder), np.random.default_rng(0)
    (folder / "home").mkdir(parents=True)
    (folder / "options").mkdir()
    for category in ("bolt", "nut"):
        for part, count in (("train/good", 4), ("test/good", 2), ("test/scratch", 2)):
            place = world.own / category / part
            place.mkdir(parents=True)
            for number in range(count):
                picture(rng, marked=part == "test/scratch").save(place / f"{number:03}.png")
        truth = world.own / category / "ground_truth" / "scratch"
        truth.mkdir(parents=True)
        for number in range(2):
            mask().save(truth / f"{number:03}_mask.png")
        for part in ("good", "scratch"):
            place = folder / "maps" / category / part
            place.mkdir(parents=True)
            for number in range(2):
                np.save(place / f"{number:03}.npy", rng.random((SIDE, SIDE), dtype=np.float32))
    return world
