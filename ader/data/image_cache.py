"""Decoded and resized images on disk, shared by runs and processes: training copies rows in place of decoding files.

A folder ``<cache>/images/<size>-bilinear-<VERSION>-pillow-<its version>`` (and ``-<bits>-bits`` where 16-bit values use
fewer) holds for one image size:

- ``rows.u8``: row i is what ``load_image`` gives, uint8 (3, size, size). Only ever appended to.
- ``rows.sha256``: row i is the SHA-256 of the file that the pixels came from, 32 bytes. A row exists once it is listed
  here, which happens after its pixels are on disk. The same file in another folder or dataset is the same row.
- ``known.sha256``: of every file that was read, 64 bytes: its key (``contents.file_key``), and the SHA-256 of
  its content, so that it need not be read again while nothing of it changes.
- ``.lock``: held by the one process that appends. Readers need no lock.

Whatever is in those files, an image is only read from a row that is listed with the SHA-256 of its file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from ader.data.image import U8, BadImageError, check_whole, load_image
from ader.system.contents import file_key
from ader.system.errors import UserError
from ader.system.files import open_to_write, try_lock
from ader.system.parallel import ahead, threads

VERSION = 2  # raise it when decoding or resizing changes a pixel
CHUNK = 64 << 20  # bytes of decoded images that wait for the disk, and
SECONDS = 2.0  # how long: so much is lost when the process is killed
POLL = 0.5  # seconds between looks at another process's lock
DIGEST = 32  # bytes of a SHA-256
RECORD = 2 * DIGEST

Progress = Callable[[int, int], object]
Callback = Callable[[], object]


class CachedImages:
    """Images that need no decoding. Can be pickled, and used in any number of processes and threads.

    Rows are read with ``pread``: as fast as a memory map on pages that are in memory and faster on others, and a file
    that lost its end is an error with a message, where a map would kill the process.

    Args:
        folder: of the cache for this size.
        size: the images' side in pixels.
        rows: name to row.
        seal: SHA-256 of the list of rows, as far as ``rows`` needs it: tells whether the rows are still those.
    """

    def __init__(self, folder: Path, size: int, rows: dict[str, int], seal: bytes) -> None:
        self.folder, self.size = folder, size
        self._rows, self._seal = rows, seal
        self._file: FileIO | None = None

    @property
    def names(self) -> KeysView[str]:
        return self._rows.keys()

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # each process opens its own

    def read(self, name: str) -> U8:
        """One image, uint8 (3, size, size), RGB: a copy of one's own.

        Raises:
            KeyError: it is not in the cache.
            UserError: as for ``take``.
        """
        image: U8 = self.take([name])[0]
        return image

    def take(self, names: Sequence[str]) -> U8:
        """Images in the order of ``names``, which may repeat: uint8 (B, 3, size, size), RGB, a copy of one's own.

        Raises:
            KeyError: one is not in the cache.
            UserError: the cache was removed or damaged since it was opened.
        """
        if self._file is None:
            self._file = self._open()
        images = np.empty((len(names), 3, self.size, self.size), np.uint8)
        for image, name in zip(images, names, strict=True):
            self._fill(self._file.fileno(), image, self._rows[name] * image.size)
        return images

    def _fill(self, descriptor: int, image: U8, place: int) -> None:
        rest = image.data.cast("B")
        while rest:
            count = os.preadv(descriptor, [rest], place)
            if count == 0:
                raise self._gone()
            rest, place = rest[count:], place + count

    def _open(self) -> FileIO:
        """The file of rows, if they are still the same: the cache may have been removed and filled again."""
        needed = max(self._rows.values(), default=-1) + 1
        try:
            file = FileIO(self.folder / "rows.u8")
            same = self._seal == _seal(_listed(self.folder, self.size)[:needed])
        except OSError as error:
            raise self._gone() from error
        if not same:
            raise self._gone()
        return file

    def _gone(self) -> UserError:
        return UserError(f"image cache {self.folder} was removed or damaged while in use: run the same command again")


def cache_images(
    files: Mapping[str, Path],
    size: int,
    cache: Path,
    *,
    workers: int,
    bits: int | None = None,
    progress: Progress | None = None,
    check: Callback | None = None,
    waiting: Callback | None = None,
) -> CachedImages:
    """Decodes those images that are not in the cache yet, and opens them all.

    Files that are missing or cannot be decoded are left out without a word: checking files is another's task. What an
    interrupted or killed call decoded is not decoded again.

    Args:
        files: name to file.
        size: images are resized to (size, size).
        cache: the folder for what can be made again; this uses ``<cache>/images``.
        workers: threads (Pillow decodes without holding the interpreter's lock); below 1 counts as 1.
        bits: that 16-bit values use, as for ``read_image``.
        progress: called with (files done, files in all), unless the files are known from an earlier call.
        check: called again and again, at least once per file; may raise to interrupt.
        waiting: called once when another process is adding images and this one waits for it.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    folder, needed = _folder(cache, size, bits), needed_bytes(len(files), size)
    found = _open(folder, size, files)
    if found is not None:
        return found
    with _exclusive(folder, needed, check, waiting):
        found = _open(folder, size, files)  # the process that was waited for may have been at the same files
        if found is not None:
            return found
        with _Rows(folder, size, needed) as rows:
            digests = _fill(rows, files, bits, workers, progress, check)
        return _opened(folder, size, files, digests, rows.digests)


def open_images(files: Mapping[str, Path], size: int, cache: Path, *, bits: int | None = None) -> CachedImages | None:
    """All of these images from the cache, or None where any would need to be decoded, or looked at again.

    Takes one look at each file's size and times of change; writes nothing.
    """
    return _open(_folder(cache, size, bits), size, files)


def needed_bytes(count: int, size: int) -> int:
    """What ``count`` images take on disk."""
    return count * (_row_bytes(size) + DIGEST + RECORD)


def free_bytes(cache: Path) -> int:
    """Free space where the cache is, or would be made."""
    folder = Path(os.path.abspath(cache))
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def total_bytes(cache: Path) -> int:
    """What all cached images, of every size, take on disk."""
    total = 0
    for path in (cache / "images").rglob("*"):
        with suppress(FileNotFoundError):  # another process may be removing it
            total += path.lstat().st_size if path.is_file() else 0
    return total


def remove(cache: Path) -> int:
    """Deletes all cached images, of every size.

    Returns:
        The bytes freed.

    Raises:
        UserError: another process is adding images (then all is as it was), or a folder cannot be deleted.
    """
    folders = [path for path in (cache / "images").glob("*") if path.is_dir()]
    freed = total_bytes(cache)
    with ExitStack() as locks:
        try:
            for folder in folders:
                locks.enter_context(_idle(folder))
            for folder in folders:
                # Renamed first, at once: a process that waits for the lock must not start in a half deleted folder.
                shutil.rmtree(folder.rename(tempfile.mkdtemp(dir=folder.parent, prefix=".removed-")))
        except OSError as error:
            raise UserError(f"image cache {cache / 'images'} cannot be deleted ({error.strerror})") from error
    with suppress(OSError):  # not there, or in use again
        (cache / "images").rmdir()
    return freed


class _Rows:
    """The rows of a folder, for the one process that may add to them.

    What an earlier one left half done is cut off first. A signal may end any step anywhere: all is written to places
    that follow from what is complete, so that ``flush`` can be called again.
    """

    def __init__(self, folder: Path, size: int, needed: int) -> None:
        self.folder, self.size, self.needed = folder, size, needed
        self.flushed = time.monotonic()
        with _explained(folder, needed):
            names = ("rows.u8", "rows.sha256", "known.sha256")
            self.pixels, self.list, self.files = (open_to_write(folder / name) for name in names)
            self.digests, self.known = _listed(folder, size), _read_known(folder)
            self.recorded, self.records = os.fstat(self.files.fileno()).st_size // RECORD, list[bytes]()
            self.list.truncate(len(self.digests) * DIGEST)
            os.fsync(self.list)  # before other pixels take the place of those that were lost
            self.pixels.truncate(len(self.digests) * _row_bytes(size))
        self.row = {digest: row for row, digest in enumerate(self.digests)}
        self.listed = len(self.digests)

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.pixels, self.list, self.files:
            # After a failed write nothing more is listed: a second fsync succeeds whatever the first one lost.
            if kind is None or not issubclass(kind, UserError):
                self.flush()
            else:
                with suppress(OSError):  # leaves a full disk some room
                    self.pixels.truncate(self.listed * _row_bytes(self.size))

    def add(self, digest: bytes, image_CHW: U8) -> None:
        """Appends a row, unless a file of the same content has one."""
        if digest in self.row:
            return
        with _explained(self.folder, self.needed):
            _write(self.pixels, image_CHW.tobytes(), len(self.digests) * image_CHW.nbytes)
        self.digests.append(digest)
        self.row[digest] = len(self.digests) - 1
        waiting = (len(self.digests) - self.listed) * image_CHW.nbytes
        if waiting >= CHUNK or time.monotonic() > self.flushed + SECONDS:
            self.flush()

    def note(self, key: bytes | None, digest: bytes) -> None:
        """Remembers a file's content; ``key`` is None where it changed while it was read."""
        if key is not None and self.known.get(key) != digest:
            self.known[key] = digest
            self.records.append(key + digest)

    def flush(self) -> None:
        """Lists the rows that were added, once their pixels are on disk, and then the files that they came from."""
        count = len(self.digests)
        with _explained(self.folder, self.needed):
            os.fsync(self.pixels)
            _write(self.list, b"".join(self.digests[self.listed : count]), self.listed * DIGEST)
            os.fsync(self.list)
            records = b"".join(self.records)  # not forced to disk: what is lost, or half there, is read again
            _write(self.files, records, self.recorded * RECORD)
        self.recorded += len(records) // RECORD
        del self.records[: len(records) // RECORD]
        self.listed, self.flushed = count, time.monotonic()


def _fill(
    rows: _Rows,
    files: Mapping[str, Path],
    bits: int | None,
    workers: int,
    progress: Progress | None,
    check: Callback | None,
) -> list[bytes | None]:
    """Gives each file a row; returns each one's SHA-256, or None for a file that is no image."""
    digests: list[bytes | None] = []
    most = max(2 * workers, CHUNK // _row_bytes(rows.size))
    with threads(workers, "cache") as pool:
        for digest, image, key in ahead(pool, lambda path: _decode(path, rows, bits), files.values(), most):
            if digest is not None:
                rows.note(key, digest)
                if image is not None:
                    rows.add(digest, image)
            digests.append(digest)
            if progress is not None:
                progress(len(digests), len(files))
            if check is not None:
                check()
    return digests


def _decode(path: Path, rows: _Rows, bits: int | None) -> tuple[bytes | None, U8 | None, bytes | None]:
    """The SHA-256 of a file, its pixels unless there is a row of them, and its key; nothing where it is no image."""
    try:
        before = file_key(path)
        if before is None:  # no plain file
            return None, None, None
        known = rows.known.get(before)
        if known in rows.row:
            return known, None, before
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        # From the very bytes that were hashed: the file may be changing, and then its key stands for neither.
        image = None
        if digest not in rows.row:
            check_whole(path, content)
            image = load_image(path, rows.size, content, bits)
        return digest, image, before if before == file_key(path) else None
    except (OSError, BadImageError):
        return None, None, None


def _open(folder: Path, size: int, files: Mapping[str, Path]) -> CachedImages | None:
    """What earlier calls left of these very files, if it is all there."""
    try:
        known, listed = _read_known(folder), _listed(folder, size)
        digests = [known.get(file_key(path) or b"") for path in files.values()]
    except OSError:
        return None
    if not set(listed).issuperset(digests):
        return None
    return _opened(folder, size, files, digests, listed)


def _opened(
    folder: Path, size: int, files: Iterable[str], digests: Sequence[bytes | None], listed: list[bytes]
) -> CachedImages:
    row = {digest: row for row, digest in enumerate(listed)}
    rows = {name: row[digest] for name, digest in zip(files, digests, strict=True) if digest is not None}
    return CachedImages(folder, size, rows, _seal(listed[: max(rows.values(), default=-1) + 1]))


def _listed(folder: Path, size: int) -> list[bytes]:
    """The SHA-256 of every row whose pixels are there, too."""
    whole = (folder / "rows.u8").stat().st_size // _row_bytes(size)
    return _split((folder / "rows.sha256").read_bytes())[:whole]


def _split(content: bytes) -> list[bytes]:
    return [content[place : place + DIGEST] for place in range(0, len(content) - DIGEST + 1, DIGEST)]


def _seal(digests: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join(digests)).digest()


def _read_known(folder: Path) -> dict[bytes, bytes]:
    """The SHA-256 of files by their keys."""
    parts = _split((folder / "known.sha256").read_bytes())
    return dict(zip(parts[::2], parts[1::2], strict=False))  # the last record may be half there


def _folder(cache: Path, size: int, bits: int | None) -> Path:
    fewer = f"-{bits}-bits" if bits not in (None, 16) else ""
    # another Pillow, or its JPEG library, may decode otherwise
    return cache / "images" / f"{size}-bilinear-{VERSION}-pillow-{PIL.__version__}{fewer}"


def _row_bytes(size: int) -> int:
    return 3 * size * size


@contextmanager
def _exclusive(folder: Path, needed: int, check: Callback | None, waiting: Callback | None) -> Iterator[None]:
    """Holds the folder for this process, once others are done; the lock vanishes with the process, however it ends."""
    while True:
        with _explained(folder, needed):
            lock = _lock(folder)
        if lock is not None:
            break
        if waiting is not None:
            waiting()
            waiting = None
        if check is not None:
            check()
        time.sleep(POLL)
    with lock:
        yield


def _lock(folder: Path) -> FileIO | None:
    """The folder's lock, or None while another process holds it or is removing the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return try_lock(folder / ".lock")
    except FileNotFoundError:
        return None


def _idle(folder: Path) -> FileIO:
    lock = _lock(folder)
    if lock is None:
        raise UserError(f"another process is adding images to {folder}: wait for it")
    return lock


def _write(file: FileIO, content: bytes, place: int) -> None:
    rest = memoryview(content)
    while rest:
        count = os.pwrite(file.fileno(), rest, place)
        rest, place = rest[count:], place + count


@contextmanager
def _explained(folder: Path, needed: int) -> Iterator[None]:
    """Failures of the disk as the user's to fix."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"image cache {folder} cannot be written ({error.strerror}; {needed:,} bytes are needed): "
            "give paths.cache=FOLDER or dataset.cache=off"
        ) from error
