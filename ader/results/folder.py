"""A run's folder: one run at a time, one configuration for ever, a result only when it is whole."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ader.results.identity import canonical
from ader.system.errors import UserError, some
from ader.system.files import keep_from_children, remove_leftovers, write_atomic


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the lock vanishes with the process, however it ends.

    A folder that bad input (``UserError``) left without anything to come back to is removed again.

    Raises:
        UserError: another run holds it, or the folder cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"results folder {folder} cannot be written ({error.strerror}): give paths.results=FOLDER"
        ) from error
    with lock:
        keep_from_children(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another run is at work in {folder}: wait for it, or give run=NAME") from error
        remove_leftovers(folder)
        try:
            yield
        except UserError:
            _undo(folder, missing)
            raise


def _undo(folder: Path, missing: list[Path]) -> None:
    """Removes a folder that this run made and that holds no work, with the parents that it made."""
    if folder in missing and {path.name for path in folder.iterdir()} <= {".lock", "config.yaml", "run.log"}:
        shutil.rmtree(folder)
        for parent in missing[1:]:
            if any(parent.iterdir()):
                return
            parent.rmdir()


def claim(folder: Path, config: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    """Marks the folder as this configuration's, or checks that it is.

    Raises:
        UserError: the folder belongs to another configuration; the message names what differs.
    """
    owner = folder / "config.yaml"
    if owner.exists():
        differing = differences(owner_of(folder), fingerprint)
        if differing:
            raise UserError(
                f"{folder} holds a run with other values of {some(differing, 3)}: give run=NAME to keep both, or "
                "force=true to replace it"
            )
        return
    text = yaml.safe_dump({**_plain(config), "fingerprint": _plain(fingerprint)}, sort_keys=False, allow_unicode=True)
    write_atomic(owner, text)


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, each with both."""
    return [
        f"{key} ({_brief(theirs.get(key))} there, {_brief(mine.get(key))} here)"
        for key in sorted({*theirs, *mine})
        if key not in theirs or key not in mine or canonical(theirs[key]) != canonical(mine[key])
    ]


def owner_of(folder: Path) -> dict[str, Any]:
    """The fingerprint of the configuration that a folder belongs to.

    Raises:
        UserError: its ``config.yaml`` does not say.
    """
    file = folder / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        return dict(config["fingerprint"])
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not a run's configuration: give run=NAME to keep it, or force=true to replace it"
        ) from error


def clear(folder: Path) -> None:
    """Deletes what earlier runs left, the lock excepted."""
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _plain(value: Any) -> Any:
    """As YAML gives it back: tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."
