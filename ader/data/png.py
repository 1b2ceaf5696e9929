"""The chunks of a PNG: where they are, and whether their checksums hold, which decoders do not look at for pixels."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: How the texts begin that may have an orientation tag; the chunk of EXIF itself has it without.
TAGGED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")


def damage(content: bytes) -> str | None:
    """What is wrong with a PNG's chunks: the first checksum that is not its data's, or an end that is missing.

    Args:
        content: a whole file; of another kind it is never wrong.
    """
    if not content.startswith(SIGNATURE):
        return None
    view, place = memoryview(content), len(SIGNATURE)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            break
        if zlib.crc32(view[place + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            return f"checksum of {kind.decode('latin-1')!r} at byte {place} is wrong"
        if kind == b"IEND":
            return None
        place = end + 4
    return "its end is missing"


def is_tagged_late(file: BinaryIO) -> bool:
    """Whether a PNG may have an orientation tag behind its pixels, where reading the header does not get to.

    Args:
        file: is left where it was; no pixels are read.
    """
    before, place, behind = file.tell(), len(SIGNATURE), False
    try:
        while True:
            file.seek(place)
            start = file.read(8 + max(map(len, TAGGED)))
            if len(start) < 8:
                return False
            length, kind = struct.unpack_from(">I4s", start)
            behind |= kind == b"IDAT"
            if behind and (kind == b"eXIf" or start[8:].startswith(TAGGED)):
                return True
            place += 12 + length
    finally:
        file.seek(before)
