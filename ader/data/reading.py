"""An index from a configuration's group ``dataset``."""

from __future__ import annotations

from typing import Any

from ader.config.schema import DatasetOptions
from ader.data.index import TEST, Index
from ader.data.load import load_index
from ader.system.errors import UserError


def read_index(dataset: DatasetOptions) -> Index:
    """The samples of a configured dataset.

    Raises:
        UserError: they cannot be read, are not as published, or none is for testing.
    """
    index = _read(dataset) if dataset.check_counts else _read(dataset, counts=None)
    if not any(sample.split == TEST for sample in index):
        raise UserError(f"dataset {index.name!r} at {index.root} has no test images: nothing could be evaluated")
    return index


def read_published(dataset: DatasetOptions) -> Index:
    """The samples as the dataset's reader lists them: neither counted nor with joined splits."""
    return _read(dataset, counts=None, train_on=())


def _read(dataset: DatasetOptions, **instead: Any) -> Index:
    return load_index(dataset.name, dataset.root, **dataset.reader_arguments() | instead)
