"""Results trees of any size with made-up numbers, for tests of what is made from trees."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ader.metrics import METRICS, SLUGS
from ader.results import record, schema
from ader.results.sweeps import ledger
from ader.results.sweeps.schema import Ending, JobRecord, SweepRecord
from tests.support.records import a_model, a_record

CATEGORIES = ("bottle", "cable", "capsule")


def a_run(
    root: Path,
    dataset: str = "mvtec",
    method: str = "rd",
    seed: int = 42,
    *,
    setting: str = "multi_class",
    epochs: int = 100,
    run: str = "",
    categories: Sequence[str] = CATEGORIES,
    images: int = 10,
    values: dict[tuple[str, str], float | None] | None = None,
    pretrained: bool = True,
    **changes: Any,
) -> Path:
    """Writes a finished run with all of its tables, and returns its folder.

    Args:
        root: of the tree.
        dataset, method, seed, setting, epochs: of the run.
        run: its folder's name; made from epochs and seed by default.
        categories: of the dataset.
        images: test images of each category and kind, good and bad.
        values: of the table, as fractions, by category and slug; None is undefined. Others are drawn.
        pretrained: whether its backbone was; otherwise there is a warning.
        **changes: fields of the record.
    """
    run = run or f"e{epochs}-s{seed}"
    folder = root / dataset / setting / method / run
    folder.mkdir(parents=True)
    rng = random.Random(f"{dataset} {method} {seed} {epochs}")
    given = values or {}
    rows = {
        name: {slug: given.get((name, slug), round(rng.uniform(0.5, 0.99), 6)) for slug in SLUGS} for name in categories
    }
    rows["mean"] = {slug: _mean([rows[name][slug] for name in categories]) for slug in SLUGS}
    undefined: dict[str, list[str]] = {}
    for name, row in rows.items():
        for slug, value in row.items():
            if value is None:
                undefined.setdefault(f"{slug} is undefined: no defective pixels", []).append(name)
    config = {
        "seed": seed,
        "recipe": None,
        "image_size": 256,
        "run": run,
        "dataset": {"name": dataset, "root": f"data/{dataset}", "categories": None},
        "method": {
            "name": method,
            "lr": 0.005,
            "backbone": {"name": "wide_resnet50_2.tv_in1k", "pretrained": pretrained},
        },
        "trainer": {"epochs": epochs, "precision": "fp32", "max_steps": None},
        "metric": {"size": "input", "map_interpolation": "bilinear", "mask_interpolation": "bilinear"},
    }
    warnings = () if pretrained else ("wide_resnet50_2.tv_in1k is not pretrained: its weights are random",)
    network = schema.Network(
        params=rng.randrange(10**7, 10**8),
        trainable_params=10**6,
        macs=rng.randrange(10**9, 10**11),
        weights=(),
        warnings=warnings,
    )
    training = schema.TrainingCost(
        stages={"fit": schema.StageCost.of(rng.uniform(100, 9000), 1000)}, memory_bytes=2**30, processes=1, cached=False
    )
    made = {
        "title": f"{dataset} / {setting} / {method} / {run}",
        "choices": {
            "dataset": dataset,
            "setting": setting,
            "method": method,
            "trainer": f"e{epochs}",
            "metric": "histogram",
        },
        "seed": seed,
        "config": config,
        "models": {"all": a_model(network=network, training=training)},
        "rows": rows,
        "undefined": {why: tuple(where) for why, where in undefined.items()},
        "warnings": warnings,
    }
    result = a_record(**{**made, **changes})
    frame = pd.DataFrame(rows).T.astype(float)
    pixel = [each.slug for each in METRICS if each.slug.startswith("pixel_")]
    bounds = pd.DataFrame(1e-5, index=frame.index, columns=pixel).reindex(columns=frame.columns)
    names = ("images", "bad_images", "pixels", "bad_pixels", "regions", "vanished", "sure_regions")
    counts = pd.DataFrame({name: dict.fromkeys(categories, 2.0 * images) for name in names})
    scores = [
        {
            "image": f"{name}/test/{defect}/{number:03}.png",
            "category": name,
            "defect": defect,
            "label": label,
            "score": rng.gauss(label, 0.5),
        }
        for name in categories
        for defect, label in (("good", 0), ("hole", 1))
        for number in range(images)
    ]
    files = {
        f"{name}.csv": table.to_csv(index_label="category")
        for name, table in (("metrics", frame), ("bounds", bounds), ("counts", counts))
    }
    rates = [number / 20 for number in range(21)]
    points = [(name, 1 - x, x, x**0.3, 1 - 0.9 * x, x**0.5) for name in categories for x in rates]
    curves = pd.DataFrame(points, columns=["category", "threshold", "fpr", "tpr", "precision", "pro"])
    files["curves.csv"] = curves.to_csv(index=False)
    record.write(folder, {**files, "scores.csv": pd.DataFrame(scores).to_csv(index=False)}, result)
    return folder


def a_sweep(root: Path, failed: dict[str, str], kind: str = "memory", name: str = "made_up") -> Path:
    """Writes a sweep's record, whose jobs failed, and returns its folder.

    Args:
        root: of the tree.
        failed: reason by place, ``dataset/setting/method/run``.
        kind: of the failures (``Failure``).
        name: of the sweep.
    """
    jobs = []
    for number, (place, reason) in enumerate(failed.items(), 1):
        dataset, setting, method, _ = place.split("/")
        words = (f"dataset={dataset}", f"setting={setting}", f"method={method}")
        ending = Ending(kind=kind, reason=reason, lines=("last line",), seconds=3.0)
        jobs.append(
            JobRecord(
                number=number,
                words=words,
                title=place.replace("/", " / "),
                folder=place,
                state="failed",
                ending=ending,
                attempts=1,
            )
        )
    sweep = SweepRecord(
        name=name,
        command="ader -m ...",
        swept=("method",),
        launcher="local",
        slots=2,
        host="here",
        pid=1,
        began=ledger.now(),
        heartbeat=ledger.now(),
        ended=ledger.now(),
        jobs=tuple(jobs),
    )
    folder = ledger.folder_of(root, name)
    folder.mkdir(parents=True)
    ledger.write(folder, sweep)
    return folder


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(values) / len(values)  # type: ignore[arg-type]
