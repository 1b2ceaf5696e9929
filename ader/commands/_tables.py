"""Tables, printed or written into a file, in any format."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ader.report.tables import Table


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
