"""From a dataset's name to its index."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ader.config import plugins
from ader.config.validate import validated
from ader.data.counts import Row, check_counts
from ader.data.index import TEST, TRAIN, Index
from ader.data.left_out import describe, left_out
from ader.metrics.definitions import reserved
from ader.system.errors import UserError, is_utf8, suggest


def load_index(
    name: str,
    root: str | Path,
    categories: Sequence[str] | None = None,
    counts: Mapping[str, Row] | None = None,
    train_on: Sequence[str] = (TRAIN,),
    strict: bool = True,
    bits: int | None = None,
    **options: Any,
) -> Index:
    """Reads a dataset's index with the reader of that name.

    Args:
        name: a module of ``ader.datasets`` or of the entry-point group of that name.
        root: the dataset's folder; ``~`` is expanded, a relative path is taken from the working directory.
        categories: those to read, in any order; None means all. The index keeps the dataset's own order.
        counts: the published numbers, see ``ader.data.counts``; None means that they are not checked.
        train_on: the splits that are the training data: ``["train", "validation"]`` trains on both.
        strict: refuse other numbers than the published ones; False makes them a caution of the index.
        bits: that the values in 16-bit images use, 8 to 16; None: all, as long as nothing speaks against it.
        options: the reader's own options.

    Returns:
        The index; its root is absolute. Files among its images that have no image's ending are a caution of it.

    Raises:
        UserError: no such dataset, an unknown option, bad or missing files, counts that differ, or a category that is
            called like a row that tables have besides (``mean``, ``chance``).
    """
    reader = find_reader(name)
    if not str(root):
        raise UserError("dataset.root is empty: set it to the dataset's folder")
    if bits is not None and bits not in range(8, 17):
        raise UserError(f"dataset.bits={bits} must be from 8 to 16, or null")
    if categories is not None:
        categories = [categories] if isinstance(categories, str) else [str(category) for category in categories]
    own = inspect.signature(reader).parameters
    passed = {"categories": categories} if "categories" in own else {}
    arguments = {"root": Path(os.path.abspath(Path(root).expanduser())), **passed, **options}
    index = reader(**validated(reader, arguments, "dataset"))
    for sample in index:
        if odd := next((name for name in (sample.image, *sample.masks) if not is_utf8(name)), None):
            raise UserError(f"{index.path(odd)!r} has a name that is not UTF-8: rename it")
        for name in (sample.category, sample.defect, sample.image):
            if "\r" in name:  # tables of results could not be read back: a return ends a line of CSV
                raise UserError(f"{index.root}: {name!r} has a return (\\r) in it: rename it")
    if categories is not None:
        index = index.select(categories)
    if taken := reserved(index.categories):
        raise UserError(
            f"dataset {index.name!r} at {index.root} has a category {taken[0]!r}, which is a row of every table: "
            "rename it, or leave it out with 'dataset.categories=[...]'"
        )
    if counts is not None:
        index = check_counts(index, counts, whole=categories is None, strict=strict)
    if names := left_out(index):
        index = replace(index, cautions=(*index.cautions, describe(names)))
    return replace(join_splits(index, train_on), bits=bits)


def join_splits(index: Index, names: Sequence[str]) -> Index:
    """The index with the named splits as its training data.

    Raises:
        UserError: a split does not exist, or is the test split.
    """
    there = sorted({sample.split for sample in index} - {TEST})
    for name in names:
        if name not in there and name != TRAIN:  # a category may be for testing only
            raise UserError(f"dataset.train_on: {name!r} is not a training split: {suggest(name, there)}")
    joined = {*names} - {TRAIN}
    return index.with_samples(replace(s, split=TRAIN) if s.split in joined else s for s in index) if joined else index


def find_reader(name: str) -> Callable[..., Index]:
    """The reader function of a dataset: the function named like its module, with ``_`` for ``-``.

    Raises:
        UserError: there is no such dataset, or its module lacks the function.
    """
    reader: Callable[..., Index] = plugins.load_function("datasets", name, "(root) -> Index")
    return reader
