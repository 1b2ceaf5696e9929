"""COCO-AD: the generator against a slow reading of its rules (``layouts.coco_ad``), pixel by pixel, and the reader."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ader.config.options import read_option
from ader.data import Index, Sample, load_index
from ader.data.image import load_image
from ader.data.index import TEST
from ader.data.masks import load_mask, read_mask
from ader.datasets._preparing import Work
from ader.datasets.coco_ad import generate as module
from ader.datasets.coco_ad import prepare
from ader.datasets.coco_ad.generate import Picture, Thing, check_digests, draw, read_pictures
from ader.system.console import Console
from ader.system.errors import UserError
from tests.layouts import coco_ad as layout

cv2 = pytest.importorskip("cv2")
codec = pytest.importorskip("pycocotools.mask")

LISTS = [f"meta_20_{split}.json" for split in range(4)]


class Lines(Console):
    """A quiet console that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def make(root: Path, source: Path | None = None, check=lambda: None, workers: int = 2) -> list[str]:
    console = Lines()
    prepare(root, source or root, Work(console, check, workers))
    return console.lines


@pytest.fixture
def root(tmp_path) -> Path:
    return layout.write_coco(tmp_path / "coco")


def made(root: Path) -> dict[str, bytes]:
    """All that was generated."""
    files = [*root.glob("meta*"), *root.glob("val2017_mask*/*")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def picture(height: int, width: int, *outlines: object) -> Picture:
    things = [Thing(0, outline, number) for number, outline in enumerate(outlines, start=1)]
    return Picture(Path("file.json"), "x.jpg", height, width, things)


# The generator


def test_lists_and_masks_equal_a_slow_reading_of_the_rules(root):
    lines = make(root)
    expected = {name: content for split in range(4) for name, content in layout.expected(root, split).items()}
    found = made(root)
    assert found.keys() == expected.keys()
    assert len(expected) == 4 + 5 + 4 + 5 + 4
    for name, content in expected.items():
        if isinstance(content, dict):
            assert found[name].decode() == json.dumps(content, indent=4) + "\n", name
        else:
            image = Image.open(root / name)
            assert (image.mode, image.format) == ("L", "PNG")
            assert np.array_equal(np.asarray(image), content), name
            assert content.any()
    assert [line for line in lines if line.startswith("reading")] == [
        f"reading {root / 'annotations' / name}" for name in ("instances_train2017.json", "instances_val2017.json")
    ]


def test_the_traps_of_the_specification(root):
    """By hand: which image is where."""
    make(root)

    def names(split: int, part: str, label: int) -> str:
        entries = json.loads((root / LISTS[split]).read_text())[part]["coco"]
        keys = {f"{number:012}": key for key, number in layout.NUMBERS.items()}
        chosen = [keys[Path(entry["img_path"]).stem] for entry in entries if entry["anomaly"] == label]
        assert [entry["img_path"] for entry in entries] == sorted(entry["img_path"] for entry in entries)
        return "".join(sorted(chosen))

    # a has no annotation; anomalous training images are in no list; b shows a cup alone
    assert [names(split, "train", 0) for split in range(4)] == ["bhkn", "bdhkn", "dkn", "bd"]
    assert [names(split, "train", 1) for split in range(4)] == [""] * 4
    assert [names(split, "test", 1) for split in range(4)] == ["cdeln", "cglm", "bghln", "ehkl"]
    assert [names(split, "test", 0) for split in range(4)] == ["bghkm", "bdehkn", "cdekm", "bcdgmn"]

    def mask(key: str, split: int) -> np.ndarray:
        path = root / f"val2017_mask_ad_20_{split}" / f"{layout.NUMBERS[key]:012}.png"
        return np.asarray(Image.open(path)) == 255

    parts = mask("c", 0)  # both parts, an overlap without a hole, and not the bottle
    assert parts[2:10, 2:11].all()
    assert parts[25:37, 20:30].all()
    assert parts[19:24, 8:13].all()
    assert not parts[3:11, 15:26].any()
    assert mask("c", 1).sum() == 11 * 8
    crowd = mask("d", 0)
    down = np.flatnonzero(crowd.T.ravel()).tolist()
    assert down == [*range(35, 42), *range(51, 58), *range(67, 74), *range(274, 279)]
    assert mask("e", 0)[5, 5:18].any()
    assert mask("e", 3)[8:27, 10:28].all()
    assert mask("e", 3).sum() == 19 * 18
    assert mask("l", 2).nonzero() == (np.array([20]), np.array([30]))
    cross = mask("l", 0)  # even and odd: left and right of the crossing is outside
    assert cross[11, 11]
    assert not cross[11, 3]
    assert not cross[11, 19]


@pytest.mark.parametrize("reach", [(0, 0.999), (0, 1), (-0.05, 1.05), (-0.6, 1.6)])
def test_polygons_equal_a_slow_fill(reach):
    """Integers and fractions, any shape: crossing itself, a line, a point, vertices on and outside of the border."""
    rng = np.random.default_rng(round(reach[1] * 100))
    low, high = reach
    for turn in range(500):
        height, width = rng.integers(1, 48, 2).tolist() if turn % 25 else rng.integers(200, 400, 2).tolist()
        corners = rng.integers(1, 12)
        points = rng.uniform(low, high, (corners, 2)) * (width, height)
        if reach == (0, 1):  # many vertices exactly on the right and the lower border, as in COCO
            points = np.clip(points + rng.normal(0, 9, points.shape), 0, (width, height))
        if turn % 3 == 0:
            points = points.round()
        polygon = points.ravel().tolist()
        expected = layout.mask_of(height, width, [[polygon]])
        assert np.array_equal(draw(picture(height, width, [polygon]), 0), expected), (height, width, polygon)


def test_slow_fill_of_sides_that_leave_the_image_is_near_the_ideal():
    """Vertices beyond the last pixel by one, as in COCO: what OpenCV makes of them is wrong along the outline only.

    The ideal is the polygon on a larger canvas. (Of vertices far outside, it is wrong by several pixels.)
    """
    rng = np.random.default_rng(5)
    differing = 0
    for _ in range(200):
        height, width = rng.integers(10, 40, 2).tolist()
        corners = (rng.uniform(-0.5, 1.5, (rng.integers(3, 8), 2)) * (width, height)).astype(int)
        corners = corners.clip(0, (width, height))
        found = layout.fill(height, width, [tuple(point) for point in corners.tolist()])
        moved = [tuple(point) for point in (corners + 1).tolist()]
        ideal = layout.fill(height + 2, width + 2, moved)[1:-1, 1:-1]
        edge = np.zeros((height + 4, width + 4), bool)
        for start, end in zip([moved[-1], *moved[:-1]], moved, strict=True):
            for x, y in layout.line(start, end):
                edge[y : y + 3, x : x + 3] = True  # and all neighbors
        differing += (found != ideal).sum()
        assert not ((found != ideal) & ~edge[2:-2, 2:-2]).any()
    assert differing


def test_run_lengths_of_both_forms():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2).tolist()
        blocks = rng.random((height, width)) < rng.choice([0.05, 0.5, 0.95])
        values = blocks.T.ravel()
        changes = np.flatnonzero(np.diff(values.astype(int))) + 1
        runs = np.diff([0, *changes, values.size]).tolist()
        runs = [0, *runs] if values[0] else runs
        size = {"size": [height, width]}
        text = layout.compress(runs)
        assert layout.expand(text) == runs
        assert codec.encode(np.asfortranarray(blocks, np.uint8))["counts"].decode() == text
        for counts in (runs, text):
            mask = draw(picture(height, width, size | {"counts": counts}), 0)
            assert np.array_equal(mask == 255, blocks)
            assert np.array_equal(mask, layout.mask_of(height, width, [size | {"counts": counts}]))
    assert draw(picture(4, 3, {"size": [4, 3], "counts": [3, 0, 2, 7]}), 0).sum() == 7 * 255


def test_only_the_anomalies_of_the_split_are_drawn():
    things = [Thing(0, [[1, 1, 3, 1, 3, 3]], 1), Thing(2, [[5, 5, 7, 5, 7, 7]], 2)]
    shown = Picture(Path("file.json"), "x.jpg", 9, 9, things)
    assert [np.argwhere(draw(shown, split)).tolist() for split in (1, 2)] == [
        [],
        [[5, 5], [5, 6], [5, 7], [6, 6], [6, 7], [7, 7]],
    ]


def test_labels_of_the_first_images_of_val2017(tmp_path):
    """Section 7 of the specification: labels are numbers in the order of ids, not ids."""
    table = {
        139: ("0 56 58 60 62 68 72 73 74 75", "1011"),
        285: ("21", "0100"),
        632: ("56 58 59 73", "0011"),
        724: ("2 7 11", "1000"),
        776: ("59 77", "0011"),
        785: ("0 30", "1100"),
        802: ("69 72", "0001"),
        872: ("0 32 35", "1100"),
        885: ("0 38", "1100"),
        1268: ("0 8 14 24 26 67", "1101"),
    }
    images = [{"id": number, "file_name": f"{number:012}.jpg", "height": 4, "width": 4} for number in table]
    found = [
        {"image_id": number, "category_id": layout.IDS[int(label)], "segmentation": [[1, 1, 2, 2]]}
        for number, (labels, _) in table.items()
        for label in labels.split()
    ]
    categories = [{"id": number} for number in layout.IDS[::-1]]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": categories}))
    pictures, ids = read_pictures(path, outlines=False)
    assert ids == layout.IDS
    assert len(ids) == 80
    assert [int(Path(each.name).stem) for each in pictures] == list(table)
    for each in pictures:
        pattern = "".join(str(int(bool(each.anomalies(split)))) for split in range(4))
        assert pattern == table[int(Path(each.name).stem)][1]
    assert {thing.outline for each in pictures for thing in each.things} == {None}


def test_another_source_and_a_nested_one(root, tmp_path):
    make(root)
    target = tmp_path / "target"
    make(target, root)
    assert made(target) == made(root)
    make(tmp_path / "again", root.parent)
    assert made(tmp_path / "again") == made(root)


def test_twice_gives_the_same_bytes_and_writes_nothing(root, tmp_path):
    make(root)
    first = made(root)
    times = {name: (root / name).stat().st_mtime_ns for name in first}
    inodes = {name: (root / name).stat().st_ino for name in first}
    make(root, workers=1)
    assert made(root) == first
    assert {name: (root / name).stat().st_mtime_ns for name in first} == times
    assert {name: (root / name).stat().st_ino for name in first} == inodes
    other = layout.write_coco(tmp_path / "other")
    make(other, workers=3)
    assert made(other) == first


class Stop(Exception):
    pass


def test_interrupted_anywhere_it_goes_on(root, tmp_path):
    """At a check of each kind: a list is there only when all of its masks are.

    There are 24 checks: one for each of 2 files, and for each split one, and one for each of its 5, 4, 5 and 4 masks.
    """
    make(root)
    whole = made(root)
    masks = {f"meta_20_{split}.json": f"val2017_mask_ad_20_{split}/" for split in range(4)}
    for number in (1, 2, 3, 4, 6, 8, 9, 13, 19, 24):
        source, left = layout.write_coco(tmp_path / str(number)), number

        def check() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise Stop

        with pytest.raises(Stop):
            make(source, check=check)
        found = made(source)
        assert all(whole[name] == content for name, content in found.items())
        for name, folder in masks.items():
            if name in found:
                assert {file for file in whole if file.startswith(folder)} <= found.keys()
        assert not list(source.rglob("*.tmp"))
        make(source)
        assert made(source) == whole


def test_damaged_and_foreign_files_are_made_again(root):
    make(root)
    whole = made(root)
    mask = next(name for name in whole if name.startswith("val2017_mask_ad_20_2"))
    (root / mask).write_bytes(whole[mask][:40])
    other = next(name for name in whole if name.startswith("val2017_mask_ad_20_0"))
    Image.new("RGB", (3, 3)).save(root / other)
    (root / LISTS[3]).write_text("{}")
    make(root)
    assert made(root) == whole


def test_a_list_of_other_data_is_gone_before_its_masks_change(root):
    make(root)
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"].pop(0)
    file.write_text(json.dumps(content))
    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 3:
            raise Stop

    with pytest.raises(Stop):
        make(root, check=check)
    assert not (root / LISTS[0]).exists()


def test_anomalies_that_cover_nothing_are_told(root):
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    number = layout.NUMBERS["b"]
    categories = (layout.TABLE, layout.BOOK)
    outlines: tuple[list, ...] = ([], [[90, 90, 99, 90, 99, 99]])
    for category, outline in zip(categories, outlines, strict=True):
        content["annotations"].append({"image_id": number, "category_id": category, "segmentation": outline})
    file.write_text(json.dumps(content))
    assert f"split 3: the anomalies of {number:012}.jpg cover no pixel" in make(root)
    sample = next(s for s in load_index("coco_ad", root, split=3) if f"{number}" in s.image and s.split == TEST)
    assert (sample.label, sample.masks) == (1, (f"val2017_mask_ad_20_3/{number:012}.png",))
    assert not np.asarray(read_mask(root / sample.masks[0])).any()


# What is compared with the published numbers


def test_other_numbers_are_told_and_are_no_error(root):
    lines = [line for line in make(root) if "published" in line]
    assert len(lines) == 4
    assert lines[0] == (
        "COCO-AD split 0 is not as published: coco has 4 train_good (published 30438), 5 test_good (published 1291), "
        "5 test_bad (published 3661)"
    )


def test_digests_of_the_test_images(monkeypatch):
    names = {0: [f"{number:012}.jpg" for number in (9, 4, 200)], 1: ["000000000007.jpg"]}
    samples = [Sample(f"val2017/{name}", "coco", TEST, label) for label in (1, 0) for name in names[label]]
    index = Index("coco_ad", Path(), (*samples, Sample("train2017/1.jpg", "coco", "train", 0)))
    assert list(check_digests(index, 2)) == []  # another number of images: a part of COCO

    def digest(*files: str) -> str:
        return hashlib.sha256("".join(f"{file}\n" for file in sorted(files)).encode("ascii")).hexdigest()

    monkeypatch.setattr(module, "TEST_IMAGES", 4)
    assert list(check_digests(index, 2)) == [
        "its test images are others",
        "its normal test images are others",
        "its anomalous test images are others",
    ]
    good, bad = digest(*names[0]), digest(*names[1])
    assert good == hashlib.sha256(b"000000000004.jpg\n000000000009.jpg\n000000000200.jpg\n").hexdigest()
    monkeypatch.setattr(module, "ALL_DIGEST", digest(*names[0], *names[1]))
    assert len(list(check_digests(index, 2))) == 2
    monkeypatch.setattr(module, "DIGESTS", (("", ""), ("", ""), (good, bad)))
    assert list(check_digests(index, 2)) == []
    monkeypatch.setattr(module, "DIGESTS", (("", ""), ("", ""), (bad, bad)))
    assert list(check_digests(index, 2)) == ["its normal test images are others"]


def test_digests_are_those_of_the_specification():
    stated = [module.ALL_DIGEST, *(digest for pair in module.DIGESTS for digest in pair)]
    assert [digest[:6] for digest in stated] == [
        *("4292e4", "573e3b", "c9fb15", "4f731d", "13052f", "391e58", "e9e2e9", "4f4792", "fe60bf"),
    ]
    sheet = Path(__file__).resolve().parents[3] / "shared" / "reference/coco_ad.md"
    if sheet.exists():
        assert all(f"`{digest}`" in sheet.read_text() for digest in stated)
    assert module.TEST_IMAGES == 4952


def test_published_counts():
    counts = [read_option("dataset", f"coco_ad_{split}") for split in range(4)]
    assert [config["split"] for config in counts] == [0, 1, 2, 3]
    rows = [config["counts"]["coco"] for config in counts]
    assert rows == [[30438, 1291, 3661], [65133, 2785, 2167], [79083, 3328, 1624], [77580, 3253, 1699]]
    assert [117266 - row[0] for row in rows] == [86828, 52133, 38183, 39686]
    assert {row[1] + row[2] for row in rows} == {4952}
    sheet = Path(__file__).resolve().parents[3] / "shared" / "reference/datasets.csv"
    if sheet.exists():
        stated = [row for row in csv.DictReader(sheet.open()) if row["dataset"] == "coco_ad"]
        assert [[int(row[key]) for key in ("train_good", "test_good", "test_bad")] for row in stated] == rows


# Errors


def spoiled(root: Path, change, name: str = "instances_val2017.json") -> str:
    """The error after a change of an annotation file: one line that names it."""
    file = root / "annotations" / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        make(root)
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message
    return message


@pytest.mark.parametrize(
    ("place", "values", "words"),
    [
        ("images", {"id": "7"}, "images, entry 3 has id 7, which is no whole number"),
        ("images", {"height": 2.5}, "images, entry 3 has height 2.5"),
        ("images", {"width": 0}, "no size (0 x"),
        ("images", {"file_name": "../000000000007.jpg"}, "no plain file_name ('../000000000007.jpg')"),
        ("images", {"file_name": ".."}, "no plain file_name"),
        ("images", {"file_name": ""}, "no plain file_name"),
        ("images", {"file_name": None}, "no plain file_name"),
        ("annotations", {"image_id": 5}, "annotations, entry 3 has image_id 5, which is not in the file"),
        ("annotations", {"image_id": None}, "annotations, entry 3 has image_id None, which is no whole number"),
        ("annotations", {"category_id": 12}, "annotations, entry 3 has category_id 12, which is not in the file"),
        ("annotations", {"category_id": True}, "category_id True, which is no whole number"),
        ("annotations", {"segmentation": None}, "has no segmentation"),
        ("annotations", {"segmentation": "polygon"}, "has no segmentation"),
        ("annotations", {"segmentation": [[1, 2, 3]]}, "entry 3 (image 000000000"),
        ("annotations", {"segmentation": [[1, 2, 3]]}, "has a polygon that is no list x, y, x, y ... ([1, 2, 3])"),
        ("annotations", {"segmentation": [[]]}, "no list x, y"),
        ("annotations", {"segmentation": [1, 2, 3, 4]}, "no list x, y"),
        ("annotations", {"segmentation": [["a", 2]]}, "no list x, y"),
        ("annotations", {"segmentation": [[float("nan"), 2]]}, "no list x, y"),
        ("annotations", {"segmentation": [[1e300, 2]]}, "no list x, y"),
        ("annotations", {"segmentation": {"size": [40, 32]}}, "run-length code that does not fill its image"),
        ("annotations", {"segmentation": {"size": [32, 40], "counts": [1280]}}, "does not fill"),
        ("annotations", {"segmentation": {"size": [40, 32], "counts": [1279]}}, "does not fill"),
        ("annotations", {"segmentation": {"size": [40, 32], "counts": [1290, -10]}}, "does not fill"),
        ("annotations", {"segmentation": {"size": [40, 32], "counts": layout.compress([3, 5])}}, "does not fill"),
        ("annotations", {"segmentation": {"size": [40, 32], "counts": layout.compress([3, 2000])}}, "does not fill"),
        ("annotations", {"segmentation": {"size": [40, 32], "counts": "ooo"}}, "does not fill"),
        ("annotations", {"segmentation": {"size": [40, 32], "counts": ""}}, "does not fill"),
    ],
)
def test_annotations_that_are_not_right(root, place, values, words):
    def change(content):
        entry = content[place][2]
        if place == "annotations" and "segmentation" in values:
            entry |= {"image_id": layout.NUMBERS["c"], "category_id": layout.PERSON}
        entry |= values

    assert words in spoiled(root, change)
    assert not (root / LISTS[0]).exists()


def test_files_that_are_not_right(root):
    assert "has the id or name of an earlier one" in spoiled(root, lambda c: c["images"].append(c["images"][0]))
    layout.write_coco(root)
    assert "has 79 categories" in spoiled(root, lambda c: c["categories"].pop(), "instances_train2017.json")
    layout.write_coco(root)
    message = spoiled(root, lambda c: c["categories"][0].update(id=12))
    assert "category_id 1, which is not in the file" in message
    layout.write_coco(root)
    assert "different categories" in spoiled(root, lambda c: c["categories"][5].update(id=12))
    layout.write_coco(root)
    assert "has no list 'annotations'" in spoiled(root, lambda c: c.pop("annotations"))
    layout.write_coco(root)
    assert "annotations, entry 1 has image_id None" in spoiled(root, lambda c: c["annotations"].insert(0, []))
    file = root / "annotations" / "instances_train2017.json"
    for content in (b'{"images": [', b"\xff\xfe", b"[]"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"instances_train2017\.json (cannot be read as JSON|has no list)"):
            make(root)
    file.unlink()
    with pytest.raises(UserError, match=r"instances_train2017\.json cannot be read"):
        make(root)
    (root / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(UserError, match="does not hold annotations/instances_train2017"):
        make(root)
    assert made(root) == {}


def test_missing_packages_are_named_before_anything_is_read(tmp_path, monkeypatch):
    for name in ("cv2", "pycocotools.mask"):
        module._packages.cache_clear()
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UserError, match=r"pip install 'ader-bench\[coco\]'") as caught:
                make(tmp_path / "nothing")
            assert name in str(caught.value)
    for version, fine in {"4.10.0": False, "3.4.18": False, "4.11.0-pre": True, "5.0.0": True}.items():
        module._packages.cache_clear()
        monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__=version))
        words = "does not exist" if fine else f"OpenCV {version} fills polygons beyond their boundary"
        with pytest.raises(UserError, match=words):
            make(tmp_path / "nothing")
    module._packages.cache_clear()


def test_a_folder_that_cannot_be_written(root, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "val2017_mask_ad_20_0").touch()
    with pytest.raises(UserError, match=r"val2017_mask_ad_20_0/.*cannot be written"):
        make(target, root)


# The reader


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return layout.write(tmp_path_factory.mktemp("coco"))


def test_samples_of_a_split(written):
    index = load_index("coco_ad", written, split=3)
    assert (index.name, index.categories, index.has_masks) == ("coco_ad", ("coco",), True)
    assert index.counts() == {"coco": (2, 6, 4)}
    name = f"{layout.NUMBERS['e']:012}"
    masks = (f"val2017_mask_ad_20_3/{name}.png",)
    assert Sample(f"val2017/{name}.jpg", "coco", "test", 1, masks, "bad") in index.samples
    name = f"{layout.NUMBERS['d']:012}"
    assert Sample(f"train2017/{name}.jpg", "coco", "train", 0) in index.samples
    assert [sample.image for sample in index] == sorted(sample.image for sample in index)
    assert index.exceptions == (
        *("train2017/*", "val2017/*", "val2017_mask_ad_20_0/*", "val2017_mask_ad_20_1/*", "val2017_mask_ad_20_2/*"),
    )
    assert load_index("coco_ad", written, ["coco"], split=3).samples == index.samples


def test_all_splits_test_the_same_images(written):
    tests = [{s.image for s in load_index("coco_ad", written, split=split) if s.split == TEST} for split in range(4)]
    assert tests == [{f"val2017/{layout.NUMBERS[key]:012}.jpg" for key in "bcdeghklmn"}] * 4


def test_gray_images_and_masks_load(written):
    path = written / "val2017" / f"{layout.NUMBERS['h']:012}.jpg"
    assert Image.open(path).mode == "L"
    image = load_image(path, 40)
    assert (image[0] == image[1]).all()
    assert (image[0] == image[2]).all()
    mask = load_mask([written / "val2017_mask_ad_20_3" / f"{path.stem}.png"], (28, 28))
    assert np.array_equal(mask, layout.mask_of(28, 28, [[[1, 1, 26, 1, 14, 26]]]) // 255)


def test_masks_of_three_channels_are_the_same(written, tmp_path):
    """As the script of the release writes them."""
    file = next((written / "val2017_mask_ad_20_0").glob("*.png"))
    Image.open(file).convert("RGB").save(tmp_path / "x.png")
    assert np.array_equal(np.asarray(read_mask(tmp_path / "x.png")), np.asarray(read_mask(file)))


def test_what_is_missing_is_named(root):
    with pytest.raises(UserError, match="ader data prepare dataset=coco_ad_2") as caught:
        load_index("coco_ad", root, split=2)
    assert f"{root} does not hold meta_20_2.json" in str(caught.value)
    with pytest.raises(UserError, match=r"dataset\.split=4: give a number from 0 to 3"):
        load_index("coco_ad", root, split=4)
    with pytest.raises(UserError, match="ader data prepare dataset=coco_ad_0"):
        load_index("coco_ad", root / "gone")


def test_generation_is_read_back(root):
    make(root)
    for split in range(4):
        assert sorted(os.listdir(root / f"val2017_mask_ad_20_{split}")) == [
            Path(sample.masks[0]).name for sample in load_index("coco_ad", root, split=split) if sample.label
        ]
