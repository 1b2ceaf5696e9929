"""The selective scan of Mamba (Gu and Dao, 2023), over a map in several directions at once.

Every direction visits all tokens in an order of its own; a channel's state of N numbers goes along:

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t x_t,    y_t = C_t h_t        (delta_t > 0, A < 0)

Four ways compute it, all to float32's precision the same: ``with_numba`` (CPU, float32), ``recurrence`` (torch alone:
every device and precision), ``with_mamba`` (CUDA, float32, where the package mamba-ssm is installed: the extra
``mamba``), ``doubling`` (as plain tensor operations, for exported graphs). The first three keep the states at the
borders of chunks alone (one of 64, of 16 to 256) and compute the others again for the gradient, a chunk at a time:
`results/bench/scans.md` has times and memory. The environment variable ``ADER_KERNELS=torch`` leaves all but torch out.

Shapes in names: B images, K directions, L tokens, D channels, N states of a channel, S chunks.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ader.nets.scan import doubling, recurrence, with_mamba
from ader.nets.scoring.maps import full, full_precision


def selective_scan(
    x_BLD: Tensor, raw_KBLD: Tensor, decay_KND: Tensor, input_KBLN: Tensor, output_KBLN: Tensor, order_KL: Tensor
) -> Tensor:
    """The sum over directions of what each gives, every token at its own place again.

    Float32 also under autocast: thousands of steps add up. Second derivatives are not there.

    Args:
        x_BLD: what is scanned, the same for all directions, in the map's order.
        raw_KBLD: steps delta before the softplus, of each direction, in the map's order.
        decay_KND: A, negative.
        input_KBLN, output_KBLN: B and C of every token.
        order_KL: for each direction the tokens in the order of their visit, each once; int64.

    Returns:
        (B, L, D), float32; float64 where all is.
    """
    floats = [full(tensor).contiguous() for tensor in (x_BLD, raw_KBLD, decay_KND, input_KBLN, output_KBLN)]
    given = (floats[0], floats[1], floats[2], floats[3], floats[4], order_KL)
    with full_precision(x_BLD.device):
        if _exporting():
            return doubling.scan(*given)
        if given[0].dtype == torch.float32 and (kernel := with_mamba.kernel(x_BLD.device)):
            return with_mamba.scan(kernel, *given)
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in floats)
        y_BLD: Tensor = torch.ops.ader.selective_scan(*given, keep)[0]
        return y_BLD


def _exporting() -> bool:
    """Whether a graph is made that must run without this package."""
    ask: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return ask()


def kernels(device: torch.device, kind: torch.dtype) -> Any:
    """The module that computes on a device and in a precision: ``with_numba`` or ``recurrence``."""
    if device.type == "cpu" and kind == torch.float32 and os.environ.get("ADER_KERNELS") != "torch":
        return importlib.import_module("ader.nets.scan.with_numba")  # brings Numba, which takes half a second
    return recurrence


# An operator of its own: to fake tensors and counters of operations a scan is one step, not thousands.
@torch.library.custom_op(
    "ader::selective_scan",
    mutates_args=(),
    schema="(Tensor x, Tensor raw, Tensor decay, Tensor input, Tensor output, Tensor order, bool keep)"
    " -> (Tensor, Tensor)",
)
def _scan(
    x_BLD: Tensor,
    raw_KBLD: Tensor,
    decay_KND: Tensor,
    input_KBLN: Tensor,
    output_KBLN: Tensor,
    order_KL: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The outputs, and the states before each chunk (S, B, K, N, D) if they are to be kept."""
    module = kernels(x_BLD.device, x_BLD.dtype)
    found: tuple[Tensor, Tensor] = module.forward(
        x_BLD, F.softplus(raw_KBLD), decay_KND, input_KBLN, output_KBLN, order_KL, keep=keep
    )
    return found


@_scan.register_fake
def _(
    x_BLD: Tensor,
    raw_KBLD: Tensor,
    decay_KND: Tensor,
    input_KBLN: Tensor,
    output_KBLN: Tensor,
    order_KL: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    length = kernels(x_BLD.device, x_BLD.dtype).chunk_length(x_BLD, decay_KND)
    chunks = -(-x_BLD.shape[1] // length) if keep else 0
    return x_BLD.new_empty(x_BLD.shape), x_BLD.new_empty(chunks, x_BLD.shape[0], *decay_KND.shape)


@torch.library.custom_op(
    "ader::selective_scan_backward",
    mutates_args=(),
    schema="(Tensor x, Tensor raw, Tensor decay, Tensor input, Tensor output, Tensor order, Tensor border, Tensor dy)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    x_BLD: Tensor,
    raw_KBLD: Tensor,
    decay_KND: Tensor,
    input_KBLN: Tensor,
    output_KBLN: Tensor,
    order_KL: Tensor,
    border_SBKND: Tensor,
    dy_BLD: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    module = kernels(x_BLD.device, x_BLD.dtype)
    dx_BLD, ddelta_KBLD, *others = module.backward(
        x_BLD, F.softplus(raw_KBLD), decay_KND, input_KBLN, output_KBLN, order_KL, border_SBKND, dy_BLD
    )
    return (dx_BLD, ddelta_KBLD.mul_(raw_KBLD.sigmoid()), *others)


@_backward.register_fake
def _(
    x_BLD: Tensor,
    raw_KBLD: Tensor,
    decay_KND: Tensor,
    input_KBLN: Tensor,
    output_KBLN: Tensor,
    order_KL: Tensor,
    border_SBKND: Tensor,
    dy_BLD: Tensor,
) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x_BLD, raw_KBLD, decay_KND, input_KBLN, output_KBLN))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:6], output[1])


def _gradients(ctx: Any, dy_BLD: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.ader.selective_scan_backward(*ctx.saved_tensors, dy_BLD), None, None)


_scan.register_autograd(_gradients, setup_context=_remember)
