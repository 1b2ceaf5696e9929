"""The scan as a few dozen tensor operations, for graphs that other programs run: in step s each token takes what the
one 2^s before it has gathered. It holds all states at once and goes through them log2(L) times.

Shapes in names: B images, K directions, L tokens, D channels, N states of a channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scan(
    x_BLD: Tensor, raw_KBLD: Tensor, decay_KND: Tensor, input_KBLN: Tensor, output_KBLN: Tensor, order_KL: Tensor
) -> Tensor:
    """As ``selective_scan``."""
    tokens = x_BLD.shape[1]
    delta_KBLD = F.softplus(raw_KBLD)
    total_BLD = torch.zeros_like(x_BLD)
    for k, order_L in enumerate(order_KL.unbind()):
        delta_BL1D = delta_KBLD[k].index_select(1, order_L)[:, :, None]
        a_BLND = torch.exp(delta_BL1D * decay_KND[k])
        input_BLN1 = input_KBLN[k].index_select(1, order_L)[..., None]
        h_BLND = delta_BL1D * x_BLD.index_select(1, order_L)[:, :, None] * input_BLN1
        step = 1
        while step < tokens:
            h_BLND = torch.cat([h_BLND[:, :step], h_BLND[:, step:] + a_BLND[:, step:] * h_BLND[:, :-step]], dim=1)
            a_BLND = torch.cat([a_BLND[:, :step], a_BLND[:, step:] * a_BLND[:, :-step]], dim=1)
            step *= 2
        output_BLN1 = output_KBLN[k].index_select(1, order_L)[..., None]
        total_BLD = total_BLD + (h_BLND * output_BLN1).sum(dim=2).index_select(1, order_L.argsort())
    return total_BLD
