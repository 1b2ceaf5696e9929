"""What commands share that use a finished run's models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ader.commands._request import Request
from ader.system.errors import UserError
from ader.system.launch import processes

if TYPE_CHECKING:
    from ader.runs.predictor import Predictor

#: Overrides of the run's configuration that matter to them.
KEYS = (
    "dataset.root",
    *("paths", "paths.data", "paths.weights", "paths.cache", "paths.results"),
    *("trainer.device", "trainer.workers", "trainer.test_batch_size", "trainer.precision", "trainer.channels_last"),
)


def opened(run: Path, request: Request, own: Sequence[str]) -> Predictor | None:
    """The run's models; None where ``--cfg`` asked for no more than to print its configuration.

    Args:
        run: its folder.
        request: with overrides of its configuration alone.
        own: keys that the command has besides, for the message.

    Raises:
        UserError: it is no finished run, or an override would change nothing here.
    """
    from ader.config.overrides import key_of  # brings Hydra

    for word in request.words:
        if key_of(word) not in KEYS:
            raise UserError(f"{word}: {request.command} takes {', '.join((*own, *KEYS))}")
    if processes() > 1:
        raise UserError(f"{request.command} is the work of one process: start it without torchrun")
    from ader.results.trained import open_run
    from ader.runs.evaluate_again import recompose
    from ader.runs.predictor import Predictor

    trained = open_run(run)
    config = request.show(recompose(trained, request.words, request.config_dir))
    return None if config is None else Predictor(trained, config)
