"""The table of exports says what was found, and why where there is no file."""

from __future__ import annotations

import torch

from ader.methods import Prediction
from benchmarks.exports import attempt, row


class Shy(torch.nn.Module):
    """Cannot be traced."""

    def predict(self, image_BCHW):
        score_B = image_BCHW.mean(dim=(1, 2, 3))
        return Prediction(score_B + 1 if score_B.mean().item() > 0 else score_B)


def test_rows(monkeypatch):
    monkeypatch.setattr("benchmarks.exports.ENDINGS", {"torch": ".pt2"})
    assert row("patchcore") == ("patchcore", "score, map", "any number", "0.0e+00")
    said, batch = attempt(Shy(), 16, "torch")
    assert said.startswith("Shy cannot be exported: Could not guard on data-dependent expression")
    assert batch == ""
