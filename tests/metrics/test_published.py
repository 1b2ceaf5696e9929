"""``metric=ader`` and ``metric=invad``, published tables: against formulas written literally, and at odd ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ader.metrics import PIXEL_METRICS, published
from tests.support.oracles import brute_force_aupro
from tests.support.published_oracle import ORACLES, published_metrics, region_weights, strip_edges


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Each takes standard normal values (higher where defective) and gives scores.
DISTRIBUTIONS = {
    "uniform": lambda x: sigmoid(1.7 * x),
    "gaussian": lambda x: x,
    "exp(40x)": lambda x: np.exp(40 * sigmoid(x)),
    "x**6": lambda x: sigmoid(x) ** 6,
    "outlier 1e4": lambda x: np.where(x == x.max(), 1e4, 0.3 * sigmoid(x)),
    "outlier -1e4": lambda x: np.where(x == x.min(), -1e4, 0.3 * sigmoid(x)),
    "8 bit": lambda x: np.round(sigmoid(x) * 255) / 255,
    "saturated": lambda x: np.minimum(x, 2.0),
    "rectified": lambda x: np.maximum(x, 0),
    "negative": lambda x: -np.exp(x),
    "around -1e5": lambda x: x - 1e5,
    "two values": lambda x: x > 1,
    "steps of 1/20": lambda x: np.round(20 * sigmoid(x)) / 20,
    "huge": lambda x: 1e38 * np.tanh(x),
    "denormal": lambda x: np.round(x * 300) * 1e-44,
    "signed zeros": lambda x: np.where(x > 1, 1.0, np.where(np.round(10 * x) % 2 == 0, 0.0, -0.0)),
}


def make_maps(distribution, seed, shape=(5, 14, 17), shift=1.0, density=0.15):
    """Maps and masks with one defective and one normal pixel at least."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    mask.flat[0], mask.flat[-1] = True, False
    maps = DISTRIBUTIONS[distribution](rng.normal(size=shape) + shift * mask)
    return maps.astype(np.float32), mask


def of(maps, mask, kind="ader"):
    """`published_metrics` of maps; weights of normal pixels must not matter, so they are NaN."""
    weight = np.where(mask, region_weights(mask), np.nan)
    return published_metrics(kind, maps.ravel(), mask.ravel(), weight.ravel())


def assert_agrees(maps, mask, kind="ader"):
    values = of(maps, mask, kind)
    assert tuple(values) == PIXEL_METRICS
    assert values == pytest.approx(ORACLES[kind](maps, mask), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", ORACLES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_agrees_with_the_literal_formulas(distribution, seed, kind):
    assert_agrees(*make_maps(distribution, seed, shift=(1.0, 4.0, -1.0)[seed], density=(0.05, 0.3, 0.9)[seed]), kind)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    distribution=st.sampled_from(sorted(DISTRIBUTIONS)),
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(2, 6)),
    density=st.sampled_from([0.05, 0.3, 0.9]),
    kind=st.sampled_from(sorted(ORACLES)),
)
def test_agrees_on_few_pixels(distribution, seed, shape, density, kind):
    maps, mask = make_maps(distribution, seed, shape, density=density)
    if maps.min() < maps.max():
        assert_agrees(maps, mask, kind)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 1e-3), (1e5, 1e5 + 1), (0, 1e-43), (-2e38, 1e38)])
def test_scores_on_edges_and_thresholds(low, high):
    """Every edge and every threshold with the float32 numbers beside it, defective and normal."""
    low, high = np.float32(low), np.float32(high)
    scaled = [np.float32(step / 20) * (high - low) + low for step in range(21)]
    first = published.first_above(published.MAX_THRESHOLDS, (low, high))
    at = np.concatenate([strip_edges(low, high), scaled, first[np.isfinite(first)]])
    score = np.concatenate([at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))])
    score = np.clip(np.concatenate([score, [low, high]]), low, high).astype(np.float32)
    mask = np.random.default_rng(0).random((2, len(score), 3)) < 0.3
    for kind in ORACLES:
        assert_agrees(np.broadcast_to(score[:, None], mask.shape), mask, kind)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ends=st.tuples(*[st.floats(-(2.0**126), 2.0**126, width=32)] * 2), seed=st.integers(0, 99))
def test_first_above_is_the_comparison_of_normalized_scores(ends, seed):
    low, high = np.float32(min(ends)), np.float32(max(ends))
    if low == high:
        return
    threshold = np.sort(np.random.default_rng(seed).random(20, dtype=np.float32))
    threshold[[0, -1]] = 0, 1
    first = published.first_above(threshold, (low, high))
    assert first[-1] == np.inf
    assert np.all((first[:-1] - low) / (high - low) > threshold[:-1])
    below = np.nextafter(first[:-1], np.float32(-np.inf))
    assert not np.any((below - low) / (high - low) > threshold[:-1])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_ranks_are_those_of_a_search(distribution):
    score = make_maps(distribution, 1, shape=(20_000,))[0]
    low, high = score.min(), score.max()
    first = published.first_above(published.MAX_THRESHOLDS, (low, high))
    edges = np.unique(np.concatenate([published.strip_edges((low, high)), first, score[:9]]))
    rank = published.Binning(edges, (low, high)).rank(score)
    np.testing.assert_array_equal(rank, np.searchsorted(edges, score, "right"))


def test_chunks_do_not_matter(monkeypatch):
    maps, mask = make_maps("gaussian", 5)
    whole = of(maps, mask)
    monkeypatch.setattr(published, "CHUNK", 7)
    assert of(maps, mask) == pytest.approx(whole, abs=1e-14)


def line(score, defective):
    """Metrics of one row of pixels, each defective one a region of its own."""
    defective = np.array(defective, dtype=bool)
    return published_metrics("ader", np.array(score, dtype=np.float32), defective, np.ones(len(defective)))


def test_perfect_scores_lose_what_lies_on_the_maximum():
    values = line([0] * 6 + [0.9, 0.9, 0.9, 1.0], [0] * 6 + [1] * 4)
    assert values["pixel_ap"] == pytest.approx(3 / 4)
    assert values["pixel_auroc"] == values["pixel_aupro"] == 1
    assert values["pixel_f1max"] == pytest.approx(1, abs=1e-7)


def test_normal_pixels_on_the_maximum_move_the_start_of_the_curves():
    """By hand: at the maximum FPR 1/5 and TPR 1/2, then both defective pixels, then everything."""
    values = line([1, 0, 0, 0, 0, 1, 0.5], [0] * 5 + [1] * 2)
    assert values["pixel_auroc"] == pytest.approx(4 / 5)
    assert values["pixel_aupro"] == pytest.approx((0.3 - 0.2) / 0.3)
    assert values["pixel_ap"] == pytest.approx((1 - 1 / 2) * (1 / 2 + 2 / 3) / 2)


def test_highest_edge_above_the_largest_score():
    """Float32 rounding can lift the last edge over the maximum: the curves then start at (0, 0) and (0, 1)."""
    pairs = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    low, high = next(pair for pair in np.sort(pairs) if published.strip_edges(tuple(pair))[-1] > pair[1])
    values = line([low] * 6 + [high] * 4, [0] * 6 + [1] * 4)
    assert values["pixel_auroc"] == values["pixel_ap"] == values["pixel_aupro"] == 1


def test_aupro_is_undefined_if_the_curve_starts_beyond_the_limit():
    values = line([1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1])
    assert [slug for slug, value in values.items() if np.isnan(value)] == ["pixel_aupro"]
    assert not np.isnan(line([1] * 3 + [0] * 8, [0] * 10 + [1])["pixel_aupro"])  # exactly 0.3: a start at the limit


@pytest.mark.parametrize(
    ("score", "defective"),
    [
        ([], []),
        ([1, 2, 3], [0, 0, 0]),
        ([1, 2, 3], [1, 1, 1]),
        ([5, 5, 5], [0, 1, 0]),
        ([0.0, -0.0], [0, 1]),
        ([1, 2, np.inf], [0, 1, 0]),
        ([-np.inf, 2, 3], [0, 1, 0]),
        ([-3e38, 2, 3e38], [0, 1, 0]),
        ([np.nan, 2, 3], [0, 1, 0]),
    ],
)
def test_undefined(score, defective):
    assert np.isnan(list(line(score, defective).values())).all()


@pytest.mark.parametrize(
    ("distribution", "least", "most"), [("uniform", 0.0, 0.02), ("x**6", 0.0, 0.05), ("exp(40x)", 0.1, 1.0)]
)
def test_aupro_of_100_thresholds_differs_most_with_long_tails(distribution, least, most):
    """From the exact one, which is the same for all three: the scores have the same order."""
    maps, mask = make_maps(distribution, 0, shape=(8, 40, 40))
    exact = brute_force_aupro(np.argsort(np.argsort(maps, axis=None)).reshape(maps.shape) // 200, mask)
    assert least <= abs(of(maps, mask, "invad")["pixel_aupro"] - exact) <= most


def test_aupro_of_100_thresholds_by_hand():
    """Thresholds 0, 0.01, ... 0.99; ten normal pixels, three regions of one pixel. FPR is 0.3, which is not below the
    limit, up to 0.09; then (FPR, PRO) is (0.1, 1) up to 0.29, (0.1, 2/3) up to 0.49, (0, 2/3) above. Rescaled, the
    area from 0 to 1 is 2/3; up to FPR 0.3 of the exact curve it is not."""
    score = [0] * 6 + [1e-3, 0.1, 0.1, 0.5] + [0.3, 0.995, 1.0]
    defective = np.array([0] * 10 + [1, 1, 1])
    values = published_metrics("invad", np.array(score, np.float32), defective == 1, np.where(defective, [1.0] * 13, 0))
    assert values["pixel_aupro"] == pytest.approx(2 / 3)
    assert brute_force_aupro([[score]], [[defective]]) > 0.8


@pytest.mark.skipif(not hasattr(np, "trapz"), reason="ADEval 1.1.0 calls numpy.trapz, which left in NumPy 2.4")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_agrees_with_adeval(distribution):
    adeval = pytest.importorskip("adeval", exc_type=ImportError)
    maps, mask = make_maps(distribution, 3, shape=(6, 40, 40))
    accumulator = adeval.EvalAccumulator(0.0, 1.0, maps.min(), maps.max(), nstrips=50)
    accumulator.add_anomap_batch(maps, mask.astype(np.uint8))
    theirs, ours = accumulator.summary(), of(maps, mask)
    for slug, name in (("pixel_auroc", "p_auroc"), ("pixel_ap", "p_aupr"), ("pixel_aupro", "p_aupro")):
        assert ours[slug] == pytest.approx(theirs[name], abs=1e-6), slug
