"""Unpacks the archives that datasets come in: whole or not at all, and nothing outside the folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ader.obtaining.disk import BLOCK, Check, Progress, alone, need_room, telling, write_all
from ader.obtaining.members import (
    FILE,
    FOLDER,
    FORMATS,
    HARD,
    SYMBOLIC,
    Entry,
    Limits,
    Members,
    damaged,
    open_members,
    reading,
)
from ader.system.errors import UserError

CLUTTER = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db"})  # beside files, unasked; so is what begins with "._"
DEEPEST = 64  # folders; far below where Python's own functions give up


def unpack(
    archive: Path, folder: Path, *, into: bool = False, progress: Progress | None = None, check: Check | None = None
) -> None:
    """Unpacks a .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip, told apart by content, not by name.

    The members go to a temporary folder beside ``folder``, which is renamed when all are there: however the process
    ends, ``folder`` holds all or nothing, and the next call removes what a killed one left. (Of a power cut, only the
    file system knows.) Permissions and times are not taken over, nor is what computers put beside files unasked
    (``__MACOSX``, ``._*``, ``.DS_Store``, ``Thumbs.db``).

    Args:
        archive: the file.
        folder: is made, with its parents; must be empty if it exists.
        into: the archive is one of several that share ``folder``, which may hold other things. Its top-level entries
            are moved in when all are there, one after the other.
        progress: called with the bytes of the archive that were read, and its size.
        check: called after every member and megabyte; what it raises ends the unpacking and leaves nothing behind.

    Raises:
        UserError: the archive is damaged, none at all, encrypted, larger than the free space, would become more than
            an archive of its size can hold of images (``Limits``), or holds something that would end outside of
            ``folder``, devices, sparse files, or a name twice; something is in the way; or another process is
            unpacking to the same place.
    """
    folder = folder.resolve()
    with telling(folder):  # before anything is written
        if os.path.lexists(folder) and not folder.is_dir():
            raise UserError(f"{folder} is a file: name a folder to unpack to")
        if os.path.ismount(folder):
            way = "name a folder in it, which can be renamed when whole"
            raise UserError(f"{folder} is where a disk is mounted: {way}")
        if not into and folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and is not empty: remove it, or name another folder")
    try:
        file = archive.open("rb")
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}): name an archive, {FORMATS}") from error
    with file, _temporary(folder) as content:
        limits = Limits(archive, os.fstat(file.fileno()).st_size)
        writer = _Writer(limits, content, folder if into else None, _Watch(file, progress, check))
        writer.put_all(open_members(limits, file, content))
        with telling(folder):
            _move_all(content, folder) if into else content.rename(folder)


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """An empty folder, in another one beside ``folder`` that is removed in the end."""
    prefix, work = f".{folder.name}.unpacking-", f"unpacking to {folder}"
    with ExitStack() as stack:
        with telling(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(folder.parent, prefix, work)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix))
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            stack.enter_context(alone(temporary / "lock", work))
            content = temporary / "content"
            content.mkdir()  # with the usual permissions; mkdtemp's folders are private
        yield content


def _remove_stale(parent: Path, prefix: str, work: str) -> None:
    """What killed processes left; another user's is not ours to remove."""
    for stale in sorted(parent.iterdir()):
        if stale.name.startswith(prefix) and stale.is_dir() and not stale.is_symlink():
            with suppress(PermissionError, FileNotFoundError), alone(stale / "lock", work):
                shutil.rmtree(stale, ignore_errors=True)


def _move_all(content: Path, folder: Path) -> None:
    """Moves all entries of one folder to another, which may have others; or none, if it ends early."""
    folder.mkdir(exist_ok=True)
    names = sorted(os.listdir(content))
    try:
        for name in names:
            _refuse_twin(folder / name)
            os.rename(content / name, folder / name)
    except BaseException:
        for name in names:
            if not os.path.lexists(content / name):
                os.rename(folder / name, content / name)
        raise


def _refuse_twin(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"{path} exists already: remove it to unpack it again")


@dataclass
class _Watch:
    """Tells of an archive's reading."""

    file: BinaryIO
    progress: Progress | None
    check: Check | None

    def __call__(self, whole: bool = False) -> None:
        if self.check is not None:
            self.check()
        if self.progress is not None:
            size = os.fstat(self.file.fileno()).st_size
            self.progress(size if whole else self.file.tell(), size)


class _Writer:
    """Puts members into a new folder. Makes every folder itself, never writes over a name, never goes through a link.

    Links are made last of all, so there is none to go through. Each is relative, climbs first, not above the folder,
    and only descends from there: wherever it or any chain of such links leads is inside.
    """

    def __init__(self, limits: Limits, content: Path, shared: Path | None, watch: _Watch) -> None:
        self.limits, self.archive = limits, limits.archive
        self.content, self.shared, self.watch = content, shared, watch
        self.free = shutil.disk_usage(content).free
        self.members = 0
        self.declared = 0
        self.folders: set[tuple[str, ...]] = {()}
        self.files: set[tuple[str, ...]] = set()
        self.links: list[tuple[tuple[str, ...], str]] = []

    def put_all(self, source: Members) -> None:
        """All members, or as far as they can be trusted."""
        with closing(source):
            while True:
                with reading(self.archive):
                    entry = next(source, None)
                if entry is None:
                    break
                self.put(entry)
                self.watch()
        for parts, target in self.links:
            with self.making(parts) as path:
                os.symlink(target, path)
        if not self.files and not self.links:
            raise UserError(f"{self.archive} holds no files: download it again")
        self.watch(whole=True)

    def put(self, entry: Entry) -> None:
        """One member; symbolic links only when all others are there."""
        self.members += 1
        self.declared += entry.size
        self.limits.check(self.members, self.declared)
        parts = self.parts(entry.name, entry.name)
        if any(part in CLUTTER or part.startswith("._") for part in parts):
            return
        if entry.kind not in (FILE, FOLDER, SYMBOLIC, HARD):
            raise self.refusal(entry.name, f"a {entry.kind}")
        if entry.kind == FOLDER:
            self.make_folders(parts)
            return
        if not parts:
            raise self.refusal(entry.name, f"a {entry.kind} without a name")
        self.make_folders(parts[:-1])
        if len(parts) == 1:
            self.refuse_twin(parts)
        if entry.kind == FILE:
            self.write(parts, entry)
        elif entry.kind == HARD:
            self.link(parts, entry)
        else:
            self.links.append((parts, self.checked_target(parts, entry)))

    def parts(self, path: str, name: str) -> tuple[str, ...]:
        """Of a path below the folder; ``name`` is the member's that is to blame for it."""
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        leads_out = path.startswith("/") or any(not part.rstrip(". ") for part in parts)  # "..", also as ".. "
        if leads_out or re.match("[A-Za-z]:", "".join(parts[:1])) or re.search(r"[\\\0]", path):
            raise self.refusal(name, "which leads out of the folder" if path == name else f"a link to {path!r:.200}")
        if len(parts) > DEEPEST:
            raise self.refusal(name, f"more than {DEEPEST} folders deep")
        return parts

    def refusal(self, name: str, what: str) -> UserError:
        return UserError(f"{self.archive} holds {name!r:.200}, {what}: unpack it by hand if you trust it")

    @contextmanager
    def making(self, parts: tuple[str, ...]) -> Iterator[Path]:
        """The path to make; that it is new is the file system's to say, which knows what names it tells apart."""
        try:
            yield self.content.joinpath(*parts)
        except FileExistsError as error:
            twice = "twice, or in two spellings that are one name on this disk"
            raise self.refusal("/".join(parts), twice) from error
        except OSError as error:
            raise UserError(
                f"{self.archive}: {'/'.join(parts)!r:.200} cannot be written to {self.content.parent.parent} "
                f"({error.strerror}): check the disk"
            ) from error

    def make_folders(self, parts: tuple[str, ...]) -> None:
        """A folder and its parents, those that are not there yet."""
        for depth in range(1, len(parts) + 1):
            folder = parts[:depth]
            if folder not in self.folders:
                if depth == 1:
                    self.refuse_twin(folder)
                with self.making(folder) as path:
                    path.mkdir()
                self.folders.add(folder)

    def refuse_twin(self, parts: tuple[str, ...]) -> None:
        """Early, where the end would refuse it anyway."""
        if self.shared is not None:
            _refuse_twin(self.shared.joinpath(*parts))

    def write(self, parts: tuple[str, ...], entry: Entry) -> None:
        """A file of exactly the size that its archive declares."""
        if self.declared > self.free:  # for a tar, the first moment to know; others may have used or made room since
            need_room(self.content, entry.size, f"{self.archive}: {entry.name!r:.200}")
        with self.making(parts) as path:
            out = path.open("xb", buffering=0)
        with out:
            for block in self.blocks(entry):
                with self.making(parts):
                    write_all(out, block)
                self.watch()
        self.files.add(parts)

    def blocks(self, entry: Entry) -> Iterator[bytes]:
        """A file's content."""
        left = entry.size
        with reading(self.archive):
            source = entry.open()
        with source:
            while left:
                with reading(self.archive):
                    block = source.read(min(BLOCK, left))
                if not block:
                    raise damaged(self.archive, f"{entry.name!r:.200} is too short")
                left -= len(block)
                yield block

    def link(self, parts: tuple[str, ...], entry: Entry) -> None:
        """A second name for a file that came before."""
        target = self.parts(entry.link, entry.name)
        if target not in self.files:
            raise self.refusal(entry.name, f"a hard link to {entry.link!r:.200}, which is no file before it")
        with self.making(parts) as path:
            os.link(self.content.joinpath(*target), path)
        self.files.add(parts)

    def checked_target(self, parts: tuple[str, ...], entry: Entry) -> str:
        """A symbolic link's, if it stays inside."""
        steps = [step for step in entry.link.split("/") if step not in ("", ".")]
        climbs = next((count for count, step in enumerate(steps) if step != ".."), len(steps))
        if entry.link.startswith("/") or climbs >= len(parts):
            raise self.refusal(entry.name, f"a link to {entry.link!r:.200}")
        self.parts("/".join(steps[climbs:]), entry.name)
        return entry.link
