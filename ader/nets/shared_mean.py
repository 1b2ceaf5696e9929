"""A mean over the images of all processes, through which gradients flow as if one process had them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor

from ader.system import dist


class SharedMean:
    """Means over images and other axes of a tensor whose images several processes share.

    Made anew for every training, by all processes together: gradients are summed in a process group of their own, as
    those of parameters are summed meanwhile. With one process it is ``Tensor.mean``.
    """

    def __init__(self) -> None:
        self.group = td.new_group() if dist.world() > 1 else None

    def __call__(self, value: Tensor, dims: Sequence[int], share: float) -> Tensor:
        """The mean over ``dims``, of which the first axis is one, kept as axes of length 1. A collective call, as is
        its backward pass.

        Args:
            value: images first.
            dims: axes.
            share: of the step's images, that ``value`` has (``Batch.share``).
        """
        assert 0 in dims
        if self.group is None:
            return value.mean(dim=tuple(dims), keepdim=True)
        mean: Tensor = _Mean.apply(value, tuple(dims), share, self.group)  # type: ignore[no-untyped-call]
        return mean

    def close(self) -> None:
        """Ends the process group. A collective call, for after a training that went well."""
        if self.group is not None:
            td.destroy_process_group(self.group)
            self.group = None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, dims: tuple[int, ...], share: float, group: td.ProcessGroup) -> Tensor:
        ctx.shape, ctx.share, ctx.group = value.shape, share, group
        mean = share * value.double().mean(dim=dims, keepdim=True)
        ctx.count = value.numel() // mean.numel()
        td.all_reduce(mean, group=group)
        return mean.to(value.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # of the whole step's loss: the trainer weighs losses by their shares before the backward pass
        total = gradient.double()
        td.all_reduce(total, group=ctx.group)
        return (total * (ctx.share / ctx.count)).to(gradient.dtype).expand(ctx.shape), None, None, None
