"""What one's own runs give in one cell of a table: which of them it is made of, and what must be said of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ader.report.collection import Run
from ader.report.papers.costs import COSTS
from ader.report.papers.points import Need
from ader.report.papers.spec import Seeds
from ader.report.seeds import Spread
from ader.report.where import is_same
from ader.results.schema import Record

#: States of runs in the order in which their reasons matter.
MATTERS = ("running", "failed", "damaged", "unfinished")


@dataclass(frozen=True)
class Own:
    """A value of one's own.

    Attributes:
        value: a metric as a fraction, a cost in its unit; NaN where there is none.
        deviation: over seeds, in the same unit; None where there is one seed.
        seeds: how many it is the mean of.
        reason: why there is no value.
        remarks: what must be said of it, a line each.
    """

    value: float = math.nan
    deviation: float | None = None
    seeds: int = 0
    reason: str = ""
    remarks: tuple[str, ...] = ()


def fitting(runs: Sequence[Run], need: Need) -> list[Run]:
    """Runs, finished or not, that are what a published value is about.

    Of a run that left nothing no more is known than what was typed.
    """
    return [
        run
        for run in runs
        if all(
            is_same(run.keys.get(key), value)
            for key, value in need.keys.items()
            if run.record is not None or key in run.keys
        )
    ]


def own_value(runs: Sequence[Run], category: str, metric: str, seeds: Seeds = "mean", profile: str = "") -> Own:
    """Of runs that fit one cell.

    Runs of one recipe that differ in their seed alone are averaged. Of several recipes the one is taken that was run
    last, and the others are told.

    Args:
        runs: that fit, finished or not.
        category: of the dataset, or ``mean``.
        metric: its slug, or the name of a cost.
        seeds: whether to average.
        profile: how the paper computed its metrics; other ways are told.
    """
    groups: dict[str, list[tuple[Run, Record]]] = {}
    for run in runs:
        if run.record is not None:
            groups.setdefault(run.likeness, []).append((run, run.record))
    if not groups:
        worst = min(runs, key=lambda run: MATTERS.index(run.state), default=None)
        return Own(reason="not run" if worst is None else worst.reason)
    newest = sorted(groups.values(), key=lambda group: max(record.provenance.time for _, record in group))[-1]
    newest = sorted(newest, key=lambda pair: pair[1].provenance.time)
    by_seed = {record.seed: (run, record) for run, record in newest}
    chosen = [*by_seed.values()] if seeds == "mean" else newest[-1:]
    values = [_value(run, record, category, metric) for run, record in chosen]
    spread = Spread.of(values)
    remarks = [warning for _, record in chosen for warning in record.warnings]
    if len(groups) > 1:
        remarks.append(f"runs of {len(groups)} recipes fit: the one that was made last is shown (where=... chooses)")
    if profile and metric not in COSTS:
        others = {record.metric for _, record in chosen} - {profile}
        remarks += [f"computed with metric={other}, the paper with what metric={profile} has" for other in others]
    reason = ""
    if math.isnan(spread.mean):
        reasons = [run.missing(category, metric) for run, _ in chosen if metric not in COSTS]
        reason = next(filter(None, reasons), "not recorded")
    return Own(
        spread.mean / 100,
        None if math.isnan(spread.std) or (metric in COSTS and spread.std == 0) else spread.std / 100,
        len(chosen),
        reason,
        tuple(dict.fromkeys(remarks)),
    )


def own_mean(parts: Sequence[Own]) -> Own:
    """The mean of several cells' values, where all are there: of COCO-AD's splits, say."""
    if len(parts) == 1:
        return parts[0]
    missing = next((part for part in parts if math.isnan(part.value)), None)
    remarks = tuple(dict.fromkeys(remark for part in parts for remark in part.remarks))
    if missing is not None:
        there = sum(not math.isnan(part.value) for part in parts)
        return Own(reason=f"{there} of {len(parts)} runs of a mean are there: {missing.reason}", remarks=remarks)
    mean = sum(part.value for part in parts) / len(parts)
    return Own(mean, None, min(part.seeds for part in parts), "", remarks)


def _value(run: Run, record: Record, category: str, metric: str) -> float:
    return COSTS[metric].value(record) if metric in COSTS else run.value(category, metric)
