"""UniAD beside ADer's reproduction (clone: ``ADer``; package: ``einops``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import build, uniad
from ader.methods._base import Batch
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
    training_step,
)

PUBLISHED = Published(
    params=24.5,
    macs=3.4,
    why="the published parameters hold stages of the backbone that feed nothing (13.1 M); the published "
    "multiply-accumulates lack the products of queries and keys (0.2 G)",
)

#: Of an image (normalized): the backbone's maps, the aligned ones, the restored ones, and the anomaly map (B, 1, H, W).
Forward = Callable[[Tensor], tuple[Sequence[Tensor], Tensor, Tensor, Tensor]]

INNER = {
    ".column_GD": ".col_embed.weight",
    ".row_GD": ".row_embed.weight",
    ".query_ND": ".learned_embed.weight",
    ".attention.": ".self_attn.",
    ".to_memory.": ".self_attn.",
    ".to_previous.": ".multihead_attn.",
    ".input_weight": ".in_proj_weight",
    ".input_bias": ".in_proj_bias",
    ".output.": ".out_proj.",
    ".feedforward.0": ".linear1",
    ".feedforward.3": ".linear2",
    ".norms.0": ".norm1",
    ".norms.1": ".norm2",
    ".norms.2": ".norm3",
}


def renamed(place: str) -> dict[str, str]:
    """Our transformer's parts and those of a reference's that is called ``place`` there."""
    return {
        "transformer.input": f"{place}.input_proj",
        "transformer.output": f"{place}.output_proj",
        "transformer.position": f"{place}.pos_embed",
        "transformer.encoder": f"{place}.transformer.encoder.layers",
        "transformer.decoder": f"{place}.transformer.decoder.layers",
        "transformer.norm": f"{place}.transformer.decoder.norm",
    }


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's network around timm's whole backbone, of which ours keeps what is used."""
    code = import_ader(upstreams / "ADer", "uniad")
    ours: Any = build("uniad", image_size=SIZE, backbone={"name": "tf_efficientnet_b4", "pretrained": False})
    settle(ours)
    backbone = timm.create_model("tf_efficientnet_b4", features_only=True, out_indices=(0, 1, 2, 3))
    decoder = {
        "inplanes": [24, 32, 56, 160],
        "outplanes": [272],
        "instrides": [16],
        "feature_size": [SIZE // 16, SIZE // 16],
        "neighbor_size": [SIZE // 32, SIZE // 32],
    }
    reference = code.UniAD(backbone, decoder)
    copy_weights(ours, reference, {**renamed("net_ad"), "backbone.net": "net_backbone"}, INNER)
    reference.eval()  # freezes the backbone

    def forward(normalized: Tensor) -> tuple[Sequence[Tensor], Tensor, Tensor, Tensor]:
        with no_cuda():
            return [], *reference(normalized)

    def parts(normalized: Tensor) -> tuple[Sequence[Tensor], Tensor, Tensor, Tensor]:
        return reference.net_backbone(normalized), *forward(normalized)[1:]

    vectors = [weight for weight in reference.parameters() if weight.requires_grad and weight.ndim == 1]
    matrices = [weight for weight in reference.parameters() if weight.requires_grad and weight.ndim > 1]
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": ours.weight_decay}]
    return restoration(
        ours,
        reference,
        reference.net_ad,
        forward,
        parts,
        torch.optim.AdamW(groups, lr=ours.lr, betas=ours.betas, weight_decay=0.0),
        renamed("net_ad"),
        commit("zhangzjn/ADer", upstreams / "ADer"),
        batch,
    )


def settle(ours: Any) -> None:
    """Gives a backbone at random weights the batch statistics of noise: with none its features would fade out."""
    net = ours.backbone.net
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.momentum = 1.0
    net.train()
    with torch.no_grad():
        net(ours.backbone.normalize(torch.rand(8, 3, SIZE, SIZE)))
    net.eval()


def no_cuda() -> AbstractContextManager[Any]:
    """Without a GPU, the references' ``.cuda()`` does nothing."""
    there = torch.cuda.is_available()
    return ExitStack() if there else mock.patch.object(torch.Tensor, "cuda", lambda self: self)


def restoration(
    ours: Any,
    reference: nn.Module,
    restorer: Any,
    forward: Forward,
    parts: Forward,
    optimizer: torch.optim.Optimizer,
    renamed: Mapping[str, str],
    upstream: str,
    batch: int,
) -> Pair:
    """Both codes share the loss and the image score.

    Args:
        ours: our method.
        reference: the whole reference.
        restorer: its transformer with projections.
        forward: the reference's pass, as its trainer calls it; the backbone's maps may be left out.
        parts: the same with them.
        optimizer: the reference's.
        renamed: names of our transformer's parts and of the reference's.
        upstream: repository and commit.
        batch: images.
    """
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    normalized = ours.backbone.normalize(image_BCHW)
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    step = training_step(ours, image_BCHW)

    def train() -> None:
        reference.train()
        _, aligned, restored, _ = forward(normalized)
        loss = F.mse_loss(aligned, restored)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, ours.clip)
        optimizer.step()

    def train_ours() -> None:
        for part in (ours.jitter, ours.transformer):
            part.train()
        step()

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        reference.eval()
        _, aligned, restored, map_B1HW = forward(normalized)
        F.mse_loss(aligned, restored)  # logged there
        maps = map_B1HW.cpu().numpy()
        pooled = F.avg_pool2d(torch.tensor(maps), 16, stride=1).numpy()
        return maps[:, 0], pooled.reshape(batch, -1).max(axis=1)

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        reference.eval()
        with torch.no_grad():
            maps, aligned, restored, _ = parts(normalized)
            yield largest("backbone features", ours.backbone(image_BCHW), list(maps))
            own, own_restored = ours(image_BCHW)
        yield largest("aligned features", own, _tokens(aligned))
        yield largest("restored features", own_restored, _tokens(restored))
        map_ref, score_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)
        with _no_dropout(ours.transformer, restorer):
            for kind in (torch.float32, torch.float64):
                yield from _training(kind)
        ours.float()
        reference.float()

    def _training(kind: torch.dtype) -> Iterator[Difference]:
        """With jitter, the same noise in both; the reference's mask in the weights' precision."""
        name = str(kind).removeprefix("torch.")
        ours.to(kind).train()
        reference.to(kind).train()
        ours.zero_grad()
        reference.zero_grad()
        transformer = restorer.transformer
        mask = transformer.generate_mask
        noise_BNC = torch.randn(batch, ours.grid**2, sum(ours.backbone.channels), dtype=kind)
        with (
            mock.patch.object(uniad, "normal_one_by_one", return_value=noise_BNC),
            mock.patch.object(torch, "randn", return_value=noise_BNC.transpose(0, 1)),
            mock.patch.object(transformer, "generate_mask", lambda *sizes: mask(*sizes).to(kind)),
        ):
            own, own_restored = ours(image_BCHW.to(kind), Batch(image_BCHW=image_BCHW, seed_B=torch.arange(batch)))
            _, aligned, restored, _ = forward(ours.backbone.normalize(image_BCHW.to(kind)))
        loss, loss_ref = F.mse_loss(own_restored, own), F.mse_loss(aligned, restored)
        loss.backward()  # type: ignore[no-untyped-call]
        loss_ref.backward()  # type: ignore[no-untyped-call]
        yield largest(f"restored features, training ({name})", own_restored, _tokens(restored))
        yield largest(f"loss ({name})", loss, loss_ref)
        yield gradients(f"gradients ({name})", *paired_parameters(ours, reference, renamed, INNER))

    note = "reference: CUDA copies are none on a CPU; its trainer's logging is left out"
    return Pair(ours, upstream, differences, (train, train_ours), (test, test_ours), batch, batch, note)


def _tokens(feature_BCHW: Tensor) -> Tensor:
    return feature_BCHW.flatten(2).transpose(1, 2)


def _no_dropout(*modules: nn.Module) -> ExitStack:
    """Dropout of all parts is 0 within: two codes draw it in another order."""
    stack = ExitStack()
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, nn.Dropout):
            stack.enter_context(mock.patch.object(part, "p", 0.0))
        elif isinstance(getattr(part, "dropout", None), float):
            stack.enter_context(mock.patch.object(part, "dropout", 0.0))
    return stack
