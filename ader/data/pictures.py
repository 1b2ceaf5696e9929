"""A user's own images: files, and folders with all that lies below them; what a dataset's reader is to a dataset."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ader.data.index import TEST, Index, Sample
from ader.data.listing import CLUTTER, KINDS, SUFFIXES
from ader.system.errors import UserError, is_utf8, suggest

#: As a category: each image's is the folder above it that has a category's name.
BY_FOLDER = "folder"


@dataclass(frozen=True)
class Pictures:
    """Images that were asked for.

    Attributes:
        root: the folder that has them all, absolute.
        names: their paths below it, POSIX, in the order in which they were named, each once.
        left_out: files in folders whose ending is no image's.
    """

    root: Path
    names: tuple[str, ...]
    left_out: tuple[str, ...]

    def index(self, categories: Sequence[str], category: str | None, bits: int | None) -> Index:
        """The images as a dataset's test split, of which nothing is known.

        Args:
            categories: those that the model knows.
            category: of all images; ``"folder"``: of each that of a folder above it; None: the only one there is, or
                none where there are several.
            bits: that 16-bit images use (``dataset.bits``).

        Raises:
            UserError: there is no such category, or an image is in no folder of a category's name.
        """
        if category not in (None, BY_FOLDER, *categories):
            raise UserError(f"category={category} is not one of the run's: {suggest(str(category), categories)}")
        if category is None:
            category = categories[0] if len(categories) == 1 else ""
        by_folder = category == BY_FOLDER and BY_FOLDER not in categories
        samples = tuple(
            Sample(name, self._category(name, categories) if by_folder else category, TEST, 0) for name in self.names
        )
        return Index("images", self.root, samples, has_masks=False, bits=bits)

    def _category(self, name: str, categories: Sequence[str]) -> str:
        """That of the nearest folder."""
        above = (self.root / name).parent.parts
        found = next((part for part in reversed(above) if part in categories), None)
        if found is None:
            raise UserError(
                f"{self.root / name} is in no folder with the name of a category ({', '.join(categories)}): give "
                "category=NAME"
            )
        return found

    def outputs(self) -> dict[str, str]:
        """A name without ending for what is made of each image, by the image: its own, or with its ending where another
        image's is the same without it."""
        short = {name: str(PurePosixPath(name).with_suffix("")) for name in self.names}
        count = Counter(short.values())
        return {
            name: stem if count[stem] == 1 and (stem == name or stem not in short) else name
            for name, stem in short.items()
        }


def find_pictures(given: Sequence[Path], without: Path) -> Pictures:
    """Looks for images; opens none.

    Args:
        given: files, whatever their ending, and folders, with what lies below them: all that has an image's ending.
        without: a folder that is passed over, because it is to be written to.

    Raises:
        UserError: there is nothing, or no image, or a name that cannot be kept in a table.
    """
    files, bases, left_out = dict[str, None](), list[str](), list[str]()
    for path in given:
        whole = os.path.abspath(path)
        if os.path.isdir(whole):
            found = list(_below(whole, os.path.abspath(without)))
            images = [file for file in found if os.path.splitext(file)[1].lower() in SUFFIXES]
            if not images:
                raise UserError(f"{path} has no images in it ({KINDS}): give files, or a folder with some")
            left_out += [file for file in found if os.path.splitext(file)[1].lower() not in SUFFIXES]
            files.update(dict.fromkeys(images))
            bases.append(whole)
        elif os.path.lexists(whole):
            files[whole] = None
            bases.append(os.path.dirname(whole))
        else:
            raise UserError(f"{path} does not exist: give images, or folders with images")
    if not files:
        raise UserError("no images are given: name files, or folders with images")
    root = Path(os.path.commonpath(bases))
    names = tuple(Path(file).relative_to(root).as_posix() for file in files)
    for name in names:
        if not is_utf8(name) or {"\n", "\r"} & set(name):
            raise UserError(f"{str(root / name)!r} has a name that a table cannot hold: rename it")
    return Pictures(root, names, tuple(left_out))


def _below(folder: str, without: str) -> Iterator[str]:
    """All files in a folder and its folders, sorted, without hidden ones and what operating systems leave behind."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}): change its permissions") from error

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if _counts(name) and os.path.join(place, name) != without)
        yield from (os.path.join(place, name) for name in sorted(files) if _counts(name))


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in CLUTTER
