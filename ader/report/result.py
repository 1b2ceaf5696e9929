"""What is shown of one result: its tables, and what one must know to read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ader.data.sizes import Sizes
from ader.metrics import chance
from ader.metrics.definitions import PUBLISHED
from ader.report.renderers import note_text, terminal_text
from ader.report.result_tables import category_tables, defect_table, roots, worse_than_chance
from ader.report.tables import Table
from ader.results import record
from ader.results.schema import Masks, Record
from ader.results.tree import read_result
from ader.system.console import Console, duration
from ader.system.errors import UserError, some

#: What one must know of a kind of evaluation to read its numbers.
KINDS = {
    "exact": "metric=exact: pixel metrics are exact, every score was sorted",
    "ader": "metric=ader: as ADer's published tables were computed; the exact values (metric=exact) may be points away",
    "invad": "metric=invad: as the tables of InvAD's and ViTAD's papers were computed; AUPRO, F1max and IoUmax may be "
    "points away from the exact ones (metric=exact)",
}


def show(folder: Path, console: Console) -> None:
    """Prints a result's tables, and what one must know to read them."""
    *tables, last = result_tables(folder)
    for table in [*tables, replace(last, notes=())]:
        console.say("")
        console.say(terminal_text(table))
    console.say("")
    for note in last.notes:
        console.say(note_text(note))
    console.say(f"written to {folder}")


def result_tables(folder: Path) -> list[Table]:
    """A result's tables: the title is the first one's, the notes are the last one's.

    Raises:
        UserError: its record or a table is damaged.
    """
    found = read_result(folder, "metrics", "bounds", "counts", "defects")
    assert found is not None
    result, (frame, bounds, counts, *defects) = found.record, found.tables.values()
    try:
        if record.rows(frame) != result.rows:
            raise ValueError("metrics.csv says otherwise")
        worse = worse_than_chance(frame, counts)
        frame.loc["chance"] = chance(counts)
        tables = category_tables(frame, bounds, result, worse)
        tables += map(defect_table, defects)
        return [*tables[:-1], replace(tables[-1], notes=tuple(_footnotes(frame, bounds, counts, result, worse)))]
    except UserError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"the tables in {folder} do not fit its record ({error}): ader eval {folder} makes a run's tables again"
        ) from error


def _footnotes(
    frame: pd.DataFrame,
    bounds: pd.DataFrame,
    counts: pd.DataFrame,
    result: Record,
    worse: Sequence[tuple[str, str]],
) -> list[str]:
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
    lines += _mask_note(result.masks)
    if protocol := result.choices.get("protocol"):
        recipe, precision = result.config["recipe"], result.config["trainer"]["precision"]
        lines.append(
            f"protocol={protocol}; in force: metric={result.metric}, recipe={recipe}, trainer.precision={precision}; "
            "whether published rows were reached here: ader list protocols"
        )
    lines.append("chance: what random scores would reach on the same images")
    if worse:
        lines.append(f"worse than chance: {some(f'{slug} of {name}' for name, slug in worse)}")
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
            + ("their images count as normal" if result.metric in PUBLISHED else "the images stay defective")
        )
    lines += [f"CAUTION: {warning}" for warning in result.warnings]
    lines.append(_times(result))
    return lines


def _mask_note(masks: Masks | None) -> list[str]:
    """How masks were read, where that is not what everyone would expect."""
    if masks is None or (masks.soft == 0 and masks.rule == "any"):
        return []
    what = f"masks with soft edges ({masks.soft} of {masks.files}): " if masks.soft else "masks: "
    if masks.rule == "half":
        return [f"{what}cut at one half (metric.mask_rule={masks.wanted})"]
    return [f"{what}every level above 0 counts as defective (metric.mask_rule=half cuts them at one half)"]


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
