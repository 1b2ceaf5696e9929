"""Locally aware patch features in closed form, of PatchCore, SimpleNet and EfficientAD's teacher.

Shapes in names: B images, C channels, H height, W width, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.nets.backbone import Backbone
from ader.system.errors import UserError


class PatchFeatures(nn.Module):
    """Locally aware patch features (section 3.1 of PatchCore) as grouped 3x3 convolutions.

    The papers' codes unfold each layer into 3x3 neighborhoods (C * 9 numbers, channel first), interpolate to the
    finest layer's grid, pool each patch adaptively to D numbers, stack the layers and pool adaptively to D again.
    Pooling and interpolation are linear and act on different axes, so the pooling is a fixed 3x3 convolution, in
    groups wherever bins and channels line up, and it can be done before the interpolation.

    anomalib's code has the mean of each channel's 3x3 neighborhood in place of the poolings, and stacks all channels.

    Args:
        channels: of each layer.
        embed_dim: D, divisible by the number of layers; None: as many as there are channels, each its neighborhood's
            mean.
        layer_dim: numbers that each layer's patches are pooled to first; None: D.

    Attributes:
        embed_dim: D.
    """

    def __init__(self, channels: Sequence[int], embed_dim: int | None, layer_dim: int | None = None) -> None:
        super().__init__()
        self.embed_dim = sum(channels) if embed_dim is None else embed_dim
        if embed_dim is None:
            self.groups = list(channels)
            for number, count in enumerate(channels):
                self.register_buffer(f"kernel{number}", torch.full((count, 1, 3, 3), 1 / 9), persistent=False)
            return
        if not channels or embed_dim % len(channels):
            raise UserError(f"method.embed_dim={embed_dim} must be a multiple of the {len(channels)} layers")
        share, layer_dim = embed_dim // len(channels), layer_dim or embed_dim
        self.groups = [math.gcd(count, layer_dim, share) for count in channels]
        for number, (count, groups) in enumerate(zip(channels, self.groups, strict=True)):
            # Pooling is linear, so what the two poolings of a group make of the unit vectors is their kernel.
            identity = torch.eye(count // groups * 9)[:, None]
            pooled = F.adaptive_avg_pool1d(F.adaptive_avg_pool1d(identity, layer_dim // groups), share // groups)
            kernel = pooled[:, 0].T.reshape(share // groups, count // groups, 3, 3).contiguous()
            self.register_buffer(f"kernel{number}", kernel.repeat(groups, 1, 1, 1), persistent=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Patch features (B, D, H, W) on the grid of the first (finest) feature map."""
        size = features[0].shape[2:]
        pooled = []
        for number, (feature_BCHW, groups) in enumerate(zip(features, self.groups, strict=True)):
            kernel = self.get_buffer(f"kernel{number}").to(feature_BCHW.dtype)
            patch_BCHW = F.conv2d(feature_BCHW, kernel, padding=1, groups=groups)
            if patch_BCHW.shape[2:] != size:
                patch_BCHW = F.interpolate(patch_BCHW, size=size, mode="bilinear", align_corners=False)
            pooled.append(patch_BCHW)
        return torch.cat(pooled, dim=1)


@torch.no_grad()
def probe_in_training_mode(backbone: Backbone, size: int) -> None:
    """Repeats what the papers' codes do to their pretrained backbone: to learn its channels they send an image of ones
    through it while it is still in training mode, which moves the running statistics of all batch norms a tenth of
    the way (their momentum) to those of that image.

    Args:
        backbone: with its pretrained weights.
        size: pixels of the image, which is not normalized.
    """
    backbone.net.train()
    backbone.net(backbone.normalize.mean.new_ones(1, 3, size, size))
    backbone.net.eval()
