"""STPM (STFPM): a student network matches the feature pyramid of its pretrained twin on normal images.

Paper: Wang et al., "Student-Teacher Feature Pyramid Matching for Anomaly Detection", BMVC 2021 (arXiv 2103.04257).
Upstream: gdwang08/STFPM at 2598a5e (GPL-3.0), hcw-00/STPM_anomaly_detection at 35348a8 (Apache-2.0) and
openvinotoolkit/anomalib at 161bb36 (Apache-2.0). The default is the official loss, optimizer and map in the benchmark's
frame: all training images, the last epoch; ``recipe=hcw`` and ``recipe=anomalib`` are the others'.

`python -m parity stpm stpm_hcw stpm_anomalib` compares with all three; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- The official code trains on four fifths of the images and keeps the epoch with the smallest mean map on the others;
  here all are trained on, and the last epoch counts, as in the other two.
- Teacher and student end with layer3, where the last features are taken; the official code computes layer4, too.
- hcw-00 and anomalib sum over the images of a batch and halve (``loss="sum"``): the official loss (a mean) times half
  the batch size, at the same learning rate. The paper's equations have the half, for one image.
- The official map is multiplied on a grid of 64 x 64 whatever the image's size; here on the finest features', which is
  that one at 256 pixels. The others multiply at the image's size (``fuse_at="image"``), and have an eighth of these
  values, a constant that no metric sees.
- timm starts residual branches at 0, torchvision does not: the student starts as torchvision's, as the official code's
  and hcw-00's; ``zero_init=true`` is timm's, which anomalib has.
- anomalib names no weights for its teacher: timm's default is another set; its recipe here has torchvision's.
- open-iad's student starts with the teacher's pretrained weights; nothing here does that.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from ader.config.ranges import Layers, LearningRate, NonNegative, Rate
from ader.methods._base import Batch, Count, Method, Optimize, Prediction, Tags, TrainStage
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.scoring.maps import full, full_precision, upsample
from ader.system.errors import UserError


class STPM(Method):
    """The map is the product over levels of the squared distance between normalized features (section 3.3).

    Args:
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: learning rate of SGD.
        momentum: of the same.
        weight_decay: of the same, of all weights.
        loss: over the images of a batch; ``"sum"`` halves, too.
        drop_last: leave out the incomplete batch at an epoch's end.
        fuse_at: where levels are interpolated to before they are multiplied: the finest features' grid, or the image's.
        zero_init: whether the student's residual branches start at 0.
        layers: timm ``out_indices``, finest first: 1, 2, 3 are layer1 to layer3.
        backbone: a ResNet of timm, the teacher's; the student is one at random weights.

    Raises:
        UserError: another backbone.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Wang et al., BMVC 2021",
        reference="gdwang08/STFPM at 2598a5e, hcw-00/STPM_anomaly_detection at 35348a8, "
        "openvinotoolkit/anomalib at 161bb36",
    )

    def __init__(
        self,
        batch_size: Count = 32,
        epochs: Count = 100,
        lr: LearningRate = 0.4,
        momentum: Rate = 0.9,
        weight_decay: NonNegative = 1e-4,
        loss: Literal["mean", "sum"] = "mean",
        drop_last: bool = False,
        fuse_at: Literal["features", "image"] = "features",
        zero_init: bool = False,
        layers: Layers = (1, 2, 3),
        backbone: BackboneOptions = BackboneOptions("resnet18.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs, self.drop_last = batch_size, epochs, drop_last
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.loss, self.fuse_at = loss, fuse_at
        self.teacher = Backbone(backbone, layers)
        self.student = _student(backbone.name, layers, zero_init)

    def stages(self) -> Iterator[TrainStage]:
        weights = self.student.parameters()
        optimizer = torch.optim.SGD(weights, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        yield TrainStage(
            name="distil",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"student": optimizer},
            modules=[self.student],
            epochs=self.epochs,
            drop_last=self.drop_last,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        loss = torch.stack([distance_BHW.mean() for distance_BHW in self._distances(batch.image_BCHW)]).sum()
        if self.loss == "sum":  # over the images of all processes, each of which has its share
            loss = loss * (0.5 * (len(batch.image_BCHW) if batch.total is None else batch.total))
        optimize(loss)
        return {"distance": loss}

    def forward(self, image_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher and student features, from the finest level to the coarsest."""
        return self.teacher(image_BCHW), self.student(self.teacher.normalize(image_BCHW))

    def _distances(self, image_BCHW: Tensor) -> list[Tensor]:
        teacher, student = self(image_BCHW)
        return squared_distances(teacher, student)

    def predict(self, image_BCHW: Tensor) -> Prediction:
        distances = self._distances(image_BCHW)
        size = distances[0].shape[1:] if self.fuse_at == "features" else image_BCHW.shape[2:]
        level_BHW = torch.stack([upsample(distance_BHW, size, align_corners=False) for distance_BHW in distances])
        map_BHW = upsample(level_BHW.prod(dim=0), image_BCHW.shape[2:], align_corners=False)
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def squared_distances(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """For each level the squared distances (B, H_k, W_k), in [0, 4], of feature vectors brought to length 1; at least
    float32, since nearly equal vectors of half precision have none (equation 1 of the paper has half of it).

    Args:
        teacher, student: features (B, C_k, H_k, W_k) of each level.
    """
    with full_precision(teacher[0].device):
        return [
            (F.normalize(full(t), dim=1) - F.normalize(full(s), dim=1)).square().sum(dim=1)
            for t, s in zip(teacher, student, strict=True)
        ]


def _student(name: str, layers: Sequence[int], zero_init: bool) -> nn.Module:
    """The teacher's twin at random weights, as torchvision or as timm starts it."""
    student: nn.Module = timm.create_model(
        name.split(".")[0], pretrained=False, features_only=True, out_indices=tuple(layers)
    )
    blocks = [part for part in student.modules() if isinstance(part, (BasicBlock, Bottleneck))]
    if not blocks:
        raise UserError(f"method.backbone.name={name!r}: stpm needs a plain ResNet (resnet18 ... wide_resnet101_2)")
    for block in blocks:
        last = block.bn2 if isinstance(block, BasicBlock) else block.bn3
        nn.init.constant_(last.weight, 0.0 if zero_init else 1.0)
    return student
