"""``ader key=value ...``: one run."""

from __future__ import annotations

from ader.commands._request import Request
from ader.system.errors import UserError
from ader.system.launch import processes

SUMMARY = """\
ader dataset=NAME method=NAME [key=value ...]
    one run: trains for a fixed number of epochs, evaluates after the last one, writes
    per-category tables. The same command again resumes it, or shows the finished result.
ader experiment=NAME
    a named run that differs from its defaults (ader list experiments)
ader -m method=rd,invad dataset=mvtec,visa seed=1,2,3
    a sweep: every combination, each a run of its own; all are checked before the first begins.
    The same line again runs what is missing (ader sweep --help)
"""


def main(request: Request) -> int:
    """Runs what is configured."""
    if request.multirun:
        return _sweep(request)
    from ader.config.schema import RunConfig
    from ader.config.sweep import refuse_own

    refuse_own(request.words)
    config = request.compose(RunConfig)
    if config is None:
        return 0
    from ader.runs.finished import show_finished

    if not show_finished(config):
        from ader.runs.run import run

        run(config)
    return 0


def _sweep(request: Request) -> int:
    if request.cfg:
        raise UserError("--cfg prints one configuration: leave -m out, or see the jobs with dry_run=true")
    if processes() > 1:
        raise UserError("ader -m starts the processes of its jobs itself: leave torchrun out")
    from ader.sweeps.sweep import sweep

    return sweep(request.words, request.config_dir)
