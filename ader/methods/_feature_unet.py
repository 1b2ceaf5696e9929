"""A U-Net on feature maps, as diffusion models have it but for the time step: RealNet's reconstruction.

Shapes in names: B images, C channels, H height, W width, N positions, D channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ader.config.ranges import Depth

GROUPS = 32

#: Channels of an attention's head.
HEAD = 64


@dataclass(frozen=True)
class UNetOptions:
    """How wide and how deep.

    Attributes:
        multipliers: widths of the levels over half the channels of the features; each level but the last halves the
            resolution.
        attention: resolutions with attention, as divisors of the finest; none may be 1, whose channels are no
            multiple of a head's.
        blocks: residual blocks in each level of the encoder; the decoder has one more.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    multipliers: Annotated[tuple[Depth, ...], Field(min_length=2, max_length=6)] = (1, 2, 4)
    attention: tuple[Literal[2, 4, 8, 16, 32], ...] = (2, 4)
    blocks: Annotated[int, Field(ge=1, le=8)] = 2


class FeatureUNet(nn.Module):
    """Restores feature maps; gives zeros at first.

    Args:
        channels: of the maps, a multiple of 64.
        options: of its size.
    """

    def __init__(self, channels: int, options: UNetOptions) -> None:
        super().__init__()
        width = channels // 2 * options.multipliers[0]
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        levels = [
            (channels // 2 * multiplier, 2**level in options.attention)
            for level, multiplier in enumerate(options.multipliers)
        ]
        falls: list[nn.Module] = []
        skips = [width]
        for number, (wide, attends) in enumerate(levels):
            if number:
                falls.append(Residual(width, width, "down"))
                skips.append(width)
            for _ in range(options.blocks):
                falls.append(_block(width, wide, attends))
                width = wide
                skips.append(width)
        self.falls = nn.ModuleList(falls)
        self.middle = nn.Sequential(Residual(width, width), Attention(width), Residual(width, width))
        rises: list[nn.Sequential] = []
        for number, (wide, attends) in reversed(list(enumerate(levels))):
            for _ in range(options.blocks + 1):
                rises.append(_block(width + skips.pop(), wide, attends))
                width = wide
            if number:
                rises[-1].append(Residual(width, width, "up"))
        self.rises = nn.ModuleList(rises)
        last = _zeroed(nn.Conv2d(width, channels, 3, padding=1))
        self.head = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), last)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Same shape."""
        value_BCHW = self.stem(feature_BCHW)
        skips = [value_BCHW]
        for fall in self.falls:
            value_BCHW = fall(value_BCHW)
            skips.append(value_BCHW)
        value_BCHW = self.middle(value_BCHW)
        for rise in self.rises:
            value_BCHW = rise(torch.cat([value_BCHW, skips.pop()], dim=1))
        restored_BCHW: Tensor = self.head(value_BCHW)
        return restored_BCHW


def _block(inputs: int, outputs: int, attends: bool) -> nn.Sequential:
    block = nn.Sequential(Residual(inputs, outputs))
    if attends:
        block.append(Attention(outputs))
    return block


def _zeroed(layer: Any) -> Any:
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


class Residual(nn.Module):
    """Norm, SiLU and one convolution beside a shortcut.

    Args:
        inputs, outputs: channels.
        change: ``"down"`` halves the resolution on both branches by means, ``"up"`` doubles it on each by a transposed
            convolution of its own.
    """

    def __init__(self, inputs: int, outputs: int, change: Literal["down", "up"] | None = None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, inputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.resize, self.resize_shortcut = (_resizing(inputs, change) for _ in range(2))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, value_BCHW: Tensor) -> Tensor:
        """Features of ``outputs`` channels."""
        new_BCHW = self.conv(self.resize(F.silu(self.norm(value_BCHW))))
        sum_BCHW: Tensor = self.shortcut(self.resize_shortcut(value_BCHW)) + new_BCHW
        return sum_BCHW


def _resizing(channels: int, change: Literal["down", "up"] | None) -> nn.Module:
    if change == "up":
        return nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
    return nn.AvgPool2d(2) if change == "down" else nn.Identity()


class Attention(nn.Module):
    """Every position attends to all, in heads of 64 channels; adds nothing at first.

    Args:
        channels: a multiple of 64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.project = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, value_BCHW: Tensor) -> Tensor:
        """Same shape."""
        value_BCN = value_BCHW.flatten(2)
        heads = value_BCN.shape[1] // HEAD
        qkv_BH3DN = self.qkv(self.norm(value_BCN)).unflatten(1, (heads, 3, HEAD))
        query, key, value = qkv_BH3DN.transpose(3, 4).unbind(2)
        mixed_BCN = F.scaled_dot_product_attention(query, key, value).transpose(2, 3).flatten(1, 2)
        sum_BCN: Tensor = value_BCN + self.project(mixed_BCN)
        return sum_BCN.view_as(value_BCHW)
