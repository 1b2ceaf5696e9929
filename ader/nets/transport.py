"""Optimal transport between two small sets of vectors.

Shapes in names: N points of either set, D dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinkhorn_divergence(
    first_ND: Tensor, second_ND: Tensor, blur: float = 0.05, scaling: float = 0.95, diameter: float | None = None
) -> Tensor:
    """Debiased Sinkhorn divergence ``OT(x, y) - (OT(x, x) + OT(y, y)) / 2`` of two sets of equally heavy points, with
    the cost ``|x - y|^2 / 2`` (Feydy et al., "Interpolating between Optimal Transport and MMD using Sinkhorn
    Divergences", AISTATS 2019). It vanishes for equal sets, and for small ``blur`` becomes half the mean squared
    distance of the best assignment.

    The potentials come from symmetric updates in the log domain: at each temperature all four are averaged with their
    new values at once. The temperature falls from ``diameter`` squared by ``scaling`` squared at each update to
    ``blur`` squared (epsilon scaling), and a last, unaveraged update there carries the gradient, as geomloss has it.

    Args:
        first_ND, second_ND: the points, as many of either.
        blur: square root of the last temperature, in the points' own unit.
        scaling: factor of the temperature's square root, in (0, 1).
        diameter: square root of the first temperature; None: the largest distance of two points.

    Returns:
        A scalar in at least float32.
    """
    cost_4NN = _costs(first_ND, second_ND)
    log_weight = -math.log(len(first_ND))
    with torch.no_grad():
        widest = float((2 * cost_4NN.max()).sqrt()) if diameter is None else diameter
        temperatures = _falling(widest, blur, scaling)
        fixed_4NN = cost_4NN.detach()
        potential_4N = _softmin(fixed_4NN, torch.zeros_like(fixed_4NN[:, 0]), temperatures[0], log_weight)
        for temperature in temperatures:
            potential_4N = (potential_4N + _softmin(fixed_4NN, potential_4N, temperature, log_weight)) / 2
    potential_4N = _softmin(cost_4NN, potential_4N, temperatures[-1], log_weight)
    of_first, of_second, first_alone, second_alone = potential_4N.mean(dim=1)
    divergence: Tensor = of_first - first_alone + of_second - second_alone
    return divergence


#: Of the four potentials (of the first set against the second, the second against the first, and each against itself)
#: which one the update of each looks at.
_OTHER = (1, 0, 2, 3)


def _costs(first_ND: Tensor, second_ND: Tensor) -> Tensor:
    """Half squared distances (4, N, N): first to second, second to first, and inside both. Gradients reach the points
    from which a potential looks, the rows, and not those that it looks at: else each would count twice."""
    kind = torch.promote_types(first_ND.dtype, torch.float32)
    both_2ND = torch.stack([first_ND.to(kind), second_ND.to(kind)])
    both_2ND = both_2ND - both_2ND.detach().mean(dim=(0, 1))  # distances stay, and less is cancelled in them
    from_4ND, to_4ND = both_2ND[[0, 1, 0, 1]], both_2ND.detach()[[1, 0, 0, 1]]
    squares_4NN = from_4ND.square().sum(dim=2)[:, :, None] + to_4ND.square().sum(dim=2)[:, None]
    costs_4NN: Tensor = squares_4NN / 2 - from_4ND @ to_4ND.mT
    return costs_4NN.clamp(min=0)


def _softmin(cost_4NN: Tensor, potential_4N: Tensor, temperature: float, log_weight: float) -> Tensor:
    """What each potential becomes: the smooth minimum over the other set of the cost less its potential."""
    other_4N = potential_4N[list(_OTHER)]
    return -temperature * (log_weight + (other_4N[:, None] - cost_4NN) / temperature).logsumexp(dim=2)


def _falling(diameter: float, blur: float, scaling: float) -> list[float]:
    """Temperatures, from ``diameter`` squared to ``blur`` squared."""
    steps = math.ceil(math.log(max(diameter, blur) / blur) / -math.log(scaling))
    return [max(diameter * scaling**step, blur) ** 2 for step in range(steps)] + [blur**2]
