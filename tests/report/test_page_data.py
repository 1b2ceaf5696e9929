"""What the page knows of a tree, without a browser: values, groups, boards, curves, pictures, and hostile names."""

from __future__ import annotations

import html
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import auc, roc_curve

from ader.__main__ import main
from ader.metrics import SLUGS
from ader.report.collection import collect
from ader.report.page.curves import curves, read_curves, roc, thinned
from ader.report.page.data import details, embedded, overview
from ader.report.page.pictures import Pictures
from tests.support.galleries import a_gallery
from tests.support.trees import a_run, a_sweep

#: What would end a script or an element, begin one, or break a line of JavaScript.
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028&amp;'\"`${x}"


def both(root, folder=None):
    runs = collect(root)
    return overview(runs), details(runs, Pictures(folder or root / "page"))


def line_of(first, name):
    return next(run for run in first["runs"] if run["id"].startswith(name))


def test_values_are_those_of_the_record(tmp_path):
    a_run(tmp_path, "mvtec", "rd", 1, values={("bottle", "mad"): 1 / 3, ("cable", "pixel_aupro"): None})
    first, second = both(tmp_path)
    (line,), (detail,) = first["runs"], second["runs"]
    (run,) = collect(tmp_path)
    assert detail["rows"] == ["bottle", "cable", "capsule", "mean"]
    for row, name in enumerate(detail["rows"]):
        for place, slug in enumerate(SLUGS):
            value, shown = run.value(name, slug), detail["values"][row][place]
            assert shown == value or (shown is None and math.isnan(value))
    assert detail["values"][0][SLUGS.index("mad")] == 1 / 3
    assert line["mean"] == detail["values"][3]
    gaps = {(detail["rows"][row], SLUGS[place]): second["texts"][text] for row, place, text in detail["gaps"]}
    why = "undefined: pixel_aupro is undefined: no defective pixels"
    assert gaps == {("cable", "pixel_aupro"): why, ("mean", "pixel_aupro"): why}
    assert detail["why"] == [["no defective pixels", ["cable", "mean"]]]
    assert line["why"] == {"pixel_aupro": why}
    pixel = SLUGS.index("pixel_ap")
    assert [bounds[pixel] for bounds in detail["bounds"]] == [1e-5] * 4
    assert detail["bounds"][0][SLUGS.index("image_ap")] is None


def test_bounds_are_never_rounded_down(tmp_path):
    folder = a_run(tmp_path, categories=["bottle"])
    (folder / "bounds.csv").write_text(
        "category,pixel_ap,pixel_auroc,pixel_f1max\nbottle,0.00012301,0,\nmean,3e-5,1,2\n"
    )
    bounds = both(tmp_path)[1]["runs"][0]["bounds"]
    places = [SLUGS.index(slug) for slug in ("pixel_ap", "pixel_auroc", "pixel_f1max")]
    assert [[row[place] for place in places] for row in bounds] == [[0.00013, 0.0, None], [3e-5, 1.0, 2.0]]
    (folder / "bounds.csv").unlink()
    assert both(tmp_path)[1]["runs"][0]["bounds"] is None


def test_seeds_are_a_group_and_nothing_else_is(tmp_path):
    for seed in (1, 2, 3):
        a_run(tmp_path, "mvtec", "rd", seed)
    a_run(tmp_path, "mvtec", "rd", 1, epochs=300)
    a_run(tmp_path, "mvtec", "invad", 1)
    a_run(tmp_path, "visa", "rd", 1)
    a_run(tmp_path, "mvtec", "rd", 4, categories=["bottle"])
    a_run(tmp_path, "mvtec", "rd", 2, run="again")
    first, _ = both(tmp_path)
    groups: dict[int, list[str]] = {}
    for run in first["runs"]:
        groups.setdefault(run["group"], []).append(run["id"].partition("/")[0] + " " + run["id"].rpartition("/")[2])
    # the second run of seed 2 (in order of names, "again" is the first) would count twice in a mean
    assert sorted(map(sorted, groups.values())) == [
        ["mvtec again", "mvtec e100-s1", "mvtec e100-s3"],
        ["mvtec e100-s1"],
        ["mvtec e100-s2"],
        ["mvtec e100-s4"],
        ["mvtec e300-s1"],
        ["visa e100-s1"],
    ]


def test_boards_hold_what_is_comparable(tmp_path):
    changed = {"metric": {"size": 512, "map_interpolation": "bilinear", "mask_interpolation": "bilinear"}}
    a_run(tmp_path, "mvtec", "rd", 1)
    a_run(tmp_path, "mvtec", "invad", 2, epochs=300)
    a_run(tmp_path, "mvtec", "uniad", 1, metric="ader")
    a_run(tmp_path, "mvtec", "draem", 1, data_hash="corrected masks")
    a_run(tmp_path, "mvtec", "cflow", 1, categories=["bottle"])
    a_run(tmp_path, "mvtec", "vitad", 1, config={"seed": 1, "trainer": {"epochs": 100}, "image_size": 256, **changed})
    a_run(tmp_path, "mvtec", "segad", 1, setting="few_shot")
    first, _ = both(tmp_path)
    boards = {run["method"]: run["board"] for run in first["runs"]}
    assert boards.pop("rd") == boards.pop("invad")
    assert len(set(boards.values())) == 5
    notes = {first["boards"][board]["note"] for board in boards.values()}
    assert "metric=ader at 256 px, 3 categories" in notes
    assert "metric=histogram at 512 px, 3 categories" in notes
    assert "metric=histogram at 256 px, 1 category" in notes


def test_runs_without_a_result_say_why(tmp_path):
    a_run(tmp_path, "mvtec", "rd", 1)
    damaged = a_run(tmp_path, "mvtec", "rd", 2)
    (damaged / "record.json").write_text("{")
    a_sweep(tmp_path, {"visa/multi_class/cfa/e100-s1": "out of memory"})
    first, second = both(tmp_path)
    failed = line_of(first, "visa")
    assert (failed["state"], failed["reason"], failed["method"]) == ("failed", "memory: out of memory", "cfa")
    assert "is not valid JSON" in line_of(first, "mvtec/multi_class/rd/e100-s2")["reason"]
    assert [each is None for each in second["runs"]] == [False, True, True]


def test_names_that_look_alike_are_told_apart(tmp_path):
    """An escape code is spelled out, which a folder's name may be as well."""
    for name in ("a\x1b", "a\\x1b"):
        a_run(tmp_path, "mvtec", "rd", 1, run=name)
    ids = [run["id"] for run in both(tmp_path)[0]["runs"]]
    assert ids == ["mvtec/multi_class/rd/a\\x1b", "mvtec/multi_class/rd/a\\x1b~2"]


def test_cost_of_several_models(tmp_path):
    a_run(tmp_path / "x", seed=1)
    model = collect(tmp_path / "x")[0].record.models["all"]
    a_run(tmp_path / "y", seed=1, models={"a": model, "b": model})
    cost = both(tmp_path / "y")[0]["runs"][0]["cost"]
    assert cost["models"] == 2
    assert cost["params"] == model.network.params
    assert cost["train_seconds"] == 2 * model.training.stages["fit"].seconds
    assert cost["test_rate"] == pytest.approx(model.prediction.images / model.prediction.seconds)


# --- Curves


def test_roc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    label_N = rng.random(300) < 0.3
    score_N = np.round(rng.normal(size=300) + label_N, 1)  # many ties
    false_P, true_P, _ = roc_curve(label_N, score_N, drop_intermediate=False)
    np.testing.assert_allclose(roc(score_N, label_N), np.stack([false_P, true_P], axis=1))
    drawn = curves(score_N, label_N)
    points = np.array(drawn["roc"]).reshape(-1, 2) / 1000
    assert auc(points[:, 0], points[:, 1]) == pytest.approx(auc(false_P, true_P), abs=0.004)
    counts, _ = np.histogram(score_N[label_N], np.linspace(score_N.min(), score_N.max(), 25))
    assert drawn["bad"] == counts.tolist()
    assert sum(drawn["good"]) == (~label_N).sum()


def test_thinning_keeps_to_its_distance():
    rng = np.random.default_rng(1)
    points = np.stack([np.linspace(0, 1, 500), np.cumsum(rng.random(500))], axis=1)
    points[:, 1] /= points[-1, 1]
    kept = thinned(points, 0.01)
    assert 2 < len(kept) < 100
    off = np.abs(np.interp(points[:, 0], kept[:, 0], kept[:, 1]) - points[:, 1])
    assert off.max() < 0.01 * math.hypot(1, np.max(np.diff(kept[:, 1]) / np.diff(kept[:, 0]))) + 1e-9


def test_one_kind_of_image_has_no_roc():
    drawn = curves(np.array([1.0, 1.0]), np.array([True, True]))
    assert drawn["roc"] == []
    assert (sum(drawn["good"]), sum(drawn["bad"])) == (0, 2)


def test_scores_that_cannot_be_drawn(tmp_path):
    assert read_curves(tmp_path) == {}
    file = tmp_path / "scores.csv"
    file.write_text("image,category,defect,label,score\na,NA,x,1,0.5\nb,NA,good,0,0.25\nc,inf,good,0,inf\n")
    assert list(read_curves(tmp_path)) == ["NA"]
    for damage in ("", "image,category\n", "image,category,label,score\na,b,1,high\n", "a\0b"):
        file.write_text(damage)
        assert read_curves(tmp_path) == {}


# --- Pictures


def test_pictures_lie_beside_the_page(tmp_path):
    a_gallery(a_run(tmp_path, seed=1), entries=3)
    assert main(["report", f"paths.results={tmp_path}"]) == 0
    page = tmp_path / "report" / "index.html"
    entries = embedded_json(page.read_text(), "details")["runs"][0]["gallery"]["entries"]
    assert len(entries) == 3
    assert [entry["score"] for entry in entries] == [0, 0.25, 0.5]
    for number, entry in enumerate(entries):
        original = tmp_path / "mvtec/multi_class/rd/e100-s1/gallery" / f"{number:03}.webp"
        assert (page.parent / entry["src"]).read_bytes() == original.read_bytes()
    assert len(list((page.parent / "pictures").iterdir())) == 3


def test_pictures_of_an_earlier_page_go(tmp_path):
    a_gallery(a_run(tmp_path, seed=1), entries=2)
    second = a_gallery(a_run(tmp_path, seed=2), entries=2)
    page = tmp_path / "page"
    assert main(["report", f"paths.results={tmp_path}", f"out={page}"]) == 0
    (page / "pictures/mine.webp").write_text("another's")
    assert len(list((page / "pictures").iterdir())) == 5
    (second / "gallery.json").unlink()
    assert main(["report", f"paths.results={tmp_path}", f"out={page}"]) == 0
    left = {file.name for file in (page / "pictures").iterdir()}
    assert "mine.webp" in left
    assert len(left) == 3


def test_scores_of_a_gallery_may_be_missing(tmp_path):
    a_gallery(a_run(tmp_path, seed=1), entries=1, score=None)
    (entry,) = both(tmp_path)[1]["runs"][0]["gallery"]["entries"]
    assert entry["score"] is None


def test_inline_needs_nothing_beside_it(tmp_path):
    a_gallery(a_run(tmp_path, seed=1))
    assert main(["report", f"paths.results={tmp_path}", f"out={tmp_path / 'one.html'}", "inline=true"]) == 0
    entries = embedded_json((tmp_path / "one.html").read_text(), "details")["runs"][0]["gallery"]["entries"]
    assert all(entry["src"].startswith("data:image/webp;base64,") for entry in entries)
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("name", ["../../secret.webp", "/etc/hostname", "none.webp", "gallery.json", "..", ""])
def test_a_gallery_shows_only_its_own_pictures(tmp_path, name):
    run = a_run(tmp_path, seed=1)
    a_gallery(run, entries=1, file=name)
    (run.parent / "secret.webp").write_bytes((run / "gallery/000.webp").read_bytes())
    assert both(tmp_path)[1]["runs"][0]["gallery"]["entries"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2, "entries": []}', '{"schema": 1, "entries": [1]}'])
def test_a_damaged_gallery_says_so(tmp_path, text):
    run = a_run(tmp_path, seed=1)
    (a_gallery(run) / "gallery.json").write_text(text)
    shown = both(tmp_path)[1]["runs"][0]["gallery"]
    assert shown["entries"] == []
    assert "gallery.json" in shown["fault"]


# --- Figures


def test_figures_are_images_of_their_own(tmp_path):
    pytest.importorskip("ader.report.figures")
    for method in ("rd", "invad"):
        a_run(tmp_path, "mvtec", method, 1)
    sizes = []
    for word in ("figures=true", "figures=false"):
        assert main(["report", f"paths.results={tmp_path}", f"out={tmp_path / 'page.html'}", word]) == 0
        text = (tmp_path / "page.html").read_text()
        sizes.append(text.count('src="data:image/svg+xml;base64,'))
        assert "<svg" not in text.partition("<script>")[0]
    assert sizes[0] > 2
    assert sizes[1] == 0
    assert len(embedded_json(text, "details")["runs"][0]["figures"]) == 0


# --- Hostile names


def embedded_json(text, name):
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


class Elements(HTMLParser):
    """How often each element begins, and all addresses."""

    def __init__(self, text):
        super().__init__()
        self.found: dict[str, int] = {}
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found[tag] = self.found.get(tag, 0) + 1
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def hostile_tree(root):
    """Everything that can be named is named so; a folder's name has no slash."""
    folder = HOSTILE.replace("/", "%")
    run = a_run(root, folder, folder, 1, setting=folder, run=folder, categories=[HOSTILE, "b"], warnings=(HOSTILE,),
                data_root=HOSTILE, values={(HOSTILE, "pixel_ap"): None})  # fmt: skip
    a_gallery(run, entries=1, category=HOSTILE, defect=HOSTILE, image=HOSTILE)
    a_sweep(root, {f"{folder}/multi_class/cfa/e1": HOSTILE}, name="made_up")
    return run


def test_hostile_names_are_text(tmp_path):
    plain, hostile = tmp_path / "plain", tmp_path / f"tree {HOSTILE.replace('/', '%')}"
    a_gallery(a_run(plain, seed=1), entries=1)
    a_sweep(plain, {"visa/multi_class/cfa/e1": "x"})
    hostile_tree(hostile)
    texts = []
    for root in (plain, hostile):
        assert main(["report", f"paths.results={root}", f"out={root / 'page.html'}"]) == 0
        texts.append((root / "page.html").read_text(encoding="utf-8"))
    assert Elements(texts[0]).found == Elements(texts[1]).found
    assert Elements(texts[1]).handlers == []
    assert "\u2028" not in texts[1]
    assert "alert(2)>" not in texts[1]
    detail = embedded_json(texts[1], "details")["runs"][0]
    shown = HOSTILE.replace("\u2028", "\\u2028")  # spelled out, as everywhere
    assert detail["rows"][0] == detail["gallery"]["entries"][0]["category"] == detail["data_root"] == shown
    assert shown in detail["curves"]
    title = re.search("<title>(.*?)</title>", texts[1], re.DOTALL)
    assert title
    assert html.unescape(title[1]).startswith("Results of tree <%script><script>alert(1)")


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    a_run(tmp_path, seed=1)
    assert main(["report", f"paths.results={tmp_path}", f"out={tmp_path / 'page.html'}"]) == 0
    text = (tmp_path / "page.html").read_text()
    assert [each for each in Elements(text).addresses if each and not each.startswith(("#", "data:"))] == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)  # a name of XML, which is never fetched
    assert "default-src 'none'" in text


def test_embedded_json_has_no_markup():
    value = {"a": [HOSTILE, "\u2029", "\ud800 half", "ä", None, 0.1]}
    text = embedded(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded({"a": math.nan})


# --- The command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["paths.results={tmp}/none"], "there is no results tree at"),
        (["paths.results={tmp}/empty"], "there is no run in"),
        (["paths.results={tmp}/tree", "where=method=none"], "holds for none of 1 runs"),
        (["paths.results={tmp}/tree", "out={tmp}/file/page.html"], "is a file, not a folder"),
        (["paths.results={tmp}/tree", "out={tmp}/x.html"], "is a folder: give a file's name"),
        (["paths.results={tmp}/tree", "out="], "out= needs a path"),
        (["paths.results={tmp}/tree", "inline=yes"], "inline=yes is not known"),
        (["paths.results={tmp}/tree", "ot=x"], "got ot=x"),
        (["--cfg"], "composes no configuration"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, said):
    a_run(tmp_path / "tree")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.html").mkdir()
    (tmp_path / "file").write_text("")
    assert main(["report", *(word.format(tmp=tmp_path) for word in words)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_where_and_environment(tmp_path, capsys, monkeypatch):
    a_run(tmp_path, "mvtec", "rd", 1)
    a_run(tmp_path, "mvtec", "invad", 1)
    monkeypatch.setenv("ADER_RESULTS", str(tmp_path))
    assert main(["report", "where=method=rd"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/report/index.html  ")
    assert "1 finished run\n" in out
    runs = embedded_json((tmp_path / "report/index.html").read_text(), "data")["runs"]
    assert [run["method"] for run in runs] == ["rd"]
