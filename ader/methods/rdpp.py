"""RD++: reverse distillation revisited, with projected features that forget pseudo-anomalies.

Paper: Tien et al., "Revisiting Reverse Distillation for Anomaly Detection", CVPR 2023 (RD++).
Upstream: tientrandinh/Revisiting-Reverse-Distillation at 7f2ceb7 (MIT) and its multi-class reproduction in
zhangzjn/ADer at 902937a (no license file). The default recipe is ADer's with all gradients counted; ``recipe=ader``
drops the half that its released code drops, ``recipe=official`` with ``setting=single_class`` is the authors' training.

`python -m parity rdpp rdpp_official` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`. Bottleneck, decoder and map are RD's (``ader.methods.rd``).

Differences from upstream:
- Both codes step at every second mini-batch. The official one steps with the sum of two gradients; here it is their
  mean, which Adam takes alike but for its epsilon. The official one counts anew in each epoch and keeps what is left of
  an odd one's gradient; here pairs go on over epochs. ADer steps at the first mini-batch, the third and so on, and
  clears the gradients before each backward pass, so that the others move nothing but running statistics:
  ``discard=true``, which spares their backward pass.
- Two optimizers are one here, with a learning rate for each part: Adam's arithmetic is per weight, and the norm that
  ADer clips is that of both together.
- The optimal transport between a batch's projections and the same batch shuffled is the divergence of a set from
  itself, which is 0, and so is its gradient (a test shows it); upstream spends 375 iterations of Sinkhorn's algorithm
  on it, three times a step. It is left out; ``transport=true`` computes it, over each process's own images.
- Clean and noisy images go through the projections as one batch.
- Every image has a noise of its own (``nets.synthesis.simplex``); upstream's is one field for a whole run, cut at its
  origin to random sizes. ADer makes noise for test images as well, and drops it.
- ADer's code wants a scheduler, but attaches it to an optimizer that is not in use: rates are constant, as officially.
- ADer and the official code resize with OpenCV, bilinearly and without antialiasing; here Pillow averages over the
  pixels that a smaller one covers.
- The official code trains for 10 to 300 epochs, chosen for each category, and keeps the epoch that is best on the test
  set; its recipe here has 200 (its choice for two categories), and the last epoch counts.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.config.ranges import Betas, Channels, LearningRate, Sigma
from ader.methods._base import (
    Batch,
    Count,
    NonNegative,
    Optimize,
    Positive,
    Share,
    Tags,
    TrainStage,
)
from ader.methods.rd import RD
from ader.nets.backbone import BackboneOptions
from ader.nets.optim.schedules import step_at
from ader.nets.scoring.maps import Border, flat_cosine_loss, full
from ader.nets.synthesis.draws import uniform
from ader.nets.synthesis.simplex import SimplexPatches
from ader.nets.transport import sinkhorn_divergence


class RDPP(RD):
    """Reverse distillation of projected features: a projection of the teacher's features learns to give the same for an
    image with a patch of simplex noise as for the clean one, and the student restores the teacher's from it (section 3
    of the paper).

    Args:
        batch_size: images per mini-batch.
        epochs: sweeps over the training images.
        lr: Adam's learning rate for bottleneck and decoder.
        projection_lr: for the projections.
        betas: Adam's averaging factors.
        lr_decay_at: share of the training after which the learning rates are multiplied by 0.1; 1: never.
        clip: largest gradient norm, of all parts together; None for no clipping.
        drop_last: leave out the incomplete batch at an epoch's end.
        accumulate: mini-batches of one update.
        discard: only the first of them has a gradient that counts, and it is the update.
        projection_weight: of the projections' loss, beside the distillation's.
        transport: compute the optimal transport term, whose value and gradient are 0.
        noise_strength: factor of the simplex noise, which is about [-1, 1].
        bottleneck_width: inner width per 64 channels of the one-class embedding: 64 in ADer, 128 officially.
        combine: how the scales' distances make one map.
        sigma: of the Gaussian that smooths the map, in pixels.
        border: what that Gaussian takes to be beyond the map's edge.
        backbone: a ResNet of timm.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Tien et al., CVPR 2023",
        reference="zhangzjn/ADer at 902937a, tientrandinh/Revisiting-Reverse-Distillation at 7f2ceb7",
    )

    def __init__(
        self,
        batch_size: Count = 16,
        epochs: Count = 100,
        lr: LearningRate = 0.005,
        projection_lr: LearningRate = 0.001,
        betas: Betas = (0.5, 0.999),
        lr_decay_at: Share = 1.0,
        clip: Positive | None = 5.0,
        drop_last: bool = True,
        accumulate: Count = 2,
        discard: bool = False,
        projection_weight: NonNegative = 0.2,
        transport: bool = False,
        noise_strength: Positive = 0.2,
        bottleneck_width: Channels = 64,
        combine: Literal["sum", "product"] = "sum",
        sigma: Sigma = 4.0,
        border: Border = "reflect",
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.racm_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(
            batch_size,
            epochs,
            lr,
            betas,
            lr_decay_at,
            clip,
            drop_last,
            bottleneck_width,
            combine,
            sigma,
            border,
            backbone,
        )
        self.projection_lr, self.projection_weight, self.transport = projection_lr, projection_weight, transport
        self.accumulate, self.discard = accumulate, discard
        self.projections = nn.ModuleList(map(_projection, self.teacher.channels))
        self.noise = SimplexPatches(noise_strength)
        self.turns = Turns(accumulate)

    def stages(self) -> Iterator[TrainStage]:
        distilled = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        groups = [
            {"params": distilled, "lr": self.lr},
            {"params": list(self.projections.parameters()), "lr": self.projection_lr},
        ]
        self.turns.taken = 0
        yield TrainStage(
            name="distil",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"student": torch.optim.Adam(groups, lr=self.lr, betas=self.betas)},
            modules=[self.projections, self.bottleneck, self.decoder, self.turns],
            epochs=self.epochs,
            schedules={"student": step_at(self.lr_decay_at)},
            clip=self.clip,
            drop_last=self.drop_last,
            accumulate=1 if self.discard else self.accumulate,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        counts = self.turns.next() or not self.discard
        with torch.set_grad_enabled(counts):  # one that does not count still moves running statistics
            losses = self.losses(batch.image_BCHW, self.noise(batch.image_BCHW, batch.seed_B), batch.seed_B)
        projection = losses["transport"] + 0.01 * losses["reconstruction"] + 0.1 * losses["contrast"]
        projection = projection / 1.11
        if counts:
            optimize(losses["cos"] + self.projection_weight * projection)
        return {"cos": losses["cos"], "projection": projection}

    def losses(self, image_BCHW: Tensor, noisy_BCHW: Tensor, seed_B: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, each a sum over scales: ``cos`` of the distillation, and ``transport``,
        ``reconstruction`` and ``contrast`` of the projections (equations 4 to 6 of the paper).

        Args:
            image_BCHW: RGB in [0, 1].
            noisy_BCHW: the same images with pseudo-anomalies.
            seed_B: decides how the batch is shuffled, where ``transport`` is computed.
        """
        teacher, noisy = self.teach(image_BCHW), self.teach(noisy_BCHW)  # apart: the clean ones may be remembered
        both = [torch.cat(pair) for pair in zip(teacher, noisy, strict=True)]
        projected = [project(feature) for project, feature in zip(self.projections, both, strict=True)]
        clean, cleaned = zip(*(feature.chunk(2) for feature in projected), strict=True)
        student = self.decoder(self.bottleneck(clean))
        transport = torch.zeros((), device=image_BCHW.device)
        if self.transport:
            order_B = uniform(seed_B, "rdpp/order").argsort().to(image_BCHW.device)
            transport = torch.stack([_transport(feature_BCHW, order_B) for feature_BCHW in clean]).sum()
        return {
            "cos": flat_cosine_loss(teacher, student),
            "transport": transport,
            "reconstruction": pixel_cosine_loss(cleaned, clean),
            "contrast": contrast_loss(noisy, clean),
        }

    def restore(self, teacher: Sequence[Tensor]) -> list[Tensor]:
        projected = [project(feature) for project, feature in zip(self.projections, teacher, strict=True)]
        return super().restore(projected)


class Turns(nn.Module):
    """Counts to ``every``, over and over. Its place is part of the state dict, so that training resumes in it."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.taken = every, 0

    def next(self) -> bool:
        """Counts on; whether a round has begun."""
        first = self.taken == 0
        self.taken = (self.taken + 1) % self.every
        return first

    def get_extra_state(self) -> int:
        return self.taken

    def set_extra_state(self, state: int) -> None:
        self.taken = state


def pixel_cosine_loss(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Sum over scales of the mean over images and pixels of 1 - cos, channels taken as vectors."""
    losses = [(1 - F.cosine_similarity(full(a), full(b), dim=1)).mean() for a, b in zip(first, second, strict=True)]
    return torch.stack(losses).sum()


def contrast_loss(first: Sequence[Tensor], second: Sequence[Tensor], margin: float = 0.5) -> Tensor:
    """Sum over scales of the mean over images of max(0, cos - margin), whole feature maps taken as vectors."""
    cosines = [
        F.cosine_similarity(full(a).flatten(1), full(b).flatten(1), dim=1) for a, b in zip(first, second, strict=True)
    ]
    return torch.stack([F.relu(cosine_B - margin).mean() for cosine_B in cosines]).sum()


def _transport(feature_BCHW: Tensor, order_B: Tensor) -> Tensor:
    """Between images as distributions over all their features' places, and the same images in another order."""
    share_BD = full(feature_BCHW).flatten(1).softmax(dim=1)
    return sinkhorn_divergence(share_BD, share_BD[order_B])


def _projection(channels: int) -> nn.Sequential:
    """Convolutions to a half, a quarter and a half of the channels, and back (section 3.1)."""
    layers: list[nn.Module] = []
    widths = [channels, channels // 2, channels // 4, channels // 2, channels]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.InstanceNorm2d(outputs), nn.LeakyReLU()]
    return nn.Sequential(*layers)
