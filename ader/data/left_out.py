"""Files among a dataset's images that no reader takes for one, because of their endings."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from ader.data.index import Index
from ader.data.listing import CLUTTER, SUFFIXES
from ader.system.errors import some


def left_out(index: Index) -> list[str]:
    """Those in the folders of an index's images and masks, relative to its root, sorted; no hidden files and clutter.

    Nothing is opened. What the dataset is known to hold besides (``Index.exceptions``) is not among them.
    """
    folders = {posixpath.dirname(name) for sample in index for name in (sample.image, *sample.masks)}
    found = []
    for folder in folders:
        try:
            entries = list(os.scandir(index.path(folder)))
        except OSError:
            continue  # the check of its files says so
        names = (entry.name for entry in entries if _is_other(entry.name) and not entry.is_dir())
        found += [posixpath.join(folder, name) for name in names]
    return sorted(name for name in found if not index.excepted(name))


def describe(names: Sequence[str]) -> str:
    """``3 files among the images are left out for their endings (2 .txt, 1 .npy): a.txt, b.txt, c.npy``."""
    endings = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in names)
    counts = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
    files = "1 file among the images is" if len(names) == 1 else f"{len(names)} files among the images are"
    return f"{files} left out, having no image's ending ({counts}): {some(names, 3)}"


def _is_other(name: str) -> bool:
    return not name.startswith(".") and name not in CLUTTER and os.path.splitext(name)[1].lower() not in SUFFIXES
