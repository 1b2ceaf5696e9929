"""The whole flow of a run, top to bottom: data, method, training, prediction, evaluation, record, table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ader.config.compose import Composed
from ader.data import Index
from ader.data.check import check_files
from ader.data.index import TEST
from ader.data.labelmaps import check_label_maps
from ader.data.reading import read_index
from ader.methods._base import Method, find_class, recipe_arguments
from ader.metrics import Evaluator
from ader.report.result import show
from ader.results.identity import Place, locate
from ader.runs import facts as telling
from ader.runs.caching import decode_once, decoded_before
from ader.runs.inference import predict
from ader.runs.job import Job, cache_options, run_options, trainer_options
from ader.runs.task import Extras, at_work, metric_options
from ader.settings import ModelSplit, apply
from ader.system import dist
from ader.system.device import resolve_device
from ader.system.errors import UserError
from ader.system.files import sha256, write_atomic
from ader.system.interrupt import Interrupt
from ader.system.memory import peak_memory, reset_peak
from ader.system.randomness import derive_seed, seed_all
from ader.training.loader import Loader, hold_out
from ader.training.tensorboard import TensorBoardWriter
from ader.training.trainer import Trainer


def run(composed: Composed) -> Path:
    """Runs one configuration, or resumes it, or reports its finished result.

    Returns:
        The folder with the results.

    Raises:
        UserError: bad input; nothing was half written.
        Stopped: a signal came, a loss was not finite, or something unexpected happened (the log has the traceback).
    """
    with Interrupt().listening() as interrupt:
        job = prepare(composed, interrupt)
        with at_work(job, job.options.force):
            if job.finished:
                job.console.say(f"This result exists already (force=true runs it again): {job.folder}\n")
            else:
                refuse_evaluation(job)
                make(job)
            show(job.folder, job.console)
    dist.stop()
    return job.folder


def prepare(composed: Composed, interrupt: Interrupt) -> Job:
    """Everything that can be known and checked before anything is written.

    Raises:
        UserError: bad input.
    """
    options, trainer, metric = run_options(composed), trainer_options(composed), metric_options(composed)
    device = resolve_device(trainer.device)
    dist.start(device)
    with dist.main_first():  # a generated dataset is made once
        published = read_index(composed.values["dataset"])
    check_method(composed)
    index, parts = apply_setting(composed, published)
    place = locate(composed, published)
    for part in parts:
        suited_arguments(composed, part, place)
    return Job(
        composed=composed,
        options=options,
        trainer=trainer,
        metric=metric,
        device=device,
        index=index,
        parts=parts,
        caching=cache_options(composed),
        place=place,
        interrupt=interrupt,
        extras=Extras(options.save_maps, metric.by_defect),
    )


def refuse_evaluation(job: Job) -> None:
    """Training a model again is not what someone wants who asks for more of a stored one's evaluation.

    Raises:
        UserError: the folder holds the evaluation of a model that is elsewhere.
    """
    run = (job.earlier or {}).get("evaluated_from", {"run": "."})["run"]
    if run != ".":
        home = os.path.normpath(job.folder / run)
        raise UserError(
            f"{job.folder} holds an evaluation of the model in {home}: give ader eval with that folder for what it "
            "lacks, or force=true to train again"
        )


def make(job: Job) -> None:
    """Makes the result: all models, then the tables and the record."""
    telling.announce(job, telling.device_line(job))
    check(job)
    for part in job.parts:
        run_part(job, part, job.folder if len(job.parts) == 1 else job.folder / "parts" / part.name)
    conclude(job)


def check(job: Job) -> None:
    """Decodes every file once, unless that was done before: a bad one must not end a run after hours.

    Decoded images are kept for this run and others, where that is asked for.
    """
    job.interrupt.activity = "while checking files"
    folder = Path(job.composed.values["paths"]["cache"]).expanduser()

    def check_all() -> None:
        cached, workers = decode_once(job, folder), job.trainer.decoders()
        with job.console.track("check files", len(job.index), "files") as track:
            check_files(job.index, folder, workers, lambda done, total: track.advance(), cached or ())
        # a file that could not be decoded and is whole now was changed in between
        job.cached = cached if cached is not None and len(cached) == len(job.index) else None
        check_label_maps(job.index, label_maps(job), workers)
        job.interrupt.check()

    dist.on_main(check_all)
    if not dist.is_main():
        job.cached = decoded_before(job, folder)


def run_part(job: Job, part: ModelSplit, folder: Path) -> None:
    """Trains and tests one model, and adds its counts to the run's evaluator."""
    done = folder / "evaluation.pt"  # only runs of several parts keep it: the others have nothing to come back to
    saved = torch.load(done, map_location="cpu", weights_only=True) if done.exists() else None
    if saved and Extras(**saved["extras"]) == job.extras:
        evaluator = Evaluator.from_state_dict(saved["evaluator"], device=job.device)
        job.add(part.name, evaluator, saved["facts"], saved["scores"])
        job.console.say(f"{part.name}: done before")
        return
    job.interrupt.activity = f"before training {part.name!r}"
    method, loader = set_up(job, part)
    facts = telling.describe(job, part, method)
    facts |= train(job, method, loader, folder)
    evaluator, more, scores = test(job, method, loader)
    facts |= more
    job.add(part.name, evaluator, facts, scores)
    if folder != job.folder and dist.is_main():
        state = {"evaluator": evaluator.state_dict(), "facts": facts, "scores": scores, "extras": vars(job.extras)}
        write_atomic(done, lambda file: torch.save(state, file))


def set_up(job: Job, part: ModelSplit) -> tuple[Method, Loader]:
    """One model, as it is before training, and its data."""
    method = make_method(job, part)
    index = hold_out(part.index, dict(method.holdout), job.options.seed)
    size, seed, workers = job.options.image_size, job.options.seed, job.trainer.decoders()
    return method, Loader(index, size, job.device, seed, workers, method.tags, job.cached, label_maps(job))


def train(job: Job, method: Method, loader: Loader, folder: Path) -> dict[str, Any]:
    """Trains one model, or what its checkpoint in ``folder`` leaves to do; facts for the record."""
    scalars = TensorBoardWriter(folder / "tb")
    trainer = Trainer(
        device=job.device,
        seed=job.options.seed,
        precision=job.trainer.precision,
        max_steps=job.trainer.max_steps,
        checkpoint=folder / "checkpoint.pt",
        checkpoint_seconds=60 * job.trainer.checkpoint_minutes,
        console=job.console,
        scalar=scalars.add,
        interrupt=job.interrupt,
    )
    reset_peak(job.device)
    try:
        progress = trainer.fit(method, loader)
    finally:
        scalars.close()
    file = folder / "checkpoint.pt"
    return {
        "checkpoint": {"file": os.path.relpath(file, job.folder), "sha256": sha256(file) if dist.is_main() else None},
        "stage_seconds": progress.seconds,
        "stage_images": progress.images,
        "stage_images_per_second": {
            name: count / max(1e-9, progress.seconds[name]) for name, count in progress.images.items()
        },
        "train_memory_bytes": peak_memory(job.device),
        "processes": dist.world(),
        "cached": job.cached is not None,
    }


def test(job: Job, method: Method, loader: Loader) -> tuple[Evaluator, dict[str, Any], dict[str, float]]:
    """Tests one trained model: its counts over all processes, facts for the record, and the images' scores."""
    job.interrupt.activity = "while predicting"
    evaluator = job.new_evaluator()
    facts, scores = predict(job, method, loader, evaluator)
    if dist.world() > 1:
        evaluator.all_reduce()
    return evaluator, facts, scores


def conclude(job: Job) -> None:
    """Writes the tables and the record."""
    job.interrupt.activity = "while writing the tables"
    if dist.is_main():
        telling.write(job)
    dist.barrier()


def apply_setting(composed: Composed, published: Index) -> tuple[Index, list[ModelSplit]]:
    """What the setting has of a dataset, and the models that it asks for."""
    setting = dict(composed.values["setting"])
    return apply(published, composed.values["seed"], setting.pop("name"), setting)


def check_method(composed: Composed) -> None:
    """Refuses unknown or unfit arguments before anything is written; the weights are not loaded for that."""
    method_arguments(composed)


def method_arguments(composed: Composed) -> tuple[type[Method], dict[str, Any]]:
    """The configured method's class, and its constructor's arguments."""
    given = dict(composed.values["method"])
    method_class = find_class(given.pop("name"))
    return method_class, recipe_arguments(method_class, composed.values["image_size"], given)


def suited_arguments(composed: Composed, part: ModelSplit, place: Place) -> tuple[type[Method], dict[str, Any]]:
    """The same for one model.

    Raises:
        UserError: the method cannot learn from the part's training images.
    """
    method_class, arguments = method_arguments(composed)
    training = part.index.where(lambda sample: sample.split != TEST)
    return method_class, dict(method_class.arguments_for(arguments, training, place.fingerprint["data"]))


def label_maps(job: Job) -> dict[str, Path]:
    """The folders with a map for every image that the configured method asks for."""
    method_class, arguments = method_arguments(job.composed)
    return dict(method_class.label_maps(arguments))


def make_method(job: Job, part: ModelSplit) -> Method:
    """A part's method, with initial weights that depend on the seed alone."""
    method_class, arguments = suited_arguments(job.composed, part, job.place)
    seed_all(derive_seed(job.options.seed, "method"))
    return method_class(**arguments).to(job.device)
