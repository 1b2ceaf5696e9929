"""A run's options as typed values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ader.config.compose import Composed
from ader.config.validate import validated
from ader.data.image_cache import CachedImages
from ader.results.identity import check_name
from ader.runs.task import Task
from ader.settings import ModelSplit
from ader.system.precision import Precision

Workers = Literal["auto"] | Annotated[int, Field(ge=0)]


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
    workers: Workers
    test_batch_size: Annotated[int, Field(ge=1)]
    checkpoint_minutes: Annotated[float, Field(ge=0)]

    def decoders(self) -> int:
        """Worker processes for decoding."""
        return decoders(self.workers)


def _on_or_off(value: object) -> object:
    """YAML reads both words as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


@dataclass(frozen=True)
class CacheOptions:
    """The keys of the group ``dataset`` that say whether decoded images are kept."""

    cache: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)]
    cache_above: Annotated[int, Field(ge=0)]


@dataclass(kw_only=True)
class Job(Task):
    """The evaluation of a method that this program trains.

    Attributes:
        options, trainer: parts of the configuration, checked.
        parts: one for each model.
        caching: whether decoded images are kept.
        cached: all images, once they are decoded; None: every batch decodes its own.
    """

    options: RunOptions
    trainer: TrainerOptions
    parts: Sequence[ModelSplit]
    caching: CacheOptions
    cached: CachedImages | None = None


def decoders(workers: int | Literal["auto"]) -> int:
    """How many processes or threads decode images."""
    return min(8, os.cpu_count() or 1) if workers == "auto" else workers


def run_options(composed: Composed) -> RunOptions:
    """The top-level keys, checked."""
    groups = {*composed.choices, "experiment", "recipe"}
    given = {key: value for key, value in composed.values.items() if key not in groups}
    if given.get("run") is not None:
        given["run"] = check_name("run", given["run"])  # run=12 is a name, too
    return RunOptions(**validated(RunOptions, given, where=""))


def cache_options(composed: Composed) -> CacheOptions:
    """Those keys of the group ``dataset`` that are the cache's, checked."""
    given = {key: composed.values["dataset"][key] for key in ("cache", "cache_above")}
    return CacheOptions(**validated(CacheOptions, given, where="dataset"))


def trainer_options(composed: Composed) -> TrainerOptions:
    """The group ``trainer``, checked."""
    return TrainerOptions(**validated(TrainerOptions, composed.values["trainer"], where="trainer"))
