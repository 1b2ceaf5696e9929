"""Errors that are the user's to fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and how to fix it.

    The command line prints the message without a traceback and exits with status 2.

    Attributes:
        kind: what a sweep is told that this is.
    """

    kind: ClassVar[str] = "input"

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class MissingDataError(UserError):
    """A dataset is not where it is looked for. Who knows where to get it says so in place of ``remedy``.

    Attributes:
        fault: what is missing, and where.
    """

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(f"{fault}: {remedy}")
        self.fault = fault


def suggest(name: str, choices: Iterable[str]) -> str:
    """A clause naming the choices nearest to ``name``, or all of them when none is near."""
    names = sorted(set(choices))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(match) for match in near) + "?"
    return "choose from: " + ", ".join(names) if names else "there is none to choose from"


def some(items: Iterable[str], most: int = 5) -> str:
    """The first few of ``items`` in one line, with a count of the rest."""
    listed = list(items)
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def is_utf8(text: str) -> bool:
    """Whether a name that the system gave is text: bytes of another encoding come as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
