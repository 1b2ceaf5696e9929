"""One evaluation, wherever its predictions come from: what its steps share, and the folder that it works in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ader.config.compose import Composed
from ader.config.validate import validated
from ader.data import Index
from ader.data.image import Interpolation
from ader.data.index import TEST
from ader.data.sizes import Size, Sizes
from ader.metrics import Evaluator
from ader.results import folder as workspace
from ader.results import record
from ader.results.identity import Place
from ader.results.schema import EvaluatedFrom, ModelRecord, Record
from ader.system import dist
from ader.system.console import Console
from ader.system.interrupt import Interrupt


@dataclass(frozen=True)
class MetricOptions:
    """The group ``metric``."""

    profile: str
    size: Size
    map_interpolation: Interpolation
    mask_interpolation: Interpolation
    by_defect: bool

    @property
    def sizes(self) -> Sizes:
        """At which size maps and masks are compared."""
        return Sizes(self.size, self.map_interpolation, self.mask_interpolation)


@dataclass(frozen=True)
class Extras:
    """What a result holds besides the tables per category, because it was asked for.

    Attributes:
        maps: every anomaly map.
        by_defect: a table per kind of defect.
    """

    maps: bool = False
    by_defect: bool = False

    @classmethod
    def of(cls, result: Record | None) -> Extras:
        """Those of a record; none where there is no record."""
        return cls() if result is None else cls(result.maps, result.by_defect)

    def __or__(self, other: Extras) -> Extras:
        return Extras(self.maps or other.maps, self.by_defect or other.by_defect)


@dataclass(kw_only=True)
class Task:
    """Something to evaluate, and what was found so far.

    Attributes:
        composed: the configuration.
        metric: a part of it, checked.
        device: where everything is computed.
        index: all samples.
        place: the dataset's label, the results folder and the task's fingerprint.
        interrupt: where signals are noted.
        extras: what the result will hold besides the tables.
        evaluated_from: the run that trained the models, where that is another one.
        console: silent until the task is at work.
        evaluator: counts of all parts.
        models: those that were tested, by part.
        scores: of the test images.
        earlier: the record of the result that the folder held before, or None.
        finished: whether that has everything that was asked for.
    """

    composed: Composed
    metric: MetricOptions
    device: torch.device
    index: Index
    place: Place
    interrupt: Interrupt
    extras: Extras
    evaluated_from: EvaluatedFrom | None = None
    console: Console = field(default_factory=lambda: Console(quiet=True))
    evaluator: Evaluator = field(init=False)
    models: dict[str, ModelRecord] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    earlier: Record | None = None
    finished: bool = False

    def __post_init__(self) -> None:
        self.evaluator = self.new_evaluator()

    @property
    def folder(self) -> Path:
        """Of the results."""
        return self.place.folder

    def new_evaluator(self) -> Evaluator:
        """An empty evaluator with the task's categories and metric options."""
        tested = self.index.split(TEST).categories  # drifts may be tested only, and other conditions trained on only
        return Evaluator(list(tested), self.device, self.metric.profile, by_defect=self.extras.by_defect)

    def add(self, evaluator: Evaluator, scores: Mapping[str, float]) -> None:
        """Adds what one part has found: its counts and its images' scores."""
        self.evaluator.merge(evaluator)
        self.scores.update(scores)

    def take_up(self) -> None:
        """Sees what the folder holds. A result that is made again keeps the extras that it had."""
        self.earlier = record.read(self.folder)
        there = Extras.of(self.earlier)
        self.finished = self.earlier is not None and there | self.extras == there
        self.extras |= there
        self.evaluator = self.new_evaluator()


@contextmanager
def at_work(task: Task, force: bool) -> Iterator[None]:
    """Holds the task's folder for its configuration, and keeps in its log what goes wrong.

    Args:
        task: gets its console, and knows afterwards what the folder held.
        force: throw away what the folder holds.

    Raises:
        UserError: another run holds the folder, or it belongs to another configuration.
    """
    with ExitStack() as stack:
        if dist.is_main():
            stack.enter_context(workspace.exclusive(task.folder))
            if force:
                workspace.clear(task.folder)
            workspace.claim(task.folder, task.composed.values, task.place.fingerprint)
        dist.barrier()
        task.console = stack.enter_context(Console(task.folder / "run.log", quiet=not dist.is_main()))
        stack.enter_context(task.console.keeping_errors())
        task.take_up()
        yield


def metric_options(composed: Composed) -> MetricOptions:
    """The group ``metric``, checked."""
    return MetricOptions(**validated(MetricOptions, composed.values["metric"], where="metric"))
