"""A style encoder and a style-modulated generator of feature pyramids: the networks of InvAD and InvAD-lite.

The layers descend from StyleGAN2 (Karras et al., CVPR 2020) by way of StyleMapGAN (Kim et al., CVPR 2021), whose styles
are maps, not vectors. Here they are ordinary operations: upsampling is a transposed convolution and a depthwise
filter; the gains of the leaky ReLUs and of the residual sums are multiplied into weights and biases (a leaky ReLU
commutes with positive factors, so the function is the same, with fewer passes over the activations); what depends on
the learned constant alone has a batch of one.

Shapes in names: B images, C channels, H height, W width, S channels of a style, O output channels, k kernel size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from ader.nets.scoring.maps import full

SLOPE = 0.2  # of the leaky ReLUs
ACTIVE_GAIN = math.sqrt(2)  # makes up for the variance that they take
SUM_GAIN = 1 / math.sqrt(2)  # makes up for the variance of a sum of two

#: How the finer feature maps come to the size of the coarsest: by a convolution or by the mean.
Rescaling = Literal["conv", "average"]


class UpFilter(nn.Module):
    """StyleGAN2's [1, 3, 3, 1] filter in both directions, zeros outside; it sums to 4, as three of four pixels that a
    factor of 2 makes are zeros."""

    taps_11kk: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        self.register_buffer("taps_11kk", torch.outer(taps, taps)[None, None], persistent=False)

    def smooth(self, stretched_BCHW: Tensor, bias_C: Tensor | None = None) -> Tensor:
        """Filters (B, C, 2 H + 1, 2 W + 1), which a 3x3 transposed convolution gives, to (B, C, 2 H, 2 W)."""
        channels = stretched_BCHW.shape[1]
        return F.conv2d(stretched_BCHW, self._for(channels), bias_C, padding=1, groups=channels)

    def enlarge(self, feature_BCHW: Tensor, bias_C: Tensor | None = None) -> Tensor:
        """Twice the height and width: zeros between pixels, then the filter, as one depthwise convolution."""
        channels = feature_BCHW.shape[1]
        return F.conv_transpose2d(feature_BCHW, self._for(channels), bias_C, stride=2, padding=1, groups=channels)

    def _for(self, channels: int) -> Tensor:
        return self.taps_11kk.expand(channels, 1, 4, 4)


class EqualConv(nn.Module):
    """Convolution with equalized learning rate (Karras et al., ICLR 2018): weights of unit variance are stored, and
    divided by the root of the fan-in whenever they are used, so that an optimizer moves all layers alike.

    Args:
        inputs, outputs: channels.
        kernel: side, 1 or 3.
        upsample: doubles height and width.
        active: adds a bias and a leaky ReLU with gain sqrt(2).
        bias: for a convolution that is not active.
        gain: a further factor of the output, multiplied into weight and bias.
        lr_multiplier: weights are stored divided by it and used multiplied by it: an optimizer with normalized steps
            moves them so much more slowly.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Literal[1, 3] = 3,
        *,
        upsample: bool = False,
        active: bool = True,
        bias: bool = True,
        gain: float = 1.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.active = active
        self.gain = gain * ACTIVE_GAIN if active else gain
        self.scale = self.gain * lr_multiplier / math.sqrt(inputs * kernel**2)
        self.up = UpFilter() if upsample else None

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Features (B, O, H, W), or (B, O, 2 H, 2 W) when upsampling."""
        weight_OCkk = self.weight * self.scale
        bias_O = None if self.bias is None else self.bias * self.gain
        if self.up is None:
            output_BOHW = F.conv2d(feature_BCHW, weight_OCkk, bias_O, padding=weight_OCkk.shape[2] // 2)
        elif weight_OCkk.shape[2] == 1:  # commutes with the zeros between pixels: first, on a quarter of them
            output_BOHW = self.up.enlarge(F.conv2d(feature_BCHW, weight_OCkk), bias_O)
        else:
            stretched_BOHW = F.conv_transpose2d(feature_BCHW, weight_OCkk.transpose(0, 1), stride=2)
            output_BOHW = self.up.smooth(stretched_BOHW, bias_O)
        return F.leaky_relu(output_BOHW, SLOPE, inplace=True) if self.active else output_BOHW


class StyledConv(nn.Module):
    """Layer norm over a whole feature map, spatial modulation by a style map, active convolution.

    There is no demodulation: the norm before does its work. An upsampling convolution knows no style.

    Args:
        inputs, outputs: channels.
        style: channels of the style map.
        modulate: the style scales and shifts each position; else its channels join those of the feature map.
        upsample: doubles height and width.
        gain: as ``EqualConv``'s.
    """

    def __init__(
        self, inputs: int, outputs: int, style: int, *, modulate: bool, upsample: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.modulation = EqualConv(style, 2 * inputs, active=False) if modulate and not upsample else None
        self.joined = not modulate and not upsample
        self.conv = EqualConv(inputs + style * self.joined, outputs, upsample=upsample, gain=gain)
        if self.modulation is not None and self.modulation.bias is not None:
            nn.init.ones_(self.modulation.bias[:inputs])  # factors; the other half are shifts, and stay 0

    def forward(self, feature_BCHW: Tensor, style_BSHW: Tensor) -> Tensor:
        """Features (B, O, H, W), or twice as high and wide; ``feature_BCHW`` may have a batch of one."""
        feature_BCHW = F.group_norm(full(feature_BCHW), 1)  # one group: over channels and positions, in float32
        if self.modulation is not None:
            factor_BCHW, shift_BCHW = full(self.modulation(style_BSHW)).chunk(2, dim=1)
            feature_BCHW = torch.addcmul(shift_BCHW, feature_BCHW, factor_BCHW)
        elif self.joined:
            images = len(style_BSHW)
            feature_BCHW = torch.cat([feature_BCHW.expand(images, -1, -1, -1), full(style_BSHW)], dim=1)
        output_BOHW: Tensor = self.conv(feature_BCHW)
        return output_BOHW


class StyledBlock(nn.Module):
    """Two styled convolutions beside a 1x1 one, summed and divided by sqrt(2); no activation after the sum.

    Args:
        inputs, outputs: channels.
        style: channels of the style map.
        modulate: as ``StyledConv``'s.
        upsample: doubles height and width.
    """

    def __init__(self, inputs: int, outputs: int, style: int, *, modulate: bool, upsample: bool) -> None:
        super().__init__()
        self.conv1 = StyledConv(inputs, outputs, style, modulate=modulate, upsample=upsample)
        self.conv2 = StyledConv(outputs, outputs, style, modulate=modulate, gain=SUM_GAIN)
        self.skip = EqualConv(inputs, outputs, 1, upsample=upsample, active=False, bias=False, gain=SUM_GAIN)

    def forward(self, feature_BCHW: Tensor, style_BSHW: Tensor) -> Tensor:
        """Features (B, O, H, W), or twice as high and wide."""
        path_BOHW = self.conv2(self.conv1(feature_BCHW, style_BSHW), style_BSHW)
        output_BOHW: Tensor = path_BOHW + self.skip(feature_BCHW)
        return output_BOHW


class StyleEncoder(nn.Module):
    """Fuses a feature pyramid at its coarsest size and unfolds the result to a pyramid of style maps.

    Args:
        channels: of the feature maps, finest first; each has twice the height and width of the next.
        width: largest number of channels of a style map; no map has more than the feature map of its size.
        bottlenecks: residual bottleneck blocks on the fused map.
        convs: convolutions of each style map after its first.
        pyramid: False leaves all these convolutions out: the fused map, enlarged by the fixed filter, is the style of
            every size.
        rescaling: how the finer feature maps come to the coarsest size.
        lr_multiplier: of the upsampling convolutions.

    Attributes:
        widths: channels of the style maps, coarsest first.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        *,
        bottlenecks: int = 1,
        convs: int = 1,
        pyramid: bool = True,
        rescaling: Rescaling = "conv",
        lr_multiplier: float = 0.01,
    ) -> None:
        super().__init__()
        factors = [2**level for level in reversed(range(len(channels)))]
        self.shrink = nn.ModuleList()
        for count, factor in zip(channels, factors, strict=True):
            if rescaling == "conv":
                conv = nn.Conv2d(count, count, factor, stride=factor)
                self.shrink.append(nn.Sequential(conv, nn.BatchNorm2d(count, eps=1e-6)))
            else:
                self.shrink.append(nn.AvgPool2d(factor))
        fused = min(channels[-1], width)
        self.merge = nn.Sequential(
            nn.Conv2d(sum(channels), fused, 1, bias=False), nn.BatchNorm2d(fused, eps=1e-6), nn.ReLU(inplace=True)
        )
        blocks = [Bottleneck(fused, fused // Bottleneck.expansion) for _ in range(bottlenecks)]
        self.bottlenecks = nn.Sequential(*blocks)
        self.widths = [min(count, width) for count in reversed(channels)] if pyramid else [fused] * len(channels)
        self.unfold: nn.ModuleList | None = None
        if pyramid:
            self.unfold = nn.ModuleList()
            before = fused
            for level, after in enumerate(self.widths):
                first = EqualConv(before, after, upsample=level > 0, lr_multiplier=lr_multiplier if level else 1.0)
                self.unfold.append(nn.Sequential(first, *[EqualConv(after, after) for _ in range(convs)]))
                before = after
        self.up = None if pyramid else UpFilter()

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Style maps (B, widths[k], H_k, W_k), coarsest first, of feature maps, finest first."""
        small = [shrink(feature_BCHW) for shrink, feature_BCHW in zip(self.shrink, features, strict=True)]
        style_BSHW = self.bottlenecks(self.merge(torch.cat(small, dim=1)))
        styles: list[Tensor] = []
        for level in range(len(features)):
            if self.unfold is not None:
                style_BSHW = self.unfold[level](style_BSHW)
            elif self.up is not None and level > 0:
                style_BSHW = self.up.enlarge(style_BSHW)
            styles.append(style_BSHW)
        return styles


class Generator(nn.Module):
    """Makes a feature pyramid from a learned constant, told by a pyramid of style maps.

    Args:
        channels: of the features to make, finest first.
        widths: channels of the style maps, coarsest first.
        style: channels to which each style map is reduced before it modulates.
        blocks: styled residual blocks of each size.
        side: height and width of the constant, and of the coarsest features.
        modulate: as ``StyledConv``'s.
    """

    def __init__(
        self, channels: Sequence[int], widths: Sequence[int], style: int, *, blocks: int, side: int, modulate: bool
    ) -> None:
        super().__init__()
        before = channels[-1]
        self.constant_1CHW = nn.Parameter(torch.randn(1, before, side, side))
        self.conv = EqualConv(before, before)
        self.heads = nn.ModuleList(
            [nn.Sequential(EqualConv(width, width), EqualConv(width, style)) for width in widths]
        )
        self.stages = nn.ModuleList()
        for level, after in enumerate(reversed(channels)):
            first = StyledBlock(before, after, style, modulate=modulate, upsample=level > 0)
            rest = [StyledBlock(after, after, style, modulate=modulate, upsample=False) for _ in range(blocks - 1)]
            self.stages.append(nn.ModuleList([first, *rest]))
            before = after

    def forward(self, styles: Sequence[Tensor]) -> list[Tensor]:
        """Features, finest first, of style maps, coarsest first."""
        feature_BCHW = self.conv(self.constant_1CHW)  # one for all images, as is what the first block makes of it alone
        features = []
        for head, stage, style_BSHW in zip(self.heads, self.stages, styles, strict=True):
            reduced_BSHW = head(style_BSHW)
            for block in stage:  # type: ignore[attr-defined]
                feature_BCHW = block(feature_BCHW, reduced_BSHW)
            features.append(feature_BCHW)
        return features[::-1]
