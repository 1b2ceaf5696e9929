"""Walks a method's stages: precision, schedules, clipping, logging, checkpoints, resuming."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ader import dist
from ader.console import Console
from ader.data.loader import Order, mix
from ader.errors import UserError
from ader.files import write_atomic
from ader.methods.base import Batch, Descent, Method, Pass, Schedule, Stage

Precision = Literal["fp32", "tf32", "bf16"]


class Stopped(RuntimeError):
    """A run that ends early for a reason worth one clear line; exit status 1."""


class TrainingData(Protocol):
    """What the trainer needs of a loader (``ader.data.loader.Loader`` is one)."""

    def order(self, stage: Stage) -> Order: ...

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]: ...


class Interrupt:
    """Remembers SIGTERM and SIGINT until the trainer reaches a step's end."""

    def __init__(self) -> None:
        self.name: str | None = None

    @contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Takes the signals over for the duration; a second signal acts at once."""
        before = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def check(self, where: str) -> None:
        """Raises ``Stopped`` when a signal has come."""
        if self.name is not None:
            self.raise_stopped(where)

    def raise_stopped(self, where: str) -> None:
        """Ends the run with what was going on."""
        raise Stopped(f"stopped by {self.name or 'another process'} {where}: run the same command again to resume")


@dataclass
class Progress:
    """Where a training stands; with the method's and the optimizers' state it is a checkpoint."""

    stage: int = 0
    step: int = 0
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

    def fit(self, method: Method, data: TrainingData) -> Progress:
        """Walks all stages, or what a checkpoint leaves to do; the method ends in evaluation mode.

        Raises:
            Stopped: a loss was not finite, or a signal came.
        """
        set_precision(self.precision)
        method.to(self.device)
        saved = self._load()
        progress = Progress(**saved["progress"]) if saved else Progress()
        if saved:
            method.load_state_dict(saved["method"])
        if not progress.finished:
            self._walk(method, data, progress, saved)
            progress.finished = True
            self._save(method, progress)
        method.eval()
        return progress

    def _walk(self, method: Method, data: TrainingData, progress: Progress, saved: dict[str, Any] | None) -> None:
        """Runs the stages from ``progress`` on.

        Random streams are seeded before the code between two stages and again before each stage, so that what a
        stage draws does not depend on whether the run was interrupted in an earlier one.
        """
        names: set[str] = set()
        stages = method.stages()
        for number in itertools.count():
            seed_all(mix(self.seed, "between stages", number))
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
            elif number:
                self._save(method, progress)
            self._stage(method, data, stage, progress, resumed)
            progress.stage, progress.step = number + 1, 0
            self.interrupt.check(f"after stage {stage.name!r}")

    def _stage(
        self,
        method: Method,
        data: TrainingData,
        stage: Stage,
        progress: Progress,
        resumed: dict[str, Any] | None,
    ) -> None:
        clock = _Clock(progress, stage.name)
        if isinstance(stage, Pass):
            seed_all(mix(self.seed, stage.name))  # the same in all processes: they must fit the same bank
            self._pass(method, data, stage, progress)
        elif isinstance(stage, Descent):
            seed_all(mix(self.seed, stage.name, dist.rank()))
            self._descend(method, data, stage, progress, clock, resumed)
        else:
            raise TypeError(f"stage {stage.name!r} is neither a Pass nor a Descent")
        clock.stop()

    @torch.no_grad()
    def _pass(self, method: Method, data: TrainingData, stage: Pass, progress: Progress) -> None:
        method.eval()
        order = data.order(stage)
        total = order.steps_per_epoch if stage.batches is None else min(stage.batches, order.steps_per_epoch)
        progress.images[stage.name] = 0
        with self.console.track(stage.name, total, "batches") as track:
            for batch in data.train(stage, 0, total):
                with self.autocast():
                    stage.update(batch)
                progress.images[stage.name] += len(batch.image_BCHW)
                track.advance()
                self.interrupt.check(f"in stage {stage.name!r}, which starts over")
        self.console.note(f"{stage.name}: finishing")
        stage.finish()

    def _descend(
        self,
        method: Method,
        data: TrainingData,
        stage: Descent,
        progress: Progress,
        clock: _Clock,
        resumed: dict[str, Any] | None,
    ) -> None:
        order = data.order(stage)
        total = self._steps(stage, order)
        if dist.world() > 1 and stage.batch_size % dist.world():
            raise UserError(f"batch size {stage.batch_size} must be a multiple of the {dist.world()} processes")
        if resumed and progress.step:
            for name, optimizer in stage.optimizers.items():
                optimizer.load_state_dict(resumed["optimizers"][name])
            restore_random(resumed["random"][dist.rank()])
        minimise, rates = _Minimiser(stage, self.device), _Rates(stage)
        losses = _Losses(method, stage, self.device)
        saved_at = time.monotonic()
        method.eval()
        for module in stage.modules:
            module.train()
        with self.console.track(stage.name, total, "steps", done=progress.step) as track:
            for batch in data.train(stage, progress.step, total):
                rates.set(progress.step / total)
                with self.autocast():
                    losses.add(stage.step(batch, minimise), progress.step)
                progress.step += 1
                progress.images[stage.name] = progress.images.get(stage.name, 0) + len(batch.image_BCHW)
                look = progress.step % losses.every == 0 or progress.step == total
                if look:
                    self._report(stage, losses.means(), rates, progress.step, order)
                track.advance(losses.text(clock.pace(stage.batch_size, track.done - track.first)))
                save, stop = self._vote(look, time.monotonic() - saved_at >= self.checkpoint_seconds)
                if save or stop:
                    losses.means()  # nothing that is not finite goes into a checkpoint
                    clock.stop()
                    self._save(method, progress, stage)
                    saved_at = time.monotonic()
                if stop:
                    where = f"at step {progress.step} of {total} in stage {stage.name!r}"
                    self.interrupt.raise_stopped(where + (", checkpoint written" if self.checkpoint else ""))
        dist.average_buffers(stage.modules)
        method.eval()

    def _steps(self, stage: Descent, order: Order) -> int:
        total = stage.steps if stage.steps is not None else (stage.epochs or 0) * order.steps_per_epoch
        return total if self.max_steps is None else min(total, self.max_steps)

    def _report(self, stage: Descent, means: Mapping[str, float], rates: _Rates, step: int, order: Order) -> None:
        for name, value in means.items():
            self.scalar(f"{stage.name}/{name}", value, step)
        for name, rate in rates.now().items():
            self.scalar(f"{stage.name}/lr_{name}", rate, step)
        self.scalar(f"{stage.name}/epoch", step / order.steps_per_epoch, step)

    def _vote(self, look: bool, due: bool) -> tuple[bool, bool]:
        """Whether to write a checkpoint, and whether to stop; all processes must do so at the same step."""
        stop = self.interrupt.name is not None
        if dist.world() == 1:
            return due, stop
        votes = dist.gather_objects((due, stop)) if look else [(False, False)]
        return votes[0][0], any(stop for _, stop in votes)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision's context for a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _load(self) -> dict[str, Any] | None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        saved: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.console.say(f"resuming from {self.checkpoint}" if not saved["progress"]["finished"] else "training done")
        return saved

    def _save(self, method: Method, progress: Progress, stage: Descent | None = None) -> None:
        if self.checkpoint is None:
            return
        randoms = dist.gather_objects(random_states())
        if not dist.is_main():
            return
        optimizers = stage.optimizers if stage else {}
        state = {
            "progress": vars(progress),
            "method": method.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
            "random": randoms,
        }
        write_atomic(self.checkpoint, lambda file: torch.save(state, file))


class _Minimiser:
    """The ``minimise`` of a descent."""

    def __init__(self, stage: Descent, device: torch.device) -> None:
        self.stage, self.device = stage, device

    def __call__(self, loss: Tensor, *names: str) -> None:
        chosen: list[Optimizer] = [self.stage.optimizers[name] for name in names or self.stage.optimizers]
        for optimizer in chosen:
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in chosen:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            dist.average_gradients(weights)
            if self.stage.clip is not None:
                nn.utils.clip_grad_norm_(weights, self.stage.clip)
            optimizer.step()


class _Rates:
    """Sets learning rates: each group's initial rate (kept in the optimizer's state) times the schedule's factor."""

    def __init__(self, stage: Descent) -> None:
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


class _Losses:
    """Means of the logged losses, and the first step at which one was not finite.

    On a GPU looking at a value waits for the device, so values are looked at every few steps only; the first bad
    step is still known exactly, because it is remembered on the device.
    """

    def __init__(self, method: Method, stage: Descent, device: torch.device) -> None:
        self.where = f"{type(method).__name__}, stage {stage.name!r}"
        self.every = 1 if device.type == "cpu" else 20
        self.sums: dict[str, Tensor] = {}
        self.bad: dict[str, Tensor] = {}
        self.count = 0
        self.last: dict[str, float] = {}

    def add(self, losses: Mapping[str, Tensor], step: int) -> None:
        for name, loss in losses.items():
            value = loss.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            bad = self.bad.get(name, torch.full_like(value, torch.inf))
            self.bad[name] = torch.minimum(bad, torch.where(value.isfinite(), torch.inf, float(step)))
        self.count += 1

    def means(self) -> dict[str, float]:
        """Means since the last call.

        Raises:
            Stopped: a loss was not finite.
        """
        if not self.count:
            return self.last
        bad = {name: float(step) for name, step in self.bad.items() if step.isfinite()}
        if bad:
            name = min(bad, key=lambda key: bad[key])
            raise Stopped(
                f"loss {name!r} of {self.where} is not finite at step {int(bad[name])}: lower the learning rate, "
                "or check the data and the precision"
            )
        self.last = {name: float(total) / self.count for name, total in self.sums.items()}
        self.sums, self.bad, self.count = {}, {}, 0
        return self.last

    def text(self, pace: str) -> str:
        return "  ".join([*(f"{name} {value:.4g}" for name, value in self.last.items()), pace])


class _Clock:
    """Adds a stage's seconds to those of earlier runs."""

    def __init__(self, progress: Progress, stage: str) -> None:
        self.progress, self.stage, self.began = progress, stage, time.monotonic()
        self.before = progress.seconds.get(stage, 0.0)

    def stop(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.progress.seconds[self.stage] = self.before + time.monotonic() - self.began

    def pace(self, batch_size: int, steps: int) -> str:
        return f"{batch_size * steps / max(1e-9, time.monotonic() - self.began):.1f} images/s"


def set_precision(precision: Precision) -> None:
    """TF32 on or off for matrix products and convolutions; bf16 is autocast's."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def seed_all(seed: int) -> None:
    """Seeds every random stream a method may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """All random states, as plain numbers and tensors (loadable without executing a pickle)."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random(states: Mapping[str, Any]) -> None:
    """Puts back what ``random_states`` returned."""
    random.setstate(states["python"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
