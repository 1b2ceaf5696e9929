"""STPM beside anomalib's STFPM (clone: ``anomalib``; needs torchvision, kornia, scikit-learn and tqdm)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ader.methods import build
from ader.methods._options import option_arguments
from parity import Pair, commit, import_anomalib
from parity.stpm import Features, matching


def pair(upstreams: Path, batch: int) -> Pair:
    """anomalib's model, loss and map."""
    upstream = commit("openvinotoolkit/anomalib", upstreams / "anomalib")
    code = import_anomalib(upstreams / "anomalib", "stfpm.torch_model")
    backbone = {"name": "resnet18", "pretrained": False}
    ours: Any = build("stpm", **option_arguments("stpm", "anomalib") | {"backbone": backbone})
    extractor = code.TimmFeatureExtractor
    layers = ["layer1", "layer2", "layer3"]
    with patch.object(code, "TimmFeatureExtractor", lambda **words: extractor(**{**words, "pre_trained": False})):
        reference = code.STFPMModel(layers=layers, backbone="resnet18")
    criterion = importlib.import_module("anomalib.models.image.stfpm.loss").STFPMLoss()
    reference.teacher_model.feature_extractor.load_state_dict(ours.teacher.net.state_dict())
    student = reference.student_model.feature_extractor
    student.load_state_dict(ours.student.state_dict())

    def forward(normalized: Tensor) -> Features:
        teacher, student = reference.teacher_model(normalized), reference.student_model(normalized)
        return list(teacher.values()), list(student.values())

    def loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        found: Tensor = criterion(dict(zip(layers, teacher, strict=True)), dict(zip(layers, student, strict=True)))
        return found

    @torch.no_grad()
    def maps(normalized: Tensor) -> Any:
        return reference(normalized).anomaly_map[:, 0]

    return matching(ours, reference, forward, loss, maps, list(student.parameters()), upstream, batch, scale=8.0)
