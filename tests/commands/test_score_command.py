"""``ader score``: maps of any program against a dataset's masks."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from ader.__main__ import main
from ader.results.record import read_table
from ader.runs.score_maps import ahead
from tests.support.oracles import bilinear, brute_force_aupro, brute_force_max, f1, pixel_oracle
from tests.support.running import Bench

TABLES = ("metrics.csv", "bounds.csv", "counts.csv", "defects.csv", "scores.csv", "pixels.npz")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def maps(bench):
    """Random maps that know a little of the masks, each of its own size."""
    rng = np.random.default_rng(0)
    for number, image in enumerate(sorted(bench.data.glob("*/test/*/*.png"))):
        height, width = 20 + number, 25
        mask = mask_of(bench, image).resize((width, height), Image.Resampling.BILINEAR)
        map_HW = rng.normal(size=(height, width)) + np.asarray(mask) / 255
        file = bench.root / "maps" / image.parts[-4] / image.parent.name / f"{image.stem}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, map_HW.astype(np.float32))
    return bench.root / "maps"


def mask_of(bench, image):
    file = bench.data / image.parts[-4] / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    return Image.open(file) if file.exists() else Image.new("L", Image.open(image).size)


def score(bench, maps, *words, results="results"):
    own = ["dataset=folder", f"dataset.root={bench.data}", f"paths.results={bench.root / results}", "workers=2"]
    return main(["score", str(maps), *own, *words])


def the_folder(bench, results="results"):
    (file,) = (bench.root / results).rglob("record.json")
    return file.parent


def printed(out):
    """The table and what is said of it, without times."""
    lines = out[out.index("─ image ─") :].splitlines()
    return [line for line in lines if not line.startswith(("training", "reading", "written", "the scores of"))]


@pytest.mark.parametrize("words", [(), ("metric=exact", "metric.size=original"), ("metric=ader",)])
def test_the_maps_of_a_run_give_its_table(bench, capsys, words):
    assert bench.run("save_maps=true", "metric.by_defect=true", *words, results="run") == 0
    table = printed(capsys.readouterr().out)
    run = bench.folder("run")
    assert score(bench, run / "maps", "metric.by_defect=true", *words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert printed(captured.out) == table
    assert "the scores of 8 of 8 images are the largest values of their maps" in captured.out
    for name in TABLES:
        assert (the_folder(bench) / name).read_bytes() == (run / name).read_bytes()


def test_image_scores_of_a_run(bench, capsys):
    """PatchCore's are not its maps' maxima."""
    assert bench.run("save_maps=true", "image_size=64", method="patchcore", results="run") == 0
    run = bench.folder("run")
    assert score(bench, run / "maps", f"scores={run / 'scores.csv'}") == 0
    for name in ("metrics.csv", "counts.csv", "scores.csv"):
        assert (the_folder(bench) / name).read_bytes() == (run / name).read_bytes()
    assert "largest values of their maps" not in capsys.readouterr().out
    assert json.loads((the_folder(bench) / "record.json").read_text())["source"]["scores"]["rows"] == 8
    assert score(bench, run / "maps", "name=maxima") == 0
    assert len(list(bench.root.rglob("maxima"))) == 1


def write_scores(bench, file):
    """A CSV of made-up scores; labels and scores of the first category."""
    images = sorted(path.relative_to(bench.data) for path in bench.data.glob("*/test/*/*.png"))
    scores = [1.0, 3.0, 2.0, 4.0, *range(len(images) - 4)]
    rows = [f"{image},{value}\n" for image, value in zip(images, scores, strict=True)]
    file.write_text("image,score\n" + "".join(rows))
    return [image.parts[2] != "good" for image in images[:4]], scores[:4]


def test_a_file_of_scores_is_part_of_the_result(bench, maps, capsys):
    file = bench.root / "s.csv"
    labels, scores = write_scores(bench, file)
    assert score(bench, maps) == 0
    capsys.readouterr()
    assert score(bench, maps, f"scores={file}") == 2
    assert "holds a run with other data: scores changed since" in capsys.readouterr().err
    assert score(bench, maps, f"scores={file}", "run=given") == 0
    (table,) = bench.root.rglob("given/metrics.csv")
    assert read_table(table).loc["bottle", "image_auroc"] == pytest.approx(roc_auc_score(labels, scores))


def expected(bench, maps, category, size):
    """Maps and masks as the rule says, read again."""
    found = []
    for image in sorted(bench.data.glob(f"{category}/test/*/*.png")):
        map_HW = np.load(maps / category / image.parent.name / f"{image.stem}.npy")
        mask = mask_of(bench, image)
        if size == "original":
            map_HW = bilinear(map_HW, *mask.size[::-1])
        else:
            mask = mask.resize(map_HW.shape[::-1], Image.Resampling.BILINEAR)
        found.append((map_HW.astype(np.float32), np.asarray(mask) / 255 > 0.5))
    return found


@pytest.mark.parametrize("size", ["input", "original"])
def test_values(bench, maps, size):
    assert score(bench, maps, "metric=exact", f"metric.size={size}") == 0
    frame = read_table(the_folder(bench) / "metrics.csv")
    for category in ("bottle", "cable"):
        found = expected(bench, maps, category, size)
        scores, truth = (np.concatenate([part.ravel() for part in each]) for each in zip(*found, strict=True))
        row = frame.loc[category]
        assert row["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-5)
        assert row["pixel_ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-5)
        assert row["pixel_f1max"] == pytest.approx(brute_force_max(f1, scores, truth), abs=1e-5)
        tops = [np.load(file).max() for file in sorted(maps.glob(f"{category}/*/*.npy"))]
        labels = [file.parent.name != "good" for file in sorted(maps.glob(f"{category}/*/*.npy"))]
        assert row["image_auroc"] == pytest.approx(roc_auc_score(labels, tops), abs=1e-12)
        if size == "original":
            stacks = [np.stack(part) for part in zip(*found, strict=True)]
            assert row["pixel_aupro"] == pytest.approx(brute_force_aupro(*stacks), abs=1e-5)


def test_every_pixel_metric_at_one_size(bench, maps):
    assert score(bench, maps, "metric=exact", "metric.size=original", "dataset.categories=[cable]") == 0
    maps_NHW, masks_NHW = (np.stack(part) for part in zip(*expected(bench, maps, "cable", "original"), strict=True))
    row = read_table(the_folder(bench) / "metrics.csv").loc["cable"]
    for slug, value in pixel_oracle(maps_NHW, masks_NHW).items():
        assert row[slug] == pytest.approx(value, abs=1e-4), slug


def test_folders_and_records(bench, maps, capsys):
    assert score(bench, maps) == 0
    folder = the_folder(bench)
    assert folder.parts[-3:] == ("maps", "maps", "default")
    record = json.loads((folder / "record.json").read_text())
    assert record["source"]["kind"] == "folder"
    assert record["source"]["files"] == 8
    assert record["index_hash"]
    assert record["metric"] == "histogram"
    assert record["rows"].keys() == {"bottle", "cable", "mean"}
    assert record["choices"]["method"] == "maps"
    assert (
        yaml.safe_load((folder / "config.yaml").read_text())["fingerprint"]["contents"]["maps"]
        == record["source"]["sha256"]
    )
    assert "evaluate: 8/8 images" in (folder / "run.log").read_text()
    assert score(bench, maps, "name=mine", "metric=ader", "metric.size=64") == 0
    (mine,) = bench.root.rglob("mine/*/record.json")
    assert mine.parent.name == "metric=ader-metric.size=64"
    assert json.loads(mine.read_text())["title"].endswith("maps / mine / metric=ader-metric.size=64")
    assert "metric=ader  (percent)" in capsys.readouterr().out


def test_the_same_again(bench, maps, capsys):
    assert score(bench, maps) == 0
    table = printed(capsys.readouterr().out)
    record = the_folder(bench) / "record.json"
    stamp = record.stat().st_mtime_ns
    assert score(bench, maps) == 0
    out = capsys.readouterr().out
    assert "This result exists already" in out
    assert printed(out) == table
    assert record.stat().st_mtime_ns == stamp
    assert score(bench, maps, "metric.by_defect=true") == 0
    assert record.stat().st_mtime_ns > stamp
    assert len(read_table(record.parent / "defects.csv")) == 4
    file = maps / "cable" / "good" / "000.npy"
    np.save(file, np.load(file) + 1)
    assert score(bench, maps) == 2
    assert (
        "holds a run with other data: maps changed since (1 file, e.g. cable/good/000.npy)" in capsys.readouterr().err
    )
    assert score(bench, maps, "force=true") == 0
    assert not (record.parent / "defects.csv").exists()


def test_maps_without_an_image_are_told(bench, maps, capsys):
    np.save(maps / "cable" / "good" / "999.npy", np.zeros((4, 4)))
    assert score(bench, maps) == 0
    assert "1 maps belong to no test image (cable/good/999.npy)" in capsys.readouterr().out


def _nan(bench, maps):
    file = maps / "cable" / "hole" / "000.npy"
    map_HW = np.load(file)
    map_HW[3, 4] = np.nan
    np.save(file, map_HW)


def _nothing_but_nan(bench, maps):
    np.save(maps / "cable" / "hole" / "000.npy", np.full((40, 40), np.nan, np.float32))


def _truncate(bench, maps):
    file = maps / "cable" / "hole" / "000.npy"
    file.write_bytes(file.read_bytes()[:300])


def _lose(bench, maps):
    (maps / "cable" / "hole" / "000.npy").unlink()


def _spoil_mask(bench, maps):
    (bench.data / "cable" / "ground_truth" / "hole" / "000_mask.png").write_bytes(b"x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nan, "the map of image 'cable/test/hole/000.png' of category 'cable' is NaN"),
        (_nothing_but_nan, "the map of image 'cable/test/hole/000.png' of category 'cable' is NaN"),
        (_truncate, "cable/hole/000.npy is truncated, damaged"),
        (_lose, "lacks the map of 1 of 8 test images (cable/test/hole/000.png)"),
        (_spoil_mask, "000_mask.png is not an image that Pillow can read"),
    ],
)
@pytest.mark.parametrize("size", ["input", "original"])
def test_bad_data(bench, maps, capsys, damage, message, size):
    damage(bench, maps)
    assert score(bench, maps, f"metric.size={size}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (bench.root / "results").exists()


def test_an_error_leaves_the_old_result(bench, maps, capsys):
    assert score(bench, maps, "run=x") == 0
    folder = the_folder(bench)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.log"}
    _spoil_mask(bench, maps)
    assert score(bench, maps, "run=x", "metric.by_defect=true") == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.log"} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nme=x",), "nme=x: there is no key 'nme': did you mean 'name'"),
        (("method=rd",), "there is no key 'method'"),
        (("trainer.workers=1",), "there is no key 'trainer.workers'"),
        (("metric.sze=3",), "did you mean 'metric.size'"),
        (("metric=adr",), "did you mean 'ader'"),
        (("dataset=foldr",), "did you mean 'folder'"),
        (("dataset.categories=[botle]",), "did you mean 'bottle'"),
        (("name=a/b",), "name='a/b' is not a folder name"),
        (("run=..",), "run='..' is not a folder name"),
        (("device=tpu",), "error: device='tpu' does not fit"),
        (("device=cuda:99",), "device=cuda:99 is not there"),
        (("workers=-1",), "workers=-1 does not fit"),
        (("scores=/nope.csv",), "scores: /nope.csv cannot be read"),
        (("metric.name=foo",), "metric=foo does not exist"),
        (("paths.results=/dev/null/x",), "cannot be written"),
        (("+foo=1",), "there is no key foo"),
    ],
)
def test_bad_words(bench, maps, capsys, words, message):
    assert score(bench, maps, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (bench.root / "results").exists()


def test_no_maps(bench, capsys, tmp_path):
    for words in ([], ["dataset=demo"]):
        assert main(["score", *words]) == 2
        assert "the maps are not given: ader score MAPS dataset=NAME" in capsys.readouterr().err
    assert main(["score", str(tmp_path)]) == 2
    assert "dataset is not given: add dataset=NAME" in capsys.readouterr().err
    assert score(bench, tmp_path / "nope") == 2
    assert "does not exist" in capsys.readouterr().err


def test_scored_maps_are_no_run(bench, maps, capsys):
    assert score(bench, maps) == 0
    assert main(["eval", str(the_folder(bench))]) == 2
    assert "holds scored maps and no model: give ader score" in capsys.readouterr().err


def test_help_and_cfg(bench, maps, capsys):
    assert main(["score", "--help"]) == 0
    assert capsys.readouterr().out.startswith("ader score MAPS dataset=NAME")
    assert score(bench, maps, "--cfg", "metric=ader") == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["metric"]["name"] == "ader"
    assert "method" not in values
    assert not (bench.root / "results").exists()


def test_a_dataset_without_masks(bench, maps, capsys):
    for mask in bench.data.glob("*/ground_truth/*/*"):
        mask.unlink()
    assert score(bench, maps) == 0
    frame = read_table(the_folder(bench) / "metrics.csv")
    assert frame["image_auroc"].notna().all()
    assert frame["pixel_auroc"].isna().all()
    assert "'-': no pixel mask" in capsys.readouterr().out


def test_maps_are_read_ahead_but_not_all():
    started, gate = [], threading.Event()

    def slow(number):
        started.append(number)
        gate.wait(0.001)
        return -number

    with ThreadPoolExecutor(2) as pool:
        results = ahead(pool, slow, range(50), 5)
        assert next(results) == 0
        assert len(started) <= 6
        assert [0, *results] == [-number for number in range(50)]


def test_a_path_like_this_programs_own(bench, maps):
    odd = maps.rename(bench.root / "e2-s42-a=b,c~d")
    assert score(bench, odd) == 0
    file = odd / "s.csv"
    write_scores(bench, file)
    assert score(bench, odd, f"scores={file}", "name=x") == 0
