"""RealNet: reconstructs the features that show anomalies best, and segments where the reconstruction fails most.

Paper: Zhang, Xu and Zhou, "RealNet: A Feature Selection Network with Realistic Synthetic Anomaly for Anomaly
Detection", CVPR 2024 (arXiv 2403.05897). Upstream: cnulab/RealNet at ab75012 (MIT) and its multi-class reproduction in
zhangzjn/ADer at 902937a (no license file). The default recipe is ADer's; ``recipe=official`` with
``setting=single_class`` is the official code's.

Anomalies come from ``images``, a folder of what a diffusion model made (the paper's SDAS, published for MVTec AD, VisA,
BTAD and MPDD; ADer draws from all categories, the official code from the model's own: give that category's folder).
Without it they are textures with the official code's other recipe: of a folder such as DTD's, or else procedural ones.
Log, record and table say so.

`python -m parity realnet realnet_official` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- ADer names the backbone's weights in a variable that nothing reads and loads an empty path; ``racm_in1k`` is what that
  variable, and timm's default of the time, mean.
- Features are selected in one pass for all layers over up to 64 shuffled batches, an image in one of them; upstream has
  64 batches for every layer, and begins again where images are fewer. ``selection_draws`` gives an image
  several anomalies. Batches are those of one process with any number of processes, where the official code normalizes
  each process's part by itself. Layers of which all channels are kept are not looked at. The selection is in float32.
- Anomalies are made on the device (``nets.synthesis``, with its own differences) and depend on the seed, the epoch and
  the image only. Their levels are not cut to whole ones of 255.
- The official code keeps anomalies within a foreground that thresholds find, chosen for each category by name; ADer
  does not, nor is it done here, since methods do not know categories.
- The official code evaluates every 5 of 1000 epochs and keeps the best by the test images; here the last counts.
- In evaluation residuals are ranked by their normalized extremes and means: the normalization is increasing in each
  channel, so these are those of the normalized residuals, which upstream computes.
- Selected channels are buffers; upstream stores them as 1,536 parameters.

Shapes in names: B images, C channels, H height, W width, N images of the selection, D anomalies of each, S statistics,
K channels to select from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ader.config.ranges import Betas, Count, Layers, LearningRate, Rate, Share, Width, Window
from ader.data.image import planes as pixels_of
from ader.methods._base import Array, Batch, FitPass, Method, Optimize, Prediction, Probability, Stage, Tags, TrainStage
from ader.methods._feature_unet import FeatureUNet, UNetOptions
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.optim.schedules import steps_at
from ader.nets.scoring.maps import full, full_precision, pooled_maximum
from ader.nets.state.rows import Rows
from ader.nets.synthesis.draws import uniform
from ader.nets.synthesis.photos import Photos
from ader.nets.synthesis.synthetic import Synthetic, SyntheticAnomalies
from ader.nets.synthesis.textures import Textures, texture_files
from ader.system.errors import UserError

Range = tuple[Probability, Probability]


class RealNet(Method):
    """U-Nets restore selected channels of a pretrained network's features; a segmentation network sees those channels
    whose squared residuals are largest for the image.

    Args:
        image_size: pixels; its coarsest features must be halved as often as the U-Nets do.
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: Adam's learning rate.
        betas: Adam's averaging factors.
        lr_decay_at: shares of the training after each of which the learning rate is multiplied by 0.1.
        images: folder of images, made by a diffusion model, that anomalies are cut from; None: textures.
        image_opacity: range of the share of the clean image that shows through such an anomaly.
        textures: folder of images such as DTD's for anomalies without ``images``; None: procedural ones.
        texture_share: of the anomalies, that are textures even where there are ``images``.
        texture_opacity: as ``image_opacity``.
        anomaly_probability: of an anomaly, for each training image.
        layers: of the backbone, finest first: 1 to 4 are a ResNet's layer1 to layer4.
        planes: channels kept of each of these; multiples of 64.
        selection_batches: that the selection looks at, at most.
        selection_draws: anomalies of each image that it looks at.
        unet: of the networks that restore features.
        top_max: channels that the segmentation sees for the largest residual that they have.
        top_mean: channels that it sees for their mean residual; some may be seen twice.
        score_window: image score: largest mean of the map over squares of so many pixels a side.
        backbone: a network of timm.

    Raises:
        UserError: sizes, channels or ranges that do not fit.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Zhang et al., CVPR 2024", reference="zhangzjn/ADer at 902937a, cnulab/RealNet at ab75012"
    )

    def __init__(
        self,
        image_size: Count = 256,
        batch_size: Count = 16,
        epochs: Count = 100,
        lr: LearningRate = 1e-4,
        betas: Betas = (0.9, 0.999),
        lr_decay_at: tuple[Share, ...] = (0.8,),
        images: str | None = None,
        image_opacity: Range = (0.0, 0.5),
        textures: str | None = None,
        texture_share: Rate = 0.0,
        texture_opacity: Range = (0.0, 0.8),
        anomaly_probability: Probability = 0.5,
        layers: Layers = (1, 2, 3, 4),
        planes: tuple[Annotated[Width, Field(multiple_of=64)], ...] = (256, 512, 512, 256),
        selection_batches: Count = 64,
        selection_draws: Annotated[int, Field(ge=1, le=1000)] = 1,
        unet: UNetOptions = UNetOptions(),  # noqa: B008 (frozen)
        top_max: Width = 256,
        top_mean: Width = 256,
        score_window: Window = 16,
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.racm_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        for name, (low, high) in (("image_opacity", image_opacity), ("texture_opacity", texture_opacity)):
            if low > high:
                raise UserError(f"method.{name}={[low, high]} is upside down: give [smallest, largest]")
        self.image_size, self.batch_size, self.epochs = image_size, batch_size, epochs
        self.lr, self.betas, self.lr_decay_at = lr, betas, lr_decay_at
        self.selection_batches, self.selection_draws = selection_batches, selection_draws
        self.texture_share, self.score_window = texture_share, score_window
        self.warning = None
        self.photos = self.pasted = self.textured = None
        made = partial(SyntheticAnomalies, probability=anomaly_probability, rotation_probability=0.0)
        if images:
            self.photos = Photos(images, "method.images")
            self.pasted = made(None, opacity=image_opacity, augment_textures=False)
        else:
            self.warning = "no anomalies made by diffusion (no method.images): patches of textures stand in"
        if texture_share or not images:
            self.textured = made(Textures(textures, image_size), opacity=texture_opacity, augment_textures=True)
        self.backbone = Backbone(backbone, layers)
        self.selection = Selection(self.backbone.channels, planes, layers)
        self.unets = nn.ModuleList(FeatureUNet(width, unet) for width in planes)
        self.halvings = len(unet.multipliers) - 1
        self.segmentation = ResidualSegmentation(sum(planes), top_max, top_mean)
        self._check_size(image_size, image_size)

    @classmethod
    def files(cls, arguments: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
        found, images, textures = super().files(arguments), arguments.get("images"), arguments.get("textures")
        if images:
            found["images"] = dict(Photos(images, "method.images").files)
        if textures and (arguments.get("texture_share") or not images):
            found["textures"] = texture_files(textures)
        return found

    def weights(self) -> list[dict[str, Any]]:
        return super().weights() + ([self.photos.provenance()] if self.photos else [])

    def stages(self) -> Iterator[Stage]:
        self.selection.rows.clear()
        if self.selection.numbers:
            yield FitPass(
                name="select",
                batch_size=self.batch_size,
                update=self._look,
                finish=partial(self.selection.conclude, self.batch_size),
                sampler="shuffled",
                batches=self.selection_batches,
                augment=partial(drawn, self.photos, self.image_size, self.selection_draws) if self.photos else None,
            )
        trained = [self.unets, self.segmentation]
        weights = [weight for part in trained for weight in part.parameters()]
        yield TrainStage(
            name="train",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"adam": torch.optim.Adam(weights, lr=self.lr, betas=self.betas)},
            modules=trained,
            epochs=self.epochs,
            schedules={"adam": steps_at(self.lr_decay_at)},
            augment=partial(drawn, self.photos, self.image_size, 1) if self.photos else None,
        )

    def _spoiled(self, batch: Batch, draw: int = 0, probability: float | None = None) -> Synthetic:
        """The batch with anomalies; both kinds have the same places and shapes."""
        seed_B, made = batch.seed_B.cpu() + draw, list[Synthetic]()
        if self.pasted is not None:
            source_BCHW = batch.extra["images"][:, draw].to(batch.image_BCHW.dtype) / 255
            made.append(self.pasted(batch.image_BCHW, seed_B, source_BCHW, probability))
        if self.textured is not None:
            made.append(self.textured(batch.image_BCHW, seed_B, None, probability))
        if len(made) == 1:
            return made[0]
        other_B111 = uniform(seed_B, "anomaly/of texture", 1, 1, 1) < self.texture_share
        image_BCHW = torch.where(other_B111.to(batch.image_BCHW.device), made[1].image, made[0].image)
        return made[0]._replace(image=image_BCHW)

    def _look(self, batch: Batch) -> None:
        """Takes how the features of each image change where it gets anomalies."""
        with full_precision(batch.image_BCHW.device):
            clean, found = self.backbone(batch.image_BCHW), []
            for draw in range(self.selection_draws):
                spoiled = self._spoiled(batch, draw, probability=1.0)
                found.append(self.selection.statistics(clean, self.backbone(spoiled.image), spoiled.mask))
            self.selection.rows.add(torch.stack(found, dim=1))

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        losses = self.losses(self._spoiled(batch))
        optimize(torch.stack(list(losses.values())).sum())
        return losses

    def losses(self, spoiled: Synthetic) -> dict[str, Tensor]:
        """Squared errors of what the U-Nets make of the anomalous features, against the clean ones, summed over layers,
        and the cross-entropy of the segmentation."""
        clean = self.selection(self.backbone(spoiled.clean))
        feature = self.selection(self.backbone(spoiled.image))
        restored, logit_B2HW = self._restored_and_segmented(feature)
        errors = [F.mse_loss(full(a), full(b)) for a, b in zip(restored, clean, strict=True)]
        logit_B2HW = _enlarged(full(logit_B2HW), spoiled.mask.shape[1:])
        return {"mse": torch.stack(errors).sum(), "ce": F.cross_entropy(logit_B2HW, spoiled.mask.long())}

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits (B, 2, 2 H, 2 W) of normal and anomalous, at twice the size (H, W) of the finest features."""
        self._check_size(*image_BCHW.shape[2:])
        return self._restored_and_segmented(self.selection(self.backbone(image_BCHW)))[1]

    def _restored_and_segmented(self, feature: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        restored = [unet(each) for unet, each in zip(self.unets, feature, strict=True)]
        residual = [(full(a) - full(b)).square() for a, b in zip(feature, restored, strict=True)]
        size = residual[0].shape[2:]
        return restored, self.segmentation(torch.cat([_enlarged(each, size) for each in residual], dim=1))

    def _check_size(self, height: int, width: int) -> None:
        multiple = self.backbone.strides[-1] * 2**self.halvings
        if height % multiple or width % multiple:
            raise UserError(
                f"realnet halves features of stride {self.backbone.strides[-1]} {self.halvings} times, which images of "
                f"{height}x{width} pixels do not allow: give multiples of {multiple}"
            )

    def predict(self, image_BCHW: Tensor) -> Prediction:
        logit_B2HW = _enlarged(full(self(image_BCHW)), image_BCHW.shape[2:])
        map_BHW = logit_B2HW.softmax(dim=1)[:, 1]
        return Prediction(pooled_maximum(map_BHW, self.score_window), map_BHW)


def drawn(photos: Photos, size: int, count: int, image: Array, rng: np.random.Generator) -> dict[str, Array]:
    """``count`` images of a folder for one training image: uint8 (count, 3, size, size)."""
    return {"images": np.stack([pixels_of(photos.draw(rng), size) for _ in range(count)])}


def _enlarged(value_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    if value_BCHW.shape[2:] == tuple(size):
        return value_BCHW
    return F.interpolate(value_BCHW, size=tuple(size), mode="bilinear", align_corners=True)


class Selection(nn.Module):
    """Anomaly-aware features selection: of each layer the channels whose change between the clean and the
    anomalous image is nearest to the anomaly's mask.

    Args:
        channels: of each layer.
        planes: how many are kept of each.
        layers: their numbers, for messages.

    Raises:
        UserError: there are not as many.

    Attributes:
        numbers: positions of the layers that lose channels.
        rows: statistics of images.
    """

    def __init__(self, channels: Sequence[int], planes: Sequence[int], layers: Sequence[int]) -> None:
        super().__init__()
        if len(planes) != len(channels) or any(kept > there for kept, there in zip(planes, channels, strict=True)):
            raise UserError(
                f"method.planes={list(planes)} does not suit layers {list(layers)} of {list(channels)} channels: give "
                "one number for each, at most that"
            )
        self.channels, self.planes = list(channels), list(planes)
        self.numbers = [number for number, kept in enumerate(planes) if kept < channels[number]]
        for number in self.numbers:
            self.register_buffer(f"index_{number}", torch.arange(planes[number]))
        self.rows = Rows()

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The kept channels of each layer, in their order."""
        return [
            each.index_select(1, getattr(self, f"index_{number}")) if number in self.numbers else each
            for number, each in enumerate(features)
        ]

    def statistics(self, clean: Sequence[Tensor], spoiled: Sequence[Tensor], mask_BHW: Tensor) -> Tensor:
        """Of each image and channel (B, 6, K), float64: smallest and largest squared change, its mean, that of its
        square, that of its product with the mask, and the mask's mean at the layer's size (nearest pixels)."""
        found = []
        for number in self.numbers:
            change_BCN = (full(spoiled[number]) - full(clean[number])).square().flatten(2)
            mask_B1N = F.interpolate(mask_BHW[:, None], size=clean[number].shape[2:], mode="nearest").flatten(2)
            means = [
                value.mean(dim=2, dtype=torch.double)
                for value in (change_BCN, change_BCN.square(), change_BCN * mask_B1N, mask_B1N.expand_as(change_BCN))
            ]
            found.append(torch.stack([change_BCN.amin(dim=2).double(), change_BCN.amax(dim=2).double(), *means], dim=1))
        return torch.cat(found, dim=2)

    def conclude(self, batch_size: int) -> None:
        """Selects, from all images in batches of one process; an incomplete batch counts only if it is the only one."""
        row_NDSK = self.rows.gathered()
        self.rows.clear()
        whole = max(1, len(row_NDSK) // batch_size) * batch_size
        parts = torch.split(row_NDSK[:whole], batch_size)
        error_K = torch.stack([distance_from_mask(part).sum(dim=0) for part in parts]).sum(dim=0)
        widths = [self.channels[number] for number in self.numbers]
        for number, error_C in zip(self.numbers, torch.split(error_K, widths), strict=True):
            best = error_C.sort(stable=True).indices[: self.planes[number]]
            getattr(self, f"index_{number}").copy_(best.sort().values)


def distance_from_mask(row_BDSK: Tensor, eps: float = 1e-4) -> Tensor:
    """Mean squared differences (D, K) between masks and changes, these stretched to [0, 1] over the batch.

    Args:
        row_BDSK: statistics of a batch, as ``Selection.statistics`` has them.
        eps: added to the range.
    """
    low_BDK, high_BDK, *means = row_BDSK.unbind(2)
    low_DK, range_DK = low_BDK.amin(dim=0), high_BDK.amax(dim=0) - low_BDK.amin(dim=0) + eps
    mean_DK, square_DK, product_DK, mask_DK = (each.mean(dim=0) for each in means)
    square_DK = square_DK - 2 * low_DK * mean_DK + low_DK.square()
    return square_DK / range_DK.square() - 2 * (product_DK - low_DK * mask_DK) / range_DK + mask_DK


class ResidualSegmentation(nn.Module):
    """Reconstruction residuals selection, and the network that segments what it selects.

    Args:
        channels: of all residuals.
        top_max, top_mean: channels selected by their largest and by their mean value.

    Raises:
        UserError: more than there are.
    """

    def __init__(self, channels: int, top_max: int, top_mean: int) -> None:
        super().__init__()
        if max(top_max, top_mean) > channels:
            raise UserError(
                f"method.top_max={top_max} and method.top_mean={top_mean} must not exceed the {channels} channels of "
                "method.planes"
            )
        self.top_max, self.top_mean = top_max, top_mean
        # as upstream: what ranks residuals at test are nearly the last batch's statistics
        self.norm = nn.BatchNorm2d(channels, momentum=0.9, affine=False)
        width = top_max + top_mean
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.ReLU(), nn.Conv2d(width, width, 1, bias=False),
            )
            for _ in range(2)
        )  # fmt: skip
        self.fine = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(),
            nn.Conv2d(128, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 8, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.finer = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, residual_BCHW: Tensor) -> Tensor:
        """Logits (B, 2, 2 H, 2 W) of residuals in at least float32."""
        place_BK = self.selected(residual_BCHW)
        chosen_BKHW = residual_BCHW.gather(1, place_BK[:, :, None, None].expand(-1, -1, *residual_BCHW.shape[2:]))
        for block in self.blocks:
            chosen_BKHW = chosen_BKHW + block(chosen_BKHW)
        fine_BCHW = self.fine(chosen_BKHW)
        logit_B2HW: Tensor = self.finer(_enlarged(fine_BCHW, [2 * side for side in fine_BCHW.shape[2:]]))
        return logit_B2HW

    @torch.no_grad()
    def selected(self, residual_BCHW: Tensor) -> Tensor:
        """Channels (B, top_max + top_mean) of each image, most anomalous first in either part."""
        with full_precision(residual_BCHW.device):
            if self.norm.training:
                residual_BCHW = self.norm(residual_BCHW)
            ranks = [residual_BCHW.amax(dim=(2, 3)), residual_BCHW.mean(dim=(2, 3))]
            if not self.norm.training:
                ranks = [self.norm(each[:, :, None, None])[:, :, 0, 0] for each in ranks]
            counts = (self.top_max, self.top_mean)
            return torch.cat([each.topk(k, dim=1).indices for each, k in zip(ranks, counts, strict=True)], dim=1)
