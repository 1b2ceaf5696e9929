"""What is shown of one result: its tables, and what one must know to read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ader.data.sizes import Sizes
from ader.metrics import chance
from ader.report.table import render, render_defects
from ader.results import record
from ader.system.console import Console, duration
from ader.system.errors import some

#: What one must know of a kind of evaluation to read its numbers.
KINDS = {
    "exact": "metric=exact: pixel metrics are exact, every score was sorted",
    "ader": "metric=ader: as ADer's published tables were computed; other kinds of evaluation give other numbers",
}

#: What is timed, and what it is called.
TIMES = {
    "train_seconds": "training",
    "predict_seconds": "prediction",
    "read_seconds": "reading",
    "evaluate_seconds": "evaluation",
}


def show(folder: Path, console: Console) -> None:
    """Prints a result's tables, and what one must know to read them."""
    result = record.read(folder)
    assert result is not None
    frame, bounds, counts = (record.read_table(folder / f"{name}.csv") for name in ("metrics", "bounds", "counts"))
    frame.loc["chance"] = chance(counts)
    kind = "" if result["metric"] == "histogram" else f"  metric={result['metric']}"
    console.say("\n" + render(frame, f"{result['title']}{kind}  (percent)"))
    if result["by_defect"]:
        console.say("\n" + render_defects(record.read_table(folder / "defects.csv")))
    for line in ["", *_footnotes(frame, bounds, counts, result), f"written to {folder}"]:
        console.say(line)


def _footnotes(frame: pd.DataFrame, bounds: pd.DataFrame, counts: pd.DataFrame, result: Mapping[str, Any]) -> list[str]:
    lines = []
    widest = bounds.drop(index="mean").filter(like="pixel_").max()
    if result["metric"] in KINDS:
        lines.append(KINDS[result["metric"]])
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
            + ("their images count as normal" if result["metric"] == "ader" else "the images stay defective")
        )
    lines += [f"CAUTION: {warning}" for warning in result["warnings"]]
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


def _roots(reasons: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Without what is undefined only because another metric is."""
    roots: dict[str, list[str]] = {}
    for reason, where in reasons.items():
        found = roots.setdefault(reason.rpartition(" is undefined: ")[2], [])
        found += [name for name in where if name not in found]
    return roots
