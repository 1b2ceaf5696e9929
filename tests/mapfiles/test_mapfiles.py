"""Maps of other programs: every layout and format exactly, every mistake by name, and pickles that run nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import unicodedata
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ader.data.index import Index, Sample
from ader.mapfiles import open_maps
from ader.mapfiles.folder import saved_names
from ader.runs.inference import save_maps
from ader.system.errors import UserError

SAMPLES = (
    Sample("bottle/train/good/000.png", "bottle", "train", 0),
    Sample("bottle/test/crack/000.png", "bottle", "test", 1, "bottle/ground_truth/crack/000_mask.png", "crack"),
    Sample("bottle/test/good/000.png", "bottle", "test", 0),
    Sample("bottle/test/good/001.v2.png", "bottle", "test", 0),
)
CRACK, GOOD, SECOND = TEST = SAMPLES[1:]
RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((5, 7)).astype(np.float32)
STRANGE = np.array([[np.nan, np.inf, -np.inf], [1e-45, -0.0, 3.4e38]], np.float32)  # nothing may touch these
DEEP = np.array([[0, 1, 255], [256, 32768, 65535]], np.uint16)


@pytest.fixture
def index(tmp_path) -> Index:
    return Index("mvtec", tmp_path / "data", SAMPLES)


def one(tmp_path: Path, sample: Sample = CRACK) -> Index:
    """An index with a single test image."""
    return Index("mvtec", tmp_path / "data", (sample,))


def put(path: Path, values: np.ndarray = MAP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".npy":
        with path.open("wb") as file:  # np.save would add .npy to .NPY
            np.save(file, values)
    else:
        Image.fromarray(values).save(path)
    return path


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit for bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def refused(path: Path, index: Index, *words: str, scores: Path | None = None) -> str:
    """The one-line error of opening, which holds all words."""
    with pytest.raises(UserError) as caught:
        open_maps(path, index, scores)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, (word, message)
    return message


def unreadable(path: Path, *words: str) -> str:
    """The error of reading a single map file, named ``000.<ext>``."""
    folder = path.parent
    sample = Sample(f"{folder.name}/x/000.png", folder.name, "test", 1, (), "x")
    index = Index("mvtec", folder.parent / "data", (sample,))
    (folder / "x").mkdir(exist_ok=True)
    target = folder / "x" / path.name
    path.rename(target)
    source = open_maps(folder.parent, index)
    with pytest.raises(UserError) as caught:
        source.read(sample)
    target.unlink()
    for word in (str(target), *words):
        assert word in str(caught.value), (word, str(caught.value))
    return str(caught.value)


def read_one(path: Path, tmp_path: Path) -> tuple[np.ndarray, float | None]:
    """A map file read through a folder of its own."""
    folder = tmp_path / "single"
    target = folder / "bottle" / "crack" / f"000{path.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    array, score = open_maps(folder, one(tmp_path)).read(CRACK)
    target.unlink()
    assert array.dtype == np.float32
    assert array.flags.writeable
    assert array.flags.c_contiguous
    return array, score


# Folders: names


def test_what_a_run_saves_is_found_and_read_back(tmp_path, index):
    maps = torch.from_numpy(RNG.standard_normal((3, 4, 6)).astype(np.float32))
    save_maps(tmp_path / "maps", list(saved_names(index).values()), maps)
    source = open_maps(tmp_path / "maps", index)
    for sample, expected in zip(TEST, maps.numpy(), strict=True):
        array, score = source.read(sample)
        assert same(array, expected)
        assert score is None
    assert source.extra == ()
    assert source.path == tmp_path / "maps"


@pytest.mark.parametrize(
    ("images", "saved"),
    [
        (["k01/P.jpg", "k02/P.jpg", "k02/Q.jpg"], ["k01/P", "k02/P", "sheet/crack/Q"]),
        (["a/P.jpg", "sheet/crack/P.jpg", "b/Q.jpg"], ["a/P", "sheet/crack/P", "sheet/crack/Q"]),
        (["a/P.jpg", "b/Q.jpg", "sheet/crack/P/P.jpg"], ["a/P", "sheet/crack/Q", "sheet/crack/P/P"]),
    ],
)
def test_images_that_share_a_stem_have_maps_of_their_own(tmp_path, images, saved):
    samples = tuple(Sample(image, "sheet", "test", 1, (), "crack") for image in images)
    index = Index("made-up", tmp_path / "data", samples)
    assert list(saved_names(index).values()) == saved
    maps = torch.arange(3 * 4, dtype=torch.float32).reshape(3, 2, 2)
    save_maps(tmp_path / "maps", saved, maps)
    source = open_maps(tmp_path / "maps", index)
    for sample, expected in zip(samples, maps.numpy(), strict=True):
        assert same(source.read(sample)[0], expected)


def test_layouts_and_extensions_may_mix_where_nothing_is_ambiguous(tmp_path, index):
    maps = tmp_path / "maps"
    put(maps / "bottle/crack/000.NPY")
    put(maps / "bottle/test/good/000.TIFF", MAP + 1)
    put(maps / "bottle/good/001.v2.png", DEEP)
    source = open_maps(maps, index)
    assert same(source.read(CRACK)[0], MAP)
    assert same(source.read(GOOD)[0], MAP + 1)
    assert same(source.read(SECOND)[0], DEEP.astype(np.float32))
    assert source.describe()["format"] == {".npy": 1, ".png": 1, ".tiff": 1}


def test_the_common_layout_serves_datasets_with_another(tmp_path):
    sample = Sample("candle/Data/Images/Anomaly/000.JPG", "candle", "test", 1, (), "bad")
    put(tmp_path / "maps/candle/test/bad/000.npy")
    assert same(open_maps(tmp_path / "maps", one(tmp_path, sample)).read(sample)[0], MAP)


def test_names_are_composed_and_case_counts(tmp_path):
    name = "Größe 画像 é"
    sample = Sample(f"bottle/test/{name}/{name}.png", "bottle", "test", 1, (), name)
    stored = unicodedata.normalize("NFD", name)
    assert stored != name
    put(tmp_path / "maps/bottle" / stored / f"{stored}.npy")
    assert same(open_maps(tmp_path / "maps", one(tmp_path, sample)).read(sample)[0], MAP)
    put(tmp_path / "other/bottle/Crack/000.npy")
    refused(tmp_path / "other", one(tmp_path), "no map of any test image", "bottle/Crack/000.npy")


def test_links_to_maps_and_folders_are_followed_but_not_in_circles(tmp_path, index):
    maps = tmp_path / "maps"
    real = put(tmp_path / "elsewhere/anything.npy")
    (maps / "bottle/crack").mkdir(parents=True)
    (maps / "bottle/crack/000.npy").symlink_to(real)
    (maps / "bottle/self").symlink_to(maps / "bottle", target_is_directory=True)
    put(tmp_path / "good/000.npy", MAP + 1)
    put(tmp_path / "good/001.v2.npy", MAP + 2)
    (maps / "bottle/good").symlink_to(tmp_path / "good", target_is_directory=True)
    source = open_maps(maps, index)
    assert same(source.read(CRACK)[0], MAP)
    assert same(source.read(SECOND)[0], MAP + 2)


def test_a_link_to_itself_is_named(tmp_path, index):
    put(tmp_path / "maps/bottle/good/000.npy")
    (tmp_path / "maps/bottle/good/001.npy").symlink_to("001.npy")
    refused(tmp_path / "maps", index, "001.npy", "remove or mend it")


def test_broken_links_and_vanished_maps_are_named(tmp_path):
    maps = tmp_path / "maps"
    (maps / "bottle/crack").mkdir(parents=True)
    link = maps / "bottle/crack/000.npy"
    link.symlink_to(tmp_path / "gone.npy")
    refused(maps, one(tmp_path), str(link), "cannot be read (No such file")
    link.unlink()
    source = open_maps(put(link).parents[2], one(tmp_path))
    link.unlink()
    with pytest.raises(UserError, match=r"000\.npy cannot be read \(No such file"):
        source.read(CRACK)


def test_missing_maps_are_counted_and_named(tmp_path, index):
    put(tmp_path / "maps/bottle/good/000.npy")
    refused(
        tmp_path / "maps",
        index,
        f"{tmp_path / 'maps'} lacks the map of 2 of 3 test images",
        "(bottle/test/crack/000.png, bottle/test/good/001.v2.png)",
        "bottle/test/crack/000 or bottle/crack/000 with one of .npy .npz .png .tif .tiff",
        "dataset.categories",
    )
    (tmp_path / "maps/bottle/crack/000.npy").mkdir(parents=True)  # a folder is no map
    refused(tmp_path / "maps", index, "2 of 3")


def test_a_wrong_folder_is_told_the_layout_and_what_it_holds(tmp_path, index):
    put(tmp_path / "run/maps/deep/bottle/crack/000.npy")
    refused(tmp_path / "run", index, "no map of any test image of 'mvtec'", "it holds maps/deep/bottle/crack/000.npy")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", index, "bottle/crack/000", "it holds nothing of the kind")
    refused(tmp_path / "nowhere", index, f"{tmp_path / 'nowhere'} does not exist")
    refused(put(tmp_path / "map.npy"), index, "neither a folder of maps nor a .pkl")


def test_two_candidates_are_named(tmp_path):
    put(tmp_path / "a/bottle/crack/000.npy")
    put(tmp_path / "a/bottle/crack/000.png", DEEP)
    message = refused(tmp_path / "a", one(tmp_path), "two maps for bottle/test/crack/000.png", "remove")
    assert "bottle/crack/000.npy" in message
    assert "bottle/crack/000.png" in message
    put(tmp_path / "b/bottle/crack/000.npy")
    put(tmp_path / "b/bottle/test/crack/000.npy")
    refused(tmp_path / "b", one(tmp_path), "bottle/test/crack/000.npy and bottle/crack/000.npy")


def test_one_file_for_two_images_is_refused(tmp_path):
    twins = [Sample(f"bottle/test/{part}/000.png", "bottle", "test", 0) for part in ("good", "ok")]
    index = Index("mvtec", tmp_path, tuple(twins))
    put(tmp_path / "a/bottle/good/000.npy")
    refused(
        tmp_path / "a", index, "bottle/good/000.npy could be the map of bottle/test/good/000.png and of bottle/test/ok"
    )
    for part in ("good", "ok"):  # the images' own paths tell them apart
        put(tmp_path / f"b/bottle/test/{part}/000.npy", MAP + (part == "ok"))
    source = open_maps(tmp_path / "b", index)
    assert [same(source.read(twin)[0], MAP + step) for step, twin in enumerate(twins)] == [True, True]
    jpeg = Index("mvtec", tmp_path, (GOOD, Sample("bottle/test/good/000.jpg", "bottle", "test", 0)))
    refused(tmp_path / "a", jpeg, "could be the map of")


def test_files_of_no_test_image_are_told(tmp_path, index):
    maps = tmp_path / "maps"
    for name in ("crack/000", "good/000", "good/001.v2", "good/999", "train/good/000"):
        put(maps / f"bottle/{name}.npy")
    (maps / "scores.csv").touch()
    (maps / ".hidden.npy").touch()
    source = open_maps(maps, index)
    assert source.extra == ("bottle/good/999.npy", "bottle/train/good/000.npy")


def test_images_are_not_taken_for_their_own_maps(tmp_path, index):
    for sample in SAMPLES:
        put(tmp_path / "data" / sample.image, DEEP)
    refused(tmp_path / "data", index, "no map of any test image")
    for sample in TEST:  # maps beside the images
        put((tmp_path / "data" / sample.image).with_suffix(".npy"))
    assert same(open_maps(tmp_path / "data", index).read(GOOD)[0], MAP)


def test_facts_follow_the_content_and_not_the_place(tmp_path):
    def facts(folder: str, values: np.ndarray) -> dict:
        put(tmp_path / folder / "bottle/crack/000.npy", values)
        return open_maps(tmp_path / folder, one(tmp_path)).describe()

    first, moved, other = facts("a", MAP), facts("b", MAP), facts("c", MAP + 1)
    json.dumps(first)
    assert (first["kind"], first["path"], first["files"]) == ("folder", str(tmp_path / "a"), 1)
    assert first["format"] == {".npy": 1}
    assert first["sha256"] == moved["sha256"] != other["sha256"]
    assert first["sha256_of"] == "names and contents of the map files"


def test_files_of_several_kinds_are_told(tmp_path, index):
    def mixed(folder: str, *endings: str) -> bool:
        for sample, ending in zip(TEST, endings, strict=True):
            put((tmp_path / folder / sample.image).with_suffix(ending), MAP if ending != ".png" else DEEP)
        fact = open_maps(tmp_path / folder, index).describe()["mixed"]
        assert type(fact) is bool
        return fact

    assert not mixed("arrays", ".npy", ".npy", ".NPY")
    assert not mixed("tiffs", ".tif", ".tiff", ".TIF")  # one kind
    assert mixed("both", ".npy", ".npy", ".png")
    assert mixed("tiff and array", ".tif", ".tiff", ".npy")
    put(tmp_path / "arrays/bottle/train/good/000.png", DEEP)  # no test image's
    assert not mixed("arrays", ".npy", ".npy", ".NPY")


def test_the_home_folder_may_be_written_short(tmp_path, index, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    scores = table(tmp_path / "scores.csv", *(f"{sample.image},1" for sample in TEST))
    dump(tmp_path / "x.pkl", dictionary())
    source = open_maps(Path("~/maps"), index, Path("~/scores.csv"))
    assert source.path == folder
    assert (source.describe()["path"], source.describe()["scores"]["path"]) == (str(folder), str(scores))
    assert open_maps(Path("~/x.pkl"), index).path == tmp_path / "x.pkl"
    refused(Path("~nobody-at-all/maps"), index, "~nobody-at-all/maps does not exist")
    refused(folder, index, "~nobody-at-all/x.csv cannot be read", scores=Path("~nobody-at-all/x.csv"))


# Folders: formats


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "u1", "i1", "u2", ">i2", "i4", "u4", "i8", "?"])
@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (5, 7, 1), (1, 1, 5, 7)])
def test_npy_of_every_type_and_shape(tmp_path, dtype, shape):
    values = (MAP * 50).astype(dtype) if dtype != "u4" else np.full((5, 7), 2**32 - 256, dtype)
    path = put(tmp_path / "x.npy", values.reshape(shape))
    assert same(read_one(path, tmp_path)[0], values.astype(np.float32))


def test_npy_keeps_every_bit_and_order(tmp_path):
    assert same(read_one(put(tmp_path / "x.npy", STRANGE), tmp_path)[0], STRANGE)
    assert same(read_one(put(tmp_path / "x.npy", np.asfortranarray(MAP)), tmp_path)[0], MAP)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 5, 3)), ("shape (4, 5, 3)", "one score per pixel")),
        (np.zeros((3, 4, 5)), ("shape (3, 4, 5)",)),
        (np.zeros((2, 1, 4, 5)), ("shape (2, 1, 4, 5)",)),
        (np.zeros(5), ("shape (5,)",)),
        (np.zeros((1, 1, 1, 4, 5)), ("shape",)),
        (np.zeros((0, 5)), ("is empty", "(0, 5)")),
        (np.zeros((2, 2), complex), ("complex128", "one real number per pixel")),
        (np.array([["a"]]), ("<U1",)),
        (np.zeros((2, 2), "f4,f4"), ("one real number per pixel",)),
        (np.zeros((2, 2), "M8[s]"), ("datetime64",)),
        (np.array([[None]]), ("Python objects, which are never loaded",)),
        (np.array([[1e300]]), ("finite values beyond float32",)),
    ],
)
def test_npy_that_is_no_map(tmp_path, values, words):
    unreadable(put(tmp_path / "bottle/000.npy", values), *words)


def test_damaged_npy(tmp_path):
    path = put(tmp_path / "bottle/000.npy")
    whole = path.read_bytes()
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (2**31, 2**31)})
    pickled = pickle.dumps({"map": MAP})
    for content in (whole[:-1], whole[:40], b"", b"text", pickled, huge.getvalue() + b"1234"):
        path.write_bytes(content)
        unreadable(path, "truncated, damaged or no .npy file")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    for number, (arrays, score) in enumerate(
        [
            ({"anything": MAP}, None),
            ({"arr_0": MAP}, None),
            ({"map": MAP, "label": np.zeros(3)}, None),
            ({"anomaly_map": MAP[None], "score": 0.1}, 0.1),
            ({"anomaly_maps": MAP[None, None], "pred_score": np.float32([0.5]), "label": 1}, 0.5),
            ({"amap": MAP, "image_score": np.int64([[3]])}, 3.0),
            ({"whatever": MAP, "score": 2}, 2.0),
        ]
    ):
        save(tmp_path / f"{number}.npz", **arrays)
        array, found = read_one(tmp_path / f"{number}.npz", tmp_path)
        assert same(array, MAP)
        assert found == score
        assert score is None or type(found) is float


def test_npz_that_is_no_map(tmp_path):
    path = tmp_path / "bottle/000.npz"
    path.parent.mkdir()
    for arrays, words in [
        ({"a": MAP, "b": MAP}, ("holds a, b", "cannot be told", "named 'map'")),
        ({"map": MAP, "amap": MAP}, ("holds map, amap",)),
        ({"score": 1.0}, ("holds score",)),
        ({"map": MAP, "score": 1, "pred_score": 1}, ("cannot be told",)),
        ({"map": MAP, "score": np.zeros(2)}, ("no number as its 'score'", "(2,)")),
        ({"map": MAP, "score": "high"}, ("no number as its 'score'",)),
        ({"map": np.array([[None]])}, ("Python objects",)),
        ({"map": MAP, "score": np.array(None)}, ("Python objects",)),
        ({"map": np.zeros((3, 4, 5))}, ("shape (3, 4, 5)",)),
    ]:
        np.savez(path, **arrays)
        unreadable(path, *words)
    np.savez(path, map=MAP)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    unreadable(path, "truncated, damaged")
    path.write_bytes(whole[:150] + bytes([whole[150] ^ 1]) + whole[151:])
    unreadable(path, "truncated, damaged", "CRC")
    put(path.with_suffix(".npy")).rename(path)
    unreadable(path, "is no .npz archive")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "text")
    unreadable(path, "one real number per pixel")


def test_png_values_are_kept(tmp_path):
    gray = np.array([[0, 7], [128, 255]], np.uint8)
    for values in (DEEP, gray):
        assert same(read_one(put(tmp_path / "x.png", values), tmp_path)[0], values.astype(np.float32))
    everything = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert same(read_one(put(tmp_path / "x.PNG", everything), tmp_path)[0], everything.astype(np.float32))


def test_png_of_few_bits_is_spread_as_png_defines(tmp_path):
    """An image optimizer stores an 8-bit map of few values in fewer bits; its values stay what they were."""
    values = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(values).convert("1").save(path)
    assert same(read_one(path, tmp_path)[0], values.astype(np.float32))


def test_gray_that_is_stored_as_color_is_accepted(tmp_path):
    gray = np.array([[0, 7], [128, 255]], np.uint8)
    image = Image.fromarray(gray)
    palette = image.copy().convert("P")
    for converted in (image.convert("RGB"), image.convert("RGBA"), image.convert("LA"), palette):
        path = tmp_path / "x.png"
        converted.save(path)
        assert same(read_one(path, tmp_path)[0], gray.astype(np.float32)), converted.mode
    image.convert("RGB").save(tmp_path / "x.tif")
    assert same(read_one(tmp_path / "x.tif", tmp_path)[0], gray.astype(np.float32))
    image.convert("RGB").save(tmp_path / "x.png", transparency=(7, 7, 7))
    assert same(read_one(tmp_path / "x.png", tmp_path)[0], gray.astype(np.float32))


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG of any depth and color type; Pillow writes no 16-bit colors."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_pngs_that_are_no_maps(tmp_path):
    path = tmp_path / "bottle/000.png"
    path.parent.mkdir()
    heat = RNG.integers(0, 256, (4, 4, 3), np.uint8)
    for image in (Image.fromarray(heat), Image.fromarray(heat).quantize(8)):
        image.save(path)
        unreadable(path, "is in color", "colors are no scores", ".npy")
    Image.fromarray(np.dstack([heat[..., :1]] * 3 + [heat[..., 1:2]])).save(path)
    unreadable(path, "partly transparent")
    path.write_bytes(png(1, 1, 16, 2, b"\0" + bytes([1, 2] * 3)))
    unreadable(path, "16-bit colors", "low bytes")
    path.write_bytes(png(1, 1, 16, 4, b"\0" + bytes([1, 2, 255, 255])))
    unreadable(path, "16-bit colors")
    frame = Image.fromarray(DEEP.astype(np.uint8))
    frame.save(path, save_all=True, append_images=[Image.fromarray(DEEP.astype(np.uint8) + np.uint8(9))])
    unreadable(path, "2 frames", "one map per file")
    Image.fromarray(heat).save(path, format="JPEG")
    unreadable(path, "is no PNG")
    path.write_bytes(b"")
    unreadable(path, "is no PNG")
    Image.fromarray(RNG.integers(0, 65536, (64, 64), np.uint16)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    unreadable(path, "truncated, damaged")
    Image.fromarray(DEEP).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-16] + bytes(4) + content[-12:])
    unreadable(path, "is damaged (checksum of 'IDAT'")


@pytest.mark.parametrize("name", ["000.npy", "000.npz", "000.png", "000.tif"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name):
    folder = tmp_path / "bottle" / "x"
    folder.mkdir(parents=True)
    os.mkfifo(folder / name)
    index = Index("mvtec", tmp_path / "data", (Sample("bottle/x/000.png", "bottle", "test", 1, (), "x"),))
    with pytest.raises(UserError, match=f"{name} is a FIFO, not a file"):
        open_maps(tmp_path, index)
    for own in ("maps.pkl", "scores.csv"):
        os.mkfifo(tmp_path / own)
    with pytest.raises(UserError, match=r"maps\.pkl is a FIFO, not a file"):
        open_maps(tmp_path / "maps.pkl", index)
    (folder / name).unlink()
    np.save(folder / "000.npy", MAP)
    with pytest.raises(UserError, match=r"scores\.csv is a FIFO, not a file"):
        open_maps(tmp_path, index, tmp_path / "scores.csv")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_keeps_every_bit(tmp_path, compression):
    signed = np.array([[-(2**31), -1, 0], [1, 2**24, 2**31 - 128]], np.int32)
    for values in (MAP, STRANGE, DEEP, signed, DEEP.astype(np.uint8)):
        path = tmp_path / "x.tif"
        Image.fromarray(values).save(path, compression=compression)
        assert same(read_one(path, tmp_path)[0], values.astype(np.float32)), values.dtype


def tiff(values: np.ndarray, kind: int, white: int = 1) -> bytes:
    """An uncompressed little-endian TIFF; Pillow writes no unsigned 32-bit, signed 8-bit or float64 one."""
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    height, width = values.shape
    tags = {
        256: width,
        257: height,
        258: values.dtype.itemsize * 8,
        259: 1,
        262: white,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
        339: kind,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_tiffs_of_other_programs(tmp_path):
    unsigned = np.array([[0, 2**31], [2**32 - 256, 5]], np.uint32)
    for values, kind in (
        (unsigned, 1),
        (np.array([[-128, -1], [0, 127]], np.int8), 2),
        (np.array([[-32768, -1], [0, 32767]], np.int16), 2),
        (STRANGE, 3),
    ):
        path = tmp_path / "x.tiff"
        path.write_bytes(tiff(values, kind))
        assert same(read_one(path, tmp_path)[0], values.astype(np.float32)), values.dtype


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_tiffs_that_are_no_maps(tmp_path):
    path = tmp_path / "bottle/000.tif"
    path.parent.mkdir()
    for values in (MAP.astype(np.float64), MAP.astype(np.float16)):
        path.write_bytes(tiff(values, 3))
        unreadable(path, "is no TIFF that can be read", "float16 and float64 are not", "save float32")
    path.write_bytes(tiff(DEEP, 1, white=0))
    unreadable(path, "0 is white")
    image = Image.fromarray(MAP)
    image.save(path, save_all=True, append_images=[image])
    unreadable(path, "2 frames")
    Image.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8)).save(path)
    unreadable(path, "is in color")
    Image.fromarray(RNG.integers(0, 256, (4, 4, 4), np.uint8), "CMYK").save(path)
    unreadable(path, "color mode CMYK")
    big = tiff(RNG.standard_normal((50, 50)).astype(np.float32), 3)
    path.write_bytes(big[:8] + big[-200:])
    unreadable(path)
    Image.fromarray(RNG.standard_normal((50, 50)).astype(np.float32)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    unreadable(path, "truncated, damaged")


# ADEval's pickle


def dictionary(prefix: str = "/data/mvtec/") -> dict:
    return {
        f"{prefix}{CRACK.image}": (MAP, 0.25, "/data/mask.png"),
        f"{prefix}{GOOD.image}": (MAP + 1, np.float32(0.1), None),
        f"{prefix}{SECOND.image}": (MAP + 2, 7, None),
    }


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", [".pkl", ".PICKLE"])
def test_pickles_of_every_protocol(tmp_path, index, protocol, suffix):
    source = open_maps(dump(tmp_path / f"maps{suffix}", dictionary(), protocol), index)
    for sample, step, score in zip(TEST, range(3), (0.25, float(np.float32(0.1)), 7.0), strict=True):
        array, found = source.read(sample)
        assert same(array, MAP + step)
        assert array.flags.writeable
        assert type(found) is float
        assert found == score
    assert source.extra == ()


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_kind_survive_pickling(tmp_path, protocol):
    """Compared with what ``pickle`` itself gives back."""
    many = RNG.standard_normal((40, 30))
    frozen = many.copy()
    frozen.flags.writeable = False
    for values in (
        many,
        many.T,
        frozen,
        many[::2, ::3],
        many.astype(">f4"),
        many.astype(np.float16),
        (many * 9).astype(np.int8),
        many > 0,
        many[None],
        many.T[..., None],
        many[None, None],
        STRANGE,
        MAP[:1, :1],
        np.zeros((300, 400), np.uint64),
    ):
        content = {CRACK.image: (values, 1.0, None)}
        path = dump(tmp_path / "x.pkl", content, protocol)
        expected = pickle.loads(path.read_bytes())[CRACK.image][0].squeeze().astype(np.float32)
        assert same(open_maps(path, one(tmp_path)).read(CRACK)[0], expected.reshape(values.squeeze().shape or (1, 1)))


def test_pickles_written_with_numpy_1_and_2_are_the_same(tmp_path, index):
    for protocol in range(6):
        content = pickle.dumps(dictionary(), protocol)
        for a, b in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
            if protocol < 4:  # later protocols count the bytes of a name
                path = dump(tmp_path / "x.pkl", content.replace(a, b))
                assert same(open_maps(path, index).read(GOOD)[0], MAP + 1)


def test_shared_arrays_and_many_maps(tmp_path):
    """Long memos, and the same array under two keys."""
    samples = tuple(Sample(f"bottle/test/crack/{n:04}.png", "bottle", "test", 1, (), "crack") for n in range(1000))
    shared = RNG.standard_normal((20, 20)).astype(np.float32)
    content = {sample.image: (shared if n % 2 else shared + n, float(n), None) for n, sample in enumerate(samples)}
    index = Index("mvtec", tmp_path, samples)
    for protocol in (2, 5):
        source = open_maps(dump(tmp_path / "x.pkl", content, protocol), index)
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(source.read, samples))
        for n, (array, score) in enumerate(read):
            assert same(array, shared if n % 2 else shared + n)
            assert score == n


@pytest.mark.parametrize("prefix", ["", "./", "/home/me/data//mvtec/", "C:\\data\\mvtec\\", "bottle/test/crack/"])
def test_keys_may_have_any_prefix(tmp_path, index, prefix):
    content = {key.replace("/", "\\") if "\\" in prefix else key: row for key, row in dictionary(prefix).items()}
    assert same(open_maps(dump(tmp_path / "x.pkl", content), index).read(SECOND)[0], MAP + 2)


def test_keys_match_whole_components_and_the_longest_path(tmp_path, index):
    rows = dictionary()
    rows["/data/mvtec/bigbottle/test/good/000.png"] = (MAP, 0.0, None)
    rows["/data/mvtec/cable/test/good/000.png"] = (MAP, 0.0, None)
    assert open_maps(dump(tmp_path / "x.pkl", rows), index).extra == (
        "/data/mvtec/bigbottle/test/good/000.png",
        "/data/mvtec/cable/test/good/000.png",
    )
    short = Sample("good/000.png", "all", "test", 0)
    nested = Index("mvtec", tmp_path, (*TEST, short))
    refused(tmp_path / "x.pkl", nested, "two maps for good/000.png")  # of the two other categories
    rows = {**dictionary(), "/elsewhere/good/000.png": (MAP + 9, 0.0, None)}
    source = open_maps(dump(tmp_path / "x.pkl", rows), nested)
    assert same(source.read(short)[0], MAP + 9)
    assert same(source.read(GOOD)[0], MAP + 1)


def test_names_in_keys_are_composed(tmp_path):
    sample = Sample("größe/test/é/画 1.png", "größe", "test", 1, (), "é")
    key = "/daten/" + unicodedata.normalize("NFD", sample.image)
    for protocol in (0, 4):
        path = dump(tmp_path / "x.pkl", {key: (MAP, 1.0, None)}, protocol)
        assert same(open_maps(path, one(tmp_path, sample)).read(sample)[0], MAP)


def test_missing_and_double_keys(tmp_path, index):
    rows = dictionary()
    del rows["/data/mvtec/bottle/test/crack/000.png"]
    path = dump(tmp_path / "x.pkl", rows)
    refused(path, index, str(path), "lacks the map of 1 of 3 test images (bottle/test/crack/000.png)", "a key must end")
    path = dump(tmp_path / "x.pkl", {"a.png": (MAP, 1.0, None)})
    refused(path, index, "no map of any test image", "it holds a.png")
    refused(dump(path, {}), index, "no map of any test image", "it holds nothing")
    path = dump(path, {**dictionary(), **dictionary("/other/")})
    refused(
        path,
        index,
        "two maps for bottle/test/crack/000.png",
        "/data/mvtec/bottle/test/crack/000.png and /other/bottle/test/crack/000.png (and 2 more images have two)",
    )


def test_facts_of_a_pickle(tmp_path, index):
    facts = open_maps(dump(tmp_path / "x.pkl", dictionary()), index).describe()
    json.dumps(facts)
    assert (facts["kind"], facts["files"], facts["sha256_of"]) == ("pickle", 1, "the whole file")
    assert facts["mixed"] is False
    assert "mask paths in the pickle are ignored" in facts["masks"]
    other = open_maps(dump(tmp_path / "y.pkl", dictionary("/x/")), index).describe()
    assert other["sha256"] != facts["sha256"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], ("holds more than plain arrays", "save {image path:")),
        (("a",), ("holds no dict", "save {image path:")),
        (MAP, ("holds no dict",)),
        ({"a.png": MAP}, ("something else under 'a.png'",)),
        ({"a.png": (MAP, 1.0)}, ("something else under 'a.png'",)),
        ({"a.png": (MAP, "high", None)}, ("something else under 'a.png'",)),
        ({"a.png": (MAP, None, None)}, ("something else under 'a.png'",)),
        ({"a.png": (MAP, 1.0, 3)}, ("something else under 'a.png'",)),
        ({"a.png": (1.0, 1.0, None)}, ("something else under 'a.png'",)),
        ({1: (MAP, 1.0, None)}, ("a key of type int",)),
        ({("a", "b"): (MAP, 1.0, None)}, ("a key of type tuple",)),
        ({Path("a.png"): (MAP, 1.0, None)}, ("pathlib", "only plain NumPy arrays")),
        ({"a.png": (np.zeros((3, 4, 5)), 1.0, None)}, ("under 'a.png' a map that has shape (3, 4, 5)",)),
        ({"a.png": (np.zeros((2, 2), complex), 1.0, None)}, ("type 'c16'", "real numbers")),
        ({"a.png": (np.array([[object]]), 1.0, None)}, ("type 'O8'",)),
        ({"a.png": (np.zeros((2, 2), "f4,f4"), 1.0, None)}, ("type 'V8'",)),
        ({"a.png": (np.zeros((2, 2)).view(np.recarray), 1.0, None)}, ("recarray", "nothing in it is ever run")),
        ({"a.png": (np.ma.masked_array([[1.0]]), 1.0, None)}, ("numpy.ma",)),
        ({"a.png": (torch.zeros(2, 2), 1.0, None)}, ("names 'torch._utils._rebuild_tensor_v2'",)),
    ],
)
def test_pickles_that_hold_something_else(tmp_path, index, content, words):
    for protocol in (2, 5):
        path = dump(tmp_path / "x.pkl", content, protocol)
        refused(path, index, str(path), *words)


def test_empty_maps_in_pickles(tmp_path, index):
    refused(
        dump(tmp_path / "x.pkl", {"a.png": (np.zeros((0, 5)), 1.0, None)}), index, "under 'a.png' a map that is empty"
    )


def test_damaged_pickles(tmp_path, index):
    whole = pickle.dumps(dictionary(), 4)
    for cut in (0, 1, 2, 50, 200, len(whole) // 2, len(whole) - 1):
        refused(dump(tmp_path / "x.pkl", whole[:cut]), index, "x.pkl is truncated, damaged or no pickle")
    refused(dump(tmp_path / "x.pkl", b"\x89PNG not a pickle"), index, "x.pkl")
    source = open_maps(dump(tmp_path / "x.pkl", {CRACK.image: (np.zeros((50, 50)), 1.0, None)}), one(tmp_path))
    content = (tmp_path / "x.pkl").read_bytes()
    for cut in (100, len(content) // 2, len(content) // 2 + 1):  # whole numbers of values, and not
        dump(tmp_path / "x.pkl", content[:cut])
        with pytest.raises(UserError, match="the file has changed"):
            source.read(CRACK)
    (tmp_path / "x.pkl").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        source.read(CRACK)


def test_random_damage_never_escapes_as_another_error(tmp_path, index):
    for protocol in (0, 2, 4, 5):
        whole = pickle.dumps(dictionary(), protocol)
        for _ in range(60):
            broken = bytearray(whole)
            for place in RNG.integers(0, len(whole), 2):
                broken[place] = RNG.integers(0, 256)
            try:
                source = open_maps(dump(tmp_path / "x.pkl", bytes(broken)), index)
                for sample in TEST:
                    source.read(sample)
            except UserError:
                pass


# Pickles that want to do harm


class Call:
    """Pickles as a call of ``function``; ``state`` is what the result's ``__setstate__`` is given."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


class Foreign(np.ndarray):
    """An array type that runs code when it is restored."""

    def __setstate__(self, state):
        os.system(state)


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def test_the_payload_works_where_it_is_unpickled(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Call(os.system, f"touch {marker}")))
    assert marker.exists()


def harmful(folder: Path) -> dict[str, object]:
    """Pickles that make ``folder/marker`` or ``folder/marker.npy`` in an ordinary or a carelessly restricted unpickler.

    The last dozen are no use to an attacker by themselves, but are no maps either.
    """
    command, code = f"touch {folder / 'marker'}", f"open({str(folder / 'marker')!r}, 'w').close()"
    run, touch = Call(os.system, command), command.encode()
    array = np.empty((1, 1), object)
    array[0, 0] = run
    np.save(folder / "objects.npy", array)
    reconstruct = np.zeros(1).__reduce__()[0]
    return {
        "system": run,
        "system as a map": {"a.png": (run, 1.0, None)},
        "system as a score": {"a.png": (MAP, run, None)},
        "system as a mask": {"a.png": (MAP, 1.0, run)},
        "system beside the maps": {**dictionary(), "x": run},
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "object array": {"a.png": (array, 1.0, None)},
        "object scalar": {"a.png": (MAP, Call(np.zeros(1)[0].__reduce__()[0], np.dtype("O"), run), None)},
        "numpy.load": Call(np.load, str(folder / "objects.npy"), None, True),
        "numpy.save": Call(np.save, str(folder / "marker"), MAP),
        "numpy's method": Call(np.ndarray.tofile, MAP, str(folder / "marker")),
        "foreign subtype": Call(reconstruct, Foreign, (0,), b"b", state=command),
        "global": b"cos\nsystem\n(V" + touch + b"\ntR.",
        "global of protocol 2": b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(touch)) + touch + b"\x85R.",
        "stack global": b"\x80\x04" + short("os") + short("system") + b"\x93" + short(command) + b"\x85R.",
        "inst": b"(V" + touch + b"\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nV" + touch + b"\no.",
        "dotted": b"\x80\x04" + short("numpy") + short("ndarray.tofile") + b"\x93" + short(command) + b"\x85R.",
        "dotted module": b"\x80\x04" + short("numpy.lib.npyio") + short("load") + b"\x93" + short(command) + b"\x85R.",
        "numpy's os": b"\x80\x04" + short("numpy") + short("os.system") + b"\x93" + short(command) + b"\x85R.",
        "inst of a known name": b"(c_codecs\nencode\ninumpy\nndarray\n.",
        "newobj": b"\x80\x04cnumpy\nndarray\n(K\x02K\x02t\x85\x81.",
        "newobj_ex": b"\x80\x04cnumpy\nndarray\n)}\x92.",
        "persistent id": b"P" + touch + b"\n.",
        "binary persistent id": short(command) + b"Q.",
        "extension": b"\x80\x02\x82\x01.",
        "build on a name": b"\x80\x04cnumpy\nndarray\n}" + short("x") + b"cos\nsystem\nsb.",
        "build on known names": b"\x80\x04c_codecs\nencode\n}" + short("__call__") + b"cnumpy\ndtype\nsb.",
        "dtype of objects": b"\x80\x04cnumpy\ndtype\n" + short("O8") + b"\x89\x88\x87R.",
        "dtype of a name": b"\x80\x04cnumpy\ndtype\ncnumpy\nndarray\n\x89\x88\x87R.",
        "codec": b"\x80\x04c_codecs\nencode\n" + short("x") + short("zip") + b"\x86R.",
        "out-of-band buffer": b"\x80\x05\x97.",
    }


def test_nothing_in_a_pickle_is_run(tmp_path, index):
    for name, content in harmful(tmp_path).items():
        for protocol in (0, 2, 4, 5):
            path = dump(tmp_path / "x.pkl", content, protocol)
            refused(path, index, str(path))
            assert not list(tmp_path.glob("marker*")), name


def test_the_refusal_names_the_class(tmp_path, index):
    for content, name in (
        (Call(os.system, "true"), f"{os.system.__module__}.system"),
        (Call(eval, "1"), "builtins.eval"),
        (Call(np.load, "x"), "numpy.load"),
        (b"cnumpy\nndarray.tofile\n.", "numpy.ndarray.tofile"),
    ):
        refused(dump(tmp_path / "x.pkl", content), index, f"names {name!r}", "nothing in it is ever run")
    refused(dump(tmp_path / "x.pkl", b"Pabc\n."), index, "persistent id")
    refused(dump(tmp_path / "x.pkl", b"(Vtrue\nios\nsystem\n."), index, "INST os system")


def test_claims_of_size_cost_nothing(tmp_path, index):
    """Shapes, lengths and memo numbers far beyond the file: refused without allocating them."""
    array = pickle.dumps({"a.png": (np.zeros((3, 5), np.float32), 1.0, None)}, 4)
    assert array.count(b"K\x03K\x05\x86") == 1
    for shape in (
        b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86",
        b"K\x03J\xff\xff\xff\xff\x86",
        b"K\x03G" + bytes(8) + b"\x86",
    ):
        refused(dump(tmp_path / "x.pkl", array.replace(b"K\x03K\x05\x86", shape)), index, "under 'a.png' a map that")
    many = b"(" + b"K\x01" * 10_000 + b"t"
    refused(
        dump(tmp_path / "x.pkl", array.replace(b"K\x03K\x05\x86", many)), index, "under 'a.png' a map that has shape"
    )
    for content in (
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",  # a length of bytes
        b"\x80\x04\x96" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x04Nr\xff\xff\xff\xff.",  # a memo number: pickle itself takes 64 GiB for it
        b"Np99999999999999\n.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",  # a frame
    ):
        began = time.perf_counter()
        refused(dump(tmp_path / "x.pkl", content), index, "x.pkl")
        assert time.perf_counter() - began < 5


def test_depth_costs_nothing(tmp_path, index):
    """Nested tuples as a key, the hash of which overflows the stack of an ordinary unpickler."""
    deep = b"\x80\x04}K\x01" + b"\x85" * 200_000
    refused(dump(tmp_path / "x.pkl", deep + b"Ns."), index, "a key of type tuple")
    value = b"\x80\x04}" + short("a") + deep[3:20_000] + b"s."
    refused(dump(tmp_path / "x.pkl", value), index, "something else under 'a'")
    circle = b"\x80\x04}q\x00" + short("a") + b"h\x00s."  # a dict that holds itself
    refused(dump(tmp_path / "x.pkl", circle), index, "something else under 'a'")


# Scores


def table(path: Path, *rows: str, header: str = "image,score", encoding: str = "utf-8") -> Path:
    path.write_text("\n".join((header, *rows, "")), encoding=encoding)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    for sample in TEST:
        put((tmp_path / "maps" / sample.image).with_suffix(".npy"))
    return tmp_path / "maps"


def test_scores_of_a_csv_go_before_all_others(tmp_path, index, folder):
    rows = [
        f"{CRACK.image},0.125",
        f"/x/{GOOD.image},-2",
        f"C:\\x\\{SECOND.image},1e3".replace("/", "\\"),
        "other.png,5",
    ]
    scores = table(tmp_path / "scores.csv", *rows, encoding="utf-8-sig")
    for path in (folder, dump(tmp_path / "x.pkl", dictionary())):
        source = open_maps(path, index, scores)
        assert [source.read(sample)[1] for sample in TEST] == [0.125, -2.0, 1000.0]
        facts = source.describe()["scores"]
        json.dumps(facts)
        assert (facts["path"], facts["rows"], facts["unused_rows"]) == (str(scores), 4, 1)
        assert len(facts["sha256"]) == 64


def test_columns_may_stand_in_any_order_and_names_stay_texts(tmp_path):
    sample = Sample("001", "all", "test", 0, (), "good")
    put(tmp_path / "maps/all/good/001.npy")
    scores = table(tmp_path / "s.csv", "x,3,001", "y,4,1", header="note,score,image")
    assert open_maps(tmp_path / "maps", one(tmp_path, sample), scores).read(sample)[1] == 3.0
    comma = Sample("a, b.png", "all", "test", 0, (), "good")
    put(tmp_path / "maps/all/good/a, b.npy")
    scores = table(tmp_path / "s.csv", '"a, b.png",3')
    assert open_maps(tmp_path / "maps", one(tmp_path, comma), scores).read(comma)[1] == 3.0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [f"{CRACK.image},1", f"{GOOD.image},1"],
            ("lacks the score of 1 of 3 test images (bottle/test/good/001.v2.png)",),
        ),
        (["a,1"], ("no score of any test image", "it holds a")),
        ([], ("no score of any test image",)),
        (
            [f"{sample.image},1" for sample in TEST] + [f"/x/{GOOD.image},2"],
            (f"two scores for {GOOD.image}", f"line 3 ('{GOOD.image}')", f"line 5 ('/x/{GOOD.image}')"),
        ),
        ([f"{CRACK.image},high"], ("line 2", CRACK.image, "'high' is not a number")),
        ([f"{CRACK.image},nan"], ("line 2", "'nan' is not a number")),
        ([f"{CRACK.image},"], ("line 2", "'' is not a number")),
        ([f"{CRACK.image},1,5"], ("line 2", "another number of fields")),
        ([f"{GOOD.image},1", CRACK.image], ("line 3", "another number of fields")),
        (['"a,1'], ("cannot be read", "UTF-8")),
    ],
)
def test_scores_that_are_not_right(tmp_path, index, folder, rows, words):
    scores = table(tmp_path / "scores.csv", *rows)
    refused(folder, index, str(scores), *words, scores=scores)


def test_files_that_are_no_scores(tmp_path, index, folder):
    scores = table(tmp_path / "scores.csv", header="image;score")
    refused(folder, index, "must begin with the header image,score", "'image;score'", scores=scores)
    scores.write_bytes(b"")
    refused(folder, index, "must begin with the header image,score", scores=scores)
    scores.write_bytes("image,score\nü,1\n".encode("latin-1"))
    refused(folder, index, str(scores), "cannot be read", "UTF-8", scores=scores)
    refused(folder, index, "none.csv cannot be read (No such file", scores=tmp_path / "none.csv")
    refused(folder, index, "cannot be read (Is a directory", scores=folder)
