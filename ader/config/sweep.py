"""The words of a sweep: Hydra's sweep syntax, and the jobs that they stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException

from ader.config.keys import hints_of
from ader.config.options import options
from ader.config.overrides import Word, key_of, read
from ader.config.schema import RunConfig, SweepConfig
from ader.system.errors import UserError

#: Jobs of one sweep.
MOST = 10_000

#: The keys of a sweep itself; where things are is its jobs' affair as well.
OWN = frozenset(hints_of(SweepConfig)) - {"paths"}


def is_own(word: str) -> bool:
    """Whether a word is about the sweep and not about its jobs: ``launcher=slurm``, ``retry=failed``."""
    return key_of(word).partition(".")[0] in OWN


def divide(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The sweep's own words and its jobs'; both have what says where things are."""
    paths = [word for word in words if key_of(word).startswith("paths.")]
    jobs = [word for word in words if not is_own(word)]
    return [*paths, *filter(is_own, words)], jobs


def refuse_own(words: Sequence[str]) -> None:
    """For a single run.

    Raises:
        UserError: a word is about sweeps.
    """
    known = hints_of(RunConfig)
    for word in words:
        if is_own(word) and key_of(word).partition(".")[0] not in known:
            raise UserError(f"{word}: {key_of(word)} is for sweeps: give ader -m, also for a single job")


def expand(words: Sequence[str], config_dir: Path | None = None) -> tuple[list[tuple[str, ...]], list[str]]:
    """The command lines of all jobs, the last word's values in the innermost loop, and the keys that differ.

    Lists (``seed=1,2``), ``choice(a,b)``, ``range(1,4)``, ``glob(*)`` over a group's options, ``sort`` and ``shuffle``
    are read by Hydra's own grammar; a list's values stand in the jobs as they were typed.

    Args:
        words: overrides, any of which may have several values.
        config_dir: a folder with further options, for ``glob``.

    Raises:
        UserError: a word is no override, stands for no single values, or there are too many jobs.
    """
    # of two words for one key the later one counts, in the place of the first
    read_words = list({(word.prefix, word.key): word for word in read(words)}.values())
    columns = [_each(word, config_dir) for word in read_words]
    count = math.prod(map(len, columns))
    if count > MOST:
        raise UserError(f"these words stand for {count:,} jobs, and a sweep has at most {MOST:,}: give several sweeps")
    swept = [word.key for word, values in zip(read_words, columns, strict=True) if len(values) > 1]
    return list(product(*columns)), list(dict.fromkeys(swept))


def _each(word: Word, config_dir: Path | None) -> list[str]:
    if word.sweep is None:
        return [word.word]
    found = word.sweep
    if not found.is_discrete_sweep():
        raise UserError(f"{word.word}: an interval has no single values: give range(first,end,step) or choice(a,b)")
    value = found.value()
    if isinstance(value, Glob):
        values = value.filter(options(word.key, config_dir))
        if not values:
            raise UserError(f"{word.word}: no option of {word.key} fits the pattern: ader list shows them")
    else:
        try:
            values = list(found.sweep_string_iterator())
        except HydraException as error:
            raise UserError(f"{word.word}: {str(error).splitlines()[0]}: correct the values") from error
        typed = _typed(word.typed or "")
        values = typed if len(typed) == len(values) else values
    return [f"{word.prefix}{word.key}={value}" for value in values]


def _typed(text: str) -> list[str]:
    """The values of a plain list or ``choice()`` as they were typed: ``1.10`` is a name where a key is text, and Hydra
    would make it ``1.1``. Nothing for anything else."""
    inside = re.fullmatch(r"\s*choice\((.*)\)\s*", text, re.DOTALL)
    parts, depth, quote, escaped = [""], 0, "", False
    for letter in inside[1] if inside else text:
        if quote:
            quote = "" if letter == quote and not escaped else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        else:
            depth += (letter in "[{(") - (letter in "]})")
        escaped = letter == "\\" and not escaped
        parts[-1] += letter
    plain = inside is not None or not re.match(r"\s*\w+\(", text)
    return [part.strip() for part in parts] if plain else []
