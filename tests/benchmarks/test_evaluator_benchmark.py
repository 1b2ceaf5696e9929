"""The evaluator's benchmark and stress test, at sizes that take a second: what they report, and one value checked
elsewhere; and the published figures, which they must still read."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from ader.report.renderers import markdown
from ader.report.tables import Table
from benchmarks.evaluator import __main__ as bench
from benchmarks.evaluator import comparing, measuring, stress, tables
from benchmarks.evaluator.data import DISTRIBUTIONS, Images

ROWS = ["ader", "ader-exact", "adeval-1000", "torchmetrics-exact", "copy-fresh", "copy-existing"]
STORED = Path(__file__).parents[2] / "results" / "bench"
SMALL = ["--images", "24", "--categories", "3", "--size", "64", "--repeats", "1"]


@pytest.fixture
def here(monkeypatch):
    """Measures in this process, without the competitors that only the benchmark's own environment has."""
    monkeypatch.setattr(comparing, "start_worker", measuring.answer)
    for name in ("adeval", "torchmetrics"):
        monkeypatch.setitem(sys.modules, name, None)


def draw(images, count):
    map_NHW = np.empty((count, images.size, images.size), np.float32)
    mask_NHW = np.empty(map_NHW.shape, np.uint8)
    images.draw(0, map_NHW, mask_NHW)
    return map_NHW, mask_NHW


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_images(distribution):
    images = Images(40, 4, distribution, size=64)
    map_NHW, mask_NHW = draw(images, 40)
    single, masks = np.empty((1, 64, 64), np.float32), np.empty((1, 64, 64), np.uint8)
    Images(40, 4, distribution, size=64).draw(17, single, masks)
    np.testing.assert_array_equal(single[0], map_NHW[17])
    np.testing.assert_array_equal(masks[0], mask_NHW[17])
    np.testing.assert_array_equal(mask_NHW.any(axis=(1, 2)), images.label_N == 1)
    regions = [label(mask, structure=np.ones((3, 3)))[1] for mask in mask_NHW]
    assert all((1 <= count <= 3) if bad else count == 0 for count, bad in zip(regions, images.label_N, strict=True))
    assert np.bincount(images.category_N).tolist() == [10] * 4
    assert len({each.tobytes() for each in map_NHW}) == 40
    assert np.isfinite(map_NHW).all()
    assert (map_NHW < 0).all() if distribution == "negative" else (map_NHW > 0).any()


def test_bench_reports_everything(here, tmp_path, capsys):
    file = tmp_path / "new" / "bench.json"
    words = [*SMALL, "--scale", "1", "2", "--only", *ROWS, "--json", str(file), "--markdown"]
    assert bench.main(words) == 0
    report = json.loads(file.read_text())
    assert {"command", "started", "options", "machine", "sizes"} <= report.keys()
    assert {"cpu", "cores", "memory_bytes", "versions", "commit"} <= report["machine"].keys()
    assert [size["images"] for size in report["sizes"]] == [24, 48]
    for size in report["sizes"]:
        assert list(size["rows"]) == ROWS
        assert all(difference < 1e-9 for difference in size["check"].values())
        ours, exact = size["rows"]["ader"], size["rows"]["ader-exact"]
        assert 0 < ours["error"] <= ours["bound"] < 1e-2
        assert (exact["error"], exact["bound"], ours["broken_bounds"]) == (0, 0, [])
        assert ours["pixels"] == size["images"] * 64 * 64
        assert ours["ns_per_pixel"] == pytest.approx(ours["seconds"] / ours["pixels"] * 1e9)
        assert ours["ratio_copy_fresh"] > 0
        assert not ours["extrapolated"]
        assert size["rows"]["adeval-1000"] == {"problem": 'not installed: pip install adeval==1.1.0 "numpy<2.4"'}
    printed = capsys.readouterr().out
    assert "ADEval, 1000 strips: not installed: pip install adeval==1.1.0" in printed
    assert "ns/pixel, 1x" in printed
    assert "ns/pixel, 2x" in printed


def test_exact_values_are_scikit_learns(here, tmp_path):
    file = tmp_path / "bench.json"
    bench.main([*SMALL, "--only", "copy-fresh", "--json", str(file)])
    size = json.loads(file.read_text())["sizes"][0]
    images = Images(24, 3, size=64)
    map_NHW, mask_NHW = draw(images, 24)
    for number, name in enumerate(images.names):
        mine = images.category_N == number
        expected = roc_auc_score(mask_NHW[mine].ravel(), map_NHW[mine].ravel())
        assert size["exact"][name]["pixel_auroc"] == pytest.approx(expected, abs=1e-12)


def test_too_slow_runs_on_a_part_and_says_so(here, capsys):
    assert bench.main([*SMALL, "--only", "ader", "--limit", "1e-9", "--markdown"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| ader"))
    assert line.count("~") == 5
    assert ">" in line


def test_slow_path_agrees_roughly(here):
    """It measures the same thing, at fewer thresholds."""
    pytest.importorskip("skimage")
    spec = measuring.Spec("sklearn-200", 8, 1, "smooth", 64, 0, 32, 1, 100.0, None)
    row = measuring.answer(spec)
    exact = measuring.answer(replace(spec, row="reference"))["values"]
    assert comparing.derive(row, exact)["error"] < 0.1


def test_broken_bounds_fail_the_run():
    row = {"seconds": 1.0, "pixels": 10, "bytes": 50, "copy_fresh_seconds": 1.0, "copy_existing_seconds": 1.0}
    row |= {"values": {"a": {"pixel_ap": 0.5}}, "bounds": {"a": {"pixel_ap": 0.1}}}
    good, bad = (comparing.derive(row, {"a": {"pixel_ap": exact}}) for exact in (0.59, 0.61))
    assert (good["broken_bounds"], bad["broken_bounds"]) == ([], ["pixel_ap of a"])
    check = {"pixel_ap": 0.0}
    assert comparing.sound({"check": check, "rows": {"ader": good, "adeval-50": {"problem": "not installed"}}})
    assert not comparing.sound({"check": check, "rows": {"ader": bad}})
    assert not comparing.sound({"check": {"pixel_ap": 1e-6}, "rows": {"ader": good}})


def test_stress(tmp_path, capsys):
    file = tmp_path / "new" / "stress.json"
    words = ["--images", "100", "--categories", "5", "--size", "64", "--json", str(file)]
    assert stress.main([*words, "--limit-gb", "1000"]) == 0
    result = json.loads(file.read_text())
    assert result["images"] == 100
    assert result["options"]["distribution"] == "smooth"
    assert 0 < result["rss_after_imports_bytes"] <= result["peak_rss_bytes"]
    assert result["state_bytes"] > 0
    images = Images(100, 5, size=64, share=stress.SHARE)
    map_NHW, mask_NHW = draw(images, 100)
    parts = [images.category_N == number for number in range(5)]
    expected = np.mean([roc_auc_score(mask_NHW[mine].ravel(), map_NHW[mine].ravel()) for mine in parts])
    assert result["mean"]["pixel_auroc"] == pytest.approx(expected, abs=result["largest_bound"])
    assert "100 of 100 images" in capsys.readouterr().out
    assert stress.main([*words, "--limit-gb", "0.001"]) == 1


@pytest.mark.parametrize("script", [bench, stress])
def test_too_few_images_are_refused(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--images", "7", "--categories", "4"])
    assert stop.value.code == 2
    assert "at least two for each of 4 categories" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["evaluator", "evaluator_all"])
def test_published_figures_are_read(file):
    sizes = json.loads((STORED / f"{file}.json").read_text())["sizes"]
    lines = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in tables.markdown_table(sizes).splitlines()}
    cells = lines["ader, all metrics and bounds"]
    for cell, size in zip(cells, sizes, strict=False):
        row = size["rows"]["ader"]
        assert float(cell) == pytest.approx(row["seconds"] / row["images"] / 256**2 * 1e9, rel=5e-3)
        assert comparing.sound(size)
        assert f"| {row['seconds']:.3g} |" in " ".join(tables.terminal_table(size).split())
    rival = sizes[0]["rows"]["adeval-1000"]
    ratio = sizes[0]["rows"]["ader"]["seconds"] / rival["seconds"] * rival["images"] / sizes[0]["images"]
    assert float(cells[len(sizes)]) == pytest.approx(ratio, rel=5e-3)


def test_published_stress_is_read():
    result = json.loads((STORED / "stress.json").read_text())
    first, second, _ = stress.summary(result, result["options"]["limit_gb"])
    pace = 115_000 / (result["update_seconds"] + result["compute_seconds"])
    assert f" {pace:,.0f} images/s" in first
    assert f"peak {result['peak_rss_bytes'] / 10**9:.2f} GB, limit 1.5 GB" in second


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0, "0"), (0.00012345, "0.000123"), (0.0996, "0.0996"), (12.345, "12.3"), (-4321.5, "-4,322")],
)
def test_three_digits(value, shown):
    assert tables.number(value) == shown


def test_markdown_lines_up():
    assert markdown(Table.of_figures(["", "s"], [["a row", "1"], ["b", "1,234"]])).splitlines() == [
        "|       |     s |",
        "| ----- | ----: |",
        "| a row |     1 |",
        "| b     | 1,234 |",
    ]
