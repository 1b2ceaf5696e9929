"""Normalizing flows: invertible networks whose log-determinant is known, so that they give likelihoods.

Products of matrices follow the autocast precision; the flow's state, its log-determinants and its likelihoods do not:
a sum of thousands of squares or of log-scales is worth nothing with 8 bits.

Shapes in names: N vectors, C channels (C1 passed through, C2 transformed), D channels of the condition.
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


class CouplingBlock(nn.Module):
    """Affine coupling, global affine and rotation of vectors: x -> R (g * [x1, x2 * exp(s) + t] + o).

    The coefficients s and t of one half of the channels are a network's answer to the other half and the condition;
    s is bounded by ``clamp``. The scale g and the offset o are trained and begin as the identity; R is a fixed random
    rotation. It is FrEIA's all-in-one block with soft permutation, and initialized as that.

    Args:
        channels: C.
        condition: D, 0 for none.
        clamp: bound of the log-scale of a coupling.
        subnet: makes the coupling network.
    """

    rotation_CC: Tensor

    def __init__(self, channels: int, condition: int, clamp: float, subnet: Subnet = multilayer_perceptron) -> None:
        super().__init__()
        self.clamp = clamp
        self.sizes = [channels - channels // 2, channels // 2]
        self.subnet = subnet(self.sizes[0] + condition, 2 * self.sizes[1])
        self.scale_C = nn.Parameter(torch.full((channels,), 2 * math.log(math.exp(5) - 1)))  # of which _scale makes 1
        self.offset_C = nn.Parameter(torch.zeros(channels))
        self.register_buffer("rotation_CC", random_rotation(channels))

    def forward(self, x_NC: Tensor, condition_ND: Tensor | None) -> tuple[Tensor, Tensor]:
        """The transformed vectors and the log-determinants (N,), both at least float32."""
        kept_NC, moved_NC = torch.split(full(x_NC), self.sizes, dim=1)
        log_scale_NC, shift_NC = self._coefficients(kept_NC, condition_ND)
        moved_NC = torch.addcmul(shift_NC, moved_NC, log_scale_NC.exp())
        scale_C = self._scale()
        y_NC = torch.addcmul(self.offset_C, torch.cat([kept_NC, moved_NC], dim=1), scale_C)
        return full(F.linear(y_NC, self.rotation_CC)), log_scale_NC.sum(dim=1) + scale_C.log().sum()

    def inverse(self, y_NC: Tensor, condition_ND: Tensor | None) -> Tensor:
        """The vectors that ``forward`` maps to these."""
        y_NC = full(F.linear(full(y_NC), self.rotation_CC.T))
        kept_NC, moved_NC = torch.split((y_NC - self.offset_C) / self._scale(), self.sizes, dim=1)
        log_scale_NC, shift_NC = self._coefficients(kept_NC, condition_ND)
        return torch.cat([kept_NC, (moved_NC - shift_NC) * torch.exp(-log_scale_NC)], dim=1)

    def _coefficients(self, kept_NC: Tensor, condition_ND: Tensor | None) -> Sequence[Tensor]:
        """Log-scales and shifts (N, C2)."""
        inputs = kept_NC if condition_ND is None else torch.cat([kept_NC, condition_ND], dim=1)
        raw_NC, shift_NC = (COEFFICIENT_SCALE * full(self.subnet(inputs))).chunk(2, dim=1)
        return self.clamp * torch.tanh(raw_NC), shift_NC

    def _scale(self) -> Tensor:
        """g, kept positive by a soft and long-reaching ramp."""
        return 0.1 * F.softplus(self.scale_C, beta=0.5)


class Flow(nn.Module):
    """Blocks one after another, each given the same condition.

    Args:
        blocks: modules with ``CouplingBlock``'s ``forward`` and ``inverse``.
    """

    def __init__(self, blocks: Iterable[CouplingBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_NC: Tensor, condition_ND: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent vectors (N, C) and log-determinants (N,)."""
        log_determinants = []
        for block in self.blocks:
            x_NC, log_determinant_N = block(x_NC, condition_ND)
            log_determinants.append(log_determinant_N)
        return x_NC, torch.stack(log_determinants).sum(dim=0)

    def inverse(self, latent_NC: Tensor, condition_ND: Tensor | None = None) -> Tensor:
        """The vectors that ``forward`` maps to these latent ones: samples of the data where these are normal."""
        for block in reversed(self.blocks):
            assert isinstance(block, CouplingBlock)
            latent_NC = block.inverse(latent_NC, condition_ND)
        return latent_NC
