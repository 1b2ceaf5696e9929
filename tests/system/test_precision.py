"""Which products may be computed in TF32."""

from __future__ import annotations

import pytest
import torch

from ader.system.precision import set_precision


@pytest.fixture(autouse=True)
def put_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(
    ("precision", "products", "convolutions"),
    [("fp32", False, False), ("torch", False, True), ("tf32", True, True), ("bf16", True, True)],
)
def test_tf32(precision, products, convolutions):
    """``torch`` is PyTorch's documented default: convolutions in TF32, matrix products not."""
    set_precision(precision)
    assert torch.backends.cuda.matmul.allow_tf32 == products
    assert torch.backends.cudnn.allow_tf32 == convolutions
