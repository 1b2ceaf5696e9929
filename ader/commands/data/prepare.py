"""``ader data prepare`` and ``ader data clear``: datasets onto the disk, cached images and features off it."""

from __future__ import annotations

from pathlib import Path

from ader.commands._request import Request
from ader.config.paths import default_folder
from ader.config.schema import DataConfig, decoders
from ader.data.image_cache import remove
from ader.datasets._preparing import Work
from ader.obtaining.prepare import preparation
from ader.obtaining.prepare import prepare as obtain
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.interrupt import Interrupt
from ader.training import feature_rows


def prepare(request: Request) -> int:
    """Prepares a dataset; see ``ader.obtaining.prepare``."""
    config = request.compose(DataConfig)
    if config is None:
        return 0
    source = None if config.source is None else Path(config.source).expanduser()
    with (
        Interrupt().listening() as interrupt,
        interrupt.during("while preparing the dataset"),
        Console() as console,
    ):
        work = Work(console, interrupt.check, max(1, decoders(config.workers)))
        option = config.composition.choices["dataset"]
        obtain(preparation(option, config.dataset, config.paths.data, work), source)
    return 0


def clear(request: Request) -> int:
    """Deletes decoded images and frozen networks' features, which runs have kept; they are made again where wanted."""
    request.nothing_composed()
    given = [word.removeprefix("paths.cache=") for word in request.words if word.startswith("paths.cache=")]
    others = [word for word in request.words if not word.startswith("paths.cache=")]
    if others:
        raise UserError(f"ader data clear takes nothing but paths.cache=DIR, not {' '.join(others)}")
    folder = Path(given[-1]).expanduser() if given else default_folder("cache")
    freed, features = remove(folder), feature_rows.remove(folder)
    also = f" and {features / 2**20:,.0f} MiB of features" if features else ""
    Console().say(f"{freed / 2**20:,.0f} MiB of decoded images{also} deleted from {folder}")
    return 0
