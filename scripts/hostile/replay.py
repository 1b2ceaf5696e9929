"""Runs a case in a forked process, and judges its answer."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ader.__main__ import main
from scripts.hostile.world import World

SECONDS = 60
MEMORY = 4 << 30  # bytes in use
MOST = 1200  # characters of a refusal: one line that somebody reads

Prepare = Callable[[World], object]
Command = Callable[[list[str]], int]
Answer = Literal["done", "refused", "either"]


@dataclass(frozen=True)
class Case:
    """One command line, and the right answer to it.

    Attributes:
        kind: the module that it is from.
        name: of the case, unique in its kind.
        words: the command line.
        answer: ``"done"`` is status 0, ``"refused"`` status 2.
        says: what the answer must contain, without regard to case: in the refusal, or in what a run prints.
        prepare: makes what the command finds; called in the case's own folder, which is its working folder, too.
        environment: what differs there.
    """

    kind: str
    name: str
    words: tuple[str, ...]
    answer: Answer = "refused"
    says: str = ""
    prepare: Prepare | None = None
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Judged:
    """An answer.

    Attributes:
        case: the question.
        status: of the process; None if it was ended.
        problems: why the answer is wrong; empty if it is right.
        output, errors: what it printed.
        seconds: how long it took.
    """

    case: Case
    status: int | None
    problems: tuple[str, ...]
    output: str
    errors: str
    seconds: float


class Running:
    """A case at work, in a copy of the template. The parent must have no threads: it forks.

    Args:
        case: the question.
        template: what the case gets a copy of.
        command: what answers; gives the exit status.
    """

    def __init__(self, case: Case, template: Path, command: Command = main) -> None:
        self.case = case
        self.folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        self.world = World(self.folder / "w")
        self.files = self.folder / "out", self.folder / "err"
        shutil.copytree(template, self.world.folder, symlinks=True)
        self.began = time.monotonic()
        self.child = os.fork()
        if self.child == 0:
            answer(case, self.world, *self.files, command)

    def look(self) -> Judged | None:
        """The judged answer, or None while there is none."""
        number, raw = os.waitpid(self.child, os.WNOHANG)
        if number:
            code = os.waitstatus_to_exitcode(raw)
            return self._judged(code, "") if code >= 0 else self._judged(None, f"ended by signal {-code}")
        reason = ""
        if time.monotonic() - self.began > SECONDS:
            reason = f"no answer in {SECONDS} s"
        elif _resident(self.child) > MEMORY:
            reason = f"more than {MEMORY >> 30} GiB of memory"
        if not reason:
            return None
        with suppress(ProcessLookupError):  # it may not have got as far as having a group
            os.killpg(self.child, signal.SIGKILL)
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        return self._judged(None, reason)

    def _judged(self, status: int | None, ended: str) -> Judged:
        seconds = time.monotonic() - self.began
        output, errors = (file.read_bytes().decode(errors="replace") if file.exists() else "" for file in self.files)
        problems = [ended] if ended else []
        problems += _problems(self.case, status, output, errors)
        left = [str(path.relative_to(self.world.folder)) for path in _files(self.world.folder) if _is_leftover(path)]
        problems += [f"left behind: {left[0]}"] if left else []
        strange = [name for name in os.listdir(self.folder) if name not in ("w", "out", "err")]
        problems += [f"written outside of its folder: {strange[0]}"] if strange else []
        problems += ["code of the input was executed"] if (self.world.folder / "pwned").exists() else []
        _writable(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        return Judged(self.case, status, tuple(problems), output, errors, seconds)


def answer(case: Case, world: World, out: Path, err: Path, command: Command = main) -> None:
    """In a child: becomes the command, and ends with its status."""
    status = 70
    try:
        os.setsid()
        for descriptor, file in ((1, out), (2, err)):
            opened = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            os.dup2(opened, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(world.folder)
        os.environ.update({**world.environment(), **dict(case.environment)})
        encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
        sys.stdout, sys.stderr = (
            open(number, "w", buffering=1, encoding=encoding)  # noqa: SIM115  the process ends with them
            for number in (1, 2)
        )
        if case.prepare is not None:
            case.prepare(world)
        status = command(list(case.words))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 71
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _resident(child: int) -> int:
    try:
        return int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _problems(case: Case, status: int | None, output: str, errors: str) -> list[str]:
    """What is wrong with an answer that came."""
    found = []
    allowed = {"done": (0,), "refused": (2,), "either": (0, 2)}[case.answer]
    if status is not None and status not in allowed:
        found.append(f"status {status}, not {' or '.join(map(str, allowed))}")
    if "Traceback (most recent call last)" in output + errors:
        found.append("a traceback")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", output + errors):
        found.append("control characters")
    lines = errors.splitlines()
    if status == 2:
        if len(lines) != 1 or not lines[0].startswith("ader: error: "):
            found.append(f"{len(lines)} lines on stderr, not one that begins with 'ader: error: '")
        elif len(lines[0]) > MOST:
            found.append(f"a line of {len(lines[0])} characters")
    said = errors if status == 2 else output
    if status in allowed and case.says.casefold() not in said.casefold() and case.answer != "either":
        found.append(f"does not say {case.says!r}")
    return found


def _files(folder: Path) -> list[Path]:
    return [Path(where) / name for where, _, names in os.walk(folder) for name in names]


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _writable(folder: Path) -> None:
    """Gives back the permissions that a case took away."""
    for where, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
