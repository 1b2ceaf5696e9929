"""Integer maps that belong to images: which segment, part or class each pixel is of.

A map is a PNG (gray or palette: the pixel's number counts, not its color) or an array in .npy or .npz, in any case
two-dimensional with numbers from 0. It lies over the image as viewers show it. A folder has one for every image: under
the image's own path relative to the dataset, with the ending of the map.

Shapes in names: H height, W width.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ader.data.image import BadImageError, check_whole, read_size, read_stored
from ader.data.index import Index, Sample
from ader.system.errors import UserError
from ader.system.files import check_regular
from ader.system.parallel import threads

SUFFIXES = (".png", ".npy", ".npz")
GIVE = "give a PNG, .npy or .npz file, or a folder with one for every image"

#: Numbers are below this: no image has more parts, but a mask with 255 for "yes" is a likely mistake.
MOST = 64

Labels = npt.NDArray[np.uint8]


def read_label_map(path: Path) -> Labels:
    """The map at its own size, (H, W).

    Raises:
        UserError: the file is missing, damaged, or no map of numbers from 0 to 63.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no label map: {GIVE}")
    values = _values(path)
    if values.ndim != 2 or not values.size:
        raise UserError(f"{path} has the shape {values.shape}: a label map is two-dimensional")
    if values.dtype.kind not in "biu" and not np.equal(values, np.round(values)).all():
        raise UserError(f"{path} has numbers like {float(values.flat[0]):.3g}: a label map has whole ones")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= MOST:
        raise UserError(f"{path} has labels from {low} to {high}: number them 0, 1, ... {MOST - 1} at most")
    return values.astype(np.uint8)


def resized(label_HW: Labels, size: int) -> Labels:
    """To (size, size): each pixel takes the label at its center."""
    rows, columns = (((2 * np.arange(size) + 1) * side) // (2 * size) for side in label_HW.shape)
    taken: Labels = label_HW[rows[:, None], columns]
    return taken


def find_label_map(folder: Path, image: str) -> Path:
    """The file of one image.

    Raises:
        UserError: there is none.
    """
    for suffix in SUFFIXES:
        file = (folder / image).with_suffix(suffix)
        if file.is_file():
            return file
    name = (folder / image).with_suffix("")
    raise UserError(
        f"{name} is missing with any of the endings {' '.join(SUFFIXES)}: {image} needs its label map there"
    )


@dataclass(frozen=True)
class LabelMaps:
    """The maps of a folder as an input of a method (``ader.data.sources.Source``).

    Attributes:
        folder: has a map for every image, under the image's own path with the ending of the map.
    """

    folder: Path

    def check(self, index: Index, workers: int) -> None:
        """Checks that every image of an index has its map.

        Raises:
            UserError: one is missing, unreadable, or neither as large as its image nor a square (of the size at which
                methods see images).
        """
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder: it should have a label map for every image")

        def look(image: str) -> str | None:
            try:
                file = find_label_map(self.folder, image)
                height, width = read_label_map(file).shape
                own = read_size(index.path(image))
            except BadImageError:
                return None  # the image's own fault, which the check of the images names
            except UserError as error:
                return str(error)
            if height != width and (height, width) != own:
                return f"{file} is {width}x{height} pixels, its image {own[1]}x{own[0]}: give that size, or a square"
            return None

        with threads(workers, "labels") as pool:
            found = [problem for problem in pool.map(look, (sample.image for sample in index)) if problem]
        if found:
            raise UserError(found[0] + (f" ({len(found) - 1} more like it)" if len(found) > 1 else ""))

    def files(self, index: Index) -> dict[str, Path]:
        """The map of each image that has one, by the image."""
        found: dict[str, Path] = {}
        for sample in index:
            with suppress(UserError):  # a missing one is for the check
                found[sample.image] = find_label_map(self.folder, sample.image)
        return found

    def read(self, sample: Sample, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """One image's map at the size at which methods see images: (size, size), labels from 0."""
        return resized(read_label_map(find_label_map(self.folder, sample.image)), size).astype(np.int64)


def _values(path: Path) -> npt.NDArray[Any]:
    """The numbers of a PNG, or of the only array of a file."""
    png = path.suffix == ".png"
    check_regular(path)
    try:
        if png:
            check_whole(path)
            image = read_stored(path)
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise UserError(f"{path} is a color image ({image.mode}): a label map has one number for each pixel")
            return np.array(image)
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            if len(content.files) != 1:
                raise UserError(f"{path} holds {len(content.files)} arrays: a label map is one")
            array: npt.NDArray[Any] = content[content.files[0]]
            return array
    except BadImageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{path} does not exist: {GIVE}") from error
        raise UserError(f"{path} {error.reason}") from error  # no fault of the image that it belongs to
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: {GIVE}") from error
    except Exception as error:  # decoders raise anything on damaged files, and archives many kinds
        kind = " as PNG" if png else ""
        raise UserError(f"{path} cannot be read{kind} ({type(error).__name__}): make it again") from error
