"""A command's own keys, where no configuration is composed: what is read from a results tree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ader.commands._request import Request
from ader.config.paths import default_folder
from ader.system.errors import UserError, suggest

#: Formats of a table, the first is the default.
FORMATS = ("terminal", "csv", "markdown", "latex", "html")


def take_keys(
    request: Request, defaults: Mapping[str, str], *, config_dir: bool = False, others: bool = False
) -> tuple[dict[str, str], list[str]] | None:
    """The values of a command's keys and its other words; None when ``--cfg`` asked to print the keys.

    Args:
        request: what was typed.
        defaults: of every key; ``paths.results`` is added.
        config_dir: whether the command takes ``--config-dir`` all the same.
        others: whether other keys are words for someone else.

    Raises:
        UserError: a key is unknown, or stands twice.
    """
    if request.config_dir is not None and not config_dir:
        raise UserError(f"{request.command} composes no configuration: leave --config-dir out")
    values = {**defaults, "paths.results": str(default_folder("results"))}
    words, given = [], set()
    for word in request.words:
        key, equals, value = word.partition("=")
        if not equals or (key not in values and Path(word).exists()) or (key not in values and others):
            words.append(word)
        elif key not in values:
            raise UserError(f"{request.command} has no {key}=: {suggest(key, values)}")
        elif key in given:
            raise UserError(f"{request.command}: {key}= stands twice: give it once")
        else:
            values[key] = value
            given.add(key)
    if request.cfg:
        print("\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()))
        return None
    return values, words


def one_of(key: str, value: str, choices: Mapping[str, object] | tuple[str, ...]) -> str:
    """A value that is one of several.

    Raises:
        UserError: it is none.
    """
    if value not in choices:
        raise UserError(f"{key}={value} is not known: {suggest(value, choices)}")
    return value


def natural(key: str, value: str, least: int = 1) -> int:
    """A whole number.

    Raises:
        UserError: it is none, or less than ``least``.
    """
    if not value.isascii() or not value.isdigit() or int(value) < least:
        raise UserError(f"{key}={value} must be a whole number from {least} on")
    return int(value)
