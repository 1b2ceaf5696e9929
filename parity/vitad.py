"""ViTAD beside ADer's code, which is its authors' own (clone: ``ADer``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
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

PUBLISHED = Published(
    params=39.0,
    macs=9.7,
    why="the published parameters hold unused weights of the decoder (0.7 M) and 0.4 M that the released code "
    "does not explain; the published multiply-accumulates lack the products inside attention (1.1 G)",
)

RENAMED = {"fusion": "net_fusion.fc", "decoder.blocks": "net_s.blocks"}
POSITION = "decoder.position_1LC", "net_s.pos_embed"
NOTE = "ADer's loops pass over images, its test computes the loss as well; its sums over processes are left out"


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's teacher, fusion and decoder with our weights."""
    code = import_ader(upstreams / "ADer", "vitad")
    ours: Any = build("vitad", backbone={"name": "vit_small_patch16_224.dino", "pretrained": False})
    _disturb(ours)
    teacher = code._create_vision_transformer(
        "vit_small_patch16_224.dino",
        pretrained=False,
        img_size=SIZE,
        patch_size=16,
        embed_dim=384,
        depth=12,
        num_heads=6,
        num_classes=0,
        teachers=[3, 6, 9],
        neck=[12],
    )
    decoder = code.de_vit_small_patch16_224_dino(img_size=SIZE, students=[3, 6, 9], depth=9)
    reference = code.ViTAD(teacher, code.fusion(dim=384, mul=1), decoder)
    copy_weights(ours, reference, RENAMED)
    reference.load_state_dict({POSITION[1]: ours.state_dict()[POSITION[0]]}, strict=False)
    left = teacher.load_state_dict(ours.teacher.vit.net.state_dict(), strict=False)
    assert set(left.missing_keys) == {"norm.weight", "norm.bias"}, left
    assert not left.unexpected_keys, left
    reference.train()  # which freezes its teacher
    return _pair(ours, reference, commit("zhangzjn/ADer", upstreams / "ADer"), batch)


@torch.no_grad()
def _disturb(module: nn.Module) -> None:
    """Random networks have norms of ones and zeros and no biases: what is not used would not be seen."""
    for weight in module.parameters():
        weight.add_(0.05 * torch.randn_like(weight))


def _pair(ours: Any, reference: Any, upstream: str, batch: int) -> Pair:
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    optimizer = _optimizer(reference, ours.lr, ours.betas, ours.weight_decay)

    def normalized(kind: torch.dtype = torch.float32) -> Tensor:
        tensor: Tensor = ours.teacher.vit.normalize(image_BCHW.to(kind))
        return tensor

    def train() -> None:
        reference.train()
        loss = reference_loss(*reference(normalized()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(reference.parameters(), ours.clip)
        optimizer.step()
        loss.clone().detach().item()

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        reference.eval()
        features = reference(normalized())
        reference_loss(*features).clone().detach().item()
        map_BHW = reference_map(*features)
        pooled = F.avg_pool2d(torch.tensor(map_BHW).unsqueeze(1), [16, 16], stride=1).numpy().squeeze(1)
        return map_BHW, pooled.max(axis=(1, 2))

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        reference.eval()
        with torch.no_grad():
            teacher, student = ours(image_BCHW)
            teacher_ref, student_ref = (_tokens(features) for features in reference(normalized()))
        yield largest("teacher features", teacher, teacher_ref)
        yield largest("student features", student, student_ref)
        map_ref, score_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, 3 * map_ref)  # ADer divides the sum of 3 by 9
        yield largest("image score", score_B, 3 * score_ref)
        for kind in (torch.float32, torch.float64):
            ours.to(kind)
            reference.to(kind)
            ours.zero_grad()
            reference.zero_grad()
            loss, loss_ref = flat_cosine_loss(*ours(image_BCHW.to(kind))), reference_loss(*reference(normalized(kind)))
            loss.backward()  # type: ignore[no-untyped-call]
            loss_ref.backward()  # type: ignore[no-untyped-call]
            mine, theirs = paired_parameters(ours, reference, RENAMED)
            mine, theirs = [*mine, ours.decoder.position_1LC], [*theirs, reference.net_s.pos_embed]
            name = str(kind).removeprefix("torch.")
            yield largest(f"loss ({name})", loss, loss_ref)
            yield gradients(f"gradients ({name})", mine, theirs)
        ours.float()
        reference.float()

    runs = training_step(ours, image_BCHW)
    return Pair(ours, upstream, differences, (train, runs), (test, test_ours), batch, batch, NOTE)


def _optimizer(reference: nn.Module, lr: float, betas: tuple[float, float], decay: float) -> torch.optim.Optimizer:
    """ADer's: no decay of biases and of what has one dimension."""
    trained = [(name, weight) for name, weight in reference.named_parameters() if weight.requires_grad]
    plain = [weight for name, weight in trained if weight.ndim == 1 or name.endswith(".bias")]
    known = {id(weight) for weight in plain}
    decayed = [weight for _, weight in trained if id(weight) not in known]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": decay}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas)


def _tokens(features: list[Tensor]) -> list[Tensor]:
    return [feature_BCHW.flatten(2).transpose(1, 2) for feature_BCHW in features]


def reference_loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """ADer's loss, written again."""
    cosine = nn.CosineSimilarity()
    pairs = zip(teacher, student, strict=True)
    losses = [(1 - cosine(t.contiguous().view(len(t), -1), s.contiguous().view(len(s), -1))).mean() for t, s in pairs]
    return torch.stack(losses).sum()


def reference_map(teacher: list[Tensor], student: list[Tensor]) -> Any:
    """ADer's map, written again: each distance interpolated, numpy sums, scipy's filter image by image."""
    total: Any = np.zeros([len(teacher[0]), SIZE, SIZE])
    for t, s in zip(teacher, student, strict=True):
        distance = (1 - F.cosine_similarity(t, s, dim=1)).unsqueeze(1)
        scaled = F.interpolate(distance, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
        total = total + scaled.squeeze(1).numpy()
    return smoothed(total / (len(teacher) * len(teacher)))
