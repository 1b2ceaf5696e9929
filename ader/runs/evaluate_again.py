"""Evaluates the model of a finished run again: ``ader eval``. Nothing is trained, and no checkpoint is touched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ader.config.compose import changed, compose, key_of
from ader.config.keys import all_changeable, changeable, declared
from ader.config.schema import RunConfig
from ader.methods._base import Method
from ader.report.result import show
from ader.results import record
from ader.results.folder import differences, moved_files, owner_of
from ader.results.identity import contents_of, flatten, recipe
from ader.results.schema import EvaluatedFrom
from ader.results.trained import Trained
from ader.runs.facts import announce, describe, device_line, write_result
from ader.runs.plan import RunPlan, make_plan
from ader.runs.run import build, check_data, test
from ader.runs.session import Session, working_on
from ader.system import dist
from ader.system.errors import UserError, some, suggest
from ader.system.interrupt import Interrupt
from ader.training.trainer import Trainer


def evaluate(trained: Trained, config: RunConfig) -> Path:
    """Evaluates a run's model with other metrics, on another device or by another program version.

    The result goes where a run of that configuration would put it: to the run's own folder, whose tables are then
    replaced, or to another one, whose record says where the model is.

    Args:
        trained: the run.
        config: of ``recompose``.

    Returns:
        The folder with the result.

    Raises:
        UserError: bad input; nothing was half written.
        Stopped: as for ``ader.runs.run.run``.
    """
    with Interrupt().listening() as interrupt, dist.naming_the_dead(), interrupt.during("before predicting"):
        plan = make_plan(config, trained=True)
        dist.on_main(lambda: check_run(trained, plan))
        with working_on(plan, interrupt, config.force and not trained.is_at(plan.folder)) as session:
            announce(session, f"model    {trained.home}", device_line(plan))
            check_data(session)
            for model in plan.models:
                method, loader = build(model, session)
                network = describe(session, model, method)
                file = trained.checkpoint(model.name)
                restore(method, file, session)
                prediction, tested = test(method, loader, session)
                before = trained.record.models[model.name]
                checkpoint = replace(before.checkpoint, file=seen_from(plan.folder, file))
                after = replace(before, network=network, checkpoint=checkpoint, prediction=prediction)
                session.add_model(model.name, after, tested)
            write_result(session, evaluated_from=origin_of(trained, plan.folder))
            show(plan.folder, session.console)
    dist.stop()
    return plan.folder


def restore(method: Method, checkpoint: Path, session: Session[RunPlan]) -> None:
    """Puts the weights of a finished training into the method."""
    plan, options = session.plan, session.plan.config.trainer
    Trainer(
        device=plan.device,
        precision=options.precision,
        channels_last=options.channels_last,
        checkpoint=checkpoint,
        console=session.console,
    ).restore(method)


def seen_from(folder: Path, path: Path) -> str:
    """A relative path, so that a results tree can be moved."""
    return os.path.relpath(os.path.realpath(path), os.path.realpath(folder))


def recompose(trained: Trained, words: Sequence[str], config_dir: str | None) -> RunConfig:
    """A run's configuration with further overrides.

    Args:
        trained: the run.
        words: overrides of what an evaluation may change.
        config_dir: a folder with further options; None: the run's own.

    Raises:
        UserError: an override would need another model, or the configs have changed since the run.
    """
    _check_free(words, trained.record.config)
    # what a run leaves behind besides its tables is made again where it is asked for, or was there before
    kept = [word for word in trained.record.overrides if key_of(word) not in ("force", "save_maps")]
    config = compose([*kept, *words], config_dir or trained.record.config_dir)
    theirs, mine = (
        {key: value for key, value in recipe(values).items() if not changeable(RunConfig, key)}
        for values in (trained.record.config, config.composition.values)
    )
    if differing := differences(theirs, mine):
        raise UserError(
            f"the configs say otherwise than when {trained.folder} was trained: {some(differing, 3)}: undo that, or "
            "train again"
        )
    # a command given in another working directory still means the same data and results
    given, settled = {key_of(word) for word in words}, dict[str, Any]()
    standard = trained.folder.parts[-4:] == tuple(trained.record.title.split(" / "))
    if standard and not given & {"paths", "paths.results"}:
        settled["paths.results"] = str(trained.folder.parents[3])
    if Path(trained.record.data_root).is_dir() and not given & {"dataset.root", "paths", "paths.data"}:
        settled["dataset.root"] = trained.record.data_root
    return changed(config, settled)


def _check_free(words: Sequence[str], config: Mapping[str, Any]) -> None:
    for word in words:
        key = key_of(word)
        if changeable(RunConfig, key):
            continue
        if any(name == key or name.startswith(f"{key}.") for name, _ in flatten(config)):
            free = ", ".join(all_changeable(RunConfig))
            raise UserError(f"{word} needs a new run: an evaluation may change only {free}")
        known = {*all_changeable(RunConfig), *(each.name for each in declared(RunConfig) if each.at_eval)}
        raise UserError(f"{word}: there is no key {key!r}: {suggest(key, known)}")


def check_run(trained: Trained, plan: RunPlan) -> None:
    """Checks that data and weights are those of the run, and that the result may go where it will.

    Raises:
        UserError: they are not, or it may not.
    """
    theirs = owner_of(trained.home) if trained.home.is_dir() else {"index": plan.id.fingerprint["index"]}
    theirs["data"] = trained.record.data_hash
    if moved := moved_files(theirs, plan.id.fingerprint, contents_of(plan.config)):
        raise UserError(
            f"the data at {plan.index.root} is not what {trained.folder} was evaluated on: {moved}: undo that, set "
            "dataset.root, or train again"
        )
    for model in plan.models:
        trained.whole_checkpoint(model.name)
    if trained.is_at(plan.folder):
        differing = differences(owner_of(plan.folder), plan.id.fingerprint)
        if differing:
            raise UserError(
                f"{plan.folder} keeps the run's own result, this one has other values of {some(differing, 3)}: give "
                "run=NAME"
            )
    elif any(plan.folder.rglob("checkpoint.pt")):
        raise UserError(f"{plan.folder} holds a training of its own: evaluate that one, or give run=NAME")
    elif (
        # of another model with the same recipe
        not plan.config.force
        and (there := record.read(plan.folder)) is not None
        and Trained(plan.folder, there).home != trained.home
    ):
        raise UserError(
            f"{plan.folder} holds an evaluation of another run: give run=NAME to keep it, or force=true to replace it"
        )


def origin_of(trained: Trained, folder: Path) -> EvaluatedFrom:
    """The run that trained the model, as a record in ``folder`` has it."""
    made = trained.record.evaluated_from or trained.record.provenance
    return EvaluatedFrom(run=seen_from(folder, trained.home), time=made.time, commit=made.commit)
