"""RD beside the official code (clone: ``RD4AD``): its own ResNet, bottleneck of width 128, decoder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ader.methods import build
from parity import Pair, commit, copy_weights
from parity.rd import INNER, Features, distillation

RENAMED = {
    "bottleneck.down1.0": "bn.conv1",
    "bottleneck.down1.1": "bn.bn1",
    "bottleneck.down1.3": "bn.conv2",
    "bottleneck.down1.4": "bn.bn2",
    "bottleneck.down2.0": "bn.conv3",
    "bottleneck.down2.1": "bn.bn3",
    "bottleneck.blocks": "bn.bn_layer",
    "decoder.stages.0": "decoder.layer1",
    "decoder.stages.1": "decoder.layer2",
    "decoder.stages.2": "decoder.layer3",
}


def pair(upstreams: Path, batch: int) -> Pair:
    """The official code's three networks."""
    upstream = commit("hq-deng/RD4AD", upstreams / "RD4AD")
    sys.path.insert(0, str(upstreams / "RD4AD"))
    resnet, de_resnet = importlib.import_module("resnet"), importlib.import_module("de_resnet")
    ours: Any = build("rd", bottleneck_width=128, backbone={"name": "wide_resnet50_2", "pretrained": False})
    encoder, bottleneck = resnet.wide_resnet50_2(pretrained=False)
    decoder = de_resnet.de_wide_resnet50_2(pretrained=False)
    reference = nn.ModuleDict({"encoder": encoder.requires_grad_(False), "bn": bottleneck, "decoder": decoder})
    encoder.load_state_dict(ours.teacher.net.state_dict(), strict=False)
    copy_weights(ours, reference, RENAMED, INNER)

    def forward(normalized: Tensor) -> Features:
        encoder.eval()
        with torch.no_grad():
            teacher = encoder(normalized)
        return teacher, decoder(bottleneck(teacher))

    return distillation(ours, reference, forward, RENAMED, upstream, batch)
