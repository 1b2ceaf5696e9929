"""Every example runs, and says the truth."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ader.metrics import Evaluator
from ader.testing.method_checks import method_checks
from tests.support.commands import Command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PACKAGE = EXAMPLES / "third_party_method"


def test_metrics_on_arrays(monkeypatch, capsys):
    """The table is scikit-learn's, as far as its bounds say."""
    seen: list[dict] = []
    update = Evaluator.update
    monkeypatch.setattr(Evaluator, "update", lambda self, **batch: (seen.append(batch), update(self, **batch)))
    evaluator = runpy.run_path(str(EXAMPLES / "metrics_on_arrays.py"))["main"]()
    frame, bounds = evaluator.compute(), evaluator.bounds()
    for category in ("bottle", "cable"):
        mine = [np.array(batch["category"]) == category for batch in seen]

        def of(key, mine=mine):
            return np.concatenate([batch[key][rows] for batch, rows in zip(seen, mine, strict=True)])

        assert frame.loc[category, "image_auroc"] == pytest.approx(roc_auc_score(of("label"), of("score")))
        for slug, reference in (("pixel_auroc", roc_auc_score), ("pixel_ap", average_precision_score)):
            expected = reference(of("mask").ravel(), of("map").ravel())
            assert abs(frame.loc[category, slug] - expected) <= bounds.loc[category, slug] + 1e-9
    printed = capsys.readouterr().out
    assert "pixel_aupro" in printed
    assert f"{100 * frame.loc['mean', 'mad']:.2f}" in printed


def test_from_python(tmp_path, monkeypatch, capsys):
    """The table that it returns is the scores'."""
    monkeypatch.setenv("ADER_CACHE", str(tmp_path / "cache"))
    frame = runpy.run_path(str(EXAMPLES / "from_python.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    (folder,) = (file.parent for file in (tmp_path / "results").rglob("record.json"))
    pd.testing.assert_frame_equal(frame, check_table(folder, printed))
    scores = pd.read_csv(folder / "scores.csv")
    assert printed.splitlines()[0].startswith("Index('demo', ")
    assert f"{scores['label'].sum()} defective test images" in printed
    assert "scores (2,) and maps (2, 64, 64)" in printed


def test_own_images(tmp_path, monkeypatch, capsys):
    """The printed table is the scores', and the printed command is the one that made it."""
    monkeypatch.setenv("ADER_CACHE", str(tmp_path / "cache"))
    assert runpy.run_path(str(EXAMPLES / "own_images.py"))["main"](tmp_path) == 0
    printed = capsys.readouterr().out
    assert f"ader dataset=folder dataset.root={tmp_path}/images method=patchcore" in printed
    (folder,) = (file.parent for file in (tmp_path / "results").rglob("record.json"))
    check_table(folder, printed)


def check_table(folder: Path, printed: str) -> pd.DataFrame:
    """The first number of each category's row in the first table is the image AUROC of its scores, in percent."""
    scores = pd.read_csv(folder / "scores.csv")
    frame = pd.read_csv(folder / "metrics.csv", index_col="category")
    for category, rows in scores.groupby("category"):
        expected = roc_auc_score(rows["label"], rows["score"])
        assert frame.loc[category, "image_auroc"] == pytest.approx(expected)
        first = re.search(rf"^{category} +([\d.]+) ", printed, re.MULTILINE)
        assert first
        assert float(first[1]) == pytest.approx(100 * expected, abs=0.051)
    return frame


@pytest.fixture
def installed(tmp_path):
    """An environment that has the example's package as pip would install it: metadata made from its pyproject."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")
    groups = [
        f"[{group}]\n" + "\n".join(f"{name} = {module}" for name, module in points.items())
        for group, points in project["entry-points"].items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    path = os.pathsep.join(map(str, (ROOT, PACKAGE, folder.parent)))
    return {**os.environ, "PYTHONPATH": path, "ADER_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def test_third_party_method_passes_its_own_test(installed):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(PACKAGE)]
    done = subprocess.run(command, cwd=ROOT, env=installed, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) == len(method_checks())


def first_on_path(places):
    """As Python starts with PYTHONPATH."""
    sys.path[:0] = places


def test_third_party_method_runs(installed, tmp_path):
    """On images whose defects are of another color, which is what it finds."""
    from ader.testing.toy import write_mvtec

    data = write_mvtec(tmp_path / "toy", ("bottle",), train=6, good=4, bad=4, size=64, defects=("hole",))
    words = ["method=color_gaussian", "dataset=folder", f"dataset.root={data}", f"paths.results={tmp_path / 'results'}"]
    words += ["image_size=64", "trainer.device=cpu", "trainer.workers=0"]
    places = installed["PYTHONPATH"].split(os.pathsep)
    done = Command(words, tmp_path, installed, before=first_on_path, arguments=(places,)).wait()
    assert done.status == 0, done.error
    (folder,) = (file.parent for file in (tmp_path / "results").rglob("record.json"))
    frame = check_table(folder, done.out)
    assert frame.loc["bottle", "image_auroc"] == 1
    assert frame.loc["bottle", "pixel_auroc"] > 0.95
