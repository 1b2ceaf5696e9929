"""Reading images and masks, and the geometry that both share.

The geometry is that of ADer: bilinear resize (Pillow, antialiased) to a square without keeping the aspect
ratio; masks ``> 0`` before and ``> 0.5`` after. EXIF rotation is not applied, because masks carry none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ader.errors import UserError

U8 = npt.NDArray[np.uint8]
AGAIN = "copy or unpack it again"


class BadImageError(UserError):
    """A file that cannot be used as an image or mask; ``reason`` is the message without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{path} {reason}")


def read_image(path: Path) -> Image.Image:
    """Decodes an image to mode RGB at its own size.

    Grey becomes three equal channels, 16-bit values keep their high byte (as Pillow does for 16-bit RGB),
    alpha and palette transparency are dropped.

    Raises:
        BadImageError: the file is missing, damaged, no image, or without a fixed range (float, 32-bit).
    """
    image = _decode(path)
    if image.mode.startswith("I"):
        return Image.fromarray(_to_8_bit(image)).convert("RGB")
    return _colours(image, path)


def read_mask(path: Path) -> Image.Image:
    """Decodes a mask to mode L at its own size: 255 where any colour channel is above 0, else 0.

    Alpha is ignored (an opaque alpha would mark the whole image); palette masks are judged by their colours.

    Raises:
        BadImageError: as for ``read_image``.
    """
    image = _decode(path)
    # 16-bit masks hold small class ids: their high byte would be 0
    values = np.asarray(image) if image.mode.startswith("I") else np.asarray(_colours(image, path)).max(axis=2)
    return Image.fromarray((values > 0).astype(np.uint8) * np.uint8(255))


def resize(image: Image.Image, size: int) -> Image.Image:
    """Bilinear resize to ``size`` x ``size`` pixels."""
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)


def load_image(path: Path, size: int) -> U8:
    """The image at evaluation size: uint8 (3, size, size), RGB in 0..255.

    Raises:
        BadImageError: as for ``read_image``.
    """
    return np.ascontiguousarray(np.asarray(resize(read_image(path), size)).transpose(2, 0, 1))


def load_mask(path: Path | None, size: int) -> U8:
    """The mask at evaluation size: uint8 (size, size), 1 = defective. None gives an empty mask.

    Raises:
        BadImageError: as for ``read_image``.
    """
    if path is None:
        return np.zeros((size, size), np.uint8)
    # 128 / 255 is the first 8-bit value above ADer's 0.5
    return (np.asarray(resize(read_mask(path), size)) >= 128).astype(np.uint8)


def _decode(path: Path) -> Image.Image:
    """The first frame of an image file, fully decoded, in a mode with a known range."""
    try:
        with Image.open(path) as file:
            file.load()
    except FileNotFoundError as error:
        raise BadImageError(path, f"does not exist: {AGAIN}") from error
    except IsADirectoryError as error:
        raise BadImageError(path, "is a folder, not an image: remove or rename it") from error
    except UnidentifiedImageError as error:
        if path.stat().st_size == 0:
            raise BadImageError(path, f"is empty (0 bytes): {AGAIN}") from error
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
    _refuse_unknown_range(image, path)
    return image


def _refuse_unknown_range(image: Image.Image, path: Path) -> None:
    if image.mode == "F":
        raise BadImageError(path, "has float pixels, whose range is unknown: convert it to 8 or 16 bits")
    if image.mode == "I":
        low, high = (int(bound) for bound in image.getextrema())  # type: ignore[arg-type]
        if low < 0 or high > 65535:
            raise BadImageError(
                path, f"has 32-bit pixels from {low} to {high}, beyond 16 bits: convert it to 8 or 16 bits"
            )


def _to_8_bit(image: Image.Image) -> U8:
    """High byte of a 16-bit grey image (H, W); Pillow's own conversion clips at 255 instead."""
    return (np.asarray(image) >> 8).astype(np.uint8)


def _colours(image: Image.Image, path: Path) -> Image.Image:
    """Mode RGB with alpha and transparency dropped."""
    image.info.pop("transparency", None)  # else Pillow warns, or maps the transparent colour
    try:
        converted: Image.Image = image.convert("RGB")
        return converted
    except (ValueError, OSError) as error:
        raise BadImageError(path, f"has colour mode {image.mode}: convert it to RGB") from error
