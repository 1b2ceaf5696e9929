"""STPM beside the official code (clone: ``STFPM``; needs scikit-learn, opencv and what its file imports)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import build
from ader.methods._base import Batch
from parity import SIZE, Difference, Pair, commit, gradients, largest, training_step

#: Loss and map of both pyramids, teacher's first.
Features = tuple[list[Tensor], list[Tensor]]

#: Of our networks and of torchvision's, in a sequence of its children.
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6"}


def pair(upstreams: Path, batch: int) -> Pair:
    """The official networks and test loop; its training loop, which writes files, is written again."""
    upstream = commit("gdwang08/STFPM", upstreams / "STFPM")
    sys.path.insert(0, str(upstreams / "STFPM"))
    with patch.dict(sys.modules, {"evaluate": MagicMock()}):
        code = importlib.import_module("main")
    ours: Any = build("stpm", backbone={"name": "resnet18", "pretrained": False})
    resnet18 = torchvision.models.resnet18
    with patch.object(code.models, "resnet18", lambda pretrained: resnet18(weights=None)):
        reference = nn.ModuleDict({"teacher": code.ResNet18_MS3(True), "student": code.ResNet18_MS3()})
    _copy(ours.teacher.net, reference["teacher"])
    _copy(ours.student, reference["student"])
    names = [name for name, _ in reference["student"].named_parameters() if not name.startswith("model.7.")]

    def forward(normalized: Tensor) -> Features:
        reference["teacher"].eval()
        with torch.no_grad():
            teacher = reference["teacher"](normalized)
        return teacher, reference["student"](normalized)

    def loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """Written again."""
        pairs = [(F.normalize(t, dim=1), F.normalize(s, dim=1)) for t, s in zip(teacher, student, strict=True)]
        return torch.stack([torch.sum((t - s) ** 2, 1).mean() for t, s in pairs]).sum()

    def maps(normalized: Tensor) -> Any:
        """The reference's own test loop, and the resizing of its main function."""
        loader = _Loader(normalized)
        with patch.object(Tensor, "cuda", lambda self: self):
            found = code.test(reference["teacher"], reference["student"], loader)
        return np.stack([cv2.resize(each, (SIZE, SIZE)) for each in found])

    student = dict(reference["student"].named_parameters())
    return matching(ours, reference, forward, loss, maps, [student[name] for name in names], upstream, batch)


class _Loader:
    """Batches of one, as the reference's test has them."""

    def __init__(self, normalized: Tensor) -> None:
        self.dataset = normalized

    def __iter__(self) -> Iterator[tuple[None, Tensor]]:
        return ((None, image_1CHW) for image_1CHW in torch.split(self.dataset, 1))


def _copy(mine: nn.Module, theirs: nn.Module) -> None:
    state = theirs.state_dict()
    for name, value in mine.state_dict().items():
        first, _, rest = name.partition(".")
        assert state[f"model.{CHILDREN[first]}.{rest}"].shape == value.shape
        state[f"model.{CHILDREN[first]}.{rest}"] = value.clone()
    theirs.load_state_dict(state)


def matching(
    ours: Any,
    reference: nn.Module,
    forward: Callable[[Tensor], Features],
    reference_loss: Callable[[list[Tensor], list[Tensor]], Tensor],
    reference_map: Callable[[Tensor], Any],
    student: list[nn.Parameter],
    upstream: str,
    batch: int,
    scale: float = 1.0,
) -> Pair:
    """Compares features, loss, gradients, map and score.

    Args:
        ours: our method.
        reference: all networks of the reference.
        forward: the reference's, from normalized images to both pyramids.
        reference_loss: of both.
        reference_map: the reference's, from normalized images.
        student: the reference's weights, in the order of ours.
        upstream: as ``commit`` gives it.
        batch: images.
        scale: our map's values over the reference's.
    """
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    normalized = ours.teacher.normalize(image_BCHW)
    optimizer = torch.optim.SGD(student, lr=ours.lr, momentum=ours.momentum, weight_decay=ours.weight_decay)

    def train() -> None:
        reference.train()
        loss = reference_loss(*forward(normalized))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.no_grad()
    def test() -> Any:
        reference.eval()
        map_BHW = np.asarray(reference_map(normalized)) * scale
        return SimpleNamespace(map=map_BHW, score=map_BHW.reshape(batch, -1).max(axis=1))

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        reference.eval()
        with torch.no_grad():
            (teacher, mine), (teacher_ref, student_ref) = ours(image_BCHW), forward(normalized)
        yield largest("teacher features", teacher, teacher_ref)
        yield largest("student features", mine, student_ref)
        expected, found = test(), test_ours()
        yield largest("map", found.map_BHW, expected.map)
        yield largest("image score", found.score_B, expected.score)
        for kind in (torch.float32, torch.float64):
            ours.to(kind)
            ours.student.train()
            reference.to(kind).train()
            step = _loss(ours, image_BCHW.to(kind))
            loss_ref = reference_loss(*forward(ours.teacher.normalize(image_BCHW.to(kind))))
            ours.zero_grad()
            reference.zero_grad()
            step.backward()  # type: ignore[no-untyped-call]
            loss_ref.backward()  # type: ignore[no-untyped-call]
            name = str(kind).removeprefix("torch.")
            yield largest(f"loss ({name})", step, loss_ref)
            yield gradients(f"gradients ({name})", list(ours.student.parameters()), student)
        ours.float()
        reference.float()

    return Pair(ours, upstream, differences, (train, training_step(ours, image_BCHW)), (test, test_ours), batch, batch)


def _loss(ours: Any, image_BCHW: Tensor) -> Tensor:
    """What a step of ours would minimize."""
    found: list[Tensor] = []
    ours._step(Batch(image_BCHW=image_BCHW, seed_B=torch.arange(len(image_BCHW))), found.append)
    return found[0]
