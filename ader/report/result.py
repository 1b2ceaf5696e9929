"""What is shown of one result: its tables, and what one must know to read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from ader.data.sizes import Sizes
from ader.metrics import chance
from ader.report.renderers import terminal
from ader.report.result_tables import category_tables, defect_table, roots
from ader.report.tables import Table
from ader.results import record
from ader.results.schema import Record
from ader.system.console import Console, duration
from ader.system.errors import some

#: What one must know of a kind of evaluation to read its numbers.
KINDS = {
    "exact": "metric=exact: pixel metrics are exact, every score was sorted",
    "ader": "metric=ader: as ADer's published tables were computed; other kinds of evaluation give other numbers",
}


def show(folder: Path, console: Console) -> None:
    """Prints a result's tables, and what one must know to read them."""
    *tables, last = result_tables(folder)
    for table in tables:
        console.say("\n" + terminal(table))
    for line in ["\n" + terminal(replace(last, notes=())), "", *last.notes, f"written to {folder}"]:
        console.say(line)


def result_tables(folder: Path) -> list[Table]:
    """A result's tables: the title is the first one's, the notes are the last one's.

    Raises:
        UserError: its record is damaged.
    """
    result = record.read(folder)
    assert result is not None
    frame, bounds, counts = (record.read_table(folder / f"{name}.csv") for name in ("metrics", "bounds", "counts"))
    frame.loc["chance"] = chance(counts)
    tables = category_tables(frame, bounds, result)
    if result.by_defect:
        tables.append(defect_table(record.read_table(folder / "defects.csv")))
    return [*tables[:-1], replace(tables[-1], notes=tuple(_footnotes(frame, bounds, counts, result)))]


def _footnotes(frame: pd.DataFrame, bounds: pd.DataFrame, counts: pd.DataFrame, result: Record) -> list[str]:
    lines = []
    widest = bounds.drop(index="mean").filter(like="pixel_").max()
    if result.metric in KINDS:
        lines.append(KINDS[result.metric])
    elif widest.notna().any():
        lines.append(
            f"pixel metrics are certified: the exact value is within {100 * widest.max():.4f} points "
            f"({widest.idxmax()}; bounds.csv)"
        )
    options = result.config["metric"]
    sizes = Sizes(options["size"], options["map_interpolation"], options["mask_interpolation"])
    if sizes != Sizes():
        lines.append(f"metric.size={sizes.size}: {sizes.rule()}")
    if protocol := result.choices.get("protocol"):
        recipe, precision = result.config["recipe"], result.config["trainer"]["precision"]
        lines.append(
            f"protocol={protocol}; in force: metric={result.metric}, recipe={recipe}, trainer.precision={precision}; "
            "whether published rows were reached here: ader list protocols"
        )
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
    lines += [f"'-': {reason} ({some(where, 3)})" for reason, where in roots(result.undefined).items()]
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
