"""Jobs that end in a planted way, and an engine that is driven until they have."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ader.results.outputs import Outputs
from ader.results.sweeps.schema import Ending
from ader.sweeps.engine import Ended, Engine, Started
from ader.sweeps.task import Limits, Task

#: To be put on PYTHONPATH.
FOLDER = Path(__file__).parent / "planted"


def planted(folder: Path, kinds: Sequence[str], limits: Limits) -> list[Task]:
    """A task of each kind, numbered from 1."""
    return [
        Task(
            number=number,
            words=(f"planted={kind}",),
            folder=folder / kind,
            outputs=Outputs(),
            log=folder / "logs" / f"{number}.log",
            limits=limits,
            environment={"PLANTED_FILE": str(folder / f"{kind}.done")},
            trial=folder / f"{kind}.done",
            title=kind,
        )
        for number, kind in enumerate(kinds, 1)
    ]


def drive(
    engine: Engine, tasks: Sequence[Task], seconds: float = 120, step: Callable[[set[int]], object] = lambda begun: None
) -> tuple[Mapping[str, Ending], Mapping[str, list[str]]]:
    """Runs the tasks to their ends.

    Args:
        engine: opened.
        tasks: what to run.
        seconds: in which all must have ended.
        step: called again and again with the numbers of the tasks that have begun.

    Returns:
        How each ended, and where it ran, by title.
    """
    waiting, titles = list(tasks), {task.number: task.title for task in tasks}
    endings, places, begun = dict[str, Ending](), dict[str, list[str]](), set[int]()
    until = time.monotonic() + seconds
    while len(endings) < len(tasks):
        assert time.monotonic() < until, f"after {seconds} s only {endings} had ended"
        while waiting and engine.room() > 0:
            engine.start(waiting.pop(0))
        for event in engine.look(0.5):
            match event:
                case Started(number, where):
                    begun.add(number)
                    places.setdefault(titles[number], []).append(where)
                case Ended(number, ending):
                    assert titles[number] not in endings, f"{titles[number]} ended twice"
                    endings[titles[number]] = ending
        step(begun)
    return endings, places


def starts(folder: Path, kind: str) -> list[list[str]]:
    """Process, watcher and GPUs of each start of a planted job."""
    return [line.split() for line in (folder / f"{kind}.done.starts").read_text().splitlines()]
