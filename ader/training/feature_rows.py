"""What frozen networks give for images, on disk: a file for each image, found by what the network was given.

A folder ``<cache>/features/<key>`` is of one network, layers, precision, shape of a batch and machine (``key.json``
says so in words). ``<SHA-256 of the image's float pixels>.row`` is a line of JSON, the tensors' types and shapes and a
CRC-32, and behind it their values, one tensor after another. Nothing in it is executed.

A file appears by being renamed to its name. So any number of processes and runs write into one folder without a lock,
the same image of another dataset or category is the same row, and none of them needs to know how many there will be.
What a crash or a disk damaged does not have its checksum any more, and counts as not there. Rows are read, not mapped,
for the reasons that ``ader.data.image_cache`` gives.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ader.system.errors import UserError
from ader.system.files import UMASK, remove_leftovers, write_atomic

FORMAT = 1
ENDING = ".row"
LEFT = 3600.0  # seconds after which a temporary file is a killed writer's


class Layout(NamedTuple):
    """A tensor that has an image in each row: its type, shape and strides, the rows included."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, value: Tensor) -> Layout:
        return cls(value.dtype, tuple(value.shape), value.stride())

    @property
    def row_bytes(self) -> int:
        """Of one image."""
        return self.dtype.itemsize * torch.Size(self.shape[1:]).numel()

    @property
    def plain(self) -> bool:
        """Whether each element has a place of its own, by its strides."""
        return all(step > 0 or side == 1 for side, step in zip(self.shape, self.stride, strict=True))

    def empty(self) -> Tensor:
        """One like it on the CPU."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype)


class Rows:
    """Rows of one folder, all alike.

    Args:
        folder: made when the first row is written.
        layouts: of the network's tensors for a batch.
        about: what the folder is of, for people.
    """

    def __init__(self, folder: Path, layouts: Sequence[Layout], about: Any = None) -> None:
        self.folder, self.layouts, self.about = folder, tuple(layouts), about
        form = [[str(each.dtype), list(each.shape[1:])] for each in self.layouts]
        self._head = json.dumps({"format": FORMAT, "tensors": form, "crc32": "%", "image": "&"})
        self._head_bytes = len(self._line("0" * 64, 0))
        self._row = torch.empty(sum(each.row_bytes for each in self.layouts), dtype=torch.uint8)
        self.damaged = 0  # rows found so

    @property
    def row_bytes(self) -> int:
        """A file's."""
        return self._head_bytes + self._row.nbytes

    def __len__(self) -> int:
        try:
            return sum(name.endswith(ENDING) for name in os.listdir(self.folder))
        except OSError:
            return 0

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def prepare(self) -> None:
        """Makes the folder, and removes what killed writers left.

        Raises:
            OSError: it cannot be made.
        """
        write_atomic(self.folder / "key.json", json.dumps(self.about, indent=1) + "\n")
        remove_leftovers(self.folder, LEFT)

    def take(self, names: Sequence[str]) -> list[Tensor] | None:
        """The tensors of a batch, the caller's own; None where a row is not there, or is damaged.

        Args:
            names: as many as a batch has.
        """
        if not all(name in self for name in names):
            return None
        values = [each.empty() for each in self.layouts]
        for place, name in enumerate(names):
            if not self._read(name):
                return None
            for value, part in zip(values, self._parts(), strict=True):
                value[place].copy_(part)
        return values

    def put(self, names: Sequence[str], values: Sequence[Tensor]) -> None:
        """Writes those rows that are not there.

        Raises:
            OSError: the disk does not take them.
        """
        for place, name in enumerate(names):
            if name in self:
                continue
            content = torch.cat([bits(value[place]) for value in values]).numpy().data
            try:
                self._write(name, content)
            except FileNotFoundError:  # cleared meanwhile
                self.prepare()
                self._write(name, content)

    def _write(self, name: str, content: memoryview) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{name[:16]}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:  # not forced to disk: a lost one is computed again
                os.fchmod(file.fileno(), 0o666 & ~UMASK)  # other users of the cache may read it
                file.write(self._line(name, zlib.crc32(content)))
                file.write(content)
            os.replace(temporary, self._path(name))
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _read(self, name: str) -> bool:
        """Reads a row, if it is whole; a damaged one is removed, one that may not be read is left."""
        content = self._row.numpy().data
        try:
            with self._path(name).open("rb", buffering=0) as file:
                line, count = file.read(self._head_bytes), 0
                while count < len(content) and (more := file.readinto(content[count:])):
                    count += more
                rest = file.read(1)
        except (FileNotFoundError, PermissionError):  # cleared meanwhile, or for its owner only
            return False
        except OSError:
            line = rest = b""
            count = 0
        if count == len(content) and not rest and line == self._line(name, zlib.crc32(content)):
            return True
        self.damaged += 1
        with suppress(OSError):
            self._path(name).unlink()
        return False

    def _parts(self) -> list[Tensor]:
        """The tensors of the row that was read."""
        parts = torch.split(self._row, [each.row_bytes for each in self.layouts])
        pairs = zip(parts, self.layouts, strict=True)
        return [_typed(part, each.dtype).view(each.shape[1:]) for part, each in pairs]

    def _line(self, name: str, crc32: int) -> bytes:
        return self._head.replace("%", f"{crc32:08x}").replace("&", name).encode() + b"\n"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{ENDING}"


def bits(value: Tensor) -> Tensor:
    """One image's values as bytes on the CPU, in the order of its indices."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _typed(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as values; where they do not begin at a whole one, in a copy."""
    aligned = part if part.storage_offset() % dtype.itemsize == 0 else part.clone()
    return aligned.view(dtype)


def total_bytes(cache: Path) -> int:
    """What all features take on disk."""
    total = 0
    for path in (cache / "features").rglob("*"):
        with suppress(OSError):  # another process may be removing it
            total += path.lstat().st_size if path.is_file() else 0
    return total


def remove(cache: Path) -> int:
    """Deletes all features; a run that uses them computes what it does not find.

    Returns:
        The bytes freed.

    Raises:
        UserError: they cannot be deleted.
    """
    freed, folder = total_bytes(cache), cache / "features"
    if folder.is_dir():
        try:
            # renamed first, at once: a run that goes on writing makes new folders
            shutil.rmtree(folder.rename(tempfile.mkdtemp(dir=cache, prefix=".removed-")))
        except OSError as error:
            raise UserError(f"feature cache {folder} cannot be deleted ({error.strerror})") from error
    return freed
