"""Two steps of each stage and two test batches of a run, on its own data: its memory and, roughly, its time.

The first of each warms up, the second is timed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from ader.config.schema import RunConfig
from ader.data.index import TEST
from ader.methods._base import Batch, FitPass, Method, Stage, TrainStage
from ader.results.schema import plain
from ader.runs.inference import check_prediction
from ader.runs.observe import observe
from ader.runs.plan import RunPlan, make_plan
from ader.runs.run import build
from ader.runs.session import Session
from ader.system.console import Console
from ader.system.device import synchronize
from ader.system.files import write_atomic
from ader.system.interrupt import Interrupt
from ader.system.memory import peak_memory, reset_peak
from ader.system.precision import autocast
from ader.training.loader import Loader
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer

#: Steps of each stage, and test batches.
STEPS = 2


@dataclass(frozen=True)
class Trial:
    """What was found.

    Attributes:
        seconds: that the whole run may take; what a pass does at its end (a coreset) is not in it.
        memory_bytes: peak: allocated on the CUDA device, or the resident set of the process on a CPU.
    """

    seconds: float
    memory_bytes: int

    def write(self, file: Path) -> None:
        """As JSON."""
        write_atomic(file, json.dumps(plain(self)))

    @classmethod
    def read(cls, file: Path) -> Trial:
        """What ``write`` wrote."""
        return TypeAdapter(cls).validate_json(file.read_bytes())


def attempt(config: RunConfig) -> Trial:
    """Tries a run; nothing is written.

    Raises:
        UserError: bad input.
        Stopped: a loss was not finite, or a signal came.
    """
    console = Console(quiet=True)
    with Interrupt("nothing was written").listening() as interrupt, console.keeping_errors():
        plan, options = make_plan(config), config.trainer
        session = Session(plan=plan, interrupt=interrupt, console=console, earlier=None)
        reset_peak(plan.device)
        method, loader = build(plan.models[0], session)
        data = FirstSteps(loader)
        trainer = Trainer(
            device=plan.device,
            seed=config.seed,
            precision=options.precision,
            max_steps=STEPS if options.max_steps is None else min(STEPS, options.max_steps),
            ema=options.ema,
            accumulate=options.accumulate,
            channels_last=options.channels_last,
            interrupt=interrupt,
        )
        trainer.fit(method, data)
        seconds = len(plan.models) * data.estimate(options.max_steps) + _test(method, loader, session)
        return Trial(seconds, peak_memory(plan.device))


class FirstSteps:
    """A loader's first batches, and how long the last of them took.

    Args:
        loader: of the whole data.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.stages: dict[str, tuple[Stage, BatchOrder]] = {}
        self.seconds: dict[str, float] = {}

    def order(self, stage: Stage) -> BatchOrder:
        """The loader's; of a pass its beginning."""
        order = self.loader.order(stage)
        self.stages[stage.name] = stage, order
        few = min(order.images, STEPS * stage.batch_size)
        return replace(order, images=few) if isinstance(stage, FitPass) else order

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        """The loader's batches, with the time of the last, its loading included."""
        device = self.loader.device
        began = time.perf_counter()
        for batch in self.loader.train(stage, start, min(stop, start + STEPS)):
            yield batch
            synchronize(device)
            self.seconds[stage.name] = time.perf_counter() - began
            began = time.perf_counter()

    def estimate(self, max_steps: int | None) -> float:
        """Seconds of all steps of one model."""
        return sum(self.seconds.get(name, 0.0) * _steps(*known, max_steps) for name, known in self.stages.items())


def _steps(stage: Stage, order: BatchOrder, max_steps: int | None) -> int:
    if isinstance(stage, TrainStage):
        steps = stage.steps if stage.steps is not None else (stage.epochs or 0) * order.steps_per_epoch
        return steps if max_steps is None else min(steps, max_steps)
    batches = stage.batches if isinstance(stage, FitPass) else None
    return order.steps_per_epoch if batches is None else min(batches, order.steps_per_epoch)


@torch.no_grad()
def _test(method: Method, loader: Loader, session: Session[RunPlan]) -> float:
    """Seconds of predicting and evaluating all test images."""
    plan, sizes, options = session.plan, session.sizes, session.plan.config.trainer
    evaluator, took = session.new_evaluator(), 0.0
    began = time.perf_counter()
    for number, (samples, image_BCHW, masks, inputs) in enumerate(loader.test(options.test_batch_size, sizes), 1):
        with autocast(plan.device, options.precision):
            prediction = check_prediction(method, method.predict(image_BCHW, **inputs), image_BCHW)
        observe(evaluator, sizes, samples, prediction.score_B, prediction.map_BHW, masks)
        synchronize(plan.device)
        took = time.perf_counter() - began
        if number == STEPS:
            break
        began = time.perf_counter()
    return took * math.ceil(len(plan.index.split(TEST)) / options.test_batch_size)
