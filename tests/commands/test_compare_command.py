"""``ader compare`` and ``ader figure`` as they are typed."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from ader.__main__ import main
from ader.results import pixels
from ader.runs.sketching import sketch
from ader.testing.toy import write_mvtec
from tests.support.trees import a_run


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three methods, two datasets, two seeds."""
    root = tmp_path_factory.mktemp("results")
    for dataset in ("mvtec", "visa"):
        for method in ("rd", "invad", "cfa"):
            for seed in (1, 2):
                a_run(root, dataset, method, seed)
    return root


def said(capsys, *words):
    """What a command prints, with its status."""
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def runs(tree, *places):
    return [tree / "mvtec/multi_class" / place for place in places]


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_two_runs(tree, capsys):
    """The values are those of the scores; an interval lies around each difference of image metrics."""
    a, b = runs(tree, "rd/e100-s1", "invad/e100-s1")
    status, out, _ = said(capsys, "compare", a, b, "format=csv", "bootstrap=200")
    assert status == 0
    found = rows(out)
    assert [row["metric"] for row in found][:3] == ["image AUROC", "image AP", "image F1max"]
    scores = [pd.read_csv(run / "scores.csv") for run in (a, b)]
    aurocs = []
    for table in scores:
        per_category = []
        for _, group in table.groupby("category"):
            good, bad = (group.loc[group["label"] == label, "score"].to_numpy() for label in (0, 1))
            per_category.append((bad[:, None] > good).mean())
        aurocs.append(sum(per_category) / len(per_category))
    first = found[0]
    assert [float(first["A"]), float(first["B"])] == pytest.approx(aurocs)
    assert float(first["95 % from"]) < aurocs[1] - aurocs[0] < float(first["95 % to"])
    assert first["over"] == "60 images"
    assert found[3]["over"] == "too few categories (3)"
    assert found[3]["95 % from"] == ""


def with_pixels(run, seed):
    """Adds sketches of made-up maps of the run's images."""
    rng, table = np.random.default_rng(seed), pd.read_csv(run / "scores.csv")
    bad_N = table["label"].to_numpy() == 1
    masks = torch.zeros((len(table), 16, 16), dtype=torch.uint8)
    masks[bad_N, 2:7, 3:9] = 1
    maps = torch.from_numpy(rng.normal(size=masks.shape).astype(np.float32)) + masks * (1 + seed)
    made = zip(table["image"], sketch(maps, masks, [True] * len(table)), strict=True)
    (run / pixels.FILE).write_bytes(pixels.Sketches(dict(made)).content())


def test_pixel_metrics_over_images(tmp_path, capsys):
    """The values are the recorded ones; the width is that of drawn images. Without sketches in one run it is over
    categories."""
    a, b = (a_run(tmp_path, method=method, categories=tuple("cdefg")) for method in ("rd", "invad"))
    with_pixels(a, 0)
    line = ("compare", a, b, "metric=pixel_ap,mad,pixel_f1_02_08", "format=csv", "bootstrap=200")
    assert [row["over"] for row in rows(said(capsys, *line)[1])] == ["5 categories"] * 3
    with_pixels(b, 1)
    found = rows(said(capsys, *line)[1])
    assert [row["over"] for row in found] == ["100 images", "100 images", "5 categories"]
    recorded = [pd.read_csv(run / "metrics.csv", index_col=0)["pixel_ap"]["mean"] for run in (a, b)]
    assert [float(found[0][name]) for name in "AB"] == pytest.approx(recorded)
    ends = [float(found[0][f"95 % {end}"]) for end in ("from", "to")]
    assert ends[0] < recorded[1] - recorded[0] < ends[1]
    status, out, _ = said(capsys, "compare", a, b, "metric=pixel_aupro", "bootstrap=100")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[5:10]] == list("cdefg")
    assert "from sketches of each image's pixels" in out


def test_a_row_for_each_category_and_what_differs(tree, capsys):
    a, b = runs(tree, "rd/e100-s1", "rd/e100-s2")
    status, out, _ = said(capsys, "compare", a, b, "metric=image_ap", "bootstrap=100")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[5:8]] == ["bottle", "cable", "capsule"]
    assert "A and B differ in seed (1, 2)" in out
    assert "none corrected for their number (4)" in out


def test_the_same_line_prints_the_same(tree, capsys):
    words = ["compare", *runs(tree, "rd/e100-s1", "cfa/e100-s1"), "bootstrap=100"]
    assert said(capsys, *words) == said(capsys, *words)
    assert said(capsys, *words) != said(capsys, *words, "seed=1")


def test_cautions_of_the_runs(tmp_path, capsys):
    a = a_run(tmp_path, method="rd", pretrained=False)
    b = a_run(tmp_path, method="invad", metric="ader", data_hash="other")
    for run in (a, b):  # the same names of images, as made-up runs have them
        assert (run / "scores.csv").exists()
    _, out, _ = said(capsys, "compare", a, b, "bootstrap=100")
    assert "CAUTION A: wide_resnet50_2.tv_in1k is not pretrained" in out
    assert "CAUTION A is evaluated with metric=histogram, B with metric=ader" in out
    assert "CAUTION the runs' data differ" in out
    assert "A and B differ in method.name (rd, invad), method.backbone" not in out
    assert "A and B differ in method.name (rd, invad)" in out


@pytest.mark.parametrize(
    ("show", "heading"),
    [
        ("ranks", "Average ranks of 3 methods on 2 datasets: mAD"),
        ("seeds", "Stability over seeds: mAD (percent)"),
        ("datasets", "Pearson correlation between datasets, over 3 methods and 7 metrics"),
    ],
)
def test_many_runs(tree, capsys, show, heading):
    status, out, _ = said(capsys, "compare", f"show={show}", f"paths.results={tree}")
    assert status == 0
    assert out.startswith(heading)


def test_published_numbers(capsys):
    status, out, _ = said(
        capsys, "compare", "show=epochs", "published=ader", "where=dataset=mvtec method=rd", "format=csv"
    )
    assert status == 0
    (row,) = rows(out)
    assert [float(row[name]) for name in ("epochs 100", "epochs 300", "gain")] == pytest.approx([0.822, 0.81, -0.012])


def test_over_categories_of_one_dataset(tree, capsys):
    _, out, _ = said(capsys, "compare", f"paths.results={tree}", "where=dataset=mvtec", "alpha=0.1")
    assert "on 3 categories" in out
    assert "at the level 0.1" in out
    assert "CAUTION categories of one dataset are alike" in out


def test_the_trees_folder_comes_from_the_environment(tree, capsys, monkeypatch):
    monkeypatch.setenv("ADER_RESULTS", str(tree))
    assert said(capsys, "compare", "show=seeds")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "one"], "takes two runs or none"),
        (["compare", "a", "b", "show=seeds"], "show= is for many runs"),
        (["compare", "/none", "/nor"], "/none holds no finished run"),
        (["compare", "metrik=mad"], "ader compare has no metrik=: did you mean 'metric'"),
        (["compare", "metric=mad", "metric=mad"], "metric= stands twice"),
        (["compare", "show=rank"], "did you mean 'ranks'"),
        (["compare", "format=pdf"], "format=pdf is not known"),
        (["compare", "alpha=2"], "alpha=2 must be between 0 and 1"),
        (["compare", "metric=mad,image_ap"], "show=ranks takes one metric"),
        (["compare", "over=seeds", "published=ader"], "over=seeds is not known"),
        (["compare", "a", "b", "bootstrap=5"], "bootstrap=5 must be a whole number from 100 on"),
        (["compare", "paths.results=/none"], "there is no results tree at /none"),
        (["compare", "--config-dir", "x"], "leave --config-dir out"),
        (["figure", "rank"], "there is no figure 'rank': did you mean 'ranks'"),
        (["figure", "ranks", "seeds"], "takes one name, got ranks seeds"),
        (["figure", "ranks", "format=gif"], "'gif' is not known"),
        (["figure", "ranks", "format="], "format= is empty"),
        (["figure", "all", "metric=mad"], "metric= is of a single figure"),
        (["figure", "ranks", "paths.results=/none"], "there is no results tree at /none"),
        (["figure", "defects", "dataset=mvtec", "dataset.root=/none"], "/none"),
    ],
)
def test_refused(words, message, capsys):
    status, _, err = said(capsys, *words)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_cfg_prints_the_keys(capsys):
    status, out, _ = said(capsys, "compare", "metric=mad", "--cfg")
    assert status == 0
    assert 'metric: "mad"' in out.splitlines()


def test_figures_are_written_for_each_dataset(tree, capsys, tmp_path):
    status, out, _ = said(capsys, "figure", "categories", f"paths.results={tree}", f"out={tmp_path}", "metric=mad")
    assert status == 0
    names = [f"categories-{dataset}.{kind}" for dataset in ("mvtec", "visa") for kind in ("png", "svg")]
    assert out.split() == [str(tmp_path / name) for name in names]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    first = (tmp_path / names[0]).read_bytes()
    where = "where=dataset=mvtec"
    said(capsys, "figure", "categories", f"paths.results={tree}", f"out={tmp_path}", "metric=mad", where, "format=png")
    assert (tmp_path / names[0]).read_bytes() == first, "the same numbers, the same file"


def test_all_figures_that_can_be_made(tree, capsys):
    where = "where=dataset=mvtec seed=1 method!=cfa"
    status, out, _ = said(capsys, "figure", "all", f"paths.results={tree}", where, "format=svg")
    assert status == 0
    made = {file.name.partition("-")[0].partition(".")[0] for file in (tree / "figures").iterdir()}
    pixels = {"pixel_roc", "pixel_pr", "pro"}
    assert made == {"efficiency", "categories", "seeds", "roc", "pr", *pixels, "scores", "ranks"}
    told = [line.split()[2] for line in out.splitlines() if line.startswith("not made: ")]
    assert told == ["training:", "epochs:", "resolution:", "correlation:"]


def test_too_many_figures_at_once(tree, capsys, monkeypatch):
    monkeypatch.setattr("ader.commands.figure.MOST", 3)
    status, _, err = said(capsys, "figure", "scores", f"paths.results={tree}")
    assert status == 2
    assert "is made for each run, 12 of them" in err


def test_figure_of_a_dataset(capsys, tmp_path):
    write_mvtec(tmp_path / "toy", size=32)
    words = ["dataset=folder", f"dataset.root={tmp_path / 'toy'}", f"out={tmp_path}", f"paths.cache={tmp_path}"]
    status, out, _ = said(capsys, "figure", "defects", *words, "format=png")
    assert status == 0
    assert out.strip() == str(tmp_path / "defects-folder-toy.png")


def test_lists_of_figures(capsys):
    assert said(capsys, "figure")[1] == said(capsys, "list", "figures")[1]


def test_help_and_lists_are_light():
    """Neither torch nor pandas nor matplotlib for a help text or a list."""
    heavy = ("torch", "pandas", "matplotlib", "scipy")
    code = "import sys; from ader.__main__ import main"
    code += "; [main(words) for words in (['compare', '--help'], ['figure', '--help'], ['figure'])]"
    code += f"; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
