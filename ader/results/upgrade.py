"""Records of earlier versions in today's format; what is missing or damaged stays so, for their reader to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ader.results.schema import SCHEMA

#: Of schema 2: what a record, a model and the cost of testing it are made of now, and what that was called.
RECORD = {"warnings": "caveats", "metric": "profile", "models": "parts"}
PROVENANCE = ("time", "commit", "versions", "hardware", "command")
NETWORK = {
    "params": "params",
    "trainable_params": "trainable_params",
    "macs": "macs",
    "weights": "weights",
    "warnings": "caveats",
}
TRAINING = {"memory_bytes": "train_memory_bytes", "processes": "processes", "cached": "cached"}
PREDICTION = {
    "images": "test_images",
    "seconds": "predict_seconds",
    "images_per_second": "predict_images_per_second",
    "evaluate_seconds": "evaluate_seconds",
    "memory_bytes": "test_memory_bytes",
}
READING = {
    "images": "test_images",
    "seconds": "read_seconds",
    "evaluate_seconds": "evaluate_seconds",
    "scores_from_maps": "scores_from_maps",
}
STAGE = {"seconds": "stage_seconds", "images": "stage_images", "images_per_second": "stage_images_per_second"}


def upgrade(old: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an earlier schema as one of today's; one of today's as it is.

    Args:
        old: what JSON gives, with a ``schema`` from ``OLDEST`` to ``SCHEMA``.
    """
    record = dict(old)
    while record["schema"] != SCHEMA:
        record = STEPS[record["schema"]](record)
    return record


def from_2(old: dict[str, Any]) -> dict[str, Any]:
    """Schema 2: one flat dictionary per model (``parts``), maps of another program being one of them."""
    renamed = {*RECORD.values(), *PROVENANCE, "schema"}
    new = {"schema": 3, **{key: value for key, value in old.items() if key not in renamed}}
    new |= _picked(old, RECORD) | {"provenance": {key: old[key] for key in PROVENANCE if key in old}}
    if "source" in new and isinstance(new.get("models"), dict):
        read = new["models"].get("maps")
        new |= {"models": {}, "source": _with(new["source"], reading=_picked(read, READING))}
    elif isinstance(new.get("models"), dict):
        new["models"] = {name: _model(facts) for name, facts in new["models"].items()}
    return new


def _model(facts: Any) -> Any:
    """One model of schema 2."""
    if not isinstance(facts, dict):
        return facts
    training = _picked(facts, TRAINING)
    if "stage_seconds" in facts:
        training["stages"] = _stages(facts)
    parts = {"network": _picked(facts, NETWORK), "training": training, "prediction": _picked(facts, PREDICTION)}
    return parts | _picked(facts, {"checkpoint": "checkpoint"})


def _stages(facts: Mapping[str, Any]) -> Any:
    """By stage what was by figure."""
    seconds = facts["stage_seconds"]
    if not isinstance(seconds, dict):
        return seconds
    by_figure = {new: facts[old] for new, old in STAGE.items() if isinstance(facts.get(old), dict)}
    # a stage without a single step had no entry but its seconds
    return {stage: {figure: values.get(stage, 0) for figure, values in by_figure.items()} for stage in seconds}


def _picked(old: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Today's names with the old names' values, as far as there are any."""
    return {new: old[name] for new, name in names.items() if name in old} if isinstance(old, dict) else {}


def _with(value: Any, **more: Any) -> Any:
    return {**value, **more} if isinstance(value, dict) else value


#: From each earlier schema to the next.
STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {2: from_2}
OLDEST = min(STEPS)
