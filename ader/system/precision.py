"""How products are computed: float32, TF32 or bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """The context in which training and inference run a method."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def set_precision(precision: Precision) -> None:
    """TF32 on or off for matrix products and convolutions; bf16 is autocast's."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
