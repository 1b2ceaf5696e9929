"""RealNet beside the official code (clone: ``RealNet``; needs tqdm), whose trainer and data need more."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
from torch import Tensor

from parity import Pair, commit
from parity.realnet import BATCHES, SEGMENTATION, STRUCTURE, UNETS, Batches, Reference, compared


def pair(upstreams: Path, batch: int) -> Pair:
    """The official parts, wired as its helper does it, selection and losses."""
    clone = upstreams / "RealNet"
    sys.path.insert(0, str(clone))
    sys.modules["torch._six"] = types.SimpleNamespace(string_classes=(str, bytes))  # type: ignore[assignment]
    helper, terms = (importlib.import_module(name) for name in ("models.model_helper", "utils.criterion_helper"))
    create = timm.create_model
    with patch.object(timm, "create_model", lambda name, **options: create(name, **{**options, "pretrained": False})):
        net = helper.ModelHelper(_layers())
    net.cpu()
    afs: Any = sys.modules["models.afs.afs"]
    afs.tqdm = lambda values, **options: values
    afs.to_device = lambda values, **options: values
    entropy, squared = terms.SegmentCrossEntropyLoss(1.0), terms.FeatureMSELoss(1.0)

    def run(spoiled: Tensor, clean: Tensor | None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        found = net({"image": spoiled, "gt_image": clean}, train=clean is not None)
        truth = found.get("gt_block_feats", {})
        return found["logit"], [*found["feats_recon"].values()], [*truth.values()]

    def loss(logit: Tensor, mask: Tensor, restored: list[Tensor], clean: list[Tensor]) -> Tensor:
        features = {"feats_recon": dict(enumerate(restored)), "gt_block_feats": dict(enumerate(clean))}
        total: Tensor = entropy({"logit": logit, "mask": mask}) + squared(features)
        return total

    def select(batches: Any) -> None:
        named = Batches([{"image": one, "gt_image": two, "mask": mask} for one, two, mask in batches])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a deprecated argument
            net.afs.init_idxs(net, named, distributed=False)

    return compared(Reference(net, "", run, loss, select), commit("cnulab/RealNet", clone), batch)


def _layers() -> list[dict[str, Any]]:
    """Its configuration, with fewer channels."""
    outlayers = [block["layers"][0]["idx"] for block in STRUCTURE]
    backbone = {"backbone": "wide_resnet50_2", "outlayers": outlayers}
    return [
        {"name": "backbone", "type": "models.backbones.Backbone", "frozen": True, "kwargs": backbone},
        {
            "name": "afs",
            "type": "models.afs.AFS",
            "frozen": True,
            "prev": "backbone",
            "kwargs": {"structure": STRUCTURE, "init_bsn": BATCHES},
        },
        {"name": "recon", "type": "models.recon.ReconstructionLayer", "prev": "afs", "kwargs": dict(UNETS)},
        {"name": "rrs", "type": "models.rrs.RRS", "prev": "recon", "kwargs": dict(SEGMENTATION)},
    ]
