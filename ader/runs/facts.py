"""What an evaluation tells: its beginning, its result files, its record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ader import __version__
from ader.data.census import census
from ader.data.index import TEST, Index
from ader.methods._base import Method
from ader.metrics import OBJECT_METRICS
from ader.results import record
from ader.runs.job import Job
from ader.runs.task import Task
from ader.settings import ModelSplit
from ader.training.cost import count_macs, count_parameters


def announce(task: Task, *lines: str) -> None:
    """Says what will be evaluated, on what (``lines``), and where the results go."""
    task.console.say(f"ader {__version__}  {title(task)}")
    for line in (f"data     {census(task.index)}", f"         {task.index.root}", *lines, f"results  {task.folder}"):
        task.console.say(line)


def device_line(job: Job) -> str:
    """Where and how a method is computed."""
    return f"device   {job.device}, {job.trainer.precision}, images {job.options.image_size}x{job.options.image_size}"


def title(task: Task) -> str:
    """``demo / multi_class / rd / e100-s42``."""
    choices = task.composed.choices
    parts = (task.place.label, choices["setting"], choices["method"], task.folder.name)
    return " / ".join(parts)


def describe(job: Job, part: ModelSplit, method: Method) -> dict[str, Any]:
    """Says what the method is; facts for the record."""
    params, trainable = count_parameters(method)
    macs = count_macs(method, job.options.image_size, job.device)
    if len(job.parts) > 1:
        job.console.say(f"part     {part.name}")
    unseen = sum(sample.label for sample in job.index if sample.split != TEST)
    if unseen and method.tags.supervision == "normal" and not job.facts:
        job.console.say(f"         learns from normal images only: does not see the {unseen} defective training images")
    if not job.facts:
        job.console.say(
            f"method   {params / 1e6:.1f} M parameters, {trainable / 1e6:.1f} M trained, "
            f"{macs / 1e9:.1f} GMAC per image"
        )
        for warning in method.warnings():
            job.console.say(f"CAUTION  {warning}")
    return {
        "params": params,
        "trainable_params": trainable,
        "macs": macs,
        "weights": method.weights(),
        "warnings": method.warnings(),
    }


def write(task: Task) -> None:
    """Writes the tables, and the record that makes them a result; an earlier result is replaced as a whole."""
    evaluator, composed = task.evaluator, task.composed
    frame = evaluator.compute()
    tables = {"metrics.csv": frame, "bounds.csv": evaluator.bounds(), "counts.csv": evaluator.counts()}
    if task.extras.by_defect:
        tables["defects.csv"] = evaluator.breakdown()
    files = {name: record.as_csv(table) for name, table in tables.items()}
    files["scores.csv"] = _scores(task).to_csv(index=False)
    if isinstance(task, Job):
        files["training.csv"] = _training_images(task.index).to_csv(index=False)
    content = {
        "status": "done",
        "title": title(task),
        "choices": {**composed.choices, "dataset": task.place.label},
        "seed": composed.values.get("seed"),
        "config": composed.values,
        "config_hash": record.digest(task.place.fingerprint),
        "overrides": composed.overrides,
        "config_dir": composed.config_dir,
        "data_root": str(task.index.root),
        "data_hash": task.place.fingerprint["data"],
        "index_hash": task.index.digest(),
        "images": dict(sum(task.index.tally().values(), Counter())),
        "profile": evaluator.profile,
        "maps": task.extras.maps,
        "by_defect": task.extras.by_defect,
        **task.origin,
        "warnings": list(dict.fromkeys(text for facts in task.facts.values() for text in facts["warnings"])),
        "parts": task.facts,
        "rows": record.rows(frame),
        "undefined": _reasons(_worth_saying(task)),
        **record.provenance(),
    }
    with task.interrupt.patiently():
        record.write(task.folder, files, content)


def _worth_saying(task: Task) -> dict[tuple[str, str], str]:
    """Why values are missing, except that a dataset without groups has no object metrics."""
    grouped = any(sample.group is not None for sample in task.index.split(TEST))
    undefined = task.evaluator.undefined()
    return {key: reason for key, reason in undefined.items() if grouped or key[1] not in OBJECT_METRICS}


def _reasons(undefined: Mapping[tuple[str, str], str]) -> dict[str, list[str]]:
    """Reason -> the categories it holds for."""
    reasons: dict[str, list[str]] = {}
    for (category, _), reason in undefined.items():
        if category not in reasons.setdefault(reason, []):
            reasons[reason].append(category)
    return reasons


def _scores(task: Task) -> pd.DataFrame:
    """Every test image's score, with what the dataset says of it."""
    rows = [
        (sample.image, sample.category, sample.defect, sample.label, task.scores[sample.image])
        for sample in task.index.split(TEST)
    ]
    return pd.DataFrame(rows, columns=["image", "category", "defect", "label", "score"])


def _training_images(index: Index) -> pd.DataFrame:
    """What a run may have trained on, with the labels that it was told."""
    rows = [(s.image, s.category, s.split, s.defect, s.label) for s in index if s.split != TEST]
    return pd.DataFrame(rows, columns=["image", "category", "split", "defect", "label"])
