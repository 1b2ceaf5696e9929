"""WRN classifier beside a loop of torchvision alone: its network, its focal loss and torch's SGD (no clone).

No code of the method is published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms.functional import normalize

from ader.methods import build
from ader.methods.wrn_classifier import focal_loss
from parity import SIZE, Difference, Pair, copy_weights, gradients, largest, paired_parameters, training_step

RENAMED = {"network.net": "", "head": "fc"}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pair(upstreams: Path, batch: int) -> Pair:
    """torchvision's network with our weights; every second image is defective."""
    ours: Any = build("wrn_classifier", backbone={"name": "wide_resnet50_2", "pretrained": False})
    _disturb(ours)
    network = torchvision.models.wide_resnet50_2(weights=None)
    network.fc = nn.Linear(2048, 1)
    reference = nn.ModuleDict({"net": network})  # names below a prefix, as ours
    renamed = {mine: f"net.{theirs}".rstrip(".") for mine, theirs in RENAMED.items()}
    copy_weights(ours, reference, renamed)
    image_BCHW, label_B = torch.rand(batch, 3, SIZE, SIZE), torch.arange(batch) % 2
    optimizer = torch.optim.SGD(network.parameters(), lr=ours.lr, momentum=ours.momentum)

    def loss_of(kind: torch.dtype) -> Tensor:
        mean, std = (
            torch.tensor(values).to(kind).tolist() for values in (MEAN, STD)
        )  # in float32's precision, as ours
        logit_B = network(normalize(image_BCHW.to(kind), mean, std))[:, 0]
        loss: Tensor = sigmoid_focal_loss(logit_B, label_B.to(kind), alpha=-1, gamma=ours.focal_gamma, reduction="mean")
        return loss

    def train() -> None:
        network.train()
        loss = loss_of(torch.float32)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.no_grad()
    def test() -> Any:
        network.eval()
        return network(normalize(image_BCHW, MEAN, STD))[:, 0]

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW).score_B

    def differences() -> Iterator[Difference]:
        yield largest("image score (logit)", test_ours(), test())
        for kind in (torch.float32, torch.float64):
            ours.to(kind).train()
            reference.to(kind).train()
            ours.zero_grad()
            reference.zero_grad()
            loss, loss_ref = (
                focal_loss(ours(image_BCHW.to(kind)), label_B, ours.focal_gamma, ours.focal_alpha),
                loss_of(kind),
            )
            loss.backward()  # type: ignore[no-untyped-call]
            loss_ref.backward()  # type: ignore[no-untyped-call]
            name = str(kind).removeprefix("torch.")
            yield largest(f"loss ({name})", loss, loss_ref)
            yield gradients(f"gradients ({name})", *paired_parameters(ours, reference, renamed))
        ours.float()
        reference.float()

    runs = train, training_step(ours, image_BCHW, label_B=label_B)
    return Pair(ours, f"torchvision {torchvision.__version__}", differences, runs, (test, test_ours), batch, batch)


@torch.no_grad()
def _disturb(module: nn.Module) -> None:
    """A random network's last norms of blocks are zero, which would hide what the blocks compute."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.uniform_(0.2, 0.6)
            part.bias.normal_(std=0.1)
            part.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
