"""``ader data prepare`` and ``ader data clear``: datasets onto the disk, cached images off it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ader.commands.data_config import data_options, read_configuration
from ader.data.image_cache import remove
from ader.datasets._preparing import Work
from ader.obtaining import prepare as preparing
from ader.runs.job import decoders
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.interrupt import Interrupt


def prepare(arguments: Sequence[str]) -> int:
    """Prepares a dataset; see ``ader.obtaining.prepare``."""
    composed = read_configuration(arguments)
    if composed is None:
        return 0
    options, values = data_options(composed), composed.values["dataset"]
    source = None if options.source is None else Path(options.source).expanduser()
    with Interrupt().listening() as interrupt, Console() as console:
        interrupt.activity = "while preparing the dataset"
        work = Work(console, interrupt.check, max(1, decoders(options.workers)))
        data = Path(composed.values["paths"]["data"]).expanduser()
        preparing.prepare(preparing.preparation(composed.choices["dataset"], values, data, work), source)
    return 0


def clear(arguments: Sequence[str]) -> int:
    """Deletes the images that runs have kept decoded; they are made again where they are wanted."""
    folder = _cache_folder(arguments)
    freed = remove(folder)
    Console().say(f"{freed / 2**20:,.0f} MiB of decoded images deleted from {folder}")
    return 0


def _cache_folder(arguments: Sequence[str]) -> Path:
    """``paths.cache``, without composing a dataset."""
    given = [word.removeprefix("paths.cache=") for word in arguments if word.startswith("paths.cache=")]
    others = [word for word in arguments if not word.startswith("paths.cache=")]
    if others:
        raise UserError(f"ader data clear takes nothing but paths.cache=DIR, not {' '.join(others)}")
    return Path(given[-1] if given else os.environ.get("ADER_CACHE", "~/.cache/ader")).expanduser()
