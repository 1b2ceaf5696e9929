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

from ader.nets.scoring.maps import full, full_precision
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
        textures: where T comes from; None: every call brings its own.
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
        textures: Textures | None,
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
    def forward(
        self,
        image_BCHW: Tensor,
        seed_B: Tensor,
        texture_BCHW: Tensor | None = None,
        probability: float | None = None,
    ) -> Synthetic:
        """Anomalies in some of the images.

        Args:
            image_BCHW: RGB in [0, 1], square, of the textures' size.
            seed_B: one for each image; on the CPU, or the device is waited for.
            texture_BCHW: what anomalies are cut from, RGB in [0, 1], one for each image; None: the textures.
            probability: another one than the recipe's.
        """
        device, seed_B = image_BCHW.device, seed_B.cpu()
        probability = self.probability if probability is None else probability
        with full_precision(device):
            clean_BCHW = full(image_BCHW)
            if len(place_B := (uniform(seed_B, "anomaly/rotate image") < self.rotation_probability).nonzero()[:, 0]):
                there_B = place_B.to(device, non_blocking=True)
                clean_BCHW = clean_BCHW.clone()  # the caller keeps his images
                degrees_B = uniform_between(seed_B[place_B], "anomaly/image degrees", -90, 90)
                clean_BCHW[there_B] = rotate(clean_BCHW[there_B], degrees_B, mode="bilinear")
            spoiled_BCHW, mask_BHW = clean_BCHW.clone(), torch.zeros_like(clean_BCHW[:, 0])
            if len(place_B := (uniform(seed_B, "anomaly") < probability).nonzero()[:, 0]):
                there_B, seed_B = place_B.to(device, non_blocking=True), seed_B[place_B]
                plain_BCHW = clean_BCHW[there_B]
                patch_BHW = self._shapes(seed_B, plain_BCHW.shape[-1], device)
                if texture_BCHW is not None:
                    texture_BCHW = texture_BCHW[there_B]
                elif self.textures is not None:
                    texture_BCHW = self.textures.draw(seed_B, "anomaly/texture", device)
                else:
                    raise ValueError("there are no textures: give texture_BCHW")
                if self.augment_textures:
                    texture_BCHW = augmented(texture_BCHW, seed_B)
                beta_B111 = uniform_between(seed_B, "anomaly/opacity", *self.opacity, 1, 1, 1)
                beta_B111 = beta_B111.to(device, non_blocking=True)
                mixed_BCHW = (1 - beta_B111) * texture_BCHW + beta_B111 * plain_BCHW
                spoiled_BCHW[there_B] = torch.where(patch_BHW[:, None] > 0, mixed_BCHW, plain_BCHW)
                mask_BHW[there_B] = patch_BHW.to(mask_BHW.dtype)
        return Synthetic(spoiled_BCHW, clean_BCHW, mask_BHW)

    def _shapes(self, seed_B: Tensor, size: int, device: torch.device) -> Tensor:
        """Masks (B, size, size)."""
        noise_BHW = perlin(seed_B, "anomaly/noise", size, device)
        if self.noise_rotation:
            degrees_B = uniform_between(seed_B, "anomaly/noise degrees", -self.noise_rotation, self.noise_rotation)
            noise_BHW = rotate(noise_BHW[:, None], degrees_B, mode="bilinear")[:, 0]
        return (noise_BHW > self.threshold).float()
