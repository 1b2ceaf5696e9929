"""``ader sweep try``: what a run needs of memory and time, from its first steps."""

from __future__ import annotations

from pathlib import Path

from ader.commands._request import Request


def main(request: Request) -> int:
    """Tries a run, and prints what it needs; or leaves it to the sweep that asked, in the file ``out=``."""
    from ader.config.schema import RunConfig
    from ader.system.console import duration

    out, request = request.value("out")
    config = request.compose(RunConfig)
    if config is None:
        return 0
    from ader.sweeps.trial import attempt

    trial = attempt(config)
    if out is not None:
        trial.write(Path(out))
    print(f"{trial.memory_bytes / 2**20:,.0f} MiB at its peak, about {duration(trial.seconds)} in all")
    return 0
