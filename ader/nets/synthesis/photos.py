"""Images of a folder beside the training images: a second source, such as ImageNet, read in loader workers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ader.data.image import read_image
from ader.data.listing import KINDS, SUFFIXES, relative
from ader.system.errors import UserError


class Photos:
    """Draws images of a folder, with all its folders, one at a time; nothing is kept in memory but their names.

    Args:
        folder: where they are. It is searched when the first one is drawn.
        key: the argument that names it, for messages.
    """

    def __init__(self, folder: str, key: str) -> None:
        self.folder, self.key = folder, key

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """Images by their path in the folder, in the order in which numbers choose among them.

        Raises:
            UserError: there is no such folder, or no image in it.
        """
        root = Path(self.folder).expanduser()
        if not root.is_dir():
            raise UserError(f"{self.key}={str(root)!r} is not a folder: give a folder of images, or null")
        files = [each for each in root.rglob("*") if each.suffix.lower() in SUFFIXES and each.name[0] != "."]
        if not files:
            raise UserError(f"{self.key}={str(root)!r} holds no images ({KINDS}): give another folder, or null")
        return dict(sorted((relative(file, root), file) for file in files))

    @cached_property
    def _paths(self) -> list[Path]:
        return list(self.files.values())

    def draw(self, rng: np.random.Generator, grayscale: float = 0.0) -> Image.Image:
        """An image of mode RGB at its own size; gray with the probability ``grayscale``.

        Raises:
            BadImageError: it cannot be read.
        """
        image = read_image(self._paths[rng.integers(len(self._paths))])
        return image.convert("L").convert("RGB") if rng.random() < grayscale else image

    def provenance(self) -> dict[str, Any]:
        """As a record's weights have it; the checksum is of names and sizes (a run compares the contents itself)."""
        listing = "".join(f"{name}\0{path.stat().st_size}\n" for name, path in self.files.items())
        return {
            "name": f"images ({len(self.files)})",
            "source": str(Path(self.folder).expanduser()),
            "sha256": hashlib.sha256(listing.encode()).hexdigest(),
        }
