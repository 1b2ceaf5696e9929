"""A plan at work: its folder is held, its log is open, and what its models give is collected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from ader.data.image_cache import CachedImages
from ader.data.index import TEST
from ader.data.mask_rule import MaskReading, settle
from ader.data.masks import MaskRule
from ader.data.sizes import Sizes
from ader.metrics import Evaluator
from ader.results import folder as workspace
from ader.results import record
from ader.results.identity import contents_of
from ader.results.outputs import Outputs
from ader.results.pixels import MOST, Sketches
from ader.results.schema import ModelRecord, Record
from ader.runs.finished import notice
from ader.runs.gallery import Choice, Collector, Pictures, choose
from ader.runs.plan import Plan
from ader.system import dist
from ader.system.console import Console
from ader.system.interrupt import Interrupt
from ader.training.loggers import Loggers

P = TypeVar("P", bound=Plan)


class Tested(NamedTuple):
    """What the test of one model gave, over all processes.

    Attributes:
        evaluator: what was counted.
        scores: of the images, by their names.
        pictures: of the gallery; in the main process only.
        sketches: of the images' pixels.
    """

    evaluator: Evaluator
    scores: dict[str, float]
    pictures: Pictures
    sketches: Sketches


@dataclass(kw_only=True)
class Session(Generic[P]):
    """What a plan's steps share, and what they found so far.

    Attributes:
        plan: what is done.
        interrupt: where signals are noted.
        console: says it, and keeps it in the log.
        earlier: the record of the result that the folder held before, or None.
        outputs: what the result will hold: what was asked for now, and what it held before.
        evaluator: counts of all models.
        models: what the record says of them, by name.
        scores: of the test images.
        pictures: of the gallery.
        sketches: of the test images' pixels.
        loggers: where curves and the result go besides the run's own files; none until ``start_loggers``.
        cached: all images, once they are decoded; None: every batch decodes its own.
        masks: how masks are read, once they were looked at; None for a dataset without any.
    """

    plan: P
    interrupt: Interrupt
    console: Console
    earlier: Record | None
    outputs: Outputs = field(init=False)
    evaluator: Evaluator = field(init=False)
    models: dict[str, ModelRecord] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=Pictures)
    sketches: Sketches = field(default_factory=Sketches)
    loggers: Loggers = field(default_factory=Loggers)
    cached: CachedImages | None = None
    masks: MaskReading | None = None

    def __post_init__(self) -> None:
        self.outputs = self.plan.outputs | Outputs.of(self.earlier)
        self.evaluator = self.new_evaluator()

    @property
    def finished(self) -> bool:
        """Whether the folder held a result with everything that is asked for."""
        return self.earlier is not None and self.plan.demanded in Outputs.of(self.earlier)

    @property
    def mask_rule(self) -> MaskRule:
        """Which levels of masks are defective."""
        return "any" if self.masks is None else self.masks.rule

    @property
    def sizes(self) -> Sizes:
        """At which size maps and masks are compared, and how masks are read."""
        return replace(self.plan.sizes, mask_rule=self.mask_rule)

    def look_at_masks(self, cache: Path, workers: int) -> None:
        """Settles how masks are read; quick where they were looked at before."""
        files = {name for sample in self.plan.index for name in sample.masks}
        if not files:
            return
        with self.console.track("check masks", len(files), "masks") as track:

            def step() -> None:
                track.advance()
                self.interrupt.check()

            wanted = self.plan.config.metric.mask_rule
            self.masks = settle(self.plan.index, wanted, self.plan.published, cache, workers, step)

    def say_finished(self) -> None:
        """What is said in place of making a result that is there."""
        self.console.say(notice(self.plan.folder))

    def new_evaluator(self) -> Evaluator:
        """An empty evaluator, for one model."""
        return self.plan.new_evaluator(self.outputs)

    @property
    def sketched(self) -> bool:
        """Whether sketches of the test images' pixels are kept: not of so many that they take much room."""
        return len(self.plan.index.split(TEST)) <= MOST

    @cached_property
    def choice(self) -> Choice:
        """What the gallery of all models' categories shows."""
        return choose(self.plan.index.split(TEST).samples)

    @property
    def left_out(self) -> int:
        """Pictures that the gallery would have had too many."""
        return self.choice.left_out if self.outputs.gallery == "worst" else 0

    def new_gallery(self) -> Collector:
        """An empty gallery, for one model."""
        kind = self.outputs.gallery
        return Collector(kind, self.choice if kind == "worst" else Choice(), self.plan.folder)

    def add(self, evaluator: Evaluator, scores: Mapping[str, float]) -> None:
        """Adds what was counted, and the images' scores."""
        self.evaluator.merge(evaluator)
        self.scores.update(scores)

    def add_model(self, name: str, model: ModelRecord, tested: Tested) -> None:
        """Adds a model: what the record says of it, and what its test gave."""
        self.add(tested.evaluator, tested.scores)
        self.pictures.add(tested.pictures)
        self.sketches.add(tested.sketches)
        self.models[name] = model


@contextmanager
def working_on(plan: P, interrupt: Interrupt, force: bool) -> Iterator[Session[P]]:
    """Holds the plan's folder for its configuration, and keeps in its log what goes wrong.

    Args:
        plan: what will be done.
        interrupt: where signals are noted.
        force: throw away what the folder holds.

    Raises:
        Busy: another run holds the folder.
        UserError: it belongs to another configuration.
    """
    with ExitStack() as stack:
        if dist.is_main():
            words = ("ader", *plan.config.composition.overrides)
            hold = stack.enter_context(workspace.exclusive(plan.folder, words))
            if force:
                workspace.clear(plan.folder)
            contents = contents_of(plan.config)
            workspace.claim(plan.folder, plan.config.composition.values, plan.id.fingerprint, contents)
        dist.barrier()
        console = stack.enter_context(Console(plan.folder / "run.log", quiet=not dist.is_main()))
        stack.enter_context(console.keeping_errors())
        stack.enter_context(dist.naming_the_dead())
        if dist.is_main():
            for note in hold.notes:
                console.say(note)
        session = Session(plan=plan, interrupt=interrupt, console=console, earlier=record.read(plan.folder))
        stack.enter_context(session.loggers)
        yield session
