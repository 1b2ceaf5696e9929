"""Reading images and masks, and the geometry that both share.

The geometry is that of ADer: bilinear resize (Pillow, antialiased) to a square without keeping the aspect
ratio; masks ``> 0`` (or by the other ``MaskRule`` cut at one half) before and ``> 0.5`` after, or by ADEval's rule the
nearest pixel. EXIF rotation is not applied,
because masks carry none.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, UnidentifiedImageError

from ader.system.errors import UserError

U8 = npt.NDArray[np.uint8]
Interpolation = Literal["bilinear", "nearest"]
#: Which levels of a mask are defective: ``"any"`` above 0 (class ids), ``"half"`` of the file's range (soft edges).
MaskRule = Literal["any", "half"]
AGAIN = "copy or unpack it again"


class BadImageError(UserError):
    """A file that cannot be used as an image or mask; ``reason`` is the message without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{path} {reason}")


def read_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Decodes an image to mode RGB at its own size.

    Gray becomes three equal channels, 16-bit values keep their high byte (as Pillow does for 16-bit RGB),
    alpha and palette transparency are dropped.

    Args:
        path: the file.
        content: the file's bytes where they have been read already; ``path`` is then only for messages.

    Raises:
        BadImageError: the file is missing, damaged, no image, or without a fixed range (float, 32-bit).
    """
    image = _decode(path, content)
    if image.mode.startswith("I"):
        # the high byte, where Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return _colors(image, path)


@dataclass(frozen=True, slots=True)
class MaskLevels:
    """The levels of a mask as its file has them.

    Attributes:
        values_HW: uint8 or uint16; of colors the brightest channel.
        full: the largest level that the file could hold, 255 or 65535.
        lossy: whether the file is a JPEG, whose levels are not those that were drawn.
    """

    values_HW: npt.NDArray[Any]
    full: int
    lossy: bool

    def least(self, rule: MaskRule) -> int:
        """The smallest level that is defective."""
        return 1 if rule == "any" else self.full // 2 + 1


def read_levels(path: Path) -> MaskLevels:
    """Decodes a mask at its own size.

    Alpha is ignored (an opaque alpha would mark the whole image); palette masks are judged by their colors.

    Raises:
        BadImageError: as for ``read_image``.
    """
    image = _decode(path)
    lossy = image.format in ("JPEG", "MPO")
    if image.mode.startswith("I"):  # 16-bit masks may hold small class ids: their high byte would be 0
        return MaskLevels(np.asarray(image).astype(np.uint16), 65535, lossy)
    brightest = image if image.mode == "L" else reduce(ImageChops.lighter, _colors(image, path).split())
    return MaskLevels(np.asarray(brightest), 255, lossy)


def read_mask(path: Path, rule: MaskRule = "any") -> Image.Image:
    """Decodes a mask to mode L at its own size: 255 where it is defective by ``rule``, else 0; see ``read_levels``.

    Raises:
        BadImageError: as for ``read_image``.
    """
    levels = read_levels(path)
    return Image.fromarray((levels.values_HW >= levels.least(rule)).astype(np.uint8) * np.uint8(255))


def read_masks(paths: Sequence[Path], rule: MaskRule = "any") -> Image.Image:
    """The union of one or more masks of an image (MVTec LOCO has one for each of its defects), as ``read_mask``.

    Raises:
        BadImageError: as for ``read_image``, or the masks differ in size.
    """
    union = read_mask(paths[0], rule)
    for path in paths[1:]:
        mask = read_mask(path, rule)
        if mask.size != union.size:
            raise BadImageError(path, f"is {_by(mask)} pixels and {paths[0].name} {_by(union)}: {AGAIN}")
        union = ImageChops.lighter(union, mask)
    return union


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its header.

    Raises:
        BadImageError: the file is missing or no image.
    """
    width, height = open_image(path).size
    return height, width


def open_image(path: Path) -> Image.Image:
    """An image as its header describes it, without pixels.

    Raises:
        BadImageError: the file is missing or no image.
    """
    return _open(path, decode=False)


def resize(image: Image.Image, height: int, width: int) -> Image.Image:
    """Bilinear resize."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def pick(values_HW: U8, height: int, width: int) -> U8:
    """Resize to the nearest pixel as OpenCV and ADEval count it: output pixel i takes input pixel floor(i * in / out).

    Pillow's ``NEAREST`` counts from the pixels' centers instead.
    """
    rows = np.arange(height) * values_HW.shape[0] // height
    columns = np.arange(width) * values_HW.shape[1] // width
    picked: U8 = values_HW[rows[:, None], columns]
    return picked


def load_image(path: Path, size: int, content: bytes | None = None) -> U8:
    """The image at evaluation size: uint8 (3, size, size), RGB in 0..255; ``content`` as for ``read_image``.

    Raises:
        BadImageError: as for ``read_image``.
    """
    return np.ascontiguousarray(np.asarray(resize(read_image(path, content), size, size)).transpose(2, 0, 1))


def load_mask(
    paths: Sequence[Path],
    size: int | tuple[int, int],
    interpolation: Interpolation = "bilinear",
    rule: MaskRule = "any",
) -> U8:
    """The mask at evaluation size: uint8 (height, width), 1 = defective.

    Args:
        paths: files whose union is the mask; without any it is empty.
        size: (height, width), or the side of a square.
        interpolation: ``"bilinear"``: cut above one half; ``"nearest"``: see ``pick``.
        rule: which levels of the files are defective, before anything is resized.

    Raises:
        BadImageError: as for ``read_image``.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not paths:
        return np.zeros((height, width), np.uint8)
    if interpolation == "nearest":
        return pick(own_mask(paths, rule), height, width)
    # 128 / 255 is the first 8-bit value above ADer's 0.5
    return (np.asarray(resize(read_masks(paths, rule), height, width)) >= 128).astype(np.uint8)


def own_mask(paths: Sequence[Path], rule: MaskRule = "any") -> U8:
    """The mask as it is in its files: uint8 (height, width), 1 = defective.

    Raises:
        BadImageError: as for ``read_masks``.
    """
    return (np.asarray(read_masks(paths, rule)) > 0).astype(np.uint8)


def _decode(path: Path, content: bytes | None = None) -> Image.Image:
    """The first frame of an image file, fully decoded, in a mode with a known range."""
    image = _open(path, decode=True, content=content)
    if image.mode == "F":
        raise BadImageError(path, "has float pixels, whose range is unknown: convert it to 8 or 16 bits")
    if image.mode == "I":  # Pillow's mode of some 16-bit files, too
        low, high = (int(bound) for bound in image.getextrema())  # type: ignore[arg-type]
        if low < 0 or high > 65535:
            raise BadImageError(
                path, f"has 32-bit pixels from {low} to {high}, beyond 16 bits: convert it to 8 or 16 bits"
            )
    return image


def _open(path: Path, decode: bool, content: bytes | None = None) -> Image.Image:
    """The first frame of an image file; without ``decode`` only what its header says."""
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as file:
            if decode:
                file.load()
    except FileNotFoundError as error:
        raise BadImageError(path, f"does not exist: {AGAIN}") from error
    except IsADirectoryError as error:
        raise BadImageError(path, "is a folder, not an image: remove or rename it") from error
    except UnidentifiedImageError as error:
        if (path.stat().st_size if content is None else len(content)) == 0:
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
    return image


def _colors(image: Image.Image, path: Path) -> Image.Image:
    """Mode RGB with alpha and transparency dropped."""
    image.info.pop("transparency", None)  # else Pillow warns, or maps the transparent color
    try:
        converted: Image.Image = image.convert("RGB")
        return converted
    except (ValueError, OSError) as error:
        raise BadImageError(path, f"has color mode {image.mode}: convert it to RGB") from error


def _by(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
