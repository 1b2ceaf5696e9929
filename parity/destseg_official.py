"""DeSTSeg beside the official code (clone: ``ml-destseg``), whose networks take their encoders from timm.

Its training script and its evaluation need packages that pin old versions; their steps are written again here.
"""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from ader.methods import build
from parity import SIZE, Pair, commit, import_ader
from parity.destseg import PARTS, Reference, segmentation_optimizer, two_phases


def pair(upstreams: Path, batch: int) -> Pair:
    """The official network and losses, with the recipe ``official``."""
    clone = upstreams / "ml-destseg"
    code, terms = import_ader(clone, "destseg"), importlib.import_module("model.losses")
    code.timm = types.SimpleNamespace(create_model=_random_weights)
    recipe: dict[str, Any] = {"steps": 5000, "decay_norms_and_biases": True, "clip": None, "top_pixels": 100}
    ours: Any = build("destseg", backbone={"name": "resnet18", "pretrained": False}, **recipe)
    net = code.DeSTSeg(dest=True, ed=True)

    def losses(spoiled: Tensor, clean: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        segmented, _, distances = net(spoiled, clean)
        mask = F.interpolate(mask, size=segmented.shape[2:], mode="bilinear", align_corners=False)
        mask = torch.where(mask < 0.5, torch.zeros_like(mask), torch.ones_like(mask))
        cosine = terms.cosine_similarity_loss(distances)
        return cosine, terms.focal_loss(segmented, mask, gamma=4) + terms.l1_loss(segmented, mask)

    def test(normalized: Tensor) -> tuple[Any, Any]:
        segmented, distance, _ = net(normalized)
        maps = [F.interpolate(each, size=SIZE, mode="bilinear", align_corners=False) for each in (segmented, distance)]
        highest = [torch.sort(each.flatten(1), dim=1, descending=True)[0][:, :100].mean(dim=1) for each in maps]
        return maps[0][:, 0], highest[0]

    student = torch.optim.SGD(net.student_net.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4)
    optimizers = (student, segmentation_optimizer(net))
    reference = Reference(net, net, losses, test, optimizers, clip=None, clears_both=True)
    renamed = {"teacher.net": "teacher_net.encoder", "student.encoder": "student_net.encoder", **PARTS}
    return two_phases(ours, reference, renamed, commit("apple/ml-destseg", clone), batch)


def _random_weights(name: str, pretrained: bool, **more: Any) -> Any:
    """timm's network without a download; ours are copied over it."""
    return timm.create_model(name, pretrained=False, **more)
