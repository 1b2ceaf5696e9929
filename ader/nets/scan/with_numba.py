"""The scan compiled for the CPU by Numba, in float32: states never leave a core's own cache.

A task is one image and ``WIDTH`` of its channels, in all directions. Tasks write to nothing that they share, so threads
need no locks, and results do not depend on how many there are.

Shapes in names: B images, K directions, L tokens, D channels, N states of a channel, G groups of ``WIDTH`` channels,
S chunks of ``CHUNK`` tokens, T tokens of a chunk, W channels of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: Channels that are computed together: a few vector registers.
WIDTH = 32
#: Tokens between two states that are kept: the backward pass has decays and states of one chunk at a time
#: (2 x 64 x 16 x 32 numbers), which a core's second cache holds.
CHUNK = 64

Array = npt.NDArray[Any]

LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOWEST = np.float32(-87.0)
#: 1.5 * 2^23: added and subtracted it rounds to whole numbers, which stand in the lowest bits meanwhile.
SHIFT = np.float32(12582912.0)
ZERO, ONE = np.float32(0.0), np.float32(1.0)
EXPONENT_BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)


def compiled(*fast: str) -> Callable[[Any], Any]:
    """Compiled at the first call; kept on disk, where there is a place to write to. ``fast``: what LLVM may assume of
    arithmetic; ``reassoc`` lets sums run in vector registers and would undo ``_exp``'s rounding."""

    def decorate(function: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(fast), "error_model": "numpy"}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(**options)(function)

    return decorate


@compiled("contract")
def _exp(x: Any) -> Any:
    """Of a number that is not positive, to float32's precision (1.6e-38 below -87): arithmetic that becomes vector
    instructions, which a call of the C library does not. Reduction to [-ln 2 / 2, ln 2 / 2] and polynomial are those of
    Cephes' ``expf`` (Moshier)."""
    x = max(x, LOWEST)
    shifted = np.float32(x * LOG2_E + SHIFT)
    whole = shifted - SHIFT
    x = x - whole * LN2_HIGH - whole * LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * x + np.float32(1.3981999507e-3)
    p = p * x + np.float32(8.3334519073e-3)
    p = p * x + np.float32(4.1665795894e-2)
    p = p * x + np.float32(1.6666665459e-1)
    p = p * x + np.float32(5.0000001201e-1)
    return (p * x * x + x + ONE) * np.int32((shifted.view(np.int32) + EXPONENT_BIAS) << MANTISSA_BITS).view(np.float32)


@compiled()
def _take(part_NW: Array, whole_ND: Array, low: int, width: int) -> None:
    for n in range(part_NW.shape[0]):
        for w in range(width):
            part_NW[n, w] = whole_ND[n, low + w]


@compiled()
def _give(whole_ND: Array, part_NW: Array, low: int, width: int) -> None:
    for n in range(part_NW.shape[0]):
        for w in range(width):
            whole_ND[n, low + w] = part_NW[n, w]


@compiled("contract")
def _step(
    decay_NW: Array, input_N: Array, delta_W: Array, u_W: Array, before_NW: Array, a_NW: Array, h_NW: Array
) -> None:
    """One token: its decays, and the states that follow."""
    for n in range(decay_NW.shape[0]):
        b = input_N[n]
        for w in range(WIDTH):
            a = _exp(delta_W[w] * decay_NW[n, w])
            a_NW[n, w] = a
            h_NW[n, w] = a * before_NW[n, w] + u_W[w] * b


@compiled("contract")
def _forward(
    x_BLD: Array,
    delta_KBLD: Array,
    decay_KND: Array,
    input_KBLN: Array,
    output_KBLN: Array,
    order_KL: Array,
    y_BLD: Array,
    border_SBKND: Array,
    first: int,
    last: int,
) -> None:
    directions, states, channels = decay_KND.shape
    tokens = x_BLD.shape[1]
    groups = (channels + WIDTH - 1) // WIDTH
    keep = border_SBKND.shape[0] > 0
    decay_NW = np.zeros((states, WIDTH), np.float32)
    h_NW = np.zeros((states, WIDTH), np.float32)
    delta_W, u_W, y_W = np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    for task in range(first, last):
        image, low = task // groups, (task % groups) * WIDTH
        width = min(WIDTH, channels - low)
        for w in range(width, WIDTH):  # beyond the last channel nothing moves
            delta_W[w], u_W[w] = ZERO, ZERO
        for k in range(directions):
            _take(decay_NW, decay_KND[k], low, width)
            for n in range(states):
                for w in range(WIDTH):
                    h_NW[n, w] = ZERO
            for t in range(tokens):
                if keep and t % CHUNK == 0:
                    _give(border_SBKND[t // CHUNK, image, k], h_NW, low, width)
                i = order_KL[k, t]
                for w in range(width):
                    delta_W[w] = delta_KBLD[k, image, i, low + w]
                    u_W[w] = delta_W[w] * x_BLD[image, i, low + w]
                for w in range(WIDTH):
                    y_W[w] = ZERO
                for n in range(states):
                    b, c = input_KBLN[k, image, i, n], output_KBLN[k, image, i, n]
                    for w in range(WIDTH):
                        h = _exp(delta_W[w] * decay_NW[n, w]) * h_NW[n, w] + u_W[w] * b
                        h_NW[n, w] = h
                        y_W[w] += c * h
                for w in range(width):
                    y_BLD[image, i, low + w] += y_W[w]


@compiled("contract", "reassoc", "nsz")
def _backward(
    x_BLD: Array,
    delta_KBLD: Array,
    decay_KND: Array,
    input_KBLN: Array,
    output_KBLN: Array,
    order_KL: Array,
    border_SBKND: Array,
    dy_BLD: Array,
    dx_BLD: Array,
    ddelta_KBLD: Array,
    ddecay_BKND: Array,
    dinput_GKBLN: Array,
    doutput_GKBLN: Array,
    first: int,
    last: int,
) -> None:
    directions, states, channels = decay_KND.shape
    tokens = x_BLD.shape[1]
    groups = (channels + WIDTH - 1) // WIDTH
    decay_NW, ddecay_NW = np.zeros((states, WIDTH), np.float32), np.zeros((states, WIDTH), np.float32)
    flow_NW = np.zeros((states, WIDTH), np.float32)  # the gradient that a state gets from those after it
    a_TNW = np.zeros((CHUNK, states, WIDTH), np.float32)
    h_TNW = np.zeros((CHUNK + 1, states, WIDTH), np.float32)
    delta_TW, u_TW = np.zeros((CHUNK, WIDTH), np.float32), np.zeros((CHUNK, WIDTH), np.float32)
    dy_W, du_W, rate_W = np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    for task in range(first, last):
        image, group = task // groups, task % groups
        low = group * WIDTH
        width = min(WIDTH, channels - low)
        for w in range(width, WIDTH):  # beyond the last channel nothing moves
            dy_W[w] = ZERO
            for t in range(CHUNK):
                delta_TW[t, w], u_TW[t, w] = ZERO, ZERO
            for n in range(states):
                h_TNW[0, n, w] = ZERO
        for k in range(directions):
            _take(decay_NW, decay_KND[k], low, width)
            for n in range(states):
                for w in range(WIDTH):
                    flow_NW[n, w], ddecay_NW[n, w] = ZERO, ZERO
            for chunk in range(border_SBKND.shape[0] - 1, -1, -1):
                begin = chunk * CHUNK
                steps = min(CHUNK, tokens - begin)
                _take(h_TNW[0], border_SBKND[chunk, image, k], low, width)
                for t in range(steps):
                    i = order_KL[k, begin + t]
                    for w in range(width):
                        delta_TW[t, w] = delta_KBLD[k, image, i, low + w]
                        u_TW[t, w] = delta_TW[t, w] * x_BLD[image, i, low + w]
                    _step(decay_NW, input_KBLN[k, image, i], delta_TW[t], u_TW[t], h_TNW[t], a_TNW[t], h_TNW[t + 1])
                for t in range(steps - 1, -1, -1):
                    i = order_KL[k, begin + t]
                    for w in range(WIDTH):
                        du_W[w], rate_W[w] = ZERO, ZERO
                    for w in range(width):
                        dy_W[w] = dy_BLD[image, i, low + w]
                    delta_W, u_W, a_NW, before_NW, h_NW = delta_TW[t], u_TW[t], a_TNW[t], h_TNW[t], h_TNW[t + 1]
                    for n in range(states):
                        b, c = input_KBLN[k, image, i, n], output_KBLN[k, image, i, n]
                        dinput, doutput = ZERO, ZERO
                        for w in range(WIDTH):
                            dh = c * dy_W[w] + flow_NW[n, w]
                            doutput += dy_W[w] * h_NW[n, w]
                            dinput += dh * u_W[w]
                            du_W[w] += b * dh
                            flow = a_NW[n, w] * dh
                            flow_NW[n, w] = flow
                            grown = flow * before_NW[n, w]
                            rate_W[w] += decay_NW[n, w] * grown
                            ddecay_NW[n, w] += delta_W[w] * grown
                        dinput_GKBLN[group, k, image, i, n] = dinput
                        doutput_GKBLN[group, k, image, i, n] = doutput
                    for w in range(width):
                        dx_BLD[image, i, low + w] += delta_W[w] * du_W[w]
                        ddelta_KBLD[k, image, i, low + w] = rate_W[w] + x_BLD[image, i, low + w] * du_W[w]
            _give(ddecay_BKND[image, k], ddecay_NW, low, width)


def chunk_length(x_BLD: Tensor, decay_KND: Tensor) -> int:
    """Tokens of a chunk."""
    return CHUNK


def forward(*given: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """As ``recurrence.forward``, of float32 tensors on the CPU."""
    given = tuple(tensor.contiguous() for tensor in given)
    x_BLD, _, decay_KND = given[:3]
    y_BLD = torch.zeros_like(x_BLD)
    chunks = -(-x_BLD.shape[1] // CHUNK) if keep else 0
    border_SBKND = x_BLD.new_empty(chunks, len(x_BLD), *decay_KND.shape)
    _spread(_forward, x_BLD, [*given, y_BLD, border_SBKND])
    return y_BLD, border_SBKND


def backward(*given: Tensor) -> tuple[Tensor, ...]:
    """As ``recurrence.backward``, of float32 tensors on the CPU."""
    given = tuple(tensor.contiguous() for tensor in given)
    x_BLD, delta_KBLD, decay_KND, input_KBLN = given[:4]
    groups = -(-x_BLD.shape[2] // WIDTH)
    dx_BLD, ddelta_KBLD = torch.zeros_like(x_BLD), torch.empty_like(delta_KBLD)
    ddecay_BKND = decay_KND.new_empty(len(x_BLD), *decay_KND.shape)
    dinput_GKBLN, doutput_GKBLN = (input_KBLN.new_empty(groups, *input_KBLN.shape) for _ in range(2))
    _spread(_backward, x_BLD, [*given, dx_BLD, ddelta_KBLD, ddecay_BKND, dinput_GKBLN, doutput_GKBLN])
    return dx_BLD, ddelta_KBLD, ddecay_BKND.sum(0), dinput_GKBLN.sum(0), doutput_GKBLN.sum(0)


def _spread(kernel: Any, x_BLD: Tensor, tensors: list[Tensor]) -> None:
    """Calls a kernel for all tasks, which as many threads share as torch uses."""
    arrays = [tensor.numpy() for tensor in tensors]
    tasks = len(x_BLD) * -(-x_BLD.shape[2] // WIDTH)
    threads = max(1, min(torch.get_num_threads(), tasks))
    if threads == 1:
        kernel(*arrays, 0, tasks)
        return
    cuts = [tasks * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first, last: kernel(*arrays, first, last), cuts[:-1], cuts[1:]))
