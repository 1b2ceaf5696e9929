"""FastFlow beside anomalib's (clone: ``anomalib``; packages: FrEIA, omegaconf)."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from torch import Tensor

from ader.methods import build
from parity import SIZE, Pair, commit, import_anomalib
from parity.fastflow import Reference, compared, without_weights


def pair(upstreams: Path, batch: int) -> Pair:
    """Its Wide ResNet-50, whose flows get our weights and permutations."""
    upstream = commit("openvinotoolkit/anomalib", upstreams / "anomalib")
    source = upstreams / "anomalib" / "src" / "anomalib" / "models"
    flow: Any = types.ModuleType("anomalib.models.components.flow")
    flow.AllInOneBlock = load(source / "components" / "flow" / "all_in_one_block.py").AllInOneBlock
    package = types.ModuleType("anomalib.models.image.fastflow")
    package.__path__ = [str(source / "image" / "fastflow")]
    sys.modules[flow.__name__], sys.modules[package.__name__] = flow, package
    code = import_anomalib(upstreams / "anomalib", "fastflow.torch_model")
    criterion = load(source / "image" / "fastflow" / "loss.py").FastflowLoss()
    with without_weights():
        reference = code.FastflowModel((SIZE, SIZE), "wide_resnet50_2")
    ours: Any = build("fastflow", backbone={"name": "wide_resnet50_2", "pretrained": False})

    def loss(normalized_BCHW: Tensor) -> Any:
        return criterion(*reference.train()(normalized_BCHW))

    def test(normalized_BCHW: Tensor) -> Any:
        score_B1, map_B1HW = reference.eval()(normalized_BCHW)
        return score_B1[:, 0], map_B1HW[:, 0]

    return compared(Reference(reference, reference.fast_flow_blocks, loss, test), ours, upstream, batch)


def load(file: Path) -> Any:
    """A module by its file, without the package that it is in."""
    spec = importlib.util.spec_from_file_location(f"anomalib_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
