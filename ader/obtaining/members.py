"""Reads the members of an archive. It is a stranger's file: the standard library only reads it, and writes nothing.

(A chain of links can lead ``tarfile``'s own ``filter="data"`` outside before Python 3.10.18, 3.11.13 and 3.12.11.)
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, Protocol, cast

from ader.obtaining.disk import BLOCK, need_room
from ader.system.errors import UserError
from ader.system.interrupt import Stopped

FORMATS = ".tar, .tar.gz, .tar.xz, .tar.bz2 or .zip"


class _Readable(Protocol):
    """Bytes, one after the other."""

    def read(self, size: int = -1, /) -> bytes: ...


#: How a compressed tar begins, and what reads it.
COMPRESSED: dict[bytes, Callable[[BinaryIO], _Readable]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second one: a zip without members

FILE, FOLDER, SYMBOLIC, HARD = "file", "folder", "symbolic link", "hard link"


class Entry(NamedTuple):
    """A member of an archive, as the archive has it: nothing is checked.

    Attributes:
        name: a path with ``/`` between.
        kind: `FILE`, `FOLDER`, `SYMBOLIC`, `HARD`, or in words what else.
        size: of a file, in bytes.
        link: where a link points to.
        open: begins to read a file; entries are read in their order.
    """

    name: str
    kind: str
    size: int
    link: str
    open: Callable[[], IO[bytes]]


Members = Generator[Entry, None, None]


@dataclass(frozen=True)
class Limits:
    """What an archive of datasets may become: what exceeds it was made to fill disks.

    Images hardly shrink when they are packed, and with its header each takes a thousand bytes of an archive or more.

    Attributes:
        archive: the file, for messages.
        size: its own, in bytes.
    """

    archive: Path
    size: int

    @property
    def bytes(self) -> int:
        """That may come out of it."""
        return (64 << 20) + 100 * self.size

    @property
    def members(self) -> int:
        """Files, folders and links that may."""
        return 10_000 + self.size // 1024

    def check(self, members: int, unpacked: int) -> None:
        """Compares what an archive declares with what it may.

        Args:
            members: files, folders and links.
            unpacked: bytes of all files.

        Raises:
            UserError: it is more.
        """
        if members > self.members:
            much = f"{members:,} members or more, of which its size of {self.size:,} bytes allows {self.members:,}"
        elif unpacked > self.bytes:
            much = f"{unpacked:,} bytes or more, {unpacked // max(1, self.size)} times its own size"
        else:
            return
        raise UserError(f"{self.archive} would unpack to {much}: unpack it by hand if you trust it")


def open_members(limits: Limits, file: BinaryIO, target: Path) -> Members:
    """All members, in the order in which they lie in the file; ``target`` must have room for them.

    A zip is held against ``limits`` before its first member is given. A tar has no directory to do so.
    """
    archive = limits.archive
    head = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    if head.startswith(ZIP):
        yield from _zip_entries(limits, file, target)
        return
    opened = next((opened for magic, opened in COMPRESSED.items() if head.startswith(magic)), None)
    if opened is None and not _is_tar(head):
        if not head:
            raise UserError(f"{archive} is empty: download it again")
        if head.lstrip()[:1] == b"<":
            raise UserError(f"{archive} is no archive but a web page: download the file that the page leads to")
        raise UserError(f"{archive} is no {FORMATS}, or the start of it is damaged: download it again")
    need_room(target, limits.size, str(archive))  # nothing unpacks to less
    yield from _tar_entries(opened(file) if opened else file)


def _is_tar(head: bytes) -> bool:
    """Whether a tar begins so; its header has a checksum."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(head) == tarfile.BLOCKSIZE and not any(head)  # a tar without members
    return True


def _tar_entries(stream: _Readable) -> Members:
    """A tar's members, read once from front to back."""
    forward = _Forward(stream)
    with tarfile.open(fileobj=cast(BinaryIO, forward), mode="r:") as tar:
        for member in tar:
            size = member.size if member.isreg() else 0
            opened = partial(tar.extractfile, member)
            yield Entry(member.name, _tar_kind(member), size, member.linkname, cast(Callable[[], IO[bytes]], opened))
    # tarfile takes a damaged header, or none, for the end. The end is a block of zeros, and only zeros follow: a header
    # that was wiped looks like the end as well. (What compressed the tar put its checksum behind it.)
    if forward.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end")
    while rest := stream.read(BLOCK):
        if any(rest):
            raise tarfile.ReadError("something follows its end")


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issparse():
        return "sparse file"
    kinds = {
        FILE: member.isreg(),
        FOLDER: member.isdir(),
        SYMBOLIC: member.issym(),
        HARD: member.islnk(),
        "device": member.isdev(),  # FIFOs among them
    }
    return next((kind for kind, applies in kinds.items() if applies), f"thing of type {member.type!r}")


class _Forward:
    """What tarfile needs of a file, without a way back, which would unpack all from the start or go in circles."""

    def __init__(self, stream: _Readable) -> None:
        self.stream = stream
        self.place = 0
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= BLOCK:  # files are read in blocks; the rest are headers
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self.stream.read(size)
        self.place += len(self.last)
        return self.last

    def tell(self) -> int:
        return self.place

    def seek(self, place: int) -> int:
        if place < self.place:
            raise tarfile.ReadError("its members overlap")
        while self.place < place:
            if not self.read(min(BLOCK, place - self.place)):
                raise tarfile.ReadError("unexpected end of data")
        return place


def _zip_entries(limits: Limits, file: BinaryIO, target: Path) -> Members:
    """A zip's members."""
    archive = limits.archive
    with zipfile.ZipFile(file) as opened:
        members = sorted(opened.infolist(), key=lambda member: member.header_offset)
        unpacked = sum(member.file_size for member in members)
        limits.check(len(members), unpacked)
        need_room(target, unpacked, str(archive))
        for member in members:
            # what zipfile cannot read, or not in bounded memory
            if member.flag_bits & 0x1:
                raise UserError(f"{archive} is encrypted: unpack it by hand, with its password")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                way = f"in a rare way (method {member.compress_type})"
                raise UserError(f"{archive} is compressed {way}: unpack it by hand, e.g. with 7-Zip")
            file.seek(member.header_offset)  # for those who watch it; zipfile keeps its own place
            # Windows' own zips have backslashes between; a "..\\" is then found like any other
            name = member.filename.replace("\\", "/")
            kind = FOLDER if name.endswith("/") else FILE
            format_ = stat.S_IFMT(member.external_attr >> 16)
            if format_ not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "symbolic link in a zip" if format_ == stat.S_IFLNK else "device"
            yield Entry(name, kind, member.file_size, "", partial(opened.open, member))


@contextmanager
def reading(archive: Path) -> Iterator[None]:
    """Any exception of the standard library's readers means a bad file: they trust it, and break anywhere."""
    try:
        yield
    except (UserError, Stopped):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: to seek before the start
            raise UserError(f"{archive} cannot be read ({error.strerror}): check the disk") from error
        raise damaged(archive, str(error) or type(error).__name__) from error


def damaged(archive: Path, what: str) -> UserError:
    return UserError(f"{archive} is damaged or truncated ({what}): download it again")
