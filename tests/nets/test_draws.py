"""Random numbers per image: SplitMix64 as published, independent of the batch; rotation against torchvision's."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from scipy import stats
from torch.nn.functional import avg_pool2d

from ader.nets.scoring.maps import pooled_maximum
from ader.nets.synthesis.draws import integers, normal, uniform
from ader.nets.synthesis.geometry import rotate

WORD = 2**64 - 1


def splitmix(value: int) -> int:
    """The output function in Python's unbounded integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
    return value ^ (value >> 31)


def test_splitmix64_as_published():
    """The generator's first outputs for seed 1234567 (Rosetta Code's test vector of SplitMix64)."""
    state, outputs = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & WORD
        outputs.append(splitmix(state))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 1, 2**62 + 12345, -5])
def test_uniform_is_splitmix64_of_seed_and_purpose(seed):
    start = int.from_bytes(hashlib.sha256(b"beta").digest()[:8], "big")
    base = splitmix((seed + start) & WORD)
    expected = [(splitmix((base + place * 0x9E3779B97F4A7C15) & WORD) >> 40) / 2**24 for place in range(1, 7)]
    assert uniform(torch.tensor([seed]), "beta", 2, 3).flatten().tolist() == expected


def test_an_image_draws_the_same_in_any_batch():
    seed_B = torch.tensor([3, 2**60, 7])
    whole = uniform(seed_B, "mask", 4, 5)
    for place in range(3):
        assert uniform(seed_B[place : place + 1], "mask", 4, 5)[0].equal(whole[place])
    assert uniform(seed_B, "mask").shape == (3,)


def test_distributions():
    """Kolmogorov and Smirnov's test, over images and over places; purposes and neighboring seeds are uncorrelated."""
    seed_B = torch.arange(2000)
    for values in (uniform(seed_B, "a"), uniform(seed_B[:1], "a", 2000)[0], uniform(seed_B, "b")):
        assert stats.kstest(values.numpy(), "uniform").pvalue > 0.01
        assert values.min() >= 0
        assert values.max() < 1
    assert stats.kstest(normal(seed_B, "a").numpy(), "norm").pvalue > 0.01
    pairs = torch.stack(
        [uniform(seed_B, "a"), uniform(seed_B, "b"), uniform(seed_B + 1, "a"), uniform(seed_B, "a", 2)[:, 1]]
    )
    correlation = torch.corrcoef(pairs).fill_diagonal_(0).abs().max()
    assert correlation < 4 / math.sqrt(2000)
    drawn = integers(seed_B, "dice", 6)
    assert stats.chisquare(torch.bincount(drawn, minlength=6).numpy()).pvalue > 0.01
    assert set(drawn.tolist()) == set(range(6))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_rotation_is_torchvisions(mode, shape):
    image_BCHW = torch.rand(3, 2, *shape)
    degrees_B = torch.tensor([0.0, 33.0, -77.0])
    turned = rotate(image_BCHW, degrees_B, mode)
    for image, angle, got in zip(image_BCHW, degrees_B.tolist(), turned, strict=True):
        expected = tv.rotate(image, angle, tv.InterpolationMode(mode))
        share = ((got - expected).abs() > 1e-4).float().mean()
        assert share < 0.01, f"{angle} degrees: {share:.3f} of the pixels differ"  # those that fall between two
    torch.testing.assert_close(turned[0], image_BCHW[0], atol=1e-4, rtol=0)


def test_pooled_maximum():
    map_BHW = torch.rand(2, 20, 24)
    expected = [max(float(each[y : y + 5, x : x + 5].mean()) for y in range(16) for x in range(20)) for each in map_BHW]
    assert pooled_maximum(map_BHW, 5).tolist() == pytest.approx(expected, rel=1e-5)
    assert pooled_maximum(map_BHW, 1).equal(map_BHW.amax(dim=(1, 2)))
    assert (
        pooled_maximum(map_BHW, 99).tolist()
        == pytest.approx(  # cut to the shorter side
            [max(float(each[:, x : x + 20].mean()) for x in range(5)) for each in map_BHW], rel=1e-5
        )
    )
    padded = torch.zeros(2, 24, 28)
    padded[:, 2:-2, 2:-2] = map_BHW
    assert pooled_maximum(map_BHW, 5, padding=2).equal(avg_pool2d(padded[:, None], 5, stride=1).amax(dim=(1, 2, 3)))
