"""WRN classifier: a wide ResNet fine-tuned to tell normal from defective images, the supervised baseline of SegAD.

Paper: Baitieva et al., "Supervised Anomaly Detection for Complex Industrial Images", CVPR 2024, appendix B, with the
networks of Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, and the loss of Lin et al., "Focal Loss for
Dense Object Detection", ICCV 2017.
Upstream: none. The repository of the paper (abc-125/segad at b946ee3) has no code for it.

The recipe has the paper's values: 256x256 images without augmentation, ImageNet weights of torchvision, focal loss,
SGD with momentum 0.9, learning rate 0.025, batches of 4. The paper does not say, and this file chooses: one output and
not two; gamma 2 without alpha (the focal loss's own default gamma); no weight decay; the constant learning rate; the
epochs (the benchmark's); the first version of torchvision's weights; all layers are trained. Its "WRN" feeds SegAD's
forest from 80 % of the training images (``share=0.8``); whether its table's row of "WRN" alone used these or all is not
said, and ``share=1.0`` is the default. There is no sampler against the imbalance of normal and defective images, as in
the paper.

`python -m parity wrn_classifier` compares with a loop of torchvision's network and focal loss and torch's SGD;
differences, parameters and operations: `results/bench/methods.md`.

Differences from upstream: none known; the score is the logit, which orders images as the probability does but does not
round to 1.

Shapes in names: B images, C channels, H height, W width, D features of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.config.ranges import LearningRate, Probability, Rate
from ader.methods._base import (
    Batch,
    Count,
    Method,
    NonNegative,
    Optimize,
    Prediction,
    Share,
    Tags,
    TrainStage,
)
from ader.nets.backbone import BackboneOptions, Pretrained
from ader.nets.scoring.maps import full
from ader.system.errors import UserError


class WRNClassifier(Method):
    """Image labels, one logit, focal loss; no maps.

    It trains on all labeled images that the setting gives, those that it sets apart for SegAD's forest included.

    Args:
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: SGD's learning rate.
        momentum: SGD's.
        weight_decay: SGD's, of all weights.
        focal_gamma: focusing exponent of the focal loss; 0 is the cross-entropy.
        focal_alpha: weight of defective images in the loss, 1 - alpha that of normal ones; None weighs both 1.
        share: of the normal and of the defective training images that are used, drawn by the run's seed.
        backbone: a network of timm that takes images of any size.
    """

    tags: ClassVar[Tags] = Tags(
        maps=False,
        supervision="image",
        paper="Baitieva et al., CVPR 2024",
        reference="torchvision's network and focal loss",
    )

    def __init__(
        self,
        batch_size: Count = 4,
        epochs: Count = 100,
        lr: LearningRate = 0.025,
        momentum: Rate = 0.9,
        weight_decay: NonNegative = 0.0,
        focal_gamma: NonNegative = 2.0,
        focal_alpha: Probability | None = None,
        share: Share = 1.0,
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs, self.share = batch_size, epochs, share
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.focal_gamma, self.focal_alpha = focal_gamma, focal_alpha
        self.network = Pretrained(backbone, num_classes=0)
        if self.network.net.pretrained_cfg.get("fixed_input_size"):
            raise UserError(
                f"method.backbone.name={backbone.name!r} takes one size of images only: wrn_classifier needs a "
                "convolutional network"
            )
        self.head = nn.Linear(self.network.net.num_features, 1)

    def stages(self) -> Iterator[TrainStage]:
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        yield TrainStage(
            name="classify",
            batch_size=self.batch_size,
            split=("train", "forest"),
            share=self.share,
            step=self._step,
            optimizers={"network": optimizer},
            modules=[self.network, self.head],
            epochs=self.epochs,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        assert batch.label_B is not None  # the tags ask for it
        loss = focal_loss(self(batch.image_BCHW), batch.label_B, self.focal_gamma, self.focal_alpha)
        optimize(loss)
        return {"focal": loss}

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits (B,) of "defective", float32: half precision would make ties of scores."""
        feature_BD = full(self.network(image_BCHW))
        weighted_BD = feature_BD * self.head.weight[0]  # autocast would do a matrix product in half precision
        return weighted_BD.sum(dim=1) + self.head.bias

    def predict(self, image_BCHW: Tensor) -> Prediction:
        return Prediction(self(image_BCHW))


def focal_loss(logit_B: Tensor, label_B: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """Mean over images of -(1 - p)^gamma log p, p the probability of the true label (equations 4 and 5 of the paper).

    From logits throughout, so that no probability of 0 or 1 makes it or its gradient infinite: with m the logit
    towards the true label, -log p = softplus(-m) and 1 - p = exp(-softplus(m)).

    Args:
        logit_B: of "defective".
        label_B: 1 is defective, 0 normal.
        gamma: focusing exponent.
        alpha: weight of defective images, 1 - alpha of normal ones; None weighs both 1.
    """
    margin_B = torch.where(label_B > 0, logit_B, -logit_B)
    loss_B = torch.exp(-gamma * F.softplus(margin_B)) * F.softplus(-margin_B)
    if alpha is not None:
        loss_B = loss_B * torch.where(label_B > 0, alpha, 1 - alpha)
    return loss_B.mean()
