"""RD beside ADer's reproduction (clone: ``ADer``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import build
from ader.nets.scoring.maps import flat_cosine_loss
from parity import (
    SIZE,
    Difference,
    Pair,
    Published,
    commit,
    copy_weights,
    gradients,
    import_ader,
    largest,
    paired_parameters,
    smoothed,
    training_step,
)

PUBLISHED = Published(params=80.6, macs=28.4)

Features = tuple[list[Tensor], list[Tensor]]
RENAMED = {
    "bottleneck.down1.0": "mff_oce.conv1",
    "bottleneck.down1.1": "mff_oce.bn1",
    "bottleneck.down1.3": "mff_oce.conv2",
    "bottleneck.down1.4": "mff_oce.bn2",
    "bottleneck.down2.0": "mff_oce.conv3",
    "bottleneck.down2.1": "mff_oce.bn3",
    "bottleneck.blocks": "mff_oce.bn_layer",
    "decoder.stages.0": "net_s.layer1",
    "decoder.stages.1": "net_s.layer2",
    "decoder.stages.2": "net_s.layer3",
}
INNER = {".downsample.": ".upsample."}


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's network around our teacher, whose code is timm's on both sides."""
    code = import_ader(upstreams / "ADer", "rd")
    ours: Any = build("rd", backbone={"name": "wide_resnet50_2", "pretrained": False})
    reference = code.RD(ours.teacher.net, code.de_wide_resnet50_2())
    copy_weights(ours, reference, RENAMED, INNER)
    upstream = commit("zhangzjn/ADer", upstreams / "ADer")
    return distillation(ours, reference, lambda normalized: reference(normalized), RENAMED, upstream, batch)


def reference_loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Both codes' loss, written again."""
    pairs = zip(teacher, student, strict=True)
    return torch.stack([torch.mean(1 - F.cosine_similarity(t.flatten(1), s.flatten(1))) for t, s in pairs]).sum()


def reference_map(teacher: list[Tensor], student: list[Tensor]) -> Any:
    """Both codes' map, written again: numpy sums, scipy's filter for each map."""
    total: Any = 0
    for t, s in zip(teacher, student, strict=True):
        distance = (1 - F.cosine_similarity(t, s))[:, None]
        total = total + F.interpolate(distance, size=SIZE, mode="bilinear", align_corners=True)[:, 0].numpy()
    return smoothed(total)


def distillation(
    ours: Any,
    reference: nn.Module,
    forward: Callable[[Tensor], Features],
    renamed: Mapping[str, str],
    upstream: str,
    batch: int,
    reference_map: Callable[[list[Tensor], list[Tensor]], Any] = reference_map,
    reference_loss: Callable[[list[Tensor], list[Tensor]], Tensor] = reference_loss,
) -> Pair:
    """``forward`` is the reference's, from normalized images to both pyramids, of which ``reference_map`` and
    ``reference_loss`` make what their names say."""
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    trained = [weight for weight in reference.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=ours.lr, betas=ours.betas)

    def train() -> None:
        reference.train()
        loss = reference_loss(*forward(ours.teacher.normalize(image_BCHW)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if ours.clip is not None:
            nn.utils.clip_grad_norm_(trained, ours.clip)
        optimizer.step()

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        reference.eval()
        map_BHW = reference_map(*forward(ours.teacher.normalize(image_BCHW)))
        return map_BHW, map_BHW.reshape(batch, -1).max(axis=1)

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        reference.eval()
        with torch.no_grad():
            (teacher, student), (teacher_ref, student_ref) = (
                ours(image_BCHW),
                forward(ours.teacher.normalize(image_BCHW)),
            )
        yield largest("teacher features", teacher, teacher_ref)
        yield largest("student features", student, student_ref)
        map_ref, score_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)
        for kind in (torch.float32, torch.float64):
            ours.to(kind).train()
            reference.to(kind).train()
            normalized = ours.teacher.normalize(image_BCHW.to(kind))
            ours.zero_grad()
            reference.zero_grad()
            loss, loss_ref = flat_cosine_loss(*ours(image_BCHW.to(kind))), reference_loss(*forward(normalized))
            loss.backward()  # type: ignore[no-untyped-call]
            loss_ref.backward()  # type: ignore[no-untyped-call]
            name = str(kind).removeprefix("torch.")
            yield largest(f"loss ({name})", loss, loss_ref)
            yield gradients(f"gradients ({name})", *paired_parameters(ours, reference, renamed, INNER))
        ours.float()
        reference.float()

    return Pair(ours, upstream, differences, (train, training_step(ours, image_BCHW)), (test, test_ours), batch, batch)
