"""Published numbers in this program's words: which runs each of them is about, and how such runs are made.

A point stands at coordinates (dataset, setting, epochs, method, category, metric ...). Papers and this program name
some of them differently; what they mean is written here once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ader.published import read
from ader.report.papers.counts import COUNTS

#: Datasets of a published split, in this program's names; several where a value is a mean over them.
DATASETS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("coco_ad", "mean"): ("coco_ad_0", "coco_ad_1", "coco_ad_2", "coco_ad_3"),
    **{("coco_ad", f"{split}"): (f"coco_ad_{split}",) for split in range(4)},
    ("real_iad", "subset8_top"): ("real_iad_top8",),
    ("viaduct", "subset12"): ("viaduct_12",),
    ("sensum_sodf", "one_split"): ("sensum_sodf",),
    ("mean(vad|sensum_sodf|viaduct)", ""): ("vad", "sensum_sodf", "viaduct_12"),
    ("mean(real_iad|btad|vad)", ""): ("real_iad_top8", "btad", "vad"),
    ("aebad", ""): ("aebad_s",),
}

#: Words of a run in a published setting, by paper and setting; what they say is what a run must be to stand beside it.
SETTINGS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("segad", "one_class"): ("setting=vad_one_class",),
    ("segad", "high_shot"): ("setting=vad_high_shot",),
    ("segad", "low_shot"): ("setting=vad_low_shot",),
    ("segad", "supervised_10"): ("setting=segad_visa",),
    ("segad", "supervised_20"): ("setting=segad_mvtec",),
    ("beyond_academic", "noisy_0"): ("setting=single_class",),
    **{
        ("beyond_academic", f"noisy_{percent}"): ("setting=contamination", f"setting.ratio={percent / 100:g}")
        for percent in (4, 8, 16)
    },
    ("beyond_academic", "no_drift"): ("setting=single_class",),
    ("beyond_academic", "size_128"): ("setting=single_class", "image_size=128"),
    ("beyond_academic", "size_512"): ("setting=single_class", "image_size=512"),
}

#: Settings that this program does not have yet: why a run cannot be made.
WITHOUT = {("beyond_academic", "drift"): "test images with drift are not among the settings yet"}

#: Detectors of SegAD, as the paper calls them.
MEMBERS = {
    "PatchCore": "patchcore",
    "FastFlow": "fastflow",
    "RD4AD": "rd",
    "EfficientAD": "efficientad_m",
    "wrn": "wrn_classifier",
}

#: What a note says of a printed value that nobody can be held to.
DOUBTFUL = re.compile(r"doubtful|source slip|not consistent|Table 15 gives")

#: Words that make a run one of a paper's.
PROTOCOLS = {"ader": ("protocol=ader",), "invad": ("protocol=invad",)}

#: Epochs of a run where the paper does not say: InvAD re-ran what it marks, and says 100 where it says anything.
EPOCHS = {"invad": "100"}


@dataclass(frozen=True)
class Need:
    """What a run must be to stand beside a published value.

    Attributes:
        keys: of ``ader.report.collection.Run.keys``, as text.
        words: that make such a run, after ``ader``.
        impossible: why this program cannot make one; empty where it can.
    """

    keys: Mapping[str, str]
    words: tuple[str, ...]
    impossible: str = ""


@dataclass(frozen=True)
class Point:
    """One published value.

    Attributes:
        at: its coordinates: ``source``, ``table``, ``dataset``, ``setting``, ``epochs``, ``method``, ``category``,
            ``metric``; of an ablation ``row``, ``varied`` and each thing that was varied.
        value: a metric as a fraction, a cost in the unit of ``COSTS``; NaN where nothing was printed.
        std: over the paper's seeds, in the same unit; NaN where it says nothing.
        note: what is doubtful, or was printed in its place.
        needs: the runs whose mean it is to be compared with; none where that is unknown.
    """

    at: Mapping[str, str]
    value: float
    std: float = math.nan
    note: str = ""
    needs: tuple[Need, ...] = field(default=(), compare=False)


def points_of(source: str, tables: Sequence[str], methods: Sequence[str]) -> list[Point]:
    """All values of some tables of a paper, in the paper's order.

    Args:
        source: one of ``ader.published.SOURCES``.
        tables: their numbers, as text.
        methods: the options of ``method=`` that there are.

    Raises:
        UserError: there is no such source.
    """
    found = [_point(source, row, methods) for row in _rows(read(source), tables)]
    found += [_ablation(row) for row in _rows(read("ablations"), tables) if row["source"] == source]
    if COST_TABLES.get(source) in tables:
        found += _costs(source, methods)
    if COUNT_TABLES.get(source) in tables:
        found += _counts(source, COUNT_TABLES[source])
    return found


def _counts(source: str, table: str) -> Iterator[Point]:
    """Of the table of datasets; ours are what a dataset's YAML states."""
    for row in _rows(read("dataset_counts"), [table]):
        if row["source"] == source:
            name = DATASETS.get((row["dataset"], row["split"]), (row["dataset"],))[0]
            at = {"source": source, "table": table, "dataset": name, "category": "mean"}
            for metric in COUNTS:
                value = float(row[metric]) if row[metric] else math.nan
                yield Point({**at, "metric": metric}, value, note=row["note"])


def _rows(table: pd.DataFrame, tables: Sequence[str]) -> Iterator[dict[str, Any]]:
    for row in table[table["table"].isin(list(tables))].to_dict("records"):
        yield {str(key): value for key, value in row.items()}


def _point(source: str, row: Mapping[str, Any], methods: Sequence[str]) -> Point:
    datasets = DATASETS.get((row["dataset"], row["split"]), (row["dataset"],))
    name = row["dataset"] if len(datasets) > 1 else datasets[0]
    names = ("setting", "epochs", "method", "category", "metric")
    at = {"source": source, "table": row["table"], "dataset": name, **{key: row[key] for key in names}}
    needs = tuple(_need(source, row, dataset, methods) for dataset in datasets)
    return Point(at, row["value"] / 100, row["std"] / 100, row["note"], needs)


def _need(source: str, row: Mapping[str, Any], dataset: str, methods: Sequence[str]) -> Need:
    setting = SETTINGS.get((source, row["setting"]), (f"setting={row['setting']}",))
    method, detectors = re.match(r"([^\[]+)(?:\[(.*)\])?$", row["method"]).groups()  # type: ignore[union-attr]
    words = [f"dataset={dataset}", f"method={method}"]
    if setting != ("setting=multi_class",):
        words += setting
    members = _members(detectors, row["note"]) if detectors else []
    if members:
        words.append(f"method.detectors=[{','.join(members)}]")
    epochs = row["epochs"] or EPOCHS.get(source, "")
    if epochs not in ("", "100"):
        words.append(f"trainer=e{epochs}" if epochs == "300" else f"trainer.epochs={epochs}")
    keys = dict(word.split("=", 1) for word in (*words, *setting) if not word.startswith(("trainer", "method.det")))
    if epochs:
        keys["epochs"] = epochs
    if members:
        keys["method.detectors"] = f"[{','.join(members)}]"
    absent = [name for name in (method, *members) if name not in methods]
    missing = f"method {absent[0]} is not here yet" if absent else ""
    if detectors and not members:
        missing = missing or "which detectors these are is not stated"
    return Need(keys, (*words, *PROTOCOLS.get(source, ())), WITHOUT.get((source, row["setting"]), missing))


def _members(detectors: str, note: str) -> list[str]:
    """Of ``segad[...]``, where ``all`` is what the note says; none where that is open."""
    if "all" not in detectors:
        return [MEMBERS.get(name, name) for name in detectors.split("+")]
    stated = re.match(r"All AD = ([\w, -]+?)(?:;| \(|$)", note)
    names = re.split(r", | and ", stated[1]) if stated and "not stated" not in stated[1] else []
    return [MEMBERS[name] for name in names]


def _ablation(row: Mapping[str, Any]) -> Point:
    """Of a row that is named by what was varied; which runs these are is not known."""
    varied = dict(part.split("=", 1) for part in row["params"].split(";"))
    own = {key: row[key] for key in ("source", "table", "dataset", "row", "metric")}
    at = {**varied, **own, "varied": row["params"].replace(";", ", ").replace("=", " "), "category": "mean"}
    return Point(at, row["value"] / (1 if row["metric"] in PLAIN else 100), note=row["note"])


#: Tables of what methods cost, and of how many images datasets have, by paper.
COST_TABLES = {"ader": "1", "invad": "9"}
COUNT_TABLES = {"ader": "2", "invad": "1"}

#: What ablations measure that is no fraction.
PLAIN = ("pearson", "eval_seconds")


#: Columns of the papers' tables of costs: cost, and factor to its unit.
COST_COLUMNS = {
    "params_M": "params",
    "flops_G": "macs",
    "train_mem_MB": "train_memory",
    "test_mem_MB": "test_memory",
    "train_hours": "train_hours",
    "test_seconds": "test_seconds",
    "fps": "fps",
}


def _costs(source: str, methods: Sequence[str]) -> Iterator[Point]:
    """Of the table that compares what methods cost."""
    table = COST_TABLES[source]
    for row in read(f"{source}_efficiency").to_dict("records"):
        for column, printed in ((str(key), value) for key, value in row.items()):
            cost = next((name for name in COST_COLUMNS if column.endswith(name)), None)
            if cost is None:
                continue
            dataset = column.removesuffix(cost).rstrip("_") or row.get("dataset", "")
            keys = {"method": row["method"], **({"dataset": dataset} if dataset else {})}
            missing = "" if row["method"] in methods else f"method {row['method']} is not here yet"
            words = (f"dataset={dataset or 'mvtec'}", f"method={row['method']}", *PROTOCOLS[source])
            at = {"source": source, "table": table, "dataset": dataset, "method": row["method"], "category": "mean"}
            number = re.fullmatch(r"[\d.]+", str(printed))
            note = "" if number or not printed else f"the paper has {printed} here"
            yield Point(
                {**at, "metric": COST_COLUMNS[cost]},
                float(printed) if number else math.nan,
                note=note or (str(row.get("note", "")) if column == "real_iad_train_hours" else ""),
                needs=(Need(keys, words, missing),),
            )
