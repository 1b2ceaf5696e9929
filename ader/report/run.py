"""What a run tells: its beginning, its result files, its table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ader import __version__, record
from ader.console import Console, duration
from ader.errors import some
from ader.job import Job
from ader.methods.base import Method
from ader.profile import count_macs, count_parameters
from ader.report.table import chance, render
from ader.settings import Part


def announce(job: Job) -> None:
    """Says what will be run, on what, and where the results go."""
    index, counts = job.index, job.index.counts()
    train, good, bad = (sum(row[column] for row in counts.values()) for column in range(3))
    say = job.console.say
    say(f"ader {__version__}  {title(job)}")
    say(f"data     {len(counts)} categories: {train} training, {good} normal and {bad} defective test images")
    say(f"         {index.root}")
    say(f"device   {job.device}, {job.trainer.precision}, images {job.options.image_size}x{job.options.image_size}")
    say(f"results  {job.folder}")


def title(job: Job) -> str:
    """``demo / multi_class / rd / e100-s42``."""
    choices = job.composed.choices
    parts = (job.place.label, choices["setting"], choices["method"], job.folder.name)
    return " / ".join(parts)


def describe(job: Job, part: Part, method: Method) -> dict[str, Any]:
    """Says what the method is; facts for the record."""
    params, trainable = count_parameters(method)
    macs = count_macs(method, job.options.image_size, job.device)
    if part.index is not job.index:
        job.console.say(f"part     {part.name}")
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


def write(job: Job) -> None:
    """Writes the tables, and last the record that makes them a result."""
    evaluator = job.evaluator
    record.write_table(job.folder / "metrics.csv", evaluator.compute())
    record.write_table(job.folder / "bounds.csv", evaluator.bounds())
    record.write_table(job.folder / "counts.csv", evaluator.counts())
    composed = job.composed
    choices = {**composed.choices, "dataset": job.place.label}
    content = {
        "status": "done",
        "title": title(job),
        "choices": choices,
        "seed": job.options.seed,
        "config": composed.values,
        "config_hash": record.digest(job.place.fingerprint),
        "index_hash": job.index.digest(),
        "profile": evaluator.profile,
        "maps": job.options.save_maps,
        "caveats": list(dict.fromkeys(text for facts in job.facts.values() for text in facts["caveats"])),
        "parts": job.facts,
        "rows": record.rows(evaluator.compute()),
        "undefined": _reasons(evaluator.undefined()),
        **record.provenance(),
    }
    record.write(job.folder, content)


def show(folder: Path, console: Console) -> None:
    """Prints a finished run's table, and what one must know to read it."""
    result = record.read(folder)
    assert result is not None
    frame = record.read_table(folder / "metrics.csv")
    bounds = record.read_table(folder / "bounds.csv")
    counts = record.read_table(folder / "counts.csv")
    frame.loc["chance"] = chance(counts)
    console.say("\n" + render(frame, f"{result['title']}  (percent)"))
    for line in ["", *_footnotes(frame, bounds, counts, result), f"written to {folder}"]:
        console.say(line)


def _footnotes(frame: pd.DataFrame, bounds: pd.DataFrame, counts: pd.DataFrame, result: Mapping[str, Any]) -> list[str]:
    lines = []
    widest = bounds.drop(index="mean").max()
    if result["profile"] == "histogram" and widest.notna().any():
        lines.append(
            f"pixel metrics are certified: the exact value is within {100 * widest.max():.4f} points "
            f"({widest.idxmax()}; bounds.csv)"
        )
    lines.append("chance: what random scores would reach on the same images")
    defined = frame.drop(index=["mean", "chance"]).notna().sum()
    partial = [f"{slug} {count}" for slug, count in defined.items() if 0 < count < len(counts)]
    if partial:
        lines.append(f"the mean is over fewer than the {len(counts)} categories for: {some(partial)}")
    for reason, where in result["undefined"].items():
        lines.append(f"'-': {reason} ({some(where, 3)})")
    vanished = counts["vanished"]
    for category, count in vanished[vanished > 0].items():
        lines.append(
            f"{category}: {count:.0f} defects vanish from the mask at this image size; the images stay defective"
        )
    lines += [f"CAUTION: {caveat}" for caveat in result["caveats"]]
    lines.append(_times(result["parts"]))
    return lines


def _times(parts: Mapping[str, Mapping[str, Any]]) -> str:
    train = sum(sum(facts["stage_seconds"].values()) for facts in parts.values())
    predict = sum(facts["predict_seconds"] for facts in parts.values())
    evaluate = sum(facts["evaluate_seconds"] for facts in parts.values())
    images = sum(facts["test_images"] for facts in parts.values())
    return (
        f"training {duration(train)}, prediction {duration(predict)} ({images / max(predict, 1e-9):.1f} images/s), "
        f"evaluation {duration(evaluate)}"
    )


def _reasons(undefined: Mapping[tuple[str, str], str]) -> dict[str, list[str]]:
    """Reason -> the categories it holds for."""
    reasons: dict[str, list[str]] = {}
    for (category, _), reason in undefined.items():
        if category not in reasons.setdefault(reason, []):
            reasons[reason].append(category)
    return reasons
