"""Networks that never change while a method trains, so that what they give for an image may be remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Compute = Callable[[Tensor], list[Tensor]]


class Memory(Protocol):
    """Stands between a frozen network and its computation."""

    def __call__(self, image_BCHW: Tensor, compute: Compute) -> list[Tensor]:
        """What ``compute`` gives for the images, bit for bit; tensors of the caller's own."""
        ...


class Frozen(nn.Module):
    """A network in evaluation mode, whatever ``train()`` says, that takes no gradients.

    A subclass calls ``remembered`` in its ``forward``. The trainer may put a memory there
    (``ader.training.features``); without one, everything is computed. What it gives follows from ``repr``, ``reads``,
    parameters and buffers alone. It may be given other weights in place, or others; not through ``.data``, which
    nobody can see: the trainer refuses that at a stage's end.

    Attributes:
        memory: None computes.
    """

    memory: Memory | None = None

    @property
    def reads(self) -> tuple[Any, ...]:
        """What of the network is given, as far as its weights and its ``repr`` do not tell: the layers."""
        raise NotImplementedError(f"{type(self).__name__} must define reads")

    def train(self, mode: bool = True) -> Frozen:
        """Keeps evaluation mode: batch statistics of a frozen network must not move."""
        return super().train(False)

    def remembered(self, image_BCHW: Tensor, compute: Compute) -> list[Tensor]:
        """``compute(image_BCHW)`` without gradients, from memory where that has it.

        Args:
            image_BCHW: the images; a memory knows those of a training batch by the very tensor.
            compute: each tensor it gives has an image in each row, and no image depends on the others.
        """
        with torch.no_grad():
            if self.memory is None or torch.compiler.is_compiling():
                return compute(image_BCHW)
            return self.memory(image_BCHW, compute)


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values of tensors, for weights that did not come from a file of their own."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
