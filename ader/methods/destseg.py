"""DeSTSeg: a segmentation-guided denoising student-teacher.

Paper: Zhang et al., "DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection", CVPR 2023.
Upstream: apple/ml-destseg at f6ea31f (Apple's own license) and its multi-class reproduction in zhangzjn/ADer at 902937a
(no license file). The default recipe is ADer's with colors in RGB order; ``recipe=ader`` has the order of ADer's code,
``recipe=official`` with ``setting=single_class`` the official training, rotations left out.

`python -m parity destseg destseg_official` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- ADer's data set keeps OpenCV's BGR order, for images and textures, and normalizes it as RGB; the official code and the
  default here are RGB. ``channels=bgr`` is ADer's, which its published numbers presumably have.
- ADer reads and resizes images with OpenCV, bilinearly and without antialiasing; here Pillow averages over the pixels
  that a smaller one covers, with every recipe. Between photographs of 640 and of 1024 pixels at 256 (printed circuits,
  leather) that is 2.9 and 2.8 gray levels on average, and up to 150 at edges.
- ADer draws training images with replacement; here every image is used once per epoch, as in the official code.
- Both codes run everything in both phases and back-propagate through the frozen student. Here a phase computes what it
  minimizes, with the same gradients of what it trains.
- The focal loss is taken from logits; upstream's, from probabilities, is cut at logits of about 17.
- Anomalies are made on the device (``nets.synthesis``) and depend on the seed, the epoch and the image only. Without a
  folder of textures generated ones stand in, and results say so.
- The official code rotates the training images of ten categories by up to 5 degrees, and those of seven by multiples of
  90 as well; ADer does not, nor does any recipe here, since methods do not know categories.
- The student's loss is a sum over the whole batch with any number of processes; ADer's processes average their sums,
  which divides the student's learning rate.
- A single epoch is given to each phase where ``epochs`` is 1; ADer would not train the segmentation network.

Shapes in names: B images, C channels, H height, W width, N pixels of a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import timm
import torch
import torch.nn.functional as F
from pydantic import Field
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from ader.config.ranges import Channels, LearningRate, Many
from ader.methods._base import (
    Batch,
    Count,
    Method,
    NonNegative,
    Optimize,
    Positive,
    Prediction,
    Probability,
    Tags,
    TrainStage,
)
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.optim.decay import decay_groups
from ader.nets.scoring.maps import full, upsample
from ader.nets.shared_norms import norms_synchronized
from ader.nets.synthesis.synthetic import Synthetic, SyntheticAnomalies
from ader.nets.synthesis.textures import Textures, texture_files
from ader.system.errors import UserError

Step = Callable[[Batch, Optimize], Mapping[str, Tensor]]

#: Of the 3x3 convolutions of atrous spatial pyramid pooling, in pixels of the finest feature map.
DILATIONS = (6, 12, 18)


class DeSTSeg(Method):
    """A student learns to give a teacher's features of the clean image for a spoiled one; a segmentation network then
    learns from where the two networks' features disagree (section 3 of the paper).

    Args:
        image_size: pixels; that of the textures.
        batch_size: images per step; the segmentation network's batch norm needs two.
        epochs: sweeps over the training images, both phases together.
        steps: training steps of both phases together, in place of epochs; None: as ``epochs`` says.
        student_share: of the epochs or steps, rounded up, that train the student; the rest the segmentation network.
        student_lr: of SGD, for the student, whose loss is a sum over the batch.
        blocks_lr: the same for the segmentation network's residual blocks.
        head_lr: the same for the rest of the segmentation network.
        momentum: of SGD.
        weight_decay: SGD's, of both networks.
        decay_norms_and_biases: whether weight decay takes the student's norms and biases, too; those of the
            segmentation network always decay.
        clip: largest gradient norm of either network; None for no clipping.
        focal_gamma: exponent of the focal loss.
        width: channels of the segmentation network.
        top_pixels: the image score is the mean of so many highest pixels of the map; 1 is the plain maximum.
        channels: order in which both networks get an image's colors, which are normalized as RGB either way.
        textures: folder of the images that anomalies are cut from (DTD's ``images``); None: generated textures.
        anomaly_probability: of an anomaly, for each training image.
        opacity: range of the share of the clean image that shows through an anomaly.
        backbone: a ResNet of timm; the student starts from random weights.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Zhang et al., CVPR 2023", reference="zhangzjn/ADer at 902937a, apple/ml-destseg at f6ea31f"
    )

    def __init__(
        self,
        image_size: Count = 256,
        batch_size: Annotated[Count, Field(ge=2)] = 32,
        epochs: Count = 100,
        steps: Many | None = None,
        student_share: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        student_lr: LearningRate = 0.4,
        blocks_lr: LearningRate = 0.1,
        head_lr: LearningRate = 0.01,
        momentum: Probability = 0.9,
        weight_decay: NonNegative = 1e-4,
        decay_norms_and_biases: bool = False,
        clip: Positive | None = 5.0,
        focal_gamma: NonNegative = 4.0,
        width: Channels = 256,
        top_pixels: Count = 1,
        channels: Literal["rgb", "bgr"] = "rgb",
        textures: str | None = None,
        anomaly_probability: Probability = 1.0,
        opacity: tuple[Probability, Probability] = (0.0, 0.8),
        backbone: BackboneOptions = BackboneOptions("resnet18.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs, self.steps, self.student_share = batch_size, epochs, steps, student_share
        self.student_lr, self.blocks_lr, self.head_lr = student_lr, blocks_lr, head_lr
        self.momentum, self.clip = momentum, clip
        self.weight_decay, self.decay_norms_and_biases = weight_decay, decay_norms_and_biases
        self.focal_gamma, self.top_pixels, self.channels = focal_gamma, top_pixels, channels
        self.teacher = Backbone(backbone, layers=(1, 2, 3))
        self.student = DenoisingStudent(backbone.name)
        self.segmentation = Segmentation(sum(self.teacher.channels), width)
        self.anomalies = SyntheticAnomalies(
            Textures(textures, image_size),
            anomaly_probability,
            opacity,
            augment_textures=False,
            rotation_probability=0.0,
        )

    @classmethod
    def files(cls, arguments: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
        textures = arguments.get("textures")
        return super().files(arguments) | ({"textures": texture_files(textures)} if textures else {})

    def stages(self) -> Iterator[TrainStage]:
        total = self.steps or self.epochs
        first = math.ceil(round(self.student_share * total, 9))  # 0.07 * 100 is a little above 7
        first = max(1, min(first, total - 1))
        second = max(1, total - first)  # neither phase is empty: a total of 1 becomes two of 1
        vectors = self.weight_decay if self.decay_norms_and_biases else 0.0
        groups = decay_groups(self.student.parameters(), self.weight_decay, vectors)
        groups = [{**group, "lr": self.student_lr} for group in groups]
        yield self._phase("student", self.student, self._step_student, groups, first)
        groups = [
            {"params": list(self.segmentation.blocks.parameters()), "lr": self.blocks_lr},
            {"params": list(self.segmentation.head.parameters()), "lr": self.head_lr},
        ]
        yield self._phase("segmentation", self.segmentation, self._step_segmentation, groups, second)

    def _phase(self, name: str, module: nn.Module, step: Step, groups: list[dict[str, Any]], length: int) -> TrainStage:
        """A phase of ``length`` epochs or steps; the other networks stay in evaluation mode, batch norms included."""
        return TrainStage(
            name=name,
            batch_size=self.batch_size,
            step=step,
            optimizers={name: torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)},
            modules=[module],
            epochs=None if self.steps else length,
            steps=length if self.steps else None,
            clip=self.clip,
        )

    def _spoiled(self, batch: Batch) -> Synthetic:
        # the pyramid pooling of the second phase norms one number per image and channel
        if len(batch.image_BCHW) < 2 and not norms_synchronized():
            raise UserError(
                "destseg cannot train on 1 image per process: give more training images, fewer processes or "
                "trainer.sync_batchnorm=true"
            )
        synthetic: Synthetic = self.anomalies(batch.image_BCHW, batch.seed_B)
        return synthetic

    def _step_student(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        synthetic = self._spoiled(batch)
        teacher = self.teacher(self._ordered(synthetic.clean))
        student = self.student(self.teacher.normalize(self._ordered(synthetic.image)))
        loss = summed_cosine_loss(teacher, student) / batch.share  # processes are weighted by their shares
        optimize(loss)
        return {"cos": loss}

    def _step_segmentation(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        synthetic = self._spoiled(batch)
        logit_BHW = full(self(synthetic.image))
        target_BHW = shrunk_mask(synthetic.mask, logit_BHW.shape[1:])
        l1 = (logit_BHW.sigmoid() - target_BHW).abs().mean()
        focal = focal_loss(logit_BHW, target_BHW, self.focal_gamma)
        optimize(l1 + focal)
        return {"l1": l1, "focal": focal}

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits of the segmentation (B, H / 4, W / 4), at the size of the finest feature map.

        Its input are the negative products of normalized teacher and student features, in float32.
        """
        with torch.no_grad():  # the student has learned before: the segmentation trains alone
            image_BCHW = self._ordered(image_BCHW)
            teacher, student = self.teacher(image_BCHW), self.student(self.teacher.normalize(image_BCHW))
            size = teacher[0].shape[2:]
            levels = [_resized(-product_BCHW, size) for product_BCHW in products(teacher, student)]
            similarity_BCHW = torch.cat(levels, dim=1)
        logit_BHW: Tensor = self.segmentation(similarity_BCHW)
        return logit_BHW

    def _ordered(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.flip(1) if self.channels == "bgr" else image_BCHW

    def predict(self, image_BCHW: Tensor) -> Prediction:
        anomalous_BHW = full(self(image_BCHW)).sigmoid()
        map_BHW = upsample(anomalous_BHW, image_BCHW.shape[2:], align_corners=False)
        return Prediction(top_mean(map_BHW, self.top_pixels), map_BHW)


def products(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """Elementwise products of features of unit length in each pixel, float32; over channels they sum to the cosine."""
    return [
        F.normalize(full(t), dim=1) * F.normalize(full(s), dim=1)  # eps 1e-12
        for t, s in zip(teacher, student, strict=True)
    ]


def summed_cosine_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Sum over scales and images of the mean over pixels of 1 - cos (equation 2 of the paper, summed over the batch
    as in both codes: the student's learning rate belongs to this sum)."""
    losses = [(1 - product_BCHW.sum(dim=1)).mean(dim=(1, 2)).sum() for product_BCHW in products(teacher, student)]
    return torch.stack(losses).sum()


def focal_loss(logit_BHW: Tensor, target_BHW: Tensor, gamma: float) -> Tensor:
    """Mean of -(1 - p)^gamma log p, where p is the probability given to the true answer, 0 or 1; without the
    weighting of classes. From logits, so that no logarithm of 0 can arise."""
    wrong_BHW = (1 - 2 * target_BHW) * logit_BHW  # the logit of the other answer
    return (wrong_BHW.sigmoid() ** gamma * F.softplus(wrong_BHW)).mean()


def shrunk_mask(mask_BHW: Tensor, size: Sequence[int]) -> Tensor:
    """A mask at the size (H, W) of the segmentation, 0 or 1: anomalous from one half on."""
    return (upsample(mask_BHW, size, align_corners=False) >= 0.5).to(mask_BHW.dtype)


def top_mean(map_BHW: Tensor, pixels: int) -> Tensor:
    """Means (B,) of each map's highest ``pixels`` values, of all of them where there are fewer."""
    flat_BN = map_BHW.flatten(1)
    return flat_BN.topk(min(pixels, flat_BN.shape[1]), dim=1).values.mean(dim=1)


class DenoisingStudent(nn.Module):
    """The teacher's network with one more stage and random weights, and a decoder without skip connections.

    Args:
        name: the teacher's, of timm; a weights tag is ignored.

    Raises:
        UserError: the network lacks the further stage.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            self.encoder = timm.create_model(name.split(".")[0], features_only=True, out_indices=(1, 2, 3, 4))
        except (IndexError, AssertionError) as error:  # timm looks the stages up without a check
            raise UserError(
                f"method.backbone.name={name!r} has no feature map 4, which destseg's student needs: take a ResNet"
            ) from error
        fine, middle, coarse, deepest = self.encoder.feature_info.channels()
        rising = [(deepest, deepest), (deepest, coarse), (coarse, middle), (middle, fine)]
        self.decoder = nn.ModuleList([_residual_blocks(inputs, outputs) for inputs, outputs in rising])

    def forward(self, normalized_BCHW: Tensor) -> list[Tensor]:
        """Features in the teacher's shapes, from the finest scale to the coarsest."""
        *encoded, feature_BCHW = self.encoder(normalized_BCHW)
        feature_BCHW = self.decoder[0](feature_BCHW)
        features: list[Tensor] = []
        for stage, like_BCHW in zip(self.decoder[1:], reversed(encoded), strict=True):
            feature_BCHW = stage(_resized(feature_BCHW, like_BCHW.shape[2:]))
            features.append(feature_BCHW)
        return features[::-1]


class Segmentation(nn.Module):
    """Residual blocks, atrous spatial pyramid pooling, and a convolution before the logits (section 3.3).

    Args:
        inputs: channels of all scales together.
        width: channels inside.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.blocks = _residual_blocks(inputs, width)
        self.head = nn.Sequential(  # with torch's initialization, as in both codes
            SpatialPyramidPooling(width), *_conv_norm_relu(width, width), nn.Conv2d(width, 1, kernel_size=1)
        )

    def forward(self, similarity_BCHW: Tensor) -> Tensor:
        """Logits (B, H, W) of the same size."""
        logit_B1HW: Tensor = self.head(self.blocks(similarity_BCHW))
        return logit_B1HW[:, 0]


class SpatialPyramidPooling(nn.Module):
    """Atrous spatial pyramid pooling: the image's mean and three dilations, joined by a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_conv_norm_relu(width, width, kernel=1))
        dilated = [nn.Sequential(*_conv_norm_relu(width, width, dilation=dilation)) for dilation in DILATIONS]
        self.dilated = nn.ModuleList(dilated)
        self.fusion = nn.Sequential(*_conv_norm_relu((1 + len(DILATIONS)) * width, width))

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Same shape."""
        pooled_BCHW = self.pooled(feature_BCHW).expand_as(feature_BCHW)
        branches = [pooled_BCHW, *(branch(feature_BCHW) for branch in self.dilated)]
        fused_BCHW: Tensor = self.fusion(torch.cat(branches, dim=1))
        return fused_BCHW


def _conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _residual_blocks(inputs: int, outputs: int) -> nn.Sequential:
    """Two basic blocks of a ResNet, the first with a convolution as shortcut where the channels change."""
    shortcut = None
    if inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
    blocks = nn.Sequential(BasicBlock(inputs, outputs, downsample=shortcut), BasicBlock(outputs, outputs))
    for part in blocks.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return blocks


def _resized(feature_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(feature_BCHW, size=tuple(size), mode="bilinear", align_corners=False)
