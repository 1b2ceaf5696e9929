"""STPM beside hcw-00's (clone: ``STPM_anomaly_detection``; needs scikit-learn and opencv)."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from ader.methods import build
from ader.methods._options import option_arguments
from parity import SIZE, Pair, commit
from parity.stpm import Features, matching


def pair(upstreams: Path, batch: int) -> Pair:
    """hcw-00's module, loss and map without Lightning, which only calls them."""
    clone = upstreams / "STPM_anomaly_detection"
    upstream = commit("hcw-00/STPM_anomaly_detection", clone)
    sys.path.insert(0, str(clone))
    lightning = SimpleNamespace(LightningModule=_Lightning, __spec__=MagicMock())
    with patch.dict(sys.modules, {"pytorch_lightning": lightning}):
        code: Any = importlib.import_module("train")
    backbone = {"name": "resnet18", "pretrained": False}
    ours: Any = build("stpm", **option_arguments("stpm", "hcw") | {"backbone": backbone})
    code.args = Namespace(load_size=SIZE, input_size=SIZE, amap_mode="mul")
    code.resnet18 = lambda pretrained: torchvision.models.resnet18(weights=None)
    with patch.object(Image, "ANTIALIAS", Image.Resampling.LANCZOS, create=True):
        reference = code.STPM(Namespace())
    reference.model_t.load_state_dict(ours.teacher.net.state_dict(), strict=False)
    reference.model_s.load_state_dict(ours.student.state_dict(), strict=False)

    def forward(normalized: Tensor) -> Features:
        reference.model_t.eval()
        teacher, student = reference(normalized)
        return list(teacher), list(student)

    def loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        found: Tensor = reference.cal_loss(student, teacher)
        return found

    def maps(normalized: Tensor) -> Any:
        """Its map takes an image at a time."""
        found = []
        for image_1CHW in torch.split(normalized, 1):
            teacher, student = forward(image_1CHW)
            found.append(reference.cal_anomaly_map(student, teacher, out_size=SIZE)[0])
        return np.stack(found)

    weights = dict(reference.model_s.named_parameters())
    paired = [weights[name] for name, _ in ours.student.named_parameters()]
    return matching(ours, reference, forward, loss, maps, paired, upstream, batch, scale=8.0)


class _Lightning(nn.Module):
    """A Lightning module as far as the reference needs one to exist."""

    def save_hyperparameters(self, hparams: object) -> None:
        """Nothing is saved here."""
