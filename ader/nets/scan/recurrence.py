"""The scan in torch alone: on every device, in every precision, a chunk of tokens at a time.

Within a chunk all decays and inputs are made at once. What remains is h_t = a_t h_(t-1) + b_t, for which a chunk is cut
into lanes that advance side by side from zero states; then each lane takes the state that the one before it ends with,
times its own decays so far. These are products of numbers in (0, 1]: nothing is divided by a product that has become
zero. One lane is the plain recurrence, the least work; square root of T lanes are the fewest steps, which is what a GPU
waits for.

Shapes in names: B images, K directions, L tokens, D channels, N states of a channel, S chunks, T tokens of a chunk,
J tokens of a lane, M numbers of a token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Numbers (B K N D per token) of a chunk. A processor wants them in its cache; a GPU has bandwidth and wants work:
#: 128 MiB for each of about five tensors.
NUMBERS = {"cpu": 2**18, "cuda": 2**25}
#: Tokens of a chunk: fewer would keep too many states.
LEAST, MOST = 16, 256


def chunk_length(x_BLD: Tensor, decay_KND: Tensor) -> int:
    """Tokens of a chunk."""
    numbers = NUMBERS["cpu" if x_BLD.device.type == "cpu" else "cuda"]
    fitting = numbers // max(1, len(x_BLD) * decay_KND.numel())
    return min(max(1 << max(fitting, 1).bit_length() - 1, LEAST), MOST)


def forward(
    x_BLD: Tensor,
    delta_KBLD: Tensor,
    decay_KND: Tensor,
    input_KBLN: Tensor,
    output_KBLN: Tensor,
    order_KL: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The outputs (B, L, D), and the states before each chunk (S, B, K, N, D); none of them unless ``keep``."""
    y_BLD = torch.zeros_like(x_BLD)
    state_BKND = x_BLD.new_zeros(len(x_BLD), *decay_KND.shape)
    borders = []
    for index_KT in torch.split(order_KL, chunk_length(x_BLD, decay_KND), dim=1):
        if keep:
            borders.append(state_BKND)
        _, h_TBKND = _states(x_BLD, delta_KBLD, decay_KND, input_KBLN, index_KT, state_BKND)
        state_BKND = h_TBKND[-1].clone()
        output_TBKN1 = _picked(output_KBLN, index_KT)[..., None]
        _put(y_BLD, index_KT, h_TBKND.mul_(output_TBKN1).sum(dim=3))
    return y_BLD, torch.stack(borders) if borders else x_BLD.new_empty(0, *state_BKND.shape)


def backward(
    x_BLD: Tensor,
    delta_KBLD: Tensor,
    decay_KND: Tensor,
    input_KBLN: Tensor,
    output_KBLN: Tensor,
    order_KL: Tensor,
    border_SBKND: Tensor,
    dy_BLD: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first five arguments; the states are computed again, chunk by chunk from the last."""
    dx_BLD, ddelta_KBLD = torch.zeros_like(x_BLD), torch.empty_like(delta_KBLD)
    dinput_KBLN, doutput_KBLN = torch.empty_like(input_KBLN), torch.empty_like(output_KBLN)
    ddecay_KND = torch.zeros_like(decay_KND)
    flow_BKND = torch.zeros_like(border_SBKND[0])  # the gradient that a chunk's last state gets from what follows
    chunks = torch.split(order_KL, chunk_length(x_BLD, decay_KND), dim=1)
    for index_KT, border_BKND in zip(reversed(chunks), reversed(border_SBKND.unbind()), strict=True):
        a_TBKND, h_TBKND = _states(x_BLD, delta_KBLD, decay_KND, input_KBLN, index_KT, border_BKND)
        x_TBKD, delta_TBKD = _picked_shared(x_BLD, index_KT), _picked(delta_KBLD, index_KT)
        dy_TBKD = _picked_shared(dy_BLD, index_KT)
        _put_own(doutput_KBLN, index_KT, (h_TBKND * dy_TBKD[..., None, :]).sum(dim=4))
        # dh_t = C_t dy_t + a_(t+1) dh_(t+1): the same recurrence from the other end, with the decays of the next token
        dh_TBKND = _picked(output_KBLN, index_KT).flip(0)[..., None] * dy_TBKD.flip(0)[..., None, :]
        next_TBKND = torch.cat([torch.ones_like(a_TBKND[:1]), a_TBKND[1:].flip(0)])
        dh_TBKND = _recur(next_TBKND, dh_TBKND, flow_BKND).flip(0)
        del next_TBKND
        flow_BKND = a_TBKND[0] * dh_TBKND[0]
        du_TBKD = (dh_TBKND * _picked(input_KBLN, index_KT)[..., None]).sum(dim=3)
        _put_own(dinput_KBLN, index_KT, (dh_TBKND * (delta_TBKD * x_TBKD)[..., None, :]).sum(dim=4))
        grown_TBKND = dh_TBKND.mul_(a_TBKND)  # times the state before: the gradient of delta_t A
        grown_TBKND[1:].mul_(h_TBKND[:-1])
        grown_TBKND[0].mul_(border_BKND)
        rate_TBKD = (grown_TBKND * decay_KND).sum(dim=3)
        ddecay_KND += grown_TBKND.mul_(delta_TBKD[..., None, :]).sum(dim=(0, 1))
        _put(dx_BLD, index_KT, delta_TBKD * du_TBKD)
        _put_own(ddelta_KBLD, index_KT, rate_TBKD + x_TBKD * du_TBKD)
    return dx_BLD, ddelta_KBLD, ddecay_KND, dinput_KBLN, doutput_KBLN


def _states(
    x_BLD: Tensor, delta_KBLD: Tensor, decay_KND: Tensor, input_KBLN: Tensor, index_KT: Tensor, state_BKND: Tensor
) -> tuple[Tensor, Tensor]:
    """Decays and states (T, B, K, N, D) of a chunk."""
    delta_TBKD = _picked(delta_KBLD, index_KT)
    u_TBKD = delta_TBKD * _picked_shared(x_BLD, index_KT)
    a_TBKND = (delta_TBKD[..., None, :] * decay_KND).exp_()
    value_TBKND = u_TBKD[..., None, :] * _picked(input_KBLN, index_KT)[..., None]
    return a_TBKND, _recur(a_TBKND, value_TBKND, state_BKND)


def lanes(steps: int, device: torch.device) -> int:
    """How many a chunk is cut into: a divisor of its length."""
    most = 1 if device.type == "cpu" else math.isqrt(steps)
    return next(count for count in range(most, 0, -1) if steps % count == 0)


def _recur(a_TBKND: Tensor, value_TBKND: Tensor, state_BKND: Tensor) -> Tensor:
    """h_t = a_t h_(t-1) + value_t from a state; written over ``value``."""
    steps = len(a_TBKND)
    count = lanes(steps, a_TBKND.device)
    a_SJM, h_SJM, state_M = (
        a_TBKND.view(count, steps // count, -1),
        value_TBKND.view(count, steps // count, -1),
        state_BKND.reshape(-1),
    )
    if count == 1:
        h_SJM[0, 0].addcmul_(a_SJM[0, 0], state_M)
    for step in range(1, steps // count):
        h_SJM[:, step].addcmul_(a_SJM[:, step], h_SJM[:, step - 1])
    if count > 1:
        since_SJM = a_SJM.cumprod(dim=1)
        starts = [state_M]
        for lane in range(count - 1):
            starts.append(torch.addcmul(h_SJM[lane, -1], since_SJM[lane, -1], starts[-1]))
        h_SJM.addcmul_(since_SJM, torch.stack(starts)[:, None])
    return value_TBKND


def _picked_shared(value_BLD: Tensor, index_KT: Tensor) -> Tensor:
    """(T, B, K, D): of each direction's tokens what all directions share."""
    return value_BLD[:, index_KT].permute(2, 0, 1, 3).contiguous()


def _picked(value_KBLD: Tensor, index_KT: Tensor) -> Tensor:
    """(T, B, K, D): of each direction's tokens its own."""
    direction_K1 = torch.arange(len(index_KT), device=index_KT.device)[:, None]
    return value_KBLD[direction_K1, :, index_KT].permute(1, 2, 0, 3).contiguous()


def _put(total_BLD: Tensor, index_KT: Tensor, value_TBKD: Tensor) -> None:
    """Adds to what all directions share, one direction after the other: none has a token twice, so nothing races."""
    for index_T, value_BTD in zip(index_KT, value_TBKD.permute(2, 1, 0, 3), strict=True):
        total_BLD.index_add_(1, index_T, value_BTD)


def _put_own(target_KBLD: Tensor, index_KT: Tensor, value_TBKD: Tensor) -> None:
    direction_K1 = torch.arange(len(index_KT), device=index_KT.device)[:, None]
    target_KBLD[direction_K1, :, index_KT] = value_TBKD.permute(2, 0, 1, 3)
