"""DRAEM: a network repaints synthetic defects, a second one finds them by comparing.

Paper: Zavrtanik, Kristan and Skocaj, "DRAEM - A discriminatively trained reconstruction embedding for surface anomaly
detection", ICCV 2021.
Upstream: VitjanZ/DRAEM at 2dbf673 (MIT) and its multi-class reproduction in zhangzjn/ADer at 902937a (no license file).

The default recipe is ADer's schedule (100 epochs, rate times 0.1 at 80 %, clipping, unpadded score) with a fault
fixed: ADer's released configurations name its plain dataset instead of the DRAEM one, so its trainer finds no
synthetic anomaly and trains on clean images and empty masks. Its published rows are accordingly near chance (MVTec AD,
100 epochs: image AUROC 54.5, pixel AUROC 47.6), while a table of InvAD, by some of the same authors, has 88.8 and 88.6
for multi-class DRAEM. Here images get anomalies, and stay in [0, 1] as their textures do, unless ``recipe=ader`` asks
for what the released code runs. ``recipe=official`` has the official code's schedule (700 epochs, rate times 0.2 at
80 % and 90 %, no clipping, padded score); the paper's text says times 0.1 at epochs 400 and 600.
``textures`` should be a folder of the Describable Textures Dataset, which both upstreams use; without it textures are
made up, and every result says so.

`python -m parity draem draem_official` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- anomalies are made in batches on the images' device (``nets.synthesis``, which lists its own differences), from the
  images' seeds, and every image is seen once per epoch; the official dataset draws images with replacement.
- RGB; the official code keeps OpenCV's BGR, in the networks (trained from scratch: no difference) and in the textures'
  operations (which treat it as RGB: hue and luma get other weights).
- the official code keeps the incomplete batch at an epoch's end, which the benchmark leaves out.
- SSIM's window is applied in two passes; its range is 255 upstream once a reconstruction exceeds 128, a case left out
  here: images are in [0, 1] or standardized.
- the one-hot targets of the focal loss are made on the device, in the mask's precision; upstream goes through the CPU.
- images and textures are resized with Pillow, as for all methods and by ADer's plain dataset; the official code, and
  ADer's DRAEM dataset that no configuration names, have OpenCV's resize without antialiasing: 2.8 to 2.9 gray levels on
  average between photographs of 640 and 1024 pixels at 256.

Shapes in names: B images, C channels, H height, W width, L colors and their products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ader.config.ranges import Betas, Channels, LearningRate, Window
from ader.methods._base import (
    Batch,
    Count,
    Method,
    NonNegative,
    Optimize,
    Positive,
    Prediction,
    Probability,
    Share,
    Tags,
    TrainStage,
)
from ader.nets.optim.schedules import steps_at
from ader.nets.scoring.maps import full, full_precision, pooled_maximum
from ader.nets.synthesis.synthetic import Synthetic, SyntheticAnomalies
from ader.nets.synthesis.textures import Textures, texture_files
from ader.system import dist
from ader.system.errors import UserError

#: The segmenter halves the image five times.
STRIDE = 32


class DRAEM(Method):
    """A reconstruction network without skips and a U-Net on (reconstruction, image), trained together on synthetic
    anomalies.

    Args:
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: Adam's learning rate.
        betas: Adam's averaging factors.
        lr_decay_at: shares of the training after each of which the learning rate is multiplied by ``lr_decay_factor``.
        lr_decay_factor: see there.
        clip: largest gradient norm; None for no clipping.
        reconstruction_width: channels of the reconstruction network at full resolution.
        discriminator_width: channels of the segmentation network at full resolution.
        normalize: what both networks see: RGB in [0, 1] or, ``"imagenet"``, less ImageNet's mean over its deviation.
        anomalies: without them every mask is empty, and the segmentation network learns to say so.
        textures: folder of images that the anomalies are cut from, such as DTD's; None has procedural ones.
        anomaly_probability: share of the images that get an anomaly.
        opacity: range of beta: 0 replaces the image by the texture, 1 would leave it.
        augment_textures: three of ten operations change each texture first.
        rotation_probability: share of the images that are rotated by U(-90, 90) degrees before.
        perlin_threshold: an anomaly is where its Perlin noise exceeds this.
        focal_gamma: exponent of the focal loss; 0 makes it the cross-entropy.
        score_window: pixels; an image's score is the largest mean of its map over such a square.
        score_padded: squares may reach over the border, where the map counts as 0.
        image_size: pixels, a multiple of 32.

    Raises:
        UserError: the image size or a range does not fit, or there are no textures.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Zavrtanik et al., ICCV 2021", reference="zhangzjn/ADer at 902937a, VitjanZ/DRAEM at 2dbf673"
    )

    def __init__(
        self,
        image_size: Count = 256,
        batch_size: Count = 8,
        epochs: Count = 100,
        lr: LearningRate = 1e-4,
        betas: Betas = (0.9, 0.999),
        lr_decay_at: tuple[Share, ...] = (0.8,),
        lr_decay_factor: Positive = 0.1,
        clip: Positive | None = 5.0,
        reconstruction_width: Channels = 128,
        discriminator_width: Channels = 64,
        normalize: Literal["none", "imagenet"] = "none",
        anomalies: bool = True,
        textures: str | None = None,
        anomaly_probability: Probability = 0.5,
        opacity: tuple[Probability, Probability] = (0.0, 0.8),
        augment_textures: bool = True,
        rotation_probability: Probability = 0.3,
        perlin_threshold: Annotated[float, Field(ge=-2, le=2)] = 0.5,
        focal_gamma: NonNegative = 2.0,
        score_window: Window = 21,
        score_padded: bool = False,
    ) -> None:
        super().__init__()
        if image_size % STRIDE:
            raise UserError(f"image_size={image_size} does not suit draem: give a multiple of {STRIDE}")
        if opacity[0] > opacity[1]:
            raise UserError(f"method.opacity={list(opacity)} is upside down: give [smallest, largest]")
        self.batch_size, self.epochs = batch_size, epochs
        self.lr, self.betas, self.clip = lr, betas, clip
        self.lr_decay_at, self.lr_decay_factor = lr_decay_at, lr_decay_factor
        self.focal_gamma = focal_gamma
        self.score_window, self.score_padding = score_window, score_window // 2 if score_padded else 0
        self.warning = (
            None if anomalies else "no synthetic anomalies: the segmentation network learns from empty masks only"
        )
        self.anomalies = None
        if anomalies:
            source = Textures(textures, image_size)
            self.anomalies = SyntheticAnomalies(
                source, anomaly_probability, opacity, augment_textures, rotation_probability, perlin_threshold
            )
        self.normalize = Standardize() if normalize == "imagenet" else nn.Identity()
        self.reconstructor = Reconstructor(reconstruction_width)
        self.segmenter = Segmenter(discriminator_width)

    @classmethod
    def files(cls, arguments: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
        textures = arguments.get("textures")
        return super().files(arguments) | ({"textures": texture_files(textures)} if textures else {})

    def stages(self) -> Iterator[TrainStage]:
        networks = [self.reconstructor, self.segmenter]
        weights = [weight for network in networks for weight in network.parameters()]
        yield TrainStage(
            name="train",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"networks": torch.optim.Adam(weights, lr=self.lr, betas=self.betas)},
            modules=networks,
            epochs=self.epochs,
            schedules={"networks": steps_at(self.lr_decay_at, self.lr_decay_factor)},
            clip=self.clip,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        if self.anomalies is None:
            spoiled = Synthetic(batch.image_BCHW, batch.image_BCHW, torch.zeros_like(batch.image_BCHW[:, 0]))
        else:
            spoiled = self.anomalies(batch.image_BCHW, batch.seed_B)
        losses = self.losses(spoiled)
        optimize(torch.stack(list(losses.values())).sum())
        return losses

    def losses(self, spoiled: Synthetic) -> dict[str, Tensor]:
        """The three terms of equation 4, whose sum is minimized."""
        restored_BCHW, logit_B2HW = self(spoiled.image)
        clean_BCHW = self.normalize(spoiled.clean)
        return {
            "mse": F.mse_loss(full(restored_BCHW), clean_BCHW),
            "ssim": ssim_loss(restored_BCHW, clean_BCHW),
            "focal": focal_loss(logit_B2HW, spoiled.mask, self.focal_gamma),
        }

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions (B, 3, H, W), normalized as the networks' input, and logits (B, 2, H, W)."""
        image_BCHW = self.normalize(image_BCHW)
        device = image_BCHW.device.type
        half = device != "meta" and torch.is_autocast_enabled(device)
        # Channels last makes convolutions faster under autocast, and on processors. With gradients these would then sum
        # the batch norms' statistics less exactly.
        if half or (device == "cpu" and not torch.is_grad_enabled()):
            image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
        restored_BCHW = self.reconstructor(image_BCHW)
        both_BCHW = torch.cat([restored_BCHW, image_BCHW.to(restored_BCHW.dtype)], dim=1)
        return restored_BCHW, self.segmenter(both_BCHW)

    def predict(self, image_BCHW: Tensor) -> Prediction:
        _, logit_B2HW = self(image_BCHW)
        map_BHW = full(logit_B2HW).softmax(dim=1)[:, 1]
        return Prediction(pooled_maximum(map_BHW, self.score_window, self.score_padding), map_BHW)


def ssim_loss(image_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """1 - the mean structural similarity (Gaussian window of 11 pixels, sigma 1.5, zeros beyond the border).

    The constants' dynamic range is taken from the images as upstream takes it: 1, or 2 once ``image`` falls below -0.5,
    in any process.
    """
    image_BCHW, target_BCHW = full(image_BCHW), full(target_BCHW)
    span = 1 + (dist.smallest(image_BCHW.amin()) < -0.5).to(image_BCHW.dtype)
    low, high = (0.01 * span) ** 2, (0.03 * span) ** 2
    products = (image_BCHW**2, target_BCHW**2, image_BCHW * target_BCHW)
    blurred = _window_mean(torch.cat([image_BCHW, target_BCHW, *products], dim=1))
    mean_BCHW, target_mean_BCHW, square_BCHW, target_square_BCHW, product_BCHW = blurred.chunk(5, dim=1)
    means_BCHW = mean_BCHW * target_mean_BCHW
    mean_squares_BCHW = mean_BCHW**2 + target_mean_BCHW**2
    covariance_BCHW = product_BCHW - means_BCHW
    variances_BCHW = square_BCHW + target_square_BCHW - mean_squares_BCHW
    similar_BCHW = (2 * means_BCHW + low) / (mean_squares_BCHW + low)
    return 1 - (similar_BCHW * (2 * covariance_BCHW + high) / (variances_BCHW + high)).mean()


def _window_mean(value_BLHW: Tensor) -> Tensor:
    """Gaussian-weighted means around each pixel, same shape.

    The window is a product of two one-dimensional ones. With one channel in each group, and channels first, the
    convolutions keep float32 where TF32 is allowed for others, which a difference of means of squares needs.
    """
    offset_W = torch.arange(-5, 6, device=value_BLHW.device, dtype=value_BLHW.dtype)
    weight_W = torch.exp(-(offset_W**2) / (2 * 1.5**2))
    layers = value_BLHW.shape[1]
    across_L11W = (weight_W / weight_W.sum()).expand(layers, 1, 1, 11)
    with full_precision(value_BLHW.device):
        value_BLHW = F.conv2d(value_BLHW.contiguous(), across_L11W, padding=(0, 5), groups=layers)
        return F.conv2d(value_BLHW, across_L11W.transpose(2, 3), padding=(5, 0), groups=layers)


def focal_loss(logit_B2HW: Tensor, mask_BHW: Tensor, gamma: float, smooth: float = 1e-5) -> Tensor:
    """Mean of -(1 - p)^gamma log p over pixels, p the probability of the pixel's true class.

    Args:
        logit_B2HW: of normal and anomalous.
        mask_BHW: 1.0 where anomalous.
        gamma: exponent.
        smooth: the targets are so far from 0 and 1, and as much is added to p.
    """
    probability_B2HW = full(logit_B2HW).softmax(dim=1)
    target_BHW = mask_BHW.clamp(smooth, 1 - smooth)
    other_BHW = (1 - mask_BHW).clamp(smooth, 1 - smooth)
    true_BHW = other_BHW * probability_B2HW[:, 0] + target_BHW * probability_B2HW[:, 1] + smooth
    return -((1 - true_BHW) ** gamma * true_BHW.log()).mean()


class Reconstructor(nn.Module):
    """Restores normal images: five scales, no skips.

    Args:
        width: channels at full resolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        down = _descent([3, width, 2 * width, 4 * width, 8 * width, 8 * width])
        up: list[nn.Module] = []
        inputs = 8 * width
        for outputs in (4 * width, 2 * width, width, width):
            up += [_rise(inputs, inputs), _double(inputs, inputs, outputs)]
            inputs = outputs
        self.layers = nn.Sequential(*down, *up, nn.Conv2d(width, 3, 3, padding=1))
        _initialize(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Same shape."""
        restored_BCHW: Tensor = self.layers(image_BCHW)
        return restored_BCHW


class Segmenter(nn.Module):
    """A U-Net of six scales on a reconstruction and its image.

    Args:
        width: channels at full resolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width, 8 * width]
        self.down = nn.ModuleList(_descent([6, *widths]))
        self.rises = nn.ModuleList()
        self.merges = nn.ModuleList()
        inputs = widths[-1]
        for skip, factor in zip(widths[-2::-1], (8, 4, 2, 1, 1), strict=True):
            self.rises.append(_rise(inputs, factor * width))
            inputs = factor * width
            self.merges.append(_double(inputs + skip, inputs, inputs))
        self.head = nn.Conv2d(width, 2, 3, padding=1)
        _initialize(self)

    def forward(self, both_BCHW: Tensor) -> Tensor:
        """Logits (B, 2, H, W) of normal and anomalous, from (B, 6, H, W)."""
        skips = []
        value_BCHW = both_BCHW
        for block in self.down:
            value_BCHW = block(value_BCHW)
            skips.append(value_BCHW)
        for rise, merge, skip_BCHW in zip(self.rises, self.merges, skips[-2::-1], strict=True):
            value_BCHW = merge(torch.cat([rise(value_BCHW), skip_BCHW], dim=1))
        logit_B2HW: Tensor = self.head(value_BCHW)
        return logit_B2HW


class Standardize(nn.Module):
    """RGB in [0, 1] less ImageNet's mean, over its standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Same shape."""
        return (image_BCHW - self.mean) / self.std


def _descent(channels: Sequence[int]) -> list[nn.Module]:
    """Blocks of two convolutions; each but the first halves its input beforehand."""
    blocks = [_double(inputs, outputs, outputs) for inputs, outputs in pairwise(channels)]
    return [blocks[0], *(nn.Sequential(nn.MaxPool2d(2), *block) for block in blocks[1:])]


def _rise(inputs: int, outputs: int) -> nn.Sequential:
    """Doubles the resolution; corners stay corners, as upstream has it."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), *_conv(inputs, outputs))


def _double(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_conv(inputs, middle), *_conv(middle, outputs))


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _initialize(module: nn.Module) -> None:
    """Normal weights of both kinds of layers; the convolutions' biases keep torch's default, as upstream's do."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, 0.0, 0.02)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)
            nn.init.zeros_(part.bias)
