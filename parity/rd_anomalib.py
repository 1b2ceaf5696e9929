"""RD beside anomalib's (clone: ``anomalib``; needs torchvision and kornia): its bottleneck, decoder, loss and map."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ader.methods import build
from ader.methods._options import option_arguments
from parity import SIZE, Pair, commit, copy_weights, import_anomalib
from parity.rd import INNER, Features, distillation
from parity.rd_official import RENAMED

#: Its bottleneck is called otherwise than the official code's.
NAMES = {ours: theirs.replace("bn.", "bottleneck.", 1) for ours, theirs in RENAMED.items()}


def pair(upstreams: Path, batch: int) -> Pair:
    """anomalib's whole model, with our teacher's weights."""
    upstream = commit("openvinotoolkit/anomalib", upstreams / "anomalib")
    code = import_anomalib(upstreams / "anomalib", "reverse_distillation.torch_model")
    loss = importlib.import_module("anomalib.models.image.reverse_distillation.loss").ReverseDistillationLoss()
    backbone = {"name": "wide_resnet50_2", "pretrained": False}
    ours: Any = build("rd", **option_arguments("rd", "anomalib") | {"backbone": backbone})
    layers = ["layer1", "layer2", "layer3"]
    reference = code.ReverseDistillationModel("wide_resnet50_2", (SIZE, SIZE), layers, "add", pre_trained=False)
    reference.encoder.requires_grad_(False)
    reference.encoder.feature_extractor.load_state_dict(ours.teacher.net.state_dict())
    copy_weights(ours, reference, NAMES, INNER)

    def forward(normalized: Tensor) -> Features:
        teacher = list(reference.encoder(normalized).values())
        return teacher, reference.decoder(reference.bottleneck(teacher))

    @torch.no_grad()
    def reference_map(teacher: list[Tensor], student: list[Tensor]) -> Any:
        return reference.anomaly_map_generator(teacher, student)[:, 0].numpy()

    return distillation(ours, reference, forward, NAMES, upstream, batch, reference_map, loss)
