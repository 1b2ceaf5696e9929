"""Listing the files of datasets: what counts as an image, and what operating systems leave behind.

Nothing here opens an image.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from ader.system.errors import UserError, some

#: Endings of raster images, whatever is installed: what cannot be decoded here is refused, never skipped.
SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".bmp", ".dib", ".tif", ".tiff"),
        *(".webp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        *(".avif", ".avifs", ".heic", ".heif", ".hif", ".tga", ".pcx", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".qoi"),
    }
)
KINDS = "png jpg tif bmp webp gif ppm jp2 ..."
CLUTTER = frozenset({"Thumbs.db", "__MACOSX"})
AGAIN = "unpack the archive again"


def listing(folder: Path, expected: str = "") -> list[Path]:
    """The entries of a folder without hidden files and operating-system clutter, sorted by name.

    Args:
        folder: any path.
        expected: what the dataset holds, for the message when the folder does not exist.

    Raises:
        UserError: it is no folder, or cannot be listed.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist: {expected or AGAIN}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file where a folder is expected: {AGAIN}")
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): change its permissions") from error
    return sorted((entry for entry in entries if entry.name not in CLUTTER), key=lambda entry: entry.name)


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name."""
    return [entry for entry in listing(folder) if entry.is_dir()]


def image_files(folder: Path, expected: str = "") -> list[Path]:
    """The images directly in ``folder``, sorted by name.

    Raises:
        UserError: the folder cannot be listed or holds folders (the layout is then another one).
    """
    entries = listing(folder, expected)
    nested = [entry.name for entry in entries if entry.is_dir()]
    if nested:
        raise UserError(f"{folder} holds folders ({some(nested, 3)}) where images are expected: move their images up")
    # A broken link is kept: it is reported as a missing file before training instead of being skipped here.
    return [entry for entry in entries if entry.suffix.lower() in SUFFIXES]


def stem_of(path: Path) -> str:
    """The name without extension; composed, because some file systems store accents decomposed."""
    return unicodedata.normalize("NFC", path.stem)


def relative(path: Path, root: Path) -> str:
    """As samples name their files."""
    return path.relative_to(root).as_posix()
