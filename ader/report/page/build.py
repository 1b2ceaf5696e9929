"""Builds the page: data, script, style and figures in one file, pictures of galleries beside it or in it too."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ader import __version__
from ader.report.collection import Run
from ader.report.page.data import details, embedded, overview
from ader.report.page.figures import NONE, drawn
from ader.report.page.pictures import Pictures
from ader.system.files import write_atomic
from ader.system.text import clean

#: In the order in which they are one script.
SCRIPTS = ("base.js", "leaderboard.js", "copy.js", "run.js", "page.js")

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Built:
    """A page on disk.

    Attributes:
        file: of the page.
        size: of it, in bytes.
        pictures: how many lie beside it.
        picture_bytes: their size.
    """

    file: Path
    size: int
    pictures: int
    picture_bytes: int


def build(runs: Sequence[Run], file: Path, root: Path, inline: bool = False, with_figures: bool = True) -> Built:
    """Writes the page of some runs.

    Args:
        runs: what is shown.
        file: of the page.
        root: of the tree, which the page names.
        inline: pictures are in the page, and nothing is beside it.
        with_figures: those of ``ader figure`` are in it.

    Raises:
        WriteError: the disk does not take it.
    """
    pictures = Pictures(file.parent, inline)
    figures = drawn(runs) if with_figures else NONE
    script = "\n".join(["(() => {", '"use strict";', *(_source(name) for name in SCRIPTS), "})();"])
    style = _source("page.css")
    environment = Environment(
        loader=PackageLoader("ader.report.page", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("index.html.j2").render(
        title=f"Results of {clean(root.resolve().name)}",
        summary=summary(runs),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        root=clean(str(root)),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        figures=figures.overview,
        left_out=figures.left_out,
        data=Markup(embedded(overview(runs))),
        details=Markup(embedded(details(runs, pictures, figures))),
    )
    write_atomic(file, text)
    pictures.tidy()
    sizes = [(pictures.folder / name).stat().st_size for name in pictures.names]
    return Built(file, file.stat().st_size, len(sizes), sum(sizes))


def summary(runs: Sequence[Run]) -> str:
    """How many runs there are of each state, in words: ``196 finished runs, 3 failed, 1 running``."""
    states = Counter(run.state for run in runs)
    finished = states.pop("done", 0)
    rest = [f"{count} {state}" for state, count in sorted(states.items())]
    return ", ".join([f"{finished} finished run{'' if finished == 1 else 's'}", *rest])


def _source(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's policy allows to run: this text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
