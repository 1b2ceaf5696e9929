"""SimpleNet beside ADer's reproduction (clone: ``ADer``; needs torchvision, tensorboard and tqdm)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor, nn

from ader.methods import build, simplenet
from ader.methods.simplenet import hinge_loss
from ader.nets.scoring.patches import probe_in_training_mode
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

PUBLISHED = Published(
    params=72.8,
    macs=17.715,
    why="the published parameters hold layer4 and the classifier of the backbone (44.0 M), which are never "
    "used; the published multiply-accumulates are of a training step, norms included",
)

RENAMED = {
    "adaptor": "pre_projection.layers.0fc",
    "discriminator.0": "discriminator.body.block1.0",
    "discriminator.1": "discriminator.body.block1.1",
    "discriminator.3": "discriminator.tail",
}
NOTE = (
    "the reference's code is run as it is but for .cuda(), which does nothing here, and the trainer's two backward "
    "passes, clippings and steps, written again (`train`); its test loop's interface is repaired. Our inference takes "
    "0.66 of the CPU time of our RD's (4 images, one thread, alternately)"
)


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's network around torchvision's random one, whose batch norms it moves while it is built."""
    upstream = commit("zhangzjn/ADer", upstreams / "ADer")
    code = import_ader(upstreams / "ADer", "simplenet")
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    network = torchvision.models.wide_resnet50_2(weights=None)
    ours = recipe(network, SIZE, lr_decay_at=1.0)
    reference = code.SIMPLENET(network, ("layer2", "layer3"), (3, SIZE, SIZE))
    inner = reference.net_simplenet
    copy_weights(ours, inner, RENAMED)
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)

    def loss_of(normalized: Tensor) -> Tensor:
        reference.train()
        real, fake = reference(normalized)
        return torch.as_tensor(real + fake)

    def trainer() -> Run:
        optimizers = _optimizers(inner)

        def train() -> None:
            loss = loss_of(ours.backbone.normalize(image_BCHW))
            for number, (optimizer, part) in enumerate(optimizers):
                optimizer.zero_grad()
                loss.backward(retain_graph=number == 0)  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(part.parameters(), 5.0)
                optimizer.step()
            loss.item()

        return train

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        _, maps = inner.predict({"img": ours.backbone.normalize(image_BCHW)})
        return maps.reshape(batch, -1).max(axis=1), maps

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        yield from comparison(ours, inner, image_BCHW, loss_of, lambda: (training_step(ours, image_BCHW), trainer()))
        score_ref, map_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)

    steps = (trainer(), training_step(ours, image_BCHW))
    return Pair(ours, upstream, differences, steps, (test, test_ours), batch, batch, NOTE)


def recipe(network: nn.Module, size: int, **arguments: Any) -> Any:
    """Our method with the weights of a network of torchvision that is still as it was made, then probed as theirs."""
    ours: Any = build("simplenet", backbone={"name": "wide_resnet50_2", "pretrained": False}, **arguments)
    state = network.state_dict()
    ours.backbone.net.load_state_dict({name: state[name] for name in ours.backbone.net.state_dict()})
    probe_in_training_mode(ours.backbone, size)
    return ours


def comparison(
    ours: Any,
    inner: Any,
    image_BCHW: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    trainers: Callable[[], tuple[Run, Run]],
) -> Iterator[Difference]:
    """Everything up to the trained state, which both then share; in float64 as well where rounding would decide.

    Args:
        ours: our method.
        inner: the reference's network, with ``_embed``, ``pre_projection`` and ``discriminator``.
        image_BCHW: RGB in [0, 1].
        loss_of: the reference's loss of normalized images.
        trainers: makes a training step of each, with new optimizers.
    """
    normalize = ours.backbone.normalize
    with torch.no_grad():
        patch_ND, _ = inner._embed(normalize(image_BCHW))
        yield largest("patch features", ours._patches(image_BCHW).flatten(0, 2), patch_ND)
    noise_ND = torch.randn(patch_ND.shape, dtype=torch.float64)
    mine, theirs = paired_parameters(ours, inner, RENAMED)
    for kind in (torch.float32, torch.float64):
        name = str(kind).removeprefix("torch.")
        ours.to(kind)
        inner.to(kind)
        ours.adaptor.train()
        ours.discriminator.train()
        with same_noise(noise_ND.to(kind)), patch.object(torch, "float", kind):  # it turns images into torch.float
            real_N, fake_N = ours(image_BCHW.to(kind))
            loss = hinge_loss(real_N, fake_N, ours.margin)
            reference = loss_of(normalize(image_BCHW.to(kind)))
            ours.zero_grad()
            inner.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            reference.backward()  # type: ignore[no-untyped-call]
            yield largest(f"loss ({name})", loss, reference)
            yield gradients(f"gradients ({name})", mine, theirs)
    with same_noise(noise_ND), patch.object(torch, "float", torch.float64):
        for step in trainers():
            for _ in range(3):
                step()
    norms = ours.discriminator[1], inner.discriminator.body.block1[1]
    yield largest("parameters after 3 steps (float64)", mine, theirs)
    yield largest("batch norm's statistics", *([norm.running_mean, norm.running_var] for norm in norms))
    ours.float()
    inner.float()
    copy_weights(ours, inner, RENAMED)


def same_noise(noise_ND: Tensor) -> Any:
    """Standard normal numbers for both: the reference asks for them scaled, ours scales them itself."""
    stack = ExitStack()
    stack.enter_context(patch.object(torch, "normal", lambda mean, std, shape: mean + std * noise_ND))
    stack.enter_context(patch.object(torch, "randn_like", lambda patch_BHWD: noise_ND.view(patch_BHWD.shape)))
    stack.enter_context(patch.object(simplenet, "normal_one_by_one", lambda seed_B, *_, **__: noise_ND[None, None]))
    return stack


def _optimizers(inner: Any) -> list[tuple[torch.optim.Optimizer, nn.Module]]:
    """The trainer's, which leave one-dimensional parameters without decay."""
    made: list[tuple[torch.optim.Optimizer, nn.Module]] = []
    for part, kind, lr, decay in (
        (inner.pre_projection, torch.optim.AdamW, 1e-4, 1e-2),
        (inner.discriminator, torch.optim.Adam, 2e-4, 1e-5),
    ):
        rows = list(part.parameters())
        groups = [
            {"params": [row for row in rows if row.ndim == 1], "weight_decay": 0.0},
            {"params": [row for row in rows if row.ndim > 1], "weight_decay": decay},
        ]
        made.append((kind(groups, lr=lr), part))
    return made
