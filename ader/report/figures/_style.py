"""How all figures look: colors that color-blind readers tell apart, markers besides, 8 pt at a paper's column width.

Matplotlib is used without pyplot: no window, no state, the same file for the same numbers.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ader.system.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Widths in inches: of one column, and of both with their gap (CVPR's).
COLUMN, PAGE = 3.4, 7.0

#: Okabe and Ito, "Color Universal Design" (2008), without its yellow, which is too pale for lines on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")  # 11: with 7 colors 77 pairs

#: Normal and defective images, and defects that training lacks.
NORMAL, DEFECTIVE, UNSEEN = PALETTE[0], PALETTE[1], PALETTE[2]

#: Of heat maps; monotone in lightness, so that it survives a gray print. Gaps are gray.
HEAT, GAP = "cividis", "#d9d9d9"

GRAY = "#767676"

STYLE: Mapping[str, Any] = {
    "font.size": 8,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a dollar sign is part of a name
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "ader",  # the same file for the same numbers
}

DPI = 200


@contextmanager
def styled() -> Iterator[None]:
    """Everything that is drawn or written inside looks as above, whatever the user's own settings are."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for it; SVG has it
        own: dict[Any, Any] = {**matplotlib.rcParamsDefault, **STYLE, "backend": matplotlib.rcParams["backend"]}
        matplotlib.rcParams.update(own)
        yield


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of so many inches, whose parts find room by themselves if it is constrained."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """A figure as a file's content: ``png``, ``svg`` or ``pdf``."""
    with styled():
        stream = io.BytesIO()
        dates = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
        figure.savefig(stream, format=kind, dpi=DPI, metadata=dates[kind])
        return stream.getvalue()


def look(place: int) -> dict[str, Any]:
    """Color and marker of the n-th of many."""
    return {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}


def label(name: str, longest: int = 28) -> str:
    """A name as it may stand in a figure: on one line, no control characters, its middle left out if it is long."""
    text = re.sub(r"\s+", " ", clean(name)).strip() or "-"
    if len(text) > longest:
        head = (longest - 1) * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves such labels out of legends


def headline(figure: Figure, text: str, share: float = 1.0) -> None:
    """What the figure is of, at its upper left, as long as the figure is wide, or a share of that."""
    longest = int(share * figure.get_figwidth() / 0.066)
    figure.suptitle(label(text, longest), x=0.02, ha="left", fontsize=8)


def percent(axis: Any) -> None:
    """Fractions are shown as percentages."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}"))


def legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str], columns: int = 3) -> float:
    """A legend under the axes, and the inches that it takes: the figure grows by them, the axes keep their size."""
    texts = [label(name, 28 if len(names) <= 8 else 19) for name in names]
    widest = max(map(len, texts))
    width = figure.get_figwidth()
    columns = max(1, min(columns, len(texts), int((width - 0.1) / (0.35 + 0.058 * widest))))
    rows = -(-len(texts) // columns)
    inches = 0.16 * rows + 0.12
    figure.set_figheight(figure.get_figheight() + inches)
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)
    return inches


def heat_map(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Any,
    low: float,
    high: float,
    form: str = "{:.1f}",
    numbers: bool = True,
) -> Any:
    """Values as colored cells with their numbers; gaps are gray.

    Args:
        axes: where.
        rows, columns: names.
        values: (rows, columns), NaN for a gap.
        low, high: of the color scale.
        form: of the numbers.
        numbers: whether there are any.

    Returns:
        The image, for a color bar.
    """
    colors = matplotlib.colormaps[HEAT].with_extremes(bad=GAP)
    image = axes.imshow(values, cmap=colors, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), [label(name, 24) for name in columns], rotation=90 if len(columns) > 1 else 0)
    axes.set_yticks(range(len(rows)), [label(name, 24) for name in rows])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for y, line in enumerate(values if numbers else []):
        for x, value in enumerate(line):
            if value != value:
                axes.text(x, y, "-", ha="center", va="center", fontsize=6, color=GRAY)
                continue
            dark = (value - low) / max(high - low, 1e-12) < 0.55
            axes.text(
                x, y, form.format(value), ha="center", va="center", fontsize=6, color="white" if dark else "black"
            )
    return image
