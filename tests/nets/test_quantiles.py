"""Quantiles in two passes against numpy's, which has all values at once."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from ader.nets.state.quantiles import StreamedQuantiles


def streamed(value_MN: np.ndarray, shares: tuple[float, ...], chunks: int, reload: bool = False) -> np.ndarray:
    """In pieces; ``reload``: as a run that is interrupted between the passes."""
    quantiles = StreamedQuantiles(len(value_MN), shares)
    pieces = torch.from_numpy(value_MN).tensor_split(chunks, dim=1)
    quantiles.count_upper(pieces[0])  # an interrupted pass
    quantiles.begin()
    for piece in pieces:
        quantiles.count_upper(piece)
    quantiles.conclude_upper()
    if reload:
        stream = io.BytesIO()
        torch.save(quantiles.state_dict(), stream)
        stream.seek(0)
        quantiles = StreamedQuantiles(len(value_MN), shares)
        quantiles.load_state_dict(torch.load(stream, weights_only=True))
    for piece in reversed(pieces):
        quantiles.count_lower(piece)
    quantiles.conclude_lower()
    return quantiles.value_MQ.numpy()


@pytest.mark.parametrize("reload", [False, True])
def test_as_numpy(reload):
    """Values over twelve orders of magnitude, many equal or 0; places that are whole numbers and that are not."""
    rng = np.random.default_rng(0)
    wide = np.float32(10.0 ** rng.uniform(-9, 3, 1001))
    few = np.float32(rng.integers(0, 4, 1001))
    shares = (0.0, 0.9, 0.995, 1.0)
    found = streamed(np.stack([wide, few]), shares, 7, reload)
    expected = np.quantile(np.float64([wide, few]), shares, axis=1).T
    np.testing.assert_allclose(found, expected, rtol=2e-7)
    assert found[0, 0] == wide.min()
    assert found[0, 1] == np.sort(wide)[900]


def test_few_values():
    assert streamed(np.float32([[3.0]]), (0.5, 0.9), 1).tolist() == [[3.0, 3.0]]
    np.testing.assert_allclose(streamed(np.float32([[1.0, 2.0]]), (0.25, 0.9), 2), [[1.25, 1.9]], rtol=1e-6)


def test_no_values():
    quantiles = StreamedQuantiles(2, (0.5,))
    with pytest.raises(RuntimeError, match="no values to take quantiles of"):
        quantiles.conclude_upper()
