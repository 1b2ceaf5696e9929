"""Normalizing flows against their definitions: change of variables, inverses, rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from ader.nets.flows import (
    CouplingBlock,
    Flow,
    PermutedCoupling,
    log_likelihood,
    multilayer_perceptron,
    random_rotation,
)


def trained(channels: int, condition: int, blocks: int) -> Flow:
    """A flow in float64 with weights far from their initial values, and rotations without the rounding to float32."""
    torch.manual_seed(0)
    flow = Flow(CouplingBlock(channels, condition, clamp=1.9) for _ in range(blocks)).double()
    with torch.no_grad():
        for block in flow.blocks:
            left, _, right = torch.linalg.svd(block.rotation_CC)
            block.rotation_CC.copy_(left @ right)
            block.scale_C += 2 * torch.randn_like(block.scale_C)
            block.offset_C += torch.randn_like(block.offset_C)
            for weight in block.subnet.parameters():
                weight *= 5
    return flow


class Constant(nn.Module):
    """A coupling network that gives the same coefficients for all inputs, and keeps these."""

    def __init__(self, value: list[float]) -> None:
        super().__init__()
        self.value = torch.tensor(value)

    def forward(self, inputs: Tensor) -> Tensor:
        self.inputs = inputs
        return self.value.expand(len(inputs), -1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 17])
def test_rotations_are_rotations(channels):
    for seed in range(20):
        torch.manual_seed(seed)
        rotation = random_rotation(channels)
        assert rotation.dtype == torch.float32
        exact = rotation.double().numpy()
        np.testing.assert_allclose(exact @ exact.T, np.eye(channels), atol=3e-7)
        assert np.linalg.det(exact) == pytest.approx(1, abs=1e-5)


def test_rotations_are_uniform():
    """In the plane: the angle is uniform. In space: so is each coordinate of a turned axis (Archimedes)."""
    torch.manual_seed(0)
    plane = torch.stack([random_rotation(2) for _ in range(2000)])
    angles = torch.atan2(plane[:, 1, 0], plane[:, 0, 0]).numpy()
    assert stats.kstest(angles, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    space = torch.stack([random_rotation(3) for _ in range(2000)]).numpy()
    for row in range(3):
        for column in range(3):
            assert stats.kstest(space[:, row, column], stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_block_by_hand():
    """Three channels, of which the last is transformed by what the first two and the condition say."""
    block = CouplingBlock(3, 1, clamp=1.9, subnet=lambda inputs, outputs: Constant([7.0, -4.0][:outputs]))
    with torch.no_grad():
        block.rotation_CC.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
        block.scale_C.copy_(torch.tensor([1.0, -2.0, 30.0]))
        block.offset_C.copy_(torch.tensor([0.5, -1.0, 2.0]))
    x, condition = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]]), torch.tensor([[9.0], [8.0]])
    y, log_determinant = block(x, condition)
    assert block.subnet.inputs.tolist() == [[1.0, 2.0, 9.0], [-1.0, 0.5, 8.0]]
    log_scale, shift = 1.9 * math.tanh(0.1 * 7), 0.1 * -4
    gains = [0.1 * 2 * math.log1p(math.exp(raw / 2)) for raw in (1.0, -2.0, 30.0)]  # softplus of beta 1/2
    for (first, second, third), out in zip(x.tolist(), y.tolist(), strict=True):
        before = [gains[0] * first + 0.5, gains[1] * second - 1, gains[2] * (third * math.exp(log_scale) + shift) + 2]
        assert out == pytest.approx([before[1], before[2], before[0]], rel=1e-5)
    assert log_determinant.tolist() == pytest.approx([log_scale + sum(map(math.log, gains))] * 2, rel=1e-5)


def test_more_channels_pass_through_than_are_transformed():
    seen = []
    CouplingBlock(7, 3, clamp=2.0, subnet=lambda inputs, outputs: seen.append((inputs, outputs)) or nn.Identity())
    assert seen == [(4 + 3, 2 * 3)]


def test_initial_values():
    """A block begins as a rotation, but for its coupling; linear layers as torch makes them."""
    torch.manual_seed(0)
    block = CouplingBlock(64, 16, clamp=1.9)
    x = torch.randn(5, 64)
    with torch.no_grad():
        for weight in block.subnet.parameters():
            weight.zero_()
    y, log_determinant = block(x, torch.randn(5, 16))
    torch.testing.assert_close(y, x @ block.rotation_CC.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_determinant, torch.zeros(5), atol=1e-4, rtol=0)
    assert block.offset_C.eq(0).all()
    first, relu, second = multilayer_perceptron(300, 40)
    assert isinstance(relu, nn.ReLU)
    assert [(part.in_features, part.out_features) for part in (first, second)] == [(300, 600), (600, 40)]
    for part in (first, second):
        assert part.weight.std().item() == pytest.approx(1 / math.sqrt(3 * part.in_features), rel=0.03)
        assert part.bias.abs().max().item() <= 1 / math.sqrt(part.in_features)


@pytest.mark.parametrize(("channels", "condition"), [(6, 4), (5, 4), (2, 0)])
def test_determinant_is_that_of_the_jacobian(channels, condition):
    flow = trained(channels, condition, blocks=3)
    x = torch.randn(4, channels, dtype=torch.float64)
    given = torch.randn(4, condition, dtype=torch.float64) if condition else None
    _, log_determinant = flow(x, given)
    for row in range(4):
        part = None if given is None else given[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, part=part: flow(v[None], part)[0][0], x[row])
        expected = torch.linalg.slogdet(jacobian).logabsdet
        assert log_determinant[row].item() == pytest.approx(expected.item(), abs=1e-9)
        assert abs(log_determinant[row].item()) > 0.1  # there is something to get wrong


@pytest.mark.parametrize(("channels", "condition"), [(6, 4), (5, 4), (2, 0)])
def test_inverse(channels, condition):
    flow = trained(channels, condition, blocks=4)
    x = torch.randn(50, channels, dtype=torch.float64)
    given = torch.randn(50, condition, dtype=torch.float64) if condition else None
    latent, _ = flow(x, given)
    assert (latent - x).abs().max() > 0.5
    with torch.no_grad():
        torch.testing.assert_close(flow.inverse(latent, given), x, atol=1e-9, rtol=0)
        if given is not None:  # the condition matters
            assert (flow.inverse(latent, given.flip(0)) - x).abs().max() > 0.01


def test_likelihood_is_the_normal_density():
    latent = torch.tensor([[0.3, -1.2, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = stats.multivariate_normal(np.zeros(3)).logpdf(latent.numpy()) + np.array([0.7, -0.2])
    np.testing.assert_allclose(log_likelihood(latent, torch.tensor([0.7, -0.2], dtype=torch.float64)), expected)


def test_density_integrates_to_one():
    """Change of variables as a whole: the density of two channels, summed over a grid."""
    flow = trained(2, 0, blocks=2)
    axis = torch.arange(-20, 20, 0.05, dtype=torch.float64)
    with torch.no_grad():
        likelihood = log_likelihood(*flow(torch.cartesian_prod(axis, axis)))
    assert likelihood.exp().sum().item() * 0.05**2 == pytest.approx(1, abs=2e-3)


def test_bfloat16():
    """Matrix products round to 8 bits, sums over 512 channels do not: 0.01 per dimension, of values around 1."""
    torch.manual_seed(0)
    flow = Flow(CouplingBlock(512, 128, clamp=1.9) for _ in range(8))
    x, condition = torch.randn(64, 512), torch.randn(64, 128)
    with torch.no_grad():
        exact, exact_determinant = flow(x, condition)
        with torch.autocast("cpu", torch.bfloat16):
            rough, rough_determinant = flow(x, condition)
            likelihood = log_likelihood(rough, rough_determinant)
    assert rough.dtype == rough_determinant.dtype == likelihood.dtype == torch.float32
    torch.testing.assert_close(rough_determinant / 512, exact_determinant / 512, atol=2e-4, rtol=0)
    expected = log_likelihood(exact, exact_determinant)
    torch.testing.assert_close(likelihood / 512, expected / 512, atol=2e-3, rtol=0)
    # half-precision latents, as another flow may hand over, are squared and summed in float32
    half = exact.bfloat16()
    summed = log_likelihood(half.double(), exact_determinant.double())
    torch.testing.assert_close(log_likelihood(half, exact_determinant).double(), summed, atol=0, rtol=1e-5)


def maps_flow(channels: int, condition: int, blocks: int) -> Flow:
    """A flow of maps in float64 with weights far from their initial values."""
    torch.manual_seed(0)

    def subnet(inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 3, padding=1)

    flow = Flow(PermutedCoupling(channels, condition, 2.0, subnet) for _ in range(blocks)).double()
    with torch.no_grad():
        for block in flow.blocks:
            block.scale_C += 2 * torch.randn_like(block.scale_C)
            block.offset_C += torch.randn_like(block.offset_C)
            for weight in block.subnet.parameters():
                weight *= 5
    return flow


@pytest.mark.parametrize(("channels", "condition"), [(4, 0), (5, 2)])
def test_flow_of_maps_and_its_inverse(channels, condition):
    """The log-determinant is the Jacobian's; ``inverse`` leads back, image by image."""
    flow = maps_flow(channels, condition, 3)
    x = torch.randn(2, channels, 3, 2, dtype=torch.float64)
    given = torch.randn(2, condition, 3, 2, dtype=torch.float64) if condition else None
    latent, log_determinant = flow(x, given)
    assert latent.shape == x.shape
    torch.testing.assert_close(flow.inverse(latent, given), x)
    for place in range(2):
        own = None if given is None else given[place : place + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda value, own=own: flow(value, own)[0].flatten(), x[place : place + 1]
        )
        exact = torch.linalg.slogdet(jacobian.reshape(x[0].numel(), x[0].numel())).logabsdet
        torch.testing.assert_close(log_determinant[place], exact)


def test_channels_are_permuted_alike_at_every_place():
    """Output channel c is input channel order[c]; all orders come up."""
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        block = PermutedCoupling(3, 0, 2.0, lambda inputs, outputs: Zero(outputs))
        x = torch.rand(1, 3, 2, 2)
        torch.testing.assert_close(block(x, None)[0], x[:, block.order_C], atol=1e-6, rtol=0)
        seen.add(tuple(block.order_C.tolist()))
    assert len(seen) == 6


class Zero(nn.Module):
    """A coupling network that leaves everything as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(len(inputs), self.channels, *inputs.shape[2:])
