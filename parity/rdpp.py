"""RD++ beside ADer's reproduction (clone: ``ADer``; packages: ``geomloss``, ``numba``).

Its loss asks for a GPU by name, which is passed over here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ader.methods import build
from ader.nets.scoring.maps import flat_cosine_loss
from ader.nets.synthesis.simplex import GRADIENTS, near_vertices
from ader.nets.transport import sinkhorn_divergence
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
from parity.rd import INNER, Features, distillation
from parity.rd import RENAMED as RD_RENAMED

PUBLISHED = Published(params=96.1, macs=37.5)

PROJECTIONS = {f"projections.{number}": f"proj_layer.proj_{letter}.proj" for number, letter in enumerate("abc")}
RENAMED = {**RD_RENAMED, **PROJECTIONS}
NOTE = (
    "the reference's loss computes 375 iterations of Sinkhorn's algorithm for each of three scales, ours leaves them "
    "out; the noisy images are given to the reference and made by ours"
)


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's network around our teacher, whose code is timm's on both sides."""
    code = import_ader(upstreams / "ADer", "rdpp")
    ours: Any = build("rdpp", discard=True, backbone={"name": "wide_resnet50_2", "pretrained": False})
    reference = code.RDPP(ours.teacher.net, code.de_wide_resnet50_2())
    copy_weights(ours, reference, RENAMED, INNER)

    def forward(normalized: Tensor) -> Features:
        teacher = reference.net_t(normalized)
        return teacher, reference.net_s(reference.mff_oce(reference.proj_layer(teacher)))

    def full_loss(normalized: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        teacher, student, projection = reference(normalized, noisy)
        return flat_cosine_loss(teacher, student), projection

    upstream = commit("zhangzjn/ADer", upstreams / "ADer")
    base = projected(ours, reference, forward, full_loss, RENAMED, upstream, batch)
    noise = _module(upstreams / "ADer" / "data" / "noise.py")

    def differences() -> Iterator[Difference]:
        yield from base.differences()
        yield noise_difference(noise)
        yield from transport_differences()

    return replace(base, differences=differences)


def projected(
    ours: Any,
    reference: nn.Module,
    forward: Callable[[Tensor], Features],
    full_loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    renamed: Mapping[str, str],
    upstream: str,
    batch: int,
    clears: bool = True,
) -> Pair:
    """RD's comparison, and that of the whole loss.

    Args:
        ours, reference, renamed, upstream, batch: as ``parity.rd.distillation`` has them.
        forward: the reference's, from normalized images to both pyramids.
        full_loss: the reference's two losses, of normalized clean and noisy images.
        clears: the reference clears its gradients before each backward pass, not after each update.
    """
    base = distillation(ours, reference, forward, renamed, upstream, batch)
    image_BCHW, seed_B = torch.rand(batch, 3, SIZE, SIZE), torch.arange(batch)
    noisy_BCHW = ours.noise(image_BCHW, seed_B)
    mine, theirs = paired_parameters(ours, reference, renamed, INNER)
    optimizer = torch.optim.Adam(theirs, lr=ours.lr, betas=ours.betas)
    normalized, noisy = ours.teacher.normalize(image_BCHW), ours.teacher.normalize(noisy_BCHW)
    turn = iter(range(10**9))

    def train() -> None:
        reference.train()
        if clears:
            optimizer.zero_grad()
        with without_gpu():
            distilled, projection = full_loss(normalized, noisy)
        (distilled + 0.2 * projection).backward()  # type: ignore[no-untyped-call]
        if ours.clip is not None:
            nn.utils.clip_grad_norm_(theirs, ours.clip)
        if next(turn) % 2:
            optimizer.step()
            optimizer.zero_grad()

    def differences() -> Iterator[Difference]:
        yield from base.differences()
        for kind in (torch.float32, torch.float64):
            ours.to(kind).train()
            reference.to(kind).train()
            ours.zero_grad()
            reference.zero_grad()
            terms = ours.losses(image_BCHW.to(kind), noisy_BCHW.to(kind), seed_B)
            with without_gpu():
                distilled, projection = full_loss(normalized.to(kind), noisy.to(kind))
            own = (0.01 * terms["reconstruction"] + 0.1 * terms["contrast"]) / 1.11
            (terms["cos"] + 0.2 * own).backward()
            (distilled + 0.2 * projection).backward()  # type: ignore[no-untyped-call]
            name = str(kind).removeprefix("torch.")
            yield largest(f"distillation loss ({name})", terms["cos"], distilled)
            yield largest(f"projection loss ({name})", own, projection)
            yield gradients(f"gradients of both ({name})", mine, theirs)
            for place in range(3):
                ours_own, reference_own = (
                    [
                        w
                        for w, (n, _) in zip(side, _named(ours, renamed), strict=True)
                        if n.startswith(f"projections.{place}.")
                    ]
                    for side in (mine, theirs)
                )
                yield gradients(f"gradients, projection {place} ({name})", ours_own, reference_own)
        ours.float()
        reference.float()

    train_pair = (train, training_step(ours, image_BCHW))
    return replace(base, differences=differences, train=train_pair, note=NOTE)


def _named(ours: nn.Module, renamed: Mapping[str, str]) -> list[tuple[str, nn.Parameter]]:
    """Our parameters below the renamed prefixes, in the order of ``paired_parameters``."""
    return [(n, w) for n, w in ours.named_parameters() if any(n.startswith(f"{prefix}.") for prefix in renamed)]


@contextmanager
def without_gpu() -> Iterator[None]:
    """Inside the block, tensors that are sent to a GPU stay where they are."""
    send = Tensor.to

    def stay(self: Tensor, *words: Any, **more: Any) -> Tensor:
        result: Tensor = self if words and words[0] == "cuda" else send(self, *words, **more)
        return result

    Tensor.to = stay  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Tensor.to = send  # type: ignore[method-assign]


def noise_difference(noise: Any) -> Difference:
    """Our vertices and weights with the gradients that upstream's permutation gives them."""
    theirs = noise.Simplex_CLASS()
    theirs.newSeed(5)
    shape, permuted = (3, 31, 23), theirs._perm
    place_P3 = np.indices(shape, dtype=np.float64).reshape(3, -1).T[:, ::-1]
    total_P = np.zeros(len(place_P3))
    for octave in range(6):
        vertex_PK3, weight_PKD = near_vertices(place_P3 * 2**octave / 32)
        x, y, z = np.moveaxis(vertex_PK3, 2, 0)
        number = theirs._perm_grad_index3[(permuted[(permuted[x & 255] + y) & 255] + z) & 255]
        gradient_PKD = np.stack([noise.GRADIENTS3[number + axis] for axis in range(3)], axis=2)
        total_P += 0.6**octave * (gradient_PKD * weight_PKD).sum(axis=(1, 2))
    assert {*map(tuple, GRADIENTS.astype(int))} == {*map(tuple, noise.GRADIENTS3.reshape(-1, 3))}
    return largest("simplex noise", total_P.reshape(shape), theirs.rand_3d_octaves(shape, 6, 0.6))


def transport_differences() -> Iterator[Difference]:
    """Divergence of two sets and its gradient beside geomloss's, which both references call, with their diameter."""
    geomloss: Any = importlib.import_module("geomloss")
    torch.manual_seed(0)
    points, others = torch.randn(16, 200), torch.randn(16, 200) + 0.3
    mine, theirs = points.clone().requires_grad_(), points.clone().requires_grad_()
    wanted = {"p": 2, "blur": 0.05, "scaling": 0.95, "diameter": 1e7}
    reference = geomloss.SamplesLoss("sinkhorn", backend="tensorized", **wanted)(theirs, others)
    value = sinkhorn_divergence(mine, others, diameter=1e7)
    (reference + 0).backward()
    value.backward()  # type: ignore[no-untyped-call]
    yield largest("optimal transport of two sets", value, reference)
    assert mine.grad is not None
    assert theirs.grad is not None
    yield largest("its gradient", mine.grad, theirs.grad)


def _module(file: Path) -> Any:
    """A module alone, without the package around it."""
    spec: Any = importlib.util.spec_from_file_location(f"reference_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
