"""The whole flow of a run, top to bottom: data, method, training, prediction, evaluation, record, table."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ader import dist, record, workspace
from ader.config import Composed
from ader.console import Console
from ader.data import Index
from ader.data.check import check_files
from ader.data.loader import Loader, hold_out, mix
from ader.files import write_atomic
from ader.interrupt import Interrupt
from ader.job import Job, make_evaluator, read_index, resolve_device, run_options, trainer_options
from ader.methods.base import Method, build, find_class, recipe_arguments
from ader.metrics import Evaluator
from ader.predict import predict
from ader.profile import peak_memory, reset_peak
from ader.randomness import seed_all
from ader.report import run as report
from ader.runname import locate
from ader.settings import Part, check_supervision, divide
from ader.tensorboard import Scalars
from ader.trainer import Trainer


def run(composed: Composed) -> Path:
    """Runs one configuration, or resumes it, or reports its finished result.

    Returns:
        The folder with the results.

    Raises:
        UserError: bad input; nothing was half written.
        Stopped: a signal came, a loss was not finite, or something unexpected happened (the log has the traceback).
    """
    with Interrupt().listening() as interrupt:
        options, trainer = run_options(composed), trainer_options(composed)
        device = resolve_device(trainer.device)
        dist.start(device)
        with dist.main_first():  # a generated dataset is made once
            index = read_index(composed)
        parts = divide_index(composed, index, options.seed)
        evaluator = make_evaluator(composed, index, device)
        check_method(composed)
        place = locate(composed, index)
        with ExitStack() as stack:
            if dist.is_main():
                stack.enter_context(workspace.exclusive(place.folder))
                if options.force:
                    workspace.clear(place.folder)
                workspace.claim(place.folder, composed.values, place.fingerprint)
            dist.barrier()
            console = stack.enter_context(Console(place.folder / "run.log", quiet=not dist.is_main()))
            stack.enter_context(console.keeping_errors())
            job = Job(composed, options, trainer, device, index, place, console, interrupt, evaluator)
            if finished(job):
                console.say(f"This result exists already (force=true makes it anew): {place.folder}\n")
            else:
                make(job, parts)
            report.show(place.folder, console)
    dist.stop()
    return place.folder


def make(job: Job, parts: list[Part]) -> None:
    """Makes the result: all models, then the tables and the record."""
    report.announce(job)
    job.interrupt.activity = "while checking files"
    dist.on_main(lambda: check(job))
    for part in parts:
        run_part(job, part, job.folder if len(parts) == 1 else job.folder / "parts" / part.name)
    job.interrupt.activity = "while writing the tables"
    if dist.is_main():
        report.write(job)
    dist.barrier()


def check(job: Job) -> None:
    """Decodes every file once, unless that was done before: a bad one must not end a run after hours."""
    cache = Path(job.composed.values["paths"]["cache"]).expanduser()
    with job.console.track("check files", len(job.index), "files") as track:
        check_files(job.index, cache, job.trainer.decoders(), progress=lambda done, total: track.advance())
    job.interrupt.check()


def finished(job: Job) -> bool:
    """Whether everything that was asked for is there."""
    result = record.read(job.folder)
    return result is not None and (result["maps"] or not job.options.save_maps)


def run_part(job: Job, part: Part, folder: Path) -> None:
    """Trains and tests one model, and adds its counts to the run's evaluator."""
    done = folder / "evaluation.pt"  # only runs of several parts keep it: the others have nothing to come back to
    saved = torch.load(done, map_location="cpu", weights_only=True) if done.exists() else None
    if saved and (saved["maps"] or not job.options.save_maps):
        job.evaluator.merge(Evaluator.from_state_dict(saved["evaluator"], device=job.device))
        job.facts[part.name] = saved["facts"]
        job.console.say(f"{part.name}: done before")
        return
    job.interrupt.activity = f"before training {part.name!r}"
    method = make_method(job)
    check_supervision(method.tags.supervision, part.index)
    index = hold_out(part.index, dict(method.holdout), job.options.seed)
    size, seed, workers = job.options.image_size, job.options.seed, job.trainer.decoders()
    loader = Loader(index, size, job.device, seed, workers, method.tags)
    facts = report.describe(job, part, method)
    facts |= train(job, method, loader, folder)
    job.interrupt.activity = "while predicting"
    evaluator = job.new_evaluator()
    facts |= predict(job, method, loader, evaluator)
    if dist.world() > 1:
        states = dist.gather_objects(evaluator.state_dict())
        evaluator = job.new_evaluator()
        for state in states:
            evaluator.merge(Evaluator.from_state_dict(state, device=job.device))
    job.evaluator.merge(evaluator)
    job.facts[part.name] = facts
    if folder != job.folder and dist.is_main():
        content = {"evaluator": evaluator.state_dict(), "facts": facts, "maps": job.options.save_maps}
        write_atomic(done, lambda file: torch.save(content, file))


def train(job: Job, method: Method, loader: Loader, folder: Path) -> dict[str, Any]:
    """Trains one model, or what its checkpoint in ``folder`` leaves to do; facts for the record."""
    scalars = Scalars(folder / "tb")
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
    return {
        "stage_seconds": progress.seconds,
        "stage_images": progress.images,
        "stage_images_per_second": {
            name: count / max(1e-9, progress.seconds[name]) for name, count in progress.images.items()
        },
        "train_memory_bytes": peak_memory(job.device),
        "processes": dist.world(),
    }


def divide_index(composed: Composed, index: Index, seed: int) -> list[Part]:
    """The models that the setting asks for."""
    setting = dict(composed.values["setting"])
    return divide(index, seed, setting.pop("name"), setting)


def check_method(composed: Composed) -> None:
    """Refuses unknown or unfit arguments before anything is written; the weights are not loaded for that."""
    arguments = dict(composed.values["method"])
    recipe_arguments(find_class(arguments.pop("name")), composed.values["image_size"], arguments)


def make_method(job: Job) -> Method:
    """The configured method, with initial weights that depend on the seed alone."""
    arguments = dict(job.composed.values["method"])
    seed_all(mix(job.options.seed, "method"))
    return build(arguments.pop("name"), image_size=job.options.image_size, **arguments).to(job.device)
