"""From a dataset's name to its index."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ader import plugins
from ader.arguments import validated
from ader.data.index import Index, check_counts
from ader.errors import UserError


def load_index(
    name: str,
    root: str | Path,
    categories: Sequence[str] | None = None,
    counts: Mapping[str, Sequence[int]] | None = None,
    **options: Any,
) -> Index:
    """Reads a dataset's index with the reader of that name.

    Args:
        name: a module of ``ader.datasets`` or of the entry-point group of that name.
        root: the dataset's folder; ``~`` is expanded, a relative path is taken from the working directory.
        categories: those to read, in any order; None means all. The index keeps the dataset's own order.
        counts: per category the published numbers of training, normal test and defective test images; None
            means that they are not checked.
        options: the reader's own options.

    Returns:
        The index; its root is absolute.

    Raises:
        UserError: no such dataset, an unknown option, bad or missing files, or counts that differ.
    """
    reader = find_reader(name)
    if not str(root):
        raise UserError("dataset.root is empty: set it to the dataset's folder")
    if categories is not None:
        categories = [categories] if isinstance(categories, str) else [str(category) for category in categories]
    own = inspect.signature(reader).parameters
    passed = {"categories": categories} if "categories" in own else {}
    arguments = {"root": Path(os.path.abspath(Path(root).expanduser())), **passed, **options}
    index = reader(**validated(reader, arguments, "dataset"))
    if categories is not None:
        index = index.select(categories)
    if counts is not None:
        check_counts(index, counts)
    return index


def find_reader(name: str) -> Callable[..., Index]:
    """The reader function of a dataset: the function named like its module, with ``_`` for ``-``.

    Raises:
        UserError: there is no such dataset, or its module lacks the function.
    """
    module = plugins.load("datasets", name)
    function = name.replace("-", "_")
    reader: Callable[..., Index] | None = getattr(module, function, None)
    if not callable(reader):
        raise UserError(f"dataset {name!r}: {module.__file__} has no function {function}(root) -> Index: add one")
    return reader
