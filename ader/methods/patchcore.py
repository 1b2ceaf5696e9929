"""PatchCore: nearest neighbors in a coreset of locally aggregated patch features.

Paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
Upstream: amazon-science/patchcore-inspection at fcaa92f (Apache-2.0), zhangzjn/ADer at 902937a (no license file) and
openvinotoolkit/anomalib at 161bb36 (Apache-2.0), whose PatchCore is SegAD's detector. The default recipe is ADer's, its
probe of the backbone apart; ``recipe=ader`` has that, ``recipe=official`` is the official baseline (IM224) without its
crop, ``recipe=anomalib`` is anomalib's (SegAD: with ``coreset=0.01``).

`python -m parity patchcore patchcore_anomalib` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- Both codes learn the backbone's channels from an image of ones, sent through it in training mode: its batch norms'
  pretrained statistics move a tenth of the way. ``probe_size`` repeats that; the default leaves them alone.
- All training images are used; ADer's loader drops the last incomplete batch.
- Patch features come from their closed form (``nets/scoring/patches.py``); upstream unfolds 9 copies and pools them.
- The greedy choice is exact but batched (``nets/scoring/neighbors.py``); upstream walks over all points each time.
- Distances are computed by blocked matrix products and ranked again exactly; upstream asks FAISS (``IndexFlatL2``).
  As there, scores are squared distances; the paper's re-weighting of the image score is not in these two codes, but
  in anomalib's, whose distances are not squared.
- The random projection and the starting points come from torch's generator: another draw than upstream's, from the
  same distributions. anomalib's projection is a sparse matrix of signs; with ``projection_dim=null`` ours has as many
  dimensions, and is dense as the official one.
- anomalib names no weights: timm's default is ``racm_in1k``; its recipe here has torchvision's, as the official code.
- anomalib interpolates the coarse layer bilinearly since its version 1.0; version 0.7, which was current when SegAD's
  paper was written, repeated pixels, and cropped a center of 224 pixels, which that paper does not.

Shapes in names: B images, C channels, H height, W width, N patches, M bank items, Q queries, D dimensions, P
projected dimensions, K neighbors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ader.config.ranges import Layers, Sigma, Width, Window
from ader.methods._base import Batch, Count, FitPass, Method, Prediction, Share, Tags
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.scoring.maps import Border, GaussianBlur, upsample
from ader.nets.scoring.neighbors import greedy_coreset, nearest, squared_distances
from ader.nets.scoring.patches import PatchFeatures, probe_in_training_mode
from ader.nets.state.late_tensor import LateTensor
from ader.nets.state.rows import Rows
from ader.system import dist
from ader.system.errors import UserError


class PatchCore(Method):
    """Memory bank of normal patch features; a patch's score is its distance to the nearest one.

    Args:
        batch_size: images per step of the pass; no effect on the result.
        coreset: share of all patches kept in the bank, in (0, 1]; 1 keeps all.
        projection_dim: dimensions of the random projection in which the coreset is chosen; None: as many as the lemma
            of Johnson and Lindenstrauss asks for where distances may be off by 90 % (anomalib).
        num_starting_points: random points whose mean distance decides the first choice.
        embed_dim: dimensions of a patch feature, after pooling over both layers; None: all channels of all layers,
            each the mean of a pixel and its eight neighbors (anomalib).
        layers: timm ``out_indices`` of the backbone, finest first: 2 and 3 are a ResNet's layer2 and layer3.
        num_neighbors: bank items around the largest patch score's nearest one that weight the image score (b in
            equation 7 of the paper); 1: it is not weighted. Maps always have the distance to the nearest item.
        distance: patch scores are squared Euclidean distances (both upstream codes) or plain ones (anomalib).
        image_score: ``"map"``, the maximum of the smoothed map (ADer), or ``"patch"``, the largest patch score.
        interpolation: from patch scores to the map.
        sigma: of the Gaussian that smooths the map, in pixels.
        border: what that Gaussian takes to be beyond the map's edge.
        probe_size: pixels of the image of ones that goes through the backbone in training mode before all else, as
            upstream's codes have it by mistake; None leaves the pretrained statistics as they are.
        backbone: any timm network with feature maps.

    Raises:
        UserError: the image score is to be weighted, and is not that of a patch.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Roth et al., CVPR 2022",
        reference="amazon-science/patchcore-inspection at fcaa92f, openvinotoolkit/anomalib at 161bb36",
    )

    def __init__(
        self,
        batch_size: Count = 8,
        coreset: Share = 0.1,
        projection_dim: Width | None = 128,
        num_starting_points: Count = 10,
        embed_dim: Width | None = 1024,
        layers: Layers = (2, 3),
        num_neighbors: Count = 1,
        distance: Literal["squared", "euclidean"] = "squared",
        image_score: Literal["map", "patch"] = "map",
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
        sigma: Sigma = 4.0,
        border: Border = "reflect",
        probe_size: Window | None = None,
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        if num_neighbors > 1 and image_score != "patch":
            raise UserError(
                f"method.num_neighbors={num_neighbors} weights the largest patch score: set method.image_score=patch, "
                "or method.num_neighbors=1"
            )
        self.batch_size, self.coreset = batch_size, coreset
        self.projection_dim, self.num_starting_points = projection_dim, num_starting_points
        self.num_neighbors, self.distance, self.image_score = num_neighbors, distance, image_score
        self.interpolation = interpolation
        self.backbone = Backbone(backbone, layers)
        if probe_size is not None:
            probe_in_training_mode(self.backbone, probe_size)
        self.patches = PatchFeatures(self.backbone.channels, embed_dim)
        self.bank = LateTensor()
        self.blur = GaussianBlur(sigma, border)
        self.rows = Rows()

    def stages(self) -> Iterator[FitPass]:
        self.rows.clear()
        yield FitPass(name="bank", batch_size=self.batch_size, update=self._collect, finish=self._reduce)

    def _collect(self, batch: Batch) -> None:
        self.rows.add(self(batch.image_BCHW).flatten(0, 2).float())

    def _reduce(self) -> None:
        """Keeps the approximate greedy coreset (section 3.2), in the order of the images.

        All patches are never copied into one tensor: they are what limits the size of the data (15 GB for MVTec AD).
        Each process keeps those of its own images and looks for the farthest among them; only the bank is gathered.
        """
        if self.coreset == 1:
            self.bank.value = self.rows.gathered()
        else:
            total = sum(dist.gather_objects(len(self.rows)))
            size = self.projection_dim or projected_dim(total)
            mapper = nn.Linear(self.patches.embed_dim, size, bias=False)  # upstream's draw, with its scale
            weight_DP = mapper.weight.detach().T.to(self.bank.anchor.device)
            projected = self.rows.map(lambda patch_ND: patch_ND @ weight_DP)
            start, order = torch.randperm(total)[: self.num_starting_points].to(weight_DP.device).sort()
            start_SP = projected.gathered(start)[order.argsort()]
            point_NP = projected.joined()
            mean_N = squared_distances(point_NP, start_SP).sqrt().mean(dim=1)
            chosen = greedy_coreset(point_NP, max(1, int(total * self.coreset)), first_N=mean_N.square())
            self.bank.value = self.rows.gathered(chosen.sort().values)
        self.rows.clear()

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Patch features (B, H, W, D) on the grid of the finest layer."""
        patch_BHWD: Tensor = self.patches(self.backbone(image_BCHW)).permute(0, 2, 3, 1)
        return patch_BHWD

    def predict(self, image_BCHW: Tensor) -> Prediction:
        patch_BHWD = self(image_BCHW).float()
        patch_QD, bank_MD = patch_BHWD.flatten(0, 2), self.bank.get()
        square_Q1, index_Q1 = nearest(patch_QD, bank_MD)
        distance_Q1 = square_Q1.sqrt() if self.distance == "euclidean" else square_Q1
        patch_BHW = distance_Q1.view(patch_BHWD.shape[:3])
        map_BHW = self.blur(upsample(patch_BHW, image_BCHW.shape[2:], False, self.interpolation))
        if self.image_score == "map":
            return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)
        score_B, place_B = patch_BHW.flatten(1).max(dim=1)
        if self.num_neighbors > 1:
            place_B = place_B + torch.arange(len(place_B), device=place_B.device) * patch_BHW[0].numel()
            score_B = score_B * certainty(patch_QD[place_B], index_Q1[place_B, 0], bank_MD, self.num_neighbors)
        return Prediction(score_B, map_BHW)


def certainty(patch_BD: Tensor, index_B: Tensor, bank_MD: Tensor, num_neighbors: int) -> Tensor:
    """The weights (B,) of image scores in equation 7 of the paper: near 1 where a patch's nearest bank item lies in a
    crowd, smaller where it is a rare one.

    Args:
        patch_BD: the patches with the largest scores.
        index_B: of their nearest bank items.
        bank_MD: the bank.
        num_neighbors: bank items nearest to that one, itself among them, whose distances to the patch are compared; of
            a smaller bank all.
    """
    _, crowd_BK = nearest(bank_MD[index_B], bank_MD, num_neighbors)
    distance_BK = (bank_MD[crowd_BK] - patch_BD[:, None]).square().sum(dim=2).sqrt()
    return 1 - distance_BK.softmax(dim=1)[:, 0]


def projected_dim(points: int, distortion: float = 0.9) -> int:
    """Dimensions in which distances between so many points are off by at most this share (Johnson and Lindenstrauss,
    as scikit-learn and anomalib have it), rounded down; at least 1."""
    return max(1, int(4 * math.log(points) / (distortion**2 / 2 - distortion**3 / 3)))
