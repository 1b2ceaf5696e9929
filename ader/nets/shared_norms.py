"""Batch norms whose statistics are those of all processes' images.

torch's ``SyncBatchNorm`` takes CUDA tensors only, is another module than the one that it replaces, and knows nothing of
the norms with an activation that timm derives from ``nn.BatchNorm2d``. Here the modules stay what they are; within a
block their ``F.batch_norm`` is another one.

Shapes in names: N values of a channel, C channels, W processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as td
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ader.system import dist

_groups: list[td.ProcessGroup] = []  # of the block that is open; blocks are not nested


def norms_synchronized() -> bool:
    """Whether several processes share the statistics of batch norms that train."""
    return bool(_groups)


@contextmanager
def synchronized(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block, batch norms of these modules that train take their statistics over all processes, which may
    have different numbers of images; running statistics alike. Weights and names stay as they are, and with one process
    so does everything.

    A collective call, as is then every forward and every backward pass of such a norm: all processes must call a
    module equally often.
    """
    if dist.world() == 1:
        yield
        return
    norms = {id(part): part for module in modules for part in module.modules() if isinstance(part, _BatchNorm)}
    # A group of its own: sums of gradients, which go on meanwhile, need not keep one order with these.
    group = td.new_group()
    _groups.append(group)
    for norm in norms.values():
        assert "forward" not in vars(norm)
        shared = partial(_together, norm.forward, group)
        norm.forward = torch.compiler.disable(shared)  # type: ignore[method-assign, no-untyped-call]
    try:
        yield
    finally:
        for norm in norms.values():
            del norm.forward
        _groups.pop()
    td.destroy_process_group(group)  # not after a failure, when the others may never come to it


def _together(forward: Callable[[Tensor], Tensor], group: td.ProcessGroup, value: Tensor) -> Tensor:
    """A norm's own ``forward`` with another ``F.batch_norm``."""
    with _Replacement(group):
        return forward(value)


class _Replacement(TorchFunctionMode):
    """``batch_norm`` in place of ``F.batch_norm``."""

    def __init__(self, group: td.ProcessGroup) -> None:
        super().__init__()
        self.group = group

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is F.batch_norm:
            return batch_norm(self.group, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def batch_norm(
    group: td.ProcessGroup,
    value: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` over the values (B, C, ...) of all processes.

    The running variance is the unbiased one of all values, as torch has it for those of one process.
    """
    if not training:
        return F.batch_norm(value, running_mean, running_var, weight, bias, False, momentum, eps)
    mean_C, var_C, count = _statistics(value.detach(), group)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((var_C * count / (count - 1)).to(running_var.dtype), momentum)
    mean_C, var_C, count = (each.to(torch.promote_types(value.dtype, torch.float)) for each in (mean_C, var_C, count))
    normalized: Tensor = _Normalize.apply(value, weight, bias, mean_C, var_C, count, eps, group)  # type: ignore[no-untyped-call]
    return normalized


def _statistics(value: Tensor, group: td.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) over all processes, and how many values they are of; float64.

    From the processes' means and variances: sums of squares would lose small variances beside large means.
    """
    var_C, mean_C = torch.var_mean(_wide(value), _all_but_channels(value), correction=0)
    count = value.numel() / value.shape[1]
    table_WN = value.new_zeros(dist.world(), 2 * len(mean_C) + 1, dtype=torch.double)
    table_WN[dist.rank()] = torch.cat([mean_C, var_C, mean_C.new_full((1,), count)])
    td.all_reduce(table_WN, group=group)  # rows of zeros but for one: a gathering
    mean_WC, var_WC, count_W1 = table_WN.tensor_split([len(mean_C), 2 * len(mean_C)], dim=1)
    total = count_W1.sum()
    mean_C = (count_W1 * mean_WC).sum(dim=0) / total
    var_C = (count_W1 * (var_WC + (mean_WC - mean_C).square())).sum(dim=0) / total
    return mean_C, var_C, total


class _Normalize(torch.autograd.Function):
    """Normalization whose gradients know that all processes' values made the statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        mean_C: Tensor,
        var_C: Tensor,
        count: Tensor,
        eps: float,
        group: td.ProcessGroup,
    ) -> Tensor:
        ctx.group = group
        ctx.dtypes = [None if each is None else each.dtype for each in (weight_C, bias_C)]
        ctx.save_for_backward(value, weight_C, mean_C, (var_C + eps).rsqrt(), count)
        return F.batch_norm(value, mean_C, var_C, weight_C, bias_C, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, weight_C, mean_C, scale_C, count = ctx.saved_tensors
        shape = [1, -1, *[1] * (value.ndim - 2)]
        wide = _wide(gradient)
        unit = (_wide(value) - mean_C.view(shape)) * scale_C.view(shape)
        dims = _all_but_channels(value)
        of_bias_C, of_weight_C = wide.sum(dims), (wide * unit).sum(dims)
        sums_2C = torch.stack([of_bias_C, of_weight_C])
        td.all_reduce(sums_2C, group=ctx.group)
        mean_gradient_C, mean_product_C = (sums_2C / count).unbind()
        wide = wide - mean_gradient_C.view(shape) - unit * mean_product_C.view(shape)
        factor_C = scale_C if weight_C is None else scale_C * weight_C
        of_value = (wide * factor_C.view(shape)).to(value.dtype)
        of_both = [
            None if dtype is None else own_C.to(dtype)
            for own_C, dtype in zip((of_weight_C, of_bias_C), ctx.dtypes, strict=True)
        ]
        return of_value, *of_both, None, None, None, None, None


def _all_but_channels(value: Tensor) -> list[int]:
    return [dim for dim in range(value.ndim) if dim != 1]


def _wide(value: Tensor) -> Tensor:
    """At least float32."""
    return value.to(torch.promote_types(value.dtype, torch.float))
