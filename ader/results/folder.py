"""A run's folder: one run at a time, one configuration for ever, a result only when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from ader.results import record
from ader.results.identity import canonical
from ader.results.lock import FILE, Hold, take
from ader.system.contents import Contents
from ader.system.errors import UserError, some
from ader.system.files import check_regular, remove_leftovers, write_atomic
from ader.system.interrupt import Stopped

#: Of a fingerprint: what is compared by what is in files, not as values.
OF_FILES = ("index", "data", "contents")


@contextmanager
def exclusive(folder: Path, command: Sequence[str] = ()) -> Iterator[Hold]:
    """Holds the folder for this process; the lock vanishes with the process, however it ends.

    A folder that bad input (``UserError``) left without anything to come back to is removed again.

    Args:
        folder: of the results.
        command: the words of the command, for others to see.

    Yields:
        The hold; its ``notes`` are for the run's log.

    Raises:
        Busy: another run holds it.
        UserError: the folder cannot be written.
        Stopped: another run took it over, since this process gave no sign of life for too long.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        hold = take(folder, command)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(f"results folder {folder} cannot be written ({why}): give paths.results=FOLDER") from error
    try:
        hold.start()
        remove_leftovers(folder)
        yield hold
    except UserError:
        if hold.taken_by is None:
            _undo(folder, missing)
        raise
    except Stopped as error:
        if hold.taken_by is None:
            raise
        raise Stopped(
            f"{folder} was taken over by {hold.taken_by}, after this run had given no sign of life for too long: that "
            "one goes on"
        ) from error
    finally:
        hold.release()


def _undo(folder: Path, missing: list[Path]) -> None:
    """Removes a folder that this run made and that holds no work, with the parents that it made."""
    with suppress(OSError):  # another run may be starting in it
        if folder in missing and {path.name for path in folder.iterdir()} <= {FILE, "config.yaml", "run.log"}:
            shutil.rmtree(folder)
            for parent in missing[1:]:
                parent.rmdir()


def claim(
    folder: Path, config: Mapping[str, Any], fingerprint: Mapping[str, Any], contents: Contents | None = None
) -> None:
    """Marks the folder as this configuration's, or checks that it is.

    Args:
        folder: of the results.
        config: the whole configuration.
        fingerprint: see ``ader.results.identity.RunId``.
        contents: knows, perhaps, which files changed.

    Raises:
        UserError: the folder belongs to another configuration, or to files that were changed; the message names what
            differs.
    """
    if not is_claimed(folder, fingerprint, contents):
        text = yaml.safe_dump(
            {**_plain(config), "fingerprint": _plain(fingerprint)}, sort_keys=False, allow_unicode=True
        )
        write_atomic(folder / "config.yaml", text)


def is_claimed(folder: Path, fingerprint: Mapping[str, Any], contents: Contents | None = None) -> bool:
    """Whether the folder is this configuration's, and not free; as ``claim``, but nothing is written."""
    if os.path.lexists(folder / "config.yaml"):
        theirs = owner_of(folder)
        choice = "give run=NAME to keep both, or force=true to replace it"
        known = "index" in theirs or "data" not in theirs  # earlier versions' have fewer keys besides
        if known and (differing := differences(theirs, fingerprint)):
            raise UserError(f"{folder} holds a run with other values of {some(differing, 3)}: {choice}")
        if moved := moved_files(theirs, fingerprint, contents or Contents()):
            raise UserError(f"{folder} holds a run with other data: {moved}: {choice}")
        return True
    return False


def moved_files(theirs: Mapping[str, Any], mine: Mapping[str, Any], contents: Contents) -> str:
    """Says which files are not what they were, in one clause; nothing where all are.

    Kinds of files that only one of both depends on are not compared.

    Args:
        theirs: the fingerprint of a folder.
        mine: the fingerprint of what is to be done.
        contents: knows, perhaps, which files changed.
    """
    before, now = theirs.get("data"), mine.get("data")
    if before != now:
        if "index" not in theirs:
            return "it is of an earlier version of ader, which did not look into images and masks"
        if theirs.get("index", mine.get("index")) != mine.get("index"):
            return "the list of images and masks, or their labels, changed since"
        return f"images or masks changed since{contents.changed(str(before), str(now))}"
    kinds = theirs.get("contents")
    kinds = kinds if isinstance(kinds, Mapping) else {}
    for kind, mark in mine.get("contents", {}).items():
        if kinds.get(kind, mark) != mark:
            return f"{kind} changed since{contents.changed(str(kinds[kind]), mark)}"
    return ""


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, each with both; what is known of files is compared by ``moved_files``."""
    return [
        f"{key} ({_brief(theirs.get(key))} there, {_brief(mine.get(key))} here)"
        for key in sorted({*map(str, theirs), *mine} - {*OF_FILES})
        if key not in theirs or key not in mine or canonical(theirs[key]) != canonical(mine[key])
    ]


def owner_of(folder: Path) -> dict[str, Any]:
    """The fingerprint of the configuration that a folder belongs to.

    Raises:
        UserError: its ``config.yaml`` does not say.
    """
    file = folder / "config.yaml"
    check_regular(file)
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        return dict(config["fingerprint"])
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file} is not a run's configuration: give run=NAME to keep it, or force=true to replace it"
        ) from error


def clear(folder: Path) -> None:
    """Deletes what earlier runs left, the lock excepted; the record first, so that no reader finds half a result."""
    first = folder / record.FILE
    for path in sorted(folder.iterdir(), key=lambda path: path != first):
        if path.name == FILE:
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
