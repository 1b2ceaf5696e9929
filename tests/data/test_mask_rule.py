"""Which levels of masks are defective: class ids, soft edges, JPEGs; against the hard masks that they were made of."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from ader.__main__ import main
from ader.data import load_index
from ader.data import mask_rule as module
from ader.data.mask_rule import MaskReading, edges, settle
from ader.data.masks import load_mask, own_mask, read_levels, read_mask
from ader.data.sizes import Sizes
from ader.methods._base import Tags, TrainStage
from ader.results.record import read_table
from ader.testing.toy import write_mvtec
from ader.training.loader import Loader
from tests.support.oracles import brute_force_aupro
from tests.support.running import Bench

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "01"
EIGHT = np.ones((3, 3))


def hard(size: int = 96) -> np.ndarray:
    """True where defective: a disk, a bar and a scratch of two pixels."""
    rows, columns = np.mgrid[:size, :size]
    disk = (rows - 30) ** 2 + (columns - 28) ** 2 < 200
    bar = (rows > 60) & (rows < 75) & (columns > 10) & (columns < 80)
    scratch = (abs(rows - columns + 45) < 2) & (rows < 45)
    return disk | bar | scratch


def gray(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def as_jpeg(values: np.ndarray, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    gray(values).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("L")


def touching(size: int = 96) -> np.ndarray:
    """200 instances, each with an id of its own, beside each other."""
    rows, columns = np.mgrid[:size, :size]
    return 1 + (rows // 7 * 14 + columns // 7) % 200


def nested() -> np.ndarray:
    """A class within another, as a core within its rim."""
    rows, columns = np.mgrid[:96, :96]
    distance = np.hypot(rows - 48, columns - 48)
    return np.select([distance < 12, distance < 30], [255, 128], 0)


def palette() -> Image.Image:
    """Classes as the colors of PASCAL VOC's palette: maroon, teal, and the pale border."""
    image = Image.fromarray(np.select([hard(), nested() > 200, nested() > 0], [1, 3, 2], 0).astype(np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 128, 224, 224, 192])
    return image


def polygon(scale: int) -> Image.Image:
    """Drawn at several times the size, and scaled down."""
    image = Image.new("L", (96 * scale, 96 * scale))
    ImageDraw.Draw(image).polygon([(scale * x, scale * y) for x, y in ((10, 20), (70, 11), (83, 80), (33, 61))], 255)
    return image.resize((96, 96), Image.Resampling.BOX)


AREAS: dict[str, Callable[[], Image.Image]] = {
    "0 and 1": lambda: gray(hard()),
    "class ids": lambda: gray(hard() * (1 + np.arange(96) // 12 * 3)),
    "16-bit class ids": lambda: Image.fromarray((hard() * (1 + np.arange(96) // 12 * 40)).astype(np.uint16)),
    "a thin class": lambda: gray(5 * (abs(np.subtract(*np.mgrid[:96, :96])) < 1) + 200 * (np.mgrid[:96, :96][0] > 93)),
    "a rim": lambda: gray(nested()),
    "palette": palette,
    "instances": lambda: gray(touching()),
}

PLAIN: dict[str, Callable[[], Image.Image]] = {
    "0 and 255": lambda: gray(hard() * 255),
    "1 bit": lambda: gray(hard() * 255).convert("1"),
    "16-bit, 0 and 65535": lambda: Image.fromarray(hard().astype(np.uint16) * 65535),
    "high ids": lambda: gray(np.select([hard(), nested() > 0], [255, 254], 0)),
    "empty": lambda: gray(hard() * 0),
    "all": lambda: gray(hard() * 0 + 255),
}

SOFT: dict[str, Callable[[], Image.Image]] = {
    "blurred": lambda: gray(hard() * 255).filter(ImageFilter.GaussianBlur(1)),
    "resampled": lambda: gray(hard(192) * 255).resize((96, 96), Image.Resampling.BILINEAR),
    "enlarged": lambda: gray(hard() * 255).resize((192, 192), Image.Resampling.BICUBIC),
    "polygon": lambda: polygon(4),
    "polygon, 5 levels": lambda: polygon(2),
    "16 bit": lambda: Image.fromarray(
        np.asarray(gray(hard() * 255).filter(ImageFilter.GaussianBlur(2))).astype(np.uint16) * 257
    ),
    **{f"once a JPEG of quality {q}": lambda q=q: as_jpeg(hard() * 255, q) for q in (30, 50, 75, 95)},
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, images in (("areas", AREAS), ("plain", PLAIN), ("soft", SOFT)) for name in images],
)
def test_edges(tmp_path, kind, name):
    image = {"areas": AREAS, "plain": PLAIN, "soft": SOFT}[kind][name]()
    image.save(tmp_path / "mask.png")
    assert edges(read_levels(tmp_path / "mask.png")) == kind


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 100])
def test_a_jpeg_cut_at_one_half_is_the_mask_that_was_drawn(tmp_path, quality):
    gray(hard() * 255).save(tmp_path / "mask.jpg", quality=quality)
    assert edges(read_levels(tmp_path / "mask.jpg")) == "soft"
    found = own_mask([tmp_path / "mask.jpg"], "half").astype(bool)
    assert (found & hard()).sum() >= 0.99 * (found | hard()).sum()
    nearest = load_mask([tmp_path / "mask.jpg"], 48, "nearest", "half").astype(bool)
    assert np.array_equal(nearest, found[::2, ::2])
    bilinear = load_mask([tmp_path / "mask.jpg"], 48, rule="half")
    gray(found * 255).save(tmp_path / "found.png")
    assert np.array_equal(bilinear, load_mask([tmp_path / "found.png"], 48))


def test_a_jpeg_of_nothing_says_nothing(tmp_path):
    """Masks of normal images: faint noise at most."""
    gray(np.random.default_rng(0).integers(0, 4, (64, 64))).save(tmp_path / "mask.jpg", quality=95)
    assert edges(read_levels(tmp_path / "mask.jpg")) == "plain"


@pytest.mark.parametrize(("dtype", "least"), [(np.uint8, 128), (np.uint16, 32768)])
def test_half_is_half_of_the_files_range(tmp_path, dtype, least):
    Image.fromarray(np.array([[0, 1, least - 1, least]], dtype)).save(tmp_path / "mask.png")
    assert np.asarray(read_mask(tmp_path / "mask.png")).tolist() == [[0, 255, 255, 255]]
    assert np.asarray(read_mask(tmp_path / "mask.png", "half")).tolist() == [[0, 0, 0, 255]]


def with_masks(root: Path, *images: Image.Image, ending: str = "png") -> Path:
    """A category with a defective image and its mask for each of ``images``."""
    write_mvtec(root, ("pcb",), bad=0, size=96)
    for number, image in enumerate(images):
        for folder, name in (("test", f"{number:03}.png"), ("ground_truth", f"{number:03}_mask.{ending}")):
            (root / "pcb" / folder / "dent").mkdir(parents=True, exist_ok=True)
            shown = image if folder == "ground_truth" else Image.new("RGB", image.size)
            shown.save(root / "pcb" / folder / "dent" / name)
    return root


def settled(root: Path, wanted: module.Wanted = "auto", published: bool = False) -> MaskReading:
    return settle(load_index("folder", root), wanted, published, root / "cache", 2)


def test_all_masks_vote(tmp_path):
    soft, areas, plain = SOFT["blurred"](), AREAS["class ids"](), PLAIN["0 and 255"]()
    assert settled(with_masks(tmp_path / "a", plain, plain)) == MaskReading("auto", "any", 2, 0)
    assert settled(with_masks(tmp_path / "b", plain, plain, soft)) == MaskReading("auto", "half", 3, 1)
    assert settled(with_masks(tmp_path / "c", areas, areas, soft)) == MaskReading("auto", "any", 3, 1)
    assert settled(with_masks(tmp_path / "d", AREAS["0 and 1"](), soft)) == MaskReading("auto", "any", 2, 1)
    assert settled(tmp_path / "c", "half") == MaskReading("half", "half", 3, 1)
    assert settled(tmp_path / "b", "any") == MaskReading("any", "any", 3, 1)


def test_published_masks_are_read_as_their_tables_did(tmp_path):
    """But a copy whose masks are JPEGs is not what was published."""
    drawn = with_masks(tmp_path / "png", SOFT["blurred"]())
    copied = with_masks(tmp_path / "jpg", PLAIN["0 and 255"](), ending="jpg")
    assert settled(drawn, published=True) == MaskReading("auto", "any", 1, 1)
    assert settled(copied, published=True) == MaskReading("auto", "half", 1, 1)


def test_masks_are_looked_at_once(tmp_path, monkeypatch):
    root = with_masks(tmp_path, SOFT["blurred"](), SOFT["blurred"]())
    looked, original = [], module.read_levels
    monkeypatch.setattr(module, "read_levels", lambda path: looked.append(path) or original(path))
    assert settled(root) == settled(root)
    assert len(looked) == 2
    mask = root / "pcb/ground_truth/dent/000_mask.png"
    AREAS["class ids"]().save(mask)
    assert settled(root).soft == 1
    assert len(looked) == 4
    mask.write_bytes(b"no image")
    assert settled(root) == settled(root) == MaskReading("auto", "half", 1, 1)
    assert len(looked) == 8  # nothing is remembered while one is bad
    (tmp_path / "file").touch()
    assert settle(load_index("folder", root), "auto", False, tmp_path / "file", 1).rule == "half"  # nowhere to remember


@pytest.fixture
def twins(tmp_path) -> tuple[Path, Path]:
    """The same masks as JPEG and as PNG."""
    images = [PLAIN["0 and 255"](), polygon(1)]
    return with_masks(tmp_path / "jpg", *images, ending="jpg"), with_masks(tmp_path / "png", *images)


def perfect(png: Path, folder: Path) -> Path:
    """Maps that are the masks."""
    index = load_index("folder", png)
    for sample in index.split("test"):
        size = Image.open(index.path(sample.image)).size[::-1]
        mask = own_mask([index.path(name) for name in sample.masks]) if sample.masks else np.zeros(size)
        file = folder / sample.category / sample.defect / f"{Path(sample.image).stem}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, mask.astype(np.float32))
    return folder


def score(tmp_path: Path, maps: Path, root: Path, *words: str) -> tuple[dict[str, float], dict, str]:
    """The row of the category, the record, and the folder's name."""
    own = [f"dataset.root={root}", f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}"]
    assert main(["score", str(maps), "dataset=folder", *own, "workers=1", "force=true", *words]) == 0
    (file,) = (tmp_path / "results").rglob("record.json")
    row = read_table(file.parent / "metrics.csv").loc["pcb"].to_dict()
    found = row, json.loads(file.read_text()), file.parent.name
    for path in sorted((tmp_path / "results").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return found


def test_a_perfect_map_is_perfect(tmp_path, twins, capsys):
    jpg, png = twins
    maps = perfect(png, tmp_path / "maps")
    row, record, name = score(tmp_path, maps, jpg)
    assert row["pixel_auroc"] == pytest.approx(1, abs=2e-3)
    assert row["pixel_aupro"] == pytest.approx(1, abs=5e-3)
    assert record["masks"] == {"wanted": "auto", "rule": "half", "files": 2, "soft": 2}
    assert name == "default"
    assert "masks with soft edges (2 of 2): cut at one half (metric.mask_rule=auto)" in capsys.readouterr().out
    row, record, _ = score(tmp_path, maps, png)
    assert row["pixel_auroc"] == row["pixel_aupro"] == 1
    assert record["masks"] == {"wanted": "auto", "rule": "any", "files": 2, "soft": 0}
    assert "soft edges" not in capsys.readouterr().out


def test_every_level_counts_where_that_is_asked_for(tmp_path, twins, capsys):
    jpg, png = twins
    maps = perfect(png, tmp_path / "maps")
    row, record, name = score(tmp_path, maps, jpg, "metric=exact", "metric.mask_rule=any")
    pairs = [(f"{n:03}", np.load(maps / f"pcb/dent/{n:03}.npy")) for n in (0, 1)]
    marked = [np.asarray(Image.open(jpg / f"pcb/ground_truth/dent/{stem}_mask.jpg")) > 0 for stem, _ in pairs]
    truth = np.concatenate([np.ravel(marked), np.zeros(2 * 96 * 96, bool)])
    scores = np.concatenate([np.ravel([map_HW for _, map_HW in pairs]), np.zeros(2 * 96 * 96)])
    assert row["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert row["pixel_auroc"] < 0.95
    assert (record["masks"]["rule"], name) == ("any", "metric=exact-metric.mask_rule=any")
    assert "masks with soft edges (2 of 2): every level above 0 counts as defective" in capsys.readouterr().out
    assert score(tmp_path, maps, jpg, "metric=ader")[1]["masks"]["rule"] == "any"  # as those tables were computed


@pytest.mark.skipif(not CASES.exists(), reason="no shared data")
def test_the_case_that_was_reported(tmp_path):
    files = {ending: sorted((CASES / ending).rglob(f"*_mask.{ending}")) for ending in ("jpg", "png")}
    marked = {
        name: np.stack([own_mask([file], rule) for file in files[ending]])
        for name, ending, rule in (("any", "jpg", "any"), ("half", "jpg", "half"), ("png", "png", "any"))
    }
    assert {name: int(masks.sum()) for name, masks in marked.items()} == {"any": 12502, "half": 8614, "png": 8614}
    regions = {name: sum(label(mask, EIGHT)[1] for mask in masks) for name, masks in marked.items()}
    assert regions == {"any": 145, "half": 39, "png": 39}
    assert np.array_equal(marked["half"], marked["png"])
    maps = perfect(CASES / "png", tmp_path / "maps")
    row, _, _ = score(tmp_path, maps, CASES / "jpg")
    assert row["pixel_auroc"] == row["pixel_aupro"] == 1
    before, _, _ = score(tmp_path, maps, CASES / "jpg", "metric.mask_rule=any", "metric=exact")
    # a threshold that finds all that was drawn and nothing else, and then a line to the corner
    assert before["pixel_auroc"] == pytest.approx((1 + 8614 / 12502) / 2, abs=1e-6)
    drawn = marked["png"].astype(np.float32)
    assert before["pixel_aupro"] == pytest.approx(brute_force_aupro(drawn, marked["any"]), abs=5e-3)
    assert before["pixel_aupro"] < 0.32


def test_a_run_reads_training_and_test_masks_alike(tmp_path, monkeypatch, capsys):
    bench = Bench(tmp_path, monkeypatch)
    for mask in sorted(bench.data.glob("*/ground_truth/*/*.png")):
        Image.open(mask).filter(ImageFilter.GaussianBlur(1)).save(mask)
    seen, original = [], Loader.__init__

    def spy(self, *arguments, **options):
        original(self, *arguments, **options)
        seen.append(self.sizes)

    monkeypatch.setattr(Loader, "__init__", spy)
    assert bench.run("metric.size=original") == 0
    assert seen == [Sizes(mask_rule="half")]
    assert "mask_rule" not in bench.folder().name
    out = capsys.readouterr().out
    assert "masks with soft edges (4 of 4): cut at one half (metric.mask_rule=auto)" in out
    expected = sum(int((np.asarray(Image.open(f)) >= 128).sum()) for f in bench.data.glob("cable/ground_truth/*/*"))
    assert read_table(bench.folder() / "counts.csv").loc["cable", "defective_pixels"] == expected


def test_training_masks(tmp_path):
    index = load_index("folder", with_masks(tmp_path, SOFT["blurred"]()))
    samples = [s if s.split == "train" else s.__class__(**{**fields(s), "split": "train"}) for s in index if s.masks]
    tags = Tags(supervision="pixel")
    stage = TrainStage(name="train", batch_size=1, step=lambda batch, optimize: {}, optimizers={}, modules=[], epochs=1)
    for rule in ("any", "half"):
        loader = Loader(index.with_samples(samples), 96, torch.device("cpu"), 0, 0, tags, mask_rule=rule)
        (batch,) = loader.train(stage, 0, 1)
        expected = np.asarray(SOFT["blurred"]()) >= (1 if rule == "any" else 128)
        assert np.array_equal(batch.mask_BHW[0].numpy(), expected)


def fields(sample) -> dict:
    return {name: getattr(sample, name) for name in sample.__slots__}


def test_the_check_names_masks_with_soft_edges(tmp_path, capsys):
    root = with_masks(tmp_path / "set", SOFT["blurred"](), PLAIN["0 and 255"]())
    words = ["dataset=folder", f"dataset.root={root}", f"paths.cache={tmp_path / 'cache'}"]
    assert main(["data", "check", *words, f"report={tmp_path / 'report.csv'}"]) == 0
    rows = [line for line in (tmp_path / "report.csv").read_text().splitlines() if "soft edges" in line]
    assert rows[0].startswith("note,masks with soft edges,pcb/ground_truth/dent/000_mask.png,has ")
    assert rows[0].endswith("levels: cut at one half (metric.mask_rule)")
    assert len(rows) == 1


def test_a_mask_that_one_half_empties_is_refused(tmp_path, capsys):
    """A defective image whose mask would mark nothing."""
    faint = gray(np.asarray(SOFT["blurred"]()) // 3)
    root = with_masks(tmp_path / "set", SOFT["blurred"](), SOFT["blurred"](), faint)
    words = ["dataset=folder", f"dataset.root={root}", f"paths.cache={tmp_path / 'cache'}"]
    assert main(["data", "check", *words]) == 2
    assert "all-zero masks 1" in capsys.readouterr().err
    assert (
        "002_mask.png,is below one half everywhere (metric.mask_rule)"
        in next((tmp_path / "cache").rglob("*.csv")).read_text()
    )
