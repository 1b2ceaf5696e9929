"""What ``record.json`` holds, as types: every field says what it is, and the documentation is made from that.

Numbers are finite; what is undefined is null. Seconds are of wall-clock time, memory is in bytes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

#: Changes when a reader of records has to change; ``ader.results.upgrade`` knows how.
SCHEMA = 3

#: Nothing but the declared fields, no infinity, and the text below a field is its description.
PLAIN = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Weights:
    """A set of weights that was not trained in the run."""

    name: str
    """Name of the network (timm's), of the images that anomalies are made of, or of a detector."""

    source: str
    """``timm``, ``random`` (not pretrained), the path of a file, a folder, or the run that trained it."""

    sha256: str | None
    """Checksum of the file, of the tensors or of the images; null where weights are random."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Network:
    """What a method computes with."""

    params: int
    """Number of parameters."""

    trainable_params: int
    """Number of parameters that are trained by gradients."""

    macs: int
    """Multiply-accumulates of the network for one image."""

    weights: tuple[Weights, ...]
    """Weights that training starts from, or that it leaves as they are."""

    warnings: tuple[str, ...]
    """What readers of the result must know of the method, such as a backbone that was not pretrained."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Checkpoint:
    """The file with a model's weights."""

    file: str
    """Path relative to the folder of the record."""

    sha256: str
    """Checksum of the file."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class StageCost:
    """What one stage of training cost; where it was interrupted, over all sessions."""

    seconds: float
    """Duration."""

    images: int
    """Images that were trained on, over all epochs and processes."""

    images_per_second: float
    """Throughput."""

    @classmethod
    def of(cls, seconds: float, images: int) -> StageCost:
        """With the throughput of both; a stage that took no time is no division by zero."""
        return cls(seconds=seconds, images=images, images_per_second=_rate(images, seconds))


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class TrainingCost:
    """What training a model cost."""

    stages: dict[str, StageCost]
    """By name, in their order."""

    memory_bytes: int
    """Peak: allocated on the CUDA device, or the resident set of the process on a CPU."""

    processes: int
    """Processes that trained together; where a training went on with another number, the last."""

    cached: bool
    """Whether decoded images came from the cache."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class PredictionCost:
    """What testing a model cost."""

    images: int
    """Test images."""

    seconds: float
    """Duration of prediction alone, of the slowest process."""

    images_per_second: float
    """Throughput of prediction, all processes together."""

    evaluate_seconds: float
    """Duration of the evaluator's counting, of the slowest process."""

    memory_bytes: int
    """Peak: allocated on the CUDA device, or the resident set of the process on a CPU."""

    @classmethod
    def of(cls, images: int, seconds: float, evaluate_seconds: float, memory_bytes: int) -> PredictionCost:
        """With the throughput."""
        return cls(
            images=images,
            seconds=seconds,
            images_per_second=_rate(images, seconds),
            evaluate_seconds=evaluate_seconds,
            memory_bytes=memory_bytes,
        )


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class ModelRecord:
    """One trained and tested model of a run."""

    network: Network
    """What it computes with."""

    checkpoint: Checkpoint
    """Where its weights are."""

    training: TrainingCost
    """What training it cost."""

    prediction: PredictionCost
    """What testing it cost."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class ScoreFile:
    """A CSV with image scores that go before those of the maps' files."""

    path: str
    """Of the file."""

    rows: int
    """Number of rows."""

    unused_rows: int
    """Number of rows that belong to no test image."""

    sha256: str
    """Checksum of the file."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class ReadingCost:
    """What reading and evaluating maps cost."""

    images: int
    """Test images."""

    seconds: float
    """Duration of reading, as far as the evaluation waited for it."""

    evaluate_seconds: float
    """Duration of the evaluator's counting."""

    scores_from_maps: int
    """Images without a score of their own: theirs is the largest value of the map."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class MapSource:
    """Anomaly maps of another program (``ader score``)."""

    kind: str
    """``folder`` or ``pickle``."""

    path: str
    """Of the folder or the pickle."""

    files: int
    """Number of files with maps."""

    format: dict[str, int] | str
    """Number of files by extension; of a pickle, what it holds."""

    mixed: bool
    """Whether a folder's maps are of several formats, the scales of which may differ."""

    masks: str | None = None
    """Where masks are from, if that could be doubted."""

    sha256: str
    """Checksum over ``sha256_of``."""

    sha256_of: str
    """What the checksum covers."""

    scores: ScoreFile | None = None
    """The CSV with image scores, if one was given."""

    reading: ReadingCost
    """What reading and evaluating the maps cost."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Masks:
    """How the dataset's masks were read."""

    wanted: str
    """``metric.mask_rule`` as it was asked for: ``auto``, ``any`` or ``half``."""

    rule: str
    """Which levels are defective: ``any`` above 0, or those from ``half`` of the file's range."""

    files: int
    """Number of masks."""

    soft: int
    """Number of masks with soft edges: ramps of levels between 0 and the brightest, or those of a JPEG."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Commit:
    """The state of the program's clone."""

    sha: str
    """Its commit."""

    dirty: bool
    """Whether files differ from that."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Hardware:
    """A machine, as torch sees it."""

    platform: str
    """Operating system."""

    cpu: str
    """Processor."""

    cores: int | None
    """Logical cores."""

    threads: int
    """Threads that torch computes with."""

    gpus: tuple[str, ...]
    """GPUs that torch sees."""

    cuda: str | None
    """Version of CUDA; null without a GPU."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Provenance:
    """When a result was made, by what code, and on which machine."""

    time: str
    """UTC, ISO 8601, to the second."""

    commit: Commit | None
    """Of the clone; null for an installed package."""

    versions: dict[str, str | None]
    """Of Python and of the packages that decide results; null where one is missing."""

    hardware: Hardware
    """The machine."""

    command: tuple[str, ...]
    """Words of the command line."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class EvaluatedFrom:
    """The run that trained what was evaluated (``ader eval``)."""

    run: str
    """Its folder, relative to that of the record; ``.`` where both are one."""

    time: str
    """When it was made."""

    commit: Commit | None
    """The code that made it."""


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Record:
    """Everything that stands behind a result's numbers."""

    schema: int = SCHEMA
    """Version of this format."""

    status: str = "done"
    """``done``: a result has a record only once it is whole."""

    title: str
    """``<dataset> / <setting> / <method> / <run>``."""

    choices: dict[str, str]
    """The chosen option of each config group."""

    seed: int | None
    """Of the run; null for maps of another program."""

    config: dict[str, Any]
    """The whole configuration."""

    config_hash: str
    """Checksum of what decides the result: recipe and data."""

    overrides: tuple[str, ...]
    """Words that the configuration was composed with."""

    config_dir: str | None
    """Folder with further options."""

    data_root: str
    """Folder of the dataset."""

    data_hash: str
    """Checksum of the dataset's index; of the user's own images also of their content."""

    index_hash: str
    """Checksum of the index after the setting was applied."""

    images: dict[str, int]
    """Number of images by split and label, such as ``train_good`` and ``test_bad``."""

    metric: str
    """How metrics were computed: ``histogram``, ``exact`` or ``ader``."""

    maps: bool
    """Whether the anomaly maps were kept."""

    by_defect: bool
    """Whether there is a table per kind of defect."""

    gallery: Literal["off", "worst", "all"] = "off"
    """Which test images there are pictures of; ``off`` where an earlier version wrote the record."""

    warnings: tuple[str, ...]
    """What readers of the result must know of its data, its training and its models."""

    models: dict[str, ModelRecord]
    """By category, or ``all``; none for maps of another program."""

    source: MapSource | None = None
    """The maps of another program that were evaluated."""

    evaluated_from: EvaluatedFrom | None = None
    """The run that trained the models, where it was evaluated again."""

    masks: Masks | None = None
    """How masks were read; missing for a dataset without any."""

    rows: dict[str, dict[str, float | None]]
    """The table: metrics as fractions, by category and ``mean``."""

    undefined: dict[str, tuple[str, ...]]
    """Why values are missing: reason, and the categories that it holds for."""

    provenance: Provenance
    """When, by what code and on which machine the result was made."""


def plain(value: Any) -> dict[str, Any]:
    """A record, or a part of one, as JSON has it; optional fields that are not given are left out."""
    return {
        field.name: _plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if not (field.default is None and getattr(value, field.name) is None)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _rate(images: int, seconds: float) -> float:
    return images / max(1e-9, seconds)
