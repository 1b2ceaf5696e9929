"""What a method's training and evaluation give when several processes share them."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ader.methods._base import Batch, FitPass, Method, Stage, TrainStage
from ader.system import dist
from ader.system.errors import UserError
from ader.testing.processes import Meeting
from ader.testing.subject import CPU, Subject, Watched, images, predict, snapshot
from ader.training.cost import RandomImages
from ader.training.order import BatchOrder, shard
from ader.training.trainer import Trainer

#: Images of a step: neither 2 nor 3 processes have equally many.
IMAGES = 5

#: Pixels; many methods take images of this side.
SMALL = 32

#: Which processes work together, and after that, on their own, which others.
GROUPS = ((0, 1, 2), (0, 1), (2,))


def prepared(
    subject: Subject, sync_batchnorm: bool = True, smaller: bool = True
) -> tuple[Subject, Method, Method, bool]:
    """What ``in_all_worlds`` gets, made once for all processes.

    Args:
        subject: the method; nothing but its class, arguments and size is looked at.
        sync_batchnorm: as ``Trainer.sync_batchnorm``.
        smaller: whether images are smaller if the method takes them: in float64 they cost.
    """
    found = _shrunk(subject) if smaller else None
    subject, method = found or (subject, subject.make())
    first = method.double()
    return subject, first, copy.deepcopy(first), sync_batchnorm


def _shrunk(subject: Subject) -> tuple[Subject, Method] | None:
    """The same with smaller images, and a method made of it; None where that does not take them."""
    small = Subject(subject.method_class, subject.arguments, min(subject.size, SMALL))
    try:
        with torch.no_grad():
            method = small.make().eval()
            method(images(1, small.size))
    except (UserError, RuntimeError):
        return None
    return small, method


def in_all_worlds(subject: Subject, first: Method, second: Method, sync_batchnorm: bool) -> dict[str, Any]:
    """In each of three processes: the same in three, in two of them and in one, from the same weights.

    Args:
        subject: the method.
        first: one in float64.
        second: a copy of it.
        sync_batchnorm: as ``Trainer.sync_batchnorm``.

    Returns:
        By the number of processes, as text, what ``divided`` does; ``"one image"``: digests of a method that was fitted
        by three processes to a single image, where it has passes.
    """
    found: dict[str, Any] = {}
    for members in GROUPS:
        if Meeting.current.form(*members):
            method, data = first if members == GROUPS[0] else second, SomeImages(subject, IMAGES)
            found[str(len(members))] = divided(method, data, subject.size, sync_batchnorm)
            if members == GROUPS[0] and data.passes():
                found["one image"] = with_one_image(method, subject)
    return found


def divided(method: Method, data: SomeImages, size: int, sync_batchnorm: bool) -> dict[str, Any]:
    """A step of each training stage without its update, all passes, and a prediction, shared by the processes.

    As the weights stay, all later stages and the evaluation are of the same ones. Gradients are not clipped, and
    dropout, which belongs to a process and not to an image, is off.

    Returns:
        ``gradients`` of each optimizer's first update, thinned, by stage, optimizer and parameter; ``state``: what is
        no parameter, by name; ``prediction``: of three images, each predicted by one process; ``digests`` of
        everything, which are to be the same in all processes; ``draws``: stages that draw from the process's own
        stream; ``norms``: how many batch norms train.
    """
    without_dropout(method)
    gradients, draws = hold_updates(method), set()
    stream: Tensor = torch.empty(0)

    def tell(event: str, stage: Stage, number: int) -> None:
        nonlocal stream
        if event == "step" and isinstance(stage, TrainStage) and not stream.equal(torch.get_rng_state()):
            draws.add(stage.name)
        stream = torch.get_rng_state()

    trainer = Trainer(device=CPU, max_steps=1, sync_batchnorm=sync_batchnorm)
    trainer.fit(method, Watched(data, tell))
    weights = {name: thinned(value) for name, value in method.named_parameters()}
    named = {**dict(method.named_buffers()), **method.state_dict()}
    # copies: what is done next with the method writes into its buffers
    state = {n: value.detach().clone() for n, value in named.items() if n not in weights and isinstance(value, Tensor)}
    image_BCHW = images(3, size).double()[list(shard(3, dist.rank(), dist.world()))]
    score_B, map_BHW = predict(method, image_BCHW)
    return {
        "gradients": gradients,
        "state": state,
        "prediction": [dist.gather_rows(score_B), None if map_BHW is None else dist.gather_rows(map_BHW)],
        "digests": digests({**state, **weights, **gradients}),
        "draws": sorted(draws),
        "norms": len(data.norms()),
    }


def with_one_image(method: Method, subject: Subject) -> dict[str, str]:
    """Passes of which all processes but one have no image, and a prediction; digests of what they leave.

    Args:
        method: that ``divided`` had, whose updates are held.
        subject: what it was made of.
    """
    stages = method.stages
    method.stages = lambda: (stage for stage in stages() if isinstance(stage, FitPass))  # type: ignore[method-assign]
    Trainer(device=CPU).fit(method, SomeImages(subject, 1))
    predict(method, images(1, subject.size).double())
    return digests(snapshot(method))


class SomeImages(RandomImages):
    """Every epoch and every pass has one batch of ``count`` images, whatever a stage's own batch size."""

    def __init__(self, subject: Subject, count: int) -> None:
        super().__init__(subject.size, 1, CPU, subject.method_class.tags)
        self.count = count

    def order(self, stage: Stage) -> BatchOrder:
        super().order(stage)
        return BatchOrder(self.count, self.count, 0, "sequential")

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        for batch in super().train(stage, start, stop):
            yield replace(batch, image_BCHW=batch.image_BCHW.double())

    def passes(self) -> bool:
        """Whether one of the stages was one."""
        return any(isinstance(stage, FitPass) for stage in self.stages.values())

    def norms(self) -> list[nn.Module]:
        """Batch norms of the modules that trained."""
        modules = [
            module for stage in self.stages.values() if isinstance(stage, TrainStage) for module in stage.modules
        ]
        return [part for module in modules for part in module.modules() if isinstance(part, _BatchNorm)]


def hold_updates(method: Method) -> dict[str, Tensor]:
    """From now on optimizers change nothing. The gradients of their first updates, not clipped and thinned, come into
    the result, by stage, optimizer and parameter."""
    first: dict[str, Tensor] = {}
    names = {id(weight): name for name, weight in method.named_parameters()}
    stages = method.stages

    def hold(label: str, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if not any(key.startswith(f"{label}/") for key in first):
            first.update({f"{label}/{names[id(w)]}": thinned(w.grad) for w in weights if w.grad is not None})
        for weight in weights:
            weight.grad = None  # an optimizer passes over what has no gradient

    def held() -> Iterator[Stage]:
        for stage in stages():
            if not isinstance(stage, TrainStage):
                yield stage
                continue
            for name, optimizer in stage.optimizers.items():
                optimizer.register_step_pre_hook(partial(hold, f"{stage.name}/{name}"))
            yield replace(stage, clip=None)

    method.stages = held  # type: ignore[method-assign]
    return first


def thinned(value: Tensor) -> Tensor:
    """Up to a thousand of the values, evenly spaced: what is wrong with gradients is wrong with most, and to send tens
    of millions of them costs more than to compute them."""
    return value.detach().reshape(-1)[:: 1 + value.numel() // 1000].clone()


def without_dropout(method: nn.Module) -> None:
    """Sets the rates to 0: those of torch's and timm's modules, and of attentions, which keep theirs as ``dropout``."""
    for part in method.modules():
        for name in ("p", "dropout", "drop_prob"):
            if isinstance(vars(part).get(name), float):
                setattr(part, name, 0.0)


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each."""
    flat = {name: value.contiguous().reshape(-1).view(torch.uint8) for name, value in tensors.items()}
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in flat.items()}


def largest_difference(these: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> tuple[float, str]:
    """Of two sets of tensors, relative to the largest value of each, and where it is.

    A tensor whose values are all below a thousandth of the largest of all counts as if it had that: gradients of what
    has no effect, such as a bias before a batch norm, are nothing but rounding. Bytes (of a forest) are left out.
    """
    others = {name: other.double() for name, other in others.items() if other.numel() and other.dtype != torch.uint8}
    floor = 1e-3 * max((float(value.abs().max()) for value in others.values()), default=0.0)
    shares = {}
    for name, other in others.items():
        scale = max(float(other.abs().max()), floor, torch.finfo(torch.float).tiny)
        one = these[name]
        alike = one.shape == other.shape
        shares[name] = float((one.double() - other).abs().max()) / scale if alike else math.inf
    worst = max(shares, key=lambda name: shares[name], default="")
    return shares.get(worst, 0.0), worst
