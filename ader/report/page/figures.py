"""The figures of ``ader figure`` that a page shows: all that can be made of its runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from ader.report.collection import Run
from ader.system.errors import UserError
from ader.system.text import clean

#: Most pictures of a page, since each takes half a second, and most runs that have some of their own.
MOST, MOST_RUNS = 60, 20


class Shown(NamedTuple):
    """A figure in a page. It is an image of its own: its names cannot meet others', and it can run nothing.

    Attributes:
        title: what it shows, and of what.
        src: its address.
        dataset: that it is of; empty where it is of several.
    """

    title: str
    src: str
    dataset: str


class Figures(NamedTuple):
    """The figures of a page.

    Attributes:
        overview: those of several runs.
        of_run: those of one run, by its place.
        left_out: how many would have been too many.
    """

    overview: list[Shown]
    of_run: dict[tuple[str, ...], list[Shown]]
    left_out: int


#: A page without any.
NONE = Figures([], {}, 0)


def drawn(runs: Sequence[Run]) -> Figures:
    """All figures that can be made of these runs; those of single runs only where there are few."""
    if find_spec("ader.report.figures") is None:
        return NONE
    found = Figures([], {}, 0)
    figures: Any = import_module("ader.report.figures")
    left_out, few = 0, sum(run.record is not None for run in runs) <= MOST_RUNS
    for figure in figures.FIGURES.values():
        if figure.scope == "run" and not few:
            continue
        for name, part in figures.divide(figure, runs):
            if len(found.overview) + sum(map(len, found.of_run.values())) >= MOST:
                left_out += 1
                continue
            shown = _shown(figures, figure, name, part)
            if shown is None:
                continue
            if figure.scope == "run":
                found.of_run.setdefault(part[0].place, []).append(shown)
            else:
                found.overview.append(shown)
    return found._replace(left_out=left_out)


def _shown(figures: Any, figure: Any, name: str, part: Sequence[Run]) -> Shown | None:
    """One figure; None where these runs do not suffice for it."""
    try:
        svg = figures.svg(figure.name, part)
    except UserError:
        return None
    dataset = clean(name) if figure.scope == "dataset" else ""
    title = f"{dataset}: {figure.title}" if dataset else clean(figure.title)
    return Shown(title, f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", dataset)
