"""Exact values against scikit-learn, brute force and closed forms; regions; names."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ader.metrics import (
    AVERAGES,
    IMAGE_METRICS,
    METRICS,
    OBJECT_METRICS,
    PIXEL_METRICS,
    SLUGS,
    curves,
    evaluate,
    find_metric,
)
from ader.metrics.curves import Bins
from ader.metrics.regions import label_regions, label_with_scipy
from ader.system.errors import UserError
from tests.support.oracles import flood_fill_regions, pixel_oracle


def f1_max_from_sklearn(truth, score):
    precision, recall, _ = precision_recall_curve(truth, score)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))


def random_scores(seed, levels, size=300):
    rng = np.random.default_rng(seed)
    truth = rng.random(size) < 0.3
    score = rng.normal(size=size) + truth
    return (score if levels is None else np.round(score * levels) / levels), truth


@pytest.mark.parametrize("levels", [None, 1, 5])
@pytest.mark.parametrize("seed", range(5))
def test_curves_agree_with_sklearn(seed, levels):
    score, truth = random_scores(seed, levels)
    bins = Bins.from_scores(score, truth)
    assert curves.auroc(bins).value == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert curves.average_precision(bins).value == pytest.approx(average_precision_score(truth, score), abs=1e-12)
    assert curves.f1_max(bins).value == pytest.approx(f1_max_from_sklearn(truth, score), abs=1e-12)


def random_maps(seed, levels, shape=(4, 9, 11)):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.15
    mask[0] = False
    return (rng.integers(0, levels, shape) + 0.3 * levels * mask).astype(np.float32), mask


@pytest.mark.parametrize("levels", [2, 7, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_metrics_agree_with_brute_force(seed, levels):
    maps, mask = random_maps(seed, levels)
    frame = evaluate(maps, mask, metric="exact")
    expected = pixel_oracle(maps, mask)
    assert set(expected) == set(PIXEL_METRICS)
    for slug, value in expected.items():
        assert frame[slug]["all"] == pytest.approx(value, abs=1e-12), slug


def test_bounds_of_exact_evaluation_are_zero():
    maps, mask = random_maps(0, 7)
    bins = Bins.from_scores(maps.ravel(), mask.ravel(), np.ones(maps.size))
    for of in (
        curves.auroc,
        curves.average_precision,
        curves.f1_max,
        curves.aupro,
        curves.iou_max,
        curves.range_f1,
        curves.range_recall,
        curves.range_iou,
    ):
        value, low, high = of(bins)
        assert value == pytest.approx(low) == pytest.approx(high)


def one_bin(p, q, above=((1, 2),)):
    """Some closed bins, then one wide bin of p defective and q normal pixels, then one normal pixel."""
    counts = np.array([*above, (p, q), (0, 1)], dtype=np.float64).T
    edges = np.arange(counts.shape[1], 0, -1).astype(np.float64)
    low = edges - 0.5 * (np.arange(counts.shape[1]) == len(above))
    return Bins(counts[0], counts[1], counts[0], low, edges)


@pytest.mark.parametrize(("p", "q"), [(1, 1), (3, 2), (5, 0), (200, 300)])
def test_ap_bounds_are_reached(p, q):
    """Both ends belong to real rankings: no bound can be tighter."""
    truth = np.array([1, 0, 0] + [1] * p + [0] * (q + 1))
    best = np.array([9, 8.5, 8.5] + [5] * p + [4] * q + [0])
    worst = np.array([9, 8.5, 8.5, *np.linspace(5, 4, p), *[6] * q, 0])
    above = ((1, 0), (0, 2))
    _, low, high = curves.average_precision(one_bin(p, q, above))
    assert high == pytest.approx(average_precision_score(truth, best), abs=1e-12)
    assert low == pytest.approx(average_precision_score(truth, worst), abs=1e-12)


def test_ap_bound_is_accurate_for_huge_counts():
    """psi(x + p) - psi(x) must not lose its digits: compared with the sum it stands for."""
    p, tp, f = 1000.0, 2.0e6, 3.0e8
    i = np.arange(1, p + 1)
    got = curves._sum_of_precisions(np.array([p]), np.array([tp]), np.array([f]))[0]
    assert got == pytest.approx(float(((tp + i) / (tp + i + f)).sum()), rel=1e-9)
    small = curves._sum_of_precisions(np.array([7.0]), np.array([3.0]), np.array([11.0]))[0]
    assert small == pytest.approx(sum((3 + k) / (14 + k) for k in range(1, 8)), rel=1e-12)


def test_aupro_bounds_at_the_limit():
    """A wide bin over FPR 0..1 that holds the whole rise of PRO: PRO is 0 or 1 all the way to the limit."""
    bins = Bins(*(np.array([each]) for each in (4.0, 10.0, 1.0, 0.0, 1.0)))
    assert curves.aupro(bins).value == pytest.approx(0.15)
    assert curves.aupro(bins)[1:] == pytest.approx((0.0, 1.0))


def test_image_quantile_metrics():
    """By hand: 5 % quantile of 1, 2, ... 21 is 2, 2 % is 1.4; a good score of 2 itself is a false alarm."""
    defective, normal = np.arange(1.0, 22), np.array([0.0, 1.2, 1.5, 2.0, 30.0])
    assert curves.fpr_at_95_tpr(Bins.from_two(defective, normal)).value == pytest.approx(2 / 5)
    assert curves.presorted_good(Bins.from_two(defective, normal)).value == pytest.approx(2 / 5)
    found = [
        curves.presorted_bad(Bins.from_two(defective, np.array(good))) for good in ([*[0.0] * 50, 20.0], [3.0, 20.0])
    ]
    assert [each.value for each in found] == pytest.approx([21 / 21, 2 / 21])


def test_quantile_with_infinities():
    inf = np.inf
    assert curves.quantile(np.array([inf, inf, inf]), 0.05) == inf
    assert curves.quantile(np.array([-inf, 0.0, 1.0]), 0.25) == -inf
    assert curves.quantile(np.array([0.0, inf]), 0.5) == inf
    assert curves.quantile(np.array([0.0, 1.0, inf]), 0.25) == 0.5


def test_perfect_and_inverted_maps():
    mask = np.zeros((2, 8, 8), dtype=np.uint8)
    mask[0, 2:5, 2:5] = 255
    perfect = evaluate((mask > 0).astype(np.float32), mask).loc["all"]
    for slug in PIXEL_METRICS:
        assert perfect[slug] == pytest.approx(1.0, abs=1e-12), slug
    assert perfect["image_auroc"] == perfect["image_pg2"] == 1.0
    assert perfect["image_fpr95"] == 0.0
    inverted = evaluate(-(mask > 0).astype(np.float32), mask).loc["all"]
    assert inverted["pixel_auroc"] == inverted["pixel_aupro"] == inverted["pixel_acc_02_08"] == 0.0


@pytest.mark.parametrize("label", [label_regions, label_with_scipy], ids=["default", "scipy"])
@pytest.mark.parametrize("density", [0.05, 0.25, 0.5, 0.8, 1.0])
def test_regions_agree_with_flood_fill(label, density):
    mask = (np.random.default_rng(3).random((5, 12, 13)) < density).astype(np.uint8) * 255
    mask[2] = 0
    regions = label(mask, mask.any((1, 2)))
    np.testing.assert_array_equal(regions.position_M, np.flatnonzero(mask))
    weight = np.zeros(mask.shape)
    weight[mask > 0] = regions.weight_M
    for image, mask_HW in enumerate(mask):
        filled = flood_fill_regions(mask_HW)
        assert regions.count_B[image] == len(filled)
        for region in filled:
            assert {weight[image][at] for at in region} == {1 / len(region)}


@pytest.mark.parametrize("label", [label_regions, label_with_scipy], ids=["default", "scipy"])
def test_regions_join_corners_but_not_images(label):
    mask = np.zeros((2, 3, 3), dtype=np.uint8)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[1, 1, 1] = 1
    regions = label(mask, np.array([True, True]))
    assert regions.weight_M.tolist() == [0.5, 0.5, 1.0]
    assert regions.count_B.tolist() == [1, 1]


def test_regions_of_nothing():
    regions = label_regions(np.zeros((2, 3, 3), np.uint8), np.array([False, False]))
    assert len(regions.position_M) == len(regions.weight_M) == 0
    assert regions.count_B.tolist() == [0, 0]


def test_names():
    assert len(set(SLUGS)) == len(SLUGS) == 21
    assert [each.slug for each in METRICS if not each.higher_is_better] == ["image_fpr95"]
    assert set(SLUGS) == {*IMAGE_METRICS, *OBJECT_METRICS, *PIXEL_METRICS, *AVERAGES}
    assert len({each.heading for each in METRICS}) == len(SLUGS)
    assert AVERAGES["mad"] == (
        "image_auroc",
        "image_ap",
        "image_f1max",
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1max",
        "pixel_aupro",
    )
    with pytest.raises(UserError, match="did you mean 'pixel_aupro'"):
        find_metric("pixel_aupr0")


def test_evaluate_defaults():
    """Scores default to the largest pixel, labels to whether there is a mask; read-only arrays are fine."""
    maps, mask = random_maps(2, 9)
    mask[1] = False
    maps[2:] += 3
    maps.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = evaluate(maps, mask)
    given = evaluate(maps, mask, scores=maps.max((1, 2)), labels=[0, 0, 1, 1])
    np.testing.assert_array_equal(frame, given)
    assert frame["image_auroc"]["all"] == 1.0


def test_evaluate_lists_and_categories():
    """A list may hold maps of different sizes; rows come in order of first mention."""
    big, big_mask = random_maps(0, 9)
    small, small_mask = random_maps(1, 9, (4, 5, 6))
    frame = evaluate([*big, *small], [*big_mask, *small_mask], categories=["z"] * 4 + ["a"] * 4)
    assert list(frame.index) == ["z", "a", "mean"]
    np.testing.assert_array_equal(frame.loc["a"], evaluate(small, small_mask).loc["all"])


def test_evaluate_without_maps_needs_scores_and_labels():
    frame = evaluate(None, None, scores=[0.1, 0.9], labels=[0, 1])
    assert frame["image_auroc"]["all"] == 1.0
    assert np.isnan(frame["pixel_auroc"]["all"])
    with pytest.raises(ValueError, match="scores: expected values"):
        evaluate(None, None, labels=[0, 1])
    with pytest.raises(ValueError, match="masks: expected 2 entries, got 1"):
        evaluate(np.zeros((2, 3, 3)), np.zeros((1, 3, 3), dtype=bool), labels=[0, 1])
