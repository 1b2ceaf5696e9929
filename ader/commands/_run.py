"""``ader key=value ...``: one run."""

from __future__ import annotations

from ader.commands._request import Request

SUMMARY = """\
ader dataset=NAME method=NAME [key=value ...]
    one run: trains for a fixed number of epochs, evaluates after the last one, writes
    per-category tables. The same command again resumes it, or shows the finished result.
ader experiment=NAME
    a named run that differs from its defaults (ader list experiments)
"""


def main(request: Request) -> int:
    """Runs what is configured."""
    from ader.config.schema import RunConfig

    config = request.compose(RunConfig)
    if config is None:
        return 0
    from ader.runs.finished import show_finished

    if not show_finished(config):
        from ader.runs.run import run

        run(config)
    return 0
