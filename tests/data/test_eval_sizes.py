"""Evaluation sizes, rows per defect and object columns: values against independent computations from saved maps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

import ader.runs.observe
import ader.runs.plan
from ader.data import load_index
from ader.data.reading import read_index
from ader.data.sizes import Sizes
from ader.methods._base import Tags
from ader.metrics import Evaluator
from ader.results.record import read_table
from ader.runs.observe import observe
from ader.training.loader import Loader
from tests.support.oracles import bilinear, brute_force_aupro, brute_force_max, f1
from tests.support.running import Bench, terminate

EDGES = [(40, 40), (27, 33), (36, 21)]  # heights and widths of the test images, in turn


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def mixed(bench):
    """Test images of three sizes, their masks cut alike."""
    for number, file in enumerate(sorted(bench.data.glob("*/test/*/*.png"))):
        height, width = EDGES[number % 3]
        for path in (file, _mask_file(bench.data, file)):
            if path.exists():
                array = np.array(Image.open(path))[:height, :width]
                if path is not file and not array.any():
                    array[2:9, 3:8] = 255
                Image.fromarray(array).save(path)
    return bench


def _mask_file(data: Path, image: Path) -> Path:
    return data / image.parts[-4] / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"


def nearest(values, height, width):
    """ADEval's and OpenCV's rule."""
    rows = [row * values.shape[0] // height for row in range(height)]
    columns = [column * values.shape[1] // width for column in range(width)]
    return np.array([[values[row, column] for column in columns] for row in rows])


def cut(mask, height, width):
    """ADer's rule."""
    image = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image) / 255 > 0.5


def original(map_HW, mask_HW):
    return bilinear(map_HW, *mask_HW.shape), mask_HW


CASES = {
    ("metric.size=original",): original,
    ("metric.size=original", "metric.map_interpolation=nearest"): lambda m, k: (nearest(m, *k.shape), k),
    ("metric.size=48",): lambda m, k: (bilinear(m, 48, 48), cut(k, 48, 48)),
    ("metric.size=20", "metric.mask_interpolation=nearest"): lambda m, k: (bilinear(m, 20, 20), nearest(k, 20, 20)),
    ("metric.mask_interpolation=nearest",): lambda m, k: (m, nearest(k, *m.shape)),
    (): lambda m, k: (m, cut(k, *m.shape)),
}


def pairs(bench, fit, category, defect="*"):
    """Maps and masks of a category as the independent ``fit`` brings them to one size."""
    found = []
    for file in sorted(bench.data.glob(f"{category}/test/*/*.png")):
        if defect in ("*", file.parent.name) or file.parent.name == "good":
            map_HW = np.load(bench.folder() / "maps" / category / file.parent.name / f"{file.stem}.npy")
            mask = _mask_file(bench.data, file)
            size = Image.open(file).size[::-1]
            mask_HW = np.asarray(Image.open(mask)) > 0 if mask.exists() else np.zeros(size, bool)
            found.append(fit(map_HW, mask_HW))
    return found


@pytest.mark.parametrize("words", CASES, ids=[" ".join(words) or "default" for words in CASES])
def test_values(mixed, capsys, words):
    assert mixed.run("save_maps=true", "metric=exact", *words) == 0
    frame = read_table(mixed.folder() / "metrics.csv")
    for category in ("bottle", "cable"):
        found = pairs(mixed, CASES[words], category)
        scores = np.concatenate([map_HW.ravel() for map_HW, _ in found]).astype(np.float32)
        truth = np.concatenate([mask_HW.ravel() for _, mask_HW in found])
        row = frame.loc[category]
        assert row["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
        assert row["pixel_ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-4)
        assert row["pixel_f1max"] == pytest.approx(brute_force_max(f1, scores, truth), abs=1e-4)
    counts = read_table(mixed.folder() / "counts.csv")
    assert counts.loc["cable", "defective_pixels"] == truth.sum()
    assert counts.loc["cable", "normal_pixels"] == (~truth).sum()
    out = capsys.readouterr().out
    assert ("are resized to" in out) == bool(words)
    record = json.loads((mixed.folder() / "record.json").read_text())
    assert {"size", "map_interpolation", "mask_interpolation"} < record["config"]["metric"].keys()
    assert np.load(next(mixed.folder().glob("maps/*/*/*.npy"))).shape == (32, 32)


def test_aupro_at_the_original_size(bench):
    """All images of one size: the region metric as well."""
    assert bench.run("save_maps=true", "metric=exact", "metric.size=original") == 0
    maps, masks = map(np.stack, zip(*pairs(bench, original, "bottle"), strict=True))
    expected = brute_force_aupro(maps.astype(np.float32), masks)
    assert read_table(bench.folder() / "metrics.csv").loc["bottle", "pixel_aupro"] == pytest.approx(expected, abs=1e-4)


def test_the_default_is_the_input_size(bench):
    words = ("metric.size=input", "metric.map_interpolation=bilinear", "metric.mask_interpolation=bilinear")
    assert bench.run(results="one") == bench.run(*words, results="two") == 0
    assert bench.folder("one").name == bench.folder("two").name
    for name in ("metrics", "bounds", "counts", "scores"):
        assert (bench.folder("one") / f"{name}.csv").read_bytes() == (bench.folder("two") / f"{name}.csv").read_bytes()


def test_workers_and_mixed_sizes(mixed):
    words = ("metric.size=original", "trainer.test_batch_size=5")
    assert mixed.run(*words, results="one") == mixed.run(*words, "trainer.workers=2", results="two") == 0
    assert (mixed.folder("one") / "metrics.csv").read_bytes() == (mixed.folder("two") / "metrics.csv").read_bytes()


def _updates(monkeypatch):
    sizes = []
    update = Evaluator.update

    def spy(self, **given):
        sizes.append(tuple(given["mask"].shape))
        update(self, **given)

    monkeypatch.setattr(Evaluator, "update", spy)
    return sizes


def test_one_update_per_batch_unless_sizes_differ(mixed, monkeypatch):
    seen = _updates(monkeypatch)
    assert mixed.run("trainer.test_batch_size=4") == 0
    assert seen == [(4, 32, 32), (4, 32, 32)]
    seen.clear()
    assert mixed.run("trainer.test_batch_size=4", "metric.size=original") == 0
    assert [shape[1:] for shape in seen] == [EDGES[number % 3] for number in range(8)]


def test_large_images_come_in_portions(monkeypatch):
    seen = _updates(monkeypatch)
    monkeypatch.setattr(ader.runs.observe, "PIXELS", 200)
    samples = [dataclasses.replace(s, label=0, masks=()) for s in _samples(5)]
    zeros = torch.zeros(5, 8, 10)
    observe(Evaluator(["a"]), Sizes(), samples, torch.arange(5.0), zeros, zeros.byte())
    assert seen == [(2, 8, 10), (2, 8, 10), (1, 8, 10)]


def _samples(count):
    from ader.data.index import Sample

    return [Sample(f"{number}.png", "a", "test", 0) for number in range(count)]


def test_an_image_without_a_mask_has_its_own_size(mixed):
    (mixed.data / "cable" / "ground_truth" / "hole" / "000_mask.png").unlink()
    loader = Loader(load_index("folder", mixed.data), 32, torch.device("cpu"), 0, 0, Tags())
    sizes = {
        sample.image: tuple(mask_HW.shape)
        for samples, _, masks, _ in loader.test(3, Sizes("original"))
        for sample, mask_HW in zip(samples, masks, strict=True)
    }
    assert len(sizes) == 8
    for image, size in sizes.items():
        assert size == Image.open(mixed.data / image).size[::-1]
    assert mixed.run("metric.size=original") == 0
    assert read_table(mixed.folder() / "counts.csv").loc["cable", "pixel_images"] == 3


def test_a_dataset_without_masks(bench, capsys):
    for mask in bench.data.glob("*/ground_truth/*/*"):
        mask.unlink()
    assert bench.run("metric.size=original", "metric.by_defect=true") == 0
    frame = read_table(bench.folder() / "metrics.csv")
    assert frame["pixel_auroc"].isna().all()
    assert frame["image_auroc"].notna().all()
    said = capsys.readouterr().out
    assert said.count("'-': ") == said.count("'-': no pixel mask (bottle, cable)") == 1
    assert "certified" not in said


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("metric.size=orginal", "metric.size='orginal' does not fit: input should be 'input' or 'original'"),
        ("metric.size=0", "metric.size=0 does not fit"),
        ("metric.size=true", "metric.size=True does not fit"),
        ("metric.map_interpolation=cubic", "input should be 'bilinear' or 'nearest'"),
        ("metric.mask_interpolation=area", "input should be 'bilinear' or 'nearest'"),
        ("metric.by_defect=some", "metric.by_defect='some' does not fit"),
        ("metric.name=adr", "metric=adr does not exist: did you mean 'ader'?"),
        ("metric.sise=input", "did you mean 'metric.size'"),
        ("~metric.size", "metric.size has no value"),
    ],
)
def test_bad_input(bench, capsys, word, message):
    assert bench.run(word) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (bench.root / "results").exists()


@pytest.mark.parametrize("kind", ["exact", "ader"])
def test_the_kind_of_evaluation_is_told(bench, capsys, kind):
    assert bench.run() == bench.run(f"metric={kind}") == bench.run("run=named", f"metric={kind}") == 0
    out = capsys.readouterr().out
    titles = [line for line in out.splitlines() if line.endswith("(percent)")]
    assert [f"metric={kind}  (percent)" in title for title in titles] == [False, True, True]
    assert out.count("pixel metrics are certified") == 1
    assert out.count(f"metric={kind}: ") == 2
    kinds = {json.loads(file.read_text())["metric"] for file in bench.root.rglob("record.json")}
    assert kinds == {"histogram", kind}
    assert len(list(bench.root.rglob("record.json"))) == 3


def test_rows_per_defect(bench, capsys):
    assert bench.run("save_maps=true", "metric=exact", "metric.by_defect=true", "run=x") == 0
    table = read_table(bench.folder() / "defects.csv")
    assert list(table.index) == [(c, d) for c in ("bottle", "cable") for d in ("hole", "scratch")]
    for category, defect in table.index:
        found = pairs(bench, CASES[()], category, defect)
        truth, scores = (np.stack(part).ravel() for part in zip(*((k, m) for m, k in found), strict=True))
        assert table.loc[(category, defect), "pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
        labels, tops = zip(*((k.any(), m.max()) for m, k in found), strict=True)
        assert table.loc[(category, defect), "image_auroc"] == pytest.approx(roc_auc_score(labels, tops), abs=1e-6)
    out = capsys.readouterr().out
    assert "all metrics in defects.csv" in out
    rows = [line.split() for line in out[out.index("category defect") :].splitlines()[2:7]]
    assert [len(row) for row in rows] == [6, 5, 6, 5, 0]  # a category is named once


def test_defects_fold_at_80_columns(bench, capsys):
    (bench.data / "bottle").rename(bench.data / ("b" * 60))
    for folder in ("test", "ground_truth"):
        (bench.data / "cable" / folder / "hole").rename(bench.data / "cable" / folder / ("[red]" + "h" * 60))
    assert bench.run("metric.by_defect=true") == 0
    out = capsys.readouterr().out
    lines = out[out.index("─ image ─") : out.index("pixel metrics are")].splitlines()
    assert max(map(len, lines)) <= 80
    assert "[red]hhh" in out


def test_rows_per_defect_are_added_without_training_and_kept(bench, capsys):
    assert bench.run() == 0
    folder = bench.folder()
    before = (folder / "metrics.csv").read_bytes()
    bench.hook("first", 1, terminate)  # would stop a training
    assert bench.run("metric.by_defect=true") == 0
    assert (folder / "metrics.csv").read_bytes() == before
    table = (folder / "defects.csv").read_bytes()
    assert bench.run("save_maps=true") == 0  # made again: the result keeps what it had
    record = json.loads((folder / "record.json").read_text())
    assert (record["maps"], record["by_defect"]) == (True, True)
    assert (folder / "defects.csv").read_bytes() == table
    capsys.readouterr()
    assert bench.run() == bench.run("metric.by_defect=true", "save_maps=true") == 0
    out = capsys.readouterr().out
    assert out.count("This result exists already") == 2
    assert out.count("defects.csv") == 2


def test_rows_per_defect_of_one_model_per_category(bench):
    words = ("setting=single_class",)
    assert bench.run(*words) == 0
    bench.hook("first", 1, terminate)
    assert bench.run(*words, "metric.by_defect=true") == 0
    assert len(read_table(bench.folder() / "defects.csv")) == 4


def test_objects(bench, capsys, monkeypatch):
    assert bench.run(results="plain") == 0
    out = capsys.readouterr().out
    assert "─ object ─" not in out
    assert "belongs to a group" not in out

    def grouped(dataset, option):
        index = read_index(dataset)
        samples = [dataclasses.replace(s, group=f"{s.defect}/{int(s.image[-5]) // 2}") for s in index]
        return dataclasses.replace(index, samples=tuple(samples))

    monkeypatch.setattr(ader.runs.plan, "read_index", grouped)
    assert bench.run(results="grouped") == 0
    out = capsys.readouterr().out
    assert "─ object ─" in out
    assert read_table(bench.folder("grouped") / "metrics.csv")["object_auroc"].notna().all()
    for image in (bench.data / "cable" / "test" / "good").iterdir():
        image.unlink()
    assert bench.run(results="no good") == 0
    assert "'-': no normal object (cable)" in capsys.readouterr().out
