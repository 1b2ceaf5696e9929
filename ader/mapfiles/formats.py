"""One map file each: .npy, .npz, .png and .tif, read as a single plane of float32, or refused with the reason.

Also what reading means for every source of maps: what a plane is, and how errors are worded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ader.data import png
from ader.system.errors import UserError, some
from ader.system.files import check_regular

MAP_NAMES = ("map", "anomaly_map", "anomaly_maps", "amap", "arr_0")  # the last is np.savez's own
SCORE_NAMES = ("score", "image_score", "pred_score")
AGAIN = "save it again"

MapAndScore = tuple[NDArray[np.float32], float | None]


class UnusableError(Exception):
    """Why a map cannot be used; whoever knows its name puts that in front."""


def unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror}): check its permissions and the disk")


def read_file(path: Path) -> MapAndScore:
    """One map file's map, float32 (H, W), and its score if it has one."""
    suffix = path.suffix.lower()
    check_regular(path)
    try:
        values, score = READERS[suffix](path)
        return plane(values), score
    except UnusableError as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:  # decoders raise anything on damaged files: ValueError, BadZipFile, zlib.error
        if isinstance(error, OSError) and error.errno:  # the system's own error, not the decoder's
            raise unreadable(path, error) from error
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds Python objects, which are never loaded: save a plain array of numbers"
            ) from error
        what = str(error) or type(error).__name__
        raise UserError(f"{path} is truncated, damaged or no {suffix} file ({what}): {AGAIN}") from error


def check_plane(shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Refuses what is no single plane of real numbers."""
    if dtype.kind not in "fiub":
        raise UnusableError(f"holds values of type {dtype}: save one real number per pixel")
    single = len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2]))
    if not single and not (len(shape) == 4 and tuple(shape[:2]) == (1, 1)):
        raise UnusableError(
            f"has shape {tuple(shape)}: save one score per pixel, (H, W), (1, H, W), (H, W, 1) or (1, 1, H, W)"
        )
    if 0 in shape:
        raise UnusableError(f"is empty, its shape is {tuple(shape)}: {AGAIN}")


def plane(values: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W), (1, H, W), (H, W, 1) or (1, 1, H, W) of real numbers as a new float32 (H, W)."""
    check_plane(values.shape, values.dtype)
    if values.ndim == 4:
        values = values[0, 0]
    elif values.ndim == 3:
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    try:
        with np.errstate(over="raise"):
            return values.astype(np.float32, order="C")
    except FloatingPointError as error:
        raise UnusableError("has finite values beyond float32 (3.4e38): scale all maps down") from error


def _read_npy(path: Path) -> tuple[NDArray[Any], None]:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False), None


def _read_npz(path: Path) -> tuple[NDArray[Any], float | None]:
    """The archive's only array, or the one whose name says that it is the map; and its score."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # else np.load takes it for something else
            raise UnusableError(f"is no .npz archive, or an empty one: {AGAIN}")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            scores = [name for name in archive.files if name in SCORE_NAMES]
            others = [name for name in archive.files if name not in SCORE_NAMES]
            maps = others if len(others) == 1 else [name for name in others if name in MAP_NAMES]
            if len(maps) != 1 or len(scores) > 1:
                raise UnusableError(
                    f"holds {some(archive.files) or 'nothing'}, so the map or its score cannot be told: save one "
                    "array named 'map' and, if there is one, its 'score'"
                )
            score = np.asarray(archive[scores[0]]) if scores else None
            if score is not None and (score.size != 1 or score.dtype.kind not in "fiu"):
                raise UnusableError(f"has no number as its {scores[0]!r} but {score.dtype} {score.shape}: {AGAIN}")
            return np.asarray(archive[maps[0]]), None if score is None else float(score.item())


def _read_png(path: Path) -> tuple[NDArray[Any], None]:
    """8- and 16-bit gray as they are; 1, 2 and 4 bits as PNG defines them, spread over 0..255."""
    values = _gray(_decode(path, "PNG", "save the map as .npy, float32 .tif or gray .png"))
    if damage := png.damage(path.read_bytes()):  # which decoding passes over
        raise UnusableError(f"is damaged ({damage}): {AGAIN}")
    return values, None


def _read_tiff(path: Path) -> tuple[NDArray[Any], None]:
    """float32 and integers of up to 32 bits."""
    readable = "float32 or integers of up to 32 bits are read, float16 and float64 are not: save float32, or .npy"
    image = _decode(path, "TIFF", readable)
    bits, white, kind = (image.tag_v2.get(tag) for tag in (258, 262, 339))  # type: ignore[attr-defined]
    if white == 0:  # Pillow inverts some such files and not others
        raise UnusableError("says that 0 is white (photometric 0), so up and down are unclear: save it as minisblack")
    values = _gray(image)
    if (image.mode, bits, kind) == ("L", (8,), (2,)):
        values = values.view(np.int8)  # Pillow reads signed bytes as unsigned
    elif image.mode == "I" and bits == (32,) and kind in (None, (1,)):
        values = values.view(np.uint32)  # and the other way round
    return values, None


def _decode(path: Path, kind: str, hint: str) -> Image.Image:
    """The only frame of an image file, fully decoded."""
    try:
        with Image.open(path, formats=(kind,)) as file:
            frames = getattr(file, "n_frames", 1)
            if frames != 1:
                raise UnusableError(f"has {frames} frames: save one map per file")
            if not file.mode.startswith("I") and any(";16" in str(tile[3]) for tile in file.tile):
                raise UnusableError(f"has 16-bit colors or transparency, which would lose their low bytes: {hint}")
            file.load()
    except UnidentifiedImageError as error:
        raise UnusableError(f"is no {kind} that can be read: {hint}") from error
    image: Image.Image = file  # closing the file keeps the pixels
    return image


def _gray(image: Image.Image) -> NDArray[Any]:
    """The pixels of a gray image (H, W), or of a color image that is in truth gray."""
    if image.mode in ("L", "I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    if image.mode == "1":  # an 8-bit map of 0 and 255 that was saved with fewer bits
        return np.asarray(image.convert("L"))
    if image.mode not in ("P", "PA", "LA", "RGB", "RGBA", "RGBX"):
        raise UnusableError(f"has color mode {image.mode}: save one channel")
    if image.mode == "RGB":
        image.info.pop("transparency", None)  # one color that a viewer leaves out, not a channel
    pixels_HWC = np.asarray(image.convert("RGBA"))
    red, green, blue, alpha = (pixels_HWC[..., channel] for channel in range(4))
    if (red != green).any() or (red != blue).any():
        raise UnusableError(
            "is in color (a rendered heat map?), and colors are no scores: save the map itself as .npy, "
            "float32 .tif or gray .png"
        )
    if (alpha != 255).any():
        raise UnusableError("is partly transparent: save one channel")
    return red


READERS: dict[str, Callable[[Path], tuple[NDArray[Any], float | None]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".png": _read_png,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
}
