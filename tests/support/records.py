"""Whole records with made-up values, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from ader.results import schema


def a_model(**changes: Any) -> schema.ModelRecord:
    """A model's record; ``changes`` are its fields."""
    given = {
        "network": schema.Network(params=30, trainable_params=20, macs=10, weights=(), warnings=()),
        "checkpoint": schema.Checkpoint(file="checkpoint.pt", sha256="c" * 64),
        "training": schema.TrainingCost(
            stages={"fit": schema.StageCost.of(2.0, 10)}, memory_bytes=1, processes=1, cached=False
        ),
        "prediction": schema.PredictionCost.of(4, 0.5, 0.25, 1),
    }
    return schema.ModelRecord(**{**given, **changes})


def some_maps(scores_from_maps: int = 0) -> schema.MapSource:
    """What a record says of a folder of maps, four of them, all in one format."""
    reading = schema.ReadingCost(images=4, seconds=2.0, evaluate_seconds=1.0, scores_from_maps=scores_from_maps)
    described = {"kind": "folder", "path": "maps", "files": 4, "format": {".npy": 4}, "mixed": False}
    return schema.MapSource(**described, sha256="m" * 64, sha256_of="names", reading=reading)


def a_record(**changes: Any) -> schema.Record:
    """A run's record, of one model called ``all``; ``changes`` are its fields."""
    hardware = schema.Hardware(platform="p", cpu="c", cores=2, threads=1, gpus=(), cuda=None)
    made = {"time": "2026-01-02T03:04:05+00:00", "commit": schema.Commit(sha="s", dirty=False), "command": ()}
    given = {
        "title": "demo / multi_class / rd / run",
        "choices": {"method": "rd"},
        "seed": 42,
        "config": {"metric": {"size": "input", "map_interpolation": "bilinear", "mask_interpolation": "bilinear"}},
        "config_hash": "h" * 64,
        "overrides": (),
        "config_dir": None,
        "data_root": "data",
        "data_hash": "x",
        "index_hash": "i" * 64,
        "images": {"train_good": 10, "test_good": 2, "test_bad": 2},
        "metric": "histogram",
        "maps": False,
        "by_defect": False,
        "warnings": (),
        "models": {"all": a_model()},
        "rows": {"mean": {"image_auroc": 0.5, "pixel_auroc": None}},
        "undefined": {},
        "provenance": schema.Provenance(**made, versions={"python": "3.11"}, hardware=hardware),
    }
    return schema.Record(**{**given, **changes})
