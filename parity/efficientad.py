"""EfficientAD beside nelson1425's reimplementation (clone: ``EfficientAD``); the authors published no code.

Its functions run as they are: networks, statistics of the teacher, quantiles, maps, features for the distillation. The
training step, which it has inside its main function, is written again here.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from ader.methods import build
from ader.methods._base import Batch, FitPass
from ader.methods._distillation import TargetFeatures
from ader.methods.efficientad import jittered
from ader.nets.backbone import BackboneOptions
from parity import SIZE, Difference, Pair, commit, gradients, largest, training_step

NOTE = (
    "the reference trains and tests image by image, here ours trains so, too; its step has two passes of whole "
    "students, ours one; no penalty in the timed steps"
)


def pair(upstreams: Path, batch: int, option: str = "efficientad", small: bool = True) -> Pair:
    """Its networks with our weights, statistics and quantiles of both from the same images."""
    clone = upstreams / "EfficientAD"
    upstream = commit("nelson1425/EfficientAD", clone)
    sys.path.insert(0, str(clone))
    sys.modules.setdefault("tifffile", types.ModuleType("tifffile"))  # it writes maps with it, which is not done here
    common: Any = importlib.import_module("common")
    code: Any = importlib.import_module("efficientad")
    code.on_gpu = False
    make = common.get_pdn_small if small else common.get_pdn_medium
    ours: Any = build(option, border="zeros", teacher={"pretrained": False})
    with torch.no_grad():
        for bias in (weight for weight in ours.parameters() if weight.ndim == 1):
            bias.add_(0.05 * torch.randn_like(bias))
    theirs = [make(384), make(768), common.get_autoencoder(384)]
    own = [ours.teacher.net, ours.student, ours.autoencoder]
    for mine, other in zip(own, theirs, strict=True):  # the same layers in the same order
        values = list(mine.state_dict().values())
        other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE) * torch.rand(batch, 3, 1, 1)
    image_BCHW = F.interpolate(image_BCHW[:, :, ::8, ::8], size=(SIZE, SIZE), mode="bilinear")
    return _pair(ours, own, theirs, code, upstream, image_BCHW)


def _pair(ours: Any, own: list[Any], theirs: list[Any], code: Any, upstream: str, image_BCHW: Tensor) -> Pair:
    teacher, student, autoencoder = theirs
    batch, seeds = len(image_BCHW), torch.arange(len(image_BCHW))
    normalized = ours.teacher.normalized(image_BCHW)
    loader = [(each[None], None) for each in normalized]  # images, and what it calls the augmented ones
    mean, std = code.teacher_normalization(teacher, loader)
    for stage in ours.stages():
        if isinstance(stage, FitPass) and stage.name == "statistics":
            with torch.no_grad():
                stage.update(Batch(image_BCHW=image_BCHW, seed_B=seeds))
                stage.finish()
            break
    weights = [weight for net in (student, autoencoder) for weight in net.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-4, weight_decay=1e-5)
    photo = (image_BCHW.flip(0).flip(3) * 255).to(torch.uint8)

    def losses(image: Tensor, other: Tensor, penalty: Tensor | None) -> Tensor:
        """What its main function has after the images are loaded."""
        with torch.no_grad():
            taught, taught_other = ((teacher(each) - mean) / std for each in (image, other))
        distance = (taught - student(image)[:, :384]) ** 2
        # as it is there for its single image; of a batch in float64: float32 puts the quantile's place one value off
        values = distance if len(image) == 1 else distance.double()
        loss = distance[distance >= torch.quantile(values, q=0.999)].mean()
        if penalty is not None:
            loss = loss + (student(penalty)[:, :384] ** 2).mean()
        restored = autoencoder(other)
        loss = loss + ((taught_other - restored) ** 2).mean()
        total: Tensor = loss + ((restored - student(other)[:, 384:]) ** 2).mean()
        return total

    def train() -> None:
        student.train()
        autoencoder.train()
        other = ours.teacher.normalized(jittered(image_BCHW, seeds, 0.2))
        for place in range(batch):  # its batches are of one image
            optimizer.zero_grad()
            losses(normalized[place : place + 1], other[place : place + 1], None).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def quantiles() -> Any:
        return code.map_normalization(loader, teacher, student, autoencoder, mean, std)

    @torch.no_grad()
    def test(found: Any = None) -> tuple[Tensor, Tensor]:
        found = found or [torch.tensor(0.0), torch.tensor(1.0)] * 2
        student.eval()
        autoencoder.eval()
        maps = []
        for image in normalized:
            map_11HW, _, _ = code.predict(image[None], teacher, student, autoencoder, mean, std, *found)
            padded = F.pad(map_11HW, (4, 4, 4, 4))
            maps.append(F.interpolate(padded, (SIZE, SIZE), mode="bilinear")[0, 0])
        return torch.stack(maps), torch.stack([each.max() for each in maps])

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        student.eval()
        autoencoder.eval()
        yield largest("teacher mean", ours.feature_mean, mean.flatten())
        yield largest("teacher deviation", ours.feature_std, std.flatten())
        with torch.no_grad():
            yield largest("teacher features", own[0](normalized), teacher(normalized))
            yield largest("student features", torch.cat(own[1](normalized), dim=1), student(normalized))
            yield largest("autoencoder features", own[2](normalized), autoencoder(normalized))
            for stage in list(ours.stages())[-2:]:
                stage.update(Batch(image_BCHW=image_BCHW, seed_B=seeds))
                stage.finish()
        found = quantiles()
        yield largest("quantiles", ours.quantiles.value_MQ.flatten(), torch.stack(found))
        score_B, map_BHW = test_ours()
        map_ref, score_ref = test(found)
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)
        yield from _of_loss()
        yield _of_targets(image_BCHW)

    def _of_loss() -> Iterator[Difference]:
        """Of all images as one batch, dropout off, with the penalty."""
        ours.penalty = True
        other = ours.teacher.normalized(jittered(image_BCHW, seeds, 0.2))
        given = Batch(image_BCHW=image_BCHW, seed_B=seeds, extra={"photo": photo})
        found: list[Tensor] = []
        ours.zero_grad()
        ours._step(given, found.append)
        found[0].backward()  # type: ignore[no-untyped-call]
        for net in theirs:
            net.zero_grad()
        reference = losses(normalized, other, ours.teacher.normalized(photo.float() / 255))
        reference.backward()  # type: ignore[no-untyped-call]
        yield largest("loss", found[0], reference)
        mine = [weight for net in own[1:] for weight in net.parameters()]
        yield gradients("gradients", mine, weights)
        ours.penalty = False

    return Pair(
        ours, upstream, differences, (train, _step_ours(ours, image_BCHW)), (test, test_ours), batch, batch, NOTE
    )


def _step_ours(ours: Any, image_BCHW: Tensor) -> Any:
    """As many steps of one image as the reference makes."""
    run = training_step(ours, image_BCHW[:1], stage=1)
    return lambda: [run() for _ in image_BCHW]


@torch.no_grad()
def _of_targets(image_BCHW: Tensor) -> Difference:
    """What a teacher learns, of a network at random weights, 512 x 512 pixels."""
    code = importlib.import_module("pretraining")
    ours = TargetFeatures(BackboneOptions("wide_resnet101_2", pretrained=False), 384)
    net = torchvision.models.wide_resnet101_2(weights=None)
    state = ours.backbone.net.state_dict()
    net.load_state_dict({**net.state_dict(), **state})
    net.eval()
    extractor = code.FeatureExtractor(net, ["layer2", "layer3"], "cpu", (3, 2 * SIZE, 2 * SIZE))
    large_1CHW = F.interpolate(image_BCHW[:1], size=(2 * SIZE, 2 * SIZE), mode="bilinear")
    return largest("targets of distillation", ours(large_1CHW), extractor.embed(ours.backbone.normalize(large_1CHW)))
