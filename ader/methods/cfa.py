"""CFA: coupled-hypersphere-based feature adaptation.

Paper: Lee, Lee and Song, "CFA: Coupled-Hypersphere-Based Feature Adaptation for Target-Oriented Anomaly Localization",
IEEE Access 2022 (arXiv 2206.04325). Upstream: sungwool/CFA_for_anomaly_localization at 0708086 (no license file) and
its multi-class reproduction in zhangzjn/ADer at 902937a (no license file). The default recipe is ADer's;
``recipe=official`` with ``setting=single_class`` is the official code's.

`python -m parity cfa cfa_official` compares with both; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- The memory is the mean over all training images; both codes leave out the last, incomplete batch of an order drawn at
  random. Sums are float64.
- The memory is no parameter, and the convolution that both codes allocate and never use is left out.
- A patch's nearest centroids are found in blocks, once in a training step; both codes hold the distances to all of
  them, twice, and back-propagate through both. Gradients are the same: only the nearest have one. In training distances
  are expanded products as upstream, after the memory's mean is subtracted; in the map they are exact, so that none is
  below 0 (upstream: NaN).
- Official features are sums before the last ReLU of a stage, through a leaky one (``leaky=true``). ADer's are timm's,
  behind the ReLU, where its leaky ReLU does nothing.
- Images are never cropped; the official code cuts a center of 224 out of 256 pixels. It reports the best epoch by the
  test images; here the last counts.
- The memory is not compressed to fewer centroids by k-means (``gamma_c`` > 1 upstream, 1 in both recipes), nor is the
  descriptor narrower than the features (``gamma_d``).

Shapes in names: B images, C channels, H height, W width, Q patches of a batch, M centroids, D dimensions, K neighbors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from ader.config.ranges import Layers, LearningRate, NonNegative, Sigma, Window
from ader.methods._base import Batch, Count, FitPass, Method, Optimize, Positive, Prediction, Stage, Tags, TrainStage
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.optim.decay import decay_groups
from ader.nets.scoring.maps import GaussianBlur, full, full_precision, pooled_maximum, upsample
from ader.nets.scoring.neighbors import BLOCK, nearest
from ader.system import dist
from ader.system.errors import UserError


class CFA(Method):
    """A descriptor moves patch features into small spheres around the centroids of a fixed memory; a patch's distance
    to the nearest one is its score.

    Args:
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: AdamW's learning rate (amsgrad).
        weight_decay: of the same.
        decay_biases: whether it takes the bias and the radius, too.
        drop_last: leave out the incomplete batch at an epoch's end.
        num_neighbors: nearest centroids that attract a patch, and that weight its score (K).
        num_hard_negatives: next nearest ones, which repel it (J).
        nu: both losses are divided by it.
        margin: between attraction and repulsion, in squared distance (alpha).
        radius: of the spheres, at first; it is trained.
        leaky: features are a stage's sums before its last ReLU, through a leaky one; for ResNets.
        layers: timm ``out_indices`` of the backbone, finest first: 1, 2, 3 are a ResNet's layer1 to layer3.
        score_window: image score: largest mean over squares of so many pixels a side; 1 is the plain maximum.
        sigma: of the Gaussian that smooths the map, in pixels.
        backbone: any timm network with feature maps.
        image_size: pixels; the memory has a centroid for each pixel of the finest features.

    Raises:
        UserError: leaky features of another network than a ResNet; more neighbors than centroids.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Lee et al., IEEE Access 2022",
        reference="zhangzjn/ADer at 902937a, sungwool/CFA_for_anomaly_localization at 0708086",
    )

    def __init__(
        self,
        batch_size: Count = 4,
        epochs: Count = 100,
        lr: LearningRate = 1e-3,
        weight_decay: NonNegative = 5e-4,
        decay_biases: bool = False,
        drop_last: bool = True,
        num_neighbors: Count = 3,
        num_hard_negatives: Count = 3,
        nu: Positive = 1e-3,
        margin: NonNegative = 0.1,
        radius: Positive = 1e-5,
        leaky: bool = False,
        layers: Layers = (1, 2, 3),
        score_window: Window = 16,
        sigma: Sigma = 4.0,
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.racm_in1k"),  # noqa: B008 (frozen)
        image_size: Count = 256,
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs, self.drop_last = batch_size, epochs, drop_last
        self.lr, self.weight_decay, self.decay_biases = lr, weight_decay, decay_biases
        self.num_neighbors, self.num_hard_negatives = num_neighbors, num_hard_negatives
        self.nu, self.margin, self.score_window = nu, margin, score_window
        self.backbone = Backbone(backbone, layers)
        if leaky:
            leak(self.backbone, layers, backbone.name)
        dim, side = sum(self.backbone.channels), -(-image_size // self.backbone.strides[0])
        if num_neighbors + num_hard_negatives > side**2:
            raise UserError(
                f"method.num_neighbors={num_neighbors} and method.num_hard_negatives={num_hard_negatives} are more "
                f"than the {side**2} centroids of image_size={image_size}"
            )
        self.descriptor = nn.Conv2d(dim + 2, dim, 1)
        self.radius = nn.Parameter(torch.full((1,), radius))
        self.memory: Tensor  # (M, D); whoever predicts before it is fitted gets no number
        self.register_buffer("memory", torch.full((side**2, dim), torch.nan))
        self.blur = GaussianBlur(sigma)
        self._total, self._images = torch.empty(0), 0

    def stages(self) -> Iterator[Stage]:
        self._total, self._images = torch.zeros(self.memory.shape, dtype=torch.float64, device=self.memory.device), 0
        yield FitPass(name="memory", batch_size=self.batch_size, update=self._collect, finish=self._average)
        weights = [*self.descriptor.parameters(), self.radius]
        groups = decay_groups(weights, self.weight_decay, self.weight_decay if self.decay_biases else 0.0)
        yield TrainStage(
            name="adapt",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"descriptor": torch.optim.AdamW(groups, lr=self.lr, amsgrad=True)},
            modules=[self.descriptor],
            epochs=self.epochs,
            drop_last=self.drop_last,
        )

    def _collect(self, batch: Batch) -> None:
        self._total += self._describe(batch.image_BCHW).double().sum(dim=0)
        self._images += len(batch.image_BCHW)

    def _average(self) -> None:
        """Of each position the mean over all images of what the descriptor gives before it is trained."""
        images = sum(dist.gather_objects(self._images))
        self.memory.copy_(dist.total(self._total) / images)
        self._total = torch.empty(0)

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        """The soft boundary: a patch's K nearest centroids within the radius, the next J beyond it
        and a margin."""
        patch_QD = self._describe(batch.image_BCHW).flatten(0, 1)
        center_D = self.memory.mean(dim=0)  # distances do not change, and expanded ones round less
        count = self.num_neighbors + self.num_hard_negatives
        square_QK = smallest_squares(patch_QD - center_D, self.memory - center_D, count)
        near_QK, far_QK = torch.split(square_QK, [self.num_neighbors, self.num_hard_negatives], dim=1)
        attraction = F.relu(near_QK - self.radius**2).mean() / self.nu
        repulsion = F.relu(self.radius**2 - far_QK - self.margin).mean() / self.nu
        optimize(attraction + repulsion)
        return {"attraction": attraction, "repulsion": repulsion}

    def _describe(self, image_BCHW: Tensor) -> Tensor:
        """Descriptors (B, H * W, D), at least float32, of the pixels of the finest features."""
        feature_BCHW = self.features(image_BCHW)
        kept: Tensor = self.descriptor(feature_BCHW)
        return full(kept).flatten(2).transpose(1, 2)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """What the descriptor gets (B, C + 2, H, W): 3x3 means of all layers on the finest grid, and of each pixel its
        row and its column, from -1 to 1."""
        parts: list[Tensor] = []
        for feature_BCHW in self.backbone(image_BCHW):
            pooled_BCHW = F.avg_pool2d(feature_BCHW, 3, stride=1, padding=1)
            if parts:
                pooled_BCHW = F.interpolate(pooled_BCHW, parts[0].shape[2:], mode="bilinear", align_corners=False)
            parts.append(pooled_BCHW)
        count, _, height, width = parts[0].shape
        row_H1 = torch.linspace(-1, 1, height, dtype=parts[0].dtype, device=parts[0].device)[:, None]
        column_W = torch.linspace(-1, 1, width, dtype=parts[0].dtype, device=parts[0].device)
        return torch.cat([*parts, *(each.expand(count, 1, height, width) for each in (row_H1, column_W))], dim=1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Patch scores (B, H, W) on the finest grid: the distance to the nearest centroid, weighted by how much nearer
        it is than the next ones."""
        patch_BQD = self._describe(image_BCHW)
        square_QK, _ = nearest(patch_BQD.flatten(0, 1), self.memory, self.num_neighbors)
        distance_QK = square_QK.sqrt()
        score_Q = F.softmin(distance_QK, dim=1)[:, 0] * distance_QK[:, 0]
        height = -(-image_BCHW.shape[2] // self.backbone.strides[0])
        return score_Q.view(patch_BQD.shape[0], height, -1)

    def predict(self, image_BCHW: Tensor) -> Prediction:
        map_BHW = self.blur(upsample(self(image_BCHW), image_BCHW.shape[2:], align_corners=False))
        return Prediction(pooled_maximum(map_BHW, self.score_window), map_BHW)


class _SmallestSquares(torch.autograd.Function):
    """Of each patch the K smallest squared distances, without a matrix of all.

    What is back-propagated is 2 g (p - c) for each of the K nearest centroids c, which a bag of embeddings sums without
    ever gathering them.
    """

    @staticmethod
    def forward(ctx: Any, patch_QD: Tensor, memory_MD: Tensor, count: int) -> Tensor:
        square_M = memory_MD.square().sum(dim=1)
        found = []
        with full_precision(patch_QD.device):
            for part_QD in torch.split(patch_QD, max(1, BLOCK // len(memory_MD))):
                # a patch's own norm is the same for all centroids: it is added behind the choice
                value_QM = torch.addmm(square_M, part_QD, memory_MD.T, alpha=-2)
                found.append(value_QM.topk(count, dim=1, largest=False))
        index_QK = torch.cat([part.indices for part in found])
        ctx.save_for_backward(patch_QD, memory_MD, index_QK)
        return torch.cat([part.values for part in found]) + patch_QD.square().sum(dim=1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        patch_QD, memory_MD, index_QK = ctx.saved_tensors
        (gradient_QK,) = gradients
        pull_QD = F.embedding_bag(index_QK, memory_MD, per_sample_weights=gradient_QK, mode="sum")
        return 2 * (gradient_QK.sum(dim=1, keepdim=True) * patch_QD - pull_QD), None, None


def smallest_squares(patch_QD: Tensor, memory_MD: Tensor, count: int) -> Tensor:
    """Squared distances (Q, K), ascending, of each patch to its ``count`` nearest centroids, by expanded products; with
    gradients of the patches.

    Args:
        patch_QD, memory_MD: at least float32.
        count: K, at most M.
    """
    found: Tensor = _SmallestSquares.apply(patch_QD, memory_MD, count)  # type: ignore[no-untyped-call]
    return found


def leak(backbone: Backbone, layers: Sequence[int], name: str) -> None:
    """Makes a ResNet's feature maps leaky ReLUs (slope 0.01) of a stage's last sums. Later stages see what they saw:
    the ReLU of a leaky ReLU is the ReLU.

    Raises:
        UserError: it is no plain ResNet, or its stem is among the layers.
    """
    stages: list[Any] = [getattr(backbone.net, f"layer{number}", None) for number in range(1, max(layers) + 1)]
    known = all(stage is not None and isinstance(stage[-1], (BasicBlock, Bottleneck)) for stage in stages)
    if not known or 0 in layers:
        raise UserError(f"method.leaky=true needs layers 1 to 4 of a plain ResNet, and not {name}: set it to false")
    for number, stage in enumerate(stages, 1):
        if number in layers:
            setattr(stage[-1], "act2" if isinstance(stage[-1], BasicBlock) else "act3", nn.LeakyReLU(0.01))
            if number < len(stages):
                stages[number].register_forward_pre_hook(_rectified)


def _rectified(stage: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(F.relu(each) for each in inputs)
