"""``ader compare``: which differences between runs and methods can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ader.commands._keys import FORMATS, natural, one_of, take_keys
from ader.commands._request import Request
from ader.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from ader.report.tables import Table

SUMMARY = """\
ader compare RUN_A RUN_B       two runs on the same images: differences with bootstrap intervals
ader compare [show=...]        methods over a results tree: average ranks, seeds, epochs, datasets
"""

USAGE = """\
ader compare RUN_A RUN_B [metric=SLUG,...] [bootstrap=2000] [level=0.95] [seed=0]

Two finished runs on the same test images: each metric of both, their difference, and where it may lie: BCa
bootstrap intervals over test images, drawn in pairs within category and label. Of pixel metrics, of which
no counts of single images are kept, the interval is over categories. With one image metric (metric=image_auroc)
there is a row for each category.

ader compare [show=ranks|seeds|epochs|datasets] [metric=SLUG] [where=...] [published=ader]

Methods over a results tree, or over a paper's numbers.
  show=ranks     average ranks, with the tests of Friedman and Nemenyi (default)
                 over=datasets (default where there are several) | categories   alpha=0.05
  show=seeds     mean, deviation and extremes over seeds
  show=epochs    after fewer and more epochs: has it converged?
  show=datasets  Pearson correlations between datasets, over methods; of a single method, over its metrics

  metric=mad                    a slug of `ader list metrics`; show=datasets takes several
  where='dataset=mvtec method=rd,invad'   which runs (or rows of a paper): any key, values separated by commas
  published=ader|invad|...      a paper's numbers in the place of a results tree
  format=terminal|csv|markdown|latex|html
  paths.results=DIR
"""

SHOWN = ("ranks", "seeds", "epochs", "datasets")

DEFAULTS = {
    "metric": "",
    "bootstrap": "2000",
    "level": "0.95",
    "seed": "0",
    "show": "ranks",
    "over": "",
    "alpha": "0.05",
    "where": "",
    "published": "",
    "format": "terminal",
}


def main(request: Request) -> int:
    """Prints one table."""
    taken = take_keys(request, DEFAULTS)
    if taken is None:
        return 0
    values, words = taken
    one_of("format", values["format"], FORMATS)
    if words and len(words) != 2:
        raise UserError(f"ader compare takes two runs or none, got {' '.join(words)}: ader compare RUN_A RUN_B")
    table = _two(words, values) if words else _many(values)
    from ader.report import renderers

    print(str(getattr(renderers, values["format"])(table)).rstrip("\n"))
    return 0


def _two(words: list[str], values: dict[str, str]) -> Table:
    foreign = [key for key in ("show", "over", "alpha", "where", "published") if values[key] != DEFAULTS[key]]
    if foreign:
        raise UserError(f"{foreign[0]}= is for many runs: leave it out, or leave the two runs out")
    draws, seed = natural("bootstrap", values["bootstrap"], 100), natural("seed", values["seed"], 0)
    level = _share("level", values["level"])
    from ader.report.comparison import comparison_table

    metrics = [slug for slug in values["metric"].split(",") if slug]
    return comparison_table(Path(words[0]), Path(words[1]), metrics, draws, seed, level)


def _many(values: dict[str, str]) -> Table:
    show = one_of("show", values["show"], SHOWN)
    alpha = _share("alpha", values["alpha"])
    from ader.report.statistics import correlation, ranks, spread

    default = ",".join(correlation.SEVEN) if show == "datasets" else "mad"
    metrics = [slug for slug in (values["metric"] or default).split(",") if slug]
    if len(metrics) > 1 and show != "datasets":
        raise UserError(f"metric={values['metric']}: show={show} takes one metric")
    frame = _values(values, metrics, study="epochs" if show == "epochs" else "")
    if show == "seeds":
        return spread.stability_table(frame, metrics[0])
    if show == "epochs":
        return spread.convergence_table(frame, metrics[0])
    if show == "datasets":
        return correlation.correlation_table(*correlation.correlation(frame))
    several = frame["dataset"].nunique() > 1
    over = one_of("over", values["over"] or ("datasets" if several else "categories"), ("datasets", "categories"))
    found = ranks.rank(frame, metrics[0], "datasets" if over == "datasets" else "categories", alpha)
    return ranks.ranks_table(found, metrics[0], "datasets" if over == "datasets" else "categories")


def _values(values: dict[str, str], metrics: list[str], study: str) -> pd.DataFrame:
    from ader.report.statistics.values import name_epochs, published_values, values_of

    if values["published"]:
        frame = published_values(values["published"], metrics, values["where"])
        return name_epochs(frame) if not study else frame
    from ader.report.collection import collect
    from ader.report.where import select

    return values_of(select(collect(Path(values["paths.results"])), values["where"]), metrics, study)


def _share(key: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(f"{key}={value} must be between 0 and 1, such as {DEFAULTS[key]}")
    return share
