"""CFLOW-AD: conditional normalizing flows on the vectors of multi-scale features.

Paper: Gudovskiy, Ishizaka and Kozuka, "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization via
Conditional Normalizing Flows", WACV 2022.
Upstream: gudovskiy/cflow-ad at b2ebf9e (BSD-3-Clause; flows from FrEIA) and zhangzjn/ADer at 902937a (no license file).
The default recipe is ADer's. ``recipe=official`` with ``setting=single_class`` gives the official one, but for the
choice of the best epoch on the test set, resizing by Lanczos' filter, and an input size for each category.

`python -m parity cflow cflow_official` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- The offset of each scale, which is subtracted from its log-likelihoods before exp, is their maximum over the training
  images, fitted by a pass at the end. Both codes take the maximum over the test set, with which the score of an image
  depends on the other test images. The offsets decide how much a scale weighs in the sum. Measured with one trained
  model (ResNet-18 with random weights, 128x128, 5 epochs on 96 images of two industrial categories, 130 test images;
  both offsets applied to the same likelihoods): maxima 2.017, 0.686, -0.637 of the training images and 2.041, 0.689,
  -0.638 of the test images; pixel AUROC 58.82 against 58.79 %, image AUROC 47.96 against 48.07 %, at most 0.06 and 0.2
  points in a category. Not yet measured with pretrained weights and full training.
- For the same reason the sum of the scales is subtracted from their number instead of from its maximum over the test
  set: a constant, which no metric sees. Places more likely than all training images can bring a map below 0.
- One optimizer for each flow. Both codes have one for all and step it for each flow in turn: gradients that are None
  leave the other flows alone, as here, since PyTorch 2.0; with the older ones for which the official code was written
  they are zeros, and Adam moves the other flows by their momentum.
- A batch with fewer vectors than ``fibers`` at a scale takes one update with all of them; ADer's takes none, the
  official code stops. Several processes make one's updates, each with those of its vectors that lie in its images.
- Training images are rotated on the device, by angles that depend on the image's seed; the order of a batch's vectors
  depends on the step's.
- Rotations of the flows come from torch's generator: another draw than scipy's, from the same distribution.
- A training with no more meta-epochs than the warm-up takes warms up in all but the last.

Shapes in names: B images, C channels, H height, W width, S positions (H * W), E vectors of a batch (B * S), N vectors
of an update, P numbers of a positional code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.config.ranges import Betas, Depth, Layers, LearningRate, Natural, Width, Window
from ader.methods._base import (
    Batch,
    Count,
    FitPass,
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
from ader.nets.flows import CouplingBlock, Flow, log_likelihood
from ader.nets.optim.schedules import Schedule
from ader.nets.scoring.maps import pooled_maximum, upsample
from ader.nets.state.late_tensor import LateTensor
from ader.nets.state.rows import Rows
from ader.nets.synthesis.draws import uniform
from ader.nets.synthesis.geometry import rotate
from ader.system.errors import UserError


class CFlow(Method):
    """One conditional flow for each scale of a frozen encoder; a feature vector of low likelihood is an anomaly.

    Args:
        batch_size: images per batch, each of which gives many updates.
        epochs: sweeps over the training images.
        lr: Adam's learning rate.
        betas: Adam's averaging factors.
        fibers: feature vectors per update (N), over all processes.
        sub_epochs: epochs of a meta-epoch, for the length of which the learning rate stays.
        warmup_meta_epochs: meta-epochs of linearly rising learning rate; at most all but the last one.
        lr_warmup_factor: factor of the learning rate at the beginning.
        lr_final_factor: factor to which the cosine falls.
        rotation: training images are rotated by up to so many degrees.
        coupling_blocks: of each flow.
        condition_dim: numbers of the positional code, a multiple of 4.
        clamp_alpha: bound of the log-scale of a coupling.
        score_window: the image score is the largest mean of the map over a square of so many pixels; 1: its maximum.
        layers: timm ``out_indices`` of the encoder: 2, 3 and 4 are a ResNet's layer2, layer3 and layer4.
        padding: of the encoder's convolutions; ``"reflect"`` is the official code's, for weights trained with zeros.
        backbone: the encoder, any timm network with feature maps.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Gudovskiy et al., WACV 2022", reference="zhangzjn/ADer at 902937a, gudovskiy/cflow-ad at b2ebf9e"
    )

    def __init__(
        self,
        batch_size: Count = 32,
        epochs: Count = 100,
        lr: LearningRate = 2e-4,
        betas: Betas = (0.9, 0.999),
        fibers: Count = 256,
        sub_epochs: Count = 10,
        warmup_meta_epochs: Natural = 2,
        lr_warmup_factor: Share = 0.1,
        lr_final_factor: Share = 0.001,
        rotation: NonNegative = 5.0,
        coupling_blocks: Depth = 8,
        condition_dim: Width = 128,
        clamp_alpha: Positive = 1.9,
        score_window: Window = 16,
        layers: Layers = (2, 3, 4),
        padding: Literal["zeros", "reflect"] = "zeros",
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.racm_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs, self.lr, self.betas, self.fibers = batch_size, epochs, lr, betas, fibers
        self.schedule = meta_cosine(epochs / sub_epochs, warmup_meta_epochs, lr_warmup_factor, lr_final_factor)
        self.rotation, self.condition_dim = rotation, condition_dim
        self.score_window, self.padding = score_window, padding
        self.backbone = Backbone(backbone, layers)
        for part in self.backbone.modules():
            if isinstance(part, nn.Conv2d) and padding == "reflect":
                part.padding_mode = "reflect"
        self.names = [f"layer{layer}" for layer in layers]
        self.flows = nn.ModuleList(
            Flow(CouplingBlock(channels, condition_dim, clamp_alpha) for _ in range(coupling_blocks))
            for channels in self.backbone.channels
        )
        self.codes = PositionalCodes(condition_dim)
        self.offset = LateTensor()
        self.rows = Rows()

    def stages(self) -> Iterator[TrainStage | FitPass]:
        optimizers = {}
        for name, flow in zip(self.names, self.flows, strict=True):
            weights = list(flow.parameters())
            fused = weights[0].device.type in ("cpu", "cuda")  # one kernel in place of dozens for every update
            # One optimizer for each flow: an update of one must not move the others by their momentum.
            optimizers[name] = torch.optim.Adam(weights, lr=self.lr, betas=self.betas, fused=fused)
        yield TrainStage(
            name="flow",
            batch_size=self.batch_size,
            step=self._step,
            optimizers=optimizers,
            modules=[self.flows],
            epochs=self.epochs,
            schedules=dict.fromkeys(self.names, self.schedule),
        )
        self.rows.clear()
        yield FitPass(name="offset", batch_size=self.batch_size, update=self._compare, finish=self._finish)

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        image_BCHW = batch.image_BCHW
        if self.rotation:
            degrees_B = self.rotation * (2 * uniform(batch.seed_B, "cflow/rotation") - 1)
            image_BCHW = rotate(image_BCHW, degrees_B)
        losses = {}
        for name, flow, feature_BCHW in zip(self.names, self.flows, self._features(image_BCHW), strict=True):
            vector_EC, code_SP = as_vectors(feature_BCHW), self.codes(feature_BCHW)
            updates = division(batch, len(code_SP), self.fibers, f"cflow/{name}", vector_EC.device)
            values = []
            for place_N, size in updates:
                vector_NC, code_NP = vector_EC[place_N], code_SP[place_N % len(code_SP)]
                likelihood_N = likelihood_per_dimension(flow, vector_NC, code_NP)
                # the mean over the update's vectors, of which another process's may be more than its images' share
                loss = -F.logsigmoid(likelihood_N).sum() / (size * batch.share)
                optimize(loss, name)
                values.append(loss.detach())
            losses[name] = torch.stack(values).mean()
        return losses

    def _features(self, image_BCHW: Tensor) -> list[Tensor]:
        """The encoder's maps.

        Raises:
            UserError: the image is too small for them, or for reflecting them at their borders.
        """
        least = self.backbone.strides[-1] * (1 if self.padding == "zeros" else 2)
        if min(image_BCHW.shape[2:]) < least:
            raise UserError(f"image_size={min(image_BCHW.shape[2:])} is too small for cflow: give at least {least}")
        features: list[Tensor] = self.backbone(image_BCHW)
        return features

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Log-likelihood per dimension (B, H_k, W_k) of each scale's vectors."""
        maps = []
        for flow, feature_BCHW in zip(self.flows, self._features(image_BCHW), strict=True):
            batch, _, height, width = feature_BCHW.shape
            code_EP = self.codes(feature_BCHW).repeat(batch, 1)
            value_E = likelihood_per_dimension(flow, as_vectors(feature_BCHW), code_EP)
            maps.append(value_E.view(batch, height, width))
        return maps

    def _compare(self, batch: Batch) -> None:
        self.rows.add(torch.stack([value_BHW.amax() for value_BHW in self(batch.image_BCHW)])[None])

    def _finish(self) -> None:
        """Keeps each scale's largest likelihood."""
        self.offset.value = self.rows.gathered().amax(dim=0)
        self.rows.clear()

    def predict(self, image_BCHW: Tensor) -> Prediction:
        pairs = zip(self(image_BCHW), self.offset.get(), strict=True)
        normal = [upsample((value - top).exp(), image_BCHW.shape[2:], align_corners=True) for value, top in pairs]
        map_BHW = len(self.names) - torch.stack(normal).sum(dim=0)
        return Prediction(pooled_maximum(map_BHW, self.score_window), map_BHW)


def likelihood_per_dimension(flow: nn.Module, vector_NC: Tensor, code_NP: Tensor) -> Tensor:
    """log p(x | position) / C of feature vectors, (N,)."""
    latent_NC, log_determinant_N = flow(vector_NC, code_NP)
    return log_likelihood(latent_NC, log_determinant_N) / vector_NC.shape[1]


def as_vectors(feature_BCHW: Tensor) -> Tensor:
    """Feature vectors (E, C), row by row and image by image."""
    return feature_BCHW.permute(0, 2, 3, 1).flatten(0, 2)


def division(batch: Batch, positions: int, fibers: int, purpose: str, device: torch.device) -> list[tuple[Tensor, int]]:
    """The updates that a batch gives: vectors of all its images in random order, ``fibers`` at a time.

    Vectors that do not fill another update are left out; one update takes all where there are fewer than ``fibers``.
    All processes draw the same order of the vectors of the whole step.

    Args:
        batch: of this process.
        positions: vectors of an image.
        fibers: vectors of an update, over all processes.
        purpose: other orders for other purposes.
        device: of the vectors.

    Returns:
        For each update the places (N,) of those of its vectors that this process has, among its own, and the number of
        vectors over all processes. A process may have none.
    """
    images = len(batch.image_BCHW)
    total = (batch.total or images) * positions
    size = min(fibers, total)
    seed_1 = torch.tensor([batch.step_seed]).to(device, non_blocking=True)
    order_E = uniform(seed_1, purpose, total)[0].argsort(stable=True)[: total // size * size]
    if batch.share == 1:
        return [(place_N, size) for place_N in torch.split(order_E, size)]
    place_E = order_E - batch.first * positions
    own_E = (place_E >= 0) & (place_E < images * positions)
    counts = own_E.view(-1, size).sum(dim=1).tolist()
    return [(place_N, size) for place_N in torch.split(place_E[own_E], counts)]


def meta_cosine(length: float, warmup: int, start: float, final: float) -> Schedule:
    """Half a cosine from 1 to ``final`` in steps of a meta-epoch, after a linear rise to where it then stands.

    Args:
        length: of the stage, in meta-epochs; it may end within one.
        warmup: meta-epochs of the rise, at most all but the last.
        start: factor at its beginning.
        final: factor after the last meta-epoch.
    """
    meta_epochs = math.ceil(length)
    warmup = min(warmup, meta_epochs - 1)

    def stair(meta_epoch: int) -> float:
        return final + (1 - final) * (1 + math.cos(math.pi * meta_epoch / meta_epochs)) / 2

    def factor(progress: float) -> float:
        passed = progress * length + 1e-9  # a meta-epoch begins where rounding would leave it a step behind
        if passed < warmup:
            return start + (stair(warmup) - start) * progress * length / warmup
        return stair(int(passed))

    return factor


class PositionalCodes(nn.Module):
    """Sines and cosines of a position's column and row (section 4.2), made once for each size of map.

    Args:
        numbers: P, a multiple of 4: half of them for the column, half for the row.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        if numbers % 4:
            raise UserError(
                f"method.condition_dim={numbers} must be a multiple of 4: sines and cosines for rows, columns"
            )
        self.numbers = numbers
        self._made: dict[tuple[int, int, torch.device], Tensor] = {}

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Codes (S, P) of a map's positions, row by row, float32."""
        height, width = feature_BCHW.shape[2:]
        key = (height, width, feature_BCHW.device)
        if key not in self._made:
            row_SP = self._waves(torch.arange(height).repeat_interleave(width))
            column_SP = self._waves(torch.arange(width).repeat(height))
            self._made[key] = torch.cat([column_SP, row_SP], dim=1).to(feature_BCHW.device)
        return self._made[key]

    def _waves(self, place_S: Tensor) -> Tensor:
        """Sine and cosine, alternating, of falling frequencies (S, P / 2)."""
        half = self.numbers // 2
        frequency_F = torch.pow(10000.0, -torch.arange(0, half, 2, dtype=torch.float64) / half)
        phase_SF = place_S[:, None] * frequency_F
        return torch.stack([phase_SF.sin(), phase_SF.cos()], dim=2).flatten(1).float()
