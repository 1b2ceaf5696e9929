"""Synthetic anomalies: patches of foreign texture in the shape of Perlin noise (DRAEM, section 3.3).

Paper: Zavrtanik, Kristan and Skocaj, "DRAEM - A discriminatively trained reconstruction embedding for surface anomaly
detection", ICCV 2021; upstream VitjanZ/DRAEM at 2dbf673 (MIT), which augments one image at a time on the processor with
imgaug. Here whole batches are made on the images' device. All random numbers are hashes of the images' own seeds
(``draws``), so an image's anomaly depends on the run's seed, the epoch and the image only. What a seed decides about
*which* images something happens to is looked at on the CPU, where ``Batch.seed_B`` is: nothing waits for the device.

Differences from upstream: those of ``textures`` and ``operations``; sizes need not be multiples of the noise's cells
(``perlin``), and where they are, the noise is upstream's.

Shapes in names: B images (those that something is made for), C channels, H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ader.nets.scoring.maps import full_precision
from ader.nets.synthesis.draws import uniform, uniform_between
from ader.nets.synthesis.geometry import rotate
from ader.nets.synthesis.operations import augmented
from ader.nets.synthesis.perlin import perlin
from ader.nets.synthesis.textures import Textures


class Synthetic(NamedTuple):
    """Images with synthetic anomalies.

    ``image``: (B, C, H, W) with anomalies where ``mask`` (B, H, W; 0.0 or 1.0) says so; ``clean``: the same images
    before, rotated where the recipe rotates: what a reconstruction should restore.
    """

    image: Tensor
    clean: Tensor
    mask: Tensor


class SyntheticAnomalies(nn.Module):
    """Puts patches of texture into normal images: ``x (1 - M) + (1 - beta) T M + beta x M`` (equation 5 of DRAEM).

    Args:
        textures: where T comes from.
        probability: share of the images that get an anomaly; a few of them stay clean because their noise never exceeds
            the threshold.
        opacity: range of beta: 0 replaces the image by the texture, 1 would leave it as it is.
        augment_textures: three of DRAEM's ten color and geometry operations change each texture first.
        rotation_probability: share of the images that are first rotated by U(-90, 90) degrees; corners become black.
        threshold: M is where the Perlin noise exceeds it.
        noise_rotation: the noise is rotated by up to so many degrees, either way; its corners become 0.
    """

    def __init__(
        self,
        textures: Textures,
        probability: float,
        opacity: tuple[float, float],
        augment_textures: bool,
        rotation_probability: float,
        threshold: float = 0.5,
        noise_rotation: float = 90.0,
    ) -> None:
        super().__init__()
        self.textures = textures
        self.probability, self.opacity = probability, opacity
        self.augment_textures, self.rotation_probability = augment_textures, rotation_probability
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
            if len(place_B := (uniform(seed_B, "anomaly") < self.probability).nonzero()[:, 0]):
                there_B = place_B.to(device, non_blocking=True)
                patch_BHW = self._shapes(seed_B[place_B], device)
                spoiled_BCHW[there_B] = self._blended(clean_BCHW[there_B], patch_BHW, seed_B[place_B])
                mask_BHW[there_B] = patch_BHW
        return Synthetic(spoiled_BCHW, clean_BCHW, mask_BHW)

    def _rotated(self, image_BCHW: Tensor, seed_B: Tensor) -> Tensor:
        if len(place_B := (uniform(seed_B, "anomaly/rotate image") < self.rotation_probability).nonzero()[:, 0]):
            there_B = place_B.to(image_BCHW.device, non_blocking=True)
            image_BCHW = image_BCHW.clone()
            degrees_B = uniform_between(seed_B[place_B], "anomaly/image degrees", -90, 90)
            image_BCHW[there_B] = rotate(image_BCHW[there_B], degrees_B, mode="bilinear")
        return image_BCHW

    def _shapes(self, seed_B: Tensor, device: torch.device) -> Tensor:
        """Masks (B, H, W)."""
        noise_BHW = perlin(seed_B, "anomaly/noise", self.textures.size, device)
        if self.noise_rotation:
            degrees_B = uniform_between(seed_B, "anomaly/noise degrees", -self.noise_rotation, self.noise_rotation)
            noise_BHW = rotate(noise_BHW[:, None], degrees_B, mode="bilinear")[:, 0]
        return (noise_BHW > self.threshold).float()

    def _blended(self, image_BCHW: Tensor, mask_BHW: Tensor, seed_B: Tensor) -> Tensor:
        device = image_BCHW.device
        texture_BCHW = self.textures.draw(seed_B, "anomaly/texture", device)
        if self.augment_textures:
            texture_BCHW = augmented(texture_BCHW, seed_B)
        beta_B111 = uniform_between(seed_B, "anomaly/opacity", *self.opacity, 1, 1, 1).to(device, non_blocking=True)
        mixed_BCHW = (1 - beta_B111) * texture_BCHW + beta_B111 * image_BCHW
        return torch.where(mask_BHW[:, None] > 0, mixed_BCHW, image_BCHW)
