"""VIADUCT: industrial parts in 49 categories, one archive each.

Paper: Lehr et al., "AD3: Introducing a Score for Anomaly Detection Dataset Difficulty Assessment Using VIADUCT
Dataset", ECCV 2024. License: not established. Layout of MVTec AD::

    <number and category>/train/good/*.png
                         /val/good/*.png                    (perhaps)
                         /test/<good or defect>/*.png
                         /ground_truth/<defect>/*.png       (the image's name, perhaps with _mask)

Categories are those on disk, in alphabetical order: no list of all is known. Their folders are written in different
ways (``05_cable_end_sleeve``, ``06_coaxial_t-adapter``, ``11 ring cable lug``), their names here in one: lower case,
without the number, ``_`` between words (``coaxial_t_adapter``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ader.data.index import Index, Sample
from ader.data.listing import folders, relative
from ader.datasets._locating import choose_categories, find_root
from ader.datasets._tree import MVTEC, is_category, read_category
from ader.system.errors import UserError

#: Begin with a number that belongs to the name.
NUMBERED = frozenset({"3_pole_socket_housing"})


def viaduct(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists the categories of VIADUCT that are there.

    Args:
        root: the folder that the archives of the categories were unpacked in.
        categories: those to read, as ``category_name`` gives them; None means all that are there.

    Raises:
        UserError: there is none, two folders are of one category, or images or a mask are missing.
    """
    root = find_root(root, lambda folder: bool(_places(folder)), f"categories ({MVTEC.text})")
    places = _places(root)
    wanted = choose_categories("viaduct", root, categories, sorted(places))
    samples: list[Sample] = []
    for category in wanted:
        folder = places[category]
        validation = "val" if (root / folder / "val" / "good").is_dir() else None
        samples += read_category(root, folder, replace(MVTEC, validation=validation), category)
    return Index("viaduct", root, tuple(samples), wanted)


def category_name(folder: str) -> str:
    """The category of a folder, however it is written: ``11 ring cable lug`` is ``ring_cable_lug``."""
    name = re.sub(r"[ _-]+", "_", folder.lower())
    return name if name in NUMBERED else re.sub(r"^\d+_*", "", name)


def _places(root: Path) -> dict[str, str]:
    """The folder of each category, relative to ``root``."""
    found: dict[str, str] = {}
    for folder in folders(root):
        # an archive unpacked into a folder of its own makes one more level
        inner = [folder] if is_category(folder) else [deeper for deeper in folders(folder) if is_category(deeper)]
        if len(inner) == 1:
            name, place = category_name(inner[0].name), relative(inner[0], root)
            if name in found:
                raise UserError(f"{root}: {found[name]} and {place} are both {name}: remove one")
            found[name] = place
    return found
