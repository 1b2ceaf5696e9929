"""A run's options as typed values, and what its steps share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ader.arguments import validated
from ader.config import Composed
from ader.console import Console
from ader.data import Index, load_index
from ader.errors import UserError
from ader.interrupt import Interrupt
from ader.metrics import Evaluator
from ader.runname import Place, check_name
from ader.trainer import Precision


@dataclass(frozen=True)
class RunOptions:
    """The configuration's own keys."""

    seed: Annotated[int, Field(ge=0)]
    image_size: Annotated[int, Field(ge=32, le=4096)]
    run: str | None
    save_maps: bool
    force: bool


@dataclass(frozen=True)
class TrainerOptions:
    """The group ``trainer``."""

    epochs: Annotated[int, Field(ge=1)]
    max_steps: Annotated[int, Field(ge=1)] | None
    precision: Precision
    device: str
    workers: Literal["auto"] | Annotated[int, Field(ge=0)]
    test_batch_size: Annotated[int, Field(ge=1)]
    checkpoint_minutes: Annotated[float, Field(ge=0)]

    def decoders(self) -> int:
        """Worker processes for decoding."""
        return min(8, os.cpu_count() or 1) if self.workers == "auto" else self.workers


@dataclass
class Job:
    """One run: its options, its data, and what it has found so far.

    Attributes:
        composed: the configuration.
        options, trainer: parts of it, checked.
        device: where everything is computed.
        index: all samples.
        place: the dataset's label, the results folder and the run's fingerprint.
        evaluator: counts of all parts.
        facts: per part, what the record says of it.
    """

    composed: Composed
    options: RunOptions
    trainer: TrainerOptions
    device: torch.device
    index: Index
    place: Place
    console: Console
    interrupt: Interrupt
    evaluator: Evaluator
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of the results."""
        return self.place.folder

    def new_evaluator(self) -> Evaluator:
        """An empty evaluator with the run's categories and metric options."""
        return make_evaluator(self.composed, self.index, self.device)


def run_options(composed: Composed) -> RunOptions:
    """The top-level keys, checked."""
    groups = {*composed.choices, "experiment"}
    given = {key: value for key, value in composed.values.items() if key not in groups}
    if given.get("run") is not None:
        given["run"] = check_name("run", given["run"])  # run=12 is a name, too
    return RunOptions(**validated(RunOptions, given, where=""))


def trainer_options(composed: Composed) -> TrainerOptions:
    """The group ``trainer``, checked."""
    return TrainerOptions(**validated(TrainerOptions, composed.values["trainer"], where="trainer"))


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:i`` as a device that is there.

    Raises:
        UserError: no such device.
    """
    kind, _, number = name.partition(":")
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (":" in name and (kind == "cpu" or not number.isdigit())):
        raise UserError(f"trainer.device={name!r} is not a device: choose from auto, cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cpu":
        return torch.device("cpu")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if number and processes > 1:
        raise UserError(f"trainer.device={name} is one GPU for {processes} processes: set trainer.device=cuda")
    seen = torch.cuda.device_count()
    if int(number or 0) >= seen or processes > max(1, seen):
        wanted = f"{processes} processes need as many GPUs" if processes > 1 else f"trainer.device={name} is not there"
        raise UserError(f"{wanted}: torch sees {seen} CUDA devices")
    return torch.device("cuda", int(number or os.environ.get("LOCAL_RANK", "0")))


def read_index(composed: Composed) -> Index:
    """The samples of the configured dataset."""
    options = {key: value for key, value in composed.values["dataset"].items() if key not in ("about", "label")}
    if not options.pop("check_counts"):
        options["counts"] = None
    index = load_index(options.pop("name"), options.pop("root"), **options)
    if not any(sample.split == "test" for sample in index):
        raise UserError(f"dataset {index.name!r} at {index.root} has no test images: nothing could be evaluated")
    return index


def make_evaluator(composed: Composed, index: Index, device: torch.device) -> Evaluator:
    """The evaluator that the group ``metric`` describes."""
    fixed = {"categories": list(index.categories), "device": str(device)}
    return Evaluator(**validated(Evaluator, {**composed.values["metric"], **fixed}, where="metric"))
