"""A forest as tables gives what XGBoost gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ader.nets.state.forest import BoostedForest, ForestOptions, TreeTables


@pytest.mark.parametrize(
    "options",
    [
        ForestOptions(rounds=3, trees=20),
        ForestOptions(rounds=40, trees=1, depth=7, colsample_bytree=1.0, reg_alpha=0.0),
        ForestOptions(rounds=1, trees=5, depth=1, balance=False),
    ],
)
def test_tables_give_xgboosts_margins(options):
    rng = np.random.default_rng(0)
    label_N = torch.from_numpy((rng.random(300) < 0.1).astype(np.float32))
    feature_NF = torch.from_numpy(rng.normal(size=(300, 6)).astype(np.float32)) + label_N[:, None]
    feature_NF[::11, 2] = torch.nan
    forest = BoostedForest(options)
    forest.fit(feature_NF, label_N, seed=3)
    expected = forest(feature_NF)
    assert len(expected.unique()) > 5
    tables = TreeTables.of(forest._loaded())
    assert tables.depth == options.depth
    assert torch.allclose(tables.margin(feature_NF), expected, rtol=1e-5, atol=1e-5)
    on_limits = tables.limit_TN[0, 0].expand(4, 6)  # a value that equals a limit goes right
    assert torch.allclose(tables.margin(on_limits), forest(on_limits), rtol=1e-5, atol=1e-5)
