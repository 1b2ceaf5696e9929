"""Walks a method's stages: precision, schedules, clipping, logging, checkpoints, resuming."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ader.methods._base import Batch, FitPass, Method, Stage, TrainStage
from ader.nets.optim.schedules import Schedule
from ader.system import dist
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.files import write_atomic
from ader.system.interrupt import Interrupt
from ader.system.precision import Precision, autocast, set_precision
from ader.system.randomness import derive_seed, random_states, restore_random, seed_all
from ader.training.loader import BatchOrder, pass_batches
from ader.training.losses import LossMeter


class TrainingData(Protocol):
    """What the trainer needs of a loader (``ader.training.loader.Loader`` is one)."""

    def order(self, stage: Stage) -> BatchOrder: ...

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]: ...


@dataclass
class TrainState:
    """Where a training stands; with the method's and the optimizers' state it is a checkpoint.

    Attributes:
        stage, step: the next step to make.
        steps_before: of all earlier descents; with ``step`` the horizontal axis of the training curves.
        finished: nothing is left to do.
        seconds, images: per stage; images over all processes.
    """

    stage: int = 0
    step: int = 0
    steps_before: int = 0
    finished: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)


@dataclass
class Trainer:
    """Trains a method on a loader's data.

    Attributes:
        device: where the method lives.
        seed: of the run; decides initial random states.
        precision: ``fp32``, ``tf32`` (matrix products and convolutions on tensor cores) or ``bf16`` (autocast).
        max_steps: cap on the steps of each descent; schedules then run over the capped length.
        checkpoint: file to write and to resume from; None keeps nothing.
        checkpoint_seconds: time between two checkpoints.
        console: for progress.
        scalar: called with (tag, value, step) for TensorBoard.
        interrupt: where signals are noted.
    """

    device: torch.device
    seed: int = 0
    precision: Precision = "fp32"
    max_steps: int | None = None
    checkpoint: Path | None = None
    checkpoint_seconds: float = 300.0
    console: Console = field(default_factory=lambda: Console(quiet=True))
    scalar: Callable[[str, float, int], None] = lambda tag, value, step: None
    interrupt: Interrupt = field(default_factory=Interrupt)

    def fit(self, method: Method, data: TrainingData) -> TrainState:
        """Walks all stages, or what a checkpoint leaves to do; the method ends in evaluation mode.

        Raises:
            Stopped: a loss was not finite, or a signal came.
            UserError: the checkpoint cannot be used.
        """
        set_precision(self.precision)
        method.to(self.device)
        saved = self._load()
        progress = TrainState(**saved["progress"]) if saved else TrainState()
        if saved:
            method.load_state_dict(saved["method"])
        if not progress.finished:
            with self.interrupt.patiently():
                self._walk(method, data, progress, saved)
                progress.finished = True
                self._save(method, progress)
            self.interrupt.activity = "after training"
            self.interrupt.check()
        method.eval()
        return progress

    def restore(self, method: Method) -> None:
        """Puts a finished training's weights into the method, which ends in evaluation mode.

        Raises:
            UserError: there is no checkpoint, or it cannot be used.
        """
        set_precision(self.precision)
        method.to(self.device)
        saved = self._load()
        if saved is None or not saved["progress"]["finished"]:
            raise UserError(f"{self.checkpoint} is not of a finished training: finish the run first")
        method.load_state_dict(saved["method"])
        method.eval()

    def _walk(self, method: Method, data: TrainingData, progress: TrainState, saved: dict[str, Any] | None) -> None:
        """Runs the stages from ``progress`` on.

        Random streams are seeded before the code between two stages and again before each stage, so that what a
        stage draws does not depend on whether the run was interrupted in an earlier one.
        """
        names: set[str] = set()
        stages = method.stages()
        for number in itertools.count():
            seed_all(derive_seed(self.seed, "between stages", number))
            stage = next(stages, None)
            if stage is None:
                return
            if stage.name in names:
                raise ValueError(f"{type(method).__name__} has two stages named {stage.name!r}")
            names.add(stage.name)
            if number < progress.stage:
                continue
            resumed = saved if saved and number == saved["progress"]["stage"] else None
            if resumed:  # again: code between the stages may have touched the method
                method.load_state_dict(resumed["method"])
            elif number:  # after that code, whose effect a resumed run takes from here
                self._save(method, progress)
            self.interrupt.activity = f"before stage {stage.name!r}"
            self.interrupt.check()
            self._stage(method, data, stage, progress, resumed)
            progress.steps_before += progress.step
            progress.stage, progress.step = number + 1, 0

    def _stage(
        self,
        method: Method,
        data: TrainingData,
        stage: Stage,
        progress: TrainState,
        resumed: dict[str, Any] | None,
    ) -> None:
        clock = _Clock(progress, stage.name)
        if isinstance(stage, FitPass):
            seed_all(derive_seed(self.seed, stage.name))  # the same in all processes: they must fit the same bank
            self.interrupt.activity = f"in stage {stage.name!r}, which starts over"
            with self.interrupt.promptly():
                self._pass(method, data, stage, progress, clock)
        elif isinstance(stage, TrainStage):
            seed_all(derive_seed(self.seed, stage.name, dist.rank()))
            self._descend(method, data, stage, progress, clock, resumed)
        else:
            raise TypeError(f"stage {stage.name!r} is neither a FitPass nor a TrainStage")
        clock.stop()

    @torch.no_grad()
    def _pass(self, method: Method, data: TrainingData, stage: FitPass, progress: TrainState, clock: _Clock) -> None:
        method.eval()
        order = data.order(stage)
        total = order.steps_per_epoch if stage.batches is None else min(stage.batches, order.steps_per_epoch)
        progress.images[stage.name] = min(total * order.batch_size, order.images)
        with self.console.track(stage.name, pass_batches(order, total), "batches") as track:
            for batch in data.train(stage, 0, total):
                with self.autocast():
                    stage.update(batch)
                track.advance(clock.pace(stage.batch_size, track.done + 1))
                self.interrupt.check()
        self.console.say(f"{stage.name}: finishing")
        stage.finish()

    def _descend(
        self,
        method: Method,
        data: TrainingData,
        stage: TrainStage,
        progress: TrainState,
        clock: _Clock,
        resumed: dict[str, Any] | None,
    ) -> None:
        order = data.order(stage)
        total = self._steps(stage, order)
        _check_division(stage, order)
        if resumed and progress.step:
            self._restore(stage, resumed)
        optimize, rates = Optimization(stage, self.device), _Rates(stage)
        losses = LossMeter(f"{type(method).__name__}, stage {stage.name!r}", self.device)
        saved_at = time.monotonic()
        method.eval()
        for module in stage.modules:
            module.train()
        with self.console.track(stage.name, total, "steps", done=progress.step) as track:
            for batch in data.train(stage, progress.step, total):
                images = order.count(progress.step)
                optimize.weight = len(batch.image_BCHW) * dist.world() / images
                rates.set(progress.step / total)
                with self.autocast():
                    losses.add(stage.step(batch, optimize), progress.step)
                progress.step += 1
                progress.images[stage.name] = progress.images.get(stage.name, 0) + images
                look = progress.step % losses.every == 0 or progress.step == total
                if look:
                    self._report(stage, losses.means(), rates, progress, order)
                track.advance(losses.text(clock.pace(stage.batch_size, track.done - track.first)))
                save, stop = self._vote(look, time.monotonic() - saved_at >= self.checkpoint_seconds)
                if save or stop:
                    losses.means()  # nothing that is not finite goes into a checkpoint
                    clock.stop()
                    self._save(method, progress, stage)
                    saved_at = time.monotonic()
                if stop:
                    where = f"at step {progress.step} of {total} in stage {stage.name!r}"
                    self.interrupt.activity = where + (", checkpoint written," if self.checkpoint else "")
                    self.interrupt.stop()
        dist.average_buffers(stage.modules)
        method.eval()

    def _steps(self, stage: TrainStage, order: BatchOrder) -> int:
        total = stage.steps if stage.steps is not None else (stage.epochs or 0) * order.steps_per_epoch
        return total if self.max_steps is None else min(total, self.max_steps)

    def _report(
        self, stage: TrainStage, means: Mapping[str, float], rates: _Rates, progress: TrainState, order: BatchOrder
    ) -> None:
        """Training curves; their axis counts the steps of all stages, so that a resumed run can cut them."""
        step = progress.steps_before + progress.step
        for name, value in means.items():
            self.scalar(f"{stage.name}/{name}", value, step)
        for name, rate in rates.now().items():
            self.scalar(f"{stage.name}/lr_{name}", rate, step)
        self.scalar(f"{stage.name}/epoch", progress.step / order.steps_per_epoch, step)

    def _vote(self, look: bool, due: bool) -> tuple[bool, bool]:
        """Whether to write a checkpoint, and whether to stop; all processes must do so at the same step."""
        stop = self.interrupt.name is not None
        if dist.world() == 1:
            return due, stop
        votes = dist.gather_objects((due, stop)) if look else [(False, False)]
        return votes[0][0], any(stop for _, stop in votes)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision's context for a forward pass."""
        return autocast(self.device, self.precision)

    def _load(self) -> dict[str, Any] | None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            progress = TrainState(**saved["progress"])
        except Exception as error:  # a damaged file raises anything
            raise UserError(
                f"{self.checkpoint} is damaged or of another version ({type(error).__name__}): delete it to train again"
            ) from error
        if progress.step and len(saved["local"]) != dist.world():
            raise UserError(
                f"{self.checkpoint} was written by {len(saved['local'])} processes and cannot be resumed by "
                f"{dist.world()}: start as many again, or delete it to train again"
            )
        self.console.say("training done before" if progress.finished else f"resuming from {self.checkpoint}")
        return saved

    def _save(self, method: Method, progress: TrainState, stage: TrainStage | None = None) -> None:
        if self.checkpoint is None:
            return
        modules = stage.modules if stage and dist.world() > 1 else ()
        local = {
            "random": random_states(self.device),
            # running statistics differ between processes until the stage's end
            "buffers": [[buffer.cpu() for buffer in module.buffers()] for module in modules],
        }
        locals_ = dist.gather_objects(local)
        if not dist.is_main():
            return
        optimizers = stage.optimizers if stage else {}
        state = {
            "progress": vars(progress),
            "method": method.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
            "local": locals_,
        }
        write_atomic(self.checkpoint, lambda file: torch.save(state, file))

    def _restore(self, stage: TrainStage, saved: Mapping[str, Any]) -> None:
        """What a descent needs besides the method's weights."""
        for name, optimizer in stage.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        local = saved["local"][dist.rank()]
        for module, values in zip(stage.modules, local["buffers"], strict=False):
            for buffer, value in zip(module.buffers(), values, strict=True):
                buffer.copy_(value)
        restore_random(local["random"], self.device)


def _check_division(stage: TrainStage, order: BatchOrder) -> None:
    """Every process must have an image at every step: their gradients are averaged."""
    world = dist.world()
    if world > 1 and stage.batch_size % world:
        raise UserError(f"batch size {stage.batch_size} must be a multiple of the {world} processes")
    fewest = min(order.count(step) for step in (0, order.steps_per_epoch - 1))
    if fewest < world:
        raise UserError(
            f"stage {stage.name!r}: a batch of {fewest} images cannot be divided among {world} processes: start fewer"
        )


class Optimization:
    """The ``optimize`` of a descent; ``weight`` is this process's share of the batch, times the processes."""

    def __init__(self, stage: TrainStage, device: torch.device) -> None:
        self.stage, self.device = stage, device
        self.weight = 1.0

    def __call__(self, loss: Tensor, *names: str) -> None:
        chosen: list[Optimizer] = [self.stage.optimizers[name] for name in names or self.stage.optimizers]
        for optimizer in chosen:
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in chosen:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            dist.average_gradients(weights, self.weight)
            if self.stage.clip is not None:
                nn.utils.clip_grad_norm_(weights, self.stage.clip)
            optimizer.step()
        torch.clear_autocast_cache()  # it holds weights in bf16, which a second update in one step would take as new


class _Rates:
    """Sets learning rates: each group's initial rate (kept in the optimizer's state) times the schedule's factor."""

    def __init__(self, stage: TrainStage) -> None:
        self.stage = stage

    def set(self, progress: float) -> None:
        constant: Schedule = lambda _: 1.0  # noqa: E731
        for name, optimizer in self.stage.optimizers.items():
            factor = self.stage.schedules.get(name, constant)(progress)
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor

    def now(self) -> dict[str, float]:
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.stage.optimizers.items()}


class _Clock:
    """Adds a stage's seconds to those of earlier runs."""

    def __init__(self, progress: TrainState, stage: str) -> None:
        self.progress, self.stage, self.began = progress, stage, time.monotonic()
        self.before = progress.seconds.get(stage, 0.0)

    def stop(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.progress.seconds[self.stage] = self.before + time.monotonic() - self.began

    def pace(self, batch_size: int, steps: int) -> str:
        return f"{batch_size * steps / max(1e-9, time.monotonic() - self.began):.1f} images/s"
