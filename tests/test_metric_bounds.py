"""The histogram's values: the true ones, computed by brute force, always lie within its certified bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import brute_force_aupro, pixel_oracle
from sklearn.metrics import average_precision_score, roc_auc_score

from ader.metrics import PIXEL_METRICS, Evaluator, evaluate
from ader.metrics.histogram import HistogramState, float_key, key_value


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Each takes standard normal values (higher where defective) and gives scores.
DISTRIBUTIONS = {
    "uniform": lambda x: sigmoid(1.7 * x),
    "gaussian": lambda x: x,
    "exp(40x)": lambda x: np.exp(40 * sigmoid(x)),
    "x**6": lambda x: sigmoid(x) ** 6,
    "outlier 1e4": lambda x: np.where(x == x.max(), 1e4, 0.3 * sigmoid(x)),
    "sigmoid near 1": lambda x: sigmoid((x + 9).astype(np.float32)),
    "around -1e5": lambda x: x - 1e5,
    "8 bit": lambda x: np.round(sigmoid(x) * 255) / 255,
    "rectified": lambda x: np.maximum(x, 0),
    "constant": lambda x: np.full_like(x, -7.25),
    "denormal": lambda x: np.round(x * 300) * 1e-44,
    "signed zeros": lambda x: np.where(x > 1, 1.0, np.where(np.round(10 * x) % 2 == 0, 0.0, -0.0)),
    "infinities": lambda x: np.where(x > 1.5, np.inf, np.where(x < -1.5, -np.inf, x)),
}


def make_maps(distribution, seed, shape, shift=1.0, density=0.15):
    """Maps and masks with at least one defective and one normal pixel."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    mask.flat[0], mask.flat[-1] = True, False
    normal = rng.normal(size=shape) + shift * mask
    return DISTRIBUTIONS[distribution](normal).astype(np.float32), mask


def filled(maps, mask, **settings):
    evaluator = Evaluator(["a"], **settings)
    label = mask.any((1, 2)).astype(int)
    evaluator.update([0] * len(maps), np.zeros(len(maps)), label, maps, mask)
    return evaluator


def assert_within_bounds(evaluator, expected):
    values, bounds = evaluator.compute().loc["a"], evaluator.bounds().loc["a"]
    for slug, exact in expected.items():
        assert abs(exact - values[slug]) <= bounds[slug], (slug, exact, values[slug], bounds[slug])
    for slug in set(PIXEL_METRICS) - set(expected):
        assert np.isnan(values[slug])
        assert np.isnan(bounds[slug])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    distribution=st.sampled_from(sorted(DISTRIBUTIONS)),
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(2, 9)),
    bits=st.sampled_from([3, 5, 8, 16]),
    shift=st.sampled_from([-1.0, 0.0, 1.0, 4.0]),
    density=st.sampled_from([0.05, 0.3, 0.9]),
)
def test_brute_force_lies_within_bounds(distribution, seed, shape, bits, shift, density):
    maps, mask = make_maps(distribution, seed, shape, shift, density)
    assert_within_bounds(filled(maps, mask, mantissa_bits=bits), pixel_oracle(maps, mask))


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_coarse_bins_stay_within_bounds(distribution):
    """Three mantissa bits hide much: the bounds must be wide, and still hold."""
    maps, mask = make_maps(distribution, 1, (3, 16, 16))
    assert_within_bounds(filled(maps, mask, mantissa_bits=3), pixel_oracle(maps, mask))


def test_bounds_say_something():
    """A bound of 1 is always true. Coarse bins: clearly above 0, below 0.2; default bins: below 1e-4."""
    maps, mask = make_maps("gaussian", 0, (8, 64, 64))
    slugs = list(PIXEL_METRICS)
    coarse = filled(maps, mask, mantissa_bits=3).bounds()[slugs].loc["a"]
    fine = filled(maps, mask).bounds()[slugs].loc["a"]
    assert (coarse > 1e-4).all()
    assert (coarse < 0.2).all()
    assert (fine < 1e-4).all()


def test_worst_case_inside_a_bin_is_within_bounds():
    """All pixels in one bin, in the best and in the worst order: errors as large as they get."""
    mask = np.zeros((1, 10, 10), dtype=bool)
    mask[0, :4, :4] = True
    ordered = 1.022 + 0.8 * np.arange(100).reshape(mask.shape) / 1000
    for sign in (1, -1):
        maps = (ordered + sign * mask / 50 * 1.01).astype(np.float32)
        evaluator = filled(maps, mask, mantissa_bits=3)
        assert_within_bounds(evaluator, pixel_oracle(maps, mask))
        assert evaluator.bounds()["pixel_auroc"]["a"] > 0.4


def test_all_mantissa_bits_are_exact():
    """One page is 25 MB then, so the scores share one."""
    maps, mask = make_maps("uniform", 4, (2, 9, 9))
    maps = 1 + maps / 8
    evaluator = filled(maps, mask, mantissa_bits=23)
    exact = filled(maps, mask, profile="exact").compute()
    np.testing.assert_allclose(evaluator.compute(), exact, rtol=0, atol=1e-12)
    assert (evaluator.bounds()[list(PIXEL_METRICS)].to_numpy() < 1e-9).all()


@pytest.mark.parametrize("distribution", sorted(set(DISTRIBUTIONS) - {"infinities"}))
def test_default_histogram_is_close_to_sklearn(distribution):
    """Sizes that brute force cannot do: within the bounds of scikit-learn's values."""
    maps, mask = make_maps(distribution, 7, (4, 48, 48))
    evaluator = filled(maps, mask)
    truth, score = mask.ravel(), maps.ravel().astype(np.float64)
    expected = {
        "pixel_auroc": roc_auc_score(truth, score),
        "pixel_ap": average_precision_score(truth, score),
    }
    values, bounds = evaluator.compute().loc["a"], evaluator.bounds().loc["a"]
    for slug, exact in expected.items():
        assert abs(exact - values[slug]) <= bounds[slug] + 1e-13, slug


def test_rectified_and_saturated_maps_have_exact_ties():
    """Zero, the smallest and the largest score have bins of their own, so common ties cost no accuracy."""
    maps, mask = make_maps("gaussian", 3, (2, 32, 32))
    maps = np.clip(maps, 0, 1).round()
    assert filled(maps, mask).bounds()["pixel_auroc"]["a"] < 1e-9


def test_float_key_orders_as_floats_do():
    tiny = float(np.float32(1e-45))
    ordered = [
        -np.inf,
        -3e38,
        -1.0,
        -1e-40,
        -tiny,
        0.0,
        tiny,
        1e-40,
        1.0,
        np.nextafter(np.float32(1), np.float32(2)),
        3e38,
    ]
    key = float_key(torch.tensor([*ordered, np.inf], dtype=torch.float32))
    assert (key[1:] > key[:-1]).all()
    assert float_key(torch.tensor([-0.0])).item() == 0
    np.testing.assert_array_equal(key_value(key.long().numpy()), np.float32([*ordered, np.inf]))


@pytest.mark.parametrize("bits", [3, 16, 19])
def test_every_score_lies_in_its_bin(bits):
    """Bins come in descending order, do not overlap and contain their scores."""
    score = np.float32([-np.inf, -3e38, -2.5, -1e-40, -0.0, 0.0, 1e-45, 1e-40, 1e-3, 1, 1.0001, 7e30, np.inf])
    state = HistogramState(1, mantissa_bits=bits)
    maps = torch.tensor(score).view(1, 1, -1)
    state.add(
        torch.zeros(1, dtype=torch.int64),
        maps,
        torch.zeros_like(maps, dtype=torch.bool),
        torch.zeros(0).double(),
    )
    bins = state.bins(0)
    assert (bins.low_K <= bins.high_K).all()
    assert (bins.low_K[:-1] > bins.high_K[1:]).all()
    inside = (bins.low_K[:, None] <= score) & (score <= bins.high_K[:, None])
    assert (inside.sum(0) == 1).all()
    np.testing.assert_array_equal(inside.sum(1), bins.normal_K)


def test_memory_does_not_grow_with_pixels():
    maps, mask = make_maps("uniform", 0, (2, 32, 32))
    evaluator = filled(maps, mask)
    used = evaluator._pixels.nbytes()
    for _ in range(20):
        evaluator.update([0, 0], [0.0, 0.0], mask.any((1, 2)), maps, mask)
    assert evaluator._pixels.nbytes() == used


def test_brute_force_aupro_by_hand():
    """The oracle itself, and the evaluator: two regions of one pixel each, 8 normal pixels."""
    maps = np.array([[[9, 9, 9, 2, 7], [1, 1, 8, 1, 1]]], dtype=float)
    mask = np.array([[[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]], dtype=bool)
    # Thresholds 9: FPR 2/8, PRO 1/2; 8: FPR 3/8, PRO 1/2; so up to 0.3: a ramp to 1/2 at 0.25, then flat.
    assert brute_force_aupro(maps, mask) == pytest.approx((0.25 * 0.5 / 2 + 0.05 * 0.5) / 0.3)
    assert evaluate(maps, mask, profile="exact")["pixel_aupro"]["all"] == pytest.approx(
        (0.25 * 0.5 / 2 + 0.05 * 0.5) / 0.3
    )
