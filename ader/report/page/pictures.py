"""A run's gallery as a page shows it: pictures lie in a folder beside the page, or in the page itself."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from ader.results.gallery import read_gallery
from ader.system.files import check_regular, write_atomic

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


def shown_gallery(folder: Path, pictures: Pictures) -> dict[str, Any] | None:
    """A run's gallery as the page has it; None where there is none.

    Args:
        folder: of the run.
        pictures: takes them up.

    Returns:
        ``rule``: how colors were scaled. ``fault``: what is damaged, or an empty text. ``left_out``: pictures that
        would have been too many. ``entries``, each with ``src``, ``category``, ``defect``, ``image``, ``label``,
        ``score`` (None if it is not finite), ``why``.
    """
    gallery = read_gallery(folder)
    if gallery is None:
        return None
    pairs = [(entry, pictures.add(gallery.path(entry))) for entry in gallery.entries]
    entries = [{"src": address, **vars(entry)} for entry, address in pairs if address is not None]
    for entry in entries:
        del entry["file"]
    return {"rule": gallery.rule, "fault": gallery.fault or "", "left_out": gallery.left_out, "entries": entries}
