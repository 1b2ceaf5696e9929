"""FastFlow beside gathierry's implementation (clone: ``FastFlow``; package: FrEIA)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from torch import Tensor, nn

from ader.methods import build
from ader.methods.fastflow import negative_log_likelihood
from parity import SIZE, Difference, Pair, commit, largest, training_step

NOTE = (
    "the reference multiplies by permutation matrices (6.4 of its 42.6 GMAC) and stores them and their inverses as "
    "parameters (22.0 M of its 91.9 M), which are indices here"
)


def pair(upstreams: Path, batch: int) -> Pair:
    """Its Wide ResNet-50, whose flows get our weights and permutations."""
    upstream = commit("gathierry/FastFlow", upstreams / "FastFlow")
    sys.path.insert(0, str(upstreams / "FastFlow"))
    code = importlib.import_module("fastflow")
    with without_weights():
        reference = code.FastFlow("wide_resnet50_2", flow_steps=8, input_size=SIZE)
    ours: Any = build("fastflow", backbone={"name": "wide_resnet50_2", "pretrained": False})

    def test(normalized_BCHW: Tensor) -> Any:
        map_BHW = reference.eval()(normalized_BCHW)["anomaly_map"][:, 0]
        return map_BHW.amax(dim=(1, 2)), map_BHW

    return compared(
        Reference(reference, reference.nf_flows, lambda image: reference.train()(image)["loss"], test),
        ours,
        upstream,
        batch,
    )


def without_weights() -> Any:
    """Inside, timm makes networks with random weights."""
    create = timm.create_model
    return patch.object(timm, "create_model", lambda name, pretrained=False, **more: create(name, **more))


class Reference:
    """Either implementation.

    Args:
        net: with ``norms`` and ``feature_extractor``.
        flows: FrEIA's sequences of couplings.
        loss: of normalized images.
        test: image scores and maps of normalized images.
    """

    def __init__(
        self, net: nn.Module, flows: Any, loss: Callable[[Tensor], Tensor], test: Callable[[Tensor], Any]
    ) -> None:
        self.net, self.flows, self.loss, self.test = net, flows, loss, test

    def adam(self, ours: Any) -> torch.optim.Optimizer:
        """Of all parameters, of which those without gradients stay."""
        return torch.optim.Adam(self.net.parameters(), lr=ours.lr, weight_decay=ours.weight_decay)


def compared(reference: Reference, ours: Any, upstream: str, batch: int) -> Pair:
    """The comparison with either code."""
    net: Any = reference.net
    copy_weights(ours, reference)
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    normalized_BCHW = ours.backbone.normalize(image_BCHW)

    def trainer() -> Callable[[], None]:
        adam = reference.adam(ours)

        def train() -> None:
            loss = reference.loss(ours.backbone.normalize(image_BCHW.to(ours.flows[0].blocks[0].scale_C.dtype)))
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            loss.item()

        return train

    @torch.no_grad()
    def test() -> Any:
        return reference.test(ours.backbone.normalize(image_BCHW))

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        features = ours.backbone(image_BCHW)
        with torch.no_grad():
            yield largest("features", features, net.feature_extractor.eval()(normalized_BCHW))
            normed = [norm(feature) for norm, feature in zip(net.norms, features, strict=True)]
            theirs = [flow(feature) for flow, feature in zip(reference.flows, normed, strict=True)]
            mine = ours(image_BCHW)
        yield largest("latent maps", [latent for latent, _ in mine], [latent for latent, _ in theirs])
        yield largest("log-determinants", [log for _, log in mine], [log for _, log in theirs])
        (score_ref, map_ref), (score_B, map_BHW) = test(), test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)
        yield from losses_and_gradients(reference, ours, image_BCHW)
        for step in (training_step(ours, image_BCHW.double()), trainer()):
            step()
        yield largest("weights after a step (float64)", *map(flat, paired_weights(ours, reference)))
        ours.float()
        net.float()
        copy_weights(ours, reference)

    trains = (trainer(), training_step(ours, image_BCHW))
    return Pair(ours, upstream, differences, trains, (test, test_ours), batch, batch, NOTE)


def losses_and_gradients(reference: Reference, ours: Any, image_BCHW: Tensor) -> Iterator[Difference]:
    """In single and in double precision, in which both stay."""
    for kind in (torch.float32, torch.float64):
        name = str(kind).removeprefix("torch.")
        ours.to(kind).zero_grad()
        reference.net.to(kind).zero_grad()
        loss = negative_log_likelihood(ours(image_BCHW.to(kind)))
        loss_ref = reference.loss(ours.backbone.normalize(image_BCHW.to(kind)))
        (loss + loss_ref).backward()  # type: ignore[no-untyped-call]
        yield largest(f"loss ({name})", loss, loss_ref)
        mine, theirs = paired_weights(ours, reference)
        yield largest(f"gradients ({name})", flat([w.grad for w in mine]), flat([w.grad for w in theirs]))
    ours.zero_grad()
    reference.net.zero_grad()


@torch.no_grad()
def copy_weights(ours: Any, reference: Reference) -> None:
    """Gives both sides the same weights, with norms, scales and offsets as after some training."""
    net: Any = reference.net
    net.feature_extractor.load_state_dict(ours.backbone.net.state_dict())
    for norm in ours.norms:
        norm.weight += 0.2 * torch.randn_like(norm.weight)
        norm.bias += 0.1 * torch.randn_like(norm.bias)
    for mine, theirs in paired_blocks(ours, reference):
        mine.scale_C += 0.3 * torch.randn_like(mine.scale_C)
        mine.offset_C += 0.1 * torch.randn_like(mine.offset_C)
        permutation_CC11 = torch.eye(len(mine.order_C))[mine.order_C, :, None, None]
        theirs.w_perm.copy_(permutation_CC11)
        theirs.w_perm_inv.copy_(permutation_CC11.transpose(0, 1))
    for weight, other in zip(*paired_weights(ours, reference), strict=True):
        other.copy_(weight.view_as(other))


def paired_blocks(ours: Any, reference: Reference) -> Iterator[tuple[Any, Any]]:
    """Our couplings and the reference's."""
    for flow, other in zip(ours.flows, reference.flows, strict=True):
        yield from zip(flow.blocks, other.module_list, strict=True)


def paired_weights(ours: Any, reference: Reference) -> tuple[list[Any], list[Any]]:
    """Trained weights of both sides in one order; the reference's scales and offsets have axes of length 1."""
    net: Any = reference.net
    mine, theirs = [*ours.norms.parameters()], [*net.norms.parameters()]
    for block, other in paired_blocks(ours, reference):
        mine += [block.scale_C, block.offset_C, *block.subnet.parameters()]
        theirs += [other.global_scale, other.global_offset, *other.subnet.parameters()]
    return mine, theirs


def flat(tensors: list[Any]) -> list[Tensor]:
    """Shapes aside."""
    return [tensor.flatten() for tensor in tensors]
