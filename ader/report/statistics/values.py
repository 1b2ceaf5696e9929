"""Values of many runs, or of a paper, as one long table that every statistic and figure starts from.

Columns: ``dataset``; ``contender``, what is compared: a method, with what sets it apart from others of its name;
``epochs``, ``image_size``, ``seed`` (NaN where unknown); ``category``, ``metric``; ``value``, a fraction, NaN where it
is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ader import published
from ader.metrics.definitions import find_metric
from ader.report.collection import Run, done
from ader.report.where import as_text, parse
from ader.results.identity import canonical, recipe
from ader.results.schema import Record
from ader.system.errors import UserError, some, suggest

COLUMNS = ("dataset", "contender", "epochs", "image_size", "seed", "category", "metric", "value")

#: Keys of a recipe that are told apart by columns of their own; ``method.runs`` names detectors, one for each seed.
OWN_COLUMN = ("seed", "dataset.", "method.runs", "run")

#: What sets runs of one method apart, by its most telling name first.
TELLING = ("setting", "metric", "trainer.epochs", "image_size", "method.backbone.name")

#: What may be studied: a contender's runs then differ in it; by its column, with its key.
STUDIES = {"epochs": "trainer.epochs", "image_size": "image_size"}


def values_of(runs: Sequence[Run], metrics: Sequence[str], study: str = "") -> pd.DataFrame:
    """Of all finished runs.

    Args:
        runs: those that did not finish are passed over.
        metrics: slugs.
        study: of ``STUDIES``: runs that differ in nothing else are one contender's; otherwise they are two contenders.

    Raises:
        UserError: there is no such metric, no run is finished, or two are the same but for their folder's name.
    """
    for slug in metrics:
        find_metric(slug)
    finished = [run for run, _ in done(runs)]
    if not finished:
        raise UserError(f"none of {len(runs)} runs is finished: there is nothing to compare")
    names = contenders(finished, study)
    datasets = dataset_names(finished)
    numbers = [[_number(run.keys.get(key)) for key in ("epochs", "image_size", "seed")] for run in finished]
    rows = [
        (dataset, name, *known, category, slug, run.value(category, slug))
        for run, dataset, name, known in zip(finished, datasets, names, numbers, strict=True)
        for category in (*run.categories, "mean")
        for slug in metrics
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    _refuse_twins(finished, datasets, names)
    return frame


def dataset_names(runs: Sequence[Run]) -> list[str]:
    """The dataset of each finished run, as the tree calls it.

    Where runs of one dataset have other categories, or other data under the same names, those are told: a mean over
    some categories is no value of the whole dataset.
    """
    kinds: dict[str, dict[tuple[tuple[str, ...], str], None]] = {}
    marks = [(run.place[0], (tuple(run.categories), record.data_hash)) for run, record in done(runs)]
    for dataset, kind in marks:
        kinds.setdefault(dataset, {})[kind] = None
    names = []
    for dataset, (categories, data) in marks:
        others = kinds[dataset]
        words = [f"({some(categories, 2)})"] if len({each[0] for each in others}) > 1 else []
        alike = {each[1] for each in others if each[0] == categories}
        names.append(" ".join([dataset, *words, *([f"data {data[:6]}"] if len(alike) > 1 else [])]))
    return names


def whole_mean(values: pd.Series) -> float:
    """The mean; NaN where any value is: a mean over fewer seeds or categories would not be what it says."""
    return float(values.mean(skipna=False))


def contenders(runs: Sequence[Run], study: str = "") -> list[str]:
    """What each finished run is called: its method, and what sets it apart from the same method's other runs."""
    recipes = [_recipe(record, study) for _, record in done(runs)]
    methods = [str(run.keys.get("method", run.title)) for run in runs]
    names = []
    for run, method in zip(recipes, methods, strict=True):
        alike = [other for other, its in zip(recipes, methods, strict=True) if its == method]
        words = [f"{_short(key)}={as_text(run.get(key))}" for key in _telling(alike)]
        names.append(" ".join([method, *words]))
    return names


def _recipe(record: Record, study: str) -> dict[str, Any]:
    """What decides a result, but for dataset and seed."""
    values: dict[str, Any] = {"setting": record.choices.get("setting"), "metric": record.metric}
    if record.config:
        values |= {key: value for key, value in recipe(record.config).items() if not key.startswith(OWN_COLUMN)}
    if study:  # parts of a method take theirs from the run's
        own = values.get(STUDIES[study])
        values = {key: value for key, value in values.items() if study not in key or value != own}
    return values


def _telling(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fewest keys that tell recipes apart, the most telling first."""
    known: dict[str, None] = dict.fromkeys([*TELLING, *sorted({key for each in recipes for key in each})])
    differing = [key for key in known if len({canonical(each.get(key)) for each in recipes}) > 1]
    kept: list[str] = []
    parts = 1
    for key in differing:
        now = len({tuple(canonical(each.get(name)) for name in (*kept, key)) for each in recipes})
        if now > parts:
            kept, parts = [*kept, key], now
    return kept


def _short(key: str) -> str:
    return key.removeprefix("method.").removeprefix("trainer.")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _refuse_twins(runs: Sequence[Run], datasets: Sequence[str], names: Sequence[str]) -> None:
    """Two runs of one recipe, seed and dataset (``run=NAME``) would count twice."""
    seen: dict[tuple[str, ...], Run] = {}
    for run, dataset, name in zip(runs, datasets, names, strict=True):
        key = (dataset, name, *(str(run.keys.get(key)) for key in ("seed", *STUDIES)))
        if key in seen:
            raise UserError(
                f"{seen[key].title} and {run.title} are the same but for their names: choose one with where='run=...'"
            )
        seen[key] = run


def published_values(source: str, metrics: Sequence[str], where: str = "") -> pd.DataFrame:
    """Of a paper, in the same form.

    Args:
        source: of ``ader.published.SOURCES``.
        metrics: slugs.
        where: a condition on its columns: ``dataset=mvtec method=rd,invad epochs=100``.

    Raises:
        UserError: there is no such paper, or no such value in it.
    """
    if source not in published.SOURCES:
        raise UserError(f"published={source} is not known: {suggest(source, published.SOURCES)}")
    condition = parse(where)
    table = published.read(source)
    unknown = [key for key in condition.keys if key not in table]
    if unknown:
        raise UserError(f"where={where!r}: {source} has no {unknown[0]!r}: {suggest(unknown[0], table.columns)}")
    table = table[table["metric"].isin(list(metrics))]
    kept = (
        [condition.holds({str(key): value for key, value in row.items()}) for row in table.to_dict("records")]
        if condition.keys
        else [True] * len(table)
    )
    table = table[kept]
    if table.empty:
        raise UserError(f"published={source} has no {some(metrics)}" + (f" where {where}" if where else ""))
    split = table["split"].where(~table["split"].isin(["", "mean"]), "")
    names = table["method"]
    if len(set(table["setting"])) > 1:
        names = names + " setting=" + table["setting"]
    frame = pd.DataFrame(
        {
            "dataset": (table["dataset"] + " " + split).str.strip(),
            "contender": names,
            "epochs": pd.to_numeric(table["epochs"]),
            "image_size": math.nan,
            "seed": math.nan,
            "category": table["category"],
            "metric": table["metric"],
            "value": table["value"] / 100,
        }
    )
    # a value that stands in two of a paper's tables is one value
    return frame.drop_duplicates(["dataset", "contender", "epochs", "category", "metric"]).reset_index(drop=True)


def name_epochs(frame: pd.DataFrame) -> pd.DataFrame:
    """A paper's values, in which a method trained for several numbers of epochs is a contender for each."""
    several = frame.groupby(["dataset", "contender"])["epochs"].transform("nunique") > 1
    texts = frame["epochs"].map(lambda epochs: f" epochs={epochs:.0f}" if not math.isnan(epochs) else "")
    own = frame["contender"].isin(frame.loc[several, "contender"])
    return frame.assign(contender=frame["contender"] + texts.where(own, ""))
