"""Points of pixel curves: true ones, by scikit-learn and by counting, and enough to see the areas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label as regions_of
from sklearn.metrics import precision_recall_curve, roc_curve

from ader.metrics import Evaluator

integral = getattr(np, "trapezoid", None) or np.trapz  # before NumPy 2


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 48, 48), bool)
    mask[:6, 8:20, 10:30], mask[3:6, 30:40, 30:34] = True, True
    maps = (rng.normal(size=mask.shape) + 1.5 * mask).astype(np.float32)
    return maps, mask


def evaluated(images, metric="histogram"):
    maps, mask = images
    evaluator = Evaluator(["a", "b"], metric=metric)
    evaluator.update([0] * len(maps), np.zeros(len(maps)), mask.any((1, 2)).astype(int), maps, mask)
    return evaluator


@pytest.mark.parametrize("metric", ["histogram", "exact", "ader"])
def test_points_are_true(images, metric):
    maps, mask = images
    curves = evaluated(images, metric).curves()
    assert set(curves.index) == {"a"}  # the other category has no pixel
    parts = [regions_of(each, np.ones((3, 3)))[0] for each in mask]
    for threshold, fpr, tpr, precision, pro in curves.to_numpy()[::9]:
        found = maps.astype(np.float64) >= threshold
        assert fpr == pytest.approx(found[~mask].mean(), abs=1e-12)
        assert tpr == pytest.approx(found[mask].mean(), abs=1e-12)
        assert precision == pytest.approx(mask[found].mean() if found.any() else 0, abs=1e-12)
        overlaps = [
            found[number][part == each].mean() for number, part in enumerate(parts) for each in range(1, part.max() + 1)
        ]
        assert pro == pytest.approx(np.mean(overlaps), abs=1e-9)


def test_points_are_enough(images):
    """Linear between them: areas to two thousandths."""
    maps, mask = images
    evaluator = evaluated(images)
    values, curves = evaluator.compute().loc["a"], evaluator.curves()
    assert 60 < len(curves) < 200
    fpr, tpr, pro = (np.append(0.0, curves[name]) for name in ("fpr", "tpr", "pro"))
    assert integral(tpr, fpr) == pytest.approx(values["pixel_auroc"], abs=2e-3)
    near = np.linspace(0, 0.3, 3001)
    assert integral(np.interp(near, fpr, pro), near) / 0.3 == pytest.approx(values["pixel_aupro"], abs=2e-3)
    theirs = roc_curve(mask.ravel(), maps.ravel())
    assert np.abs(np.interp(theirs[0], fpr, tpr) - theirs[1]).max() < 0.02
    precision, recall, _ = precision_recall_curve(mask.ravel(), maps.ravel())
    grid = np.linspace(0.05, 1, 200)
    mine = np.interp(grid, curves["tpr"], curves["precision"])
    assert np.abs(mine - np.interp(grid, recall[::-1], precision[::-1])).max() < 0.02


def test_nothing_to_draw():
    evaluator = Evaluator(["a"])
    assert evaluator.curves().empty
    evaluator.update([0], [0.0], [0], np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), bool))
    assert evaluator.curves().empty
