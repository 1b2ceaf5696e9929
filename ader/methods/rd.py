"""RD: reverse distillation from a one-class embedding.

Paper: Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022 (RD4AD).
Upstream: hq-deng/RD4AD at 6554076 (MIT), its multi-class reproduction in zhangzjn/ADer at 902937a (no license file),
and openvinotoolkit/anomalib at 161bb36 (Apache-2.0), whose RD is SegAD's detector. The default recipe is ADer's;
``recipe=official`` with ``setting=single_class`` is the official code's, ``recipe=anomalib`` with it anomalib's.

`python -m parity rd rd_official rd_anomalib` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- none in the network, the loss (whole maps as vectors, where equation 2 has pixels) or the map; ADer divides the sum
  of the maps by 9, a constant that no metric sees.
- The official code and anomalib keep the incomplete batch at an epoch's end (``drop_last=false``), ADer leaves it out.
- anomalib names no weights: timm's default is ``racm_in1k`` in all versions that it allows, while its documentation
  takes torchvision's for the paper's results. Its recipe here has torchvision's (``backbone.name`` is the other's).
- anomalib sums the scales since its version 1.0. Version 0.7, which was current when SegAD's paper was written, had
  their product as its default (``combine=product``), and stopped early by the pixel AUROC of the test images, which
  nothing here does. Which one that paper ran is not stated.
- ADer steps the learning rate through timm's scheduler, per iteration; here it is a function of the progress, with
  the same values.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from ader.config.ranges import Betas, Channels, LearningRate, Sigma
from ader.methods._base import Batch, Count, Method, Optimize, Positive, Prediction, Share, Tags, TrainStage
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.optim.schedules import step_at
from ader.nets.scoring.maps import Border, GaussianBlur, cosine_distance_map, flat_cosine_loss
from ader.system.errors import UserError


class RD(Method):
    """A student decoder restores a frozen teacher's features from one bottleneck embedding (section 3 of the paper).

    Args:
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: Adam's learning rate.
        betas: Adam's averaging factors.
        lr_decay_at: share of the training after which the learning rate is multiplied by 0.1; 1: never.
        clip: largest gradient norm; None for no clipping.
        drop_last: leave out the incomplete batch at an epoch's end.
        bottleneck_width: inner width per 64 channels of the one-class embedding: 64 in ADer and anomalib, 128
            officially.
        combine: how the scales' distances make one map.
        sigma: of the Gaussian that smooths the map, in pixels.
        border: what that Gaussian takes to be beyond the map's edge.
        backbone: a ResNet of timm.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Deng and Li, CVPR 2022",
        reference="zhangzjn/ADer at 902937a, hq-deng/RD4AD at 6554076, openvinotoolkit/anomalib at 161bb36",
    )

    def __init__(
        self,
        batch_size: Count = 16,
        epochs: Count = 100,
        lr: LearningRate = 0.005,
        betas: Betas = (0.5, 0.999),
        lr_decay_at: Share = 0.8,
        clip: Positive | None = 5.0,
        drop_last: bool = True,
        bottleneck_width: Channels = 64,
        combine: Literal["sum", "product"] = "sum",
        sigma: Sigma = 4.0,
        border: Border = "reflect",
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.racm_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs = batch_size, epochs
        self.lr, self.betas, self.lr_decay_at, self.clip = lr, betas, lr_decay_at, clip
        self.drop_last, self.combine = drop_last, combine
        self.teacher = Backbone(backbone, layers=(1, 2, 3))
        plan = _Plan.of(self.teacher, backbone.name)
        self.bottleneck = OneClassEmbedding(plan, bottleneck_width)
        self.decoder = Decoder(plan)
        self.blur = GaussianBlur(sigma, border)

    def stages(self) -> Iterator[TrainStage]:
        student = [self.bottleneck, self.decoder]
        weights = [weight for module in student for weight in module.parameters()]
        yield TrainStage(
            name="distil",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"student": torch.optim.Adam(weights, lr=self.lr, betas=self.betas)},
            modules=student,
            epochs=self.epochs,
            schedules={"student": step_at(self.lr_decay_at)},
            clip=self.clip,
            drop_last=self.drop_last,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        teacher, student = self(batch.image_BCHW)
        loss = flat_cosine_loss(teacher, student)
        optimize(loss)
        return {"cos": loss}

    def forward(self, image_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher and student features, from the finest scale to the coarsest.

        Raises:
            UserError: the image's sides are not multiples of the embedding's stride (32 pixels).
        """
        teacher = self.teach(image_BCHW)
        return teacher, self.restore(teacher)

    def teach(self, image_BCHW: Tensor) -> list[Tensor]:
        """The teacher's features; raises as ``forward``."""
        stride = 2 * self.teacher.strides[-1]
        if any(side % stride for side in image_BCHW.shape[2:]):
            name = type(self).__name__.lower()
            raise UserError(f"image_size={image_BCHW.shape[3]} does not suit {name}: give a multiple of {stride}")
        features: list[Tensor] = self.teacher(image_BCHW)
        return features

    def restore(self, teacher: Sequence[Tensor]) -> list[Tensor]:
        """The student's features, made of the teacher's."""
        restored: list[Tensor] = self.decoder(self.bottleneck(teacher))
        return restored

    def predict(self, image_BCHW: Tensor) -> Prediction:
        teacher, student = self(image_BCHW)
        map_BHW = self.blur(cosine_distance_map(teacher, student, image_BCHW.shape[2:], self.combine))
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


class _Plan:
    """What the student copies from its teacher: block kind, blocks per stage, channels and inner width."""

    def __init__(self, block: Any, depths: Sequence[int], channels: Sequence[int], base_width: int) -> None:
        self.block, self.depths, self.channels, self.base_width = block, depths, channels, base_width

    @classmethod
    def of(cls, teacher: Backbone, name: str) -> _Plan:
        stages: list[Any] = [getattr(teacher.net, f"layer{number}", None) for number in (1, 2, 3)]
        block = type(stages[0][0]) if stages[0] is not None else None
        if block not in (BasicBlock, Bottleneck):
            raise UserError(f"method.backbone.name={name!r}: this needs a plain ResNet (resnet18 ... wide_resnet101_2)")
        width = stages[0][0].conv1.out_channels if block is Bottleneck else 64
        return cls(block, [len(stage) for stage in stages], teacher.channels, width)

    def make(self, inputs: int, outputs: int, base_width: int, **more: Any) -> Any:
        """One residual block with ``outputs`` channels."""
        width = {"base_width": base_width} if self.block is Bottleneck else {}
        return self.block(inputs, outputs // self.block.expansion, **width, **more)


class OneClassEmbedding(nn.Module):
    """Multi-scale feature fusion and one-class embedding (section 3.3): three scales to one map at half the coarsest.

    Args:
        plan: the teacher's layout.
        base_width: inner width of the residual blocks, per 64 channels.
    """

    def __init__(self, plan: _Plan, base_width: int) -> None:
        super().__init__()
        fine, middle, coarse = plan.channels
        self.down1 = nn.Sequential(*_conv_norm_relu(fine, middle), *_conv_norm_relu(middle, coarse))
        self.down2 = nn.Sequential(*_conv_norm_relu(middle, coarse))
        shortcut = nn.Sequential(nn.Conv2d(3 * coarse, 2 * coarse, 1, stride=2, bias=False), nn.BatchNorm2d(2 * coarse))
        first = plan.make(3 * coarse, 2 * coarse, base_width, stride=2, downsample=shortcut)
        rest = [plan.make(2 * coarse, 2 * coarse, base_width) for _ in range(2)]
        self.blocks = nn.Sequential(first, *rest)
        _initialize(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Embedding (B, 2 C_3, H_3 / 2, W_3 / 2) of the three feature maps."""
        fine_BCHW, middle_BCHW, coarse_BCHW = features
        fused_BCHW = torch.cat([self.down1(fine_BCHW), self.down2(middle_BCHW), coarse_BCHW], dim=1)
        embedding_BCHW: Tensor = self.blocks(fused_BCHW)
        return embedding_BCHW


class Decoder(nn.Module):
    """The student: the teacher's stages reversed (section 3.2), strided convolutions replaced by transposed ones."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        inputs = 2 * plan.channels[2]
        stages = []
        for depth, outputs in zip(plan.depths, reversed(plan.channels), strict=True):
            rest = [plan.make(outputs, outputs, plan.base_width) for _ in range(depth - 1)]
            shortcut = nn.Sequential(_transposed(inputs, outputs), nn.BatchNorm2d(outputs))
            rising = plan.make(inputs, outputs, plan.base_width, downsample=shortcut)
            # The block's 3x3 (or first) convolution becomes a transposed 2x2: that doubles the resolution.
            name = "conv2" if plan.block is Bottleneck else "conv1"
            plain = getattr(rising, name)
            setattr(rising, name, _transposed(plain.in_channels, plain.out_channels))
            stages.append(nn.Sequential(rising, *rest))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        _initialize(self)

    def forward(self, embedding_BCHW: Tensor) -> list[Tensor]:
        """Restored features, from the finest scale to the coarsest."""
        features = []
        feature_BCHW = embedding_BCHW
        for stage in self.stages:
            feature_BCHW = stage(feature_BCHW)
            features.append(feature_BCHW)
        return features[::-1]


def _transposed(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2, bias=False)


def _conv_norm_relu(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _initialize(module: nn.Module) -> None:
    """Kaiming-normal for convolutions; transposed ones keep torch's default, as upstream's type test leaves them."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
