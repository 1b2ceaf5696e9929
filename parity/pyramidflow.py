"""PyramidFlow beside ADer's reproduction (clone: ``ADer``; packages: torchvision, einops)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ader.methods import build
from ader.methods.pyramidflow import spectral_loss, squared_differences
from parity import SIZE, Difference, Pair, Published, commit, gradients, import_ader, largest, training_step

PUBLISHED = Published(
    params=34.3,
    macs=962.0,
    why="the published parameters hold all of ResNet-18 (11.7 M), which is cut after its first stage here; the "
    "published multiply-accumulates are of two images of 1024 pixels (32 times those of one of 256)",
)

NOTE = "two images a step, as the recipe has it; the reference keeps all activations here, ours computes them again"


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's flow behind torchvision's ResNet-18, with our weights, away from their beginning."""
    from torchvision.models import resnet18

    upstream = commit("zhangzjn/ADer", upstreams / "ADer")
    code = import_ader(upstreams / "ADer", "pyramidflow")
    reference = code.PYRAMIDFLOW(resnet18(), batchsize=2)
    ours: Any = build("pyramidflow", image_size=SIZE, backbone={"name": "resnet18", "pretrained": False})
    stir(ours)
    copy_weights(ours, reference)
    image_BCHW, test_BCHW = torch.rand(2, 3, SIZE, SIZE), torch.rand(batch, 3, SIZE, SIZE)
    for held, side in zip(ours.template, ours.sides, strict=True):
        held.value = torch.randn(64, side, side)
    template = [held.value[None] for held in ours.template]
    inner = reference.net_pyramidflow

    def trainer() -> Callable[[], None]:
        adam = adam_of(inner.nf)

        def train() -> None:
            reference.train()
            loss = loss_of(reference, normalized(ours, image_BCHW))
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(inner.nf.parameters(), 5.0)
            adam.step()
            loss.item()

        return train

    @torch.no_grad()
    def test() -> Any:
        reference.eval()
        map_BHW = inner.predict(ours.backbone.normalize(test_BCHW), template)[:, 0]
        return map_BHW.amax(dim=(1, 2)), map_BHW

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(test_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        reference.eval()
        with torch.no_grad():
            features = ours.backbone(test_BCHW)[0]
            yield largest("features", features, inner.inconv(ours.backbone.normalize(test_BCHW)))
            yield largest("pyramid", ours.pyramid.build(features), inner.pyramid.build_pyramid(features))
            latents = ours(test_BCHW)
            yield largest("latents", latents, list(inner.pred_tempelate(ours.backbone.normalize(test_BCHW))))
            yield largest("features of latents (inverse)", ours.inverse(latents), inverse_of(inner, latents))
        (score_ref, map_ref), (score_B, map_BHW) = test(), test_ours()
        yield largest("map", map_BHW[:, ::4, ::4], map_ref)
        yield largest("image score", score_B, score_ref)
        yield from losses_and_gradients(ours, reference, image_BCHW)
        for step in (training_step(ours, image_BCHW.double()), trainer()):
            step()
        yield largest("weights after a step (float64)", *paired_weights(ours, inner))
        yield largest("running means (float64)", *running_means(ours, inner))
        ours.float()
        reference.float()

    steps = (trainer(), training_step(ours, image_BCHW))
    return Pair(ours, upstream, differences, steps, (test, test_ours), 2, batch, NOTE)


def normalized(ours: Any, image_BCHW: Tensor) -> Tensor:
    """In the precision of our weights."""
    result: Tensor = ours.backbone.normalize(image_BCHW.to(ours.blocks[0].running_mean.dtype))
    return result


def loss_of(reference: Any, normalized_BCHW: Tensor) -> Tensor:
    """As ADer's FFTLoss."""
    result: Tensor = torch.fft.fft2(reference(normalized_BCHW)).abs().mean()
    return result


def inverse_of(inner: Any, latents: list[Tensor]) -> Tensor:
    """The blocks' own inverses, last one first: the container that is used without memory saving has none."""
    pyramid: tuple[Tensor, ...] = tuple(latents)
    logs = tuple(torch.zeros_like(level) for level in pyramid)
    for block in reversed(inner.nf.moduleslst):
        pyramid, logs = block.inverse(pyramid, logs)
    result: Tensor = inner.pyramid.compose_pyramid(pyramid)
    return result


def adam_of(flow: nn.Module) -> torch.optim.Optimizer:
    """ADer's, without weight decay of one-dimensional parameters."""
    weights = list(flow.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": 1e-5},
        {"params": [w for w in weights if w.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.Adam(groups, lr=2e-4, betas=(0.5, 0.9), eps=1e-4)


def losses_and_gradients(ours: Any, reference: Any, image_BCHW: Tensor) -> Iterator[Difference]:
    """In single and in double precision, in which both stay."""
    inner = reference.net_pyramidflow
    for kind in (torch.float32, torch.float64):
        name = str(kind).removeprefix("torch.")
        ours.to(kind).zero_grad()
        reference.to(kind).zero_grad()
        ours.eval()
        ours.blocks.train()
        reference.train()
        latents = ours(image_BCHW.to(kind))
        loss = spectral_loss(ours.pyramid.compose(squared_differences(latents)).mean(dim=1))
        loss_ref = loss_of(reference, normalized(ours, image_BCHW))
        (loss + loss_ref).backward()  # type: ignore[no-untyped-call]
        yield largest(f"loss ({name})", loss, loss_ref)
        yield gradients(f"gradients ({name})", *paired_weights(ours, inner))
    ours.zero_grad()
    reference.zero_grad()


@torch.no_grad()
def stir(ours: Any) -> None:
    """Weights and running means as after some training: coupling networks are the identity before."""
    for block in ours.blocks:
        block.net[2].weight.normal_(std=2e-3)
        block.running_mean += 0.05 * torch.randn_like(block.running_mean)
        for weight in block.mixing.parameters():
            weight += 0.02 * torch.randn_like(weight)


@torch.no_grad()
def copy_weights(ours: Any, reference: Any) -> None:
    """Gives the reference our weights; its running means get their shapes."""
    inner = reference.net_pyramidflow
    state = ours.backbone.net.state_dict()
    resnet = reference.model_backbone
    resnet.load_state_dict({**resnet.state_dict(), **state})
    for block, other in zip(ours.blocks, inner.nf.moduleslst, strict=True):
        other.affineParams.norm.running_mean = block.running_mean.clone()
        other.conv1x1.w_p.copy_(block.mixing.permutation_CC)
        other.conv1x1.s_sign.copy_(block.mixing.sign_C)
    for mine, theirs in zip(*paired_weights(ours, inner), strict=True):
        theirs.copy_(mine)


def paired_weights(ours: Any, inner: Any) -> tuple[list[Any], list[Any]]:
    """Trained weights of both sides in one order."""
    mine, theirs = [], []
    for block, other in zip(ours.blocks, inner.nf.moduleslst, strict=True):
        mixing, conv = block.mixing, other.conv1x1
        mine += [*block.net.parameters(), mixing.lower_CC, mixing.upper_CC, mixing.log_scale_C]
        theirs += [*other.affineParams.conv.parameters(), conv.w_l, conv.w_u, conv.w_s]
    return mine, theirs


def running_means(ours: Any, inner: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Of all volume norms."""
    return [block.running_mean for block in ours.blocks], [
        other.affineParams.norm.running_mean for other in inner.nf.moduleslst
    ]
