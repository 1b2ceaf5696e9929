"""Walks a method's stages: precision, progress, training curves, checkpoints, resuming."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ader.methods._base import Batch, FitPass, Method, Stage, TrainStage
from ader.nets.shared_norms import norms_synchronized, synchronized
from ader.system import dist
from ader.system.console import Console
from ader.system.device import synchronize
from ader.system.errors import UserError
from ader.system.interrupt import Interrupt, Stopped
from ader.system.precision import Precision, autocast, set_precision
from ader.system.randomness import derive_seed, random_states, seed_all
from ader.training.checkpoint import Checkpoint, TrainState, dependence
from ader.training.features import FeatureCache, Remembering
from ader.training.losses import LossMeter
from ader.training.optimization import Optimization, check_compile, compiled
from ader.training.order import BatchOrder, pass_batches, pass_images, shard
from ader.training.vote import Vote


class TrainingData(Protocol):
    """What the trainer needs of a loader (``ader.training.loader.Loader`` is one)."""

    def order(self, stage: Stage) -> BatchOrder: ...

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]: ...


@dataclass
class Trainer:
    """Trains a method on a loader's data.

    Attributes:
        device: where the method lives.
        seed: of the run; decides initial random states.
        precision: ``fp32``; ``torch`` (convolutions in TF32, as PyTorch does unasked); ``tf32`` (matrix products, too);
            or ``bf16`` (autocast).
        max_steps: cap on the steps of each training stage; schedules then run over the capped length.
        ema: decay in [0, 1) of a moving average of the trained weights, with which each stage ends; None: off.
        accumulate: batches whose gradients make one update (``ader.training.optimization.Optimization``).
        sync_batchnorm: whether batch norms that train take their statistics over all processes, not over each one's own
            images; the same with one process.
        compile: whether the modules that train go through ``torch.compile`` while they do.
        channels_last: whether weights and images are kept with the channels last in memory.
        features: remembers what frozen networks give for the training images; None: they compute every time.
        checkpoint: file to write and to resume from; None keeps nothing.
        owner: whose training the file must be of, if that is to be compared.
        checkpoint_seconds: time between two checkpoints.
        console: for progress.
        scalar: called with (tag, value, step) for TensorBoard.
        interrupt: where signals are noted.
    """

    device: torch.device
    seed: int = 0
    precision: Precision = "fp32"
    max_steps: int | None = None
    ema: float | None = None
    accumulate: int = 1
    sync_batchnorm: bool = False
    compile: bool = False
    channels_last: bool = False
    features: FeatureCache | None = None
    checkpoint: Path | None = None
    owner: str | None = None
    checkpoint_seconds: float = 300.0
    console: Console = field(default_factory=lambda: Console(quiet=True))
    scalar: Callable[[str, float, int], None] = lambda tag, value, step: None
    interrupt: Interrupt = field(default_factory=Interrupt)

    def __post_init__(self) -> None:
        self.file = Checkpoint(self.checkpoint, self.device, self.owner)

    def fit(self, method: Method, data: TrainingData) -> TrainState:
        """Walks all stages, or what a checkpoint leaves to do; the method ends in evaluation mode.

        Raises:
            Stopped: a loss was not finite, or a signal came.
            UserError: the checkpoint cannot be used, or networks cannot be compiled here.
        """
        self.place(method)
        saved = self.file.load()
        state = TrainState(**saved["progress"]) if saved else TrainState()
        if saved:
            self.console.say("training done before" if state.finished else f"resuming from {self.checkpoint}")
            self.file.put_back(method, saved)
        if not state.finished:
            if self.compile:
                check_compile(self.device)
            with self.interrupt.patiently():
                self._walk(method, data, state, saved)
                state.finished = True
                self.file.save(method, state)
            with self.interrupt.during("after training"):
                self.interrupt.check()
        method.eval()
        return state

    def restore(self, method: Method) -> None:
        """Puts a finished training's weights into the method, which ends in evaluation mode.

        Raises:
            UserError: there is no checkpoint, or it cannot be used.
        """
        self.place(method)
        saved = self.file.load()
        if saved is None or not saved["progress"]["finished"]:
            raise UserError(f"{self.checkpoint} is not of a finished training: finish the run first")
        self.console.say("training done before")
        self.file.put_back(method, saved)
        method.eval()

    def place(self, method: Method) -> None:
        """Moves a method to the device, in the memory layout that is asked for, and sets the precision."""
        set_precision(self.precision)
        method.to(self.device)
        if self.channels_last:
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager[None]:
        """The precision's context for a forward pass."""
        return autocast(self.device, self.precision)

    def _walk(self, method: Method, data: TrainingData, state: TrainState, saved: dict[str, Any] | None) -> None:
        """Runs the stages from ``state`` on.

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
            if number < state.stage:
                continue
            resumed = saved if saved and number == saved["progress"]["stage"] else None
            if resumed:  # again: code between the stages may have touched the method
                method.load_state_dict(resumed["method"])
            elif number:  # after that code, whose effect a resumed run takes from here
                self.file.save(method, state)
            with self.interrupt.during(f"before stage {stage.name!r}"):
                self.interrupt.check()
            clock = StageClock(state, stage.name, self.device)
            if isinstance(stage, FitPass):
                self._fit(method, data, stage, state, clock)
            elif isinstance(stage, TrainStage):
                self._train(method, data, stage, state, clock, resumed)
            else:
                raise TypeError(f"stage {stage.name!r} is neither a FitPass nor a TrainStage")
            clock.stop()
            state.steps_before += state.step
            state.stage, state.step = number + 1, 0

    @torch.no_grad()
    def _fit(self, method: Method, data: TrainingData, stage: FitPass, state: TrainState, clock: StageClock) -> None:
        seed_all(derive_seed(self.seed, stage.name))  # the same in all processes: they must fit the same bank
        began = random_states(self.device)
        method.eval()
        order = data.order(stage)
        total = order.steps_per_epoch if stage.batches is None else min(stage.batches, order.steps_per_epoch)
        state.images[stage.name] = pass_images(order, total)
        with self.interrupt.during(f"in stage {stage.name!r}, which starts over"), self.interrupt.promptly():
            with (
                self.console.track(stage.name, pass_batches(order, total), "batches") as track,
                self._remembering(method, stage, order, total) as arrive,
            ):
                for batch in self._laid_out(data.train(stage, 0, total)):
                    arrive(batch.image_BCHW)
                    with self.autocast():
                        stage.update(batch)
                    track.advance(clock.pace(stage.batch_size, track.done + 1))
                    self.interrupt.check()
            state.depends = state.depends or dependence(stage, began, self.device, self.sync_batchnorm)
            self.console.say(f"{stage.name}: finishing")
            stage.finish()

    def _train(
        self,
        method: Method,
        data: TrainingData,
        stage: TrainStage,
        state: TrainState,
        clock: StageClock,
        resumed: dict[str, Any] | None,
    ) -> None:
        seed_all(derive_seed(self.seed, stage.name, dist.rank()))
        streams = random_states(self.device)
        order = data.order(stage)
        total = stage.steps if stage.steps is not None else (stage.epochs or 0) * order.steps_per_epoch
        total = total if self.max_steps is None else min(total, self.max_steps)
        fewest = _check_division(stage, order)
        if order.images_per_epoch < stage.batch_size:
            self.console.say(
                f"{stage.name}: a batch of {stage.batch_size} is more than the training images "
                f"({order.images_per_epoch}): each step has all of them"
            )
        optimization = Optimization(stage, self.device, ema=self.ema, accumulate=self.accumulate)
        if resumed and state.step:
            self.file.resume(optimization, resumed)
        losses = LossMeter(f"{type(method).__name__}, stage {stage.name!r}", self.device)
        saved_at, began, vote = time.monotonic(), state.step, Vote(self.interrupt, state.step)
        method.eval()
        for module in stage.modules:
            module.train()
        with (
            self.console.track(stage.name, total, "steps", done=state.step) as track,
            compiled(stage.modules) if self.compile else nullcontext(),
            synchronized(stage.modules) if self.sync_batchnorm else nullcontext(),
            optimization.gradients.overlapped(),
            self._remembering(method, stage, order, total) as arrive,
        ):
            keep = partial(self._keep, method, state, optimization, losses, clock, streams)
            over, batches = False, self._laid_out(data.train(stage, state.step, total))
            for batch in self._arriving(batches, keep):
                images = order.count(state.step)
                batch = self._placed(batch, stage, images, state.step)
                arrive(batch.image_BCHW)
                optimization.share = batch.share
                optimization.set_rates(state.step / total)
                watch = fewest == 1 and state.step == began and not norms_synchronized()
                checks = _batch_norms_fit(stage, len(batch.image_BCHW)) if watch else nullcontext()
                with self.autocast(), checks:
                    losses.add(stage.step(batch, optimization), state.step)
                state.step += 1
                state.images[stage.name] = state.images.get(stage.name, 0) + images
                if state.step % losses.every == 0 or state.step == total:
                    self._log(stage, losses.means(), optimization.rates(), state, order)
                track.advance(losses.text(clock.pace(stage.batch_size, track.done - track.first)))
                due, over = vote.cast(state.step, time.monotonic() - saved_at >= self.checkpoint_seconds)
                if over:
                    break
                if due:
                    keep()
                    saved_at = time.monotonic()
            if over or (self.interrupt.name and state.step < total):
                keep()
                where = f"at step {state.step} of {total} in stage {stage.name!r}"
                with self.interrupt.during(where + ", checkpoint written" * bool(self.checkpoint)):
                    self.interrupt.stop()
        state.depends = state.depends or dependence(stage, streams, self.device, self.sync_batchnorm)
        optimization.finish()
        dist.average_buffers(stage.modules)
        method.eval()

    def _arriving(self, batches: Iterator[Batch], keep: Callable[[], None]) -> Iterator[Batch]:
        """The batches, up to a signal that comes while one is waited for: nothing is half done then.

        Not so where several processes share the steps: the others may be in the midst of this one.

        Raises:
            Stopped: batches cannot be made any more; what was trained is kept.
        """
        alone = dist.world() == 1
        while True:
            try:
                with self.interrupt.promptly() if alone else nullcontext():
                    batch = next(batches, None)
            except Stopped:
                if self.interrupt.name:
                    return
                if alone:
                    keep()
                raise
            if batch is None:
                return
            yield batch

    def _keep(
        self,
        method: Method,
        state: TrainState,
        optimization: Optimization,
        losses: LossMeter,
        clock: StageClock,
        streams: Mapping[str, Any],
    ) -> None:
        """Writes a checkpoint in the midst of a stage."""
        losses.means()  # nothing that is not finite goes into a checkpoint
        clock.stop()
        state.depends = state.depends or dependence(optimization.stage, streams, self.device, self.sync_batchnorm)
        self.file.save(method, state, optimization)

    def _placed(self, batch: Batch, stage: TrainStage, images: int, step: int) -> Batch:
        """The batch, with its place in the step that it is a part of."""
        first = shard(images, dist.rank(), dist.world()).start
        return replace(batch, total=images, first=first, step_seed=derive_seed(self.seed, stage.name, "step", step))

    def _laid_out(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches in the memory layout that is asked for."""
        if not self.channels_last:
            return batches
        layout = torch.channels_last
        return (replace(batch, image_BCHW=batch.image_BCHW.contiguous(memory_format=layout)) for batch in batches)

    def _remembering(self, method: Method, stage: Stage, order: BatchOrder, total: int) -> Remembering:
        """The block in which frozen networks remember the stage's images."""
        if self.features is None:
            return nullcontext(lambda image_BCHW: None)
        whole = len(shard(order.count(0), dist.rank(), dist.world()))
        if isinstance(stage, FitPass):  # the processes divide all images, not each batch
            whole = min(math.ceil(stage.batch_size / dist.world()), pass_images(order, total))
        return self.features.during(method, self.device, order.images, whole, total > order.steps_per_epoch)

    def _log(
        self,
        stage: TrainStage,
        means: Mapping[str, float],
        rates: Mapping[str, float],
        state: TrainState,
        order: BatchOrder,
    ) -> None:
        """Training curves; their axis counts the steps of all stages, so that a resumed run can cut them."""
        curves = {**means, **{f"lr_{name}": rate for name, rate in rates.items()}}
        for name, value in {**curves, "epoch": state.step / order.steps_per_epoch}.items():
            self.scalar(f"{stage.name}/{name}", value, state.steps_before + state.step)


def _check_division(stage: TrainStage, order: BatchOrder) -> int:
    """Every process must have an image at every step: they back-propagate together. Returns the fewest that one has."""
    world = dist.world()
    fewest = min(order.count(step) for step in (0, order.steps_per_epoch - 1))
    if fewest < world:
        raise UserError(
            f"stage {stage.name!r}: a batch of {fewest} images cannot be divided among {world} processes: start fewer"
        )
    return fewest // world


@contextmanager
def _batch_norms_fit(stage: TrainStage, images: int) -> Iterator[None]:
    """Inside the block, the first step of a stage, refuses a batch norm that would have a single value per channel in a
    batch of one image; nothing has been trained then.

    Args:
        stage: some batch of which has one image.
        images: of this step's.
    """

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].numel() // inputs[0].shape[1]  # of all images, per channel
        if norm.training and values <= images:
            raise UserError(
                f"stage {stage.name!r} has a batch of 1 image{where}, which at this size leaves its batch norms one "
                f"value per channel: give more training images, a larger image_size or another method.batch_size{or_so}"
            )

    shared = dist.world() > 1
    where, or_so = (" per process", ", or set trainer.sync_batchnorm=true") if shared else ("", "")
    norms = [part for module in stage.modules for part in module.modules() if isinstance(part, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class StageClock:
    """Adds a stage's seconds to those that earlier, interrupted runs spent on it.

    Args:
        state: whose ``seconds`` are kept.
        stage: its name.
        device: waited for before the time is taken.
    """

    def __init__(self, state: TrainState, stage: str, device: torch.device) -> None:
        self.state, self.stage, self.device, self.began = state, stage, device, time.monotonic()
        self.before = state.seconds.get(stage, 0.0)

    def stop(self) -> None:
        """Takes the time; may be called again and again."""
        synchronize(self.device)
        self.state.seconds[self.stage] = self.before + time.monotonic() - self.began

    def pace(self, batch_size: int, steps: int) -> str:
        """Images per second of this run, for the progress line."""
        return f"{batch_size * steps / max(1e-9, time.monotonic() - self.began):.1f} images/s"
