"""DRAEM beside ADer's reproduction (clone: ``ADer``), in the recipe that its released configuration runs."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import build
from ader.nets.synthesis.synthetic import Synthetic
from parity import (
    SIZE,
    Difference,
    Pair,
    Published,
    Run,
    commit,
    copy_weights,
    gradients,
    import_ader,
    largest,
    paired_parameters,
    training_step,
)

PUBLISHED = Published(params=97.4, macs=198.0)

#: Gradients are compared on smaller images: the networks are convolutions, and float64 takes its time.
SMALL = 64


def _block(mine: str, theirs: str, shift: int = 0) -> dict[str, str]:
    return {f"{mine}.{number + shift}": f"{theirs}.{number}" for number in (0, 1, 3, 4)}


def _renamed() -> dict[str, str]:
    parts = _block("reconstructor.layers.0", "model.encoder.block1")
    parts |= _block("segmenter.down.0", "model_seg.encoder_segment.block1")
    for number in (1, 2, 3, 4):
        parts |= _block(f"reconstructor.layers.{number}", f"model.encoder.block{number + 1}", 1)
        parts[f"reconstructor.layers.{2 * number + 3}"] = f"model.decoder.up{number}"
        parts[f"reconstructor.layers.{2 * number + 4}"] = f"model.decoder.db{number}"
    for number in (1, 2, 3, 4, 5):
        parts |= _block(f"segmenter.down.{number}", f"model_seg.encoder_segment.block{number + 1}", 1)
    for number, name in enumerate("b1234"):
        parts[f"segmenter.rises.{number}"] = f"model_seg.decoder_segment.up{'_' * (name == 'b')}{name}"
        parts[f"segmenter.merges.{number}"] = f"model_seg.decoder_segment.db{'_' * (name == 'b')}{name}"
    parts["reconstructor.layers.13"] = "model.decoder.fin_out.0"
    parts["segmenter.head"] = "model_seg.decoder_segment.fin_out.0"
    return parts


RENAMED = _renamed()


@dataclass(frozen=True)
class Reference:
    """A reference as its trainer uses it.

    Attributes:
        net: with parts ``model`` and ``model_seg``; gives reconstructions and softmax maps.
        loss: (reconstruction, maps, clean image, mask (B, 1, H, W)) -> loss.
        prepared: RGB in [0, 1] to its input.
        predict: input -> maps (B, H, W) and image scores.
    """

    net: Any
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    prepared: Callable[[Tensor], Tensor]
    predict: Callable[[Tensor], tuple[Any, Any]]


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's networks and losses."""
    clone = upstreams / "ADer"
    net = import_ader(clone, "draem").DRAEM()
    ours: Any = build("draem", anomalies=False, normalize="imagenet")
    with without_cuda():
        losses = _import_losses(clone)
        mse, ssim, focal = losses.L2Loss(), losses.SSIMLoss(), losses.FocalLoss()

    def predict(image_BCHW: Tensor) -> tuple[Any, Any]:
        map_BHW = net(image_BCHW)[1][:, 1].detach().cpu().numpy()
        pooled = F.avg_pool2d(torch.tensor(map_BHW).unsqueeze(1), [21, 21], stride=1).numpy().squeeze(1)
        return map_BHW, pooled.max(axis=(1, 2))

    def loss(restored: Tensor, maps: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        total: Tensor = mse(restored, clean) + ssim(restored, clean) + focal(maps, mask)
        return total

    reference = Reference(net, loss, ours.normalize, predict)
    return compared(ours, reference, commit("zhangzjn/ADer", clone), batch, "no anomalies on either side")


def compared(ours: Any, reference: Reference, upstream: str, batch: int, note: str) -> Pair:
    """Both references differ in little else than the optimizer's settings, which ours has."""
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    copy_weights(ours, reference.net, RENAMED)

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        reference.net.eval()
        return reference.predict(reference.prepared(image_BCHW))

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        reference.net.eval()
        with torch.no_grad():
            restored, restored_ref = ours(image_BCHW)[0], reference.net(reference.prepared(image_BCHW))[0]
        yield largest("reconstruction", restored, restored_ref)
        map_ref, score_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)
        for kind in (torch.float32, torch.float64):
            yield from _training(ours.to(kind), reference, _example(batch, kind))
        ours.float()
        reference.net.float()

    train = _step(ours, reference, image_BCHW)
    timed = (train, training_step(ours, image_BCHW))
    return Pair(ours, upstream, differences, timed, (test, test_ours), batch, batch, note)


def _step(ours: Any, reference: Reference, image_BCHW: Tensor) -> Run:
    """The reference's training step on ready images."""
    optimizer = torch.optim.Adam(reference.net.parameters(), lr=ours.lr)
    mask_B1HW = torch.zeros_like(image_BCHW[:, :1])
    mask_B1HW[: len(mask_B1HW) // 2, :, 64:128, 64:128] = float(ours.anomalies is not None)

    def train() -> None:
        reference.net.train()
        input_BCHW = reference.prepared(image_BCHW)
        restored_BCHW, map_B2HW = reference.net(input_BCHW)
        loss = reference.loss(restored_BCHW, map_B2HW, input_BCHW, mask_B1HW)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if ours.clip is not None:
            nn.utils.clip_grad_norm_(reference.net.parameters(), ours.clip)
        optimizer.step()

    return train


def _example(batch: int, kind: torch.dtype) -> Synthetic:
    generator = torch.Generator().manual_seed(1)
    clean_BCHW, other_BCHW = torch.rand(2, batch, 3, SMALL, SMALL, generator=generator).to(kind).unbind()
    mask_BHW = torch.zeros(batch, SMALL, SMALL, dtype=kind)
    mask_BHW[: batch // 2, 10:30, 5:60] = 1
    return Synthetic(torch.where(mask_BHW[:, None] > 0, other_BCHW, clean_BCHW), clean_BCHW, mask_BHW)


def _training(ours: Any, reference: Reference, spoiled: Synthetic) -> Iterator[Difference]:
    name = str(spoiled.mask.dtype).removeprefix("torch.")
    net = reference.net.to(spoiled.mask.dtype)
    for part in (ours, net):
        part.train()
        part.zero_grad()
    loss = torch.stack(list(ours.losses(spoiled).values())).sum()
    restored_BCHW, map_B2HW = net(reference.prepared(spoiled.image))
    loss_ref = reference.loss(restored_BCHW, map_B2HW, reference.prepared(spoiled.clean), spoiled.mask[:, None])
    loss.backward()  # type: ignore[no-untyped-call]
    loss_ref.backward()  # type: ignore[no-untyped-call]
    yield largest(f"loss ({name})", loss, loss_ref)
    yield gradients(f"gradients ({name})", *paired_parameters(ours, net, RENAMED))


def without_cuda() -> Any:
    """The references put a window on the graphics card when they are built."""
    return patch.object(torch.Tensor, "cuda", lambda tensor: tensor)


def _import_losses(clone: Path) -> Any:
    stub = types.ModuleType("loss")
    stub.LOSS = types.SimpleNamespace(register_module=lambda item: item)  # type: ignore[attr-defined]
    stub.__path__ = [str(clone / "loss")]
    sys.modules["loss"] = stub
    return importlib.import_module("loss.base_loss")
