"""What surrounds an optimizer's step: learning rates, averaged and accumulated gradients, clipping, averaged weights,
compiled modules. Each is off by default and then costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ader.methods._base import TrainStage
from ader.system import dist
from ader.system.errors import UserError
from ader.training.gradients import GradientSum


class Optimization:
    """The ``optimize`` that a stage's ``step`` is given, and all that an update consists of.

    Steps of a stage, its epochs and its schedules count batches, whatever ``accumulate`` is. An optimizer steps at
    every N-th call that concerns it, with the mean of the N gradients (each the mean over its own batch) and the
    learning rate of the N-th; what is left over at the stage's end makes a last, smaller update. Gradients that an
    optimizer collects are kept apart from ``.grad``: a call for one network leaves nothing in another's sum.

    Several processes minimize the mean of their losses, each weighted by its share of the images. A process scales its
    loss and not its gradients: with batch norms that share their statistics, gradients cross processes in the midst of
    the backward pass and would otherwise come with the weight of the wrong one.

    Args:
        stage: whose optimizers.
        device: where the weights are.
        ema: decay of a moving average of every weight that is optimized, taken at each update of its optimizer and
            started from the weights at the stage's beginning; the stage ends with the averages in place of the
            weights. Buffers, such as the running statistics of batch norms, stay those of the last step. None: no
            average.
        accumulate: calls per update, times the stage's own ``accumulate``.

    Attributes:
        share: of the current step's images that this process has; read with several processes only.
    """

    def __init__(
        self, stage: TrainStage, device: torch.device, *, ema: float | None = None, accumulate: int = 1
    ) -> None:
        self.stage, self.device, self.ema = stage, device, ema
        self.accumulate = accumulate * stage.accumulate
        self.share = 1.0
        self.weights: dict[str, list[nn.Parameter]] = {
            name: [weight for group in optimizer.param_groups for weight in group["params"]]
            for name, optimizer in stage.optimizers.items()
        }
        self.gradients = GradientSum(self.weights)
        self.calls = dict.fromkeys(self.weights, 0)  # since the optimizer's last step
        self.sums: dict[str, list[Tensor | None]] = {}
        self.averages: dict[str, list[Tensor]] = {}
        if ema is not None:
            self.averages = {name: [each.detach().clone() for each in own] for name, own in self.weights.items()}

    def __call__(self, loss: Tensor, *names: str) -> None:
        """As ``ader.methods._base.Optimize`` says."""
        chosen = names or tuple(self.weights)
        for name in chosen:
            self.stage.optimizers[name].zero_grad(set_to_none=True)
        if dist.world() > 1:
            loss = loss * self.share
        with self.gradients.of(chosen), torch.autocast(self.device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        for name in chosen:
            self.calls[name] += 1
            if self.accumulate > 1:
                self._collect(name)
            if self.calls[name] == self.accumulate:
                self._update(name)
        torch.clear_autocast_cache()  # it holds weights in bf16, which a second update in one step would take as new

    def finish(self) -> None:
        """Ends the stage: updates with what is left over, and puts averaged weights in place."""
        for name, calls in self.calls.items():
            if calls:
                self._update(name)
        with torch.no_grad():
            for name, averages in self.averages.items():
                for weight, average in zip(self.weights[name], averages, strict=True):
                    weight.copy_(average)

    def _collect(self, name: str) -> None:
        """Adds an optimizer's gradients to those of its earlier calls."""
        new = [weight.grad for weight in self.weights[name]]
        old = self.sums.get(name) or [None] * len(new)
        self.sums[name] = [
            one if two is None else (two.clone() if one is None else one + two)
            for one, two in zip(old, new, strict=True)
        ]

    def _update(self, name: str) -> None:
        """One step of an optimizer, with the gradients of all its calls since the last."""
        weights, optimizer, calls = self.weights[name], self.stage.optimizers[name], self.calls[name]
        for weight, total in zip(weights, self.sums.pop(name, []), strict=False):
            weight.grad = None if total is None else total / calls
        if self.stage.clip is not None:
            nn.utils.clip_grad_norm_(weights, self.stage.clip)
        optimizer.step()
        self.calls[name] = 0
        if self.ema is not None:
            torch._foreach_lerp_(self.averages[name], [weight.detach() for weight in weights], 1 - self.ema)

    def set_rates(self, progress: float) -> None:
        """Sets learning rates: each group's initial one (kept in the optimizer's state) times its schedule's factor at
        this share of the stage, in [0, 1)."""
        for name, optimizer in self.stage.optimizers.items():
            schedule = self.stage.schedules.get(name)
            factor = 1.0 if schedule is None else schedule(progress)
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor

    def rates(self) -> dict[str, float]:
        """The learning rate of each optimizer's first group."""
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.stage.optimizers.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed stage needs of this, the same in every process."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.stage.optimizers.items()}
        return {"optimizers": optimizers, "calls": self.calls, "sums": self.sums, "averages": self.averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what ``state_dict`` returned."""
        for name, optimizer in self.stage.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.calls = dict(state["calls"])
        self.sums = {
            name: [None if total is None else total.to(self.device) for total in totals]
            for name, totals in state["sums"].items()
        }
        self.averages = {name: [each.to(self.device) for each in own] for name, own in state["averages"].items()}


def check_compile(device: torch.device) -> None:
    """Compiles a function of one line, as ``trainer.compile`` would compile networks.

    Raises:
        UserError: that cannot be had here.
    """
    try:
        torch.compile(lambda value: value + 1)(torch.zeros(2, device=device))
    except Exception as error:  # whatever a missing compiler raises
        need = "triton and a GPU that it knows" if device.type == "cuda" else "a C++ compiler"
        raise UserError(
            f"trainer.compile=true: torch {torch.__version__} cannot compile for {device} "
            f"({type(error).__name__}): install {need}, or leave trainer.compile=false"
        ) from error


@contextmanager
def compiled(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block calls of these modules go through ``torch.compile``; their weights and names stay as they are.

    Containers that are not called themselves (``nn.ModuleList``) have their members compiled. Outside, in prediction
    above all, everything is as it was.
    """
    called = [each for module in modules for each in callable_parts(module)]
    for module in called:
        module.compile()
    try:
        yield
    finally:
        for module in called:
            module._compiled_call_impl = None


def callable_parts(module: nn.Module) -> list[nn.Module]:
    """The module itself, or of a container the members that can be called."""
    if type(module).forward is not nn.Module.forward:
        return [module]
    return [part for child in module.children() for part in callable_parts(child)]
