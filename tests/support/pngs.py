"""PNGs that Pillow does not write, and their chunks."""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encoded(values_HWC: np.ndarray) -> bytes:
    """RGB of 8 or 16 bits, without filters and compression, so that a pixel stands in the file as it is."""
    height, width, _ = values_HWC.shape
    depth = 8 * values_HWC.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{values_HWC.itemsize}").tobytes() for row in values_HWC)
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


def chunks(content: bytes) -> list[bytes]:
    """All of a PNG, each with length and checksum."""
    found, place = [], len(SIGNATURE)
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        found.append(content[place : place + 12 + length])
        place += 12 + length
    return found
