"""Reading images, and the geometry that masks share.

The geometry is that of ADer: bilinear resize (Pillow, antialiased) to a square without keeping the aspect ratio. Images
are turned as their orientation tag says.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ader.data import png
from ader.system.errors import UserError
from ader.system.files import special

U8 = npt.NDArray[np.uint8]
AGAIN = "copy or unpack it again"

#: Pillow's names of the formats that are read, whatever a file's ending says. What Pillow knows besides is left out:
#: pages (PDF, EPS, which runs another program), video, icons, textures of games, drawings in layers.
FORMATS = (
    *("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF"),
    *("QOI", "SGI", "SUN", "PCX", "TGA"),  # last, because they begin with little of their own or nothing
)
HEIF_SUFFIXES = (".heic", ".heif", ".hif")

#: How viewers turn an image with an orientation tag.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TAGGED = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}  # where Pillow finds a PNG's tag
ORIENTATION, BITS_PER_SAMPLE, SUBFILE_TYPE = 274, 258, 254  # TIFF's tags; EXIF has the first


class BadImageError(UserError):
    """A file that cannot be used as an image or mask; ``reason`` is the message without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{path} {reason}")


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image before its pixels.

    Attributes:
        size: width and height, upright.
        orientation: EXIF's number for how it is stored: 1 upright, 2 to 8 turned or mirrored.
        bits: that its values use; None where they are of 16 bits and the format does not say how many of those count.
    """

    size: tuple[int, int]
    orientation: int
    bits: int | None


def read_image(path: Path, content: bytes | None = None, bits: int | None = None) -> Image.Image:
    """Decodes an image to mode RGB at its own size, upright.

    Gray becomes three equal channels, alpha and palette transparency are dropped. Of 16-bit values the highest 8 of the
    bits in use are kept (of 16-bit colors Pillow gives the high byte).

    Args:
        path: the file.
        content: the file's bytes where they have been read already; ``path`` is then only for messages.
        bits: that 16-bit values use, 8 to 16; None: 16.

    Raises:
        BadImageError: the file is missing, damaged, no image, not a single one, without a fixed range (float, 32-bit),
            or has 16-bit values that ``bits`` do not hold.
    """
    image, header = decode(path, content)
    bits = header.bits or bits or 16
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if (top := int(values.max())) >> bits:
            raise BadImageError(path, f"has values up to {top}, which {bits} bits do not hold: give more dataset.bits")
        # where Pillow's own conversion clips at 255
        return Image.fromarray((values >> (bits - 8)).astype(np.uint8)).convert("RGB")
    if header.bits is None and bits < 16:
        raise BadImageError(path, f"has 16-bit colors, of which {bits} bits cannot be told: convert it to 8 bits")
    return colors(image, path)


def read_stored(path: Path) -> Image.Image:
    """Decodes an image in the mode in which it is stored, such as a palette's numbers; upright.

    Raises:
        BadImageError: the file is missing, damaged, no image or not a single one.
    """
    return _open(path, decode=True)[0]


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, upright, from its header.

    Raises:
        BadImageError: as for ``read_header``.
    """
    width, height = read_header(path).size
    return height, width


def read_header(path: Path) -> Header:
    """What an image's header says, read without its pixels wherever that is possible.

    Raises:
        BadImageError: the file is missing, no image, or not a single one.
    """
    return _open(path, decode=False)[1]


def open_image(path: Path) -> Image.Image:
    """An image as its header describes it: of its upright size, perhaps without pixels.

    Raises:
        BadImageError: as for ``read_header``.
    """
    return _open(path, decode=False)[0]


def check_whole(path: Path, content: bytes | None = None) -> None:
    """Refuses a file with damage that decoding passes over: the checksums of a PNG.

    Args:
        path: any file; of other kinds than PNG none is refused.
        content: as for ``read_image``.

    Raises:
        BadImageError: it is damaged, or cannot be read.
    """
    try:
        if content is None and special(path) is None:
            with path.open("rb") as file:
                start = file.read(len(png.SIGNATURE))
                content = start + file.read() if start == png.SIGNATURE else b""
    except OSError:
        return  # whoever opens it says why
    if damage := png.damage(content or b""):
        raise BadImageError(path, f"is truncated or damaged ({damage}): {AGAIN}")


def resize(image: Image.Image, height: int, width: int) -> Image.Image:
    """Bilinear resize."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def load_image(path: Path, size: int, content: bytes | None = None, bits: int | None = None) -> U8:
    """The image at evaluation size: uint8 (3, size, size), RGB in 0..255; other arguments as for ``read_image``.

    Raises:
        BadImageError: as for ``read_image``.
    """
    return planes(read_image(path, content, bits), size)


def planes(image: Image.Image, size: int) -> U8:
    """An image of mode RGB at evaluation size: uint8 (3, size, size)."""
    return np.ascontiguousarray(np.asarray(resize(image, size, size)).transpose(2, 0, 1))


def decode(path: Path, content: bytes | None = None) -> tuple[Image.Image, Header]:
    """An image or mask upright and fully decoded, in a mode with a known range, and its header.

    Raises:
        BadImageError: as for ``read_image``.
    """
    image, header = _open(path, decode=True, content=content)
    if image.mode == "F":
        raise BadImageError(path, "has float pixels, whose range is unknown: convert it to 8 or 16 bits")
    if image.mode == "I":  # Pillow's mode of some 16-bit files, too
        low, high = (int(bound) for bound in image.getextrema())  # type: ignore[arg-type]
        if low < 0 or high > 65535:
            raise BadImageError(
                path, f"has 32-bit pixels from {low} to {high}, beyond 16 bits: convert it to 8 or 16 bits"
            )
    return image, header


def _open(path: Path, decode: bool, content: bytes | None = None) -> tuple[Image.Image, Header]:
    """The only image of a file, upright, and its header; without ``decode`` its pixels may be missing."""
    if content is None and (kind := special(path)):
        raise BadImageError(path, f"is {kind}, not an image: remove it")
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_formats()) as file:
            _check_single(file, path)
            bits = _bits(file)
            if decode and file.format != "TIFF":
                file.load()
            orientation = _orientation(file)
            # not every Pillow gives the size of a turned TIFF before as it is after
            if decode or orientation > 4:
                file.load()
    except BadImageError:
        raise
    except FileNotFoundError as error:
        raise BadImageError(path, f"does not exist: {AGAIN}") from error
    except IsADirectoryError as error:
        raise BadImageError(path, "is a folder, not an image: remove or rename it") from error
    except UnidentifiedImageError as error:
        if (path.stat().st_size if content is None else len(content)) == 0:
            raise BadImageError(path, f"is empty (0 bytes): {AGAIN}") from error
        if path.suffix.lower() in HEIF_SUFFIXES and "HEIF" not in _formats():
            raise BadImageError(path, "needs the package pillow-heif: install it, or convert it to PNG") from error
        raise BadImageError(path, f"is not an image that Pillow can read: {AGAIN}, or remove it") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(path, f"has too many pixels ({error}): scale it down, or cut it into tiles") from error
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error
        if isinstance(error, OSError) and error.errno:  # the system's own error, not the decoder's
            reason = f"cannot be read ({error.strerror}): check its permissions and the disk"
            raise BadImageError(path, reason) from error
        what = str(error) or type(error).__name__
        raise BadImageError(path, f"is truncated or damaged ({what}): {AGAIN}") from error
    image: Image.Image = file  # closing the file keeps the pixels
    if orientation > 1 and file.format != "TIFF":  # those Pillow turns while it decodes them
        image = image.transpose(TURNS[orientation]) if decode or orientation > 4 else image
        image.format = file.format
    return image, Header(image.size, orientation, bits)


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow reads, and HEIF where its plugin is installed."""
    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_single(file: Image.Image, path: Path) -> None:
    """Refuses several pages or frames, of which one would be taken in silence.

    What follows a photograph in its file, or is a smaller copy of it, is none.
    """
    if not getattr(file, "is_animated", False) or file.format == "MPO":
        return
    pages: int = file.n_frames  # type: ignore[attr-defined]
    if file.format == "TIFF" and all(_is_smaller_copy(file, page) for page in range(1, pages)):
        file.seek(0)
        return
    raise BadImageError(path, f"has {pages} pages or frames, and one is expected: save each in a file of its own")


def _is_smaller_copy(file: Image.Image, page: int) -> bool:
    file.seek(page)
    return bool(file.tag_v2.get(SUBFILE_TYPE, 0) & 1)  # type: ignore[attr-defined]


def _bits(file: Image.Image) -> int | None:
    """As for ``Header``, of an image before it is decoded."""
    if file.mode.startswith("I"):
        if file.format in ("PPM", "JPEG2000"):  # Pillow spreads the range that they state over 16 bits
            return 16
        stated = getattr(file, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
        return int(stated[0]) if 8 < stated[0] < 16 else None
    # "SGI16" is a codec, the others are in a raw mode such as "RGB;16B"; BMP's "BGR;16" has 16 bits for a whole pixel
    codes = "".join(f"{codec} {arguments}" for codec, _, _, arguments in file.tile)  # type: ignore[attr-defined]
    return None if file.format in ("PNG", "TIFF", "SGI") and (";16" in codes or "SGI16" in codes) else 8


def _orientation(file: Image.Image) -> int:
    """The orientation tag: 2 to 8, or 1 where there is none that can be read."""
    undecoded = file.format == "PNG" and file.tile  # type: ignore[attr-defined]
    if undecoded and not (TAGGED & file.info.keys() or png.is_tagged_late(file.fp)):  # type: ignore[attr-defined]
        return 1  # Pillow would decode it to find that out
    try:
        found = file.getexif().get(ORIENTATION, 1)
    except Exception:  # of a damaged tag anything; viewers then show the image as it is stored
        return 1
    return found if found in TURNS else 1


def colors(image: Image.Image, path: Path) -> Image.Image:
    """Mode RGB with alpha and transparency dropped.

    Raises:
        BadImageError: its mode has no colors; ``path`` is for the message.
    """
    image.info.pop("transparency", None)  # else Pillow warns, or maps the transparent color
    try:
        converted: Image.Image = image.convert("RGB")
        return converted
    except (ValueError, OSError) as error:
        raise BadImageError(path, f"has color mode {image.mode}: convert it to RGB") from error
