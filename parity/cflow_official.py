"""CFLOW-AD beside the official code (clone: ``cflow-ad``; package: FrEIA): its own ResNet, which reflects borders."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

from torch import Tensor

from ader.methods import build
from parity import Pair, commit
from parity.cflow import Reference, compared


def pair(upstreams: Path, batch: int) -> Pair:
    """The official encoder, decoders and loops.

    Its package of encoders is imported without the other networks, one of which asks for an old torchvision.
    """
    upstream = commit("gudovskiy/cflow-ad", upstreams / "cflow-ad")
    sys.path.insert(0, str(upstreams / "cflow-ad"))
    package = types.ModuleType("custom_models")
    package.__path__ = [str(upstreams / "cflow-ad" / "custom_models")]
    sys.modules["custom_models"] = package
    resnet = importlib.import_module("custom_models.resnet")
    code: Any = importlib.import_module("model")
    ours: Any = build(
        "cflow",
        rotation=0.0,
        padding="reflect",
        score_window=1,
        backbone={"name": "wide_resnet50_2", "pretrained": False},
    )
    code.wide_resnet50_2 = lambda **options: resnet.wide_resnet50_2(pretrained=False)
    encoder, layers, channels = code.load_encoder_arch(types.SimpleNamespace(enc_arch="wide_resnet50_2"), 3)
    assert channels == ours.backbone.channels
    encoder.load_state_dict(ours.backbone.net.state_dict(), strict=False)
    encoder.requires_grad_(False)

    def encode(normalized_BCHW: Tensor) -> list[Tensor]:
        encoder(normalized_BCHW)
        return [code.activation[layer] for layer in layers]

    return compared(Reference(code, ours, encoder, encode), ours, upstream, batch)
