"""Losses and learning rates over training, from a run's event files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ader.report.collection import Run
from ader.report.figures._style import COLUMN, headline, label, look, new_figure
from ader.system.errors import UserError

F8 = npt.NDArray[np.float64]


def read_scalars(folder: Path) -> dict[str, tuple[F8, F8]]:
    """Steps and values by tag; of a resumed run each step once.

    Args:
        folder: ``tb`` of a run.

    Raises:
        UserError: its files are damaged.
    """
    if not folder.is_dir():
        return {}
    import logging

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # which steps of a resumed run it passes over
    try:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        return {
            tag: (
                np.array([event.step for event in events.Scalars(tag)], np.float64),
                np.array([event.value for event in events.Scalars(tag)], np.float64),
            )
            for tag in events.Tags()["scalars"]
        }
    except Exception as error:  # its reader raises what it likes
        raise UserError(
            f"{folder} cannot be read ({type(error).__name__}: {error}): curves are no result, go on without"
        ) from error


def draw(runs: Sequence[Run]) -> Figure:
    """A panel with the losses of each stage, and one with the learning rates.

    Args:
        runs: one.
    """
    if len(runs) != 1:
        raise UserError(f"figure training is of one run, and there are {len(runs)}: where='method=... seed=...'")
    (run,) = runs
    scalars = read_scalars(run.folder / "tb")
    panels = _panels(scalars)
    if not panels:
        raise UserError(f"{run.title} has no training curves: its method is not trained by gradients, or tb/ is gone")
    figure = new_figure(COLUMN, 1.65 * len(panels) + 0.25)
    for axes, (title, tags) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        axes.grid(axis="y")
        low, high = np.inf, 0.0
        for place, tag in enumerate(tags):
            step, value = scalars[tag]
            x = _epochs(scalars, tag, step)
            shown = look(place)
            axes.plot(
                x, value, color=shown["color"], marker=shown["marker"] if len(x) < 20 else None, linewidth=0.9,
                label=label(tag.rpartition("/")[2], 30),
            )  # fmt: skip
            finite = value[np.isfinite(value)]
            if len(finite):
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if 0 < low < high / 20:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(label(title, 24))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=2)
        axes.set_xlabel("epoch" if any(tag.endswith("/epoch") for tag in scalars) else "step")
    headline(figure, run.title)
    return figure


def _panels(scalars: Mapping[str, object]) -> dict[str, list[str]]:
    """Tags by panel: losses by stage, then all learning rates."""
    found: dict[str, list[str]] = {}
    rates = []
    for tag in scalars:
        stage, _, name = tag.rpartition("/")
        if name.startswith("lr"):
            rates.append(tag)
        elif name != "epoch":
            found.setdefault(f"{stage} loss" if stage else "loss", []).append(tag)
    return {**found, "learning rate": rates} if found and rates else found


def _epochs(scalars: Mapping[str, tuple[F8, F8]], tag: str, step: F8) -> F8:
    """Of steps, where the stage says so; steps otherwise."""
    known = scalars.get(f"{tag.rpartition('/')[0]}/epoch")
    return step if known is None else np.interp(step, *known)
