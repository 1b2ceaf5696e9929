"""The histogram's values: the true ones, computed by brute force, always lie within its certified bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from sklearn.metrics import average_precision_score, roc_auc_score

from ader.metrics import PIXEL_METRICS, Evaluator, evaluate
from ader.metrics.checks import UpdateChecker
from ader.metrics.histogram import HistogramState
from ader.metrics.keys import float_key, key_float
from ader.metrics.layout import LEAST_BINS
from tests.support.oracles import brute_force_aupro, pixel_oracle


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Each takes standard normal values (higher where defective) and gives scores.
DISTRIBUTIONS = {
    "uniform": ndtr,
    "logistic": lambda x: sigmoid(1.7 * x),
    "gaussian": lambda x: x,
    "exp(40x)": lambda x: np.exp(40 * ndtr(x)),
    "x**6": lambda x: ndtr(x) ** 6,
    "outlier 1e4": lambda x: np.where(x == x.max(), 1e4, 0.3 * sigmoid(x)),
    "within 1e-4 of 1": lambda x: 1 - 1e-4 * ndtr(-x),
    "sigmoid near 1": lambda x: sigmoid((x + 9).astype(np.float32)),
    "softmax": lambda x: sigmoid((8 * x - 4).astype(np.float32)),
    "near -1": lambda x: -sigmoid((9 - x).astype(np.float32)),
    "around -1e5": lambda x: x - 1e5,
    "wide around -1e5": lambda x: 1000 * x - 1e5,
    "around 100": lambda x: x + 100,
    "negative": lambda x: -np.exp(-x),
    "8 bit": lambda x: np.round(sigmoid(x) * 255) / 255,
    "rectified": lambda x: np.maximum(x, 0),
    "constant": lambda x: np.full_like(x, -7.25),
    "half": lambda x: x.astype(np.float16),
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
    bins=st.sampled_from([LEAST_BINS, 1 << 19]),
    shift=st.sampled_from([-1.0, 0.0, 1.0, 4.0]),
    density=st.sampled_from([0.05, 0.3, 0.9]),
)
def test_brute_force_lies_within_bounds(distribution, seed, shape, bins, shift, density):
    maps, mask = make_maps(distribution, seed, shape, shift, density)
    assert_within_bounds(filled(maps, mask, bins=bins), pixel_oracle(maps, mask))


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_coarse_bins_stay_within_bounds(distribution):
    """The smallest budget hides much: the bounds must be wide, and still hold."""
    maps, mask = make_maps(distribution, 1, (3, 24, 24))
    assert_within_bounds(filled(maps, mask, bins=LEAST_BINS), pixel_oracle(maps, mask))


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_bounds_are_narrow(distribution):
    """At most 1e-4 for every metric, on every kind of scores, at default settings."""
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 128, 128), bool)
    mask[:8, 20:60, 30:70] = True
    maps = DISTRIBUTIONS[distribution](rng.normal(size=mask.shape) + 1.5 * mask).astype(np.float32)
    bounds = filled(maps, mask).bounds().loc["a", list(PIXEL_METRICS)]
    assert bounds.max() <= 1e-4, bounds


def test_bounds_say_something():
    """A bound of 1 is always true. The smallest budget: clearly above 0, below 0.2."""
    maps, mask = make_maps("around 100", 0, (8, 64, 64))
    coarse = filled(maps, mask, bins=LEAST_BINS).bounds()[list(PIXEL_METRICS)].loc["a"]
    assert (coarse > 1e-5).all()
    assert (coarse < 0.2).all()


def test_worst_case_inside_a_bin_is_within_bounds():
    """A dense page, and in one of its bins all defective pixels, in the best and in the worst order."""
    rng = np.random.default_rng(0)
    filler = rng.uniform(1.0, 1.125, (40, 16, 16)).astype(np.float32)
    mask = np.zeros((41, 16, 16), bool)
    mask[40, :8] = True
    inside = np.float32(1.0625) + np.arange(256).reshape(16, 16) * np.float32(2**-23)
    for order in (inside, inside[::-1]):
        maps = np.concatenate([filler, order[None]]).astype(np.float32)
        evaluator = filled(maps, mask, bins=LEAST_BINS)
        assert_within_bounds(evaluator, pixel_oracle(maps, mask))
        assert evaluator.bounds()["pixel_ap"]["a"] > 0.005


def test_few_scores_are_exact():
    """Floats that fall into few chunks have bins of their own."""
    maps, mask = make_maps("around -1e5", 4, (4, 32, 32))
    evaluator = filled(maps, mask)
    exact = filled(maps, mask, metric="exact").compute()
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
    np.testing.assert_array_equal(key_float(key.long().numpy()), np.float32([*ordered, np.inf]))


@pytest.mark.parametrize("bins", [LEAST_BINS, 1 << 19])
def test_every_score_lies_in_its_bin(bins):
    """Bins come in descending order, do not overlap and contain their scores."""
    rng = np.random.default_rng(0)
    special = [-np.inf, -3e38, -2.5, -1.0, -1e-40, -0.0, 0.0, 1e-45, 1e-40, 1e-3, 1, 1.0001, 7e30, np.inf]
    score = np.float32(
        [*special, *rng.normal(size=20000), *(1 - rng.random(20000) ** 9), *np.exp(rng.normal(size=20000))]
    )
    maps = torch.tensor(score).view(1, 1, -1)
    checked = UpdateChecker(["a"], torch.device("cpu")).check(
        [0], [0.0], [0], maps, torch.zeros_like(maps, dtype=torch.bool)
    )
    state = HistogramState(1, bins=bins)
    empty = torch.zeros(0, dtype=torch.int64)
    state.add(torch.zeros(1, dtype=torch.int64), maps, empty, empty.double(), checked.pixels.scan)
    bins = state.bins([0])
    assert (bins.low_K <= bins.high_K).all()
    assert (bins.low_K[:-1] > bins.high_K[1:]).all()
    which = np.searchsorted(-bins.low_K, -score.astype(np.float64))
    assert (score <= bins.high_K[which]).all()
    np.testing.assert_array_equal(np.bincount(which, minlength=len(bins.low_K)), bins.normal_K)


def test_memory_does_not_grow_with_pixels():
    maps, mask = make_maps("uniform", 0, (2, 32, 32))
    evaluator = filled(maps, mask)
    used = evaluator._pixels.nbytes()
    for _ in range(20):
        evaluator.update([0, 0], [0.0, 0.0], mask.any((1, 2)), maps, mask)
    assert evaluator._pixels.nbytes() == used


def test_memory_is_bounded():
    """However many different scores there are: 16 bytes per bin, and the tables."""
    rng = np.random.default_rng(0)
    evaluator = Evaluator(["a"], bins=LEAST_BINS)
    for _ in range(8):
        maps = (np.exp(rng.uniform(-80, 80, (16, 64, 64))) * rng.choice([-1, 1], (16, 64, 64))).astype(np.float32)
        evaluator.update([0] * 16, np.zeros(16), [0] * 16, maps, np.zeros(maps.shape, bool))
    assert evaluator._pixels._layout.size < 4 * LEAST_BINS


def test_brute_force_aupro_by_hand():
    """The oracle itself, and the evaluator: two regions of one pixel each, 8 normal pixels."""
    maps = np.array([[[9, 9, 9, 2, 7], [1, 1, 8, 1, 1]]], dtype=float)
    mask = np.array([[[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]], dtype=bool)
    # Thresholds 9: FPR 2/8, PRO 1/2; 8: FPR 3/8, PRO 1/2; so up to 0.3: a ramp to 1/2 at 0.25, then flat.
    assert brute_force_aupro(maps, mask) == pytest.approx((0.25 * 0.5 / 2 + 0.05 * 0.5) / 0.3)
    assert evaluate(maps, mask, metric="exact")["pixel_aupro"]["all"] == pytest.approx(
        (0.25 * 0.5 / 2 + 0.05 * 0.5) / 0.3
    )
