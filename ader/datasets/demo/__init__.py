"""A small generated dataset in MVTec layout: no download, pixel masks, several kinds of defect per category.

Drawn with numpy (``ader.datasets.demo.objects``): three textures and three objects under varying light, pose and
noise. An image depends only on the seed, its category, split, defect and number: a set can be made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ader.config.ranges import Natural, Pixels, Seed
from ader.data.index import TEST, Index
from ader.datasets._tree import read_tree
from ader.datasets.demo.objects import SCENES
from ader.datasets.demo.painting import Field, coordinates, noise
from ader.system.errors import UserError, some
from ader.system.files import half_made

VERSION = 1  # raise it when any pixel changes
MARKER = "demo.json"
CATEGORIES = tuple(SCENES)

log = logging.getLogger(__name__)
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Options:
    """What a demo set is made from; ``size`` in pixels, the others but ``seed`` in images."""

    seed: int
    size: int
    train: int
    test_good: int
    per_defect: int
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 2048:
            raise UserError(f"dataset.size={self.size}: give a side of 32 to 2048 pixels")
        lowest = {"seed": 0, "train": 1, "test_good": 0, "per_defect": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise UserError(f"dataset.{name}={getattr(self, name)}: give at least {least}")
        if self.test_good + self.per_defect == 0:
            raise UserError("dataset.test_good and dataset.per_defect are both 0: give test images")

    def counts(self, category: str) -> tuple[int, int, int]:
        """Training, normal test and defective test images of a category."""
        return self.train, self.test_good, self.per_defect * len(SCENES[category].faults)


def demo(
    root: Path,
    categories: Sequence[str] | None = None,
    seed: Seed = 0,
    size: Pixels = 256,
    train: Natural = 24,
    test_good: Natural = 8,
    per_defect: Natural = 4,
) -> Index:
    """Lists the demo set at ``root``, generating it first (all categories) if it is not there.

    Args:
        root: where it is or will be.
        categories: those to read; None means all.
        seed: of the generator, from 0.
        size: side of the images in pixels, 32 to 2048.
        train: training images per category.
        test_good: normal test images per category.
        per_defect: test images per kind of defect.

    Raises:
        UserError: ``root`` holds something else or a demo set of other options, or cannot be written.
    """
    options = Options(seed, size, train, test_good, per_defect)
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        _generate(root, options)
    _check_marker(root, options)
    index = read_tree("demo", root, categories, known=CATEGORIES)
    wrong = [name for name, found in index.counts().items() if found != options.counts(name)]
    if wrong:
        raise UserError(f"dataset.root: the demo set at {root} lacks images of {some(wrong)}: delete that folder")
    return index


def render(options: Options, category: str, split: str, defect: str, number: int) -> tuple[U8, U8, U8]:
    """One image of the set.

    Args:
        options: of the set.
        category: one of ``CATEGORIES``.
        split: ``"train"`` or ``"test"``.
        defect: ``"good"`` or one of the category's faults.
        number: of the image, from 0.

    Returns:
        The image (size, size, 3), the same without its defect, and the mask (size, size), 0 or 255. Outside
        of the mask the two images are equal.
    """
    key = f"{options.seed}/{category}/{split}/{defect}/{number}"
    # a hash of the key alone: Python's own differs between processes
    seeds = (hashlib.sha256(f"{key}/{part}".encode()).digest() for part in ("scene", "fault", "camera"))
    draw, fault, light = (np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big"))) for seed in seeds)
    scene = SCENES[category](draw, options.size)
    x, y = coordinates(options.size)
    tilt_x, tilt_y, level = light.normal(0, (0.04, 0.04, 0.03))
    gain = 1 + level + tilt_x * x + tilt_y * y - 0.05 * (x**2 + y**2) + 0.01 * noise(light, options.size, (3, 3))
    grain = light.standard_normal((options.size, options.size, 3)) * 0.012  # of the sensor
    normal = _expose(scene.picture, gain, grain)
    if defect == "good":
        return normal, normal, np.zeros((options.size, options.size), np.uint8)
    changed, mask = scene.fault(defect, fault)
    return _expose(changed, gain, grain), normal, mask.astype(np.uint8) * np.uint8(255)


def _expose(picture: Field, gain: Field, grain: Field) -> U8:
    value = np.clip(picture, 0, 1) * gain[..., None]
    value = value + grain * np.sqrt(0.3 + value)  # brighter pixels are noisier
    exposed: U8 = (np.clip(value, 0, 1) * 255 + 0.5).astype(np.uint8)
    return exposed


def _generate(root: Path, options: Options) -> None:
    """Makes the whole set beside ``root`` and renames it, so that no reader ever meets half a set."""
    log.info("generating the demo dataset at %s", root)
    try:
        with half_made(root) as temporary:
            _write(temporary, options)
            _publish(temporary, root)
    except OSError as error:
        raise UserError(f"dataset.root: cannot write the demo set to {root} ({error}): set another one") from error


def _publish(temporary: Path, root: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)  # mkdtemp makes folders private; datasets are to be shared
    try:
        os.rename(temporary, root)  # replaces an empty folder, fails on any other
    except OSError:
        if not (root / MARKER).exists():
            raise
        # another process was first; its set is checked like any that was found


def _write(folder: Path, options: Options) -> None:
    for category, scene in SCENES.items():
        parts = [("train", "good", options.train), (TEST, "good", options.test_good)]
        parts += [(TEST, fault, options.per_defect) for fault in scene.faults]
        for split, defect, number in [(part, kind, i) for part, kind, count in parts for i in range(count)]:
            image, _, mask = render(options, category, split, defect, number)
            _save(image, folder / category / split / defect / f"{number:03}.png")
            if defect != "good":
                _save(mask, folder / category / "ground_truth" / defect / f"{number:03}_mask.png")
    (folder / MARKER).write_text(json.dumps(asdict(options), indent=2) + "\n")


def _save(pixels: U8, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # stored, not deflated: builds of zlib compress to different bytes
    Image.fromarray(pixels).save(path, compress_level=0)


def _check_marker(root: Path, options: Options) -> None:
    marker = root / MARKER
    if not marker.is_file():
        raise UserError(f"dataset.root: {root} exists and is not a demo set (no {MARKER}): set another dataset.root")
    try:
        found = json.loads(marker.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"dataset.root: {marker} cannot be read ({error}): delete {root}") from error
    if found != asdict(options):
        made = ", ".join(f"{name}={value}" for name, value in found.items()) if isinstance(found, dict) else found
        raise UserError(
            f"dataset.root: the demo set at {root} was made with other options ({made}), not with "
            f"{', '.join(f'{name}={value}' for name, value in asdict(options).items())}: "
            "set another dataset.root, or delete that folder"
        )
