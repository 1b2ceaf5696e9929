"""An index from the values of a config's group ``dataset``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ader.data.index import TEST, Index
from ader.data.load import load_index
from ader.system.errors import UserError

#: Keys of the group ``dataset`` that are not for the function that reads it.
NOT_READERS = frozenset({"about", "label", "cache", "cache_above", "check_counts"})


def read_published(values: Mapping[str, Any]) -> Index:
    """The samples of a configured dataset as its reader lists them: neither counted nor with joined splits.

    Args:
        values: the group ``dataset``.
    """
    return _read(values, counts=None, train_on=())


def read_index(values: Mapping[str, Any]) -> Index:
    """The samples of a configured dataset.

    Args:
        values: the group ``dataset``.

    Raises:
        UserError: they cannot be read, are not as published, or none is for testing.
    """
    index = _read(values) if values["check_counts"] else _read(values, counts=None)
    if not any(sample.split == TEST for sample in index):
        raise UserError(f"dataset {index.name!r} at {index.root} has no test images: nothing could be evaluated")
    return index


def _read(values: Mapping[str, Any], **instead: Any) -> Index:
    options = {key: value for key, value in values.items() if key not in NOT_READERS} | instead
    return load_index(options.pop("name"), options.pop("root"), **options)
