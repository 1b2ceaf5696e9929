"""Synthetic anomalies: patches of foreign texture in the shape of Perlin noise (DRAEM, section 3.3).

Paper: Zavrtanik, Kristan and Skocaj, "DRAEM - A discriminatively trained reconstruction embedding for surface anomaly
detection", ICCV 2021; upstream VitjanZ/DRAEM at 2dbf673 (MIT), which augments one image at a time on the processor with
imgaug. Here whole batches are made on the images' device. All random numbers are hashes of the images' own seeds
(``nets.draws``), so an image's anomaly depends on the run's seed, the epoch and the image only. What a seed decides
about *which* images something happens to is looked at on the CPU, where ``Batch.seed_B`` is: nothing waits for the
device.

Differences from upstream:
- sizes need not be multiples of the noise's cells (see ``perlin``); where they are, the noise is upstream's.
- brightness changes the luma of YCrCb; imgaug draws one of six color spaces, in two of which that is the same.
- hue and saturation are not rounded to OpenCV's 8 bits (2 degrees of hue) in between.
- rotations interpolate without OpenCV's rounding of places to 1/32 of a pixel.
- textures are resized with Pillow, and are RGB; upstream takes OpenCV's BGR for RGB.

Shapes in names: B images (those that something is made for), C channels, H height, W width, N images of a folder,
G corners of a noise grid, P points, K operations.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import equalize

from ader.data.image import load_image
from ader.data.listing import KINDS, SUFFIXES, relative
from ader.nets.scoring.maps import full_precision
from ader.nets.synthesis.draws import integers, uniform
from ader.nets.synthesis.geometry import rotate
from ader.system.errors import UserError
from ader.system.files import glimpse
from ader.system.parallel import threads


class Synthetic(NamedTuple):
    """Images with synthetic anomalies.

    ``image``: (B, C, H, W) with anomalies where ``mask`` (B, H, W; 0.0 or 1.0) says so; ``clean``: the same images
    before, rotated where the recipe rotates: what a reconstruction should restore.
    """

    image: Tensor
    clean: Tensor
    mask: Tensor


def perlin(seed_B: Tensor, purpose: str, size: int, device: torch.device, scales: tuple[int, int] = (0, 5)) -> Tensor:
    """Perlin noise (B, size, size), about [-1, 1], float32: an image's grid has 2^a x 2^b cells of random gradients.

    DRAEM's: quintic fade, amplitude sqrt(2), a and b uniform in ``scales`` (both ends included). A pixel's place in the
    grid is its index times the cells over the size, so that cells need not be whole numbers of pixels; where they are,
    this is upstream's noise.

    Args:
        seed_B: one seed for each image.
        purpose: noises for different purposes are independent.
        size: pixels of both sides.
        device: of the result.
        scales: smallest and largest exponent.
    """
    seed_B = _to(seed_B, device)
    exponent_B2 = scales[0] + integers(seed_B, f"{purpose}/scales", scales[1] - scales[0] + 1, 2)
    cells_B2 = torch.ones_like(exponent_B2) << exponent_B2
    corners = 2 ** scales[1] + 1
    angle_BG = 2 * math.pi * uniform(seed_B, f"{purpose}/angles", corners, corners).flatten(1)
    down_BG, across_BG = angle_BG.cos(), angle_BG.sin()
    place_B2S = torch.arange(size, device=device) * cells_B2[:, :, None]  # in pixels times cells: exact
    row_BS, column_BS = (place_B2S // size).unbind(1)
    y_BHW, x_BHW = _crossed(*(place_B2S % size / size).unbind(1))

    def slope(down: int, right: int) -> Tensor:
        """The gradient at a corner of each pixel's cell, times the way from that corner to the pixel."""
        corner_BG = ((row_BS + down)[:, :, None] * corners + (column_BS + right)[:, None]).flatten(1)
        gradient_y, gradient_x = (table_BG.gather(1, corner_BG).view_as(y_BHW) for table_BG in (down_BG, across_BG))
        return gradient_y * (y_BHW - down) + gradient_x * (x_BHW - right)

    fade_y, fade_x = _quintic(y_BHW), _quintic(x_BHW)
    left_BHW, right_BHW = (torch.lerp(slope(0, side), slope(1, side), fade_y) for side in (0, 1))
    return math.sqrt(2) * torch.lerp(left_BHW, right_BHW, fade_x)


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
        provenance: of a folder: its name, path, number of images, and a checksum of names, sizes and samples of the
            contents.
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
            root = Path(folder).expanduser()
            self._files = _image_files(root)
            self.provenance: dict[str, Any] = {
                "name": f"textures ({len(self._files)} images)",
                "source": str(root),
                "sha256": _checksum(self._files, root),
            }

    def draw(self, seed_B: Tensor, purpose: str, device: torch.device | None = None) -> Tensor:
        """Textures (B, 3, size, size), RGB in [0, 1], float32, on ``device`` (None: that of the seeds)."""
        device = device or seed_B.device
        if not self._files:
            return _procedural(seed_B, purpose, self.size, device)
        if self._images is None:
            self._images = _decoded(self._files, self.size)
        image_BCHW = self._images[integers(seed_B.cpu(), f"{purpose}/file", len(self._files))]
        if device.type == "cuda":
            image_BCHW = image_BCHW.pin_memory()  # else the copy would wait for the device
        return image_BCHW.to(device, non_blocking=True).float() / 255


class SyntheticAnomalies(nn.Module):
    """Puts patches of texture into normal images: ``x (1 - M) + (1 - beta) T M + beta x M`` (equation 5 of DRAEM).

    Args:
        textures: where T comes from.
        probability: share of the images that get an anomaly; a few of them stay clean because their noise never exceeds
            the threshold.
        opacity: range of beta: 0 replaces the image by the texture, 1 would leave it as it is.
        augment_textures: three of DRAEM's ten color and geometry operations change each texture first.
        rotate_image: share of the images that are first rotated by U(-90, 90) degrees; corners become black.
        threshold: M is where the Perlin noise exceeds it.
        noise_rotation: the noise is rotated by up to so many degrees, either way; its corners become 0.
    """

    def __init__(
        self,
        textures: Textures,
        probability: float,
        opacity: tuple[float, float],
        augment_textures: bool,
        rotate_image: float,
        threshold: float = 0.5,
        noise_rotation: float = 90.0,
    ) -> None:
        super().__init__()
        self.textures = textures
        self.probability, self.opacity = probability, opacity
        self.augment_textures, self.rotate_image = augment_textures, rotate_image
        self.threshold, self.noise_rotation = threshold, noise_rotation

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor, seed_B: Tensor) -> Synthetic:
        """Anomalies in some of the images.

        Args:
            image_BCHW: RGB in [0, 1], square, of the textures' size.
            seed_B: one for each image; on the CPU, or the device is waited for.
        """
        device, seed_B = image_BCHW.device, seed_B.cpu()
        with full_precision(device):
            clean_BCHW = self._rotated(image_BCHW.float(), seed_B)
            spoiled_BCHW, mask_BHW = clean_BCHW.clone(), torch.zeros_like(clean_BCHW[:, 0])
            if len(place_B := _places(uniform(seed_B, "anomaly") < self.probability)):
                there_B = _to(place_B, device)
                patch_BHW = self._shapes(seed_B[place_B], device)
                spoiled_BCHW[there_B] = self._blended(clean_BCHW[there_B], patch_BHW, seed_B[place_B])
                mask_BHW[there_B] = patch_BHW
        return Synthetic(spoiled_BCHW, clean_BCHW, mask_BHW)

    def _rotated(self, image_BCHW: Tensor, seed_B: Tensor) -> Tensor:
        if len(place_B := _places(uniform(seed_B, "anomaly/rotate image") < self.rotate_image)):
            there_B = _to(place_B, image_BCHW.device)
            image_BCHW = image_BCHW.clone()
            degrees_B = _within(seed_B[place_B], "anomaly/image degrees", -90, 90)
            image_BCHW[there_B] = rotate(image_BCHW[there_B], degrees_B, mode="bilinear")
        return image_BCHW

    def _shapes(self, seed_B: Tensor, device: torch.device) -> Tensor:
        """Masks (B, H, W)."""
        noise_BHW = perlin(seed_B, "anomaly/noise", self.textures.size, device)
        if self.noise_rotation:
            degrees_B = _within(seed_B, "anomaly/noise degrees", -self.noise_rotation, self.noise_rotation)
            noise_BHW = rotate(noise_BHW[:, None], degrees_B, mode="bilinear")[:, 0]
        return (noise_BHW > self.threshold).float()

    def _blended(self, image_BCHW: Tensor, mask_BHW: Tensor, seed_B: Tensor) -> Tensor:
        device = image_BCHW.device
        texture_BCHW = self.textures.draw(seed_B, "anomaly/texture", device)
        if self.augment_textures:
            texture_BCHW = augmented(texture_BCHW, seed_B)
        beta_B111 = _to(_within(seed_B, "anomaly/opacity", *self.opacity, 1, 1, 1), device)
        mixed_BCHW = (1 - beta_B111) * texture_BCHW + beta_B111 * image_BCHW
        return torch.where(mask_BHW[:, None] > 0, mixed_BCHW, image_BCHW)


def augmented(texture_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Three of DRAEM's ten operations on each texture, distinct and in random order.

    Values are whole numbers of 0..255 between them, as in upstream's 8-bit images.

    Args:
        texture_BCHW: RGB in [0, 1].
        seed_B: one for each texture, on the CPU.
    """
    device = texture_BCHW.device
    level_BCHW = (texture_BCHW * 255).round()
    order_BK = uniform(seed_B, "texture/operations", len(OPERATIONS)).argsort(dim=1)
    for turn in range(3):
        for number, operation in enumerate(OPERATIONS):
            if len(place_B := _places(order_BK[:, turn] == number)):
                there_B = _to(place_B, device)
                changed_BCHW = operation(level_BCHW[there_B], _to(seed_B[place_B], device))
                level_BCHW[there_B] = changed_BCHW.clamp_(0, 255).round_()
    return level_BCHW / 255


def _gamma(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Gamma contrast, each channel its own."""
    return 255 * (level_BCHW / 255) ** _within(seed_B, "texture/gamma", 0.5, 2.0, 3, 1, 1)


def _brightness(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Luma times 0.8 to 1.2 and plus -30 to 30, in random order; chroma stays."""
    factor_B111 = _within(seed_B, "texture/brightness factor", 0.8, 1.2, 1, 1, 1)
    shift_B111 = integers(seed_B, "texture/brightness shift", 61, 1, 1, 1) - 30
    first_B111 = uniform(seed_B, "texture/brightness order", 1, 1, 1) < 0.5
    luma_B1HW = 0.299 * level_BCHW[:, :1] + 0.587 * level_BCHW[:, 1:2] + 0.114 * level_BCHW[:, 2:]
    scaled_B1HW = (luma_B1HW * factor_B111).clamp(0, 255) + shift_B111
    shifted_B1HW = (luma_B1HW + shift_B111).clamp(0, 255) * factor_B111
    return level_BCHW + torch.where(first_B111, scaled_B1HW, shifted_B1HW).clamp(0, 255) - luma_B1HW


def _sharpness(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Pillow's: from smoothed (0) over unchanged (1) to sharpened (2); the outermost pixels stay."""
    factor_B111 = _within(seed_B, "texture/sharpness", 0.0, 2.0, 1, 1, 1)
    inner_BCHW = level_BCHW[:, :, 1:-1, 1:-1]
    smooth_BCHW = (9 * F.avg_pool2d(level_BCHW, 3, stride=1) + 4 * inner_BCHW) / 13
    result_BCHW = level_BCHW.clone()
    result_BCHW[:, :, 1:-1, 1:-1] = torch.lerp(smooth_BCHW.round(), inner_BCHW, factor_B111)
    return result_BCHW


def _hue_and_saturation(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Hue and saturation (of HSV) plus -50 to 50 of 255; 255 is the whole circle of hues."""
    shift_B2 = integers(seed_B, "texture/hue and saturation", 101, 2)[:, :, None, None] - 50
    high_BHW, low_BHW = level_BCHW.amax(dim=1), level_BCHW.amin(dim=1)
    sixth_BHW = _hue(level_BCHW, high_BHW, low_BHW) + 6 * shift_B2[:, 0] / 255
    saturation_BHW = (high_BHW - low_BHW) / high_BHW.clamp(min=1) + shift_B2[:, 1] / 255
    chroma_B1HW = (high_BHW * saturation_BHW.clamp(0, 1))[:, None]
    offset_3 = torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    ramp_BCHW = (_to(offset_3, level_BCHW.device) + sixth_BHW[:, None]) % 6
    return high_BHW[:, None] - chroma_B1HW * torch.minimum(ramp_BCHW, 4 - ramp_BCHW).clamp(0, 1)


def _hue(level_BCHW: Tensor, high_BHW: Tensor, low_BHW: Tensor) -> Tensor:
    """In sixths of the circle, within -1 to 5; 0 for gray."""
    red, green, blue = level_BCHW.unbind(1)
    range_BHW = (high_BHW - low_BHW).clamp(min=1)
    third_BHW = torch.where(high_BHW == green, 2 + (blue - red) / range_BHW, 4 + (red - green) / range_BHW)
    return torch.where(high_BHW == red, (green - blue) / range_BHW, third_BHW)


def _solarize(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Half of the textures: levels from a threshold in 32 to 128 on are inverted."""
    threshold_B111 = _within(seed_B, "texture/solarize", 32, 128, 1, 1, 1)
    inverted_BCHW = (level_BCHW >= threshold_B111) & (uniform(seed_B, "texture/solarize at all", 1, 1, 1) < 0.5)
    return torch.where(inverted_BCHW, 255 - level_BCHW, level_BCHW)


def _posterize(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """1 to 8 bits are kept."""
    bits_B111 = 1 + integers(seed_B, "texture/posterize", 8, 1, 1, 1)
    step_B111 = (torch.ones_like(bits_B111) << (8 - bits_B111)).float()
    return (level_BCHW / step_B111).floor() * step_B111


def _invert(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    return 255 - level_BCHW


def _autocontrast(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    """Pillow's: each channel is stretched to 0..255; the darkest and the brightest 0 to 20 % of its pixels saturate."""
    pixels = level_BCHW[0, 0].numel()
    cut_B11 = integers(seed_B, "texture/autocontrast", 21, 1, 1) * pixels // 100
    level_BCN = level_BCHW.flatten(2).long()
    count_BCL = level_BCN.new_zeros(*level_BCN.shape[:2], 256).scatter_add_(2, level_BCN, torch.ones_like(level_BCN))
    below_BCL = count_BCL.cumsum(2)
    low_BC11 = (below_BCL <= cut_B11).sum(2)[..., None, None]
    high_BC11 = (below_BCL < pixels - cut_B11).sum(2)[..., None, None]
    stretched_BCHW = ((level_BCHW - low_BC11) * 255 / (high_BC11 - low_BC11).clamp(min=1)).floor()
    return torch.where(high_BC11 > low_BC11, stretched_BCHW, level_BCHW)


def _equalize(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    equal_BCHW: Tensor = equalize(level_BCHW.to(torch.uint8))
    return equal_BCHW.float()


def _rotate(level_BCHW: Tensor, seed_B: Tensor) -> Tensor:
    return rotate(level_BCHW, _within(seed_B, "texture/degrees", -45, 45), mode="bilinear")


#: DRAEM's ten operations: (levels of 0..255, seeds on their device) -> levels, which may be fractions or out of range.
OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _gamma,
    _brightness,
    _sharpness,
    _hue_and_saturation,
    _solarize,
    _posterize,
    _invert,
    _autocontrast,
    _equalize,
    _rotate,
)


def _procedural(seed_B: Tensor, purpose: str, size: int, device: torch.device) -> Tensor:
    """Textures without a source: one of four kinds each, some with fine grain."""
    seed_B = seed_B.cpu()
    kind_B = integers(seed_B, f"{purpose}/kind", len(_KINDS))
    texture_BCHW = torch.empty(len(seed_B), 3, size, size, device=device)
    for number, make in enumerate(_KINDS):
        if len(place_B := _places(kind_B == number)):
            texture_BCHW[_to(place_B, device)] = make(_to(seed_B[place_B], device), purpose, size)
    seed_B = _to(seed_B, device)
    # photographs are far from pure colors and full contrast: half of the textures are gray, many nearly even
    color_B111 = _within(seed_B, f"{purpose}/colourfulness", -1.0, 1.0, 1, 1, 1).clamp(min=0)
    contrast_B111 = _within(seed_B, f"{purpose}/contrast", 0.1, 1.0, 1, 1, 1)
    texture_BCHW = torch.lerp(texture_BCHW.mean(dim=1, keepdim=True), texture_BCHW, color_B111)
    brightness_B111 = uniform(seed_B, f"{purpose}/brightness", 1, 1, 1)
    texture_BCHW = torch.lerp(brightness_B111, texture_BCHW, contrast_B111)
    # most have no grain: it alone would give anomalies away
    grain_B111 = _within(seed_B, f"{purpose}/graininess", -0.6, 0.3, 1, 1, 1).clamp(min=0)
    return (texture_BCHW + grain_B111 * (uniform(seed_B, f"{purpose}/grain", 1, size, size) - 0.5)).clamp_(0, 1)


def _clouds(seed_B: Tensor, purpose: str, size: int) -> Tensor:
    """Noise of six octaves, each channel its own."""
    return _octaves(seed_B, f"{purpose}/clouds", 3, size)


def _stripes(seed_B: Tensor, purpose: str, size: int) -> Tensor:
    """Waves of two colors, from soft to hard, more or less bent."""
    along_BHW, _ = _turned(seed_B, purpose, size)
    bend_B11 = _within(seed_B, f"{purpose}/bend", 0.0, 0.15, 1, 1)
    bent_BHW = along_BHW + bend_B11 * _octaves(seed_B, f"{purpose}/bends", 1, size)[:, 0]
    return _two_colors(seed_B, purpose, _wave(seed_B, purpose, bent_BHW))


def _checks(seed_B: Tensor, purpose: str, size: int) -> Tensor:
    """Boards and grids of two colors."""
    return _two_colors(
        seed_B, purpose, torch.stack([_wave(seed_B, purpose, way) for way in _turned(seed_B, purpose, size)]).prod(0)
    )


def _blobs(seed_B: Tensor, purpose: str, size: int) -> Tensor:
    """Spots of one color on another: what is near the nearest of 24 points."""
    point_BP2 = uniform(seed_B, f"{purpose}/points", 24, 2)
    radius_B11 = _within(seed_B, f"{purpose}/radius", 0.03, 0.15, 1, 1)
    place_S = (torch.arange(size, device=seed_B.device) + 0.5) / size
    way_BPS2 = place_S[:, None] - point_BP2[:, :, None]
    square_BPHW = way_BPS2[:, :, :, None, 0] ** 2 + way_BPS2[:, :, None, :, 1] ** 2
    inside_BHW = (1 - square_BPHW.amin(dim=1).sqrt() / radius_B11) * 4
    return _two_colors(seed_B, purpose, inside_BHW.tanh())


_KINDS = (_clouds, _stripes, _checks, _blobs)


def _octaves(seed_B: Tensor, purpose: str, channels: int, size: int) -> Tensor:
    """Value noise (B, channels, size, size) of 4 to 128 cells, stretched to [0, 1]."""
    persistence_B111 = _within(seed_B, f"{purpose}/persistence", 0.3, 0.7, 1, 1, 1)
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
    angle_B11 = _within(seed_B, f"{purpose}/direction", 0, math.pi, 1, 1)
    place_S = torch.arange(size, device=seed_B.device) / size
    y_HW, x_HW = place_S[:, None], place_S[None]
    return x_HW * angle_B11.cos() + y_HW * angle_B11.sin(), y_HW * angle_B11.cos() - x_HW * angle_B11.sin()


def _wave(seed_B: Tensor, purpose: str, way_BHW: Tensor) -> Tensor:
    """From -1 to 1, 3 to 40 times over the image."""
    cycles_B11 = 3 * (40 / 3) ** uniform(seed_B, f"{purpose}/cycles", 1, 1)
    hardness_B11 = _within(seed_B, f"{purpose}/hardness", 0.5, 5.0, 1, 1)
    return (hardness_B11 * (2 * math.pi * cycles_B11 * way_BHW).sin()).tanh()


def _two_colors(seed_B: Tensor, purpose: str, share_BHW: Tensor) -> Tensor:
    """The one color where ``share`` is -1, the other where it is 1."""
    one_BC11, other_BC11 = uniform(seed_B, f"{purpose}/colours", 2, 3, 1, 1).unbind(1)
    return torch.lerp(one_BC11, other_BC11, (share_BHW[:, None] + 1) / 2)


def _within(seed_B: Tensor, purpose: str, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in [low, high)."""
    return low + (high - low) * uniform(seed_B, purpose, *shape)


def _places(chosen_B: Tensor) -> Tensor:
    """Where a condition holds; on the CPU this waits for nothing."""
    return chosen_B.nonzero()[:, 0]


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def _crossed(y_BS: Tensor, x_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, H, W)."""
    size = y_BS.shape[1]
    return y_BS[:, :, None].expand(-1, -1, size), x_BS[:, None].expand(-1, size, -1)


def _quintic(t: Tensor) -> Tensor:
    return t * t * t * (t * (t * 6 - 15) + 10)


def _image_files(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"method.textures={str(root)!r} is not a folder: give a folder of images, or null")
    files = [file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    if not files:
        raise UserError(f"method.textures={str(root)!r} holds no images ({KINDS}): give another folder, or null")
    return sorted(files, key=lambda file: relative(file, root))


def _checksum(files: list[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{relative(file, root)}:".encode("utf-8", "surrogateescape") + glimpse(file))
    return digest.hexdigest()


def _decoded(files: list[Path], size: int) -> Tensor:
    """uint8 (N, 3, size, size)."""
    image_NCHW = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def fill(number: int) -> None:
        image_NCHW[number] = torch.from_numpy(load_image(files[number], size))

    with threads(min(8, os.cpu_count() or 1), "textures") as pool:
        for _ in pool.map(fill, range(len(files))):
            pass  # taking the results raises what the threads raised
    return image_NCHW
