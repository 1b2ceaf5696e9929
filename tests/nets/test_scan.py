"""The selective scan: every way to compute it against the recurrence in float64, values and gradients."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ader.nets import scan
from ader.nets.scan import doubling, recurrence, selective_scan, with_mamba
from ader.nets.scan.orders import orders

NAMES = ("x", "raw", "decay", "input", "output")


def sequential(x_BLD, raw_KBLD, decay_KND, input_KBLN, output_KBLN, order_KL) -> Tensor:
    """By the definition: one token after the other."""
    delta_KBLD, total_BLD = F.softplus(raw_KBLD), torch.zeros_like(x_BLD)
    for k, order_L in enumerate(order_KL):
        state_BND, outputs = x_BLD.new_zeros(len(x_BLD), *decay_KND.shape[1:]), []
        for i in order_L:
            delta_BD = delta_KBLD[k, :, i]
            state_BND = torch.exp(delta_BD[:, None] * decay_KND[k]) * state_BND
            state_BND = state_BND + (delta_BD * x_BLD[:, i])[:, None] * input_KBLN[k, :, i, :, None]
            outputs.append((state_BND * output_KBLN[k, :, i, :, None]).sum(1))
        total_BLD = total_BLD + torch.stack(outputs, dim=1)[:, order_L.argsort()]
    return total_BLD


def given(length: int, kind: torch.dtype, channels: int = 37, images: int = 2) -> list[Tensor]:
    """Random arguments: steps from 1e-3 to 20, so that some decays are near 1 and some are 0."""
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    decay_KND = -(0.1 + 16 * torch.rand(3, 5, channels, generator=generator, dtype=torch.float64))
    values = [
        normal(images, length, channels),
        5 * normal(3, images, length, channels) - 3,
        decay_KND,
        normal(3, images, length, 5),
        normal(3, images, length, 5),
    ]
    order_KL = torch.stack([torch.randperm(length, generator=generator) for _ in range(3)])
    return [*(value.to(kind) for value in values), order_KL]


def compared(function, kind: torch.dtype, length: int = 90, gradients: bool = True) -> dict[str, float]:
    """Largest differences of value and gradients from the recurrence's in float64, of each largest value."""
    *exact, order_KL = given(length, torch.float64)
    *rough, _ = given(length, kind)
    exact, rough = ([value.requires_grad_(gradients) for value in values] for values in (exact, rough))
    expected, found = sequential(*exact, order_KL), function(*rough, order_KL)
    assert found.dtype == kind
    pairs = {"y": (found, expected)}
    if gradients:
        slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        expected.backward(slope)
        found.backward(slope.to(kind))
        pairs |= {name: (a.grad, b.grad) for name, a, b in zip(NAMES, rough, exact, strict=True)}
    return {
        name: float((a.double() - b).detach().abs().max() / b.detach().abs().max()) for name, (a, b) in pairs.items()
    }


@pytest.mark.parametrize("length", [1, 15, 90])
def test_torch_in_float64(length):
    """Ninety tokens are five chunks and a piece."""
    assert max(compared(selective_scan, torch.float64, length).values()) < 1e-13


def test_numba_in_float32():
    """One chunk and a piece; 32 channels and 5."""
    importlib.import_module("ader.nets.scan.with_numba")
    assert max(compared(selective_scan, torch.float32).values()) < 3e-6


def test_torch_in_float32(monkeypatch):
    monkeypatch.setenv("ADER_KERNELS", "torch")
    assert scan.kernels(torch.device("cpu"), torch.float32) is recurrence
    assert max(compared(selective_scan, torch.float32).values()) < 3e-6


def test_lanes_of_a_gpu(monkeypatch):
    """Sixteen tokens are four lanes of four."""
    monkeypatch.setattr(recurrence, "lanes", lambda steps, device: 4 if steps % 4 == 0 else 1)
    assert max(compared(selective_scan, torch.float64).values()) < 1e-13


def test_doubling():
    assert compared(doubling.scan, torch.float64, gradients=False)["y"] < 1e-13


def test_channels_that_do_not_fill_a_group_after_ones_that_do():
    """What a group of 32 leaves behind is not seen in the one of 5 after it; images are independent."""
    *values, order_KL = given(90, torch.float32)
    alone = [value[1:] for value in values[:1]] + [values[1][:, 1:], values[2], values[3][:, 1:], values[4][:, 1:]]
    whole = selective_scan(*values, order_KL)
    assert whole[1:].equal(selective_scan(*alone, order_KL))


def test_threads_change_nothing():
    *values, order_KL = given(90, torch.float32)
    for value in values:
        value.requires_grad_()
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y_BLD = selective_scan(*values, order_KL)
            found.append([y_BLD, *torch.autograd.grad(y_BLD.square().sum(), values)])
    finally:
        torch.set_num_threads(before)
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


def test_states_are_kept_at_borders_alone():
    """And none where no gradient is wanted."""
    *values, order_KL = given(200, torch.float32)
    for keep, chunks in ((True, 4), (False, 0)):
        assert torch.ops.ader.selective_scan(*values, order_KL, keep)[1].shape == (chunks, 2, 3, 5, 37)
    values = [value.double() for value in values]
    border = torch.ops.ader.selective_scan(*values, order_KL, True)[1]
    assert border.shape == (-(-200 // recurrence.chunk_length(values[0], values[2])), 2, 3, 5, 37)


def test_autocast_leaves_it_in_float32():
    *values, order_KL = given(20, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert selective_scan(*values, order_KL).equal(selective_scan(*values, order_KL))
        rough = selective_scan(*(value.bfloat16() for value in values), order_KL)
    assert rough.dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_operator(kind):
    """torch's own checks: shapes of the fake one are those of the real one, gradients are registered."""
    *values, order_KL = given(20, kind, channels=3, images=1)
    values = [value.requires_grad_() for value in values]
    torch.library.opcheck(
        torch.ops.ader.selective_scan.default,
        (*values, order_KL, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """Stands in for mamba-ssm's: its arguments and shapes, the recurrence inside."""
    assert D is z is delta_bias is None
    assert delta_softplus
    assert all(value.is_contiguous() for value in (u, delta, A, B, C))
    batch, channels, length = u.shape
    directions, states = B.shape[1:3]
    assert delta.shape == u.shape
    assert A.shape == (channels, states)
    assert B.shape == C.shape == (batch, directions, states, length)
    state, outputs = u.new_zeros(batch, channels, states), []
    B, C = (value.repeat_interleave(channels // directions, dim=1) for value in (B, C))
    for t in range(length):
        step = F.softplus(delta[:, :, t, None])
        state = torch.exp(step * A) * state + step * u[:, :, t, None] * B[..., t]
        outputs.append((state * C[..., t]).sum(-1))
    return torch.stack(outputs, dim=-1)


def test_mamba_is_called_as_it_wants():
    function = lambda *values: with_mamba.scan(selective_scan_fn, *values)  # noqa: E731
    assert max(compared(function, torch.float64, 20).values()) < 1e-13


def test_mamba_is_used_where_it_is_installed_and_on_cuda(monkeypatch):
    cuda, name = torch.device("cuda"), "mamba_ssm.ops.selective_scan_interface"
    module = ModuleType(name)
    module.selective_scan_fn, module.selective_scan_cuda = selective_scan_fn, object()
    for each in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, each, ModuleType(each))
    monkeypatch.setitem(sys.modules, name, module)
    with_mamba._installed.cache_clear()
    try:
        assert with_mamba.kernel(cuda) is selective_scan_fn
        assert with_mamba.kernel(torch.device("cpu")) is None
        monkeypatch.setenv("ADER_KERNELS", "torch")
        assert with_mamba.kernel(cuda) is None
        monkeypatch.delenv("ADER_KERNELS")
        with_mamba._installed.cache_clear()
        module.selective_scan_cuda = None  # built without its kernel
        assert with_mamba.kernel(cuda) is None
    finally:
        with_mamba._installed.cache_clear()


#: Of 4 x 4 pixels, row by row; the last two are what numpy-hilbert-curve 1.0.1 (x + 4 y) and pyzorder 0.0.2 give.
CURVES = {
    "sweep": list(range(16)),
    "snake": [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12],
    "zigzag": [0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15],
    "hilbert": [0, 1, 5, 4, 8, 12, 13, 9, 10, 14, 15, 11, 7, 6, 2, 3],
    "zorder": [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
}


@pytest.mark.parametrize("curve", CURVES)
def test_curves(curve):
    assert orders(curve, 4, 2)[0].tolist() == CURVES[curve]
    for side in (1, 2, 8, 64):
        order_KL = orders(curve, side)
        assert order_KL.sort(dim=1).values.equal(torch.arange(side * side).expand(8, -1))
        assert order_KL[4:].equal(order_KL[:4].flip(1))


def test_directions():
    """Reading a map along the order of a direction is reading the turned map along the curve."""
    pixel_HW = torch.arange(64).view(8, 8)
    along_L = orders("hilbert", 8, 2)[0]
    views = [pixel_HW, pixel_HW.T, pixel_HW.rot90(1), pixel_HW.rot90(1).T]
    for order_L, view in zip(orders("hilbert", 8)[:4], views, strict=True):
        assert order_L.equal(view.reshape(-1)[along_L])
    assert orders("hilbert", 8, 4).equal(orders("hilbert", 8)[[0, 1, 4, 5]])


def test_hilbert_walks_in_single_steps():
    for side in (2, 8, 32):
        order_L = orders("hilbert", side, 2)[0]
        row_L, column_L = order_L // side, order_L % side
        assert (row_L.diff().abs() + column_L.diff().abs()).eq(1).all()
