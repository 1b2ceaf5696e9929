"""DeSTSeg beside ADer's reproduction (clone: ``ADer``; its augmentation is left out: both get the same images)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import Batch, TrainStage, build
from ader.nets.synthesis.synthetic import Synthetic
from ader.training.optimization import Optimization
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
    params=35.2,
    macs=30.7,
    why="the published multiply-accumulates hold a second pass of the teacher (1.8 G) and lack a convolution "
    "that fvcore does not see (9.7 G)",
)

#: Where the parts of our networks are in both references' ``DeSTSeg``.
PARTS = {
    **{f"student.decoder.{4 - layer}": f"student_net.decoder_layer{layer}" for layer in (1, 2, 3, 4)},
    "segmentation.blocks": "segmentation_net.res",
    "segmentation.head.0.pooled.1": "segmentation_net.head.0.aspp_feature_extractors.0.1.conv",
    "segmentation.head.0.pooled.2": "segmentation_net.head.0.aspp_feature_extractors.0.1.norm",
    **{
        f"segmentation.head.0.dilated.{branch}.{part}": (
            f"segmentation_net.head.0.aspp_feature_extractors.{branch + 1}.{name}"
        )
        for branch in range(3)
        for part, name in enumerate(("conv", "norm"))
    },
    "segmentation.head.0.fusion.0": "segmentation_net.head.0.aspp_fusion_layer.conv",
    "segmentation.head.0.fusion.1": "segmentation_net.head.0.aspp_fusion_layer.norm",
    "segmentation.head.1": "segmentation_net.head.1",
    "segmentation.head.2": "segmentation_net.head.2",
    "segmentation.head.4": "segmentation_net.head.4",
}
NOTE = (
    "training is one step of the student and four of the segmentation network, the recipe's proportion; ours makes "
    "its anomalies in these times, the reference in loader workers, which are left out"
)


@dataclass(frozen=True)
class Reference:
    """A reference as its trainer uses it.

    Attributes:
        net: the whole network.
        core: the part of it that is called ``DeSTSeg`` in both codes.
        losses: (spoiled image, clean image, mask (B, 1, H, W)) -> losses of the two phases, all that its trainer
            computes in every step; images are normalized.
        test: normalized images -> maps (B, H, W) and image scores.
        optimizers: of the two phases.
        clears: whether a step clears the gradients of both networks, or of the trained one only.
    """

    net: nn.Module
    core: Any
    losses: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    test: Callable[[Tensor], tuple[Any, Any]]
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    clip: float | None
    clears_both: bool

    def switch(self, phase: int) -> None:
        """Training and evaluation modes of a phase."""
        self.net.train()
        self.core.student_net.train(phase == 0)
        self.core.segmentation_net.train(phase == 1)

    def step(self, phase: int, images: Synthetic) -> Tensor:
        """One training step; returns its loss."""
        self.switch(phase)
        optimizer = self.optimizers[phase]
        for each in self.optimizers if self.clears_both else (optimizer,):
            each.zero_grad()
        loss = self.losses(images.image, images.clean, images.mask[:, None])[phase]
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, self.clip)
        optimizer.step()
        return loss


class Given(nn.Module):
    """Anomalies made before, in place of new ones."""

    def __init__(self, made: Synthetic) -> None:
        super().__init__()
        self.made = made

    def forward(self, image_BCHW: Tensor, seed_B: Tensor) -> Synthetic:
        """What was made."""
        return self.made


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's network with its two timm encoders, and its loss modules."""
    code = import_ader(upstreams / "ADer", "destseg")
    terms = importlib.import_module("loss.base_loss")
    ours: Any = build("destseg", backbone={"name": "resnet18", "pretrained": False})
    encoders = [timm.create_model("resnet18", features_only=True, out_indices=layers) for layers in LAYERS]
    net = code.DESTSEG(*encoders)
    l1, csum, focal = terms.L1Loss(), terms.CSUMLoss(), terms.FFocalLoss(gamma=4)

    def losses(spoiled: Tensor, clean: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        segmented, _, distances, small = net(spoiled, clean, mask)
        return csum(distances), l1(segmented, small) + focal(segmented, small)

    def test(normalized: Tensor) -> tuple[Any, Any]:
        segmented = net(normalized)[0]
        map_BHW = F.interpolate(segmented, size=SIZE, mode="bilinear", align_corners=False)[:, 0].cpu().numpy()
        torch.sort(segmented.flatten(1), dim=1, descending=True)[0][:, :100].mean(dim=1).cpu().numpy()  # not reported
        return map_BHW, map_BHW.max(axis=(1, 2))

    student = list(net.destseg.student_net.parameters())
    groups = [
        {"params": [weight for weight in student if weight.ndim == 1], "weight_decay": 0.0},
        {"params": [weight for weight in student if weight.ndim > 1], "weight_decay": 1e-4},
    ]
    optimizers = (torch.optim.SGD(groups, lr=0.4, momentum=0.9), segmentation_optimizer(net.destseg))
    reference = Reference(net, net.destseg, losses, test, optimizers, clip=5.0, clears_both=False)
    renamed = {
        "teacher.net": "net_t",
        "student.encoder": "net_s",
        **{mine: f"destseg.{other}" for mine, other in PARTS.items()},
    }
    return two_phases(ours, reference, renamed, commit("zhangzjn/ADer", upstreams / "ADer"), batch)


LAYERS = ((1, 2, 3), (1, 2, 3, 4))


def segmentation_optimizer(core: Any) -> torch.optim.SGD:
    """Both codes' SGD for the second phase, written again."""
    parts = core.segmentation_net
    groups = [{"params": parts.res.parameters(), "lr": 0.1}, {"params": parts.head.parameters(), "lr": 0.01}]
    return torch.optim.SGD(groups, lr=0.001, momentum=0.9, weight_decay=1e-4)


def two_phases(ours: Any, reference: Reference, renamed: Mapping[str, str], upstream: str, batch: int) -> Pair:
    """Compares the networks, and loss, gradients and updated weights of both phases."""
    spread_norms(ours)
    copy_weights(ours, reference.net, renamed)
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    made = ours.anomalies(image_BCHW, torch.arange(batch))
    trained = {"student": "student.", "segmentation": "segmentation."}

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        reference.net.eval()
        return reference.test(ours.teacher.normalize(image_BCHW))

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        yield from _features(ours, reference.core, image_BCHW)
        map_ref, score_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("variation of the map", map_BHW - map_BHW.mean(), map_ref - map_ref.mean())
        yield largest("image score", score_B, score_ref)
        before = {name: value.clone() for name, value in ours.state_dict().items()}
        for kind in (torch.float32, torch.float64):
            for phase, (name, prefix) in enumerate(trained.items()):
                ours.float().load_state_dict(before)
                reference.net.float()
                copy_weights(ours, reference.net, renamed)
                ours.to(kind)
                reference.net.to(kind)
                parts = {mine: other for mine, other in renamed.items() if mine.startswith(prefix)}
                weights = paired_parameters(ours, reference.net, parts)
                yield from _phase(ours, reference, phase, _converted(made, kind), weights, f"{name}, {str(kind)[6:]}")
        ours.float().load_state_dict(before)
        reference.net.float()
        copy_weights(ours, reference.net, renamed)
        for optimizer in reference.optimizers:
            optimizer.state.clear()  # its momentum is of another type

    images = made._replace(image=ours.teacher.normalize(made.image), clean=ours.teacher.normalize(made.clean))
    phases = (0, 1, 1, 1, 1)
    steps = [training_step(ours, image_BCHW, stage) for stage in (0, 1)]

    def train_ours() -> None:
        for phase in phases:
            ours.eval()
            (ours.student, ours.segmentation)[phase].train()
            steps[phase]()

    def train() -> None:
        for phase in phases:
            float(reference.step(phase, images).detach())  # both trainers read the loss in every step

    runs = (train, train_ours)
    return Pair(ours, upstream, differences, runs, (test, test_ours), len(phases) * batch, batch, NOTE)


def spread_norms(net: nn.Module) -> None:
    """Norms as after some training: at their start many branches of a ResNet are multiplied by zero."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)


@torch.no_grad()
def _features(ours: Any, core: Any, image_BCHW: Tensor) -> Iterator[Difference]:
    ours.eval()
    core.eval()
    normalized_BCHW = ours.teacher.normalize(image_BCHW)
    yield largest("teacher features", ours.teacher(image_BCHW), list(core.teacher_net(normalized_BCHW)))
    yield largest("student features", ours.student(normalized_BCHW), list(core.student_net(normalized_BCHW)))


def _phase(
    ours: Any,
    reference: Reference,
    phase: int,
    made: Synthetic,
    weights: tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]],
    what: str,
) -> Iterator[Difference]:
    """One step of both on the same spoiled images: the method's own step with its own optimizer and clipping."""
    stage = _stage(ours, phase)
    ours.eval()
    for module in stage.modules:
        module.train()
    anomalies, ours.anomalies = ours.anomalies, Given(made)
    batch = Batch(image_BCHW=made.clean, seed_B=torch.arange(len(made.clean)))
    losses = stage.step(batch, Optimization(stage, made.clean.device))
    ours.anomalies = anomalies
    normalize = ours.teacher.normalize
    reference.optimizers[phase].state.clear()
    loss = reference.step(phase, made._replace(image=normalize(made.image), clean=normalize(made.clean)))
    yield largest(f"loss ({what})", torch.stack(list(losses.values())).sum(), loss)
    yield gradients(f"gradients ({what})", *weights)
    yield largest(f"weights after a step ({what})", *(list(side) for side in weights))


def _stage(ours: Any, number: int) -> TrainStage:
    stages = ours.stages()
    for _ in range(number):
        next(stages)
    stage: TrainStage = next(stages)
    return stage


def _converted(made: Synthetic, kind: torch.dtype) -> Synthetic:
    return Synthetic(*(part.to(kind) for part in made))
