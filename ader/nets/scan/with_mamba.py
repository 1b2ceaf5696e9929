"""The scan by the CUDA kernel of mamba-ssm (Gu and Dao), where that package is installed: extra ``ader-bench[mamba]``.

The kernel takes all directions as channels of one long map, in float32, and keeps states in chunks as ours does.

Shapes in names: B images, K directions, L tokens, D channels, N states of a channel, P channels of all directions.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def kernel(device: torch.device) -> Callable[..., Any] | None:
    """``selective_scan_fn``; None on other devices than CUDA, and where it is not installed or not wanted."""
    if device.type != "cuda" or os.environ.get("ADER_KERNELS") == "torch":
        return None
    return _installed()


@functools.cache
def _installed() -> Callable[..., Any] | None:
    """Also None where the package was built without its kernel, which it says by the name that is None then."""
    try:
        module: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError:
        return None
    if getattr(module, "selective_scan_cuda", None) is None:
        return None
    found: Callable[..., Any] = module.selective_scan_fn
    return found


def scan(
    function: Callable[..., Any],
    x_BLD: Tensor,
    raw_KBLD: Tensor,
    decay_KND: Tensor,
    input_KBLN: Tensor,
    output_KBLN: Tensor,
    order_KL: Tensor,
) -> Tensor:
    """As ``selective_scan``, by mamba-ssm's ``selective_scan_fn`` or a function of the same arguments."""
    direction_K1 = torch.arange(len(order_KL), device=order_KL.device)[:, None]

    def ordered(value_KBLC: Tensor) -> Tensor:
        """(B, K, C, L), each direction in the order of its visits."""
        return value_KBLC[direction_K1, :, order_KL].permute(2, 0, 3, 1)

    x_BPL = x_BLD[:, order_KL].transpose(2, 3).flatten(1, 2).contiguous()
    y_BPL = function(
        x_BPL,
        ordered(raw_KBLD).flatten(1, 2).contiguous(),
        decay_KND.transpose(1, 2).flatten(0, 1).contiguous(),
        ordered(input_KBLN).contiguous(),
        ordered(output_KBLN).contiguous(),
        delta_softplus=True,
    )
    y_BKDL = y_BPL.unflatten(1, (len(order_KL), -1))
    back_BKDL = order_KL.argsort(dim=1)[None, :, None].expand_as(y_BKDL)
    y_BLD: Tensor = y_BKDL.gather(3, back_BKDL).sum(dim=1).transpose(1, 2)
    return y_BLD
