"""RD++ beside the official code (clone: ``Revisiting-Reverse-Distillation``; package: ``geomloss``)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ader.methods import build
from parity import Pair, commit, copy_weights
from parity.rd import INNER, Features
from parity.rd_official import RENAMED as RD_RENAMED
from parity.rdpp import PROJECTIONS, projected

RENAMED = {**RD_RENAMED, **PROJECTIONS}


def pair(upstreams: Path, batch: int) -> Pair:
    """The official code's four networks and its loss."""
    clone = upstreams / "Revisiting-Reverse-Distillation"
    upstream = commit("tientrandinh/Revisiting-Reverse-Distillation", clone)
    sys.path.insert(0, str(clone))
    resnet, de_resnet = importlib.import_module("model.resnet"), importlib.import_module("model.de_resnet")
    code = importlib.import_module("utils.utils_train")
    ours: Any = build(
        "rdpp", bottleneck_width=128, clip=None, backbone={"name": "wide_resnet50_2", "pretrained": False}
    )
    encoder, bottleneck = resnet.wide_resnet50_2(pretrained=False)
    parts = {
        "encoder": encoder.requires_grad_(False),
        "bn": bottleneck,
        "decoder": de_resnet.de_wide_resnet50_2(pretrained=False),
        "proj_layer": code.MultiProjectionLayer(base=64),
    }
    reference = nn.ModuleDict(parts)
    encoder.load_state_dict(ours.teacher.net.state_dict(), strict=False)
    copy_weights(ours, reference, RENAMED, INNER)
    projection_loss = code.Revisit_RDLoss()

    def teach(normalized: Tensor) -> list[Tensor]:
        encoder.eval()
        with torch.no_grad():
            features: list[Tensor] = encoder(normalized)
        return features

    def forward(normalized: Tensor) -> Features:
        teacher = teach(normalized)
        return teacher, reference["decoder"](reference["bn"](reference["proj_layer"](teacher)))

    def full_loss(normalized: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        teacher, teacher_noisy = teach(normalized), teach(noisy)
        projected_noisy, projected_clean = reference["proj_layer"](teacher, features_noise=teacher_noisy)
        student = reference["decoder"](reference["bn"](projected_clean))
        return code.loss_fucntion(teacher, student), projection_loss(teacher_noisy, projected_noisy, projected_clean)

    return projected(ours, reference, forward, full_loss, RENAMED, upstream, batch, clears=False)
