"""What a run cost, as columns of tables beside its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ader.results.schema import ModelRecord, Record


class Cost(NamedTuple):
    """One kind of cost.

    Attributes:
        group: a heading that it shares with others.
        heading: its own.
        digits: after the point.
        value: of a record; NaN where it does not say.
    """

    group: str
    heading: str
    digits: int
    value: Callable[[Record], float]


def _largest(of: Callable[[ModelRecord], float]) -> Callable[[Record], float]:
    return lambda record: max((of(model) for model in record.models.values()), default=math.nan)


def _train_hours(record: Record) -> float:
    if not record.models:  # maps of another program
        return math.nan
    return sum(stage.seconds for model in record.models.values() for stage in model.training.stages.values()) / 3600


def _test_seconds(record: Record) -> float:
    costs = [model.prediction for model in record.models.values()]
    return sum(cost.seconds + cost.evaluate_seconds for cost in costs) if costs else math.nan


def _pace(record: Record) -> float:
    costs = [model.prediction for model in record.models.values()]
    return sum(cost.images for cost in costs) / max(1e-9, sum(cost.seconds for cost in costs)) if costs else math.nan


#: By name. Of a run with a model per category: the largest model and memory, the sum of times.
COSTS: Mapping[str, Cost] = {
    "params": Cost("", "params (M)", 1, _largest(lambda model: model.network.params / 1e6)),
    "macs": Cost("", "MACs (G)", 1, _largest(lambda model: model.network.macs / 1e9)),
    "train_memory": Cost("memory (MB)", "train", 0, _largest(lambda model: model.training.memory_bytes / 2**20)),
    "test_memory": Cost("memory (MB)", "test", 0, _largest(lambda model: model.prediction.memory_bytes / 2**20)),
    "train_hours": Cost("time", "train (h)", 2, _train_hours),
    "test_seconds": Cost("time", "test (s)", 1, _test_seconds),
    "fps": Cost("time", "images/s", 1, _pace),
}
