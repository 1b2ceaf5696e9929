"""The numbers of a sweep: one row for each job that has its result, and whether they are worse than those expected."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ader.config.overrides import key_of
from ader.metrics import METRICS as DEFINITIONS
from ader.report.result_tables import MAIN, percentages
from ader.report.seeds import Spread
from ader.report.tables import Column, Row, Table
from ader.results import record
from ader.results.sweeps.schema import JobRecord, SweepRecord
from ader.system.errors import UserError, some
from ader.system.files import check_regular

#: Of a sweep's folder.
METRICS = "metrics.csv"
#: The column that names a row.
JOB = "job"

#: Metrics that are shown with their deviation over seeds: as many as an 80 column terminal has room for.
SPREAD = ("image_auroc", "pixel_auroc", "pixel_aupro", "mad")

HIGHER = {each.slug: each.higher_is_better for each in DEFINITIONS}


def label(words: Sequence[str], swept: Sequence[str]) -> str:
    """Those words in which a job differs from the others; all where it is the only one."""
    return " ".join(word for word in words if key_of(word) in swept) if swept else " ".join(words)


class Numbers(NamedTuple):
    """What a job's result gives.

    Attributes:
        means: each metric over categories, as a fraction; NaN where undefined, nothing where there is no result.
        warnings: what readers of the numbers must know.
    """

    means: Mapping[str, float] = {}
    warnings: tuple[str, ...] = ()


def numbers_of(job: JobRecord, results: Path) -> Numbers:
    """Of a finished job; empty for any other."""
    if job.state not in ("done", "there"):
        return Numbers()
    file = results / job.folder / record.FILE
    try:
        return _numbers(file, file.stat().st_mtime_ns)
    except (UserError, OSError):
        return Numbers()


@lru_cache(maxsize=10_000)
def _numbers(file: Path, changed: int) -> Numbers:
    found = record.read(file.parent)
    if found is None:
        return Numbers()
    row = found.rows.get("mean", {})
    return Numbers({slug: math.nan if value is None else value for slug, value in row.items()}, found.warnings)


def metrics_csv(sweep: SweepRecord, results: Path) -> str:
    """A row per finished job: its words, and each metric's mean over categories; empty where undefined."""
    rows = {" ".join(job.words): numbers_of(job, results).means for job in sweep.jobs if job.state in ("done", "there")}
    text: str = pd.DataFrame.from_dict(rows, orient="index").to_csv(index_label=JOB)
    return text


def metrics_tables(sweep: SweepRecord, results: Path) -> list[Table]:
    """The main metrics of every finished job; where jobs differ in their seed, some with their deviation over seeds;
    nothing where none is finished."""
    groups: dict[str, list[Mapping[str, float]]] = {}
    rows, warned = [], Counter[str]()
    for job in sweep.jobs:
        found, warnings = numbers_of(job, results)
        if found:
            warned.update(warnings)
            others = [key for key in sweep.swept if key != "seed"]
            groups.setdefault(label(job.words, others) if others else "all jobs", []).append(found)
            rows.append(Row.of(label(job.words, sweep.swept), *(found.get(slug, math.nan) for slug, _, _ in MAIN)))
    if not rows:
        return []
    title = "mean over categories, in percent"
    notes = tuple(f"CAUTION: {warning} ({count} of {len(rows)} jobs)" for warning, count in warned.items())
    tables = [Table((Column(JOB, wrap="ellipsis"), *percentages(MAIN)), tuple(rows), title, notes)]
    if "seed" in sweep.swept and any(len(seeds) > 1 for seeds in groups.values()):
        chosen = [each for each in MAIN if each[0] in SPREAD]
        columns = [Column(each.heading, each.group, "number") for each in percentages(chosen)]
        spreads = [
            Row.of(
                name,
                str(len(seeds)),
                *(Spread.of([one.get(slug, math.nan) for one in seeds]).cell() for slug, *_ in chosen),
            )
            for name, seeds in groups.items()
        ]
        title = "mean and standard deviation over seeds"
        heads = Column(JOB, wrap="ellipsis"), Column("seeds", kind="number")
        tables.append(Table((*heads, *columns), tuple(spreads), title=title))
    return tables


def read_metrics(file: Path) -> pd.DataFrame:
    """What ``metrics_csv`` made: rows are jobs, columns metrics.

    Raises:
        UserError: it is missing or damaged.
    """
    check_regular(file)
    try:
        table: pd.DataFrame = pd.read_csv(file, index_col=JOB).astype(float)
        table.index = [_sorted_words(str(words)) for words in table.index]
    except (OSError, ValueError, KeyError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no table of a sweep"
        raise UserError(f"{file} cannot be read ({what}): give the {METRICS} of a sweep's folder") from error
    if len(set(table.index)) < len(table) or table.empty:
        raise UserError(
            f"{file} has {'a job twice' if len(table) else 'no row'}: give the {METRICS} of a sweep's folder"
        )
    return table


def worse(now: pd.DataFrame, expected: pd.DataFrame, tolerance: float) -> list[str]:
    """What is worse than expected, a line each.

    Args:
        now, expected: of ``read_metrics``.
        tolerance: by which a metric may be worse, as a fraction.

    Raises:
        UserError: they have no job in common.
    """
    common = [job for job in expected.index if job in now.index]
    if not common:
        raise UserError(
            f"no job is in both tables: expected are {some(map(str, expected.index), 2)}, here are "
            f"{some(map(str, now.index), 2)}"
        )
    found = [f"{job}: it has no result" for job in expected.index if job not in now.index]
    for job in common:
        for slug in (slug for slug in expected.columns if slug in HIGHER):
            before = float(expected.loc[job, slug])
            after = float(now.loc[job, slug]) if slug in now else math.nan
            if math.isnan(before):
                continue
            loss = before - after if HIGHER[slug] else after - before
            if math.isnan(loss) or loss > tolerance:
                shown = "undefined" if math.isnan(after) else f"{100 * after:.2f}"
                found.append(f"{job}: {slug} is {shown}, expected {100 * before:.2f}")
    return found


def _sorted_words(words: str) -> str:
    """The same for words in another order; folders of this machine are left out."""
    return " ".join(sorted(word for word in words.split(" ") if not re.match(r"\+*(paths\.|dataset\.root=)", word)))
