"""InvAD: features of a frozen encoder made again by a style-modulated generator.

Paper: Zhang et al., "Learning Feature Inversion for Multi-class Anomaly Detection under General-purpose COCO-AD
Benchmark", arXiv 2404.10760, 2024.
Upstream: zhangzjn/ADer at 902937a (no license file; its layers are StyleMapGAN's, under CC BY-NC 4.0). Nothing of
either's code is used here.
The default recipe is ADer's benchmark config. It differs from what is printed: ADer Table 1 says a learning rate of
1e-3 (``method.lr=0.001``), the paper's text AdamW with 1e-4 and a weight decay of 1e-4 (``recipe=official``; betas are
AdamW's usual ones). The released configs of both papers have the values given here; which made the published rows is
not known. ``method=invad_lite`` is the paper's InvAD-lite: a ResNet-34, more blocks of each size and another weight of
the loss, 5 where InvAD has 1, which makes the clipping of gradients five times as tight and changes little else under
Adam.

`python -m parity invad invad_lite` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- One ordinary convolution serves all images; upstream repeats the weights, which are the same for all, for each image
  and convolves in groups. The two heads of a modulation are one convolution, gains are multiplied into weights, and
  what depends on the constant alone is computed once per batch (``nets/style.py``): the same function, fewer passes.
- The map's cosine is summed up scale by scale; upstream stacks all scales first.
- ``style_features`` and ``spatial_modulation`` stand for the rows of Tables 4 and 8. The released code has neither
  switch, so what takes the place of a removed part is chosen here: the fused features enlarged by the fixed filter for
  the style pyramid, concatenation for the modulation. The second row of Table 4 (a plain autoencoder) has no
  counterpart; its first is ``method=rd``.
- The losses of Table A1 other than ``mse`` are not in the released configs; as there, they are summed over scales.
- Weight decay spares biases and norms, as ADer's optimizer factory does it; its released configs have none.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ader.config.ranges import Betas, Channels, Depth, LearningRate, Probability, Sigma
from ader.methods._base import (
    Batch,
    Count,
    Method,
    NonNegative,
    Optimize,
    Positive,
    Prediction,
    Share,
    Tags,
    TrainStage,
)
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.optim.decay import decay_groups
from ader.nets.optim.schedules import cosine, step_at
from ader.nets.scoring.maps import GaussianBlur, flat_cosine_loss, full, upsample
from ader.nets.style import Generator, Rescaling, StyleEncoder
from ader.system.errors import UserError

Number = Annotated[int, Field(ge=0, le=256)]
Loss = Literal["mse", "l1", "flat_cosine", "pixel_cosine"]


class InvAD(Method):
    """A generator makes the features of a frozen encoder again, from a constant and from what a narrow style pyramid
    tells it of them.

    The symbols are those of the paper's tables: N_R and N_S of Table 6 (channels), N_B, N_C and N_L of Table 6
    (depths).

    Args:
        image_size: pixels; the learned constant has a side of ``image_size`` / 16.
        batch_size: images per step.
        epochs: sweeps over the training images.
        optimizer: ``"adam"`` in the released configs, ``"adamw"`` in the paper.
        lr: its learning rate.
        betas: its averaging factors.
        weight_decay: of all weights but biases and norms.
        schedule: of the learning rate (Table A1): ``"step"`` multiplies it by 0.1 at ``lr_decay_at``, ``"cosine"``
            lowers it to ``lr_final_factor`` of itself along half a cosine.
        lr_decay_at: share of the training after which the step schedule decays.
        lr_final_factor: last factor of the cosine schedule.
        clip: largest gradient norm; None for no clipping.
        loss: between features (Table A1): ``"mse"``, ``"l1"``, or one minus the cosine of whole feature maps
            (``"flat_cosine"``) or of each position (``"pixel_cosine"``).
        loss_weight: factor of the loss; matters to the clipping.
        style_width: N_R, largest number of channels of a style map.
        modulation_width: N_S, channels to which a style map is reduced before it modulates.
        bottlenecks: N_B, residual bottleneck blocks on the fused features.
        style_convs: N_C, convolutions of each style map after its first.
        blocks: N_L, styled residual blocks of each size in the generator.
        style_features: each size has its own learned style map (Tables 4 and 8); else all share the fused features,
            enlarged by a fixed filter.
        spatial_modulation: style maps scale and shift the generator's features at each position (Tables 4 and 8); else
            they join them as further channels.
        rescaling: how features come to the coarsest size before they are fused: ``"conv"`` or ``"average"``.
        style_lr_multiplier: learning-rate multiplier of the upsampling style convolutions.
        sigma: of the Gaussian that smooths the map, in pixels.
        backbone: a timm network whose feature maps 1, 2, 3 halve in size.

    Raises:
        UserError: the image size, the style width or the backbone do not fit.
    """

    tags: ClassVar[Tags] = Tags(paper="Zhang et al., arXiv 2404.10760, 2024", reference="zhangzjn/ADer at 902937a")

    def __init__(
        self,
        image_size: Count = 256,
        batch_size: Count = 32,
        epochs: Count = 100,
        optimizer: Literal["adam", "adamw"] = "adam",
        lr: LearningRate = 0.004,
        betas: Betas = (0.0, 0.99),
        weight_decay: NonNegative = 0.0,
        schedule: Literal["step", "cosine"] = "step",
        lr_decay_at: Share = 0.8,
        lr_final_factor: Probability = 0.01,
        clip: Positive | None = 5.0,
        loss: Loss = "mse",
        loss_weight: Positive = 1.0,
        style_width: Channels = 64,
        modulation_width: Channels = 16,
        bottlenecks: Number = 1,
        style_convs: Number = 1,
        blocks: Depth = 2,
        style_features: bool = True,
        spatial_modulation: bool = True,
        rescaling: Rescaling = "conv",
        style_lr_multiplier: Positive = 0.01,
        sigma: Sigma = 4.0,
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.racm_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.epochs = image_size, batch_size, epochs
        self.optimizer, self.lr, self.betas, self.weight_decay = optimizer, lr, betas, weight_decay
        self.schedule = step_at(lr_decay_at) if schedule == "step" else cosine(lr_final_factor)
        self.clip, self.loss, self.loss_weight = clip, loss, loss_weight
        self.encoder = Backbone(backbone, layers=(1, 2, 3))
        side = _coarsest_side(self.encoder, backbone.name, image_size)
        if bottlenecks and min(style_width, self.encoder.channels[-1]) % 4:
            raise UserError(f"method.style_width={style_width}: bottlenecks need a multiple of 4 (or bottlenecks=0)")
        self.style_encoder = StyleEncoder(
            self.encoder.channels,
            style_width,
            bottlenecks=bottlenecks,
            convs=style_convs,
            pyramid=style_features,
            rescaling=rescaling,
            lr_multiplier=style_lr_multiplier,
        )
        self.generator = Generator(
            self.encoder.channels,
            self.style_encoder.widths,
            modulation_width,
            blocks=blocks,
            side=side,
            modulate=spatial_modulation,
        )
        self.blur = GaussianBlur(sigma)

    def stages(self) -> Iterator[TrainStage]:
        trained = [self.style_encoder, self.generator]
        weights = [weight for module in trained for weight in module.parameters()]
        groups = decay_groups(weights, self.weight_decay)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        yield TrainStage(
            name="inversion",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"inversion": kind(groups, lr=self.lr, betas=self.betas)},
            modules=trained,
            epochs=self.epochs,
            schedules={"inversion": self.schedule},
            clip=self.clip,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        features, generated = self(batch.image_BCHW)
        loss = self.loss_weight * feature_loss(features, generated, self.loss)
        optimize(loss)
        return {self.loss: loss}

    def forward(self, image_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of the encoder and of the generator, from the finest scale to the coarsest.

        Raises:
            UserError: the image's sides are not the ``image_size`` that the method was built for.
        """
        height, width = image_BCHW.shape[2:]
        if not height == width == self.image_size:
            raise UserError(f"images of {height}x{width}: the method was built for image_size={self.image_size}")
        features = self.encoder(image_BCHW)
        return features, self.generator(self.style_encoder(features))

    def predict(self, image_BCHW: Tensor) -> Prediction:
        distance_BHW = joint_cosine_distance(*self(image_BCHW))
        map_BHW = self.blur(upsample(distance_BHW, image_BCHW.shape[2:], align_corners=True))
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def _coarsest_side(encoder: Backbone, name: str, image_size: int) -> int:
    """Height and width of the coarsest feature map."""
    first, *others = encoder.strides
    if others != [2 * first, 4 * first]:
        raise UserError(f"method.backbone.name={name!r}: its feature maps must halve in size from each to the next")
    if image_size % encoder.strides[-1]:
        raise UserError(f"image_size={image_size} does not fit the backbone: give a multiple of {encoder.strides[-1]}")
    return image_size // encoder.strides[-1]


_LOSSES: Mapping[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "flat_cosine": lambda target, output: flat_cosine_loss([target], [output]),
    "pixel_cosine": lambda target, output: (1 - F.cosine_similarity(target, output, dim=1)).mean(),
}


def feature_loss(targets: Sequence[Tensor], outputs: Sequence[Tensor], kind: Loss) -> Tensor:
    """Sum over scales of the mean difference of two feature pyramids."""
    pairs = zip(targets, outputs, strict=True)
    return torch.stack([_LOSSES[kind](full(target), full(output)) for target, output in pairs]).sum()


def joint_cosine_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """1 - cos (B, H, W) between two feature pyramids, all scales as one vector at each position of the finest.

    Vectors get unit length at each scale, are then interpolated (which makes some shorter) and only then compared.
    """
    size = first[0].shape[2:]
    sums = []
    for one_BCHW, other_BCHW in zip(first, second, strict=True):
        one_BCHW, other_BCHW = _unit(one_BCHW, size), _unit(other_BCHW, size)
        products = [one_BCHW * other_BCHW, one_BCHW.square(), other_BCHW.square()]
        sums.append(torch.stack([product_BCHW.sum(dim=1) for product_BCHW in products]))
    dot_BHW, one_BHW, other_BHW = torch.stack(sums).sum(dim=0)
    distance_BHW: Tensor = 1 - dot_BHW / (one_BHW * other_BHW).sqrt().clamp(min=1e-8)
    return distance_BHW


def _unit(feature_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Vectors of unit length at each position, interpolated to (H, W)."""
    unit_BCHW = F.normalize(full(feature_BCHW), dim=1)
    return F.interpolate(unit_BCHW, tuple(size), mode="bilinear", align_corners=True)
