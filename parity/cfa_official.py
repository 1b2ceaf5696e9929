"""CFA beside the official code (clone: ``CFA_for_anomaly_localization``; needs einops, scikit-learn and tqdm)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn

from ader.methods import build
from ader.methods._options import option_arguments
from parity import Pair, commit
from parity.cfa import adaptation


def pair(upstreams: Path, batch: int) -> Pair:
    """The official network, whose features are sums before a ReLU, descriptor, memory and loss."""
    clone = upstreams / "CFA_for_anomaly_localization"
    upstream = commit("sungwool/CFA_for_anomaly_localization", clone)
    sys.path.insert(0, str(clone))
    unused = ("skimage", "skimage.measure", "cnn.utils")
    with patch.dict(sys.modules, {name: MagicMock() for name in unused}):
        code, resnet = importlib.import_module("utils.cfa"), importlib.import_module("cnn.resnet")
    backbone = {"name": "wide_resnet50_2", "pretrained": False}
    ours: Any = build("cfa", **option_arguments("cfa", "official") | {"backbone": backbone})
    for name, weight in ours.backbone.net.named_parameters():
        if name.endswith("bn3.weight"):  # timm starts them at 0: no sum before a last ReLU would be below 0
            nn.init.uniform_(weight)
    network = resnet.wide_resnet50_2(pretrained=False).eval()
    network.load_state_dict(ours.backbone.net.state_dict(), strict=False)

    @torch.no_grad()
    def features(normalized: Tensor) -> list[Tensor]:
        found: list[Tensor] = network.to(normalized.dtype)(normalized)
        return found

    def triples(loader: Any) -> list[tuple[Tensor, None, None]]:
        return [(each, None, None) for each in loader]

    def make(loader: Any) -> nn.Module:
        made: nn.Module = code.DSVDD(features, triples(loader), "wrn50_2", 1, 1, "cpu")
        return made

    def initialize(reference: Any, loader: Any) -> None:
        reference._init_centroid(features, triples(loader))

    return adaptation(ours, make, initialize, features, lambda found: found, upstream, batch)
