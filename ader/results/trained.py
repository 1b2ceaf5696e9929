"""Finished runs that others build on: the model that is evaluated again, or that is a part of another method."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ader.results.record import FILE, read
from ader.results.schema import Record
from ader.system.errors import UserError
from ader.system.files import sha256


@dataclass(frozen=True)
class Trained:
    """A finished run, or an evaluation of one.

    Attributes:
        folder: with its result, absolute.
        record: of the result.
    """

    folder: Path
    record: Record

    @property
    def home(self) -> Path:
        """The folder of the run that trained the model."""
        origin = self.record.evaluated_from
        return _real(self.folder / (origin.run if origin else "."))

    def checkpoint(self, name: str) -> Path:
        """The file with a model's weights.

        Raises:
            UserError: the record knows no such model.
        """
        if name not in self.record.models:
            raise UserError(
                f"{self.folder / FILE} has no model {name!r}: restore the file, or train again (force=true)"
            )
        return Path(os.path.normpath(self.folder / self.record.models[name].checkpoint.file))

    def whole_checkpoint(self, name: str) -> Path:
        """The file with a model's weights, which is the one that the record knows.

        Raises:
            UserError: it is missing, or another one.
        """
        file = self.checkpoint(name)
        if not file.is_file():
            raise UserError(f"{file} is missing: put it back, or train again (force=true)")
        if sha256(file) != self.record.models[name].checkpoint.sha256:
            raise UserError(f"{file} is not the checkpoint that the record knows: put that back, or train again")
        return file

    @property
    def categories(self) -> tuple[str, ...]:
        """Those that it was tested on, in the order of its tables."""
        return tuple(name for name in self.record.rows if name != "mean")

    def is_at(self, folder: Path) -> bool:
        """Whether ``folder`` is that of the run that trained the model."""
        return Path(os.path.realpath(folder)) == self.home


def open_run(path: Path) -> Trained:
    """A finished run by its folder.

    Raises:
        UserError: it is none.
    """
    folder = Path(os.path.abspath(path.expanduser()))
    if not folder.is_dir():
        raise UserError(f"{path} is not a folder: give a run's, RESULTS/<dataset>/<setting>/<method>/<run>")
    result = read(folder)
    if result is None and (folder / "config.yaml").exists():
        raise UserError(f"{path} holds an unfinished run: give its own command again to finish it")
    if result is None:
        raise UserError(f"{path} is not a run's folder: it has no {FILE}")
    if result.source is not None:
        raise UserError(f"{path} holds scored maps and no model: give ader score {result.source.path} again")
    return Trained(folder, result)


def _real(path: Path) -> Path:
    """Without links.

    Raises:
        UserError: a record names what can be no path.
    """
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no path ({error}): restore the record, or train again") from error
