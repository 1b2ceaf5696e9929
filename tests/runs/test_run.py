"""Whole runs: settings, maps, the evaluation's place, kinds of evaluation, training curves, the printed table."""

from __future__ import annotations

import json
import os
import pty
import select
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import ader.runs.run
from ader.results.record import read_table
from ader.training.loader import Loader
from tests.support.commands import Command
from tests.support.running import Bench, assert_same_result, terminate


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_a_run_and_the_same_again(bench, capsys):
    assert bench.run() == 0
    first = capsys.readouterr()
    folder = bench.folder()
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.csv")}
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "done"
    assert record["rows"].keys() == {"bottle", "cable", "mean"}
    stages = record["models"]["all"]["training"]["stages"]
    assert {name: stage["images"] for name, stage in stages.items()} == {
        "statistics": 10,
        "first": 16,
        "bank": 10,
        "second": 16,
    }
    assert bench.run() == 0
    second = capsys.readouterr()
    assert "This result exists already" in second.out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.csv")} == stamps
    table = first.out[first.out.index("─ image ─") : first.out.index("pixel metrics")]
    assert table in second.out
    log = (folder / "run.log").read_text()
    assert all(line in log for line in table.splitlines())
    assert first.err == second.err == ""


def test_the_table_fits_80_columns(bench, capsys):
    (bench.data / "bottle").rename(bench.data / ("b" * 60))
    assert bench.run() == 0
    out = capsys.readouterr().out
    lines = out[out.index("─ image ─") : out.index("pixel metrics")].splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in lines[0] + lines[1]
    assert lines[1].split() == ["category", "AUROC", "AP", "F1max", "AUROC", "AP", "F1max", "AUPRO", "mAD"]


def test_undefined_is_a_dash(bench, capsys):
    for image in (bench.data / "cable" / "test" / "good").iterdir():
        image.unlink()
    assert bench.run() == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("cable"))
    assert row.split()[1:4] == ["-", "-", "-"]
    assert "the mean is over fewer than the 2 categories for: image_auroc 1, " in out
    frame = read_table(bench.folder() / "metrics.csv")
    assert np.isnan(frame.loc["cable", "image_auroc"])
    text = (bench.folder() / "metrics.csv").read_text()
    assert text.startswith("category,")
    assert "nan" not in text


def test_evaluation_happens_once_and_last(bench, monkeypatch):
    calls = []
    test = Loader.test
    monkeypatch.setattr(Loader, "test", lambda self, *given: calls.append("test") or test(self, *given))
    bench.hook("second", 4, lambda: calls.append("last step"))
    assert bench.run() == 0
    assert calls == ["last step", "test"]


def test_single_class_resumes_at_the_next_category(bench):
    words = ("setting=single_class",)
    assert bench.run(*words, results="whole") == 0
    bench.hook("collect", 6, terminate)  # of the second category: 4 batches each
    assert bench.run(*words) == 1
    folder = bench.folder()
    done = folder / "parts" / "bottle" / "evaluation.pt"
    stamp = done.stat().st_mtime_ns
    assert not (folder / "parts" / "cable" / "evaluation.pt").exists()
    bench.unhook()
    assert bench.run(*words) == 0
    assert done.stat().st_mtime_ns == stamp
    assert_same_result(bench.folder("whole"), folder)
    assert list(read_table(folder / "metrics.csv").index) == ["bottle", "cable", "mean"]
    assert len(list(folder.glob("parts/*/tb/events*"))) >= 2


def test_maps_are_added_to_a_finished_run_without_training(bench, capsys):
    assert bench.run() == 0
    bench.hook("first", 1, terminate)  # would stop a training
    assert bench.run("save_maps=true") == 0
    assert "training done before" in capsys.readouterr().out
    maps = sorted(str(path.relative_to(bench.folder() / "maps")) for path in bench.folder().glob("maps/*/*/*"))
    assert maps[:4] == ["bottle/good/000.npy", "bottle/good/001.npy", "bottle/hole/000.npy", "bottle/scratch/000.npy"]
    assert len(maps) == 8
    first = np.load(bench.folder() / "maps" / maps[0])
    assert first.shape == (32, 32)
    assert first.dtype == np.float32
    stamp = (bench.folder() / "maps" / maps[0]).stat().st_mtime_ns
    assert bench.run("save_maps=true") == bench.run() == 0
    assert (bench.folder() / "maps" / maps[0]).stat().st_mtime_ns == stamp


def test_force_makes_it_again(bench):
    assert bench.run() == 0
    stamp = (bench.folder() / "checkpoint.pt").stat().st_mtime_ns
    assert bench.run("force=true") == 0
    assert (bench.folder() / "checkpoint.pt").stat().st_mtime_ns > stamp


def test_exact_agrees_with_histogram_within_its_bounds(bench):
    assert bench.run(results="histogram") == bench.run("metric=exact", results="exact") == 0
    tables = {name: read_table(bench.folder(name) / "metrics.csv") for name in ("histogram", "exact")}
    bounds = read_table(bench.folder("histogram") / "bounds.csv")
    off = (tables["histogram"] - tables["exact"]).abs()
    assert (off.fillna(0) <= bounds.fillna(0) + 1e-12).all().all()
    assert tables["exact"].notna().equals(tables["histogram"].notna())


def test_max_steps_caps_each_descent_and_its_schedule(bench):
    assert bench.run("trainer.max_steps=3") == 0
    record = json.loads((bench.folder() / "record.json").read_text())
    assert record["models"]["all"]["training"]["stages"]["first"]["images"] == 12
    scalars = _scalars(bench.folder() / "tb")
    rates = [event.value for event in scalars.Scalars("second/lr_head")]
    assert rates == pytest.approx([0.01, 0.01 * (1 - 1 / 6), 0.01 * (1 - 2 / 6)])


def _scalars(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_training_curves_survive_an_interruption(bench):
    bench.hook("second", 3, terminate)
    assert bench.run("trainer.checkpoint_minutes=9") == 1
    bench.unhook()
    assert bench.run() == 0
    scalars = _scalars(bench.folder() / "tb")
    assert [event.step for event in scalars.Scalars("first/fit")] == [1, 2, 3, 4]
    assert [event.step for event in scalars.Scalars("second/restore")] == [5, 6, 7, 8]
    assert {"first/pull", "first/lr_net", "first/lr_scale", "second/epoch"} <= set(scalars.Tags()["scalars"])


def test_curves_after_a_crash_have_each_step_once(bench):
    def fail():
        raise OSError("gone")

    bench.hook("second", 3, fail)
    assert bench.run() == 1
    bench.unhook()
    assert bench.run() == 0
    steps = [event.step for event in _scalars(bench.folder() / "tb").Scalars("second/restore")]
    assert steps == [5, 6, 7, 8]


def test_bf16_runs(bench):
    assert bench.run("trainer.precision=bf16", "image_size=64", method="rd") == 0
    assert read_table(bench.folder() / "metrics.csv")["pixel_auroc"].notna().all()


def test_odd_but_legitimate_images_run(bench):
    good = bench.data / "bottle" / "train" / "good"
    picture = Image.open(good / "000.png").convert("RGB")
    Image.fromarray(np.asarray(picture)[..., 0].astype(np.uint16) * 257).save(good / "016.png")
    picture.quantize(16).save(good / "palette.png")
    picture.convert("CMYK").save(good / "cmyk.jpg")
    picture.convert("RGBA").save(good / "alpha.png")
    picture.convert("L").save(good / "gray.png")
    assert bench.run() == 0


def test_lines_where_there_is_no_terminal(bench, capsys):
    assert bench.run() == 0
    out = capsys.readouterr().out
    assert "second: 4/4 steps" in out
    assert "restore " in out
    assert "images/s" in out
    assert "\x1b" not in out


def test_a_bar_on_a_terminal(bench):
    main, other = pty.openpty()
    bench.monkeypatch.delenv("NO_COLOR", raising=False)
    sizes = {"TERM": "xterm", "COLUMNS": "100"}
    command = Command(bench.words("trainer.epochs=20"), bench.root, sizes, terminal=os.ttyname(other))
    while command.lives and not select.select([main], [], [], 0.01)[0]:  # until it holds the other end
        pass
    os.close(other)
    shown = b""
    try:
        while part := os.read(main, 65536):
            shown += part
    except OSError:  # the other end was closed
        pass
    os.close(main)
    assert command.wait().status == 0
    assert "━" in shown.decode()
    assert "40/40" in shown.decode()
    assert "steps  restore" not in shown.decode()


def test_an_evaluation_agrees_with_the_maps_on_disk(bench):
    """End to end: the table is what an evaluation of the saved maps gives."""
    from sklearn.metrics import roc_auc_score

    assert bench.run("save_maps=true") == 0
    pairs = []
    for path in sorted((bench.folder() / "maps" / "cable").glob("*/*.npy")):
        mask = bench.data / "cable" / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        truth = np.asarray(Image.open(mask).resize((32, 32), Image.Resampling.BILINEAR)) >= 128 if mask.exists() else 0
        pairs.append((np.load(path), np.broadcast_to(truth, (32, 32))))
    scores, truths = (np.stack(part).ravel() for part in zip(*pairs, strict=True))
    frame: pd.DataFrame = read_table(bench.folder() / "metrics.csv")
    assert frame.loc["cable", "pixel_auroc"] == pytest.approx(roc_auc_score(truths, scores), abs=1e-4)
    assert ader.runs.run.run.__doc__
