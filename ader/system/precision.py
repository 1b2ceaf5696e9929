"""How products are computed: float32, TF32, as PyTorch does unasked, or bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["fp32", "torch", "tf32", "bf16"]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """The context in which training and inference run a method."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def set_precision(precision: Precision) -> None:
    """TF32 on or off for matrix products and for convolutions; ``torch``, PyTorch's own default, has it in
    convolutions only. bf16 is autocast's."""
    torch.set_float32_matmul_precision("high" if precision in ("tf32", "bf16") else "highest")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
