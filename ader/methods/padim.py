"""PaDiM: one Gaussian of patch features for each position of the image.

Paper: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization", ICPR 2020
workshops (arXiv 2011.08785). Its authors published no code. References: xiahaifeng1995/PaDiM-Anomaly-Detection-
Localization-master at 616004b (Apache-2.0), on which later benchmarks rest, and openvinotoolkit/anomalib at 161bb36
(Apache-2.0). The default is PaDiM-R18-Rd100 at 256 pixels, ``recipe=paper`` the paper's largest (WR50-Rd550 at 224),
``recipe=anomalib`` anomalib's.

`python -m parity padim padim_anomalib` compares with both; differences, parameters and operations:
`results/bench/methods.md`.

Differences from the references:
- Nothing is kept of an image: mean and scatter are updated batch by batch in float64, where both references hold the
  features of all training images. The Gaussian is that of all images at once, but for rounding, and the memory does not
  depend on their number: 0.31 GiB at the default, 9.2 GiB under WR50-Rd550 at 256 pixels.
- A covariance is factored (Cholesky, float64) and the inverse of its factor kept, in float32, with which a distance is
  the length of a vector; the references invert the covariance in float32, and anomalib clamps squares below 0. Of the
  factor the state holds the lower half: 0.08 GiB at the default, 2.3 GiB under WR50-Rd550 at 256 pixels.
- Layers are brought to the finest grid by repeating pixels, as in both; only the chosen channels are.
- The chosen channels are those of the reference, which draws them with Python's generator from seed 1024, in ascending
  order, which no distance sees. anomalib draws them from an unseeded stream: ``channel_seed=null`` takes the run's.
- Of a single image the scatter is 0, and the covariance the regularization alone; the references end in NaN.
- Images are never cropped; the paper and the reference cut a center of 224 out of 256 pixels.
- The references scale maps by the extremes of all test images, which no metric sees.
- anomalib names no weights: timm's default for it is another set; its recipe here has torchvision's, as the reference.

Shapes in names: B images, C channels, H height, W width, P positions, D dimensions, R rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.config.ranges import Layers, Positive, Seed, Sigma, Width
from ader.methods._base import Batch, Count, FitPass, Method, Prediction, Tags
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.scoring.maps import Border, GaussianBlur, full_precision, upsample
from ader.nets.state.late_tensor import LateTensor
from ader.system import dist
from ader.system.errors import UserError

#: Elements of a block of scatter matrices (float64: 256 MB): work on one after another needs no second copy of all.
BLOCK = 2**25


class PaDiM(Method):
    """The map is the Mahalanobis distance of a patch feature to its position's Gaussian (equation 2 of the paper).

    Args:
        batch_size: images per step of the pass; no effect on the result.
        embed_dim: channels kept at random (section III-A); None: all.
        channel_seed: decides which; None: the run's seed does.
        layers: timm ``out_indices`` of the backbone, finest first: 1, 2, 3 are a ResNet's layer1 to layer3.
        regularization: added to the variances (equation 1).
        sigma: of the Gaussian that smooths the map, in pixels.
        border: what that Gaussian takes to be beyond the map's edge.
        backbone: any timm network with feature maps.

    Raises:
        UserError: more channels are to be kept than there are.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Defard et al., ICPR 2020",
        reference="xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master at 616004b, "
        "openvinotoolkit/anomalib at 161bb36",
    )

    def __init__(
        self,
        batch_size: Count = 32,
        embed_dim: Width | None = 100,
        channel_seed: Seed | None = 1024,
        layers: Layers = (1, 2, 3),
        regularization: Positive = 0.01,
        sigma: Sigma = 4.0,
        border: Border = "reflect",
        backbone: BackboneOptions = BackboneOptions("resnet18.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.regularization = batch_size, regularization
        self.backbone = Backbone(backbone, layers)
        total = sum(self.backbone.channels)
        if embed_dim is not None and embed_dim > total:
            raise UserError(f"method.embed_dim={embed_dim} is more than the {total} channels of the backbone's layers")
        chosen = _draw(total, embed_dim or total, channel_seed)
        self.channels = nn.ModuleList()  # of each layer those that are kept: state, since a seed may have drawn them
        for count in self.backbone.channels:
            kept = LateTensor()
            kept.value = torch.tensor([number for number in chosen if 0 <= number < count])
            self.channels.append(kept)
            chosen = [number - count for number in chosen]
        self.mean = LateTensor()
        self.whitening = LowerTriangles()
        self.blur = GaussianBlur(sigma, border)
        self.moments = Moments()

    def stages(self) -> Iterator[FitPass]:
        self.moments = Moments()
        yield FitPass(name="gaussians", batch_size=self.batch_size, update=self._collect, finish=self._finish)

    def _collect(self, batch: Batch) -> None:
        vector_BHWD = self(batch.image_BCHW)
        self.moments.add(vector_BHWD.flatten(1, 2).transpose(0, 1), vector_BHWD.shape[1])

    def _finish(self) -> None:
        """Mean and whitening of each position: of the covariance S (equation 1) the inverse of its Cholesky factor L,
        with which (x - m)' S^-1 (x - m) is the squared norm of L^-1 (x - m)."""
        moments, self.moments = self.moments, Moments()
        moments.merge(self.mean.anchor.device)
        mean_PD = moments.mean_PD
        precision = torch.promote_types(next(self.backbone.parameters()).dtype, torch.float32)
        positions, dim = mean_PD.shape
        whitening_PDD = mean_PD.new_empty((positions, dim, dim), dtype=precision)
        identity_DD = torch.eye(dim, dtype=mean_PD.dtype, device=mean_PD.device)
        start = 0
        while moments.scatter:  # each block makes room before the next is factored
            covariance_PDD = moments.scatter.pop(0).div_(max(1, moments.count - 1))
            covariance_PDD.diagonal(dim1=1, dim2=2).add_(self.regularization)
            factor_PDD = torch.linalg.cholesky(covariance_PDD)
            stop = start + len(factor_PDD)
            whitening_PDD[start:stop] = torch.linalg.solve_triangular(factor_PDD, identity_DD, upper=False)
            start = stop
        self.mean.value = mean_PD.to(precision).view(moments.rows, -1, dim)
        self.whitening.value = whitening_PDD

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """The chosen channels (B, H, W, D) of all layers on the grid of the finest one."""
        features = self.backbone(image_BCHW)
        size, parts = features[0].shape[2:], []
        for feature_BCHW, kept in zip(features, self.channels, strict=True):
            channels_D = kept.get()  # type: ignore[operator]
            if len(channels_D):
                part_BDHW = feature_BCHW.index_select(1, channels_D)
                parts.append(F.interpolate(part_BDHW, size=size, mode="nearest"))
        return torch.cat(parts, dim=1).permute(0, 2, 3, 1)

    def predict(self, image_BCHW: Tensor) -> Prediction:
        """As ``Method.predict``.

        Raises:
            UserError: images of another size than those of training: each position has its own Gaussian.
        """
        vector_BHWD, mean_HWD = self(image_BCHW), self.mean.get()
        rows, columns = mean_HWD.shape[:2]
        if vector_BHWD.shape[1:3] != (rows, columns):
            raise UserError(
                f"padim has a Gaussian for each of {rows} x {columns} positions, and images of {image_BCHW.shape[2]} x "
                f"{image_BCHW.shape[3]} pixels have {vector_BHWD.shape[1]} x {vector_BHWD.shape[2]}: give images of "
                "the training's size"
            )
        with full_precision(image_BCHW.device):
            offset_BPD = (vector_BHWD.to(mean_HWD.dtype) - mean_HWD).flatten(1, 2)
            white_PBD = offset_BPD.transpose(0, 1) @ self.whitening.get().mT
            distance_BP = white_PBD.square().sum(dim=2).sqrt().T
            map_BHW = upsample(distance_BP.unflatten(1, (rows, columns)), image_BCHW.shape[2:], align_corners=False)
        map_BHW = self.blur(map_BHW)
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def _draw(total: int, count: int, seed: int | None) -> list[int]:
    """``count`` of the numbers below ``total``, ascending: with a seed those that the reference draws with it."""
    if seed is not None:
        return sorted(random.Random(seed).sample(range(total), count))
    return sorted(torch.randperm(total, device="cpu")[:count].tolist())


class Moments:
    """Count, mean and scatter (sum of outer products of differences from the mean) of the vectors at each position, in
    float64, of images that are seen once and not kept.

    A batch is merged by the formula of Chan, Golub and LeVeque (1979), in one product: its own differences are rows,
    and the step between the means is one more, so weighted that its outer product is what the merger adds. Nothing is
    ever subtracted from a scatter, which stays positive semi-definite.

    Attributes:
        count: images.
        rows: of the grid of positions.
        mean_PD: of each position.
        scatter: (p, D, D) of all positions, in blocks.
    """

    def __init__(self) -> None:
        self.count, self.rows = 0, 0
        self.mean_PD = torch.empty(0, 0, dtype=torch.float64)
        self.scatter: list[Tensor] = []

    def add(self, vector_PBD: Tensor, rows: int) -> None:
        """Takes the vectors of a batch of images.

        Args:
            vector_PBD: of any precision.
            rows: of the grid of positions.
        """
        vector_PBD = vector_PBD.double()
        positions, images, dim = vector_PBD.shape
        if not self.scatter:
            self._begin(rows, positions, dim, vector_PBD.device)
        before, self.count = self.count, self.count + images
        center_PD = vector_PBD.mean(dim=1)
        step_PD = center_PD - self.mean_PD
        weighted_PD = step_PD * math.sqrt(images * before / self.count)
        row_PRD = torch.cat([vector_PBD - center_PD[:, None], weighted_PD[:, None]], dim=1)
        self.mean_PD += step_PD * (images / self.count)
        self._add_products(row_PRD)

    def merge(self, device: torch.device) -> None:
        """Makes them those of all processes, of which some may have had no image. A collective call.

        Args:
            device: of this process.
        """
        if dist.world() == 1:
            return
        shapes = dist.gather_objects((self.count, self.rows, tuple(self.mean_PD.shape)))
        images, (_, rows, (positions, dim)) = sum(count for count, *_ in shapes), max(shapes)
        if not self.scatter:
            self._begin(rows, positions, dim, device)
        own_PD, own = self.mean_PD, self.count
        self.mean_PD = dist.total(own_PD * (own / images))
        self._add_products(((own_PD - self.mean_PD) * math.sqrt(own))[:, None])
        self.scatter = [dist.total(block) for block in self.scatter]
        self.count = images

    def _begin(self, rows: int, positions: int, dim: int, device: torch.device) -> None:
        self.rows = rows
        self.mean_PD = torch.zeros(positions, dim, dtype=torch.float64, device=device)
        most = max(1, BLOCK // dim**2)
        counts = [min(most, positions - start) for start in range(0, positions, most)]
        self.scatter = [self.mean_PD.new_zeros(count, dim, dim) for count in counts]

    def _add_products(self, row_PRD: Tensor) -> None:
        parts = torch.split(row_PRD, [len(block) for block in self.scatter])
        for block_PDD, part_PRD in zip(self.scatter, parts, strict=True):
            block_PDD.baddbmm_(part_PRD.mT, part_PRD)


class LowerTriangles(LateTensor):
    """Lower triangular matrices (P, D, D), of which the state dict has the lower half (P, D (D + 1) / 2) alone."""

    def get_extra_state(self) -> Tensor | None:
        if self.value is None:
            return None
        dim = self.value.shape[1]
        row, column = torch.tril_indices(dim, dim, device=self.value.device)
        return self.value[:, row, column]

    def set_extra_state(self, state: Tensor | None) -> None:
        if state is not None:
            half = state.to(self.anchor.device)
            dim = (math.isqrt(8 * half.shape[1] + 1) - 1) // 2
            row, column = torch.tril_indices(dim, dim, device=half.device)
            state = half.new_zeros(len(half), dim, dim)
            state[:, row, column] = half
        self.value = state
