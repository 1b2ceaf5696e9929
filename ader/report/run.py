"""What an evaluation tells: its beginning, its result files, its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ader import __version__
from ader.data.index import TEST, TRAIN, Index, Sample
from ader.data.sizes import Sizes
from ader.methods._base import Method
from ader.metrics import OBJECT_METRICS
from ader.report.table import chance, render, render_defects
from ader.results import record
from ader.runs.job import Job
from ader.runs.task import Task
from ader.settings import Part
from ader.system.console import Console, duration
from ader.system.errors import some
from ader.training.cost import count_macs, count_parameters

#: What one must know of a metric profile to read its numbers.
PROFILES = {
    "exact": "metric=exact: pixel metrics are exact, every score was sorted",
    "ader": "metric=ader: as ADer's published tables were computed; other profiles give other numbers",
}

#: What is timed, and what it is called.
TIMES = {
    "train_seconds": "training",
    "predict_seconds": "prediction",
    "read_seconds": "reading",
    "evaluate_seconds": "evaluation",
}


def announce(task: Task, *lines: str) -> None:
    """Says what will be evaluated, on what (``lines``), and where the results go."""
    task.console.say(f"ader {__version__}  {title(task)}")
    for line in (f"data     {census(task.index)}", f"         {task.index.root}", *lines, f"results  {task.folder}"):
        task.console.say(line)


def census(index: Index) -> str:
    """``15 categories: 3629 training, 467 normal and 1258 defective test images``."""
    training: dict[str, list[Sample]] = {}
    for sample in index:
        if sample.split != TEST:
            training.setdefault(sample.split, []).append(sample)
    parts = [
        _training(split, samples) for split, samples in sorted(training.items(), key=lambda item: item[0] != TRAIN)
    ]
    good, bad = (sum(sample.label == label for sample in index.split(TEST)) for label in (0, 1))
    parts.append(f"{good} normal and {bad} defective test images")
    count = len(index.categories)
    return f"{count} categor{'y' if count == 1 else 'ies'}: {', '.join(parts)}"


def _training(split: str, samples: Sequence[Sample]) -> str:
    """How many images a part of the training data has, and how many are not what normal training images are."""
    labelled = sum(sample.label for sample in samples)
    wrong = sum(not sample.label and sample.defect != "good" for sample in samples)
    notes = [f"{labelled} defective"] * bool(labelled) + [f"{wrong} defective but said to be normal"] * bool(wrong)
    name = "training" if split == TRAIN else split
    return f"{len(samples)} {name}" + (f" ({', '.join(notes)})" if notes else "")


def device_line(job: Job) -> str:
    """Where and how a method is computed."""
    return f"device   {job.device}, {job.trainer.precision}, images {job.options.image_size}x{job.options.image_size}"


def title(task: Task) -> str:
    """``demo / multi_class / rd / e100-s42``."""
    choices = task.composed.choices
    parts = (task.place.label, choices["setting"], choices["method"], task.folder.name)
    return " / ".join(parts)


def describe(job: Job, part: Part, method: Method) -> dict[str, Any]:
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
        for caveat in method.caveats():
            job.console.say(f"CAUTION  {caveat}")
    return {
        "params": params,
        "trainable_params": trainable,
        "macs": macs,
        "weights": method.weights(),
        "caveats": method.caveats(),
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
        "caveats": list(dict.fromkeys(text for facts in task.facts.values() for text in facts["caveats"])),
        "parts": task.facts,
        "rows": record.rows(frame),
        "undefined": _reasons(_worth_saying(task)),
        **record.provenance(),
    }
    with task.interrupt.patiently():
        record.write(task.folder, files, content)


def show(folder: Path, console: Console) -> None:
    """Prints a result's tables, and what one must know to read them."""
    result = record.read(folder)
    assert result is not None
    frame, bounds, counts = (record.read_table(folder / f"{name}.csv") for name in ("metrics", "bounds", "counts"))
    frame.loc["chance"] = chance(counts)
    profile = "" if result["profile"] == "histogram" else f"  metric={result['profile']}"
    console.say("\n" + render(frame, f"{result['title']}{profile}  (percent)"))
    if result["by_defect"]:
        console.say("\n" + render_defects(record.read_table(folder / "defects.csv")))
    for line in ["", *_footnotes(frame, bounds, counts, result), f"written to {folder}"]:
        console.say(line)


def _footnotes(frame: pd.DataFrame, bounds: pd.DataFrame, counts: pd.DataFrame, result: Mapping[str, Any]) -> list[str]:
    lines = []
    widest = bounds.drop(index="mean").filter(like="pixel_").max()
    if result["profile"] in PROFILES:
        lines.append(PROFILES[result["profile"]])
    elif widest.notna().any():
        lines.append(
            f"pixel metrics are certified: the exact value is within {100 * widest.max():.4f} points "
            f"({widest.idxmax()}; bounds.csv)"
        )
    options = result["config"]["metric"]
    sizes = Sizes(options["size"], options["map_interpolation"], options["mask_interpolation"])
    if sizes != Sizes():
        lines.append(f"metric.size={sizes.size}: {sizes.rule()}")
    lines.append("chance: what random scores would reach on the same images")
    if result["by_defect"]:
        lines.append("per defect: its images and pixels against the category's normal ones; all metrics in defects.csv")
    images = sum(facts["test_images"] for facts in result["parts"].values())
    maxima = sum(facts.get("scores_from_maps", 0) for facts in result["parts"].values())
    if maxima:
        lines.append(f"the scores of {maxima} of {images} images are the largest values of their maps")
    defined = frame.drop(index=["mean", "chance"]).notna().sum()
    partial = [f"{slug} {count}" for slug, count in defined.items() if 0 < count < len(counts)]
    if partial:
        lines.append(f"the mean is over fewer than the {len(counts)} categories for: {some(partial)}")
    lines += [f"'-': {reason} ({some(where, 3)})" for reason, where in _roots(result["undefined"]).items()]
    vanished = counts["vanished"]
    for category, count in vanished[vanished > 0].items():
        lines.append(
            f"{category}: {count:.0f} defects vanish from the mask at the evaluation size; "
            + ("their images count as normal" if result["profile"] == "ader" else "the images stay defective")
        )
    lines += [f"CAUTION: {caveat}" for caveat in result["caveats"]]
    lines.append(_times(result["parts"].values()))
    return lines


def _times(parts: Iterable[Mapping[str, Any]]) -> str:
    """How long each kind of work took, over all parts."""
    totals: dict[str, float] = {}
    for facts in parts:
        work = {name: facts[name] for name in ("predict_seconds", "read_seconds", "evaluate_seconds") if name in facts}
        if "stage_seconds" in facts:
            work = {"train_seconds": sum(facts["stage_seconds"].values()), **work}
        for name, amount in (*work.items(), ("images", facts["test_images"])):
            totals[name] = totals.get(name, 0) + amount
    texts = []
    for name, noun in TIMES.items():
        if name in totals:
            pace = f" ({totals['images'] / max(totals[name], 1e-9):.1f} images/s)" if name == "predict_seconds" else ""
            texts.append(f"{noun} {duration(totals[name])}{pace}")
    return ", ".join(texts)


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


def _roots(reasons: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Without what is undefined only because another metric is."""
    roots: dict[str, list[str]] = {}
    for reason, where in reasons.items():
        found = roots.setdefault(reason.rpartition(" is undefined: ")[2], [])
        found += [name for name in where if name not in found]
    return roots


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
