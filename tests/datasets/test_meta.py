"""Lists in ADer's format: what is tolerated, and every mistake by its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ader.config.options import read_option
from ader.data import Index, Sample, load_index
from ader.datasets.folder import folder_name
from ader.system.errors import UserError
from ader.testing.dataset_checks import check_dataset


def entry(path: str, category: str = "tile", mask: str = "", defect: str = "good", anomaly: int = 0) -> dict:
    return {"img_path": path, "mask_path": mask, "cls_name": category, "specie_name": defect, "anomaly": anomaly}


def content() -> dict:
    """Not alphabetical in any way, with double slashes; ``bolt`` is as VisA's lists have it."""
    return {
        "train": {
            "tile": [entry("tile/train/good//2.png"), entry("tile/train/good/10.png", defect="ok")],
            "bolt": [entry("bolt/n1.JPG", "bolt", defect="")],
        },
        "test": {
            "bolt": [entry("bolt/n2.JPG", "bolt", defect=""), entry("bolt/a1.JPG", "bolt", "bolt/a1.png", "", 1)],
            "tile": [
                entry("tile/test/hole/000.png", mask="tile//gt/./hole/000.png", defect="hole", anomaly=1),
                entry("tile/test/good/000.png", mask="tile/gt/good/000.png"),
                entry("tile/test/crack/000.png", defect="crack", anomaly=1),
            ],
        },
        "validation": {"tile": [entry("./tile/val/0.png")]},
    }


def write(root: Path, listed: object = None, name: str = "meta.json") -> Path:
    """A list, and the images that ``content`` names."""
    root.mkdir(parents=True, exist_ok=True)
    text = listed if isinstance(listed, str) else json.dumps(content() if listed is None else listed, indent=4)
    (root / name).write_text(text, encoding="utf-8")
    for part in content().values():
        for one in (one for entries in part.values() for one in entries):
            for path, mode in ((one["img_path"], "RGB"), (one["mask_path"], "L")):
                if path:
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    Image.new(mode, (9, 8), 0 if "good" in path else "white").save(root / path)
    return root


def read(root: Path, categories=None, **options) -> Index:
    return load_index("meta", root, categories, **options)


def test_samples_are_as_listed(tmp_path):
    index = read(write(tmp_path / "My parts"))
    assert index.name == "meta-My-parts"
    assert index.categories == ("tile", "bolt")
    assert index.has_masks
    assert index.samples == (
        Sample("tile/test/crack/000.png", "tile", "test", 1, (), "crack"),
        Sample("tile/test/good/000.png", "tile", "test", 0, ("tile/gt/good/000.png",)),
        Sample("tile/test/hole/000.png", "tile", "test", 1, ("tile/gt/hole/000.png",), "hole"),
        Sample("tile/train/good/10.png", "tile", "train", 0),
        Sample("tile/train/good/2.png", "tile", "train", 0),
        Sample("tile/val/0.png", "tile", "validation", 0),
        Sample("bolt/a1.JPG", "bolt", "test", 1, ("bolt/a1.png",), "bad"),
        Sample("bolt/n1.JPG", "bolt", "train", 0),
        Sample("bolt/n2.JPG", "bolt", "test", 0),
    )


def test_checks_pass(tmp_path):
    root = write(tmp_path / "set")
    check_dataset(lambda: read(root))
    assert read(root, train_on=["train", "validation"]).counts() == {"tile": (3, 1, 2), "bolt": (1, 1, 1)}


def test_the_order_of_entries_does_not_matter(tmp_path):
    listed = content()
    reversed_lists = {
        split: {category: entries[::-1] for category, entries in part.items()} for split, part in listed.items()
    }
    first, second = write(tmp_path / "a" / "set"), write(tmp_path / "b" / "set", reversed_lists)
    assert read(first).samples == read(second).samples
    assert read(first).digest() == read(second).digest()
    parts = {split: listed[split] for split in ("validation", "test", "train")}
    assert read(write(tmp_path / "c" / "set", parts)).categories == ("tile", "bolt")


def test_categories_of_one_split_only(tmp_path):
    listed = content()
    listed["test"]["new"] = [entry("x/1.png", "new")]
    listed["train"]["empty"] = []
    root = write(tmp_path / "set", listed)
    assert read(root).categories == ("tile", "bolt", "new")
    assert read(root, ["new", "tile"]).categories == ("tile", "new")
    with pytest.raises(UserError, match=r"'bold' is not a category in .*did you mean 'bolt'"):
        read(root, ["bold"])


def test_defects_with_the_name_of_normal_images_are_bad(tmp_path):
    listed = {"train": {"a": [entry("1.png", "a")]}, "test": {"a": [entry("2.png", "a", defect="good", anomaly=1)]}}
    index = read(write(tmp_path / "set", listed))
    assert [(s.label, s.defect) for s in index] == [(0, "good"), (1, "bad")]
    assert not index.has_masks


def test_masks_of_normal_images_alone_are_no_pixel_truth(tmp_path):
    listed = {"train": {"a": [entry("1.png", "a")]}, "test": {"a": [entry("2.png", "a", "m.png")]}}
    listed["test"]["a"].append(entry("3.png", "a", defect="hole", anomaly=1))
    index = read(write(tmp_path / "set", listed))
    assert not index.has_masks
    assert not any(sample.masks for sample in index)


def test_defective_training_images_are_labeled(tmp_path):
    listed = content()
    listed["train"]["tile"].append(entry("tile/x.png", mask="tile/y.png", defect="hole", anomaly=1))
    index = read(write(tmp_path / "set", listed))
    assert Sample("tile/x.png", "tile", "train", 1, ("tile/y.png",), "hole") in index.samples


def test_another_file_and_one_more_folder(tmp_path):
    root = write(tmp_path / "set", name="meta_20_1.json")
    write(root, {"train": {"a": [entry("1.png", "a")]}, "test": {"a": [entry("2.png", "a")]}})
    assert len(read(root)) == 2
    assert len(read(root, file="meta_20_1.json")) == 9
    assert read(tmp_path).root == root
    assert read(tmp_path).name == f"meta-{tmp_path.name}"
    assert folder_name(root, "meta") == "meta-set"


def test_a_byte_order_mark_is_no_error(tmp_path):
    root = write(tmp_path / "set")
    file = root / "meta.json"
    expected = read(root).samples
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read(root).samples == expected


def fails(tmp_path: Path, listed: object, *words: str) -> str:
    root = write(tmp_path / "set", listed)
    with pytest.raises(UserError) as caught:
        read(root)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(root / "meta.json"), *words):
        assert word in message
    return message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"anomaly": 2}, "has anomaly 2: give 0 for normal or 1 for defective"),
        ({"anomaly": "1"}, "has anomaly '1'"),
        ({"anomaly": True}, "has anomaly True"),
        ({"anomaly": None}, "has anomaly None"),
        ({"cls_name": "tiles"}, "has cls_name 'tiles'"),
        ({"img_path": None}, "has no text as img_path"),
        ({"mask_path": ["a.png"]}, "has no text as mask_path"),
        ({"specie_name": 3, "cls_name": None}, "has no text as cls_name, specie_name"),
        ({"img_path": ""}, "'' is no path below"),
        ({"img_path": "../other/1.png"}, "'../other/1.png' is no path below the dataset's folder"),
        ({"img_path": "tile/../../1.png"}, "is no path below"),
        ({"img_path": "/etc/passwd"}, "'/etc/passwd' is no path below"),
        ({"img_path": "//server/1.png"}, "is no path below"),
        ({"img_path": "C:/data/1.png"}, "is no path below"),
        ({"img_path": "tile\\1.png"}, "is no path below"),
        ({"img_path": "tile/\0.png"}, "is no path below"),
        ({"mask_path": "../1.png"}, "'../1.png' is no path below"),
        ({"mask_path": "/1.png"}, "'/1.png' is no path below"),
        ({"mask_path": "."}, "'.' is no path below"),
    ],
)
def test_entries_that_are_not_right(tmp_path, change, words):
    listed = content()
    listed["test"]["tile"][1] |= change
    fails(tmp_path, listed, "'test', category 'tile', entry 2", words)


@pytest.mark.parametrize("key", ["img_path", "mask_path", "cls_name", "specie_name", "anomaly"])
def test_missing_keys(tmp_path, key):
    listed = content()
    del listed["validation"]["tile"][0][key]
    fails(tmp_path, listed, "'validation', category 'tile', entry 1 has ", key)


def test_lists_that_are_not_right(tmp_path):
    train, test = content()["train"], content()["test"]
    fails(tmp_path, "{", "cannot be read as JSON")
    fails(tmp_path, "[" * 100_000, "cannot be read as JSON")
    fails(tmp_path, [], "is not an object")
    fails(tmp_path, {"train": train}, "lacks 'test'")
    fails(tmp_path, {}, "lacks 'train' and 'test'")
    fails(tmp_path, {"train": train, "test": test, "val": {}}, "holds 'val', which is not a split")
    fails(tmp_path, {"train": [], "test": test}, "'train' is not an object")
    fails(tmp_path, {"train": {"tile": {}}, "test": test}, "'train', category 'tile' is not a list")
    fails(tmp_path, {"train": {"tile": ["x.png"]}, "test": test}, "'train', category 'tile', entry 1 is not an object")
    fails(tmp_path, {"train": {}, "test": {"a": []}}, "lists no image")
    twice = {"train": train, "test": {"tile": [entry("tile/train/good/2.png")]}}
    fails(tmp_path, twice, "lists tile/train/good/2.png more than once")
    for name in ("a/b", "..", "", "a\\b"):
        fails(tmp_path, {"train": {name: [entry("1.png", name)]}, "test": {}}, f"has {name!r} as a category or defect")
    odd = {"train": {"a": [entry("1.png", "a", defect="../x", anomaly=1)]}, "test": {}}
    fails(tmp_path, odd, "has '../x' as a category or defect")


def test_missing_lists_are_named(tmp_path):
    with pytest.raises(UserError, match=r"does not hold meta\.json") as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match=r"gone does not exist: .*meta_20_0\.json"):
        read(tmp_path / "gone", file="meta_20_0.json")


def test_config():
    config = read_option("dataset", "meta")
    assert (config["name"], config["root"], config["file"]) == ("meta", "???", "meta.json")
