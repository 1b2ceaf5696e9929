"""Figures: what is drawn is what the runs say; nothing is cut off; the same numbers give the same file."""

from __future__ import annotations

import re
import shutil
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image
from scipy.integrate import trapezoid
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from ader.data.load import load_index
from ader.metrics.curves import Bins
from ader.published import read as published
from ader.report.collection import collect
from ader.report.figures import FIGURES, curves, divide, find, svg
from ader.report.figures._style import MARKERS, PALETTE, look, new_figure, render, styled
from ader.report.figures.curves import GRID, _precision, _roc
from ader.report.figures.defects import measure
from ader.report.figures.training import read_scalars
from ader.system.errors import UserError
from ader.training.loggers.tensorboard import TensorBoardWriter
from tests.support.trees import a_run

#: Names as data may have them: long, with signs that mean something to matplotlib or a page, empty.
ODD = (
    "bottle",
    "a_category_with_a_really_long_name_that_goes_on_and_on",
    "$x_2$ <b>&",
    "_hidden",
    "\x1b[31m\nred",
    "%d",
)

#: Those that are made of runs of one tree.
OF_RUNS = [name for name, figure in FIGURES.items() if figure.scope != "index"]


def tree(root, methods=3, seeds=(1, 2), categories=ODD, datasets=("mvtec", "visa"), epochs=(100,)):
    for dataset in datasets:
        for number in range(methods):
            method = f"m{number}" if number else "a_method_whose_name_is_too_long_for_any_figure_$of_ours$"
            for seed in seeds:
                for length in epochs:
                    values = {(categories[0], "image_auroc"): None} if number == 1 else None
                    a_run(root, dataset, method, seed, categories=categories, epochs=length, values=values)
    return collect(root)


def with_curves(runs):
    """Adds event files."""
    for run in runs:
        writer = TensorBoardWriter(run.folder / "tb")
        for step in range(1, 8):
            for tag, value in (("fit/mse", 100.0 / step**2), ("fit/lr_all", 1e-3), ("fit/epoch", step / 7)):
                writer.add(tag, value, step)
        writer.close()


def options_of(name):
    return {"metric": "image_auroc"} if name == "categories" else {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three methods on two datasets, two seeds, two lengths of training, two sizes of images."""
    root = tmp_path_factory.mktemp("tree")
    found = tree(root, epochs=(100, 300))
    with_curves(found[:1])
    record = found[0].record
    for size in (320, 512):
        a_run(root, "sizes", "rd", config={**record.config, "image_size": size}, run=f"s{size}")
    return collect(root)


@pytest.mark.parametrize("name", OF_RUNS)
def test_nothing_is_cut_off(name, runs):
    """Every text lies inside its figure, and none of the axes' labels on another."""
    figure = find(name)
    made = None
    for _, part in divide(figure, runs):
        if len({run.place[0] for run in part} & {"sizes"}) != (name == "resolution") and figure.scope != "tree":
            continue
        if figure.scope == "tree":
            part = [run for run in part if run.place[0] != "sizes" and run.keys["epochs"] == 100]
        made = figure.make(part, **options_of(name))
        break
    assert made is not None
    assert faults(made) == []


def faults(figure):
    """Texts that are not wholly inside the figure, and pairs that lie on each other; in words."""
    with styled():
        figure.canvas.draw()
    renderer, frame = figure.canvas.get_renderer(), figure.bbox
    outside = beyond_the_axes(figure)
    texts = [
        each for each in figure.findobj(Text) if each.get_text() and each.get_visible() and id(each) not in outside
    ]
    assert texts
    boxes = [text.get_window_extent(renderer) for text in texts]
    found = [
        f"{text.get_text()!r} is cut off"
        for text, box in zip(texts, boxes, strict=True)
        if min(box.x0 - frame.x0, frame.x1 - box.x1, box.y0 - frame.y0, frame.y1 - box.y1) < -1
    ]
    for (one, its), (other, others) in combinations(zip(texts, boxes, strict=True), 2):
        width = min(its.x1, others.x1) - max(its.x0, others.x0)
        height = min(its.y1, others.y1) - max(its.y0, others.y0)
        if min(width, height) > 1.5:
            found.append(f"{one.get_text()!r} lies on {other.get_text()!r}")
    return found


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    """As many methods on one dataset."""
    return tree(tmp_path_factory.mktemp("thirty"), 30, (1,), datasets=("mvtec",))


@pytest.mark.parametrize("name", ["efficiency", "categories", "seeds", "ranks"])
def test_thirty_methods(name, thirty):
    made = find(name).make(thirty, **({"metric": "pixel_ap"} if name == "ranks" else options_of(name)))
    assert faults(made) == []


@pytest.mark.parametrize("name", ["efficiency", "categories", "seeds", "roc", "pr", "scores"])
def test_one_method(name, thirty):
    assert faults(find(name).make(thirty[:1], **options_of(name))) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficiency", {"published": "ader", "where": "dataset=real_iad"}),
        ("efficiency", {"published": "ader", "size": "macs"}),
        ("epochs", {"published": "ader", "where": "dataset=mvtec"}),
        ("ranks", {"published": "ader", "where": "table=3,4,5 epochs=100 method!=patchcore,uniad,realnet"}),
        ("correlation", {"published": "ader", "metric": "image_auroc"}),
        ("categories", {"published": "invad", "where": "table=A11,A12,A13"}),
    ],
)
def test_published_numbers(name, options):
    assert faults(find(name).make([], **options)) == []


def test_planted_faults_are_found():
    figure = new_figure(2, 1, layout=None)
    figure.text(0.9, 0.5, "a long text")
    figure.text(0.1, 0.1, "one")
    figure.text(0.12, 0.1, "other")
    assert faults(figure) == ["'a long text' is cut off", "'one' lies on 'other'"]


def beyond_the_axes(figure):
    """Labels of ticks outside of the axes' limits, which are not drawn, and those of hidden axes."""
    found = set()
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            shown = axes.axison and axes.get_visible() and axis.get_visible()
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not shown or not min(limits) <= tick.get_loc() <= max(limits):
                    found |= {id(tick.label1), id(tick.label2)}
    return found


def test_svg_is_text_that_a_page_can_hold_and_the_same_each_time(runs):
    part = [run for run in runs if run.place[0] == "mvtec" and run.keys["epochs"] == 100]
    text = svg("categories", part)
    assert text == svg("categories", part)
    root = ElementTree.fromstring(text.replace("xlink:href", "href"))
    shown = ["".join(each.itertext()).strip() for each in root.iter() if each.tag.endswith("text")]
    assert "$x_2$ <b>&" in shown
    assert "\\x1b[31m red" in shown
    assert root.attrib["aria-label"] == FIGURES["categories"].title
    assert "<script" not in text
    assert "Date" not in text


def test_two_pictures_on_a_page_share_no_names(runs):
    part = [run for run in runs if run.place[0] == "mvtec"]
    texts = [svg("seeds", part), svg("seeds", part, metric="image_ap"), svg("roc", part[:1])]
    names = [set(re.findall(r' id="([^"]+)"', text)) for text in texts]
    used = [set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) for text in texts]
    assert names == used
    assert all(names)
    assert not names[0] & names[1]
    assert not names[0] & names[2]


def test_a_png_is_as_wide_as_a_column(runs, tmp_path):
    part = [run for run in runs if run.place[0] == "mvtec" and run.keys["epochs"] == 100]
    (tmp_path / "x.png").write_bytes(render(find("seeds").make(part), "png"))
    assert Image.open(tmp_path / "x.png").width == pytest.approx(3.4 * 200, abs=1)


def test_the_users_own_settings_change_nothing(runs):
    import matplotlib

    part = [run for run in runs if run.place[0] == "mvtec"]
    before = svg("seeds", part)
    with matplotlib.rc_context({"font.size": 30, "text.parse_math": True, "axes.facecolor": "red"}):
        assert svg("seeds", part) == before


def test_no_two_of_many_methods_look_alike():
    looks = [tuple(look(place).values()) for place in range(len(PALETTE) * len(MARKERS))]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("efficiency", {"metric": "madd"}, "did you mean 'mad'"),
        ("efficiency", {"metrik": "mad"}, "has no metrik=: did you mean 'metric'"),
        ("efficiency", {"size": "x"}, "size=x is not known"),
        ("efficiency", {}, "of one dataset, and there are 3"),
        ("roc", {}, "curves are of one dataset"),
        ("scores", {}, "of one finished run, and there are"),
        ("training", {}, "of one run, and there are"),
        ("ranks", {"over": "x"}, "over=x is not known"),
        ("ranks", {"alpha": "x"}, "alpha=x must be a number"),
        ("defects", {}, "ader figure defects dataset=NAME"),
        ("efficiency", {"published": "invad"}, "published=ader has"),
        ("efficiency", {"published": "ader", "where": "dataset=btad"}, "dataset=visa"),
    ],
)
def test_refused(runs, name, options, message):
    with pytest.raises(UserError, match=message):
        find(name).make(runs, **options)


def test_no_runs():
    for name in OF_RUNS:
        with pytest.raises(UserError):
            find(name).make([])


def test_unknown_figure():
    with pytest.raises(UserError, match="did you mean 'ranks'"):
        find("rank")


def test_too_many_curves(tmp_path):
    found = tree(tmp_path, methods=15, seeds=(1,), categories=("a",), datasets=("mvtec",))
    with pytest.raises(UserError, match="15 curves cannot be told apart"):
        find("roc").make(found)


def test_curves_are_scikit_learns():
    rng = np.random.default_rng(0)
    label_N = np.arange(60) < 25
    score_N = np.round(rng.normal(label_N, 1), 1)
    bins = Bins.from_scores(score_N, label_N)
    fpr, tpr, _ = roc_curve(label_N, score_N, drop_intermediate=False)
    expected = [np.interp(x, fpr, tpr) if x not in fpr else tpr[fpr == x].max() for x in GRID]
    assert _roc(bins) == pytest.approx(expected, abs=1e-9)
    assert trapezoid(_roc(bins), GRID) == pytest.approx(roc_auc_score(label_N, score_N), abs=2e-3)
    precision, recall, _ = precision_recall_curve(label_N, score_N)
    expected = [precision[recall >= x - 1e-12][-1] if x > 0 else precision[recall > 0][-1] for x in GRID]
    assert _precision(bins) == pytest.approx(expected, abs=1e-9)
    assert np.mean(_precision(bins)) == pytest.approx(average_precision_score(label_N, score_N), abs=3e-3)


def test_efficiency_of_published_numbers_is_what_is_printed():
    """Each method with a time has a marker at its hours and its mAD, both as printed."""
    made = find("efficiency").make([], published="ader")
    shown = {tuple(np.round(each.get_offsets()[0], 6)) for each in made.axes[0].collections}
    hours = published("ader_efficiency").set_index("method")["mvtec_train_hours"]
    mads = (
        published("ader")
        .query("dataset == 'mvtec' and epochs == '100' and metric == 'mad'")
        .set_index("method")["value"]
    )
    expected = {(float(hours[name]), round(mads[name] / 100, 6)) for name in mads.index}
    assert shown == expected
    assert (0.8, 0.822) in shown, "RD: 0.8 hours, mAD 82.2"


def test_efficiency_of_runs(tmp_path):
    run = a_run(tmp_path, values={(name, "mad"): 0.75 for name in ("bottle", "cable", "capsule")})
    (found,) = collect(tmp_path)
    assert found.folder == run
    made = find("efficiency").make([found])
    (marker,) = made.axes[0].collections
    seconds = found.record.models["all"].training.stages["fit"].seconds
    assert list(marker.get_offsets()[0]) == pytest.approx([seconds / 3600, 0.75])


def test_histograms_show_unseen_defects_apart(tmp_path):
    """Kinds that training lacks, where it has defects at all: by its list, or as asked for."""
    folder = a_run(tmp_path, categories=("vad",), images=8)
    scores = pd.read_csv(folder / "scores.csv")
    scores.loc[scores["label"] == 1, "defect"] = ["bad"] * 5 + ["bad_unseen_defects"] * 3
    scores.to_csv(folder / "scores.csv", index=False)
    runs = collect(tmp_path)
    legend = [text.get_text() for text in find("scores").make(runs).legends[0].texts]
    assert legend == ["normal", "defective"]
    (folder / "training.csv").write_text("image,category,split,defect,label\na,vad,train,good,0\nb,vad,train,bad,1\n")
    made = find("scores").make(runs)
    assert [text.get_text() for text in made.legends[0].texts][-1] == "unseen defects"
    filled, seen, unseen = made.axes[0].patches
    for patch, kind in ((filled, "good"), (seen, "bad"), (unseen, "bad_unseen_defects")):
        values, edges, _ = patch.get_data()
        part = scores.loc[scores["defect"] == kind, "score"]
        assert values == pytest.approx(100 * np.histogram(part, edges)[0] / len(part))
        assert values.sum() == pytest.approx(100)
    asked = find("scores").make(runs, unseen="bad")
    assert len(asked.axes[0].patches) == 3
    with pytest.raises(UserError, match="the test has no 'none': it has bad, bad_unseen_defects"):
        find("scores").make(runs, unseen="none")


def test_training_curves_of_a_resumed_run(tmp_path):
    """What was written twice counts once, as TensorBoard has it."""
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2, 3):
        writer.add("fit/mse", float(step), step)
    writer.close()
    again = TensorBoardWriter(tmp_path)
    for step in (3, 4):
        again.add("fit/mse", 10.0 * step, step)
    again.close()
    step, value = read_scalars(tmp_path)["fit/mse"]
    assert list(step) == [1, 2, 3, 4]
    assert list(value) == [1, 2, 30, 40]
    assert read_scalars(tmp_path / "none") == {}


def test_defects_are_those_of_the_masks(tmp_path):
    """By hand: two regions on a quarter of one image, a single pixel on another; one mask is empty."""
    root = tmp_path / "data" / "thing"
    for folder in ("train/good", "test/good", "test/hole", "ground_truth/hole"):
        (root / folder).mkdir(parents=True)
    gray = Image.new("RGB", (16, 16), (90, 90, 90))
    for name in ("train/good/0", "test/good/0", "test/hole/0", "test/hole/1"):
        gray.save(root / f"{name}.png")
    first, second = np.zeros((2, 16, 16), np.uint8)
    first[:8, :4], first[:8, 12:], second[5, 5] = 255, 255, 255
    Image.fromarray(first).save(root / "ground_truth/hole/0_mask.png")
    Image.fromarray(second).save(root / "ground_truth/hole/1_mask.png")
    index = load_index("folder", tmp_path / "data")
    found = measure(index)
    assert sorted(found.share_N) == [1 / 256, 0.25]
    assert sorted(found.regions_N) == [1, 2]
    assert found.place_HW[0, 0] == 0.5
    assert found.place_HW[63, 63] == 0
    assert (found.images["thing"], found.normal["thing"]) == (2, 1)
    made = find("defects").make([], index=index)
    assert "median" in made.axes[0].get_title(loc="left")
    shutil.rmtree(root / "ground_truth")
    with pytest.raises(UserError):
        measure(index.where(lambda sample: sample.label == 0))


def test_pixel_curves_are_the_evaluators(tmp_path):
    """Heights between the points of ``curves.csv``, in closed form: tpr = fpr ** 0.3, pro = fpr ** 0.5."""
    folder = a_run(tmp_path, "mvtec", "rd", categories=["x"])
    (run,) = collect(tmp_path)
    for name, kind, wanted in (
        ("pixel_roc", curves.PIXEL_ROC, lambda x: x**0.3),
        ("pro", curves.PRO, lambda x: x**0.5),
    ):
        found = kind.curve(run, "")["x"]
        for x in (0.05, 0.1, 0.25):
            assert np.interp(x, kind.x, found) == pytest.approx(wanted(x), abs=1e-3)
        FIGURES[name].make([run])
    assert curves.PRO.x[-1] == pytest.approx(0.3)
    precision = np.interp(0.5, GRID, curves.PIXEL_PR.curve(run, "x")["x"])
    assert precision == pytest.approx(1 - 0.9 * 0.5 ** (1 / 0.3), abs=5e-3)
    (folder / "curves.csv").unlink()
    with pytest.raises(UserError, match="keeps no pixel curves"):
        FIGURES["pro"].make([run])
