"""A run's gallery as a page shows it: pictures lie in a folder beside the page, or in the page itself.

A gallery is a run's folder ``gallery/``: ``gallery.json`` and one picture per entry.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from ader.system.errors import UserError
from ader.system.files import check_regular, write_atomic

#: The form of ``gallery.json`` that is known here.
SCHEMA = 1

#: Largest picture, in bytes: more is none of a gallery's.
LARGEST = 4 << 20

#: Folder beside the page, and what its files are called: by their content, so that no name of data's is a path there.
FOLDER, NAME = "pictures", re.compile(r"[0-9a-f]{24}\.(webp|png|jpg)")

#: By the first bytes of a file, which say more than its name.
KINDS = {b"RIFF": ("webp", "image/webp"), b"\x89PNG": ("png", "image/png"), b"\xff\xd8\xff": ("jpg", "image/jpeg")}


class Pictures:
    """Takes pictures up into a page.

    Args:
        folder: of the page.
        inline: put them into the page, and nothing beside it.
    """

    def __init__(self, folder: Path, inline: bool = False) -> None:
        self.folder = folder / FOLDER
        self.inline = inline
        self.names: set[str] = set()

    def add(self, file: Path) -> str | None:
        """An address for a picture; None where it is missing or is none."""
        try:
            check_regular(file)
            if file.stat().st_size > LARGEST:
                return None
            content = file.read_bytes()
        except (OSError, ValueError):
            return None
        found = next((each for start, each in KINDS.items() if content.startswith(start)), None)
        if found is None:
            return None
        ending, kind = found
        if self.inline:
            return f"data:{kind};base64,{base64.b64encode(content).decode()}"
        name = f"{hashlib.sha256(content).hexdigest()[:24]}.{ending}"
        if name not in self.names and not (self.folder / name).is_file():
            write_atomic(self.folder / name, content)
        self.names.add(name)
        return f"{FOLDER}/{name}"

    def tidy(self) -> None:
        """Removes pictures of an earlier page that this one does not show."""
        if self.folder.is_dir():
            for file in self.folder.iterdir():
                if NAME.fullmatch(file.name) and file.name not in self.names:
                    file.unlink(missing_ok=True)


def read_gallery(folder: Path, pictures: Pictures) -> list[dict[str, Any]]:
    """The entries of a run's gallery that can be shown; none where it has no gallery, or a damaged one.

    Args:
        folder: of the run.
        pictures: takes them up.

    Returns:
        Each with ``src``, ``category``, ``defect``, ``image``, ``label``, ``score`` (None if it is not
        finite), ``why``.
    """
    file = folder / "gallery" / "gallery.json"
    try:
        check_regular(file)
        found = json.loads(file.read_text(encoding="utf-8"))
        entries = found["entries"] if found["schema"] == SCHEMA else []
        return [shown for entry in entries if (shown := _entry(file.parent, entry, pictures))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
        return []


def _entry(folder: Path, entry: dict[str, Any], pictures: Pictures) -> dict[str, Any] | None:
    """None for a file elsewhere: what a gallery names is read only from its own folder."""
    name, score = str(entry["file"]), float(entry["score"])
    if name != Path(name).name or (address := pictures.add(folder / name)) is None:
        return None
    texts = {key: str(entry[key]) for key in ("category", "defect", "image", "why")}
    return {"src": address, **texts, "label": int(entry["label"]), "score": score if math.isfinite(score) else None}
