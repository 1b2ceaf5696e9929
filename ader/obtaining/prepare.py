"""``ader data prepare``: makes what a dataset's reader reads, from archives or from another layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ader.config import plugins
from ader.config.schema import DatasetOptions
from ader.data import Index
from ader.data.counts import differing
from ader.data.listing import listing
from ader.data.reading import amount, how_to_get, read_published
from ader.datasets._preparing import Work
from ader.obtaining import download, unpack, verify
from ader.system.errors import UserError, some

ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True)
class Preparation:
    """A dataset to prepare.

    Attributes:
        option: its name on the command line.
        root: where it is to be.
        read: reads it from a folder; raises ``UserError`` where it is not.
        convert: the reader's own ``prepare(root, source, work)``, or None.
        about: what its YAML says of it.
        counts: the published numbers, or None: any will do.
        downloads: a folder for archives.
        work: console, interruption and threads.
        whole: whether all categories are wanted, so that their sums can be compared.
    """

    option: str
    root: Path
    read: Callable[[Path], Index]
    convert: Callable[[Path, Path, Work], None] | None
    about: Mapping[str, Any]
    counts: Mapping[str, Any] | None
    downloads: Path
    work: Work
    whole: bool = True


def preparation(option: str, dataset: DatasetOptions, data: Path, work: Work) -> Preparation:
    """Of a configured dataset.

    Args:
        option: its name on the command line.
        dataset: the group ``dataset``.
        data: the folder of all datasets.
        work: console, interruption and threads.
    """
    root = Path(os.path.abspath(Path(dataset.root).expanduser()))

    def read(folder: Path) -> Index:
        return read_published(replace(dataset, root=str(folder)))

    module = plugins.load("datasets", dataset.name)
    return Preparation(
        option=option,
        root=root,
        read=read,
        convert=getattr(module, "prepare", None),
        about=dataset.about or {},
        counts=dataset.counts if dataset.check_counts else None,
        downloads=data / "archives",
        work=work,
        whole=dataset.rest.get("categories") is None,
    )


def prepare(task: Preparation, source: Path | None) -> None:
    """Prepares a dataset, or finds that it is there, and compares it with the published numbers.

    Args:
        task: the dataset.
        source: an archive, a folder of archives, or a folder in a layout that the dataset's own ``prepare`` knows;
            None: what lies at the root, or what can be downloaded.

    Raises:
        UserError: there is nothing to prepare it from; the message says where to get it. Or what there is then is not
            the dataset as published.
    """
    if source is None:
        found = _attempt(task, task.root)
        if isinstance(found, Index):
            task.work.console.say(f"nothing to do: {task.root} holds dataset {task.option!r}")
            return _compare(task, found)
        _obtain(task, found)
    elif source.is_file():
        _verify(task, source)
        _unpack(task, source, task.root)
    elif archives := _archives(source):
        for archive in archives:
            _verify(task, archive)
            _unpack(task, archive, task.root / archive.parent.relative_to(source))
        source = None
    elif not source.is_dir():
        raise UserError(f"source={source} does not exist: name an archive or a folder")
    layout = source if source is not None and source.is_dir() else task.root
    if task.convert is None:
        if layout != task.root:
            raise _nothing_to_unpack(task, layout)
    elif layout != task.root or not isinstance(_attempt(task, task.root), Index):  # what was unpacked may be readable
        task.convert(task.root, layout, task.work)
    return _compare(task, task.read(task.root))


def _nothing_to_unpack(task: Preparation, source: Path) -> UserError:
    """A folder without archives, for a dataset that is read as it is unpacked."""
    found = _attempt(task, source)
    if isinstance(found, Index):
        return UserError(
            f"source={source} holds dataset {task.option!r} as it is read, there is nothing to prepare: give "
            f"dataset.root={source} to every command, or move the folder to {task.root}"
        )
    endings = ", ".join(ENDINGS)
    return UserError(f"source={source} holds no archive ({endings}) and no unpacked dataset {task.option!r} ({found})")


def _attempt(task: Preparation, folder: Path) -> Index | UserError:
    """The dataset as it lies in a folder, or why it cannot be read."""
    try:
        return task.read(folder)
    except UserError as error:
        return error


def _obtain(task: Preparation, why: UserError) -> None:
    """Downloads and unpacks what the root lacks and a checked public address has.

    Raises:
        UserError: there is nothing to download, and nothing at the root to convert; ``why`` it cannot be read is said.
    """
    command = f"ader data prepare dataset={task.option} source="
    wanted = [archive for archive in _known(task) if "url" in archive and not _holds(task.root, archive.get("holds"))]
    if not wanted:
        if not _holds(task.root, None):
            get = how_to_get(task.option, task.about) or "put your images there, or set dataset.root"
            raise UserError(f"dataset {task.option!r} is not at {task.root}: {get}")
        if task.convert is None:
            raise why
        return
    task.work.console.say(
        f"downloading {amount(wanted)}, to {task.downloads} (may be deleted afterwards), and unpacking to {task.root}, "
        "which takes at least as much again"
    )
    for archive in wanted:
        file = task.downloads / archive["file"]
        hashes = {kind: archive.get(kind) for kind in ("sha256", "md5")}
        try:
            with _progress(task, f"download {file.name}") as progress:
                download(archive["url"], file, **hashes, progress=progress, check=task.work.check)
        except UserError as error:
            raise UserError(f"{error} (an archive that is on this machine: {command}{file.name})") from error
        _unpack(task, file, task.root)


def _unpack(task: Preparation, archive: Path, folder: Path) -> None:
    with _progress(task, f"unpack {archive.name}") as progress:
        unpack(archive, folder, into=_holds(folder, None), progress=progress, check=task.work.check)


def _verify(task: Preparation, archive: Path) -> None:
    """Checks an archive against the published checksums of its name, of which there may be several.

    Raises:
        UserError: it has none of them.
    """
    failed: UserError | None = None
    for entry in _known(task):
        if entry["file"] != archive.name or not {"sha256", "md5"} & set(entry):
            continue
        try:
            with _progress(task, f"verify {archive.name}") as progress:
                hashes = {kind: entry.get(kind) for kind in ("sha256", "md5")}
                verify(archive, **hashes, size=entry.get("bytes"), progress=progress, check=task.work.check)
            return
        except UserError as error:
            failed = error
    if failed is not None:
        raise failed
    task.work.console.say(f"{archive.name}: no checksum of it is known; unpacked unchecked")


def _compare(task: Preparation, index: Index) -> None:
    """Says what there is now.

    Raises:
        UserError: it is not as published.
    """
    say = task.work.console.say
    say(f"{len(index.categories)} categories, {len(index):,} images at {index.root}")
    wrong = list(differing(index, task.counts or {}, task.whole))
    for line in wrong:
        say(f"not as published: {line}")
    if wrong:
        raise UserError(
            f"dataset {task.option!r} at {index.root} is not as published ({some(wrong, 1)}): remove it and unpack the "
            "whole archive, or give dataset.check_counts=false to work with what is there"
        )
    if task.counts:
        say("all numbers of images are as published")


def _known(task: Preparation) -> Sequence[Mapping[str, Any]]:
    archives: Sequence[Mapping[str, Any]] = task.about.get("archives") or []
    return archives


def _archives(folder: Path) -> list[Path]:
    """The archives in a folder and in those directly below it."""
    if not folder.is_dir():
        return []
    entries = listing(folder)
    deeper = [entry for each in entries if each.is_dir() for entry in listing(each)]
    return [entry for entry in (*entries, *deeper) if entry.name.lower().endswith(ENDINGS) and entry.is_file()]


def _holds(root: Path, entry: str | None) -> bool:
    """Whether a folder has an entry, or anything at all."""
    if entry is not None:
        return (root / entry).exists()
    return root.is_dir() and any(root.iterdir())


@contextmanager
def _progress(task: Preparation, name: str) -> Iterator[Callable[[int, int], None]]:
    """Shows bytes done as a percentage: how many there are is known from the first report."""
    with task.work.console.track(name, 100, "%") as track:
        yield lambda done, total: track.reach(100 * done // max(1, total))
