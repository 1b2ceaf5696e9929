"""DRAEM beside the official code (clone: ``DRAEM``), in its own recipe."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import build
from ader.nets.synthesis.draws import integers, uniform
from ader.nets.synthesis.perlin import perlin
from parity import SIZE, Difference, Pair, commit, largest
from parity.draem import Reference, compared, without_cuda

NOTE = "ours makes its anomalies in these times; the reference does so in 16 loader workers, which are left out"


class Both(nn.Module):
    """The reference's two networks, put together as its training script does."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.model = code.ReconstructiveSubNetwork(in_channels=3, out_channels=3)
        self.model_seg = code.DiscriminativeSubNetwork(in_channels=6, out_channels=2)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        restored_BCHW = self.model(image_BCHW)
        logit_B2HW = self.model_seg(torch.cat((restored_BCHW, image_BCHW), dim=1))
        return restored_BCHW, torch.softmax(logit_B2HW, dim=1)


def pair(upstreams: Path, batch: int) -> Pair:
    """The official networks and losses; it tests one image at a time."""
    clone = upstreams / "DRAEM"
    sys.path.insert(0, str(clone))
    net = Both(importlib.import_module("model_unet"))
    with without_cuda():
        losses = importlib.import_module("loss")
        ssim, focal = losses.SSIM(), losses.FocalLoss()
    mse = nn.MSELoss()
    ours: Any = build("draem", lr_decay_at=(0.8, 0.9), lr_decay_factor=0.2, clip=None, score_padded=True)

    def predict(image_BCHW: Tensor) -> tuple[Any, Any]:
        maps, scores = [], []
        for image_CHW in image_BCHW:
            map_12HW = net(image_CHW[None])[1]
            maps.append(map_12HW[0, 1].detach().cpu().numpy())
            pooled = F.avg_pool2d(map_12HW[:, 1:], 21, stride=1, padding=21 // 2).cpu().detach().numpy()
            scores.append(np.max(pooled))
        return np.stack(maps), np.stack(scores)

    def loss(restored: Tensor, maps: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        total: Tensor = mse(restored, clean) + ssim(restored, clean) + focal(maps, mask)
        return total

    reference = Reference(net, loss, lambda image_BCHW: image_BCHW, predict)
    both = compared(ours, reference, commit("VitjanZ/DRAEM", clone), batch, NOTE)

    def differences() -> Iterator[Difference]:
        yield _noise(batch)
        yield from both.differences()

    return replace(both, differences=differences)


def _noise(count: int) -> Difference:
    """The official noise from the gradients that ours draws."""
    code = importlib.import_module("perlin")
    seed_B = torch.arange(count) * 7919 + 3
    exponent_B2 = integers(seed_B, "noise/scales", 6, 2).tolist()
    share_BGG = uniform(seed_B, "noise/angles", 33, 33).double().numpy()
    expected = []
    for share_GG, exponents in zip(share_BGG, exponent_B2, strict=True):
        with patch("numpy.random.rand", lambda rows, columns, share_GG=share_GG: share_GG[:rows, :columns]):
            expected.append(code.rand_perlin_2d_np((SIZE, SIZE), tuple(2**number for number in exponents)))
    return largest("Perlin noise", perlin(seed_B, "noise", SIZE, torch.device("cpu")), np.stack(expected))
