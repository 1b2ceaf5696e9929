"""Archives for ``ader data prepare``: cut, contradictory, leading out of the folder, or growing beyond all measure."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from scripts.hostile.image_files import png
from scripts.hostile.replay import Answer, Case, Prepare
from scripts.hostile.world import mask, picture

KIND = "archives"
HERE = (
    "data",
    "prepare",
    "dataset=mvtec",
    "dataset.categories=[bottle]",
    "dataset.check_counts=false",
    "paths.data=data",
)


def _members() -> list[tuple[str, bytes]]:
    """A small MVTec AD of one category."""
    rng = np.random.default_rng(3)
    found = [(f"bottle/train/good/{n:03}.png", png(picture(rng))) for n in range(3)]
    found += [(f"bottle/test/good/{n:03}.png", png(picture(rng))) for n in range(2)]
    found += [(f"bottle/test/hole/{n:03}.png", png(picture(rng, marked=True))) for n in range(2)]
    return found + [(f"bottle/ground_truth/hole/{n:03}_mask.png", png(mask())) for n in range(2)]


def _tar(path: Path, mode: str = "w", extra: Callable[[tarfile.TarFile], object] | None = None) -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in _members():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if extra is not None:
            extra(archive)


def _zip(path: Path, extra: Callable[[zipfile.ZipFile], object] | None = None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _members():
            archive.writestr(name, content)
        if extra is not None:
            extra(archive)


def _cut(make: Callable[[Path], object], share: float) -> Callable[[Path], object]:
    def cut(path: Path) -> None:
        make(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return cut


def _spoiled(make: Callable[[Path], object], share: float, by: bytes = b"\xff" * 64) -> Callable[[Path], object]:
    """Bytes in the middle are replaced."""

    def spoil(path: Path) -> None:
        make(path)
        content = bytearray(path.read_bytes())
        at = int(share * len(content))
        content[at : at + len(by)] = by
        path.write_bytes(bytes(content))

    return spoil


def _bad_header(path: Path) -> None:
    """The header of a member in the middle is noise."""
    _tar(path)
    with tarfile.open(path) as archive:
        at = archive.getmembers()[4].offset
    content = bytearray(path.read_bytes())
    content[at : at + 512] = b"\xaa" * 512
    path.write_bytes(bytes(content))


def _member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> Callable[[tarfile.TarFile], object]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        archive.addfile(info)

    del size
    return add


def _many(archive: tarfile.TarFile) -> None:
    for number in range(50000):
        archive.addfile(tarfile.TarInfo(f"bottle/test/good/x{number}.png"))


def _zeros_in_zip(archive: zipfile.ZipFile) -> None:
    with archive.open("bottle/test/good/zeros.png", "w", force_zip64=True) as member:
        for _ in range(3 * 1024):
            member.write(bytes(1 << 20))


def _sparse(path: Path) -> None:
    """A tar whose member declares 8 TB."""
    _tar(path)
    info = tarfile.TarInfo("bottle/test/good/huge.png")
    info.size = 8 << 40
    content = path.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512)
    path.write_bytes(content + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


TAR, ZIP = "mvtec.tar", "mvtec.zip"

#: (file name, how it is made, the answer).
ARCHIVES: dict[str, tuple[str, Callable[[Path], object], Answer]] = {
    "tar": (TAR, _tar, "done"),
    "tar.gz": ("mvtec.tar.gz", lambda path: _tar(path, "w:gz"), "done"),
    "tar.xz": ("mvtec.tar.xz", lambda path: _tar(path, "w:xz"), "done"),
    "zip": (ZIP, _zip, "done"),
    "empty": (TAR, lambda path: path.write_bytes(b""), "refused"),
    "noise": (TAR, lambda path: path.write_bytes(os.urandom(0) + bytes(range(256)) * 100), "refused"),
    "text": (ZIP, lambda path: path.write_bytes(b"not an archive"), "refused"),
    "half a tar": (TAR, _cut(_tar, 0.5), "refused"),
    "half a tar.gz": ("mvtec.tar.gz", _cut(lambda path: _tar(path, "w:gz"), 0.5), "refused"),
    "tar.gz without its tail": ("mvtec.tar.gz", _cut(lambda path: _tar(path, "w:gz"), 0.995), "refused"),
    "half a tar.xz": ("mvtec.tar.xz", _cut(lambda path: _tar(path, "w:xz"), 0.5), "refused"),
    "half a zip": (ZIP, _cut(_zip, 0.5), "refused"),
    "bad header": (TAR, _bad_header, "refused"),
    "spoiled gz": ("mvtec.tar.gz", _spoiled(lambda path: _tar(path, "w:gz"), 0.6), "refused"),
    "spoiled zip": (ZIP, _spoiled(_zip, 0.4), "refused"),
    "a path out": (TAR, lambda path: _tar(path, extra=_member("../../escaped")), "refused"),
    "an absolute path": (TAR, lambda path: _tar(path, extra=_member("/tmp/hostile-escaped")), "refused"),
    "a link out": (TAR, lambda path: _tar(path, extra=_member("bottle/x", tarfile.SYMTYPE, "/etc/passwd")), "refused"),
    "a link to a folder out": (
        TAR,
        lambda path: _tar(path, extra=_member("bottle/x", tarfile.SYMTYPE, "../../..")),
        "refused",
    ),
    "a hard link out": (
        TAR,
        lambda path: _tar(path, extra=_member("bottle/x", tarfile.LNKTYPE, "/etc/passwd")),
        "refused",
    ),
    "a device": (TAR, lambda path: _tar(path, extra=_member("bottle/x", tarfile.CHRTYPE)), "refused"),
    "a FIFO": (TAR, lambda path: _tar(path, extra=_member("bottle/x", tarfile.FIFOTYPE)), "refused"),
    "an escape code": (TAR, lambda path: _tar(path, extra=_member("bottle/\x1b[2J")), "either"),
    "a long name": (TAR, lambda path: _tar(path, extra=_member("bottle/" + "n" * 300)), "refused"),
    "50,000 files": (TAR, lambda path: _tar(path, extra=_many), "refused"),
    "3 GB of zeros": (ZIP, lambda path: _zip(path, extra=_zeros_in_zip), "refused"),
    "declared 8 TB": (TAR, _sparse, "refused"),
    "a folder out in zip": (
        ZIP,
        lambda path: _zip(path, extra=lambda archive: archive.writestr("../../x", b"")),
        "refused",
    ),
    "a FIFO for an archive": (TAR, lambda path: os.mkfifo(path), "refused"),
    "a device for an archive": (TAR, lambda path: path.symlink_to("/dev/zero"), "refused"),
}


def cases() -> Iterator[Case]:
    """Each archive as ``source=``; afterwards nothing may lie where it does not belong."""
    for name, (file, make, answer) in ARCHIVES.items():
        yield Case(KIND, name, (*HERE, f"source={file}"), answer, "", _making(file, make))


def _making(file: str, make: Callable[[Path], object]) -> Prepare:
    return lambda world: make(world.folder / file)
