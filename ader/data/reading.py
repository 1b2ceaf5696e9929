"""An index from a configuration's group ``dataset``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ader.config.schema import DatasetOptions
from ader.data.index import TEST, Index
from ader.data.load import load_index
from ader.system.errors import MissingDataError, UserError, some


def read_index(dataset: DatasetOptions, option: str = "") -> Index:
    """The samples of a configured dataset.

    Args:
        dataset: the group.
        option: its name on the command line, to say how to get it; may be empty.

    Raises:
        UserError: they cannot be read, are not as published, or none is for testing.
    """
    index = _read(dataset, option, strict=dataset.check_counts)
    if not any(sample.split == TEST for sample in index):
        raise UserError(f"dataset {index.name!r} at {index.root} has no test images: nothing could be evaluated")
    return index


def read_published(dataset: DatasetOptions, option: str = "") -> Index:
    """The samples as the dataset's reader lists them: neither counted nor with joined splits."""
    return _read(dataset, option, counts=None, train_on=())


def how_to_get(option: str, about: Mapping[str, Any]) -> str:
    """How to get a dataset onto the disk, in a clause; empty for images of the user's own.

    Args:
        option: its name on the command line.
        about: what its YAML says of it.
    """
    archives = about.get("archives") or []
    command = f"ader data prepare dataset={option}"
    public = [archive for archive in archives if "url" in archive]
    if public:
        return f"`{command}` downloads it ({amount(public)})"
    home = about.get("homepage")
    if not (archives or home or about.get("get")):
        return ""
    file = archives[0]["file"] if archives else "ARCHIVE_OR_FOLDER"
    where = f"{about.get('get') or 'see its homepage'}: {home or 'none is known'}"
    return f"{where}; then give {command} source={file}"


def amount(archives: list[Mapping[str, Any]]) -> str:
    """Archives by name, and the size of those whose size is known."""
    size = sum(archive.get("bytes", 0) for archive in archives)
    known = all("bytes" in archive for archive in archives)
    much = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
    names = some([str(archive["file"]) for archive in archives])
    return f"{names}, {much if known else 'more than ' + much if size else 'of unknown size'}"


def _read(dataset: DatasetOptions, option: str, **instead: Any) -> Index:
    try:
        return load_index(dataset.name, dataset.root, **dataset.reader_arguments() | instead)
    except MissingDataError as error:
        get = how_to_get(option, dataset.about or {}) if option else ""
        if not get:
            raise
        raise MissingDataError(error.fault, f"set dataset.root where you have it, or get it: {get}") from error
