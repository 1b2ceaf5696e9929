"""The whole flow of a run, top to bottom: data, method, training, prediction, evaluation, record, table."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ader.config.schema import RunConfig
from ader.data.caching import ImageKeeper
from ader.data.check import check_files
from ader.data.index import TEST
from ader.methods._base import Method
from ader.metrics import Evaluator
from ader.report.result import show
from ader.results.outputs import Outputs
from ader.results.record import MODEL, digest
from ader.results.schema import SCHEMA, Checkpoint, ModelRecord, PredictionCost, StageCost, TrainingCost, plain
from ader.runs.facts import announce, describe, device_line, write_result
from ader.runs.gallery import Pictures
from ader.runs.inference import predict
from ader.runs.plan import PlannedModel, RunPlan, make_plan
from ader.runs.session import Session, Tested, working_on
from ader.runs.sketching import restored, state_of
from ader.system import dist
from ader.system.errors import UserError
from ader.system.files import check_regular, sha256, write_atomic
from ader.system.interrupt import Interrupt
from ader.system.memory import peak_memory, reset_peak
from ader.system.randomness import derive_seed, seed_all
from ader.training.checkpoint import UNKNOWN, check_processes
from ader.training.features import FeatureCache
from ader.training.loader import Loader, hold_out
from ader.training.loggers import LoggedRun
from ader.training.loggers.tensorboard import TensorBoardWriter
from ader.training.trainer import Trainer

RunSession = Session[RunPlan]


def run(config: RunConfig) -> Path:
    """Runs one configuration, or resumes it, or reports its finished result.

    Returns:
        The folder with the results.

    Raises:
        UserError: bad input; nothing was half written.
        Stopped: a signal came, a loss was not finite, or something unexpected happened (the log has the traceback).
    """
    with Interrupt().listening() as interrupt, dist.naming_the_dead():
        plan = make_plan(config)
        with working_on(plan, interrupt, config.force) as session:
            if session.finished:
                session.say_finished()
            else:
                refuse_evaluation(session)
                announce(session, device_line(plan))
                start_loggers(session)
                check_data(session)
                for model in plan.models:
                    if recall(model, session):
                        continue
                    with interrupt.during(f"before training {model.name!r}"):
                        method, loader = build(model, session)
                        network = describe(session, model, method)
                    training, checkpoint, depends = fit(method, loader, model, session)
                    prediction, tested = test(method, loader, session)
                    record = ModelRecord(
                        network=network, checkpoint=checkpoint, training=training, prediction=prediction
                    )
                    session.add_model(model.name, record, tested)
                    keep(model, session, tested, depends)
                write_result(session)
                session.loggers.result(plan.folder)
            show(plan.folder, session.console)
    dist.stop()
    return plan.folder


def refuse_evaluation(session: RunSession) -> None:
    """Training a model again is not what someone wants who asks for more of a stored one's evaluation.

    Raises:
        UserError: the folder holds the evaluation of a model that is elsewhere.
    """
    origin, folder = session.earlier.evaluated_from if session.earlier else None, session.plan.folder
    if origin and origin.run != ".":
        home = os.path.normpath(folder / origin.run)
        raise UserError(
            f"{folder} holds an evaluation of the model in {home}: give ader eval with that folder for what it "
            "lacks, or force=true to train again"
        )


def start_loggers(session: RunSession) -> None:
    """Begins with what ``logger=`` asks for; a run that cannot be logged as it was asked for is not begun.

    Raises:
        UserError: one cannot begin.
    """
    plan = session.plan
    logged = LoggedRun(plan.folder, plan.config.paths.results, plan.title, plan.config.values)
    with session.interrupt.during("while starting loggers"):
        dist.on_main(lambda: session.loggers.start(plan.config.logger, logged, session.console.say))


def check_data(session: RunSession) -> None:
    """Decodes every file once, unless that was done before: a bad one must not end a run after hours.

    Decoded images are kept for this run and others, where that is asked for.
    """
    plan, config = session.plan, session.plan.config
    workers, cache = config.trainer.decoders(), config.paths.cache
    keeper = ImageKeeper(plan.index, config.image_size, config.dataset, cache)

    def check_all() -> None:
        cached = keeper.decode_once(workers, session.console, session.interrupt.check)
        session.look_at_masks(cache, workers)
        with session.console.track("check files", len(plan.index), "files") as track:
            check_files(
                plan.index, cache, workers, lambda done, total: track.advance(), cached or (), session.mask_rule
            )
        # a file that could not be decoded and is whole now was changed in between
        session.cached = cached if cached is not None and len(cached) == len(plan.index) else None
        for source in plan.models[0].inputs.values():  # all models ask for the same
            source.check(plan.index, workers)
        session.interrupt.check()

    with session.interrupt.during("while checking files"):
        dist.on_main(check_all)
        if not dist.is_main():
            session.cached = keeper.decoded_before()
            session.look_at_masks(cache, workers)


def build(model: PlannedModel, session: RunSession) -> tuple[Method, Loader]:
    """One model as it is before training, with weights that depend on the seed alone, and its data."""
    config, device = session.plan.config, session.plan.device
    seed_all(derive_seed(config.seed, "method"))
    method = model.method_class(**model.arguments).to(device)
    index = hold_out(model.split.index, dict(method.holdout), config.seed)
    workers = config.trainer.decoders()
    loader = Loader(
        index,
        config.image_size,
        device,
        config.seed,
        workers,
        method.tags,
        session.cached,
        model.inputs,
        session.mask_rule,
    )
    return method, loader


def fit(
    method: Method, loader: Loader, model: PlannedModel, session: RunSession
) -> tuple[TrainingCost, Checkpoint, str]:
    """Trains one model, or what its checkpoint leaves to do.

    Returns:
        What that cost, where its weights are, and why the number of processes mattered, if it did.
    """
    plan, options = session.plan, session.plan.config.trainer
    file, curves = model.folder / "checkpoint.pt", TensorBoardWriter(model.folder / "tb", session.console.say)
    name = model.name if len(plan.models) > 1 else ""

    def scalar(tag: str, value: float, step: int) -> None:
        curves.add(tag, value, step)
        session.loggers.add(tag, value, step, name)

    trainer = Trainer(
        device=plan.device,
        seed=plan.config.seed,
        precision=options.precision,
        max_steps=options.max_steps,
        ema=options.ema,
        accumulate=options.accumulate,
        sync_batchnorm=options.sync_batchnorm,
        compile=options.compile,
        channels_last=options.channels_last,
        features=remembered_features(session),
        checkpoint=file,
        owner=owner_of(model, plan),
        checkpoint_seconds=60 * options.checkpoint_minutes,
        console=session.console,
        scalar=scalar,
        interrupt=session.interrupt,
    )
    reset_peak(plan.device)
    try:
        state = trainer.fit(method, loader)
    finally:
        curves.close()
    processes = state.processes or dist.world()
    if len(plan.models) > 1:  # all must be trained alike
        check_processes(processes, state.depends, file)
    cost = TrainingCost(
        stages={name: StageCost.of(seconds, state.images[name]) for name, seconds in state.seconds.items()},
        memory_bytes=peak_memory(plan.device),
        processes=processes,
        cached=session.cached is not None,
    )
    checksum = sha256(file) if dist.is_main() else ""  # only that process has the file, and writes the record
    return cost, Checkpoint(file=os.path.relpath(file, plan.folder), sha256=checksum), state.depends


def remembered_features(session: RunSession) -> FeatureCache | None:
    """Where frozen networks keep what they give for the training images, if that is wanted."""
    options, paths = session.plan.config.trainer, session.plan.config.paths
    if options.cache_features == "off":
        return None
    return FeatureCache(paths.cache, options.cache_features, session.console)


def test(method: Method, loader: Loader, session: RunSession) -> tuple[PredictionCost, Tested]:
    """Tests one trained model on all processes: what that cost, and what it gave."""
    with session.interrupt.during("while predicting"):
        evaluator = session.new_evaluator()
        cost, scores, pictures, sketches = predict(method, loader, evaluator, session)
        if dist.world() > 1:
            evaluator.all_reduce()
        return cost, Tested(evaluator, scores, pictures, sketches)


def recall(model: PlannedModel, session: RunSession) -> bool:
    """Adds what an interrupted run of several models has kept of this one; whether there was anything."""
    file = model.folder / "evaluation.pt"
    check_regular(file)
    if not file.exists():
        return False
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        if (saved["schema"], saved["owner"]) != (SCHEMA, owner_of(model, session.plan)):
            raise ValueError("it is of another model, run or version")
        if Outputs(**saved["outputs"]) != session.outputs:
            return False
        evaluator = Evaluator.from_state_dict(saved["evaluator"], device=session.plan.device)
        before, scores = MODEL.validate_python(saved["model"]), saved["scores"]
        pictures = Pictures.restored(saved["gallery"])
        sketches = restored(saved["sketches"])
        depends = saved.get("depends", UNKNOWN)
        if scores.keys() != {sample.image for sample in model.split.index.split(TEST)}:
            raise ValueError("it is of other images")
    except Exception as error:  # a damaged file raises anything
        session.console.say(f"{model.name}: {file} cannot be used ({type(error).__name__}): tested again")
        return False
    check_processes(before.training.processes, depends, file)
    session.add_model(model.name, before, Tested(evaluator, scores, pictures, sketches))
    session.console.say(f"{model.name}: done before")
    return True


def owner_of(model: PlannedModel, plan: RunPlan) -> str:
    """What files of a model say of where they belong."""
    return f"{digest(plan.id.fingerprint)}/{model.name}"


def keep(model: PlannedModel, session: RunSession, tested: Tested, depends: str) -> None:
    """Keeps what ``recall`` reads; a run of one model has nothing to come back to."""
    if len(session.plan.models) > 1 and dist.is_main():
        state = {
            "schema": SCHEMA,
            "owner": owner_of(model, session.plan),
            "evaluator": tested.evaluator.state_dict(),
            "model": plain(session.models[model.name]),
            "scores": tested.scores,
            "gallery": tested.pictures.state(),
            "sketches": state_of(tested.sketches),
            "outputs": vars(session.outputs),
            "depends": depends,
        }
        write_atomic(model.folder / "evaluation.pt", lambda file: torch.save(state, file))
