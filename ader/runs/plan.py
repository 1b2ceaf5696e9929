"""What will be done, settled before anything is written: everything that can be refused is refused here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ader.config.schema import RunConfig, ScoreConfig
from ader.data.index import TEST, Index
from ader.data.reading import read_index
from ader.data.sizes import Sizes
from ader.data.sources import Source
from ader.methods._base import Method, find_class, recipe_arguments
from ader.metrics import Evaluator
from ader.results.identity import RunId, contents_of, identify, is_anonymous
from ader.results.outputs import Outputs
from ader.runs.finished import demanded, wanted
from ader.settings import ModelSplit, apply
from ader.system import dist
from ader.system.contents import Contents
from ader.system.device import resolve_device
from ader.training.loggers import check_packages


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An evaluation, wherever its predictions come from.

    Attributes:
        config: the configuration.
        index: all samples, as they are trained on and tested.
        id: the dataset's label, the results folder, and what makes this run the same as another.
        device: where everything is computed.
        outputs: what the result will hold besides the tables.
        demanded: those of them without which a finished result is made again.
    """

    config: RunConfig | ScoreConfig
    index: Index
    id: RunId
    device: torch.device
    outputs: Outputs
    demanded: Outputs

    @property
    def folder(self) -> Path:
        """Of the results."""
        return self.id.folder

    @property
    def title(self) -> str:
        """``demo / multi_class / rd / e100-s42``."""
        choices = self.config.composition.choices
        return " / ".join((self.id.label, choices["setting"], choices["method"], self.folder.name))

    @property
    def sizes(self) -> Sizes:
        """At which size maps and masks are compared; how masks are read is the session's to find out."""
        metric = self.config.metric
        return Sizes(metric.size, metric.map_interpolation, metric.mask_interpolation)

    @property
    def published(self) -> bool:
        """Whether the dataset is a known one and not the user's own images."""
        return not is_anonymous(self.config, self.index)

    def new_evaluator(self, outputs: Outputs) -> Evaluator:
        """An empty evaluator with the plan's categories and metrics."""
        tested = self.index.split(TEST).categories  # drifts may be tested only, and other conditions trained on only
        return Evaluator(list(tested), self.device, self.config.metric.name, by_defect=outputs.by_defect)


@dataclass(frozen=True)
class PlannedModel:
    """One model that a run trains and tests.

    Attributes:
        split: its name and its samples.
        method_class: the method.
        arguments: of its constructor, checked.
        folder: of its checkpoint and curves.
    """

    split: ModelSplit
    method_class: type[Method]
    arguments: Mapping[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The split's."""
        return self.split.name

    @property
    def inputs(self) -> Mapping[str, Source]:
        """What the method gets of every image besides its pixels."""
        return self.method_class.inputs(self.arguments)


@dataclass(frozen=True, kw_only=True)
class RunPlan(Plan):
    """A run: its models are trained, and tested.

    Attributes:
        models: one, or one for each category.
    """

    config: RunConfig
    models: tuple[PlannedModel, ...]


def make_plan(config: RunConfig, trained: bool = False, device: torch.device | None = None) -> RunPlan:
    """Reads the dataset, applies the setting, and checks the method for every model.

    Args:
        config: the configuration.
        trained: the models are: what training alone would read does not matter.
        device: where everything is computed; None: where the configuration says, by all processes that were started
            for this run.

    Raises:
        UserError: bad input.
    """
    if device is None:
        device = resolve_device(config.trainer.device)
        dist.start(device)
    with dist.main_first():  # a generated dataset is made once
        published = read_index(config.dataset, config.composition.choices["dataset"])
    method_class = find_class(config.method.name)
    arguments = recipe_arguments(method_class, config.image_size, config.method.rest)
    index, splits = apply(published, config.seed, config.setting.name, config.setting.rest)
    with dist.main_first():  # files are read once
        run_id = identify(config, published)

    def planned(split: ModelSplit) -> PlannedModel:
        training = split.index.where(lambda sample: sample.split != TEST)
        fitting = dict(method_class.arguments_for(arguments, training, run_id.fingerprint["data"]))
        folder = run_id.folder if len(splits) == 1 else run_id.folder / "parts" / split.name
        return PlannedModel(split, method_class, fitting, folder)

    if not trained:
        check_packages(config.logger)
    models = tuple(planned(split) for split in splits)
    with dist.main_first():
        contents = other_files(models, index, contents_of(config), trained=trained)
    return RunPlan(
        config=config,
        index=index,
        id=replace(run_id, fingerprint={**run_id.fingerprint, "contents": contents}),
        device=device,
        outputs=wanted(config),
        demanded=demanded(config),
        models=models,
    )


def other_files(models: Sequence[PlannedModel], index: Index, contents: Contents, *, trained: bool) -> dict[str, str]:
    """Marks of the files besides the dataset's that decide a result, by their kind.

    Args:
        models: what is trained, or evaluated.
        index: all samples.
        contents: looks into files.
        trained: the models are, so that only what is needed to test them counts.
    """
    found: dict[str, dict[str, Path]] = {}
    for model in models:
        if not trained:
            for kind, files in model.method_class.files(model.arguments).items():
                found.setdefault(kind, {}).update(files)
    for name, source in models[0].inputs.items():  # all models ask for the same
        found[name] = dict(source.files(index))
    return {kind: contents.mark(files) for kind, files in found.items()}
