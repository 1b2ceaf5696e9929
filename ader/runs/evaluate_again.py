"""Evaluates the model of a finished run again: ``ader eval``. Nothing is trained, and no checkpoint is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ader.config.compose import Composed, compose, key_of
from ader.report.result import show
from ader.results import record
from ader.results.folder import differences, owner_of
from ader.results.identity import flatten, recipe
from ader.results.record import Trained, open_run
from ader.runs import facts as telling
from ader.runs.job import Job
from ader.runs.run import check, conclude, prepare, set_up, test
from ader.runs.task import at_work
from ader.system import dist
from ader.system.errors import UserError, some, suggest
from ader.system.files import sha256
from ader.system.interrupt import Interrupt
from ader.training.trainer import Trainer

#: What an evaluation may change: nothing that the model was trained with.
FREE_KEYS = (
    "metric",
    "save_maps",
    "trainer.device",
    "trainer.workers",
    "trainer.test_batch_size",
    "trainer.precision",
    "dataset.root",
    "dataset.cache",
    "dataset.cache_above",
    "paths",
    "run",
    "force",
)
FREE = re.compile(f"({'|'.join(map(re.escape, FREE_KEYS))})(\\..*)?")


def evaluate(path: Path, words: Sequence[str], config_dir: str | None = None) -> Path:
    """Evaluates a run's model with other metrics, on another device or by another program version.

    The result goes where a run of that configuration would put it: to the run's own folder, whose tables are then
    replaced, or to another one, whose record says where the model is.

    Args:
        path: the run's results folder.
        words: overrides, of ``FREE_KEYS`` only.
        config_dir: a folder with further options; None: the run's own.

    Returns:
        The folder with the result.

    Raises:
        UserError: bad input; nothing was half written.
        Stopped: as for ``ader.runs.run.run``.
    """
    trained = open_run(path)
    composed = recompose(trained, words, config_dir)
    with Interrupt().listening() as interrupt:
        interrupt.activity = "before predicting"
        job = prepare(composed, interrupt)
        dist.on_main(lambda: check_run(trained, job))
        job.origin = {"evaluated_from": {"run": seen_from(job.folder, trained.home), **_origin(trained)}}
        with at_work(job, force=job.options.force and not trained.is_at(job.folder)):
            make(job, trained)
            show(job.folder, job.console)
    dist.stop()
    return job.folder


def seen_from(folder: Path, path: Path) -> str:
    """A relative path, so that a results tree can be moved."""
    return os.path.relpath(os.path.realpath(path), os.path.realpath(folder))


def make(job: Job, trained: Trained) -> None:
    """Makes the result: predictions of all models, then the tables and the record."""
    telling.announce(job, f"model    {trained.home}", telling.device_line(job))
    check(job)
    job.interrupt.activity = "before predicting"
    for part in job.parts:
        file = trained.checkpoint(part.name)
        method, loader = set_up(job, part)
        facts = {**trained.record["parts"][part.name], **telling.describe(job, part, method)}
        facts["checkpoint"] = {**facts["checkpoint"], "file": seen_from(job.folder, file)}
        trainer = Trainer(
            device=job.device,
            precision=job.trainer.precision,
            channels_last=job.trainer.channels_last,
            checkpoint=file,
            console=job.console,
        )
        trainer.restore(method)
        evaluator, more, scores = test(job, method, loader)
        job.add(part.name, evaluator, facts | more, scores)
    conclude(job)


def recompose(trained: Trained, words: Sequence[str], config_dir: str | None) -> Composed:
    """The run's configuration with further overrides.

    Raises:
        UserError: an override would need another model, or the configs have changed since the run.
    """
    _check_free(words, trained.record["config"])
    # what a run leaves behind besides its tables is made again where it is asked for, or was there before
    kept = [word for word in trained.record["overrides"] if key_of(word) not in ("force", "save_maps")]
    composed = compose([*kept, *words], config_dir or trained.record["config_dir"])
    theirs, mine = (
        {key: value for key, value in recipe(values).items() if not FREE.fullmatch(key)}
        for values in (trained.record["config"], composed.values)
    )
    changed = differences(theirs, mine)
    if changed:
        raise UserError(
            f"the configs say otherwise than when {trained.folder} was trained: {some(changed, 3)}: undo that, or "
            "train again"
        )
    # a command given in another working directory still means the same data and results
    given = {key_of(word) for word in words}
    standard = trained.folder.parts[-4:] == tuple(trained.record["title"].split(" / "))
    if standard and not given & {"paths", "paths.results"}:
        composed.values["paths"]["results"] = str(trained.folder.parents[3])
    if Path(trained.record["data_root"]).is_dir() and not given & {"dataset.root", "paths", "paths.data"}:
        composed.values["dataset"]["root"] = trained.record["data_root"]
    return composed


def _check_free(words: Sequence[str], config: Mapping[str, Any]) -> None:
    for word in words:
        key = key_of(word)
        if FREE.fullmatch(key):
            continue
        if any(name == key or name.startswith(f"{key}.") for name, _ in flatten(config)):
            raise UserError(f"{word} needs a new run: an evaluation may change only {', '.join(FREE_KEYS)}")
        raise UserError(f"{word}: there is no key {key!r}: {suggest(key, FREE_KEYS)}")


def check_run(trained: Trained, job: Job) -> None:
    """Checks that data and weights are those of the run, and that the result may go where it will.

    Raises:
        UserError: they are not, or it may not.
    """
    if job.place.fingerprint["data"] != trained.record["data_hash"]:
        raise UserError(
            f"the data at {job.index.root} is not what {trained.folder} was evaluated on: undo its changes, set "
            "dataset.root, or train again"
        )
    for part in job.parts:
        file = trained.checkpoint(part.name)
        if not file.is_file():
            raise UserError(f"{file} is missing: put it back, or train again (force=true)")
        if sha256(file) != trained.record["parts"][part.name]["checkpoint"]["sha256"]:
            raise UserError(f"{file} is not the checkpoint that the record knows: put that back, or train again")
    if trained.is_at(job.folder):
        differing = differences(owner_of(job.folder), job.place.fingerprint)
        if differing:
            raise UserError(
                f"{job.folder} keeps the run's own result, this one has other values of {some(differing, 3)}: give "
                "run=NAME"
            )
    elif any(job.folder.rglob("checkpoint.pt")):
        raise UserError(f"{job.folder} holds a training of its own: evaluate that one, or give run=NAME")
    else:
        _check_origin(trained, job)


def _check_origin(trained: Trained, job: Job) -> None:
    """An evaluation of another model with the same recipe is replaced only by force."""
    there = record.read(job.folder)
    if there is None or job.options.force:
        return
    if Trained(job.folder, there).home != trained.home:
        raise UserError(
            f"{job.folder} holds an evaluation of another run: give run=NAME to keep it, or force=true to replace it"
        )


def _origin(trained: Trained) -> dict[str, Any]:
    """What the record says of the run that trained the model."""
    before = trained.record.get("evaluated_from", trained.record)
    return {name: before[name] for name in ("time", "commit")}
