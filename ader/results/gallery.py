"""A run's gallery: the folder ``gallery/`` in its results, as it is written and read.

``gallery.json`` lists the pictures, and is written last. Each picture is one WebP file: the input, the input with the
outline of the ground truth, and the anomaly map over the input, side by side.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from ader.system.files import special

FOLDER, FILE, SCHEMA = "gallery", "gallery.json", 1

#: Why a picture is there: as one of its kind of defect, or as a category's worst error of either kind.
Why = Literal["false alarm", "miss", "example"]
WHYS: tuple[Why, ...] = ("false alarm", "miss", "example")

#: Names of pictures; nothing else that a damaged or foreign list names is opened.
PICTURE = re.compile(r"[0-9]{3,9}\.webp")


@dataclass(frozen=True)
class Entry:
    """One picture.

    Attributes:
        file: its name in the gallery's folder.
        category, defect, image, label: of the test image, as the dataset has them; the image by its relative name.
        score: higher is more anomalous; None where it is not finite.
        why: ``"false alarm"``: the category's normal image with the highest score; ``"miss"``: its defective image with
            the lowest; ``"example"``: one of its kind of defect, or (``gallery=all``) any other.
    """

    file: str
    category: str
    defect: str
    image: str
    label: int
    score: float | None
    why: Why


@dataclass(frozen=True)
class Gallery:
    """The pictures of a run.

    Attributes:
        folder: where they are.
        kind: ``"worst"`` or ``"all"``.
        scales: of each category, the map's values at which the colors of all its pictures begin and end.
        entries: the pictures, in the order in which they are shown: by category, errors first.
        rule: how ``scales`` were found, in words.
        left_out: pictures that would have been too many.
        fault: what is damaged, in one line; what is whole is in ``entries`` all the same. None: nothing is.
    """

    folder: Path
    kind: str = "worst"
    scales: dict[str, tuple[float, float]] | None = None
    entries: tuple[Entry, ...] = ()
    rule: str = ""
    left_out: int = 0
    fault: str | None = None

    def path(self, entry: Entry) -> Path:
        """The file of a picture."""
        return self.folder / entry.file


class _Entry(TypedDict):
    file: Annotated[str, Field(pattern=f"^{PICTURE.pattern}$")]
    category: str
    defect: str
    image: str
    label: Literal[0, 1]
    score: float | None
    why: Why


class _File(TypedDict, total=False):
    kind: Literal["worst", "all"]
    scales: dict[str, tuple[float, float]]
    entries: list[_Entry]
    rule: str
    left_out: int


_FILE = TypeAdapter(_File)


def as_json(gallery: Gallery) -> str:
    """What ``gallery.json`` holds."""
    stated: dict[str, Any] = {"schema": SCHEMA, "kind": gallery.kind, "rule": gallery.rule}
    stated |= {"scales": gallery.scales or {}, "left_out": gallery.left_out}
    stated["entries"] = [vars(entry) for entry in gallery.entries]
    return json.dumps(stated, indent=1, allow_nan=False) + "\n"


def read_gallery(folder: Path) -> Gallery | None:
    """The gallery in a run's folder, or None where there is none.

    What is damaged does not matter to other results: it is left out, and ``fault`` says so in one line.

    Args:
        folder: of the run.
    """
    place = folder / FOLDER
    file, remedy = place / FILE, f"ader eval {folder} makes it again"
    if special(file):
        return Gallery(place, fault=f"{file} is {special(file)}, not a file: remove it")
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        if (schema := stated.get("schema")) != SCHEMA:
            return Gallery(place, fault=f"{file} has schema {schema!r:.40}, this version of ader reads {SCHEMA}")
        found = _FILE.validate_json(json.dumps(stated, allow_nan=False), strict=True)
        entries = tuple(Entry(**entry) for entry in found["entries"])
        gallery = Gallery(
            place, found["kind"], found["scales"], entries, found.get("rule", ""), found.get("left_out", 0)
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Gallery(place, fault=f"{file} cannot be read ({error.strerror})")
    except (ValidationError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return Gallery(place, fault=f"{file} is damaged: {remedy}")
    there = tuple(entry for entry in entries if (place / entry.file).is_file())
    if missing := len(entries) - len(there):
        fault = f"{missing} of the {len(entries)} pictures in {place} are missing: {remedy}"
        return replace(gallery, entries=there, fault=fault)
    return gallery
