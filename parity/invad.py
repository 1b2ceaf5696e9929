"""InvAD beside ADer's code (clone: ``ADer``; packages: einops, opencv-python).

The reference compiles two CUDA operators of StyleGAN2; here torch operations that they equal stand in for them.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import build
from ader.methods.invad import feature_loss
from parity import SIZE, Difference, Pair, Published, commit, import_ader, largest, smoothed, training_step

PUBLISHED = Published(params=95.6, macs=45.4)

NOTE = "the reference's compiled operators (biased leaky ReLU, filter) are replaced by torch operations that equal them"

#: One of our tensors, and those of the reference that lie in it one after the other.
Counterparts = Iterator[tuple[Tensor, list[Tensor]]]


def pair(upstreams: Path, batch: int) -> Pair:
    """The wide network."""
    return beside_ader("invad", "wide_resnet50_2", upstreams, batch)


def beside_ader(name: str, backbone: str, upstreams: Path, batch: int) -> Pair:
    """ADer's fuser and decoder around our encoder, whose code is timm's on both sides."""
    sys.modules["model.stylegan2_op"] = _operators()
    code = import_ader(upstreams / "ADer", "invad")
    ours: Any = build(name, backbone={"name": backbone, "pretrained": False})
    _disturb(ours.style_encoder, ours.generator)
    reference = _reference(code, ours)
    _copy(ours, reference)
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    trained = [weight for weight in reference.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=ours.lr, betas=ours.betas)

    def forward(kind: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
        features: tuple[list[Tensor], list[Tensor]] = reference(ours.encoder.normalize(image_BCHW.to(kind)))
        return features

    def train() -> None:
        reference.train()
        loss = reference_loss(*forward(), ours.loss_weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, ours.clip)
        optimizer.step()

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        reference.eval()
        map_BHW = reference_map(*forward())
        return map_BHW, map_BHW.reshape(batch, -1).max(axis=1)

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        reference.eval()
        with torch.no_grad():
            (features, generated), (features_ref, generated_ref) = ours(image_BCHW), forward()
        yield largest("encoder's features", features, features_ref)
        yield largest("generator's features", generated, generated_ref)
        map_ref, score_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)
        for kind in (torch.float32, torch.float64):
            ours.to(kind).train()
            reference.to(kind).train()
            ours.zero_grad()
            reference.zero_grad()
            features, generated = ours(image_BCHW.to(kind))
            loss = ours.loss_weight * feature_loss(features, generated, ours.loss)
            loss_ref = reference_loss(*forward(kind), ours.loss_weight)
            loss.backward()
            loss_ref.backward()  # type: ignore[no-untyped-call]
            name = str(kind).removeprefix("torch.")
            yield largest(f"loss ({name})", loss, loss_ref)
            yield _gradients(f"gradients ({name})", ours, reference)
        ours.float()
        reference.float()

    steps = (train, training_step(ours, image_BCHW))
    upstream = commit("zhangzjn/ADer", upstreams / "ADer")
    return Pair(ours, upstream, differences, steps, (test, test_ours), batch, batch, NOTE)


def _operators() -> types.ModuleType:
    """The two operators; only what InvAD asks of them, which neither up- nor downsamples in the filter."""
    module = types.ModuleType("model.stylegan2_op")

    def biased_leaky_relu(value: Tensor, bias: Tensor, slope: float = 0.2, scale: float = math.sqrt(2)) -> Tensor:
        return F.leaky_relu(value + bias.view(-1, 1, 1), slope) * scale

    class BiasedLeakyReLU(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(channels))

        def forward(self, value: Tensor) -> Tensor:
            return biased_leaky_relu(value, self.bias)

    def filtered(value: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
        assert up == down == 1
        channels = value.shape[1]
        each = kernel.flip(0, 1).expand(channels, 1, *kernel.shape)
        return F.conv2d(F.pad(value, (*pad, *pad)), each, groups=channels)

    module.FusedLeakyReLU = BiasedLeakyReLU  # type: ignore[attr-defined]
    module.fused_leaky_relu = biased_leaky_relu  # type: ignore[attr-defined]
    module.upfirdn2d = filtered  # type: ignore[attr-defined]
    return module


def _reference(code: Any, ours: Any) -> Any:
    """ADer's network as its configs build it, for our encoder and our number of blocks."""
    channels = ours.encoder.channels
    styles = [min(count, 64) for count in channels]
    fuser = {
        "type": "Fuser",
        "in_chas": channels,
        "style_chas": styles,
        "in_strides": [4, 2, 1],
        "down_conv": True,
        "bottle_num": 1,
        "conv_num": 1,
        "lr_mul": 0.01,
    }
    decoder = {
        "in_chas": channels,
        "style_chas": styles,
        "latent_spatial_size": SIZE // 16,
        "latent_channel_size": 16,
        "blur_kernel": [1, 3, 3, 1],
        "normalize_mode": "LayerNorm",
        "lr_mul": 0.01,
        "small_generator": True,
        "layers": [len(ours.generator.stages[0])] * 3,
    }
    return code.InvAD(model_encoder=ours.encoder.net, model_fuser=fuser, model_decoder=decoder)


@torch.no_grad()
def _disturb(*modules: nn.Module) -> None:
    """Moves biases and statistics off their first values, at which mistakes with them would not show."""
    for module in modules:
        for value in (*module.parameters(), *module.buffers()):
            if value.ndim == 1 and value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))


def _counterparts(ours: Any, reference: Any) -> Counterparts:
    """All tensors of our style encoder and generator beside the reference's."""
    encoder, fuser, decoder = ours.style_encoder, reference.net_fuser, reference.net_decoder
    layers = zip([*encoder.shrink, encoder.merge[:2]], [*fuser.downsamples, fuser.conv_cat], strict=True)
    for (conv, norm), layer in layers:
        yield from _alike(conv, layer.conv)
        yield from _alike(norm, layer.norm)
    yield from _alike(encoder.bottlenecks, fuser.conv_bottle)
    yield ours.generator.constant_1CHW, [decoder.input.input]
    chains = [[[ours.generator.conv]], encoder.unfold, ours.generator.heads]
    chains_ref = [[decoder.conv1], fuser.convs, decoder.convs_latent]
    for chain, chain_ref in zip(chains, chains_ref, strict=True):
        for convs, convs_ref in zip(chain, chain_ref, strict=True):
            for conv, conv_ref in zip(convs, convs_ref, strict=True):
                yield conv.weight, [conv_ref[0].weight]
                yield conv.bias, [conv_ref[-1].bias]
    for stage, stage_ref in zip(ours.generator.stages, decoder.convs, strict=True):
        for block, block_ref in zip(stage, stage_ref, strict=True):
            yield block.skip.weight, [block_ref.skip[0].weight]
            for styled, styled_ref in ((block.conv1, block_ref.conv1), (block.conv2, block_ref.conv2)):
                yield styled.conv.weight, [styled_ref.conv.weight]
                yield styled.conv.bias, [styled_ref.activate.bias]
                if styled.modulation is not None:
                    heads = (styled_ref.conv.gamma, styled_ref.conv.beta)
                    yield styled.modulation.weight, [head.weight for head in heads]
                    yield styled.modulation.bias, [head.bias for head in heads]


def _alike(module: nn.Module, module_ref: nn.Module) -> Counterparts:
    """Modules whose tensors have the same names."""
    mine, theirs = ({**dict(each.named_parameters()), **dict(each.named_buffers())} for each in (module, module_ref))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        yield value, [theirs[name]]


@torch.no_grad()
def _copy(ours: Any, reference: Any) -> None:
    filled = []
    for value, theirs in _counterparts(ours, reference):
        for part, target in zip(value.chunk(len(theirs)) if len(theirs) > 1 else [value], theirs, strict=True):
            target.copy_(part.view_as(target))
            filled.append(id(target))
    parts = (*reference.net_fuser.parameters(), *reference.net_decoder.parameters())
    assert {id(weight) for weight in parts} <= set(filled), "the reference has parameters that ours lacks"
    assert len(filled) == len(set(filled)), "two of ours went to one place"


def _gradients(what: str, ours: Any, reference: Any) -> Difference:
    mine, joined = [], []
    for value, theirs in _counterparts(ours, reference):
        if value.requires_grad:
            mine.append(value.grad)
            joined.append(torch.cat([each.grad.flatten() for each in theirs]).view_as(value))  # type: ignore[union-attr]
    return largest(what, mine, joined)


def reference_loss(features: Sequence[Tensor], generated: Sequence[Tensor], weight: float) -> Tensor:
    """ADer's loss, written again."""
    return torch.stack([weight * F.mse_loss(one, other) for one, other in zip(features, generated, strict=True)]).sum()


def reference_map(features: Sequence[Tensor], generated: Sequence[Tensor]) -> Any:
    """ADer's unified map, written again: all scales stacked at the finest size, scipy's filter for each map."""
    size = features[0].shape[2:]
    first, second = (
        torch.cat([F.interpolate(F.normalize(each), size, mode="bilinear", align_corners=True) for each in pyramid], 1)
        for pyramid in (features, generated)
    )
    distance_B1HW = (1 - F.cosine_similarity(first, second))[:, None]
    return smoothed(F.interpolate(distance_B1HW, size=SIZE, mode="bilinear", align_corners=True)[:, 0].numpy())
