"""What commands that read the results tree have in common: where it is, and in which format a table is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ader.commands._request import Request

if TYPE_CHECKING:
    from ader.report.tables import Table

#: ``format=``, the default first.
FORMATS = ("terminal", "csv", "html", "latex", "markdown")


def results_tree(request: Request) -> tuple[Path, Request]:
    """``paths.results``, which the environment variable ADER_RESULTS may say as well, and the other words."""
    given, rest = request.value("paths.results")
    return Path(given or os.environ.get("ADER_RESULTS") or "results").expanduser(), rest


def give(tables: Sequence[Table], format_: str, out: str | None) -> None:
    """Prints tables, or writes them into a file as a whole.

    Args:
        tables: one after another.
        format_: one of ``FORMATS``.
        out: the file; None for the terminal.
    """
    from ader.report import renderers

    if format_ == "terminal":
        from ader.system.console import Console

        console = Console()
        wide = max(renderers.WIDTH, console.rich.width) if out is None else renderers.WIDTH
        parts = [part for table in tables for part in renderers.split(table, wide)]
        if out is None:
            for number, part in enumerate(parts):
                if number:
                    console.say("")
                console.say(renderers.terminal_text(part, wide))
            return
        text = "\n\n".join(renderers.terminal(part, wide) for part in parts) + "\n"
    else:
        text = "\n".join(getattr(renderers, format_)(table) for table in tables)
    if out is None:
        sys.stdout.write(text)
        return
    from ader.system.files import write_atomic

    file = Path(out).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, text)
    print(f"written to {file}")
