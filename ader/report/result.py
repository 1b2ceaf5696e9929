"""What is shown of one result: its tables, and what one must know to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ader.data.sizes import Sizes
from ader.report.table import chance, render, render_defects
from ader.results import record
from ader.results.schema import Record
from ader.system.console import Console, duration
from ader.system.errors import some

#: What one must know of a metric profile to read its numbers.
PROFILES = {
    "exact": "metric=exact: pixel metrics are exact, every score was sorted",
    "ader": "metric=ader: as ADer's published tables were computed; other profiles give other numbers",
}


def show(folder: Path, console: Console) -> None:
    """Prints a result's tables, and what one must know to read them."""
    result = record.read(folder)
    assert result is not None
    frame, bounds, counts = (record.read_table(folder / f"{name}.csv") for name in ("metrics", "bounds", "counts"))
    frame.loc["chance"] = chance(counts)
    profile = "" if result.metric == "histogram" else f"  metric={result.metric}"
    console.say("\n" + render(frame, f"{result.title}{profile}  (percent)"))
    if result.by_defect:
        console.say("\n" + render_defects(record.read_table(folder / "defects.csv")))
    for line in ["", *_footnotes(frame, bounds, counts, result), f"written to {folder}"]:
        console.say(line)


def _footnotes(frame: pd.DataFrame, bounds: pd.DataFrame, counts: pd.DataFrame, result: Record) -> list[str]:
    lines = []
    widest = bounds.drop(index="mean").filter(like="pixel_").max()
    if result.metric in PROFILES:
        lines.append(PROFILES[result.metric])
    elif widest.notna().any():
        lines.append(
            f"pixel metrics are certified: the exact value is within {100 * widest.max():.4f} points "
            f"({widest.idxmax()}; bounds.csv)"
        )
    options = result.config["metric"]
    sizes = Sizes(options["size"], options["map_interpolation"], options["mask_interpolation"])
    if sizes != Sizes():
        lines.append(f"metric.size={sizes.size}: {sizes.rule()}")
    lines.append("chance: what random scores would reach on the same images")
    if result.by_defect:
        lines.append("per defect: its images and pixels against the category's normal ones; all metrics in defects.csv")
    reading = result.source.reading if result.source else None
    if reading and reading.scores_from_maps:
        lines.append(
            f"the scores of {reading.scores_from_maps} of {reading.images} images are the largest values of their maps"
        )
    defined = frame.drop(index=["mean", "chance"]).notna().sum()
    partial = [f"{slug} {count}" for slug, count in defined.items() if 0 < count < len(counts)]
    if partial:
        lines.append(f"the mean is over fewer than the {len(counts)} categories for: {some(partial)}")
    lines += [f"'-': {reason} ({some(where, 3)})" for reason, where in _roots(result.undefined).items()]
    vanished = counts["vanished"]
    for category, count in vanished[vanished > 0].items():
        lines.append(
            f"{category}: {count:.0f} defects vanish from the mask at the evaluation size; "
            + ("their images count as normal" if result.metric == "ader" else "the images stay defective")
        )
    lines += [f"CAUTION: {warning}" for warning in result.warnings]
    lines.append(_times(result))
    return lines


def _times(result: Record) -> str:
    """How long each kind of work took, over all models."""
    models, source = result.models.values(), result.source
    texts, evaluating = [], sum(model.prediction.evaluate_seconds for model in models)
    if models:
        training = sum(stage.seconds for model in models for stage in model.training.stages.values())
        predicting = sum(model.prediction.seconds for model in models)
        pace = sum(model.prediction.images for model in models) / max(predicting, 1e-9)
        texts += [f"training {duration(training)}", f"prediction {duration(predicting)} ({pace:.1f} images/s)"]
    if source is not None:
        evaluating += source.reading.evaluate_seconds
        texts.append(f"reading {duration(source.reading.seconds)}")
    return ", ".join([*texts, f"evaluation {duration(evaluating)}"])


def _roots(reasons: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Without what is undefined only because another metric is."""
    roots: dict[str, list[str]] = {}
    for reason, where in reasons.items():
        found = roots.setdefault(reason.rpartition(" is undefined: ")[2], [])
        found += [name for name in where if name not in found]
    return roots
