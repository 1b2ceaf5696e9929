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
from ader.data.reading import read_published
from ader.datasets._preparing import Work
from ader.obtaining import download, unpack, verify
from ader.system.errors import UserError, some

ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")
MEGABYTE = 10**6


@dataclass(frozen=True)
class Preparation:
    """A dataset to prepare.

    Attributes:
        option: its name on the command line.
        root: where it is to be.
        read: reads it from there; raises ``UserError`` where it is not.
        convert: the reader's own ``prepare(root, source, work)``, or None.
        about: what its YAML says of it.
        counts: the published numbers, or None.
        downloads: a folder for archives.
        work: console, interruption and threads.
    """

    option: str
    root: Path
    read: Callable[[], Index]
    convert: Callable[[Path, Path, Work], None] | None
    about: Mapping[str, Any]
    counts: Mapping[str, Any] | None
    downloads: Path
    work: Work


def preparation(option: str, dataset: DatasetOptions, data: Path, work: Work) -> Preparation:
    """Of a configured dataset.

    Args:
        option: its name on the command line.
        dataset: the group ``dataset``.
        data: the folder of all datasets.
        work: console, interruption and threads.
    """
    root = Path(os.path.abspath(Path(dataset.root).expanduser()))

    def read() -> Index:
        return read_published(replace(dataset, root=str(root)))

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
    )


def prepare(task: Preparation, source: Path | None) -> None:
    """Prepares a dataset, or finds that it is there; says which numbers differ from the published ones.

    Args:
        task: the dataset.
        source: an archive, a folder of archives, or a folder in a layout that the dataset's own ``prepare`` knows;
            None: what lies at the root, or what can be downloaded.

    Raises:
        UserError: there is nothing to prepare it from; the message says where to get it.
    """
    if source is None and (index := _readable(task)):
        task.work.console.say(f"nothing to do: {task.root} holds dataset {task.option!r}")
        return _compare(task, index)
    if source is None:
        _obtain(task)
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
    # what was unpacked may be readable as it is
    if task.convert is not None and (layout != task.root or _readable(task) is None):
        task.convert(task.root, layout, task.work)
    return _compare(task, task.read())


def _readable(task: Preparation) -> Index | None:
    try:
        return task.read()
    except UserError:
        return None


def _obtain(task: Preparation) -> None:
    """Downloads and unpacks what the root lacks and a checked public address has."""
    command = f"ader data prepare dataset={task.option} source="
    wanted = [archive for archive in _known(task) if "url" in archive and not _holds(task.root, archive.get("holds"))]
    if not wanted and not _holds(task.root, None):
        files = [str(archive["file"]) for archive in _known(task)]
        get = f"{task.about.get('get') or 'see its homepage'}: {task.about.get('homepage') or 'none is known'}"
        then = f"{command}{files[0] if files else 'ARCHIVE_OR_FOLDER'}"
        raise UserError(f"dataset {task.option!r} is not at {task.root}: {get}; then give {then}")
    if wanted:
        size = sum(archive.get("bytes", 0) for archive in wanted) // MEGABYTE
        amount = f", {size:,} MB" if size else ""
        names = some([str(archive["file"]) for archive in wanted])
        task.work.console.say(f"downloading {names}{amount} to {task.downloads} (may be deleted afterwards)")
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
    say = task.work.console.say
    say(f"{len(index.categories)} categories, {len(index):,} images at {index.root}")
    wrong = list(differing(index, task.counts or {}))
    for line in wrong:
        say(f"not as published: {line}")
    if task.counts and not wrong:
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
