"""CFA beside ADer's reproduction (clone: ``ADer``; needs einops, scikit-learn and tqdm)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.methods import build
from ader.methods._base import Batch
from parity import SIZE, Difference, Pair, Published, commit, gradients, import_ader, largest, smoothed

PUBLISHED = Published(
    params=38.6,
    macs=55.3,
    why="the published parameters hold the memory (7.3 M), a buffer here, and a convolution that is never used (3.2 M)",
)


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's descriptor, memory and loss around our backbone, whose code is timm's on both sides."""
    upstream = commit("zhangzjn/ADer", upstreams / "ADer")
    with patch.dict(sys.modules, {"data": MagicMock()}):
        code = import_ader(upstreams / "ADer", "cfa")
    ours: Any = build("cfa", backbone={"name": "wide_resnet50_2", "pretrained": False})

    def features(normalized: Tensor) -> list[Tensor]:
        """As its network has them: behind a leaky ReLU, which does nothing."""
        with torch.no_grad():
            return [F.leaky_relu(feature) for feature in ours.backbone.net(normalized)]

    network = _Frozen(features)

    def make(loader: Any) -> nn.Module:
        made: nn.Module = code.DSVDD(network, [{"img": each} for each in loader], "wrn50_2", 1, 1, "cpu")
        return made

    def initialize(reference: Any, loader: Any) -> None:
        reference._init_centroid(network, [{"img": each} for each in loader])

    return adaptation(ours, make, initialize, features, lambda found: (found, found), upstream, batch)


class _Frozen(nn.Module):
    """Features as a module, which ADer's memory asks for."""

    def __init__(self, features: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.features = features

    def forward(self, normalized: Tensor) -> list[Tensor]:
        return self.features(normalized)


def adaptation(
    ours: Any,
    make: Callable[[Any], Any],
    initialize: Callable[[Any, Any], None],
    features: Callable[[Tensor], list[Tensor]],
    unpacked: Callable[[Any], tuple[Tensor, Tensor]],
    upstream: str,
    batch: int,
) -> Pair:
    """Compares memory, loss, gradients, map and score.

    Args:
        ours: our method.
        make: the reference's, from batches of normalized images.
        initialize: fills the reference's memory, anew.
        features: what it takes, of normalized images.
        unpacked: loss and patch scores of what it gives.
        upstream: as ``commit`` gives it.
        batch: images.
    """
    train_BCHW, image_BCHW = torch.rand(batch, 3, SIZE, SIZE), torch.rand(batch, 3, SIZE, SIZE)
    normalize = ours.backbone.normalize
    ours.eval()
    memory, adapt = ours.stages(), None
    with patch.object(Tensor, "cuda", lambda self: self), torch.no_grad():
        reference = make([normalize(train_BCHW[:1])])
        reference.Descriptor.layer.conv.load_state_dict(ours.descriptor.state_dict())
        del reference.C
        reference.C = 0
        initialize(reference, [normalize(train_BCHW)])
        reference.C = nn.Parameter(reference.C[0].flatten(1), requires_grad=False)
        stage = next(memory)
        stage.update(Batch(image_BCHW=train_BCHW, seed_B=torch.arange(batch)))
        stage.finish()
        adapt = next(memory)
    conv = reference.Descriptor.layer.conv
    trained = [conv.weight, conv.bias, reference.r]
    # both reproduce upstream's groups: only ADer's leaves the bias and the radius out
    groups = [
        {"params": trained[:1], "weight_decay": ours.weight_decay},
        {"params": trained[1:], "weight_decay": ours.weight_decay if ours.decay_biases else 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=ours.lr, amsgrad=True)
    (mine,) = adapt.optimizers.values()

    def loss(normalized: Tensor) -> Tensor:
        with patch.object(Tensor, "cuda", lambda self: self):
            return unpacked(reference(features(normalized)))[0]

    def loss_ours(image_BCHW: Tensor) -> Tensor:
        found: list[Tensor] = []
        ours._step(Batch(image_BCHW=image_BCHW, seed_B=torch.arange(batch)), found.append)
        return found[0]

    def train() -> None:
        reference.train()
        theirs.zero_grad()
        loss(normalize(image_BCHW)).backward()  # type: ignore[no-untyped-call]
        theirs.step()

    def train_ours() -> None:
        mine.zero_grad()
        loss_ours(image_BCHW).backward()  # type: ignore[no-untyped-call]
        mine.step()

    @torch.no_grad()
    def test() -> Any:
        reference.eval()
        with patch.object(Tensor, "cuda", lambda self: self):
            patch_B1HW = unpacked(reference(features(normalize(image_BCHW))))[1]
        map_BHW = smoothed(F.interpolate(patch_B1HW, size=SIZE, mode="bilinear", align_corners=False)[:, 0])
        window = ours.score_window
        pooled = F.avg_pool2d(torch.from_numpy(np.asarray(map_BHW))[:, None], window, stride=1)
        return SimpleNamespace(map=map_BHW, score=pooled.amax(dim=(1, 2, 3)))

    @torch.no_grad()
    def test_ours() -> Any:
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        with torch.no_grad():
            pairs = zip(ours.backbone(image_BCHW), features(normalize(image_BCHW)), strict=True)
            yield largest("features", *zip(*pairs, strict=True))
        yield largest("memory", ours.memory, reference.C.T)
        expected, found = test(), test_ours()
        yield largest("map", found.map_BHW, expected.map)
        yield largest("image score", found.score_B, expected.score)
        for kind in (torch.float32, torch.float64):
            ours.to(kind)
            reference.to(kind).train()
            step, step_ref = loss_ours(image_BCHW.to(kind)), loss(normalize(image_BCHW.to(kind)))
            ours.zero_grad()
            reference.zero_grad()
            step.backward()  # type: ignore[no-untyped-call]
            step_ref.backward()  # type: ignore[no-untyped-call]
            name = str(kind).removeprefix("torch.")
            yield largest(f"loss ({name})", step, step_ref)
            yield gradients(f"gradients ({name})", [*ours.descriptor.parameters(), ours.radius], trained)
        ours.float()
        reference.float()

    return Pair(ours, upstream, differences, (train, train_ours), (test, test_ours), batch, batch)
