"""Tensors whose size is known only after fitting."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LateTensor(nn.Module):
    """Holds one tensor that a stage computes (a memory bank, statistics), None before.

    It moves with the module and is saved with its state dict, whatever its size: a plain buffer could not be
    loaded into a model that was not fitted yet.
    """

    value: Tensor | None
    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", None, persistent=False)
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # knows the device before anything is fitted

    def get(self) -> Tensor:
        """The fitted tensor.

        Raises:
            RuntimeError: nothing was fitted.
        """
        if self.value is None:
            raise RuntimeError("predict was called before the method was fitted: run its stages first")
        return self.value

    def get_extra_state(self) -> Tensor | None:
        return self.value

    def set_extra_state(self, state: Tensor | None) -> None:
        self.value = None if state is None else state.to(self.anchor.device)
