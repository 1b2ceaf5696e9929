"""The whole flow of a run, top to bottom: data, method, training, prediction, evaluation, record, table."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch

from ader import dist, record, workspace
from ader.config import Composed
from ader.console import Console
from ader.data.check import check_files
from ader.data.loader import Loader, hold_out, mix
from ader.files import write_atomic
from ader.job import Job, make_evaluator, read_index, resolve_device, run_options, trainer_options
from ader.methods.base import Method, build
from ader.metrics import Evaluator
from ader.predict import predict
from ader.profile import peak_memory, reset_peak
from ader.report import run as report
from ader.runname import fingerprint, run_folder
from ader.settings import Part, check_supervision, divide
from ader.tensorboard import Scalars
from ader.trainer import Interrupt, Trainer, seed_all


def run(composed: Composed) -> Path:
    """Runs one configuration, or resumes it, or reports its finished result.

    Returns:
        The folder with the results.

    Raises:
        UserError: bad input; nothing was half written.
        Stopped: a signal came, or a loss was not finite.
    """
    options, trainer = run_options(composed), trainer_options(composed)
    device = resolve_device(trainer.device)
    dist.start(device)
    index = read_index(composed)
    setting = dict(composed.values["setting"])
    parts = divide(index, options.seed, setting.pop("name"), setting)
    folder = run_folder(composed, index)
    with ExitStack() as stack:
        if dist.is_main():
            stack.enter_context(workspace.exclusive(folder))
            if options.force:
                workspace.clear(folder)
            workspace.claim(folder, composed.values, fingerprint(composed, index))
        dist.barrier()
        interrupt = stack.enter_context(Interrupt().listening())
        console = stack.enter_context(Console(folder / "run.log", quiet=not dist.is_main()))
        evaluator = make_evaluator(composed, index, device)
        job = Job(composed, options, trainer, device, index, folder, console, interrupt, evaluator)
        if not finished(job):
            report.announce(job)
            check(job)
            for part in parts:
                run_part(job, part, folder if len(parts) == 1 else folder / "parts" / part.name)
            if dist.is_main():
                report.write(job)
            dist.barrier()
        else:
            console.say(f"This result exists already (force=true makes it anew): {folder}\n")
        report.show(folder, console)
    return folder


def check(job: Job) -> None:
    """Decodes every file once, unless that was done before: a bad one must not end a run after hours."""
    cache = Path(job.composed.values["paths"]["cache"]).expanduser()
    with job.console.track("check files", len(job.index), "files") as track:
        check_files(job.index, cache, job.trainer.decoders(), progress=lambda done, total: track.advance())


def finished(job: Job) -> bool:
    """Whether everything that was asked for is there."""
    result = record.read(job.folder)
    return result is not None and (result["maps"] or not job.options.save_maps)


def run_part(job: Job, part: Part, folder: Path) -> None:
    """Trains and tests one model, and adds its counts to the run's evaluator."""
    done = folder / "evaluation.pt"  # only runs of several parts keep it: the others have nothing to come back to
    if done.exists() and not job.options.save_maps:
        saved = torch.load(done, map_location="cpu", weights_only=True)
        job.evaluator.merge(Evaluator.from_state_dict(saved["evaluator"], device=job.device))
        job.facts[part.name] = saved["facts"]
        job.console.say(f"{part.name}: done before")
        return
    method = make_method(job)
    check_supervision(method.tags.supervision, part.index)
    index = hold_out(part.index, dict(method.holdout), job.options.seed)
    size, seed, workers = job.options.image_size, job.options.seed, job.trainer.decoders()
    loader = Loader(index, size, job.device, seed, workers, method.tags)
    facts = report.describe(job, part, method)
    scalars = Scalars(job.folder / "tb", prefix="" if folder == job.folder else f"{part.name}/")
    trainer = Trainer(
        device=job.device,
        seed=seed,
        precision=job.trainer.precision,
        max_steps=job.trainer.max_steps,
        checkpoint=folder / "checkpoint.pt",
        checkpoint_seconds=60 * job.trainer.checkpoint_minutes,
        console=job.console,
        scalar=scalars.add,
        interrupt=job.interrupt,
    )
    reset_peak(job.device)
    progress = trainer.fit(method, loader)
    scalars.close()
    facts |= {"stage_seconds": progress.seconds, "stage_images": progress.images}
    facts |= {"train_memory_bytes": peak_memory(job.device)}
    evaluator = job.new_evaluator()
    facts |= predict(job, method, loader, evaluator)
    for state in dist.gather_objects(evaluator.state_dict()):
        job.evaluator.merge(Evaluator.from_state_dict(state, device=job.device))
    job.facts[part.name] = facts
    if folder != job.folder and dist.is_main():
        saved = {"evaluator": evaluator.state_dict(), "facts": facts}
        write_atomic(done, lambda file: torch.save(saved, file))


def make_method(job: Job) -> Method:
    """The configured method, with initial weights that depend on the seed alone."""
    arguments = dict(job.composed.values["method"])
    seed_all(mix(job.options.seed, "method"))
    return build(arguments.pop("name"), image_size=job.options.image_size, **arguments).to(job.device)
