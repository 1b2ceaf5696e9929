"""RealNet beside ADer's reproduction (clone: ``ADer``; needs tqdm).

With a quarter of the channels, or less: both at the full size, with gradients in float64, would need 17 GB.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import build
from ader.methods._base import Batch
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
from parity.draem import _import_losses, without_cuda

PUBLISHED = Published(params=591.0, macs=115.0)

#: Channels that are kept of the four layers, and that are selected by maximum and by mean.
PLANES, TOP = (64, 128, 128, 64), 64

#: Gradients are compared on smaller images.
SMALL = 128

#: Batches that channels are selected by.
BATCHES = 2

STRUCTURE: list[dict[str, Any]] = [
    {"name": f"block{k}", "layers": [{"idx": f"layer{k}", "planes": planes}], "stride": 2 ** (k + 1)}
    for k, planes in enumerate(PLANES, 1)
]
UNETS = {"num_res_blocks": 2, "hide_channels_ratio": 0.5, "channel_mult": [1, 2, 4], "attention_mult": [2, 4]}
SEGMENTATION = {
    "modes": ["max", "mean"],
    "mode_numbers": [TOP, TOP],
    "num_residual_layers": 2,
    "stop_grad": False,
}

NOTE = (
    "both with 64, 128, 128 and 64 channels of the four layers and 2 x 64 residuals; counts are those of the full size"
)


@dataclass(frozen=True)
class Reference:
    """A reference as its trainer uses it.

    Attributes:
        net: the whole network.
        prefix: of the names of its parts.
        run: (anomalous image, clean image or None) -> logits, restored features, clean features; images normalized.
        loss: (logits, mask (B, 1, H, W), restored, clean) -> loss.
        select: lets it select channels, by batches.
    """

    net: Any
    prefix: str
    run: Callable[[Tensor, Tensor | None], tuple[Tensor, list[Tensor], list[Tensor]]]
    loss: Callable[[Tensor, Tensor, list[Tensor], list[Tensor]], Tensor]
    select: Callable[[Any], None]


class Batches(list[Any]):
    """What a loader is for the selection."""

    dataset = SimpleNamespace(anomaly_types={"normal": 0.5, "sdas": 0.5})


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's networks, selection and losses."""
    clone = upstreams / "ADer"
    with patch.dict(sys.modules, {"data": MagicMock()}):
        code = import_ader(clone, "realnet")
    with without_cuda():
        terms = _import_losses(clone)
    with patch.object(torch, "load", lambda path: {}):
        net = code.RealNet(
            SimpleNamespace(kwargs={"checkpoint_path": ""}),
            SimpleNamespace(structure=STRUCTURE, init_bsn=BATCHES),
            SimpleNamespace(kwargs=UNETS),
            SimpleNamespace(kwargs=SEGMENTATION),
            None,
        )
    code.tqdm = lambda values, **options: values
    squared, entropy = terms.L2Loss(lam=1.0), terms.SegmentCELoss(weight=1.0)

    def run(spoiled: Tensor, clean: Tensor | None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        with redirect_stdout(None):  # it says "testing" each time
            logit, _, restored, truth = net(spoiled, clean)
        return logit, restored, truth

    def loss(logit: Tensor, mask: Tensor, restored: list[Tensor], clean: list[Tensor]) -> Tensor:
        total: Tensor = squared(restored, clean) + entropy(mask, logit)
        return total

    def select(batches: Any) -> None:
        named = Batches([{"img": one, "gt_image": two, "img_mask": mask} for one, two, mask in batches])
        with without_cuda(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a deprecated argument
            net.net_afs.init_idxs(net, named, distributed=False)

    reference = Reference(net, "net_", run, loss, select)
    return compared(reference, commit("zhangzjn/ADer", clone), batch)


def compared(reference: Reference, upstream: str, batch: int) -> Pair:
    """Both references differ in how they are called."""
    backbone = {"name": "wide_resnet50_2", "pretrained": False}
    ours: Any = build("realnet", planes=PLANES, top_max=TOP, top_mean=TOP, batch_size=batch, backbone=backbone)
    for weight in ours.parameters():
        if weight.requires_grad and not weight.any():
            nn.init.normal_(weight, std=0.05)
    with torch.no_grad():  # at torch's initial weights the map is nearly even
        for part in ours.segmentation.modules():
            if isinstance(part, nn.Conv2d):
                part.weight *= 1.7
    renamed = names(ours, reference)
    copy_weights(ours, reference.net, {**renamed, "backbone.net": f"{reference.prefix}backbone.feature_extractor"})
    normalize, image_BCHW = ours.backbone.normalize, torch.rand(batch, 3, SIZE, SIZE)
    selected = iter(selection(ours, reference, batch))
    next(selected)

    @torch.no_grad()
    def test() -> Any:
        reference.net.eval()
        map_BHW = reference.run(normalize(image_BCHW), None)[0].softmax(dim=1)[:, 1]
        window = ours.score_window
        pooled = F.avg_pool2d(torch.from_numpy(map_BHW.numpy())[:, None], window, stride=1)
        return SimpleNamespace(map=map_BHW, score=pooled.amax(dim=(1, 2, 3)))

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        yield from selected
        yield from training(ours, reference, renamed, example(batch, torch.float32))
        expected, found = test(), test_ours()  # ranked by the statistics of that step
        yield largest("map", found.map_BHW, expected.map)
        yield largest("image score", found.score_B, expected.score)
        yield from training(ours.double(), reference, renamed, example(batch, torch.float64))
        ours.float()
        reference.net.float()

    timed = step(ours, reference, image_BCHW), training_step(ours, image_BCHW, stage=1)
    with torch.device("meta"):
        full = build("realnet", backbone=backbone)
    return Pair(ours, upstream, differences, timed, (test, test_ours), batch, batch, NOTE, full)


def names(ours: Any, reference: Reference) -> dict[str, str]:
    """Layers with weights or statistics, by their names, in the order in which either code has them."""
    parts = {f"unets.{number}": f"{reference.prefix}recon.block{number + 1}_recon" for number in range(4)}
    parts["segmentation"] = f"{reference.prefix}rrs"
    return {
        f"{mine}.{one}": f"{theirs}.{other}"
        for mine, theirs in parts.items()
        for one, other in zip(
            leaves(ours.get_submodule(mine)), leaves(reference.net.get_submodule(theirs)), strict=True
        )
    }


def leaves(module: nn.Module) -> list[str]:
    """Names of layers with weights or statistics."""
    return [name for name, part in module.named_modules() if not [*part.children()] and part.state_dict()]


@torch.no_grad()
def selection(ours: Any, reference: Reference, batch: int) -> Iterator[Any]:
    """Selects channels on both sides, and then compares them."""
    batches = []
    for number in range(BATCHES):
        generator = torch.Generator().manual_seed(number)
        image_BCHW = torch.rand(batch, 3, SIZE, SIZE, generator=generator)
        batches.append(Batch(image_BCHW=image_BCHW, seed_B=torch.arange(batch) + number * batch))
    spoiled = [ours._spoiled(each, probability=1.0) for each in batches]
    normalize = ours.backbone.normalize
    reference.select([(normalize(each.image), normalize(each.clean), each.mask[:, None]) for each in spoiled])
    stage = next(ours.stages())
    for each in batches:
        stage.update(each)
    stage.finish()
    yield None
    chosen = [getattr(ours.selection, f"index_{number}") for number in ours.selection.numbers]
    indexes = reference.net.get_submodule(f"{reference.prefix}afs").indexes
    theirs = [indexes[f"block{number + 1}_layer{number + 1}"].data for number in ours.selection.numbers]
    yield largest("selected channels", chosen, theirs)
    ours.eval()
    reference.net.eval()
    _, restored_ref, _ = reference.run(normalize(spoiled[0].image), None)
    feature = ours.selection(ours.backbone(spoiled[0].image))
    yield largest(
        "restored features", [unet(each) for unet, each in zip(ours.unets, feature, strict=True)], restored_ref
    )


def example(batch: int, kind: torch.dtype) -> Synthetic:
    """Images with a rectangle of other ones in the first half of them."""
    generator = torch.Generator().manual_seed(1)
    clean_BCHW, other_BCHW = torch.rand(2, batch, 3, SMALL, SMALL, generator=generator).to(kind).unbind()
    mask_BHW = torch.zeros(batch, SMALL, SMALL, dtype=kind)
    mask_BHW[: batch // 2, 20:60, 10:120] = 1
    return Synthetic(torch.where(mask_BHW[:, None] > 0, other_BCHW, clean_BCHW), clean_BCHW, mask_BHW)


def training(ours: Any, reference: Reference, renamed: dict[str, str], spoiled: Synthetic) -> Iterator[Difference]:
    """Loss and gradients of one step."""
    name = str(spoiled.mask.dtype).removeprefix("torch.")
    net, normalize = reference.net.to(spoiled.mask.dtype), ours.backbone.normalize
    for part in (ours, net):
        part.train()
        part.zero_grad()
    loss = torch.stack(list(ours.losses(spoiled).values())).sum()
    with patch.object(Tensor, "float", lambda tensor: tensor):  # norms and attention cast to float32, float64 too
        logit, restored, clean = reference.run(normalize(spoiled.image), normalize(spoiled.clean))
    loss_ref = reference.loss(logit, spoiled.mask[:, None], restored, clean)
    loss.backward()  # type: ignore[no-untyped-call]
    loss_ref.backward()  # type: ignore[no-untyped-call]
    yield largest(f"loss ({name})", loss, loss_ref)
    yield gradients(f"gradients ({name})", *paired_parameters(ours, net, renamed))


def step(ours: Any, reference: Reference, image_BCHW: Tensor) -> Run:
    """The reference's training step on ready images."""
    weights = [weight for weight in reference.net.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=ours.lr, betas=ours.betas)
    mask_B1HW = torch.zeros_like(image_BCHW[:, :1])
    mask_B1HW[: len(mask_B1HW) // 2, :, 64:128, 64:128] = 1

    def train() -> None:
        reference.net.train()
        input_BCHW = ours.backbone.normalize(image_BCHW)
        logit, restored, clean = reference.run(input_BCHW, input_BCHW)
        optimizer.zero_grad()
        reference.loss(logit, mask_B1HW, restored, clean).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return train
