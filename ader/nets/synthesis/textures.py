"""Textures that anomalies are cut from: a folder's images, or made-up ones.

Images are resized with Pillow and are RGB; upstream (VitjanZ/DRAEM at 2dbf673, MIT) takes OpenCV's BGR for RGB.

Shapes in names: B textures, C channels, H height, W width, S pixels of a side, N images of a folder, P points.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.data.image import load_image
from ader.data.listing import KINDS, SUFFIXES, relative
from ader.nets.synthesis.draws import integers, uniform, uniform_between
from ader.system.contents import Contents
from ader.system.errors import UserError
from ader.system.parallel import threads


class Textures(nn.Module):
    """Where the patches come from: a folder of images, such as DTD's, or procedural textures in its place.

    The images of a folder are decoded when the first texture is drawn, resized and kept in the CPU's memory (1.1 GB for
    DTD's 5,640 at 256x256 pixels, in each process). They are no part of the state dict.

    Args:
        folder: searched with all its folders; None makes textures up (noise, stripes, checks, blobs).
        size: pixels of both sides.

    Raises:
        UserError: there is no such folder, or no image in it.

    Attributes:
        warning: what to tell readers of results, or None.
        provenance: of a folder: its name, path, number of images, and a checksum of names and contents.
    """

    def __init__(self, folder: str | None, size: int) -> None:
        super().__init__()
        self.size = size
        self.warning = (
            None if folder else "synthetic anomalies have procedural textures (no folder of images was given)"
        )
        self._images: Tensor | None = None
        self._files: list[Path] = []
        if folder:
            files = texture_files(folder)
            self._files = list(files.values())
            self.provenance: dict[str, Any] = {
                "name": f"textures ({len(files)} images)",
                "source": str(Path(folder).expanduser()),
                "sha256": Contents().mark(files),
            }

    def draw(self, seed_B: Tensor, purpose: str, device: torch.device | None = None) -> Tensor:
        """Textures (B, 3, size, size), RGB in [0, 1], float32, on ``device`` (None: that of the seeds)."""
        device = device or seed_B.device
        if not self._files:
            return procedural(seed_B, purpose, self.size, device)
        if self._images is None:
            self._images = _decoded(self._files, self.size)
        image_BCHW = self._images[integers(seed_B.cpu(), f"{purpose}/file", len(self._files))]
        if device.type == "cuda":
            image_BCHW = image_BCHW.pin_memory()  # else the copy would wait for the device
        return image_BCHW.to(device, non_blocking=True).float() / 255


def texture_files(folder: str) -> dict[str, Path]:
    """The images of a folder by their path in it, in the order in which seeds choose among them.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"method.textures={str(root)!r} is not a folder: give a folder of images, or null")
    files = [each for each in root.rglob("*") if each.suffix.lower() in SUFFIXES and each.name[0] != "."]
    if not files:
        raise UserError(f"method.textures={str(root)!r} holds no images ({KINDS}): give another folder, or null")
    return dict(sorted((relative(file, root), file) for file in files))


def procedural(seed_B: Tensor, purpose: str, size: int, device: torch.device) -> Tensor:
    """Textures without a source: one of four kinds each, some with fine grain."""
    seed_B = seed_B.cpu()
    kind_B = integers(seed_B, f"{purpose}/kind", len(KINDS_OF_TEXTURE))
    texture_BCHW = torch.empty(len(seed_B), 3, size, size, device=device)
    for number, make in enumerate(KINDS_OF_TEXTURE):
        if len(place_B := (kind_B == number).nonzero()[:, 0]):
            texture_BCHW[place_B.to(device, non_blocking=True)] = make(
                seed_B[place_B].to(device, non_blocking=True), purpose, size
            )
    seed_B = seed_B.to(device, non_blocking=True)
    # photographs are far from pure colors and full contrast: half of the textures are gray, many nearly even
    color_B111 = uniform_between(seed_B, f"{purpose}/colourfulness", -1.0, 1.0, 1, 1, 1).clamp(min=0)
    contrast_B111 = uniform_between(seed_B, f"{purpose}/contrast", 0.1, 1.0, 1, 1, 1)
    texture_BCHW = torch.lerp(texture_BCHW.mean(dim=1, keepdim=True), texture_BCHW, color_B111)
    brightness_B111 = uniform(seed_B, f"{purpose}/brightness", 1, 1, 1)
    texture_BCHW = torch.lerp(brightness_B111, texture_BCHW, contrast_B111)
    # most have no grain: it alone would give anomalies away
    grain_B111 = uniform_between(seed_B, f"{purpose}/graininess", -0.6, 0.3, 1, 1, 1).clamp(min=0)
    return (texture_BCHW + grain_B111 * (uniform(seed_B, f"{purpose}/grain", 1, size, size) - 0.5)).clamp_(0, 1)


def clouds(seed_B: Tensor, purpose: str, size: int) -> Tensor:
    """Noise of six octaves, each channel its own."""
    return _octaves(seed_B, f"{purpose}/clouds", 3, size)


def stripes(seed_B: Tensor, purpose: str, size: int) -> Tensor:
    """Waves of two colors, from soft to hard, more or less bent."""
    along_BHW, _ = _turned(seed_B, purpose, size)
    bend_B11 = uniform_between(seed_B, f"{purpose}/bend", 0.0, 0.15, 1, 1)
    bent_BHW = along_BHW + bend_B11 * _octaves(seed_B, f"{purpose}/bends", 1, size)[:, 0]
    return _two_colors(seed_B, purpose, _wave(seed_B, purpose, bent_BHW))


def checks(seed_B: Tensor, purpose: str, size: int) -> Tensor:
    """Boards and grids of two colors."""
    return _two_colors(
        seed_B, purpose, torch.stack([_wave(seed_B, purpose, way) for way in _turned(seed_B, purpose, size)]).prod(0)
    )


def blobs(seed_B: Tensor, purpose: str, size: int) -> Tensor:
    """Spots of one color on another: what is near the nearest of 24 points."""
    point_BP2 = uniform(seed_B, f"{purpose}/points", 24, 2)
    radius_B11 = uniform_between(seed_B, f"{purpose}/radius", 0.03, 0.15, 1, 1)
    place_S = (torch.arange(size, device=seed_B.device) + 0.5) / size
    way_BPS2 = place_S[:, None] - point_BP2[:, :, None]
    square_BPHW = way_BPS2[:, :, :, None, 0] ** 2 + way_BPS2[:, :, None, :, 1] ** 2
    inside_BHW = (1 - square_BPHW.amin(dim=1).sqrt() / radius_B11) * 4
    return _two_colors(seed_B, purpose, inside_BHW.tanh())


KINDS_OF_TEXTURE = (clouds, stripes, checks, blobs)


def _octaves(seed_B: Tensor, purpose: str, channels: int, size: int) -> Tensor:
    """Value noise (B, channels, size, size) of 4 to 128 cells, stretched to [0, 1]."""
    persistence_B111 = uniform_between(seed_B, f"{purpose}/persistence", 0.3, 0.7, 1, 1, 1)
    total_BCHW = torch.zeros(len(seed_B), channels, size, size, device=seed_B.device)
    for octave in range(6):
        cells = 4 * 2**octave + 1
        coarse_BCHW = uniform(seed_B, f"{purpose}/{octave}", channels, cells, cells)
        fine_BCHW = F.interpolate(coarse_BCHW, size=(size, size), mode="bilinear", align_corners=True)
        total_BCHW += persistence_B111**octave * fine_BCHW
    low_BC11, high_BC11 = total_BCHW.amin(dim=(2, 3), keepdim=True), total_BCHW.amax(dim=(2, 3), keepdim=True)
    return (total_BCHW - low_BC11) / (high_BC11 - low_BC11).clamp(min=1e-6)


def _turned(seed_B: Tensor, purpose: str, size: int) -> tuple[Tensor, Tensor]:
    """Coordinates (B, H, W) of two axes at right angles in a random direction; the image is 1 long."""
    angle_B11 = uniform_between(seed_B, f"{purpose}/direction", 0, math.pi, 1, 1)
    place_S = torch.arange(size, device=seed_B.device) / size
    y_HW, x_HW = place_S[:, None], place_S[None]
    return x_HW * angle_B11.cos() + y_HW * angle_B11.sin(), y_HW * angle_B11.cos() - x_HW * angle_B11.sin()


def _wave(seed_B: Tensor, purpose: str, way_BHW: Tensor) -> Tensor:
    """From -1 to 1, 3 to 40 times over the image."""
    cycles_B11 = 3 * (40 / 3) ** uniform(seed_B, f"{purpose}/cycles", 1, 1)
    hardness_B11 = uniform_between(seed_B, f"{purpose}/hardness", 0.5, 5.0, 1, 1)
    return (hardness_B11 * (2 * math.pi * cycles_B11 * way_BHW).sin()).tanh()


def _two_colors(seed_B: Tensor, purpose: str, share_BHW: Tensor) -> Tensor:
    """The one color where ``share`` is -1, the other where it is 1."""
    one_BC11, other_BC11 = uniform(seed_B, f"{purpose}/colours", 2, 3, 1, 1).unbind(1)
    return torch.lerp(one_BC11, other_BC11, (share_BHW[:, None] + 1) / 2)


def _decoded(files: list[Path], size: int) -> Tensor:
    """uint8 (N, 3, size, size)."""
    image_NCHW = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def fill(number: int) -> None:
        image_NCHW[number] = torch.from_numpy(load_image(files[number], size))

    with threads(min(8, os.cpu_count() or 1), "textures") as pool:
        for _ in pool.map(fill, range(len(files))):
            pass  # taking the results raises what the threads raised
    return image_NCHW
