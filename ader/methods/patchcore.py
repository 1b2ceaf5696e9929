"""PatchCore: nearest neighbors in a coreset of locally aggregated patch features.

Paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
Upstream: amazon-science/patchcore-inspection at fcaa92f (Apache-2.0) and zhangzjn/ADer at 902937a (no license file).
The default recipe is ADer's, its probe of the backbone apart; ``recipe=ader`` has that, ``recipe=official`` is the
official baseline (IM224) without its crop.

`python -m parity patchcore` compares with upstream; differences, parameters and operations: `results/bench/methods.md`.

Differences from upstream:
- Both codes learn the backbone's channels from an image of ones, sent through it in training mode: its batch norms'
  pretrained statistics move a tenth of the way. ``probe_size`` repeats that; the default leaves them alone.
- All training images are used; ADer's loader drops the last incomplete batch.
- Patch features come from their closed form (``nets/scoring/patches.py``); upstream unfolds 9 copies and pools them.
- The greedy choice is exact but batched (``nets/scoring/neighbors.py``); upstream walks over all points each time.
- Distances are computed by blocked matrix products and ranked again exactly; upstream asks FAISS (``IndexFlatL2``).
  As there, scores are squared distances; the paper's re-weighting of the image score is not in upstream's code.
- The random projection and the starting points come from torch's generator: another draw than upstream's, from the
  same distributions.

Shapes in names: B images, C channels, H height, W width, N patches, M bank items, Q queries, D dimensions, P
projected dimensions, K neighbors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ader.methods._base import Batch, Count, FitPass, Method, Positive, Prediction, Share, Tags
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.scoring.maps import GaussianBlur, upsample
from ader.nets.scoring.neighbors import greedy_coreset, nearest, squared_distances
from ader.nets.scoring.patches import PatchFeatures, probe_in_training_mode
from ader.nets.state.late_tensor import LateTensor
from ader.nets.state.rows import Rows


class PatchCore(Method):
    """Memory bank of normal patch features; a patch's score is its distance to the nearest one.

    Args:
        batch_size: images per step of the pass; no effect on the result.
        coreset: share of all patches kept in the bank, in (0, 1]; 1 keeps all.
        projection_dim: dimensions of the random projection in which the coreset is chosen.
        num_starting_points: random points whose mean distance decides the first choice.
        embed_dim: dimensions of a patch feature, after pooling over both layers.
        layers: timm ``out_indices`` of the backbone, finest first: 2 and 3 are a ResNet's layer2 and layer3.
        num_neighbors: bank items whose distances are averaged.
        image_score: ``"map"``, the maximum of the smoothed map (ADer), or ``"patch"``, the largest patch score.
        sigma: of the Gaussian that smooths the map, in pixels.
        probe_size: pixels of the image of ones that goes through the backbone in training mode before all else, as
            upstream's codes have it by mistake; None leaves the pretrained statistics as they are.
        backbone: any timm network with feature maps.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Roth et al., CVPR 2022", reference="amazon-science/patchcore-inspection at fcaa92f"
    )

    def __init__(
        self,
        batch_size: Count = 8,
        coreset: Share = 0.1,
        projection_dim: Count = 128,
        num_starting_points: Count = 10,
        embed_dim: Count = 1024,
        layers: tuple[int, ...] = (2, 3),
        num_neighbors: Count = 1,
        image_score: Literal["map", "patch"] = "map",
        sigma: Positive = 4.0,
        probe_size: Count | None = None,
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.coreset = batch_size, coreset
        self.projection_dim, self.num_starting_points = projection_dim, num_starting_points
        self.embed_dim, self.num_neighbors, self.image_score = embed_dim, num_neighbors, image_score
        self.backbone = Backbone(backbone, layers)
        if probe_size is not None:
            probe_in_training_mode(self.backbone, probe_size)
        self.patches = PatchFeatures(self.backbone.channels, embed_dim)
        self.bank = LateTensor()
        self.blur = GaussianBlur(sigma)
        self.rows = Rows()

    def stages(self) -> Iterator[FitPass]:
        self.rows.clear()
        yield FitPass(name="bank", batch_size=self.batch_size, update=self._collect, finish=self._reduce)

    def _collect(self, batch: Batch) -> None:
        self.rows.add(self(batch.image_BCHW).flatten(0, 2).float())

    def _reduce(self) -> None:
        """Keeps the coreset, in the order of the images. All patches are never copied into one tensor: they are
        what limits the size of the data (15 GB for MVTec AD)."""
        if self.coreset == 1:
            self.bank.value = self.rows.gathered()
        else:
            mapper = nn.Linear(self.embed_dim, self.projection_dim, bias=False)  # upstream's draw, with its scale
            weight_DP = mapper.weight.detach().T.to(self.bank.anchor.device)
            chosen = self._choose(self.rows.map(lambda patch_ND: patch_ND @ weight_DP).gathered())
            self.bank.value = self.rows.gathered(chosen.sort().values)
        self.rows.clear()

    def _choose(self, point_NP: Tensor) -> Tensor:
        """Approximate greedy coreset (section 3.2) of projected patches, started from random points."""
        count = max(1, int(len(point_NP) * self.coreset))
        start = torch.randperm(len(point_NP))[: self.num_starting_points].to(point_NP.device)
        mean_N = squared_distances(point_NP, point_NP[start]).sqrt().mean(dim=1)
        return greedy_coreset(point_NP, count, first_N=mean_N.square())

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Patch features (B, H, W, D) on the grid of the finest layer."""
        patch_BHWD: Tensor = self.patches(self.backbone(image_BCHW)).permute(0, 2, 3, 1)
        return patch_BHWD

    def predict(self, image_BCHW: Tensor) -> Prediction:
        patch_BHWD = self(image_BCHW).float()
        distance_QK, _ = nearest(patch_BHWD.flatten(0, 2), self.bank.get(), self.num_neighbors)
        patch_BHW = distance_QK.mean(dim=1).view(patch_BHWD.shape[:3])
        map_BHW = self.blur(upsample(patch_BHW, image_BCHW.shape[2:], align_corners=False))
        scored_BHW = map_BHW if self.image_score == "map" else patch_BHW
        return Prediction(scored_BHW.amax(dim=(1, 2)), map_BHW)
