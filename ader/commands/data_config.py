"""What ``ader data check`` and ``ader data prepare`` are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ader.config.compose import Composed, compose, take_flags
from ader.config.validate import validated
from ader.runs.job import Workers


@dataclass(frozen=True)
class DataOptions:
    """The own keys of ``configs/data.yaml``."""

    image_size: Annotated[int, Field(ge=32, le=4096)]
    report: str | None
    source: str | None
    workers: Workers


def read_configuration(arguments: Sequence[str]) -> Composed | None:
    """The configuration that the words compose; None when it was only to be printed.

    The first word may be the dataset's name alone.

    Raises:
        UserError: anything wrong with the words.
    """
    flags, words = take_flags(arguments)
    if words and "=" not in words[0]:
        words[0] = f"dataset={words[0]}"
    composed = compose(words, flags.config_dir, root="data")
    if not flags.cfg:
        return composed
    print(composed.as_yaml(), end="")
    return None


def data_options(composed: Composed) -> DataOptions:
    """The top-level keys, checked."""
    given = {key: value for key, value in composed.values.items() if key not in composed.choices}
    return DataOptions(**validated(DataOptions, given, where=""))
