"""Average ranks, Friedman and Nemenyi: the example of Demsar (2006), and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ader.report.collection import collect
from ader.report.statistics.ranks import Friedman, average_ranks, critical_difference, rank, ranks_table
from ader.report.statistics.values import values_of
from ader.system.errors import UserError
from tests.support.trees import a_run

#: Demsar's Table 6: AUC of C4.5, with m, with cf, with both. Of "voting", cf and both are printed alike, but ranked.
DEMSAR = pd.DataFrame(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ],
    columns=["C4.5", "m", "cf", "m+cf"],
)


def test_demsars_example():
    found = average_ranks(DEMSAR, alpha=0.10)
    assert found.names == ("m+cf", "m", "cf", "C4.5")
    assert found.ranks == pytest.approx([1.964, 2.000, 2.893, 3.143], abs=5e-4)
    assert found.friedman.chi2 == pytest.approx(9.28, abs=5e-3)
    assert found.friedman.f == pytest.approx(3.69, abs=5e-3)
    assert found.friedman.p < 0.05, "F(3, 39) is 2.85 at 5 %"
    assert found.distance == pytest.approx(1.12, abs=5e-3)
    # "C4.5 is worse than C4.5+m and C4.5+m+cf, while C4.5+cf cannot be assigned to either group"
    assert found.groups() == [(0, 2), (2, 3)]
    five = average_ranks(DEMSAR)
    assert five.distance == pytest.approx(1.25, abs=5e-3)
    assert five.groups() == [(0, 3)]


@pytest.mark.parametrize(
    ("methods", "alpha", "q"),
    [(2, 0.05, 1.960), (3, 0.05, 2.343), (5, 0.05, 2.728), (10, 0.05, 3.164), (4, 0.10, 2.291), (10, 0.10, 2.920)],
)
def test_critical_values_are_those_of_demsars_table_5(methods, alpha, q):
    distance = critical_difference(methods, 6, alpha)
    assert distance / np.sqrt(methods * (methods + 1) / 36) == pytest.approx(q, abs=1e-3)


def test_friedman_is_scipys_without_ties():
    value_NK = np.random.default_rng(0).normal(size=(9, 5))
    found = average_ranks(pd.DataFrame(value_NK))
    assert found.friedman.chi2 == pytest.approx(stats.friedmanchisquare(*value_NK.T).statistic)
    expected = stats.rankdata(-value_NK, axis=1).mean(axis=0)
    assert found.ranks == pytest.approx(sorted(expected))


def test_the_same_order_everywhere():
    found = Friedman.of(np.array([1.0, 2.0, 3.0]), 4)
    assert (found.f, found.p) == (np.inf, 0.0)


def test_lower_is_better_and_blocks_with_gaps():
    table = pd.DataFrame({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.3, np.nan]}, index=["x", "y", "z"])
    assert average_ranks(table, higher_is_better=False).names == ("a", "b")
    found = average_ranks(table)
    assert found.names == ("b", "a")
    assert found.left_out == {"z": ("b",)}
    assert found.means == pytest.approx((0.25, 0.15))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"a": [0.1, 0.2]}), "two methods or more: there is a"),
        (pd.DataFrame({"a": [0.1, 0.2], "b": [0.3, np.nan]}), "there are 1, and 1 lack one, most often b"),
    ],
)
def test_refused(table, message):
    with pytest.raises(UserError, match=message):
        average_ranks(table)


def test_of_runs(tmp_path):
    """Means over seeds; a method that a dataset lacks leaves the dataset out, which the table says."""
    for dataset, better in (("mvtec", 0.9), ("visa", 0.8), ("btad", 0.7)):
        for seed in (1, 2):
            for method, value in (("rd", better), ("invad", better - 0.1 + seed / 100)):
                values = {(name, "mad"): value for name in ("bottle", "cable", "capsule")}
                a_run(tmp_path, dataset, method, seed, values=values)
    a_run(tmp_path, "visa", "cfa", 1)
    a_run(tmp_path, "btad", "cfa", 1)
    runs = collect(tmp_path)
    two = values_of([run for run in runs if run.keys["method"] != "cfa"], ["mad"])
    found = rank(two, "mad", "datasets")
    assert dict(zip(found.names, found.ranks, strict=True)) == {"rd": 1.0, "invad": 2.0}
    assert found.means == pytest.approx((0.8, 0.715))
    assert len(rank(two, "mad", "categories").blocks) == 9
    table = ranks_table(rank(values_of(runs, ["mad"]), "mad", "datasets"), "mad", "datasets")
    assert "1 datasets are left out, which not all have: cfa lack some" in table.notes[-1]
