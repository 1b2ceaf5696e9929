"""The styled layers against numpy: plain loops over definitions, none of our code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from scipy.signal import convolve2d, correlate2d
from torch import nn

from ader.nets.style import EqualConv, Generator, StyledBlock, StyledConv, StyleEncoder, UpFilter

TAPS = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16


def array(tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def conv(image_CHW, weight_OCkk, bias_O=None) -> np.ndarray:
    """Zeros outside, same size."""
    maps = [
        sum(correlate2d(channel, kernel, mode="same") for channel, kernel in zip(image_CHW, kernels, strict=True))
        for kernels in weight_OCkk
    ]
    return np.stack(maps) + (0 if bias_O is None else bias_O[:, None, None])


def up_conv(image_CHW, weight_OCkk) -> np.ndarray:
    """StyleGAN2's: zeros between pixels, the kernel spread from each pixel, then the filter, cut to twice the size."""
    channels, height, width = image_CHW.shape
    stuffed = np.zeros((channels, 2 * height - 1, 2 * width - 1))
    stuffed[:, ::2, ::2] = image_CHW
    maps = []
    for kernels in weight_OCkk:
        spread = sum(convolve2d(channel, kernel) for channel, kernel in zip(stuffed, kernels, strict=True))
        smooth = convolve2d(spread, TAPS)
        top, left = ((a - 2 * b) // 2 for a, b in zip(smooth.shape, (height, width), strict=True))
        maps.append(smooth[top : top + 2 * height, left : left + 2 * width])
    return np.stack(maps)


def active(image_CHW) -> np.ndarray:
    return np.where(image_CHW > 0, image_CHW, 0.2 * image_CHW) * math.sqrt(2)


def normed(image_CHW) -> np.ndarray:
    return (image_CHW - image_CHW.mean()) / np.sqrt(image_CHW.var() + 1e-5)


def random_biases(module: nn.Module) -> nn.Module:
    for weight in module.parameters():
        if weight.ndim == 1:
            nn.init.normal_(weight)
    return module.double()


def agree(ours, expected) -> None:
    np.testing.assert_allclose(array(ours), expected, atol=1e-10)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_filter_by_hand():
    """One pixel becomes four quarters of 9, 3, 3, 1 sixteenths; the mean of an image stays, but for its border."""
    impulse = torch.zeros(1, 1, 3, 3)
    impulse[0, 0, 1, 1] = 1
    agree(UpFilter().enlarge(impulse)[0, 0, 1:5, 1:5], TAPS)
    assert UpFilter().enlarge(torch.ones(1, 2, 5, 5))[:, :, 1:-1, 1:-1].unique().tolist() == [1.0]
    assert not UpFilter().state_dict()


@pytest.mark.parametrize("kernel", [1, 3])
def test_plain_convolution(kernel):
    layer = random_biases(EqualConv(3, 4, kernel, gain=0.7))
    image = torch.randn(2, 3, 5, 6).double()
    weight = array(layer.weight) / math.sqrt(3 * kernel**2)
    expected = [0.7 * active(conv(each, weight, array(layer.bias))) for each in array(image)]
    agree(layer(image), expected)
    passive = EqualConv(3, 4, kernel, active=False, bias=False, gain=0.7).double()
    assert passive.bias is None
    expected = [0.7 * conv(each, array(passive.weight) / math.sqrt(3 * kernel**2)) for each in array(image)]
    agree(passive(image), expected)


def test_upsampling_convolution():
    """The bias comes after the filter; the multiplier is in the stored weights and cancels."""
    layer = random_biases(EqualConv(3, 4, upsample=True, lr_multiplier=0.01))
    image = torch.randn(2, 3, 5, 4).double()
    weight = array(layer.weight) * 0.01 / math.sqrt(27)
    expected = [active(up_conv(each, weight) + array(layer.bias)[:, None, None]) for each in array(image)]
    agree(layer(image), expected)
    skip = EqualConv(3, 4, 1, upsample=True, active=False, bias=False, gain=0.5).double()
    agree(skip(image), [0.5 * up_conv(each, array(skip.weight) / math.sqrt(3)) for each in array(image)])


def test_initialization():
    assert EqualConv(64, 64).weight.std().item() == pytest.approx(1, rel=0.02)
    assert EqualConv(64, 64, upsample=True, lr_multiplier=0.01).weight.std().item() == pytest.approx(100, rel=0.02)
    assert not EqualConv(64, 64).bias.any()
    layer = StyledConv(6, 5, 4, modulate=True)
    assert layer.modulation.bias.tolist() == [1] * 6 + [0] * 6
    assert layer.modulation.weight.shape == (12, 4, 3, 3)
    assert StyledConv(6, 5, 4, modulate=True, upsample=True).modulation is None


def test_variance_is_kept():
    """Unit variance in, about unit variance out, whatever the channels: what the equalized scale is for."""
    image = torch.randn(2, 128, 16, 16)
    for layer in (EqualConv(128, 64), EqualConv(128, 64, 1), EqualConv(128, 64, active=False, bias=False)):
        assert layer(image).square().mean().item() == pytest.approx(1, rel=0.15)


def styled(layer: StyledConv, image_CHW, style_SHW, gain=1.0) -> np.ndarray:
    """Definition of a styled convolution."""
    image_CHW = normed(image_CHW)
    weight, bias = array(layer.conv.weight), array(layer.conv.bias)
    scale = 1 / math.sqrt(weight[0].size)
    if layer.conv.up is not None:
        return gain * active(up_conv(image_CHW, weight * scale) + bias[:, None, None])
    if layer.modulation is None:
        image_CHW = np.concatenate([image_CHW, style_SHW])
    else:
        heads = array(layer.modulation.weight)
        maps = conv(style_SHW, heads / math.sqrt(heads[0].size), array(layer.modulation.bias))
        image_CHW = image_CHW * maps[: len(image_CHW)] + maps[len(image_CHW) :]
    return gain * active(conv(image_CHW, weight * scale, bias))


@pytest.mark.parametrize("modulate", [True, False])
@pytest.mark.parametrize("upsample", [True, False])
def test_styled_block(modulate, upsample):
    block = random_biases(StyledBlock(3, 4, 2, modulate=modulate, upsample=upsample))
    image, size = 3 * torch.randn(2, 3, 4, 4).double() + 1, 8 if upsample else 4
    style = torch.randn(2, 2, size, size).double()
    for ours, image_CHW, style_SHW in zip(block(image, style), array(image), array(style), strict=True):
        path = styled(block.conv2, styled(block.conv1, image_CHW, style_SHW), style_SHW)
        skip = (up_conv if upsample else conv)(image_CHW, array(block.skip.weight) / math.sqrt(3))
        agree(ours, (path + skip) / math.sqrt(2))


@pytest.mark.parametrize("modulate", [True, False])
def test_a_batch_of_one_serves_all_images(modulate):
    """The generator's constant is not repeated: each image gets what it would get from its own copy."""
    block = StyledBlock(3, 4, 2, modulate=modulate, upsample=False).double()
    image, style = torch.randn(1, 3, 4, 4).double(), torch.randn(3, 2, 4, 4).double()
    torch.testing.assert_close(block(image, style), block(image.repeat(3, 1, 1, 1), style))


def pyramid(images=2, side=4) -> list[torch.Tensor]:
    return [torch.randn(images, 4 * 2**level, side * 4 // 2**level, side * 4 // 2**level) for level in range(3)]


def test_style_encoder_shapes():
    """Each style map is as large as its feature map and has no more channels."""
    encoder = StyleEncoder([4, 8, 16], 8, bottlenecks=2, convs=2)
    assert encoder.widths == [8, 8, 4]
    assert [tuple(style.shape) for style in encoder(pyramid())] == [(2, 8, 4, 4), (2, 8, 8, 8), (2, 4, 16, 16)]
    strides = [(part[0].kernel_size, part[0].stride, part[0].bias is not None) for part in encoder.shrink]
    assert strides == [((4, 4), (4, 4), True), ((2, 2), (2, 2), True), ((1, 1), (1, 1), True)]
    assert [part.eps for part in encoder.modules() if isinstance(part, nn.BatchNorm2d)] == [1e-6] * 4 + [1e-5] * 6
    assert encoder.merge[0].bias is None
    assert isinstance(encoder.merge[2], nn.ReLU)
    assert not any(isinstance(part, nn.ReLU) for part in encoder.shrink.modules())
    assert [len(stage) for stage in encoder.unfold] == [3, 3, 3]
    slow = [part for part in encoder.unfold.modules() if isinstance(part, EqualConv) and part.weight.std() > 50]
    assert slow == [encoder.unfold[1][0], encoder.unfold[2][0]]  # the upsampling ones alone


def test_style_encoder_in_order():
    """Finest first in, coarsest first out: an impulse in a finest corner shows in the corner of the coarsest map."""
    encoder = StyleEncoder([4, 8, 16], 8, bottlenecks=0, convs=0).eval()
    features = pyramid(1)
    changed = [features[0].clone(), *features[1:]]
    changed[0][0, :, 0, 0] += 10
    moved = [(a - b).abs().sum(dim=1)[0] for a, b in zip(encoder(features), encoder(changed), strict=True)]
    assert moved[0].nonzero().max() == 1  # the shrinking convolution's own cell, and a 3x3 around it
    assert moved[2].any()


def test_average_rescaling_and_shared_style():
    """No pyramid: the merged means, enlarged by the filter twice (scipy's bilinear zoom, away from the border)."""
    encoder = StyleEncoder([4, 8, 16], 8, bottlenecks=0, pyramid=False, rescaling="average").eval().double()
    assert encoder.widths == [8, 8, 8]
    assert sum(weight.numel() for weight in encoder.parameters()) == 28 * 8 + 16
    features = [feature.double() for feature in pyramid(1, side=6)]
    parts = []
    for feature, factor in zip(features, (4, 2, 1), strict=True):
        _, channels, height, width = feature.shape
        blocks = array(feature[0]).reshape(channels, height // factor, factor, width // factor, factor)
        parts.append(blocks.mean(axis=(2, 4)))
    merged = np.einsum("oc,chw->ohw", array(encoder.merge[0].weight)[:, :, 0, 0], np.concatenate(parts))
    expected = np.maximum(merged / math.sqrt(1 + 1e-6), 0)
    coarse, middle, fine = encoder(features)
    agree(coarse[0], expected)
    doubled = zoom(expected, (1, 2, 2), order=1, grid_mode=True, mode="nearest")
    agree(middle[0, :, 1:-1, 1:-1], doubled[:, 1:-1, 1:-1])
    quadrupled = zoom(doubled, (1, 2, 2), order=1, grid_mode=True, mode="nearest")
    agree(fine[0, :, 3:-3, 3:-3], quadrupled[:, 3:-3, 3:-3])


def test_generator_shapes():
    generator = Generator([4, 8, 16], [8, 8, 4], 3, blocks=2, side=5, modulate=True)
    styles = [torch.randn(2, width, side, side) for width, side in zip((8, 8, 4), (5, 10, 20), strict=True)]
    assert [tuple(feature.shape) for feature in generator(styles)] == [(2, 4, 20, 20), (2, 8, 10, 10), (2, 16, 5, 5)]
    assert generator.constant_1CHW.std().item() == pytest.approx(1, rel=0.1)
    unstyled = [block.conv1.modulation is None for stage in generator.stages for block in stage]
    assert unstyled == [False, False, True, False, True, False]
    assert all(block.conv2.modulation is not None for stage in generator.stages for block in stage)


def test_generator_begins_with_the_constant():
    """The coarsest features, from the definitions: constant, convolution, head, one block."""
    generator = random_biases(Generator([2, 3], [4, 4], 2, blocks=1, side=3, modulate=True))
    styles = [torch.randn(1, 4, side, side).double() for side in (3, 6)]

    def plain(layer: EqualConv, image_CHW) -> np.ndarray:
        weight = array(layer.weight)
        return active(conv(image_CHW, weight / math.sqrt(weight[0].size), array(layer.bias)))

    start = plain(generator.conv, array(generator.constant_1CHW[0]))
    style = plain(generator.heads[0][1], plain(generator.heads[0][0], array(styles[0][0])))
    block = generator.stages[0][0]
    path = styled(block.conv2, styled(block.conv1, start, style), style)
    expected = (path + conv(start, array(block.skip.weight) / math.sqrt(3))) / math.sqrt(2)
    agree(generator(styles)[1][0], expected)


def test_norm_keeps_float32_statistics():
    """A bfloat16 map far from 0: its norm comes from float32 sums."""
    layer = StyledConv(64, 8, 2, modulate=True)
    nn.init.zeros_(layer.modulation.weight)
    image, style = (torch.randn(1, 64, 16, 16) + 30).bfloat16(), torch.randn(1, 2, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(image, style)
    exact = layer(image.float(), style)
    assert (rough.float() - exact).abs().max() < 0.02 * exact.abs().max()
