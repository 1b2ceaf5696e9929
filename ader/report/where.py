"""Which runs are meant: ``where='dataset=mvtec method=rd,invad epochs=100'``, for tables, figures and the page.

Words are separated by spaces, and all must hold; between commas stand choices, of which one must, or with ``!=`` none
may (``method!=draem,cfa``). Keys are those of
``Run.keys``: config groups, ``seed``, ``run``, ``epochs`` ..., and every key of the configuration (``method.lr``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ader.report.collection import GROUPS, SHORT, Run
from ader.system.errors import UserError, some, suggest

#: Keys that may be asked for in any tree, also in one none of whose runs has them.
ALWAYS = (*GROUPS, *SHORT, "seed", "run", "recipe", "profile")

#: A comma between choices, which does not stand in the brackets of a list.
COMMA = re.compile(r",(?![^\[]*\])")


@dataclass(frozen=True)
class Where:
    """A condition on what a run is.

    Attributes:
        wanted: by key, the values of which a run must have one, as they were typed.
        unwanted: by key, those of which it must have none.
    """

    wanted: Mapping[str, tuple[str, ...]]
    unwanted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __call__(self, run: Run) -> bool:
        """Whether it holds for a run; a run that lacks a key has no value but ``null``."""
        return self.holds(run.keys)

    def holds(self, keys: Mapping[str, Any]) -> bool:
        """The same for anything that is described by keys."""

        def has(key: str, texts: Sequence[str]) -> bool:
            return any(is_same(keys.get(key), text) for text in texts)

        return all(has(*each) for each in self.wanted.items()) and not any(has(*each) for each in self.unwanted.items())

    @property
    def keys(self) -> list[str]:
        """All that it asks for."""
        return list(dict.fromkeys([*self.wanted, *self.unwanted]))


def parse(text: str) -> Where:
    """What was typed as a condition. An empty text holds for every run.

    Raises:
        UserError: a word is no ``key=value``, a value is empty, a key stands twice, or a quotation mark is open.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"where={text!r} cannot be read ({error}): 'dataset=mvtec method=rd,invad'") from error
    wanted: dict[str, tuple[str, ...]] = {}
    unwanted: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        part, key = (unwanted, key[:-1]) if key.endswith("!") else (wanted, key)
        texts = tuple(COMMA.split(value))
        if not key or not equals or "" in texts:
            raise UserError(f"where={text!r}: {word!r} is not key=value or key=value,value: 'dataset=mvtec method=rd'")
        if key in part:
            sign = "=" if part is wanted else "!="
            raise UserError(f"where={text!r} has {key} twice: write {key}{sign}{','.join((*part[key], *texts))}")
        part[key] = texts
    return Where(wanted, unwanted)


def select(runs: Sequence[Run], text: str) -> list[Run]:
    """The runs that a condition holds for, in their order: at least one, unless there is no condition.

    Raises:
        UserError: the condition cannot be read, has a key that no run has, or holds for no run.
    """
    where = parse(text)
    known = {*ALWAYS, *(key for run in runs for key in run.keys)}
    for key in where.keys:
        if key not in known:
            raise UserError(f"where={text!r}: no run has the key {key!r}: {_near(key, known)}")
    found = [run for run in runs if where(run)]
    if where.keys and not found:
        raise UserError(f"where={text!r} holds for none of {len(runs)} runs: {_why_none(runs, where)}")
    return found


def _near(key: str, known: Iterable[str]) -> str:
    """The keys that may have been meant; the whole configuration would be no help."""
    guess = suggest(key, known)
    return guess if guess.startswith("did you mean") else suggest(key, ALWAYS)


def _why_none(runs: Sequence[Run], where: Where) -> str:
    """The first condition that no run meets by itself, with what there is."""
    for key, texts in where.wanted.items():
        if not any(Where({key: texts})(run) for run in runs):
            there = sorted({as_text(run.keys.get(key)) for run in runs})
            return f"{key} is {some(there, 8)}" if there else "there are no runs"
    return "each condition holds for some, all of them for none"


def is_same(value: Any, text: str) -> bool:
    """Whether a configuration's value is what was typed: ``0.005`` and ``5e-3`` are one number."""
    if as_text(value) == text:
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return float(text) == value
    except ValueError:
        return False


def as_text(value: Any) -> str:
    """A value of ``Run.keys`` as it is typed: ``null``, ``true``, ``[a,b]``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(as_text, value))}]"
    return str(value)
