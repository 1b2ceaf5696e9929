"""Loggers: where training curves, the final table and the gallery go besides the run's own files.

They decide no numbers, and only the main process has any. TensorBoard's files are always written; ``logger=`` adds
others. What cannot begin is refused before training; what fails later ends with one warning, and the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from ader.config.schema import LoggerOptions
from ader.results.gallery import Gallery, read_gallery
from ader.results.record import read
from ader.system.errors import UserError
from ader.system.files import special, write_atomic
from ader.system.interrupt import Stopped

#: The table by category, and ``mean``: metrics as fractions, None where undefined.
Rows = Mapping[str, Mapping[str, float | None]]

#: What runs are called elsewhere, so that a run that is resumed goes on there; in the run's folder.
NAMES = "loggers.json"

#: The package that a logger needs, which is also the extra of this one that brings it.
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}


@dataclass(frozen=True)
class LoggedRun:
    """What a logger knows of a run.

    Attributes:
        folder: of its results.
        results: the whole results tree.
        title: ``<dataset> / <setting> / <method> / <run>``.
        config: the whole configuration.
    """

    folder: Path
    results: Path
    title: str
    config: Mapping[str, Any]

    def name_in(self, logger: str) -> str | None:
        """What the run is called there, if it has been there before."""
        name = self._names().get(logger)
        return name if isinstance(name, str) else None

    def keep_name(self, logger: str, name: str) -> None:
        """Remembers that for the run's next part; ``force=true`` forgets it."""
        write_atomic(self.folder / NAMES, json.dumps({**self._names(), logger: name}) + "\n")

    def _names(self) -> dict[str, Any]:
        file = self.folder / NAMES
        try:
            found = None if special(file) else json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # it is begun again
            return {}
        return found if isinstance(found, dict) else {}


class Logger:
    """One place that a run is logged to; every method may raise anything, and may do nothing.

    A logger is a module of this package with a function ``make(options, run)``.
    """

    def start(self) -> None:
        """Begins, or goes on where the run's earlier part ended."""

    def add(self, tag: str, value: float, step: int, model: str = "") -> None:
        """One value of a curve.

        Args:
            tag: ``<stage>/<name>``.
            value: may be anything, not only finite.
            step: of all stages of the model; a resumed run begins again at one that it had reached before.
            model: its name, where a run has several.
        """

    def result(self, rows: Rows, gallery: Gallery | None) -> None:
        """The final table, and the pictures."""

    def close(self, done: bool) -> None:
        """Ends.

        Args:
            done: whether the run has come to its end.
        """


class Loggers:
    """The loggers of a run; without any until ``start``."""

    def __init__(self) -> None:
        self.active: dict[str, Logger] = {}
        self.say: Callable[[str], None] = lambda text: None

    def start(self, options: LoggerOptions, run: LoggedRun, say: Callable[[str], None]) -> None:
        """Begins with all that were asked for.

        Args:
            options: which, and theirs.
            run: is logged.
            say: is told when one fails.

        Raises:
            UserError: one cannot begin.
        """
        self.say = say
        for name, own in chosen(options).items():
            logger: Logger = import_module(f"ader.training.loggers.{name}_logger").make(own, run)
            try:
                logger.start()
            except (UserError, Stopped):
                raise
            except Exception as error:  # theirs may be anything
                raise UserError(
                    f"logger={name} cannot begin ({reason(error)}): fix that, or leave it out; {HINTS[name]}"
                ) from error
            self.active[name] = logger

    def add(self, tag: str, value: float, step: int, model: str = "") -> None:
        """As ``Logger.add``, to all."""
        self._each(lambda logger: logger.add(tag, value, step, model))

    def result(self, folder: Path) -> None:
        """Logs the result that is in a run's folder."""
        if self.active and (record := read(folder)) is not None:
            rows, gallery = record.rows, read_gallery(folder)
            self._each(lambda logger: logger.result(rows, gallery))

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda logger: logger.close(kind is None))
        self.active.clear()

    def _each(self, action: Callable[[Logger], None]) -> None:
        """With every one; one that fails is not asked again: a run of hours does not end for it."""
        for name, logger in list(self.active.items()):
            try:
                action(logger)
            except Stopped:
                raise
            except Exception as error:
                del self.active[name]
                self.say(f"WARNING  no more logging to {name} ({reason(error)}); the run goes on without it")


#: What helps where a logger cannot begin.
HINTS = {
    "csv": "paths.results=FOLDER names another place",
    "wandb": "wandb login, or logger.wandb.mode=offline",
    "mlflow": "logger.mlflow.uri=FOLDER needs no server",
}


def chosen(options: LoggerOptions) -> dict[str, Any]:
    """The options of those loggers that were asked for, by name."""
    return {name: own for name, own in vars(options).items() if own is not None}


def check_packages(options: LoggerOptions) -> None:
    """Looks for what the loggers need.

    Raises:
        UserError: a package is missing.
    """
    for name in chosen(options):
        package = PACKAGES.get(name)
        spec = find_spec(package) if package else None
        if package and (spec is None or spec.loader is None):  # a folder of that name, which wandb makes, is no package
            raise UserError(
                f"logger={name} needs the package {package}: pip install 'ader-bench[{name}]', or leave logger={name} "
                "out"
            )


def reason(error: Exception) -> str:
    """An error of others in a short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
