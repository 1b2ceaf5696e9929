"""What an evaluation tells: its beginning, its result files, its record."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from ader.config.schema import RunConfig
from ader.data.census import census
from ader.data.index import TEST
from ader.methods._base import Method
from ader.metrics import OBJECT_METRICS
from ader.report.renderers import note_text
from ader.results import pixels, record
from ader.results.provenance import provenance
from ader.results.schema import EvaluatedFrom, MapSource, Masks, Network, Record, Weights
from ader.runs.gallery import write_gallery
from ader.runs.plan import Plan, PlannedModel, RunPlan
from ader.runs.session import Session
from ader.system import dist
from ader.system.errors import some
from ader.system.version import VERSION
from ader.training.cost import count_macs, count_parameters

#: Test images of a kind, below which a category's image metrics hang on single ones.
FEW = 5


def announce(session: Session[Any], *lines: str) -> None:
    """Says what will be evaluated, on what (``lines``), and where the results go."""
    plan, say = session.plan, session.console.say
    say(f"ader {VERSION}  {plan.title}")
    for line in (f"data     {census(plan.index)}", f"         {plan.index.root}", *lines, f"results  {plan.folder}"):
        say(line)
    for caution in cautions(plan):
        say(f"CAUTION  {caution}")


def cautions(plan: Plan) -> tuple[str, ...]:
    """What readers of the result must know of its data and its training, besides the methods' own warnings."""
    found = list(plan.index.cautions)
    few = [
        f"{category} {good} normal and {bad} defective"
        for category, (_, good, bad) in plan.index.counts().items()
        if 0 < good < FEW or 0 < bad < FEW
    ]
    if few:
        found.append(f"so few test images that one of them decides image metrics: {some(few, 3)}")
    steps = plan.config.trainer.max_steps if isinstance(plan.config, RunConfig) else None
    if steps is not None:
        found.append(f"a trial: no stage was trained for more than {steps} steps (trainer.max_steps)")
    return tuple(found)


def device_line(plan: RunPlan) -> str:
    """Where and how a method is computed."""
    size = plan.config.image_size
    return f"device   {plan.device}, {plan.config.trainer.precision}, images {size}x{size}"


def describe(session: Session[RunPlan], model: PlannedModel, method: Method) -> Network:
    """Says what the method is, and returns it for the record."""
    plan, say = session.plan, session.console.say
    params, trainable = count_parameters(method)
    macs = count_macs(method, plan.config.image_size, plan.device)
    if len(plan.models) > 1:
        say(f"part     {model.name}")
    if not session.models:
        unseen = sum(sample.label for sample in plan.index if sample.split != TEST)
        if unseen and method.tags.supervision == "normal":
            say(f"         learns from normal images only: does not see the {unseen} defective training images")
        say(
            f"method   {params / 1e6:.1f} M parameters, {trainable / 1e6:.1f} M trained, "
            f"{macs / 1e9:.1f} GMAC per image"
        )
        for warning in method.warnings():
            say(note_text(f"CAUTION  {warning}"))
    return Network(
        params=params,
        trainable_params=trainable,
        macs=macs,
        weights=tuple(Weights(**entry) for entry in method.weights()),
        warnings=tuple(method.warnings()),
    )


def write_result(
    session: Session[Any], *, source: MapSource | None = None, evaluated_from: EvaluatedFrom | None = None
) -> None:
    """Writes the tables, and the record that makes them a result; an earlier result is replaced as a whole.

    Args:
        session: with everything that was found.
        source: the maps, where they are of another program.
        evaluated_from: the run that trained the models, where that is another one.
    """
    with session.interrupt.during("while writing the tables"):
        if dist.is_main():
            evaluator = session.evaluator
            frame = evaluator.compute()
            tables = {"metrics.csv": frame, "bounds.csv": evaluator.bounds(), "counts.csv": evaluator.counts()}
            if session.outputs.by_defect:
                tables["defects.csv"] = evaluator.breakdown()
            files: dict[str, bytes | str] = {name: record.as_csv(table) for name, table in tables.items()}
            if len(curves := evaluator.curves()):  # nine digits tell any two scores in float32 apart
                files["curves.csv"] = curves.to_csv(index_label="category", float_format="%.9g")
            index = session.plan.index
            tested = index.split(TEST)
            rows = [(s.image, s.category, s.defect, s.label, session.scores[s.image]) for s in tested]
            files["scores.csv"] = _csv(rows, "image category defect label score")
            if session.sketches.images:
                files[pixels.FILE] = session.sketches.content()
            if source is None:  # what a run may have trained on, with the labels that it was told
                seen = [(s.image, s.category, s.split, s.defect, s.label) for s in index if s.split != TEST]
                files["training.csv"] = _csv(seen, "image category split defect label")
            result = _record(session, frame, source, evaluated_from)
            with session.interrupt.patiently():
                if session.outputs.gallery != "off":
                    write_gallery(session.plan.folder, session.outputs.gallery, session.pictures, session.left_out)
                record.write(session.plan.folder, files, result)
        dist.barrier()


def _record(
    session: Session[Any], frame: pd.DataFrame, source: MapSource | None, evaluated_from: EvaluatedFrom | None
) -> Record:
    """Everything that stands behind the numbers."""
    plan, composition = session.plan, session.plan.config.composition
    theirs = (text for model in session.models.values() for text in model.network.warnings)
    warnings = dict.fromkeys((*cautions(plan), *theirs))
    return Record(
        title=plan.title,
        choices={**composition.choices, "dataset": plan.id.label},
        seed=composition.values.get("seed"),
        config=dict(composition.values),
        config_hash=record.digest(plan.id.fingerprint),
        overrides=composition.overrides,
        config_dir=composition.config_dir,
        data_root=str(plan.index.root),
        data_hash=plan.id.fingerprint["data"],
        index_hash=plan.index.digest(),
        images=dict(sum(plan.index.tally().values(), Counter())),
        metric=plan.config.metric.name,
        maps=session.outputs.maps,
        by_defect=session.outputs.by_defect,
        gallery=session.outputs.gallery,
        warnings=tuple(warnings),
        models=session.models,
        source=source,
        evaluated_from=evaluated_from,
        masks=None if session.masks is None else Masks(**vars(session.masks)),
        rows=record.rows(frame),
        undefined=_undefined(session),
        provenance=provenance(),
    )


def _undefined(session: Session[Any]) -> dict[str, tuple[str, ...]]:
    """Why values are missing: reason -> the categories it holds for."""
    # that a dataset without groups has no object metrics is not worth saying
    grouped = any(sample.group is not None for sample in session.plan.index.split(TEST))
    reasons: dict[str, dict[str, None]] = {}
    for (category, slug), reason in session.evaluator.undefined().items():
        if grouped or slug not in OBJECT_METRICS:
            reasons.setdefault(reason, {})[category] = None
    return {reason: tuple(categories) for reason, categories in reasons.items()}


def _csv(rows: list[tuple[Any, ...]], columns: str) -> str:
    text: str = pd.DataFrame(rows, columns=columns.split()).to_csv(index=False)
    return text
