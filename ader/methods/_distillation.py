"""EfficientAD's teacher: a patch description network of a file, or one distilled here from a larger network.

Upstream: ``pretraining.py`` of nelson1425/EfficientAD at fcab514 (Apache-2.0); Batzner et al., section 3.1, appendix A.
Patch features of a ResNet on ImageNet are what it learns; another folder of photographs may stand in for ImageNet.

Shapes in names: B images, K photographs, C channels, H height, W width, N images of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ader.config.ranges import LearningRate, Many
from ader.data.image import planes
from ader.methods._base import (
    Array,
    Batch,
    Count,
    FitPass,
    NonNegative,
    Optimize,
    Probability,
    Stage,
    TrainStage,
)
from ader.methods._pdn import Patches, load_patches
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.frozen import Frozen, state_sha256
from ader.nets.scoring.maps import full, full_precision
from ader.nets.scoring.patches import PatchFeatures
from ader.nets.state.rows import Rows
from ader.nets.synthesis.photos import Photos
from ader.system.files import sha256

#: Numbers that each layer of a patch is pooled to before all are pooled to the teacher's channels, as in PatchCore.
LAYER_DIM = 1024


@dataclass(frozen=True)
class Distillation:
    """How a teacher is made that no file has.

    Attributes:
        steps: of Adam.
        batch_size: photographs per step.
        image_size: pixels that the teacher sees; its model, the backbone, sees twice as many a side.
        grayscale: probability that a photograph loses its colors, for both.
        lr, weight_decay: Adam's.
        draws: photographs for each training image, whose features give the mean and deviation of the targets.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: Many = 60_000
    batch_size: Count = 16
    image_size: Annotated[int, Field(ge=32, le=1024, multiple_of=4)] = 256
    grayscale: Probability = 0.1
    lr: LearningRate = 1e-4
    weight_decay: NonNegative = 1e-5
    draws: Annotated[int, Field(ge=1, le=64)] = 4


class Teacher(Frozen):
    """The teacher, frozen but for the stages that distill it.

    Args:
        patches: the network, at random weights.
        options: its name, and the folder that may have its file.
        how: it is distilled where no file has it, and there are photographs.
        backbone: that it is distilled from.
        photos: None: there are none.

    Attributes:
        file: with its weights, or None.
        distilled: whether it is made here.

    Raises:
        UserError: the file does not hold this network.
    """

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        patches: Patches,
        options: BackboneOptions,
        how: Distillation,
        backbone: BackboneOptions,
        photos: Photos | None,
    ) -> None:
        super().__init__()
        self.net, self.name, self.how, self.backbone, self.photos = patches, options.name, how, backbone, photos
        self.net.requires_grad_(False)
        self.file = options.local_file()
        self.distilled = self.file is None and photos is not None
        self.of_run = self.file is not None and load_patches(patches, self.file)
        for name, value in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.register_buffer("target_mean", torch.zeros(patches.outputs))
        self.register_buffer("target_std", torch.ones(patches.outputs))
        self.rows = Rows()
        self._model: list[TargetFeatures] = []  # in a list: it is no part of the method
        self.eval()

    @property
    def reads(self) -> tuple[bool]:
        """Whether convolutions are padded."""
        return (self.net.padding,)

    def normalized(self, image_BCHW: Tensor) -> Tensor:
        """RGB in [0, 1] as all networks of EfficientAD take it."""
        return (image_BCHW - self.mean) / self.std

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Features (B, C, grid, grid) of RGB images in [0, 1].

        In float32 under autocast, too: a channel may change far less than its value is.
        """
        with full_precision(image_BCHW.device):
            return self.remembered(image_BCHW, lambda image: [self.net(self.normalized(image))])[0]

    @property
    def warning(self) -> str | None:
        """What to tell readers of results, or None."""
        if self.distilled:
            made = f"teacher {self.name} is not the published one: distilled here in {self.how.steps} steps"
            random = (
                "" if self.backbone.pretrained else f" from {self.backbone.name} at random weights (not pretrained)"
            )
            return made + random
        if self.file is None:
            return (
                f"teacher {self.name} has random weights: there is no file of it, and no folder of images to distil "
                f"{self.backbone.name} with"
            )
        return f"teacher {self.name} is not the published one: it is an earlier run's" if self.of_run else None

    def weights(self) -> list[dict[str, Any]]:
        """Name, source and checksum of the teacher's, and of those that it was distilled from."""
        if self.file is not None:
            return [{"name": self.name, "source": str(self.file), "sha256": sha256(self.file)}]
        if not self.distilled:
            return [{"name": self.name, "source": "random", "sha256": None}]
        own = {"name": self.name, "source": f"distilled from {self.backbone.name}"}
        local = self.backbone.local_file()
        source = "random" if not self.backbone.pretrained else str(local or "timm")
        return [
            {**own, "sha256": state_sha256(self.net.state_dict())},
            {"name": self.backbone.name, "source": source, "sha256": sha256(local) if local else None},
        ]

    def stages(self) -> Iterator[Stage]:
        """The two that make the teacher, where that is to be done; its convolutions are padded in them, as upstream."""
        self._model.clear()
        if not self.distilled or self.photos is None:
            return
        how = self.how
        self.rows.clear()
        yield FitPass(
            name="targets",
            batch_size=max(1, how.batch_size // how.draws),
            update=self._collect,
            finish=self._conclude,
            augment=partial(target_views, self.photos, 2 * how.image_size, how.grayscale, how.draws),
        )
        self.net.requires_grad_(True)
        optimizer = torch.optim.Adam(self.net.parameters(), lr=how.lr, weight_decay=how.weight_decay)
        yield TrainStage(
            name="distill",
            batch_size=how.batch_size,
            step=self._step,
            optimizers={"teacher": optimizer},
            modules=[self.net],
            steps=how.steps,
            augment=partial(distillation_views, self.photos, how.image_size, how.grayscale),
        )
        self.net.requires_grad_(False)
        self._model.clear()

    def _targets(self, image_BCHW: Tensor) -> Tensor:
        """Features of the backbone, float32."""
        if not self._model:
            self._model.append(TargetFeatures(self.backbone, self.net.outputs))
        target_BCHW: Tensor = self._model[0].to(image_BCHW.device, image_BCHW.dtype)(image_BCHW)
        return full(target_BCHW)

    def _collect(self, batch: Batch) -> None:
        self.rows.add(channel_moments(self._targets(pixels(batch, "fine").flatten(0, 1))))

    def _conclude(self) -> None:
        mean_C, std_C = joined_moments(self.rows.gathered())
        self.target_mean.copy_(mean_C)
        self.target_std.copy_(std_C)
        self.rows.clear()

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        with torch.no_grad():
            target_BCHW = self._targets(pixels(batch, "fine"))
            target_BCHW = standardized(target_BCHW, self.target_mean, self.target_std)
        described_BCHW = self.net(self.normalized(pixels(batch, "coarse")), padding=True)
        loss = F.mse_loss(full(described_BCHW), target_BCHW)
        optimize(loss)
        return {"mse": loss}


class TargetFeatures(nn.Module):
    """What a teacher learns to describe: patch features of the second and third stage of a pretrained ResNet.

    Args:
        backbone: which one.
        features: channels, which all of a patch's are pooled to.
    """

    def __init__(self, backbone: BackboneOptions, features: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # built in the midst of a stage: random weights are one network's
            torch.manual_seed(0)
            self.backbone = Backbone(backbone, layers=(2, 3))
        self.patches = PatchFeatures(self.backbone.channels, features, LAYER_DIM)

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Features (B, C, H / 8, W / 8) of RGB images in [0, 1]."""
        feature_BCHW: Tensor = self.patches(self.backbone(image_BCHW))
        return feature_BCHW


def channel_moments(feature_BCHW: Tensor) -> Tensor:
    """Each image's means and variances of channels, (B, 2 C)."""
    variance_BC, mean_BC = torch.var_mean(feature_BCHW, dim=(2, 3), correction=0)
    return torch.cat([mean_BC, variance_BC], dim=1)


def joined_moments(row_N2C: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of all images' pixels; a channel that never changes has a tiny one, not 0."""
    mean_NC, variance_NC = row_N2C.double().chunk(2, dim=1)
    mean_C = mean_NC.mean(dim=0)
    variance_C = variance_NC.mean(dim=0) + (mean_NC - mean_C).square().mean(dim=0)
    return mean_C, variance_C.sqrt().clamp(min=1e-6)


def target_views(
    photos: Photos, size: int, grayscale: float, draws: int, image: Array, rng: np.random.Generator
) -> dict[str, Array]:
    """Several photographs, (K, 3, size, size)."""
    return {"fine": np.stack([planes(photos.draw(rng, grayscale), size) for _ in range(draws)])}


def distillation_views(
    photos: Photos, size: int, grayscale: float, image: Array, rng: np.random.Generator
) -> dict[str, Array]:
    """A photograph as the teacher sees it, and at twice the size, as its model does."""
    photo = photos.draw(rng, grayscale)
    return {"coarse": planes(photo, size), "fine": planes(photo, 2 * size)}


def pixels(batch: Batch, name: str) -> Tensor:
    """What an augmentation made, in [0, 1]."""
    return batch.extra[name].to(batch.image_BCHW.dtype) / 255


def standardized(feature_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """Less the mean, over the deviation, of each channel."""
    return (feature_BCHW - mean_C[:, None, None]) / std_C[:, None, None]
