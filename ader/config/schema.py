"""The schema of the configuration: one frozen dataclass for each group, one for each thing that is composed.

``RunConfig`` is what ``configs/run.yaml`` composes, ``ScoreConfig`` ``configs/score.yaml``, ``DataConfig``
``configs/data.yaml``. A new group is a dataclass here, a field of the config that has it, and a folder of YAML files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from ader.config.keys import MACHINE, RECIPE, REST, STATEMENT, Declared, Key, declared, group, marks
from ader.config.ranges import Count, Many, NonNegative, Pixels, Positive, Rate, Seed
from ader.system.launch import cores

#: Bytes of a path, and of a name in it, as Linux allows them.
LONGEST_PATH, LONGEST_NAME = 4095, 255


def _path(value: str) -> str:
    """Text that may be a path; ``~`` is expanded where it is used."""
    if not value:
        raise ValueError("it is empty: a path is wanted")
    if "\0" in value:
        raise ValueError("a path has no NUL character")
    try:
        expanded = os.fspath(Path(value).expanduser())
    except RuntimeError as error:
        raise ValueError(f"there is no user {value.partition('/')[0]}") from error
    whole = os.fsencode(expanded)
    if len(whole) > LONGEST_PATH or any(len(name) > LONGEST_NAME for name in whole.split(b"/")):
        raise ValueError(f"a path has at most {LONGEST_PATH} bytes, and a name in it {LONGEST_NAME}")
    return value


def _folder(value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("a folder is text")
    return Path(_path(os.fspath(value))).expanduser()


def _device(value: str) -> str:
    """Whether it is there is for torch to say."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", value):
        raise ValueError("choose from auto, cpu, cuda, cuda:0, cuda:1, ...")
    return value


def _on_or_off(value: object) -> object:
    """YAML reads both words as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _name(value: str) -> str:
    if not value.isprintable():
        raise ValueError("a name has no control characters, and is UTF-8")
    return value


def _listed(value: object) -> object:
    """``categories=bottle`` is a list of one."""
    return [value] if isinstance(value, str) else value


Folder = Annotated[Path, BeforeValidator(_folder)]
PathText = Annotated[str, AfterValidator(_path)]
Device = Annotated[str, AfterValidator(_device)]
Workers = Literal["auto"] | Annotated[int, Field(ge=0, le=256)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_name)]
Names = Annotated[list[Name], BeforeValidator(_listed), Field(min_length=1)]
Number = Annotated[int, Field(ge=0, le=1_000_000_000)]
#: As ``ader.data.counts`` has it: a row of three, or numbers by split and label.
Counts = Mapping[str, tuple[Number, Number, Number] | Mapping[str, Number | list[Number]]]
Rest = Mapping[str, Any]


@group
@dataclass(frozen=True)
class PathOptions:
    """Where things are; each has an environment variable (``configs/paths/default.yaml``)."""

    data: Annotated[Folder, Key(MACHINE, "datasets, a folder each", at_eval=True)]
    results: Annotated[Folder, Key(MACHINE, "what runs write", at_eval=True)]
    weights: Annotated[Folder, Key(MACHINE, "pretrained weights, searched before a download", at_eval=True)]
    cache: Annotated[Folder, Key(MACHINE, "what can be made again, such as decoded images", at_eval=True)]


@group
@dataclass(frozen=True)
class DatasetOptions:
    """A dataset: which function reads it, from where, and what is known of it."""

    name: Annotated[str, Key(RECIPE, "the reader: a module of ader.datasets")]
    root: Annotated[PathText, Key(MACHINE, "its folder", at_eval=True, reader=True)]
    about: Annotated[Rest | None, Key(STATEMENT, "title, paper, license, categories, where to get it")] = None
    label: Annotated[Name | None, Key(STATEMENT, "its name in paths and tables; null: the option's")] = None
    counts: Annotated[Counts | None, Key(STATEMENT, "published numbers of images", reader=True)] = None
    check_counts: Annotated[bool, Key(RECIPE, "refuse other numbers of images than the published ones")] = True
    cache: Annotated[
        Literal["auto", "on", "off"],
        BeforeValidator(_on_or_off),
        Key(MACHINE, "keep decoded images in paths.cache; auto: of datasets with cache_above images", at_eval=True),
    ] = "auto"
    cache_above: Annotated[Number, Key(MACHINE, "images from which on an automatic cache is kept", at_eval=True)] = 500
    bits: Annotated[
        Annotated[int, Field(ge=8, le=16)] | None,
        Key(RECIPE, "that the values in 16-bit images use; null: all 16, refused where none is that high", reader=True),
    ] = None
    categories: Annotated[Names | None, Key(RECIPE, "those to run on; null: all", reader=True)] = None
    train_on: Annotated[Names, Key(RECIPE, "the splits that are the training data", reader=True)] = field(
        default_factory=lambda: ["train"]
    )
    rest: Annotated[Rest, Key(RECIPE, "the reader's own arguments", reader=True)] = field(default_factory=dict)

    def reader_arguments(self) -> dict[str, Any]:
        """What the function that reads the dataset is given besides the root."""
        own = {name: getattr(self, name) for name, mark in marks(DatasetOptions).items() if mark.reader}
        del own["root"], own[REST]
        return {**own, **self.rest}


@group
@dataclass(frozen=True)
class MethodOptions:
    """A method and its constructor's arguments."""

    name: Annotated[str, Key(RECIPE, "the module of ader.methods")]
    rest: Annotated[Rest, Key(RECIPE, "the constructor's arguments")] = field(default_factory=dict)


@group
@dataclass(frozen=True)
class SettingOptions:
    """What is trained on."""

    name: Annotated[str, Key(RECIPE, "the function of ader.settings")]
    rest: Annotated[Rest, Key(RECIPE, "the function's arguments")] = field(default_factory=dict)


@group
@dataclass(frozen=True)
class TrainerOptions:
    """The budget, and how to compute."""

    epochs: Annotated[Count, Key(RECIPE, "sweeps over the training images")]
    max_steps: Annotated[Many | None, Key(RECIPE, "cap on the steps of each training stage, for trials")]
    precision: Annotated[
        Literal["fp32", "torch", "tf32", "bf16"],
        Key(RECIPE, "of products; torch: TF32 in convolutions only; bf16 by autocast", at_eval=True),
    ]
    device: Annotated[Device, Key(MACHINE, "auto, cpu, cuda or cuda:1", at_eval=True)]
    workers: Annotated[Workers, Key(MACHINE, "decoding processes; auto: the cores, at most 8", at_eval=True)]
    test_batch_size: Annotated[Count, Key(MACHINE, "images that are predicted together", at_eval=True)]
    ema: Annotated[
        Rate | None,
        Key(RECIPE, "decay of a moving average of the trained weights, which is what is evaluated; null: none"),
    ]
    accumulate: Annotated[Count, Key(RECIPE, "batches whose gradients make one update; steps count batches")]
    sync_batchnorm: Annotated[bool, Key(RECIPE, "batch norms take their statistics over all processes, not over each")]
    compile: Annotated[bool, Key(RECIPE, "torch.compile of the modules that train")]
    channels_last: Annotated[bool, Key(RECIPE, "memory layout of weights and images", at_eval=True)]
    cache_features: Annotated[
        Literal["auto", "on", "off"],
        BeforeValidator(_on_or_off),
        Key(
            MACHINE,
            "keep frozen networks' features in paths.cache; auto: on a CPU, for several epochs, if it has room",
        ),
    ]
    checkpoint_minutes: Annotated[NonNegative, Key(MACHINE, "between two checkpoints")]

    def decoders(self) -> int:
        """Worker processes for decoding."""
        return decoders(self.workers)


@group
@dataclass(frozen=True)
class MetricOptions:
    """The evaluation."""

    name: Annotated[str, Key(RECIPE, "histogram, exact or ader", at_eval=True)]
    size: Annotated[
        Literal["input", "original"] | Annotated[int, Field(ge=16, le=8192)],
        Key(RECIPE, "at which maps and masks are compared: masks resized to maps, maps to masks, both", at_eval=True),
    ]
    map_interpolation: Annotated[Literal["bilinear", "nearest"], Key(RECIPE, "of maps", at_eval=True)]
    mask_interpolation: Annotated[Literal["bilinear", "nearest"], Key(RECIPE, "of masks", at_eval=True)]
    mask_rule: Annotated[
        Literal["auto", "any", "half"],
        Key(RECIPE, "defective levels of masks: above 0, from one half of the range; auto: half for soft edges", True),
    ]
    by_defect: Annotated[bool, Key(MACHINE, "also a table with a row per kind of defect", at_eval=True)]


@dataclass(frozen=True)
class CsvOptions:
    """``logger=csv``; nothing can be chosen."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class WandbOptions:
    """``logger=wandb``: as ``wandb.init`` has them."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    project: Name = "ader"
    entity: Name | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    group: Name | None = None
    tags: Annotated[list[Name], BeforeValidator(_listed)] = field(default_factory=list)


@dataclass(frozen=True)
class MlflowOptions:
    """``logger=mlflow``."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    uri: PathText | None = None
    experiment: Name = "ader"


@group
@dataclass(frozen=True)
class LoggerOptions:
    """Where curves, the final table and pictures go besides the run's own files; a field is a logger's name."""

    csv: Annotated[CsvOptions | None, Key(MACHINE, "scalars.csv in the run's folder; null: not")] = None
    wandb: Annotated[
        WandbOptions | None, Key(MACHINE, "Weights & Biases: project, entity, mode, group, tags; null: not")
    ] = None
    mlflow: Annotated[MlflowOptions | None, Key(MACHINE, "MLflow: uri, experiment; null: not")] = None


@dataclass(frozen=True)
class Composition:
    """What Hydra composed, as plain values.

    Attributes:
        values: all groups, interpolations resolved.
        defaults: the same choices without any value overridden (and without the experiment), but with the default
            trainer's values for these epochs and this seed.
        choices: the option taken in each group.
        overrides, config_dir: what it was composed from.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any]
    choices: Mapping[str, str]
    overrides: tuple[str, ...] = ()
    config_dir: str | None = None

    def as_yaml(self) -> str:
        """The configuration as ``--cfg`` prints it."""
        from omegaconf import OmegaConf  # not needed to know the keys

        return OmegaConf.to_yaml(OmegaConf.create(dict(self.values)))


@dataclass(frozen=True)
class Config:
    """Anything that is composed: its typed groups, and where they come from."""

    ROOT: ClassVar[str]
    NOT_KEYS: ClassVar[tuple[str, ...]] = ("composition",)

    composition: Composition

    @property
    def values(self) -> Mapping[str, Any]:
        """All of it as plain values, for records and names."""
        return self.composition.values


@group
@dataclass(frozen=True)
class RunConfig(Config):
    """One run."""

    ROOT: ClassVar[str] = "run"

    paths: PathOptions
    dataset: DatasetOptions
    method: MethodOptions
    setting: SettingOptions
    trainer: TrainerOptions
    metric: MetricOptions
    logger: LoggerOptions
    recipe: Annotated[str | None, Key(RECIPE, "a named variant of the method's recipe; null: the default")]
    seed: Annotated[Seed, Key(RECIPE, "of everything that is drawn")]
    image_size: Annotated[Pixels, Key(RECIPE, "pixels; images are resized to a square")]
    run: Annotated[Name | None, Key(MACHINE, "name of the run's folder; null: made from what differs", at_eval=True)]
    save_maps: Annotated[bool, Key(MACHINE, "keep every anomaly map as float32 .npy", at_eval=True)]
    gallery: Annotated[
        Literal["off", "worst", "all"],
        BeforeValidator(_on_or_off),
        Key(MACHINE, "pictures to keep: a category's worst errors and an example per defect, or every image", True),
    ]
    force: Annotated[bool, Key(MACHINE, "throw an existing result away and start again", at_eval=True)]


@group
@dataclass(frozen=True)
class ScoreConfig(Config):
    """Maps of another program, to be evaluated."""

    ROOT: ClassVar[str] = "score"

    paths: PathOptions
    dataset: DatasetOptions
    metric: MetricOptions
    name: Annotated[Name | None, Key(MACHINE, "stands for the maps in the results; null: their folder's name")]
    scores: Annotated[PathText | None, Key(MACHINE, "CSV of image scores; null: the largest value of each map")]
    device: Annotated[Device, Key(MACHINE, "auto, cpu, cuda or cuda:1")]
    workers: Annotated[Workers, Key(MACHINE, "threads that read; auto: the cores, at most 8")]
    run: Annotated[Name | None, Key(MACHINE, "name of the result's folder; null: made from what differs")]
    force: Annotated[bool, Key(MACHINE, "throw an existing result away and start again")]


@group
@dataclass(frozen=True)
class DataConfig(Config):
    """A dataset on disk, to be checked or prepared."""

    ROOT: ClassVar[str] = "data"

    paths: PathOptions
    dataset: DatasetOptions
    image_size: Annotated[Pixels, Key(MACHINE, "check: defects that vanish at this size are listed")]
    report: Annotated[PathText | None, Key(MACHINE, "check: where every finding is written; null: in paths.cache")]
    source: Annotated[PathText | None, Key(MACHINE, "prepare: an archive or a folder; null: dataset.root")]
    workers: Annotated[Workers, Key(MACHINE, "decoding threads; auto: the cores, at most 8")]


@group
@dataclass(frozen=True)
class LauncherOptions:
    """Where a sweep's jobs run, and how long."""

    name: Annotated[str, Key(MACHINE, "the module of ader.sweeps.engines")]
    hours: Annotated[Positive | None, Key(MACHINE, "time limit of a job; null: none")]
    idle_minutes: Annotated[
        Positive | None, Key(MACHINE, "after which a job is hung that says and computes nothing; null: never")
    ]
    grace_seconds: Annotated[NonNegative, Key(MACHINE, "for a job that is told to end, until it is killed")]
    smaller_test_batch: Annotated[
        bool, Key(MACHINE, "a job out of memory runs once more with a quarter of trainer.test_batch_size")
    ]
    rest: Annotated[Rest, Key(MACHINE, "the launcher's own arguments")] = field(default_factory=dict)


@group
@dataclass(frozen=True)
class SweepConfig(Config):
    """A sweep; what its jobs are is no part of it."""

    ROOT: ClassVar[str] = "sweep"

    paths: PathOptions
    launcher: LauncherOptions
    sweep: Annotated[Name | None, Key(MACHINE, "name of its folder in paths.results/sweeps; null: made from the jobs")]
    retry: Annotated[
        Literal["missing", "failed", "new"],
        Key(MACHINE, "what the same line runs again: all without a result, those that failed, or none of these"),
    ]
    preflight: Annotated[bool, Key(MACHINE, "try a step and a test batch of each job first")]
    dry_run: Annotated[bool, Key(MACHINE, "say which jobs would run, and run none")]


def decoders(workers: int | Literal["auto"]) -> int:
    """How many processes or threads decode images."""
    return min(8, cores()) if workers == "auto" else workers


def keys(config: type[Config] = RunConfig) -> Iterator[Declared]:
    """Every key of a config, for the documentation."""
    return declared(config)
