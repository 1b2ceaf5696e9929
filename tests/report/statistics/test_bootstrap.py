"""Paired bootstrap: metrics of draws, intervals and their refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ader.metrics.curves import Bins, fpr_at_95_tpr, presorted_bad, presorted_good
from ader.report.statistics.bootstrap import bca, intervals, over_categories, pair
from ader.report.statistics.drawn import Category
from ader.system.errors import UserError

ALL = ("image_auroc", "image_ap", "image_f1max", "image_fpr95", "image_pg2", "image_pb2")


def scores(rng, sizes, shift=1.0, digits=1):
    """Of categories with so many defective and normal images; rounded, so that there are ties."""
    rows = [
        (f"{name}/{label}/{number}", name, label, round(rng.normal(shift * label), digits))
        for name, counts in sizes.items()
        for label, count in zip((1, 0), counts, strict=True)
        for number in range(count)
    ]
    return pd.DataFrame(rows, columns=["image", "category", "label", "score"]).set_index("image")


def brute(defective_P, normal_Q):
    """Image metrics by scikit-learn, and by the evaluator for those that it lacks."""
    label = np.r_[np.ones(len(defective_P)), np.zeros(len(normal_Q))]
    score = np.r_[defective_P, normal_Q]
    precision, recall, _ = precision_recall_curve(label, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    bins = Bins.from_two(defective_P, normal_Q)
    rest = [function(bins).value for function in (fpr_at_95_tpr, presorted_good, presorted_bad)]
    return [roc_auc_score(label, score), average_precision_score(label, score), f1.max(), *rest]


def test_metrics_of_draws_are_those_of_the_drawn_images():
    rng = np.random.default_rng(0)
    category = Category(np.round(rng.normal(1, 1, 9), 1), np.round(rng.normal(0, 1, 7), 1))
    place_BP, place_BQ = rng.integers(9, size=(25, 9)), rng.integers(7, size=(25, 7))
    found = category.metrics(place_BP, place_BQ, ALL)
    for draw in range(25):
        expected = brute(category.defective_P[place_BP[draw]], category.normal_Q[place_BQ[draw]])
        assert [found[slug][draw] for slug in ALL] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sizes", [{"a": (40, 30)}, {"a": (15, 12), "b": (25, 8)}])
def test_intervals_are_those_of_scipy(sizes):
    """scipy draws the positions of every category and label as a sample of its own."""
    rng = np.random.default_rng(1)
    one, other = scores(rng, sizes, 0.8), scores(rng, sizes, 1.4)
    both = pair(one, other)

    def auroc(defective, normal):
        return (np.sign(defective[..., :, None] - normal[..., None, :]).mean(axis=(-1, -2)) + 1) / 2

    def difference(*places, axis=-1):
        total = 0.0
        for number, (a, b) in enumerate(both.categories.values()):
            bad, good = (each.astype(int) for each in places[2 * number : 2 * number + 2])
            total = total + auroc(b.defective_P[bad], b.normal_Q[good]) - auroc(a.defective_P[bad], a.normal_Q[good])
        return total / len(both.categories)

    samples = [np.arange(count) for name in sizes for count in sizes[name]]
    expected = stats.bootstrap(
        samples, difference, n_resamples=4000, random_state=np.random.default_rng(2), vectorized=True, batch=500
    ).confidence_interval  # BCa
    found = intervals(both, ["image_auroc"], 4000)["image_auroc"]["mean"]
    assert found.difference == pytest.approx(float(difference(*samples)))
    tolerance = 0.06 * (expected.high - expected.low)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=tolerance)


def test_bca_is_scipys_for_the_same_draws():
    """The distribution is handed over, so that nothing is left to chance: skewed data, whose acceleration counts."""
    rng = np.random.default_rng(3)
    data_N = rng.exponential(size=25)
    result = stats.bootstrap((data_N,), np.mean, n_resamples=999, method="BCa", random_state=rng, vectorized=True)
    without_N = (data_N.sum() - data_N) / 24
    low, high = bca(float(data_N.mean()), result.bootstrap_distribution, [without_N])
    assert (low, high) == pytest.approx(tuple(result.confidence_interval), abs=1e-9)
    percentile = np.quantile(result.bootstrap_distribution, [0.025, 0.975])
    assert abs(low - percentile[0]) > 1e-3, "the correction does nothing: the test could not fail"


def test_coverage_of_the_true_difference():
    """Of 60 pairs of equal methods, about 95 % of the intervals have 0."""
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(60):
        base = scores(rng, {"a": (40, 40)}, digits=6)
        one, other = (base.assign(score=base["score"] + rng.normal(size=80)) for _ in range(2))
        found = intervals(pair(one, other), ["image_auroc"], 400)["image_auroc"]["mean"]
        hits += found.low <= 0 <= found.high
    assert 52 <= hits <= 60


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(5)
    one = scores(rng, {"a": (50, 50)}, digits=6)
    near = one.assign(score=one["score"] + rng.normal(size=100) / 10)
    far = scores(rng, {"a": (50, 50)}, digits=6)
    widths = [
        (found.high - found.low)
        for found in (intervals(pair(one, other), ["image_auroc"])["image_auroc"]["a"] for other in (near, far))
    ]
    assert widths[0] < widths[1] / 3


def test_the_same_draws_for_the_same_seed_and_for_all_metrics():
    rng = np.random.default_rng(6)
    both = pair(scores(rng, {"a": (9, 9)}), scores(rng, {"a": (9, 9)}))
    alone = intervals(both, ["image_ap"], 200, seed=1)["image_ap"]
    assert alone == intervals(both, ["image_auroc", "image_ap"], 200, seed=1)["image_ap"]
    assert alone != intervals(both, ["image_ap"], 200, seed=2)["image_ap"]


def test_an_average_is_drawn_as_one():
    rng = np.random.default_rng(7)
    both = pair(scores(rng, {"a": (9, 9), "b": (5, 9)}), scores(rng, {"a": (9, 9), "b": (5, 9)}))
    found = intervals(both, ["image_auroc", "image_ap", "image_f1max", "mad_image"], 100)
    for row in ("a", "mean"):
        parts = [found[slug][row].difference for slug in ("image_auroc", "image_ap", "image_f1max")]
        assert found["mad_image"][row].difference == pytest.approx(np.mean(parts))
    assert found["mad_image"]["mean"].units == "32 images"


def test_equal_runs_and_a_single_image():
    rng = np.random.default_rng(8)
    one = scores(rng, {"a": (1, 5)})
    found = intervals(pair(one, one), ["image_auroc"], 50)["image_auroc"]["mean"]
    assert (found.low, found.high, found.certain) == (0.0, 0.0, False)
    assert found.units == "6 images"


def test_images_in_another_order_are_paired_by_name():
    rng = np.random.default_rng(9)
    one, other = scores(rng, {"a": (6, 6)}), scores(rng, {"a": (6, 6)})
    found = [intervals(pair(one, each), ["image_auroc"], 50) for each in (other, other[::-1])]
    assert found[0] == found[1]


def test_in_small_chunks(monkeypatch):
    rng = np.random.default_rng(10)
    both = pair(scores(rng, {"a": (6, 6)}), scores(rng, {"a": (6, 6)}))
    monkeypatch.setattr("ader.report.statistics.bootstrap.CHUNK", 40)
    found = intervals(both, ["image_auroc"], 400)["image_auroc"]["mean"]
    assert found.difference == pytest.approx(both_difference(both))
    assert found.low < found.difference < found.high


def both_difference(both):
    a, b = both.categories["a"]
    return brute(b.defective_P, b.normal_Q)[0] - brute(a.defective_P, a.normal_Q)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.iloc[1:], "were tested on other images, such as a/1/0"),
        (lambda table: table.assign(label=1 - table["label"]), "other labels or categories"),
        (lambda table: table.assign(score=np.inf), "not finite"),
    ],
)
def test_refused(change, message):
    table = scores(np.random.default_rng(11), {"a": (3, 3)})
    with pytest.raises(UserError, match=message):
        pair(table, change(table))


def test_categories_of_one_kind_are_left_out():
    table = scores(np.random.default_rng(12), {"a": (3, 3), "b": (0, 4)})
    assert pair(table, table).left_out == ("b",)
    with pytest.raises(UserError, match="no category with normal and defective"):
        pair(table.iloc[6:], table.iloc[6:])


def test_intervals_over_categories():
    rng = np.random.default_rng(13)
    a_C = rng.uniform(size=12)
    b_C = a_C + rng.exponential(0.1, size=12)
    found = over_categories(a_C, b_C, 20000)
    result = stats.bootstrap((b_C - a_C,), np.mean, n_resamples=20000, method="BCa", random_state=rng, vectorized=True)
    assert (found.low, found.high) == pytest.approx(tuple(result.confidence_interval), abs=0.004)
    assert found.units == "12 categories"
    few = over_categories(np.array([0.1, np.nan, 0.3]), np.array([0.2, 0.2, 0.3]))
    assert few.difference == pytest.approx(0.05)
    assert np.isnan(few.low)
    assert few.units == "too few categories (2)"
