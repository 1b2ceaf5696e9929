"""Finding a dataset below the root that a user gave, and the categories to read of it.

Nothing here opens an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ader.data.listing import folders
from ader.system.errors import MissingDataError, UserError, some, suggest

#: Names of folders of normal images in published datasets.
NORMAL = frozenset({"good", "ok"})

#: And what people call those of their own, in any case.
NORMAL_WORDS = NORMAL | {"normal", "nominal"}


def is_normal(name: str) -> bool:
    """Whether a name that a user chose says that images are normal."""
    return name.strip().casefold() in NORMAL_WORDS


def find_root(root: Path, holds: Callable[[Path], bool], expected: str) -> Path:
    """The folder that holds a published dataset: its root, or the only folder in it that does.

    Archives often have one more folder level than expected.

    Args:
        root: what the user gave.
        holds: whether a folder holds the dataset.
        expected: what it then contains, for messages.

    Raises:
        MissingDataError: there is none.
        UserError: there are several, or the root is a file.
    """
    if not root.exists():
        raise MissingDataError(
            f"dataset.root: {root} does not exist", f"put the dataset there ({expected}), or set dataset.root"
        )
    if not root.is_dir():
        raise UserError(f"dataset.root: {root} is a file, not a folder: set it to the unpacked folder")
    if holds(root):
        return root
    deeper = [folder for folder in folders(root) if holds(folder)]
    if len(deeper) == 1:
        return deeper[0]
    if deeper:
        raise UserError(
            f"dataset.root: {root} holds several copies ({some([f.name for f in deeper])}): set dataset.root to one"
        )
    raise MissingDataError(
        f"dataset.root: {root} does not hold {expected}", "put the dataset there, or set dataset.root"
    )


def choose_categories(
    name: str,
    root: Path,
    categories: Sequence[str] | None,
    on_disk: Sequence[str],
    known: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """The categories to read, in the dataset's own order.

    Args:
        name: the dataset's.
        root: its folder.
        categories: those asked for; None means all.
        on_disk: those that are there.
        known: all that the dataset has; None means those that are there.

    Raises:
        UserError: one is unknown or not there.
    """
    choices = on_disk if known is None else known
    if categories is None:
        asked = set(choices)
    else:
        asked = {categories} if isinstance(categories, str) else {str(category) for category in categories}
    if not asked:
        raise UserError("dataset.categories is empty: name at least one category, or set it to null for all")
    for category in sorted(asked - set(choices)):
        where = f"in {root}" if known is None else f"of dataset {name!r}"
        hint = " (in YAML, quote a name that looks like a number)" if category.isdigit() else ""
        raise UserError(
            f"dataset.categories: {category!r} is not a category {where}: {suggest(category, choices)}{hint}"
        )
    missing = [category for category in choices if category in asked and category not in on_disk]
    if missing:
        raise UserError(
            f"dataset {name!r}: {root} lacks {len(missing)} of {len(asked)} categories ({some(missing)}): "
            f"unpack the whole archive there, or set dataset.categories to those on disk ({some(on_disk)})"
        )
    return tuple(category for category in choices if category in asked)


def find_categories(
    name: str, root: Path, categories: Sequence[str] | None, known: Sequence[str], layout: str
) -> tuple[Path, tuple[str, ...]]:
    """The folder of a published dataset that has one folder per category, and the categories to read.

    Args:
        name: the dataset's.
        root: what the user gave.
        categories: those asked for; None means all.
        known: all that the dataset has, in its own order.
        layout: the folders in a clause, for messages.

    Raises:
        UserError: the dataset, or a category that was asked for, is not there.
    """
    root = find_root(root, lambda folder: any((folder / one).is_dir() for one in known), f"{known[0]} ({layout})")
    on_disk = [one for one in known if (root / one).is_dir()]
    return root, choose_categories(name, root, categories, on_disk, known)


def checked_path(path: str, where: str) -> str:
    """A path that a list gives, as samples have it: without double slashes and ``.``.

    Args:
        path: relative to the dataset's folder, POSIX.
        where: the list and the place in it, for messages.

    Raises:
        UserError: it is empty, absolute, leads out of the folder or has backslashes.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or re.match("/|[A-Za-z]:", path) or "\\" in path or "\0" in path:
        raise UserError(f"{where}: {path!r} is no path below the dataset's folder, with / between its parts: fix it")
    return "/".join(parts)
