"""CIFAR-10, CIFAR-100 and Tiny ImageNet: the protocols, the archives' pickles, and the images made of them."""

from __future__ import annotations

import csv
import importlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ader.config.options import read_option
from ader.data import Index, load_index
from ader.datasets import cifar10 as module10
from ader.datasets import cifar100 as module100
from ader.datasets._cifar_batches import read_batch
from ader.datasets._class_splits import one_anomaly, one_normal, unified
from ader.datasets._preparing import Work
from ader.system.console import Console
from ader.system.errors import UserError
from tests.layouts import cifar10 as layout10
from tests.layouts import cifar100 as layout100
from tests.layouts import tiny_imagenet as layout_tiny

TABLES = ("cifar10_uni", "cifar10_one_normal", "cifar10_one_anomaly", "cifar100_uni")
LAYOUTS = {"cifar10": layout10, "cifar100": layout100}
ARCHIVES = {"cifar10": module10.ARCHIVE, "cifar100": module100.ARCHIVE}


def images(split: str, classes: int, each: int) -> dict[str, list[str]]:
    """Paths as readers give them; names sort in another order than numbers would."""
    return {f"c{n:03}": [f"{split}/c{n:03}/{n + classes * i:05}.png" for i in range(each)] for n in range(classes)}


def classes_of(samples, **wanted) -> list[int]:
    """Numbers of the classes of the chosen samples."""
    chosen = [s for s in samples if all(getattr(s, key) == value for key, value in wanted.items())]
    return sorted({int(s.image.split("/")[1][1:]) for s in chosen})


# Protocols


@pytest.mark.parametrize("classes", [10, 100, 200])
def test_unified_splits(classes):
    train, test = images("train", classes, 3), images("test", classes, 2)
    half = classes // 2
    everything = list(range(classes))
    normals = [everything[:half], everything[half:], everything[::2], everything[1::2]]
    for split, normal in enumerate(normals):
        samples = unified(train, test, split)
        assert {s.category for s in samples} == {f"split{split}"}
        assert classes_of(samples, split="train") == normal
        assert classes_of(samples, split="test", label=0) == normal
        assert classes_of(samples, split="test", label=1) == sorted(set(everything) - set(normal))
        assert sum(s.split == "train" for s in samples) == 3 * half
        assert len(samples) == 3 * half + 2 * classes
        assert all(s.defect == (s.image.split("/")[1] if s.label else "good") for s in samples)


@pytest.mark.parametrize("normal", range(10))
def test_one_normal_class(normal):
    """Of each other class the first 111 of the test batch, of the next class 112."""
    train, test = images("train", 10, 50), images("test", 10, 1000)
    samples = one_normal(train, test, normal)
    assert {s.category for s in samples} == {f"normal{normal}"}
    assert [s.image for s in samples if s.split == "train"] == train[f"c{normal:03}"]
    assert [s.image for s in samples if s.split == "test" and not s.label] == test[f"c{normal:03}"]
    bad = [s for s in samples if s.label]
    assert len(bad) == 1000
    for number in set(range(10)) - {normal}:
        quota = 112 if number == (normal + 1) % 10 else 111
        assert [s.image for s in bad if s.defect == f"c{number:03}"] == test[f"c{number:03}"][:quota]


@pytest.mark.parametrize("odd", range(10))
def test_one_anomalous_class(odd):
    train, test = images("train", 10, 5), images("test", 10, 2)
    samples = one_anomaly(train, test, odd)
    assert {s.category for s in samples} == {f"anomaly{odd}"}
    others = sorted(set(range(10)) - {odd})
    assert classes_of(samples, split="train") == others
    assert classes_of(samples, split="test", label=0) == others
    assert [s.image for s in samples if s.label] == test[f"c{odd:03}"] + train[f"c{odd:03}"]
    assert {(s.split, s.label) for s in samples} == {("train", 0), ("test", 0), ("test", 1)}


def test_stated_counts_are_those_of_the_protocols():
    """5,000 training and 1,000 test images of each class of CIFAR-10, 500 and 100 of CIFAR-100, 500 and 50 of Tiny."""
    ten = images("train", 10, 5000), images("test", 10, 1000)
    hundred = images("train", 100, 500), images("test", 100, 100)
    tiny = images("train", 200, 500), images("test", 200, 50)
    for option, protocol, data, number in (
        ("cifar10_uni", unified, ten, 4),
        ("cifar10_one_normal", one_normal, ten, 10),
        ("cifar10_one_anomaly", one_anomaly, ten, 10),
        ("cifar100_uni", unified, hundred, 4),
        ("tiny_imagenet_uni", unified, tiny, 4),
    ):
        counts = read_option("dataset", option)["counts"]
        assert len(counts) == number
        for split in (0, number - 1):
            samples = protocol(*data, split)
            kinds = [(s.split, s.label) for s in samples]
            assert len({s.image for s in samples}) == len(samples)
            found = [kinds.count(kind) for kind in (("train", 0), ("test", 0), ("test", 1))]
            assert found == counts[samples[0].category]


def test_counts_are_those_of_the_sheet():
    literal = {"cifar10_uni": [25000, 5000, 5000], "cifar10_one_normal": [5000, 1000, 1000]}
    literal |= {"cifar10_one_anomaly": [45000, 9000, 6000], "cifar100_uni": [25000, 5000, 5000]}
    for option, row in literal.items():
        assert set(map(tuple, read_option("dataset", option)["counts"].values())) == {tuple(row)}
    sheet = Path(__file__).resolve().parents[3] / "shared" / "reference/datasets.csv"
    if sheet.exists():
        rows = [row for row in csv.DictReader(sheet.open()) if row["dataset"] in TABLES]
        for option in TABLES:
            stated = {
                row["category"]: [int(row[key]) for key in ("train_good", "test_good", "test_bad")]
                for row in rows
                if row["dataset"] == option
            }
            assert stated == read_option("dataset", option)["counts"]


# Readers


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[str, Path]:
    """As the layouts write them, without ``prepare``."""
    return {name: layout.write(tmp_path_factory.mktemp(name)) for name, layout in LAYOUTS.items()}


def test_class_names():
    assert module10.ARCHIVE.classes == layout10.CLASSES
    assert module100.ARCHIVE.classes == layout100.CLASSES
    assert len(set(layout100.CLASSES)) == 100
    assert list(layout100.CLASSES) == sorted(layout100.CLASSES)


def test_cifar10_unified(prepared):
    index = load_index("cifar10", prepared["cifar10"], split=2)
    assert (index.name, index.categories, index.has_masks) == ("cifar10", ("split2",), False)
    assert index.counts() == {"split2": (50, 10, 10)}
    assert {s.defect for s in index if s.label} == {"automobile", "cat", "dog", "horse", "truck"}
    assert [s.image for s in index] == sorted(s.image for s in index)
    labels = {
        f"{'test' if name == 'test_batch' else 'train'}/{layout10.CLASSES[label]}/{name}_{number:05}.png": label
        for name, (_, found) in layout10.batches().items()
        for number, label in enumerate(found)
    }
    assert {s.image: s.label for s in index} == {
        image: label % 2 for image, label in labels.items() if image.startswith("test") or label % 2 == 0
    }
    assert index.exceptions == tuple(f"train/{name}/*" for name in ("automobile", "cat", "dog", "horse", "truck"))


def test_cifar10_one_class(prepared):
    index = load_index("cifar10", prepared["cifar10"], protocol="one_normal", split=9)
    assert index.counts() == {"normal9": (10, 2, 18)}
    assert {s.image.split("/")[1] for s in index if not s.label} == {"truck"}
    assert set(index.exceptions) == {f"train/{name}/*" for name in layout10.CLASSES[:9]}
    index = load_index("cifar10", prepared["cifar10"], protocol="one_anomaly", split=0)
    assert index.counts() == {"anomaly0": (90, 18, 12)}
    assert {s.defect for s in index if s.label} == {"airplane"}
    assert index.exceptions == ()


def test_cifar10_quota_leaves_test_images_over(tmp_path):
    """113 test images of each class, of which the first 111 are used, or 112."""
    labels = np.random.default_rng(0).permutation(np.arange(1130) % 10).tolist()
    for name in layout10.CLASSES:
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
        (tmp_path / "train" / name / "data_batch_1_00000.png").touch()
    for number, label in enumerate(labels):  # a reader opens no image
        (tmp_path / "test" / layout10.CLASSES[label] / f"test_batch_{number:05}.png").touch()
    (tmp_path / "prepared.json").touch()
    index = load_index("cifar10", tmp_path, protocol="one_normal", split=3)
    first: dict[str, list[str]] = {name: [] for name in layout10.CLASSES}
    for number, label in enumerate(labels):
        name = layout10.CLASSES[label]
        if len(first[name]) < {"cat": 113, "deer": 112}.get(name, 111):
            first[name].append(f"test/{name}/test_batch_{number:05}.png")
    assert {s.image for s in index if s.split == "test"} == {image for paths in first.values() for image in paths}
    assert "test/deer/*" in index.exceptions
    assert "test/cat/*" not in index.exceptions


def test_cifar100_unified(prepared):
    index = load_index("cifar100", prepared["cifar100"], split=1)
    assert index.counts() == {"split1": (100, 50, 50)}
    assert {s.defect for s in index if s.label} == set(layout100.CLASSES[:50])
    assert index.name == "cifar100"


def test_options_that_are_not_right(prepared):
    root = prepared["cifar10"]
    for protocol, split, most in (("uni", 4, 3), ("one_normal", 10, 9), ("one_anomaly", -1, 9)):
        said = f": give a number from 0 to {most}" if split >= 0 else " does not fit"
        with pytest.raises(UserError, match=rf"dataset\.split={split}{said}"):
            load_index("cifar10", root, protocol=protocol, split=split)
    with pytest.raises(UserError, match=r"dataset\.protocol='one'"):
        load_index("cifar10", root, protocol="one")
    with pytest.raises(UserError, match="did you mean 'split0'"):
        load_index("cifar10", root, ["split1"])
    assert load_index("cifar10", root, ["split1"], split=1).categories == ("split1",)


def test_what_is_missing_is_named(tmp_path):
    for name, layout in LAYOUTS.items():
        with pytest.raises(UserError, match=f"ader data prepare dataset={name}_uni") as caught:
            load_index(name, layout.write_archive(tmp_path / name))
        assert f"{tmp_path / name} is not prepared" in str(caught.value)
    root = layout10.write(tmp_path / "x")
    shutil.rmtree(root / "train" / "frog")
    with pytest.raises(UserError, match=r"train/frog does not exist: delete .*prepared\.json and prepare"):
        load_index("cifar10", root)


# Preparing


def prepare(name: str, root: Path, source: Path | None = None, check=lambda: None) -> None:
    module = importlib.import_module(f"ader.datasets.{name}")
    module.prepare(root, source or root, Work(Console(quiet=True), check, 2))


def files(root: Path) -> dict[str, bytes]:
    found = [path for part in ("train", "test") for path in (root / part).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("name", LAYOUTS)
def test_archives_are_as_python_2_pickles(name, tmp_path):
    """The layouts' pickles, read by ``pickle`` itself."""
    layout = LAYOUTS[name]
    folder = layout.write_archive(tmp_path) / layout.FOLDER
    for batch, (pixels, labels) in layout.batches().items():
        content = (folder / batch).read_bytes()
        assert content[:2] == b"\x80\x02"
        loaded = pickle.loads(content, encoding="latin1")
        assert loaded[ARCHIVES[name].labels] == labels
        assert loaded["data"].dtype == np.uint8
        assert loaded["data"].shape == (len(labels), 3072)
        assert (loaded["data"][:, 5] == pixels[:, 0, 5, 0]).all()  # red, first row
        assert (loaded["data"][:, 2048 + 32] == pixels[:, 1, 0, 2]).all()  # blue, second row


@pytest.mark.parametrize("name", LAYOUTS)
def test_prepared_images_are_those_of_the_archive(name, prepared, tmp_path):
    root = LAYOUTS[name].write_archive(tmp_path / "root")
    prepare(name, root)
    found, expected = files(root), files(prepared[name])
    assert found.keys() == expected.keys()
    for path in found:
        image = Image.open(root / path)
        assert (image.mode, image.format) == ("RGB", "PNG")
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(prepared[name] / path))), path
    assert load_index(name, root).samples == load_index(name, prepared[name]).samples
    other = tmp_path / "other"
    prepare(name, other, root / LAYOUTS[name].FOLDER)
    assert files(other) == found


def test_prepared_once_nothing_is_read_again(tmp_path):
    root = layout10.write_archive(tmp_path / "root")
    prepare("cifar10", root)
    first = files(root)
    shutil.rmtree(root / layout10.FOLDER)
    prepare("cifar10", root)
    assert files(root) == first


class Stop(Exception):
    pass


@pytest.mark.parametrize("number", [1, 2, 20, 22, 23, 100, 126])
def test_interrupted_it_goes_on(tmp_path, number):
    """126 checks: one for each of 6 batches, one for each of 120 images."""
    root = layout10.write_archive(tmp_path / "root")
    left = number

    def check() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    with pytest.raises(Stop):
        prepare("cifar10", root, check=check)
    assert not (root / "prepared.json").exists()
    with pytest.raises(UserError, match="is not prepared"):
        load_index("cifar10", root)
    begun = files(root)
    assert not list(root.rglob("*.tmp"))
    if begun:
        path = next(iter(begun))
        (root / path).write_bytes(begun[path][:50])  # as a full disk could leave it
    prepare("cifar10", root)
    assert left <= 0
    assert (root / "prepared.json").read_text() == '{"dataset": "cifar10", "train": 100, "test": 20}\n'
    assert len(files(root)) == 120
    assert all(files(root)[path] == content for path, content in begun.items())


def test_sources_that_are_not_right(tmp_path):
    with pytest.raises(UserError, match=r"does not hold data_batch_1 of cifar-10-python\.tar\.gz"):
        prepare("cifar10", tmp_path)
    root = layout100.write_archive(tmp_path / "root") / layout100.FOLDER
    with pytest.raises(UserError, match="train is a file where a folder is to be made"):
        prepare("cifar100", root)


# Pickles that hold something else


def spoiled(tmp_path: Path, content: object, name: str = "cifar10") -> str:
    path = tmp_path / "data_batch_1"
    path.write_bytes(content if isinstance(content, bytes) else layout10.python2(content))
    with pytest.raises(UserError) as caught:
        read_batch(path, ARCHIVES[name])
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "unpack the archive again" in message
    return message


def test_batches_that_are_not_right(tmp_path):
    data = np.zeros((3, 3072), np.uint8)
    assert "no array 'data' with a list 'labels'" in spoiled(tmp_path, {"data": data, "fine_labels": [1, 2, 3]})
    assert "with a list 'fine_labels'" in spoiled(tmp_path, {"data": data, "labels": [1, 2, 3]}, "cifar100")
    assert "no array 'data'" in spoiled(tmp_path, [1, 2])
    assert "no array 'data'" in spoiled(tmp_path, {"data": "x" * 300, "labels": []})
    assert "a label '10'" in spoiled(tmp_path, {"data": data, "labels": [1, 10, 3]})
    assert "a label 'x'" in spoiled(tmp_path, {"data": data, "labels": [1, "x", 3]})
    assert "holds 2 labels and uint8 images of shape (3, 3072)" in spoiled(tmp_path, {"data": data, "labels": [1, 2]})
    wide = np.zeros((3, 3072), np.uint16)
    assert "uint16 images" in spoiled(tmp_path, {"data": wide, "labels": [1, 2, 3]})
    assert "shape (3, 3000)" in spoiled(tmp_path, {"data": data[:, :3000], "labels": [1, 2, 3]})
    whole = layout10.python2({"data": data, "labels": [1, 2, 3]})
    for cut in (0, 1, 5, 100, len(whole) // 2, len(whole) - 1):
        assert "truncated, damaged or no pickle" in spoiled(tmp_path, whole[:cut])


def test_random_damage_never_escapes_as_another_error(tmp_path):
    whole = layout10.python2({"labels": [1, 2, 3], "data": np.zeros((3, 3072), np.uint8)})
    path, rng = tmp_path / "x", np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        for place in rng.integers(0, 200, 2):
            broken[place] = rng.integers(0, 256)
        path.write_bytes(broken)
        try:
            pixels, labels = read_batch(path, ARCHIVES["cifar10"])
            assert pixels.shape == (len(labels), 32, 32, 3)
        except UserError:
            pass


def test_batches_of_newer_pythons_are_read(tmp_path):
    """Re-saved copies: protocols 2 to 5, arrays in either order."""
    pixels, labels = layout10.batches()["data_batch_1"]
    data = layout10.planes(pixels)
    for protocol in (2, 3, 4, 5):
        for values in (data, np.asfortranarray(data)):
            path = tmp_path / "x"
            path.write_bytes(pickle.dumps({"data": values, "labels": labels, "filenames": ["a", "b" * 300]}, protocol))
            found, numbers = read_batch(path, ARCHIVES["cifar10"])
            assert np.array_equal(found, pixels)
            assert numbers == labels


class Call:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_nothing_in_an_archive_is_run(tmp_path):
    marker = tmp_path / "marker"
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    data = np.zeros((1, 3072), np.uint8)
    short = b"U" + bytes([len(command)]) + command.encode()
    hostile: list[bytes] = [
        pickle.dumps(each, protocol)
        for protocol in (0, 2, 4)
        for run in (Call(os.system, command), Call(eval, code), Call(exec, code), Call(shutil.rmtree, str(tmp_path)))
        for each in (run, {"data": run, "labels": []}, {"data": data, "labels": [run]}, {"x": run, "labels": [0]})
    ]
    hostile += [
        b"\x80\x02cos\nsystem\n" + short + b"\x85R.",
        b"\x80\x02(" + short + b"ios\nsystem\n.",
        b"\x80\x02(cos\nsystem\n" + short + b"o.",
        b"\x80\x02cnumpy\nndarray.tofile\n" + short + b"\x85R.",
        b"\x80\x02cnumpy\nload\n" + short + b"\x85R.",
        b"\x80\x02c__builtin__\neval\n" + short + b"\x85R.",
        b"\x80\x02]q\x00(" + short + b"cos\nsystem\ne.",
        b"\x80\x02" + short + b"Q.",
        b"\x80\x02c_codecs\nencode\n" + short + b"U\x03zip\x86R.",
    ]
    objects = np.empty((1, 1), object)
    objects[0, 0] = Call(os.system, command)
    hostile += [pickle.dumps({"data": objects, "labels": [0]}, protocol) for protocol in (2, 4)]
    pickle.loads(hostile[0])
    assert marker.exists()  # the payload works where it is unpickled
    marker.unlink()
    for content in hostile:
        message = spoiled(tmp_path, content)
        assert not marker.exists()
        assert "names" in message or "holds" in message or "builds" in message or "refers" in message


# Tiny ImageNet


@pytest.fixture
def tiny(tmp_path) -> Path:
    return layout_tiny.write(tmp_path / "tiny") / "tiny-imagenet-200"


def read_tiny(root: Path, split: int = 0) -> Index:
    return load_index("tiny_imagenet", root, split=split)


def test_tiny_imagenet_splits(tiny):
    index = read_tiny(tiny.parent)
    assert (index.root, index.name, index.categories) == (tiny, "tiny_imagenet", ("split0",))
    assert not index.has_masks
    assert index.counts() == {"split0": (100, 100, 100)}
    classes = layout_tiny.CLASSES
    assert {s.image for s in index if s.split == "train"} == {
        f"train/{name}/images/{name}_0.JPEG" for name in classes[:100]
    }
    labels = dict(line.split("\t")[:2] for line in (tiny / "val" / "val_annotations.txt").read_text().splitlines())
    assert {s.image: s.defect for s in index if s.split == "test"} == {
        f"val/images/{file}": name if name in classes[100:] else "good" for file, name in labels.items()
    }
    assert {s.defect for s in read_tiny(tiny, 2) if s.label} == set(classes[1::2])
    assert "test/images/*" in index.exceptions
    assert f"train/{classes[100]}/images/*" in index.exceptions
    assert len(index.exceptions) == 101


def test_tiny_imagenet_errors(tiny):
    def fails(words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            read_tiny(tiny)
        assert str(tiny) in str(caught.value)

    file = tiny / "val" / "val_annotations.txt"
    text = file.read_text()
    for line in ("val_9.JPEG\tn1\t0\t0\t1\t1\n", "val_1.JPEG\tn01443537\t0\n", "\n", "x\n"):
        file.write_text(text + line)
        fails("val_annotations.txt, line 201")
    file.write_text(text.replace("val_7.JPEG", "val_700.JPEG"))
    fails("val/images lacks val_700.JPEG, against")
    file.write_text("".join(text.splitlines(keepends=True)[:-1]))
    fails("val/images has val_199.JPEG, against")
    file.write_text(text)
    (tiny / "val" / "images").rename(tiny / "val" / "sorted")
    fails("val/images does not exist")
    shutil.rmtree(tiny / "train" / layout_tiny.CLASSES[4])
    fails("holds 199 folders, one for each of 200 classes")
    file.unlink()
    fails("does not hold train and val/val_annotations.txt")
