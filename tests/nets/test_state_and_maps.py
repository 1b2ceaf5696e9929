"""Maps, fitted tensors and learning-rate schedules against independent forms."""

from __future__ import annotations

import io
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from ader.nets.optim.schedules import cosine, step_at
from ader.nets.scoring.maps import GaussianBlur, cosine_distance_map, full, full_precision, upsample
from ader.nets.state.late_tensor import LateTensor


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.7, 4.0])
@pytest.mark.parametrize("size", [(64, 64), (40, 70), (9, 33), (3, 5), (1, 1)])
def test_blur_is_scipys(sigma, size):
    """Also where the map is smaller than the filter's radius (16 pixels at sigma 4)."""
    map_BHW = noise(2, *size)
    expected = np.stack([gaussian_filter(map_HW.double().numpy(), sigma) for map_HW in map_BHW])
    np.testing.assert_allclose(GaussianBlur(sigma)(map_BHW).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_mirrored_blur_is_torchs_reflection():
    """A border that does not repeat the edge's own pixels: torch's padding of that name, and a product of Gaussians."""
    map_BHW = noise(2, 20, 31)
    tap = torch.exp(-(torch.arange(-16, 17) ** 2) / 32.0)
    kernel = torch.outer(tap, tap) / tap.sum() ** 2
    padded_B1HW = F.pad(map_BHW[:, None], (16, 16, 16, 16), mode="reflect")
    expected = F.conv2d(padded_B1HW, kernel[None, None])[:, 0]
    torch.testing.assert_close(GaussianBlur(4.0, "mirror")(map_BHW), expected, rtol=1e-5, atol=1e-6)


def test_maps_of_several_scales_are_summed_or_multiplied():
    """Angles of 90 and 180 degrees: distances 1 and 2."""
    one = [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.ones(1, 2, 1, 1)]
    two = [torch.tensor([0.0, 1.0]).view(1, 2, 1, 1), -torch.ones(1, 2, 1, 1)]
    for combine, expected in (("sum", 3.0), ("product", 2.0)):
        map_BHW = cosine_distance_map(one, two, (2, 2), combine)
        torch.testing.assert_close(map_BHW, torch.full((1, 2, 2), expected))


def test_blur_stays_in_float32():
    blur, map_BHW = GaussianBlur(4.0), noise(1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert blur(map_BHW).equal(blur(map_BHW.clone()))
        assert blur(map_BHW).dtype == torch.float32
    assert blur(map_BHW).equal(GaussianBlur(4.0)(map_BHW))
    assert blur(map_BHW.bfloat16()).dtype == torch.float32


def bilinear(map_HW: np.ndarray, height: int, width: int, align_corners: bool) -> np.ndarray:
    """Bilinear interpolation from its definition, separably."""

    def weights(old: int, new: int) -> np.ndarray:
        matrix = np.zeros((new, old))
        for to in range(new):
            place = to * (old - 1) / (new - 1) if align_corners else max(0.0, (to + 0.5) * old / new - 0.5)
            low = min(int(place), old - 1)
            matrix[to, low] += 1 - (place - low)
            matrix[to, min(low + 1, old - 1)] += place - low
        return matrix

    return weights(map_HW.shape[0], height) @ map_HW @ weights(map_HW.shape[1], width).T


@pytest.mark.parametrize("align_corners", [True, False])
def test_upsample(align_corners):
    map_BHW = noise(2, 4, 6)
    expected = np.stack([bilinear(map_HW.double().numpy(), 16, 18, align_corners) for map_HW in map_BHW])
    np.testing.assert_allclose(upsample(map_BHW, (16, 18), align_corners).numpy(), expected, atol=1e-6)


def test_cosine_distance_map():
    first = [noise(2, 5, 8, 8), noise(2, 7, 4, 4)]
    second = [noise(2, 5, 8, 8, seed=1), noise(2, 7, 4, 4, seed=1)]
    expected = np.zeros((2, 16, 16))
    for one, two in zip(first, second, strict=True):
        a, b = one.double().numpy(), two.double().numpy()
        distance_BHW = 1 - (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
        expected += np.stack([bilinear(map_HW, 16, 16, align_corners=True) for map_HW in distance_BHW])
    map_BHW = cosine_distance_map(first, second, (16, 16))
    np.testing.assert_allclose(map_BHW.numpy(), expected, atol=2e-6)
    rough = cosine_distance_map([x.bfloat16() for x in first], [x.bfloat16() for x in second], (16, 16))
    assert rough.dtype == torch.float32
    np.testing.assert_allclose(rough.numpy(), expected, atol=0.02)


def test_full_keeps_double():
    assert full(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert full(torch.zeros(1, dtype=torch.float16)).dtype == torch.float32


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bank, self.layer = LateTensor(), nn.Linear(1, 1)


def test_fitted_round_trip():
    holder, other = Holder(), Holder()
    holder.bank.value = noise(5, 3)
    stream = io.BytesIO()
    torch.save(holder.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert other.bank.get().equal(holder.bank.get())
    other.load_state_dict(Holder().state_dict())  # a state before fitting
    with pytest.raises(RuntimeError, match="before the method was fitted"):
        other.bank.get()


@pytest.mark.parametrize("fitted", [False, True])
def test_fitted_goes_where_its_module_is(fitted):
    """A checkpoint is read to the CPU and loaded into a method that is on its device, fitted or not."""
    state = Holder().state_dict()
    state["bank._extra_state"] = noise(4, 2)
    holder = Holder()
    holder.bank.value = noise(1, 2) if fitted else None
    holder.to("meta").load_state_dict(state, assign=True)
    assert holder.bank.get().device.type == "meta"
    assert holder.bank.get().shape == (4, 2)


@pytest.mark.parametrize("total", [1, 2, 5, 7, 10, 15, 100, 333, 22600, 67800, 10**6 + 5])
def test_step_comes_at_exactly_its_share(total):
    """As ADer's scheduler: steps before 80 % have the full rate, from there on a tenth."""
    schedule = step_at(0.8)
    steps = range(total) if total < 1000 else [0, total * 4 // 5 - 1, total * 4 // 5, total * 4 // 5 + 1, total - 1]
    assert [schedule(step / total) for step in steps] == [1.0 if 5 * step < 4 * total else 0.1 for step in steps]
    assert step_at(1.0)((total - 1) / total) == 1.0


def test_cosine_schedule():
    plain, warm = cosine(), cosine(final=0.1, warmup=0.2, start=0.5)
    for progress in np.linspace(0, 1, 21, endpoint=False):
        assert math.isclose(plain(progress), math.cos(math.pi * progress / 2) ** 2, abs_tol=1e-12)
    assert [warm(0.0), warm(0.1)] == [0.5, 0.75]
    assert math.isclose(warm(0.2), 1.0)
    assert math.isclose(warm(0.6), 0.55)
    assert math.isclose(warm(1.0), 0.1)
    assert math.isclose(warm(0.2 - 1e-9), warm(0.2), abs_tol=1e-6)


def test_full_precision_switches_off_what_is_on():
    """And nothing else: exported programs must not switch autocast."""
    cpu = torch.device("cpu")
    assert isinstance(full_precision(cpu), nullcontext)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(cpu):
            assert not torch.is_autocast_enabled("cpu")
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")
