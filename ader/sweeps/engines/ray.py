"""``launcher=ray``: a Ray cluster places the jobs by cores and GPUs; each is a Ray task that watches a process.

What is promised where something dies: a worker or a machine that dies is reported by Ray, and the job is started again
elsewhere, ``retries`` times; it goes on from its checkpoint. When the sweep's own process dies, Ray ends its jobs,
which write checkpoints. All machines see the same files: the results, the data and this program.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import Field

from ader.config.ranges import Natural, Positive
from ader.results.sweeps.schema import Ending
from ader.sweeps.engine import Ended, Started, check_gpu
from ader.sweeps.engines._watch import environment, give, watch_here
from ader.sweeps.task import Task
from ader.system.errors import UserError
from ader.system.launch import cores

#: Cores of a job, unless another number is asked for or no machine has so many.
CORES_EACH = 4
#: Seconds between two looks at which tasks have begun.
PERIOD = 1.0
#: Bytes for objects in an instance of our own: nothing but how jobs ended goes through it.
STORE = 100 * 2**20

Cpus = Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]
Gpus = Literal["auto"] | Annotated[float, Field(ge=0, le=64)]


class Engine:
    """Jobs on a Ray cluster, which decides how many run at once.

    Args:
        address: of the cluster: ``auto`` for that of RAY_ADDRESS or the one that runs on this machine, ``HOST:PORT``;
            ``local`` for one of our own on this machine, which ends with the sweep.
        cpus: cores of each job; ``auto``: four, or what the largest machine has.
        gpus: of each job; 0.5 puts two jobs on each; ``auto``: one where the cluster has any.
        memory_gb: that Ray reserves for each job (it watches nothing); null: none.
        resources: others of each job, as the cluster's machines were started with, such as {a100: 1}.
        retries: how often a job is started again whose worker or machine died.

    Raises:
        UserError: Ray is not installed.
    """

    slots: int | None = None

    def __init__(
        self,
        address: str = "auto",
        cpus: Cpus = "auto",
        gpus: Gpus = "auto",
        memory_gb: Positive | None = None,
        resources: Mapping[str, Positive] | None = None,
        retries: Natural = 3,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("launcher=ray needs the package ray: pip install 'ader-bench[ray]'") from error
        self._ray: Any = ray
        self.address, self._auto = address, {"cpus": cpus == "auto", "gpus": gpus == "auto"}
        self.cpus: int = CORES_EACH if cpus == "auto" else cpus
        self.gpus: float = 1.0 if gpus == "auto" else gpus
        self.memory_gb, self.resources, self.retries = memory_gb, dict(resources or {}), retries
        self._tasks: dict[Any, Task] = {}  # by what Ray will return of them
        self._attempts: dict[int, int] = {}  # by number, those that were lost
        self._begun: set[int] = set()
        self._folder = Path()
        self._stopped = False

    def open(self, folder: Path) -> None:
        """Joins the cluster, or starts one.

        Raises:
            UserError: there is none, or no machine in one of our own has what a job needs.
        """
        self._folder = folder.absolute() / f"ray-{socket.gethostname()}-{os.getpid()}"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": STORE}
        try:
            with _handlers_kept():
                self._ray.init(
                    address=self.address,
                    log_to_driver=False,
                    logging_level="error",
                    **(own if self.address == "local" else {}),
                )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"launcher.address={self.address}: no Ray cluster answers ({str(error).splitlines()[0][:200]}): start "
                "one (ray start --head), or give launcher.address=local"
            ) from error
        machines = [machine["Resources"] for machine in self._ray.nodes() if machine["Alive"]]
        if self._auto["cpus"]:
            self.cpus = max(1, min(CORES_EACH, int(max(machine.get("CPU", 0) for machine in machines))))
        if self._auto["gpus"]:
            self.gpus = float(any(machine.get("GPU", 0) for machine in machines))
        wanted = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        if self.address == "local" and not any(_fits(wanted, machine) for machine in machines):
            there = ", ".join(f"{machines[0].get(name, 0):g} {name}" for name in wanted)
            raise UserError(
                f"this machine has {there}: less than a job is to have: lower launcher.cpus or launcher.gpus"
            )

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            self.kill()
        with _handlers_kept():
            self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def room(self) -> int:
        """Ray has a queue of its own."""
        return 1_000_000

    def check_device(self, name: str) -> None:
        """As ``Engine`` has it."""
        check_gpu(name, bool(self.gpus))

    def start(self, task: Task) -> None:
        """Gives Ray a task."""
        self._begun.discard(task.number)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mark(task).unlink(missing_ok=True)
        own = {**_carried(), **environment(self.cpus, self.gpus)}
        remote = self._ray.remote(watch_here).options(
            name=f"ader {task.title}"[:100],
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            memory=None if self.memory_gb is None else int(self.memory_gb * 2**30),
            resources=self.resources,
            max_retries=0,  # they are counted here: Ray would try without end where a machine has no memory left
        )
        told = replace(task, environment={**own, **task.environment})
        self._tasks[remote.remote(told, self._folder, self._mark(task), os.getcwd())] = task

    def look(self, seconds: float) -> Sequence[Started | Ended]:
        """What began and ended."""
        events: list[Started | Ended] = [*self._news()]
        if not self._tasks:
            time.sleep(seconds if not events else 0)
            return events
        wait = 0.0 if events else min(seconds, PERIOD)
        ready, _ = self._ray.wait(list(self._tasks), timeout=wait, fetch_local=False)
        if ready:
            ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0, fetch_local=False)
        events += self._news()  # what began and ended since
        for reference in ready:
            task = self._tasks.pop(reference)
            ending = self._ending(reference, task)
            if ending.kind == "lost" and not self._stopped and self._attempts.get(task.number, 0) < self.retries:
                self._attempts[task.number] = self._attempts.get(task.number, 0) + 1
                self.start(task)
            else:
                events.append(Ended(task.number, ending))
        return events

    def stop(self) -> None:
        """Running tasks see the order; Ray forgets the others."""
        if self._stopped:
            return
        self._stopped = True
        give(self._folder, "stop")
        self._news()
        for reference, task in self._tasks.items():
            if task.number not in self._begun:
                self._ray.cancel(reference)

    def kill(self) -> None:
        """All end at once."""
        self.stop()
        give(self._folder, "kill")

    def _mark(self, task: Task) -> Path:
        """The file that says where a task runs."""
        return self._folder / f"{task.number}.begun"

    def _news(self) -> Iterator[Started]:
        """Tasks that have begun since the last time."""
        for task in self._tasks.values():
            if task.number not in self._begun:
                try:
                    where = self._mark(task).read_text(encoding="utf-8")
                except FileNotFoundError:
                    continue
                self._begun.add(task.number)
                yield Started(task.number, where)

    def _ending(self, reference: Any, task: Task) -> Ending:
        errors = self._ray.exceptions
        try:
            ending: Ending = self._ray.get(reference)
            return ending
        except errors.RayError as error:
            if task.finished():
                return Ending(kind="done")
            said = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
            if isinstance(error, errors.TaskCancelledError):
                return Ending(kind="stopped", reason="the sweep was stopped before it began")
            if isinstance(error, errors.RayTaskError):
                return Ending(kind="raised", reason=f"its watcher failed: {said}"[:500])
            tries = self._attempts.get(task.number, 0) + 1
            what = "for want of memory" if isinstance(error, errors.OutOfMemoryError) else type(error).__name__
            return Ending(kind="lost", reason=f"its worker or its machine died, {tries} times in all (Ray: {what})")


def _fits(wanted: Mapping[str, float], machine: Mapping[str, float]) -> bool:
    return all(machine.get(name, 0) >= amount for name, amount in wanted.items())


def _carried() -> dict[str, str]:
    """What of the sweep's environment its jobs need: Ray's workers have that of their machine."""
    return {name: value for name, value in os.environ.items() if name.startswith("ADER_") or name == "PYTHONPATH"}


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray puts handlers of its own in place of the program's."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
