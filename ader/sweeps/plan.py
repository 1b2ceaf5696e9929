"""All jobs of a sweep, composed and planned before the first begins: what can be refused is refused here, at once."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ader.config.compose import Known, compose
from ader.config.schema import RunConfig
from ader.results import record
from ader.results.folder import is_claimed
from ader.results.identity import contents_of
from ader.results.outputs import Outputs
from ader.runs.plan import RunPlan, make_plan
from ader.system.errors import UserError, some


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: from 1, in the order of the command line.
        words: its own: ``ader WORDS`` is the same run.
        title: dataset, setting, method and run.
        folder: of its result.
        outputs: what the result is to hold.
        test_batch_size: images that are predicted together.
        finished: whether the result is there.
        replaces: the modification time of a result that is there and is to be made again.
        estimate: seconds that a run like it took; None where there was none.
    """

    number: int
    words: tuple[str, ...]
    title: str
    folder: Path
    outputs: Outputs
    test_batch_size: int
    finished: bool
    replaces: int | None
    estimate: float | None


@dataclass
class Planned:
    """What became of the command lines.

    Attributes:
        jobs: those that can run.
        problems: why others cannot, and their numbers.
        twice: numbers of jobs that are the same run as an earlier one.
    """

    jobs: list[Job] = field(default_factory=list)
    problems: dict[str, list[int]] = field(default_factory=dict)
    twice: dict[int, int] = field(default_factory=dict)

    def refuse(self, number: int, why: str) -> None:
        """Notes a problem; jobs with the same one stand together."""
        self.problems.setdefault(why, []).append(number)

    def lines(self) -> list[str]:
        """The problems, a line each."""
        return [f"job{'s' * (len(jobs) > 1)} {some(map(str, jobs), 8)}: {why}" for why, jobs in self.problems.items()]


def plan_jobs(
    lines: Sequence[tuple[str, ...]],
    config_dir: str | None,
    check_device: Callable[[str], object],
    step: Callable[[], object],
) -> Planned:
    """Composes and plans every job, as its run would.

    Args:
        lines: the words of each.
        config_dir: a folder with further options.
        check_device: raises where ``trainer.device`` is nothing that the launcher has.
        step: called after each job.
    """
    planned, owners = Planned(), dict[Path, tuple[int, Mapping[str, Any]]]()
    known: Known = {}
    for number, words in enumerate(lines, 1):
        try:
            config = compose(words, config_dir, known)
            check_device(config.trainer.device)
            plan = make_plan(config, device=torch.device("cpu"))
            for model in plan.models:
                model.method_class.obtain(model.arguments)
            first, fingerprint = owners.setdefault(plan.folder, (number, plan.id.fingerprint))
            if first == number:
                planned.jobs.append(_job(number, words, plan, config))
            elif fingerprint == plan.id.fingerprint:
                planned.twice[number] = first
            else:
                raise UserError(f"it would write to the folder of job {first}, {plan.folder}: leave run=NAME out")
        except UserError as error:
            planned.refuse(number, str(error))
        except Exception as error:  # a mistake in a method or a reader must not hide what else is wrong
            planned.refuse(number, f"unexpected {type(error).__name__}: {error}")
        step()
    return planned


def _job(number: int, words: tuple[str, ...], plan: RunPlan, config: RunConfig) -> Job:
    finished, replaces = False, None
    if config.force:
        file = plan.folder / record.FILE
        replaces = file.stat().st_mtime_ns if file.exists() else None
    elif is_claimed(plan.folder, plan.id.fingerprint, contents_of(config)):
        earlier = record.read(plan.folder)
        finished = earlier is not None and plan.demanded in Outputs.of(earlier)
    return Job(
        number=number,
        words=words,
        title=plan.title,
        folder=plan.folder,
        outputs=plan.demanded,
        test_batch_size=config.trainer.test_batch_size,
        finished=finished,
        replaces=replaces,
        estimate=seconds_like(plan.folder.parent, config.trainer.epochs, config.image_size),
    )


def seconds_like(folder: Path, epochs: int, image_size: int) -> float | None:
    """What runs with the same dataset, setting, method, epochs and image size took, in the median; None without any.

    Args:
        folder: of all runs of that method.
        epochs, image_size: of the runs that count.
    """
    alike = [took for own, size, took in _times(folder) if (own, size) == (epochs, image_size)]
    return statistics.median(alike) if alike else None


@cache
def _times(folder: Path) -> list[tuple[int, int, float]]:
    """Epochs, image size and seconds of the finished runs; what cannot be read is passed over."""
    found = []
    for file in folder.glob(f"*/{record.FILE}"):
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            models = said["models"].values()
            training = sum(stage["seconds"] for model in models for stage in model["training"]["stages"].values())
            testing = sum(m["prediction"]["seconds"] + m["prediction"]["evaluate_seconds"] for m in models)
            found.append((said["config"]["trainer"]["epochs"], said["config"]["image_size"], training + testing))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
