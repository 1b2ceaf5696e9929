"""Normalizing flows: invertible networks whose log-determinant is known, so that they give likelihoods.

Products of matrices follow the autocast precision; the flow's state, its log-determinants and its likelihoods do not:
a sum of thousands of squares or of log-scales is worth nothing with 8 bits.

Shapes in names: N vectors or images, C channels (C1 passed through, C2 transformed), H height, W width, D channels of
the condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.nets.scoring.maps import full

#: Makes the network that predicts a coupling's coefficients, from its numbers of input and output channels.
Subnet = Callable[[int, int], nn.Module]

#: Of the coefficients, so that an untrained coupling is nearly the identity.
COEFFICIENT_SCALE = 0.1


def multilayer_perceptron(inputs: int, outputs: int, expansion: int = 2) -> nn.Sequential:
    """A coupling network for vectors: two linear layers, ``expansion`` times as wide as the input in between."""
    hidden = expansion * inputs
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


def random_rotation(channels: int) -> Tensor:
    """A rotation (C, C) drawn uniformly from the special orthogonal group, float32.

    The orthogonal factor of a Gaussian matrix is uniformly distributed once the triangular one has a positive diagonal
    (Mezzadri, "How to generate random matrices from the classical compact groups", 2007). Where its determinant is
    -1, reversing a column brings it into the group. Rounded from float64, in which R R^T = 1 to 1e-8.
    """
    orthogonal_CC, triangular_CC = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
    rotation_CC = orthogonal_CC * triangular_CC.diagonal().sign()
    rotation_CC[:, 0] *= torch.linalg.slogdet(rotation_CC).sign
    rounded_CC: Tensor = rotation_CC.float()
    return rounded_CC


def log_likelihood(latent_NC: Tensor, log_determinant_N: Tensor) -> Tensor:
    """log p(x) (N,) of vectors that a flow maps to ``latent``, under a standard normal distribution of the latter."""
    latent_NC = full(latent_NC)
    constant = -0.5 * latent_NC.shape[1] * math.log(2 * math.pi)
    return constant - 0.5 * latent_NC.square().sum(dim=1) + log_determinant_N


class AffineCoupling(nn.Module):
    """Affine coupling, global affine and a mixing M of the channels: x -> M (g * [x1, x2 * exp(s) + t] + o).

    The coefficients s and t of one half of the channels are a network's answer to the other half and the condition;
    s is bounded by ``clamp``. The scale g and the offset o are trained and begin as the identity; M is orthogonal,
    fixed and random. It is FrEIA's all-in-one block, and initialized as that. Derived classes say what M is.

    Values are vectors (N, C) or maps (N, C, H, W), of which every place has the same g, o and M.

    Args:
        channels: C.
        condition: D, 0 for none.
        clamp: bound of the log-scale of a coupling.
        subnet: makes the coupling network.
    """

    def __init__(self, channels: int, condition: int, clamp: float, subnet: Subnet) -> None:
        super().__init__()
        self.clamp = clamp
        self.sizes = [channels - channels // 2, channels // 2]
        self.subnet = subnet(self.sizes[0] + condition, 2 * self.sizes[1])
        self.scale_C = nn.Parameter(torch.full((channels,), 2 * math.log(math.exp(5) - 1)))  # of which _scale makes 1
        self.offset_C = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """The transformed values and the log-determinants (N,), both at least float32.

        Args:
            x: (N, C) or (N, C, H, W).
            condition: (N, D), or (N, D, H, W).
        """
        kept, moved = torch.split(full(x), self.sizes, dim=1)
        log_scale, shift = self._coefficients(kept, condition)
        moved = torch.addcmul(shift, moved, log_scale.exp())
        scale_C = self._scale()
        y = torch.addcmul(_along(self.offset_C, x), torch.cat([kept, moved], dim=1), _along(scale_C, x))
        places = x[0, 0].numel()
        return self._mix(y), log_scale.flatten(1).sum(dim=1) + places * scale_C.log().sum()

    def inverse(self, y: Tensor, condition: Tensor | None) -> Tensor:
        """The values that ``forward`` maps to these."""
        y = self._unmix(full(y))
        kept, moved = torch.split((y - _along(self.offset_C, y)) / _along(self._scale(), y), self.sizes, dim=1)
        log_scale, shift = self._coefficients(kept, condition)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1)

    def _coefficients(self, kept: Tensor, condition: Tensor | None) -> Sequence[Tensor]:
        """Log-scales and shifts of C2 channels."""
        inputs = kept if condition is None else torch.cat([kept, condition], dim=1)
        raw, shift = (COEFFICIENT_SCALE * full(self.subnet(inputs))).chunk(2, dim=1)
        return self.clamp * torch.tanh(raw), shift

    def _scale(self) -> Tensor:
        """g, kept positive by a soft and long-reaching ramp."""
        return 0.1 * F.softplus(self.scale_C, beta=0.5)

    def _mix(self, y: Tensor) -> Tensor:
        """M y, at least float32."""
        raise NotImplementedError

    def _unmix(self, y: Tensor) -> Tensor:
        """What ``_mix`` makes y of."""
        raise NotImplementedError


class CouplingBlock(AffineCoupling):
    """Coupling of vectors (N, C), mixed by a random rotation: FrEIA's block with soft permutation.

    Args:
        channels, condition, clamp, subnet: as ``AffineCoupling``'s.
    """

    rotation_CC: Tensor

    def __init__(self, channels: int, condition: int, clamp: float, subnet: Subnet = multilayer_perceptron) -> None:
        super().__init__(channels, condition, clamp, subnet)
        self.register_buffer("rotation_CC", random_rotation(channels))

    def _mix(self, y: Tensor) -> Tensor:
        return full(F.linear(y, self.rotation_CC))

    def _unmix(self, y: Tensor) -> Tensor:
        return full(F.linear(y, self.rotation_CC.T))


class PermutedCoupling(AffineCoupling):
    """Coupling of maps (N, C, H, W), whose channels are put in another order: FrEIA's block with hard permutation.

    The order is a gather by index: exact in any precision, without the C x C products of a 1x1 convolution.

    Args:
        channels, condition, clamp, subnet: as ``AffineCoupling``'s.
    """

    order_C: Tensor

    def __init__(self, channels: int, condition: int, clamp: float, subnet: Subnet) -> None:
        super().__init__(channels, condition, clamp, subnet)
        self.register_buffer("order_C", torch.randperm(channels))

    def _mix(self, y: Tensor) -> Tensor:
        return y.index_select(1, self.order_C)

    def _unmix(self, y: Tensor) -> Tensor:
        return y.index_select(1, self.order_C.argsort())


def _along(value_C: Tensor, like: Tensor) -> Tensor:
    """A number for each channel in the shape that vectors or maps take."""
    return value_C.view(-1, *[1] * (like.ndim - 2))


class Flow(nn.Module):
    """Blocks one after another, each given the same condition.

    Args:
        blocks: couplings of vectors (N, C) or of maps (N, C, H, W).
    """

    def __init__(self, blocks: Iterable[AffineCoupling]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent values, shaped as ``x``, and log-determinants (N,)."""
        log_determinants = []
        for block in self.blocks:
            x, log_determinant_N = block(x, condition)
            log_determinants.append(log_determinant_N)
        return x, torch.stack(log_determinants).sum(dim=0)

    def inverse(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        """What ``forward`` maps to these latent values: samples of the data where these are normal."""
        for block in reversed(self.blocks):
            assert isinstance(block, AffineCoupling)
            latent = block.inverse(latent, condition)
        return latent
