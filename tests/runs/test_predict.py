"""``ader predict`` and ``ader.load``: a user's own images scored as a run scores its test images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from PIL import Image
from sklearn.metrics import f1_score

import ader
from ader.__main__ import main
from ader.data.pictures import find_pictures
from ader.runs import painting
from ader.runs.thresholds import LargestValues, f1_max_threshold
from ader.system.errors import UserError
from tests.support.running import Bench, terminate


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two categories, with its maps; tests copy it before they change it."""
    with pytest.MonkeyPatch.context() as patch:
        bench = Bench(tmp_path_factory.mktemp("finished"), patch)
        assert bench.run("save_maps=true", method="patchcore") == 0
        yield bench


@pytest.fixture
def bench(finished, tmp_path, monkeypatch):
    """The finished run as one's own."""
    monkeypatch.setenv("ADER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.root / "results", tmp_path / "results")
    finished.here = tmp_path / "results" / finished.folder().relative_to(finished.root / "results")
    return finished


def run(bench, *words, out="out"):
    return main(["predict", str(bench.here), *map(str, words), "--out", str(out)])


def scores(out="out"):
    return pd.read_csv(Path(out) / "scores.csv", keep_default_na=False).set_index("image")


def facts(out="out"):
    return json.loads((Path(out) / "predict.json").read_text())


def files(folder):
    """All but what can be made again."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.parts[0] != "cache"}


def refused(bench, capsys, message, *words, out="out"):
    before = files(".")
    capsys.readouterr()
    assert run(bench, *words, out=out) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert files(".") == before


# --- What is written


def test_scores_and_maps_are_the_runs_own(bench):
    """The run's test images, given as anybody's, get the scores and the maps that the run gave them, bit for bit."""
    assert run(bench, bench.data, "category=folder", "maps=true", "trainer.test_batch_size=8") == 0
    known = pd.read_csv(bench.here / "scores.csv").set_index("image")
    found = scores()
    assert len(found) == 2 * (5 + 4) + 4  # all images below the folder: masks are some, too
    for name, row in known.iterrows():
        assert found.loc[name, "score"] == pytest.approx(row["score"], rel=1e-5)
        assert found.loc[name, "category"] == row["category"]
        mine = np.load(Path("out/maps") / Path(name).with_suffix(".npy"))
        assert mine.dtype == np.float32
        kept = bench.here / "maps" / row["category"] / row["defect"] / f"{Path(name).stem}.npy"
        assert np.allclose(mine, np.load(kept), rtol=1e-4, atol=1e-5)


def test_verdicts_follow_from_normal_training_images(bench, capsys):
    train = sorted((bench.data / "cable" / "train" / "good").iterdir())
    assert run(bench, bench.data / "cable" / "test", "category=cable", "quantile=0.7", "pixel_quantile=0.9") == 0
    said = capsys.readouterr().out
    assert "0.7 quantile of the scores of 5 normal training images, which the model has learned from" in said
    seen = ader.load(bench.here).predict(train)
    expected = np.quantile(seen.score_N, 0.7, method="inverted_cdf")
    found = scores()
    assert found["threshold"].tolist() == pytest.approx([expected] * 4, rel=1e-5)
    assert ((found["score"] > expected) == (found["verdict"] == "anomalous")).all()
    assert found["threshold_is"].str.contains("normal training images").all()
    known = facts()["categories"]["cable"]
    pixel = np.quantile(seen.map_NHW, 0.9, method="inverted_cdf")
    assert known["pixel_threshold"]["value"] == pytest.approx(pixel, rel=1e-4)
    lowest = float(seen.map_NHW.min())
    assert known["scale"] == pytest.approx([lowest, 2 * pixel - lowest], rel=1e-3, abs=1e-5)


def test_normal_images_are_looked_at_once(bench, capsys, monkeypatch):
    images = bench.data / "cable" / "test"
    assert run(bench, images, "category=cable") == 0
    assert "normal images of cable: 5/5" in capsys.readouterr().out
    first = facts()["categories"]
    assert run(bench, images, "category=cable") == 0
    assert "normal images of cable: 5/5" not in capsys.readouterr().out
    assert facts()["categories"] == first
    assert run(bench, images, "category=cable", "quantile=0.5") == 0
    assert "normal images of cable: 5/5" in capsys.readouterr().out
    entries = json.loads((bench.here / "thresholds.json").read_text())["entries"]
    assert {entry["of"]["quantile"] for entry in entries.values()} == {0.99, 0.5}
    assert all(entry["provenance"]["versions"]["torch"] for entry in entries.values())
    moved = shutil.copytree(bench.data, Path("moved"))
    Image.new("RGB", (40, 40)).save(moved / "cable/train/good/000.png")
    assert run(bench, images, "category=cable", f"dataset.root={moved}") == 0
    assert "normal images of cable: 5/5" in capsys.readouterr().out
    (bench.here / "thresholds.json").write_text("{")
    assert run(bench, images, "category=cable") == 0
    assert facts()["categories"] == first


def test_the_test_sets_threshold_is_named_as_that(bench, capsys):
    assert run(bench, bench.data / "cable" / "test", "category=cable", "threshold=f1max") == 0
    assert "4 test images: the test set was looked at" in capsys.readouterr().out
    known, found = pd.read_csv(bench.here / "scores.csv").set_index("image"), scores()
    known = known[known["category"] == "cable"]
    called = (found["verdict"] == "anomalous").to_numpy()
    label = known.loc[[f"cable/test/{name}" for name in found.index], "label"]
    tried = [f1_score(label, known.loc[label.index, "score"] >= level) for level in known["score"]]
    assert f1_score(label, called) == pytest.approx(max(tried))
    assert not Path("out/mask").exists()
    assert facts()["categories"]["cable"]["scale_is"] == "lowest and highest pixel of the category's images here"


def test_pictures_are_of_the_images_own_size_and_one_scale(bench):
    Path("mine").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (50, 31)), ("b.jpg", (32, 32))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(Path("mine") / name)
    assert run(bench, "mine", "category=cable", "maps=true", "threshold=3", "pixel_threshold=0.5") == 0
    known = facts()
    low, high = known["categories"]["cable"]["scale"]
    maps = {name: np.load(f"out/maps/{name}.npy") for name in ("a", "b")}
    assert (low, high) == (min(m.min() for m in maps.values()), max(m.max() for m in maps.values()))
    for name, size in (("a", (50, 31)), ("b", (32, 32))):
        for kind in ("heat", "overlay", "mask"):
            assert Image.open(f"out/{kind}/{name}.png").size == size
    colors = colormaps["inferno"]((maps["b"] - low) / (high - low))[..., :3] * 255  # 32 pixels is the model's size
    assert np.abs(np.asarray(Image.open("out/heat/b.png"), float) - colors).max() <= 5
    assert np.array_equal(np.asarray(Image.open("out/mask/b.png")) == 255, maps["b"] > 0.5)
    assert set(scores()["threshold"]) == {3.0}
    assert set(known["files"]) == {path.relative_to("out").as_posix() for path in files("out")} - {"predict.json"}
    assert known["images_per_second"] == pytest.approx(2 / known["seconds"])


def test_without_thresholds_no_category_is_needed(bench):
    assert run(bench, bench.data / "cable" / "test", "threshold=none") == 0
    found = scores()
    assert set(found["verdict"]) == set(found["category"]) == set(found["threshold"]) == {""}
    assert not Path("out/mask").exists()


def test_names_that_differ_in_their_ending_alone(tmp_path):
    for name in ("a.png", "a.jpg", "b/c.png", "b/c.png.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_pictures([tmp_path, tmp_path / "a.png"], tmp_path / "out")
    assert found.names == ("a.jpg", "a.png", "b/c.png", "b/c.png.png")
    assert [Path(name).name for name in found.left_out] == ["notes.txt"]
    assert found.outputs() == {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "b/c.png": "b/c",
        "b/c.png.png": "b/c.png.png",
    }
    assert find_pictures([tmp_path], tmp_path / "b").names == ("a.jpg", "a.png")
    (tmp_path / "a\nb.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot hold"):
        find_pictures([tmp_path], tmp_path / "out")


# --- What is refused


def test_one_bad_image_and_nothing_is_written(bench, capsys):
    images = shutil.copytree(bench.data / "cable" / "test" / "good", Path("mine"))
    assert run(bench, images, "category=cable") == 0
    whole = (images / "000.png").read_bytes()
    for content, message in ((whole[:200], "truncated or damaged"), (b"", "is empty"), (b"text", "is not an image")):
        (images / "001.png").write_bytes(content)
        refused(bench, capsys, message, images, "category=cable")
        refused(bench, capsys, message, images, "category=cable", out="new/out")
    assert not Path("new").exists()
    assert not list(Path().glob(".*tmp"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{data}",), "has thresholds for each category: give category=NAME (bottle, cable)"),
        (("{data}", "category=cabel"), "category=cabel is not one of the run's: did you mean 'cable'"),
        (("nowhere", "category=cable"), "nowhere does not exist: give images"),
        ((".", "category=cable", "threshold=none"), "has no images in it"),
        (("category=cable",), "no images are given"),
        (("{test}", "category=cable", "threshold=f1"), "threshold=f1 is not known: give normal, f1max, a number, or"),
        (("{test}", "category=cable", "threshold=nan"), "threshold=nan is not known"),
        (("{test}", "category=cable", "quantile=1.5"), "quantile=1.5 does not fit"),
        (("{test}", "category=cable", "maps=yes"), "maps=yes is not known"),
        (("{test}", "category=cable", "metric=ader"), "ader predict takes out, category, threshold"),
        (("{test}", "category=cable", "dataset.root=/nope"), "are not at /nope"),
        (("{test}/good/000.png", "category=folder", "--oout=x"), "is not a flag: did you mean '--out'"),
        (("{elsewhere}", "category=folder"), "is in no folder with the name of a category (bottle, cable)"),
    ],
)
def test_refusals(bench, capsys, words, message):
    if "{elsewhere}" in words:
        Path("elsewhere").mkdir()
        Image.new("RGB", (8, 8)).save("elsewhere/a.png")
    if "." in words:
        shutil.move("results", "../moved")
        bench.here = Path("../moved") / bench.here.relative_to(Path("results").absolute())
    places = {"data": bench.data, "test": bench.data / "cable/test", "elsewhere": "elsewhere"}
    refused(bench, capsys, message, *(word.format(**places) for word in words))


def test_a_folder_that_is_not_its_own(bench, capsys):
    images = bench.data / "cable" / "test" / "good"
    Path("out").mkdir()
    assert run(bench, images, "category=cable") == 0  # an empty one
    assert run(bench, images / "000.png", "category=cable") == 0
    assert len(scores()) == len(list(Path("out/heat").iterdir())) == 1  # replaced, nothing left
    Path("out/notes.txt").write_text("mine")
    refused(bench, capsys, "out holds what ader predict did not write (notes.txt)", images, "category=cable")
    refused(bench, capsys, "holds what ader predict did not write", images, "category=cable", out=bench.here)
    refused(bench, capsys, "is not a folder", images, "category=cable", out="out/notes.txt")
    assert main(["predict", str(bench.here), str(images), "category=cable"]) == 2
    assert "where to write is not given" in capsys.readouterr().err


def test_another_checkpoint(bench, capsys):
    file = bench.here / "checkpoint.pt"
    file.write_bytes(file.read_bytes() + b"x")
    refused(bench, capsys, "is not the checkpoint that the record knows", bench.data / "cable/test", "category=cable")


def test_a_signal_leaves_nothing(tmp_path, monkeypatch, capsys):
    bench = Bench(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert bench.run() == 0
    bench.here = bench.folder()
    bench.hook("predict", 1, terminate)
    assert run(bench, bench.data / "cable/test", "category=cable") == 1
    assert "stopped by SIGTERM while predicting: nothing was written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))) == []


def test_a_model_for_each_category(tmp_path, monkeypatch, capsys):
    bench = Bench(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert bench.run("setting=single_class") == 0
    bench.here = bench.folder()
    refused(bench, capsys, "has a model for each category: give category=NAME", bench.data, "threshold=none")
    with pytest.raises(UserError, match="has a model for each category"):
        ader.load(bench.here).predict(bench.data / "cable/test/good/000.png")
    assert run(bench, bench.data / "cable", bench.data / "bottle", "category=folder", "threshold=none") == 0
    known, found = pd.read_csv(bench.here / "scores.csv").set_index("image"), scores()
    for name, score in known["score"].items():
        assert found.loc[name, "score"] == pytest.approx(score, rel=1e-5)
    assert len(facts()["checkpoints"]) == 2


def test_a_method_without_maps(tmp_path, monkeypatch, capsys):
    import made_up

    bench = Bench(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    from ader.methods import Prediction, Tags

    predict = made_up.MadeUp.predict
    monkeypatch.setattr(made_up.MadeUp, "tags", Tags(maps=False))
    monkeypatch.setattr(made_up.MadeUp, "predict", lambda self, image: Prediction(predict(self, image).score_B))
    assert bench.run() == 0
    bench.here = bench.folder()
    images = bench.data / "cable" / "test"
    assert run(bench, images, "category=cable") == 0
    assert "made_up gives no maps: there will be scores, and no pictures" in capsys.readouterr().out
    assert {path.name for path in Path("out").iterdir()} == {"scores.csv", "predict.json"}
    refused(bench, capsys, "made_up gives no maps", images, "category=cable", "pixel_threshold=1")


# --- From Python


def test_files_arrays_and_pillow_images_score_alike(bench):
    paths = sorted((bench.data / "cable" / "test" / "good").iterdir())
    predictor = ader.load(bench.here, batch_size=1)
    assert predictor.categories == ("bottle", "cable")
    assert predictor.image_size == 32
    found = predictor.predict(paths)
    assert found.images == tuple(map(str, paths))
    assert found.score_N.dtype == found.map_NHW.dtype == np.float32
    assert found.map_NHW.shape == (2, 32, 32)
    pictures = [Image.open(path) for path in paths]
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    for given in (pictures, arrays, list(arrays), (path for path in paths)):
        again = predictor.predict(given)
        assert np.array_equal(again.score_N, found.score_N)
        assert np.array_equal(again.map_NHW, found.map_NHW)
    assert np.array_equal(predictor.predict(arrays[0]).score_N, found.score_N[:1])
    assert np.array_equal(predictor.predict(str(paths[0])).score_N, found.score_N[:1])
    gray = arrays[0][..., 0]
    assert np.array_equal(predictor.predict(gray).score_N, predictor.predict(np.stack([gray] * 3, -1)).score_N)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8, 3)), "image 0 is an array of float64 and shape"),
        (np.zeros((8, 8, 4), np.uint8), r"give uint8 of shape \(H, W, 3\)"),
        ([3], "image 0 is a int: give a path"),
        (Image.new("F", (8, 8)), "image 0 has mode F"),
        ([], "no images are given"),
        ("nowhere.png", "nowhere.png does not exist"),
    ],
)
def test_what_is_no_image(bench, given, message):
    with pytest.raises(UserError, match=message):
        ader.load(bench.here).predict(given)


def test_loading_leaves_the_random_stream_alone(bench):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    ader.load(bench.here).method()
    assert torch.rand(()) == expected


# --- Thresholds


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("total", [1, 7, 1000])
def test_quantiles_of_parts_are_numpys(share, total):
    values = np.random.default_rng(total).integers(0, 50, total).astype(np.float32)  # with ties
    largest = LargestValues(total, share)
    for part in np.array_split(values, 5):
        largest.add(part)
    assert largest.quantile() == np.quantile(values, share, method="inverted_cdf")
    assert len(largest.values) <= max(1, round((1 - share) * total) + 1)


@pytest.mark.parametrize("seed", range(20))
def test_the_f1_max_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, 30)
    label[0] = 1
    score = (rng.integers(0, 12, 30) / 8 + 0.4 * label).astype(np.float32)  # with ties
    value, f1 = f1_max_threshold(score, label)
    tried = {level: f1_score(label, score >= level) for level in score}
    assert f1 == pytest.approx(max(tried.values()))
    assert f1_score(label, score > value) == pytest.approx(f1)
    assert (score > value).sum() == min(
        (score >= level).sum() for level in tried if tried[level] == max(tried.values())
    )
    assert np.abs(score - value).min() > 0


def test_a_flat_map_is_painted(tmp_path):
    flat = np.full((4, 5), 2.0, np.float32)
    assert (painting.heat(flat, (2.0, 2.0)) == painting.heat(flat, (2.0, 3.0))).all()
    image = np.full((4, 5, 3), 90, np.uint8)
    assert (painting.overlay(image, flat, (2.0, 3.0), flat > 3) == 90).all()  # nothing over what is normal
    marked = painting.overlay(image, flat, (0.0, 3.0), np.pad(np.ones((2, 3), bool), 1))
    assert (marked[1, 1] == painting.OUTLINE).all()
    assert (marked[0, 0] != painting.OUTLINE).any()
