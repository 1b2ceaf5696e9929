"""The words of a command line: what each overrides, and with what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from ader.config.keys import REST, hints_of, is_group, mark_of
from ader.config.schema import Config
from ader.system.errors import UserError

#: Words of one command line, and characters of one word.
MOST, LONGEST = 1000, 20_000
#: Brackets in brackets: Hydra's grammar takes minutes over a hundred.
DEEPEST = 12

#: What does what Hydra's own keys do elsewhere.
INSTEAD = "paths.results=DIR is where runs write, run=NAME a run's own folder"

SEVERAL = "it names several values, and one run takes one: ader -m runs each"

WORD = re.compile(r"(?P<prefix>~|\+{0,2})(?P<key>[^=]*)(?P<given>=(?P<typed>.*))?", re.DOTALL)
KEY = re.compile(r"\w[\w.\-/@:]*")


@dataclass(frozen=True)
class Word:
    """One override.

    Attributes:
        word: as it was typed.
        prefix: ``""``, ``"+"``, ``"++"`` or ``"~"``.
        key: dotted, or a group.
        typed: what stands after ``=``; None without it.
        value: what Hydra's grammar reads there.
        fault: why it reads nothing, or None; right for a key that is text.
        sweep: what Hydra's grammar reads where that is several values; None elsewhere.
    """

    word: str
    prefix: str
    key: str
    typed: str | None
    value: Any = None
    fault: str | None = None
    sweep: Override | None = None

    def for_hydra(self, config_class: type[Config]) -> str:
        """The word as Hydra takes it; a value that it cannot read is set later."""
        if self.typed is None:
            return self.word
        # what the schema names may be set wherever it comes from: a YAML file of one's own need not state everything
        prefix = "++" if self.prefix != "~" and is_named(config_class, self.key) else self.prefix
        return f"{prefix}{self.key}={'null' if self.fault else self.typed}"


def is_named(config_class: type[Config], key: str) -> bool:
    """Whether the schema has a field for a key, so that it is neither a group nor one of its ``rest``."""
    group, _, below = key.partition(".")
    hints = hints_of(config_class)
    if is_group(hints.get(group)):
        hints = hints_of(hints[group])
        return below != REST and mark_of(hints.get(below)) is not None
    return not below and mark_of(hints.get(group)) is not None


def key_of(word: str) -> str:
    """The key or group that an override names."""
    return word.partition("=")[0].lstrip("+~")


def read(words: Sequence[str]) -> list[Word]:
    """The words, each by itself: whether there are such keys is not asked.

    Raises:
        UserError: one is no override.
    """
    if len(words) > MOST:
        raise UserError(f"{len(words)} overrides are more than {MOST}: write them into a YAML file (--config-dir DIR)")
    return [_read(word) for word in words]


def _read(word: str) -> Word:
    if len(word) > LONGEST:
        raise UserError(f"{word[:60]}... has {len(word)} characters: give at most {LONGEST}")
    match = WORD.fullmatch(word)
    assert match is not None  # it takes everything
    prefix, key, typed = match["prefix"], match["key"], match["typed"]
    if typed is None and prefix != "~":
        raise UserError(f"{word!r} is not an override: write key=value, such as method=rd (ader --help)")
    if not KEY.fullmatch(key):
        raise UserError(f"{word!r} is not an override: {key!r} is no key: write key=value, such as method=rd")
    if re.match(r"hydra\b", key):
        raise UserError(f"{word}: Hydra only composes here, so its own keys do nothing: {INSTEAD}")
    if typed is None:
        return Word(word, prefix, key, None)
    if _depth(typed) > DEEPEST:
        return Word(word, prefix, key, typed, fault=f"it is nested more than {DEEPEST} deep")
    try:
        override = OverridesParser.create().parse_override(f"{key}={typed}")
        if override.is_sweep_override():
            return Word(word, prefix, key, typed, fault=SEVERAL, sweep=override)
        return Word(word, prefix, key, typed, override.value())
    except ValueError:
        return Word(word, prefix, key, typed, fault="it is a number of too many digits")
    except HydraException as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Word(word, prefix, key, typed, fault=f"it cannot be read ({lines[0]}): put the value in quotation marks")


def _depth(typed: str) -> int:
    """How deep its brackets are nested, those in quotation marks included."""
    deepest = depth = 0
    for letter in typed:
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    return deepest
