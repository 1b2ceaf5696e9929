"""Figures of a results tree, by name. Matplotlib is imported when the first one is made.

A figure is a module of this package with a function ``draw(runs, **options)``; `FIGURES` says what each shows.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ader.system.errors import UserError, suggest
from ader.system.text import clean

if TYPE_CHECKING:
    import matplotlib.figure

    from ader.report.collection import Run

#: What one picture is made of: the whole selection, the runs of one dataset, or one run; or no runs, but an index.
Scope = Literal["tree", "dataset", "run", "index"]


@dataclass(frozen=True)
class Figure:
    """A kind of figure.

    Attributes:
        name: ``ader figure NAME``.
        title: what it shows, in one line.
        scope: what one picture is made of, see ``divide``.
        module: in this package, without its name.
        function: in it.
    """

    name: str
    title: str
    scope: Scope
    module: str
    function: str = "draw"

    @property
    def draw(self) -> Callable[..., matplotlib.figure.Figure]:
        """The function that draws it."""
        found: Callable[..., matplotlib.figure.Figure] = getattr(
            import_module(f"{__name__}.{self.module}"), self.function
        )
        return found

    def options(self) -> tuple[str, ...]:
        """What ``make`` takes besides runs."""
        return tuple(name for name in inspect.signature(self.draw).parameters if name != "runs")

    def make(self, runs: Sequence[Run], **options: Any) -> matplotlib.figure.Figure:
        """Draws it.

        Args:
            runs: of one part of ``divide``.
            options: of ``options()``: ``metric``, ``published`` ...

        Raises:
            UserError: the runs do not suffice, or it has no such option.
        """
        known = self.options()
        for key in options:
            if key not in known:
                raise UserError(f"figure {self.name} has no {key}=: {suggest(key, known)}")
        from ader.report.figures._style import styled

        with styled():
            return self.draw(runs, **options)


_ALL = (
    Figure("efficiency", "training time against mAD and IoU-max, marker size by parameters", "dataset", "efficiency"),
    Figure("categories", "a metric per category and method, as a heat map", "dataset", "categories"),
    Figure("seeds", "a metric of every seed, and the mean", "dataset", "seeds"),
    Figure("roc", "ROC curves of the image scores: per category of a run, or means of methods", "dataset", "curves"),
    Figure("pr", "precision-recall curves of the image scores", "dataset", "curves", "draw_pr"),
    Figure("pixel_roc", "ROC curves of the pixels", "dataset", "curves", "draw_pixel_roc"),
    Figure("pixel_pr", "precision-recall curves of the pixels", "dataset", "curves", "draw_pixel_pr"),
    Figure("pro", "per-region overlap against false positives, up to 30 percent", "dataset", "curves", "draw_pro"),
    Figure("scores", "histograms of the image scores, unseen defects apart", "run", "scores"),
    Figure("training", "losses and learning rates over training", "run", "training"),
    Figure("epochs", "a metric against the number of epochs", "dataset", "study"),
    Figure("resolution", "a metric against the image size", "dataset", "study", "draw_resolution"),
    Figure("ranks", "average ranks with their critical difference", "tree", "ranks"),
    Figure("correlation", "Pearson correlations between datasets, as a heat map", "tree", "correlation"),
    Figure("defects", "sizes, numbers and places of a dataset's defects", "index", "defects"),
)

FIGURES: Mapping[str, Figure] = {each.name: each for each in _ALL}


def find(name: str) -> Figure:
    """A figure by its name.

    Raises:
        UserError: there is none.
    """
    if name not in FIGURES:
        raise UserError(f"there is no figure {name!r}: {suggest(name, FIGURES)}")
    return FIGURES[name]


def divide(figure: Figure, runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    """The parts of a selection that one picture each is made of, with what they are called (empty: all).

    Runs that did not finish are in no part; a figure of an index has none.
    """
    finished = [run for run in runs if run.record is not None]
    if figure.scope == "run":
        yield from ((run.title, [run]) for run in finished)
    elif figure.scope == "dataset":
        for dataset in dict.fromkeys(run.place[0] for run in finished):
            yield dataset, [run for run in finished if run.place[0] == dataset]
    elif figure.scope == "tree":
        yield "", finished


def svg(name: str, runs: Sequence[Run], **options: Any) -> str:
    """A figure as an ``<svg>`` element for a page, with its title as its name for screen readers.

    Raises:
        UserError: as for ``Figure.make``.
    """
    from ader.report.figures._style import render

    figure = find(name)
    text = render(figure.make(runs, **options), "svg").decode()
    text = _own_names(text[text.index("<svg ") :], f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-")
    said = escape(clean(figure.title), quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)


def _own_names(text: str, prefix: str) -> str:
    """Names inside a picture that no other picture on a page has; those that nothing refers to go."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\1{prefix}", text)
