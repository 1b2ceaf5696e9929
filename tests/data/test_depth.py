"""16-bit images of fewer bits: the number of bits is said once for a dataset, and never guessed per image."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ader.data import Index, Sample, load_index
from ader.data.check import check_files
from ader.data.depth import find_shallow
from ader.data.image import BadImageError, load_image, read_header, read_image
from ader.data.image_cache import cache_images, open_images
from ader.system.errors import UserError
from tests.support.pngs import encoded

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "08"
GRAY = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint16)


def saved(values: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


def level(path: Path, bits: int | None = None) -> np.ndarray:
    image = np.asarray(read_image(path, bits=bits))
    assert (image == image[..., :1]).all()
    return image[..., 0].astype(int)


def dataset(root: Path, images: Mapping[str, np.ndarray], bits: int | None = None) -> Index:
    """Normal images; ``category/stem`` names each."""
    for name, values in images.items():
        if values.dtype == np.uint8:
            root.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / f"{name}.png")
        else:
            saved(values, root / f"{name}.png")
    samples = [Sample(f"{name}.png", name.split("/")[0], "train", 0) for name in images]
    return Index("x", root, tuple(samples), bits=bits)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("bits", range(8, 17))
def test_the_highest_8_of_the_bits_are_kept(tmp_path, ending, bits):
    """Both ways in which 8 bits become more: shifted, and spread over the whole range."""
    shifted = saved(GRAY << (bits - 8), tmp_path / f"shifted.{ending}")
    spread = saved(np.round(GRAY * ((2**bits - 1) / 255)), tmp_path / f"spread.{ending}")
    for path in (shifted, spread):
        assert (level(path, bits) == GRAY).all()
    assert (load_image(shifted, 24, bits=bits) == load_image(saved(GRAY << 8, tmp_path / "full.png"), 24)).all()


def test_values_beyond_the_bits_are_refused(tmp_path):
    path = saved(np.array([[0, 4096]]), tmp_path / "a.png")
    assert (level(path, 13) == [[0, 128]]).all()
    for bits in (12, 10):
        with pytest.raises(BadImageError, match=rf"has values up to 4096, which {bits} bits do not hold"):
            read_image(path, bits=bits)


def test_8_bit_images_do_not_care(tmp_path):
    Image.fromarray(GRAY.astype(np.uint8)).save(tmp_path / "a.png")
    assert (level(tmp_path / "a.png", 12) == GRAY).all()
    assert read_header(tmp_path / "a.png").bits == 8


def test_formats_that_state_their_range(tmp_path):
    """A PGM's largest value and a TIFF of 12 bits are the file's own word, whatever holds for the others."""
    pgm = tmp_path / "a.pgm"
    pgm.write_bytes(b"P5 24 20 4095\n" + (GRAY * 16).astype(">u2").tobytes())
    packed = b"".join(bytes([p >> 4, (p & 15) << 4 | q >> 8, q & 255]) for p, q in (GRAY * 16).reshape(-1, 2).tolist())
    tif = tmp_path / "a.tif"
    tags = [(256, 24), (257, 20), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 20), (279, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tif.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + packed)
    for path, stated in ((pgm, 16), (tif, 12)):
        assert read_header(path).bits == stated
        for bits in (None, 10):
            assert abs(level(path, bits) - GRAY).max() <= 1, (path, bits)


def test_a_category_of_fewer_bits_is_refused_by_name(tmp_path):
    images = {
        "ten/a": GRAY << 2,
        "ten/b": GRAY << 1,
        "full/a": GRAY << 8,
        "full/dark": GRAY,  # one image by itself may be dark
        "eight/a": GRAY.astype(np.uint8),
        "low/a": GRAY >> 1,
        "fourteen/a": GRAY << 6,
        "fifteen/a": GRAY << 7,
    }
    index = dataset(tmp_path, images)
    found = find_shallow(index, 2)
    assert {name: clause.split("give ")[1] for name, clause in found.items()} == {
        "ten": "dataset.bits=10, or dataset.bits=16 if they are that dark",
        "low": "dataset.bits=8, or dataset.bits=16 if they are that dark",
        "fourteen": "dataset.bits=14, or dataset.bits=16 if they are that dark",
    }
    assert found["ten"].startswith("has no value above 1023 in its 16-bit images, as data of 10 bits")
    assert find_shallow(replace(index, bits=16), 2) == {}
    ten = index.select(["ten"])
    for decoded in ((), ("ten/a.png", "ten/b.png")):
        with pytest.raises(UserError, match=r"dataset 'x' at .*: category 'ten' has no value above 1023") as caught:
            check_files(ten, tmp_path / "cache", 1, decoded=decoded)
        assert "\n" not in str(caught.value)
    for bits in (10, 16):
        check_files(replace(ten, bits=bits), tmp_path / "cache", 1)
    with pytest.raises(UserError, match=r"full/a\.png has values up to 65280, which 10 bits do not hold"):
        check_files(replace(index, bits=10), tmp_path / "cache", 1)
    with pytest.raises(UserError, match="category 'ten'"):  # no stamp of the others stands for it
        check_files(ten, tmp_path / "cache", 1)


def test_16_bit_colors_cannot_be_of_fewer_bits(tmp_path):
    """Pillow reads their high byte only: of 12 bits nothing would be left but black."""
    colors = np.stack([GRAY, GRAY, 255 - GRAY], axis=-1)
    (tmp_path / "full.png").write_bytes(encoded(colors << 8))
    (tmp_path / "low.png").write_bytes(encoded(colors << 4))
    assert (np.asarray(read_image(tmp_path / "full.png")) == colors).all()
    samples = tuple(Sample(f"{name}.png", name, "train", 0) for name in ("full", "low"))
    assert list(find_shallow(Index("x", tmp_path, samples), 1)) == ["low"]
    with pytest.raises(BadImageError, match="has 16-bit colors, of which 12 bits cannot be told: convert it to 8 bits"):
        read_image(tmp_path / "low.png", bits=12)


@pytest.mark.parametrize("image", [Image.new("L", (4, 3), 9), Image.new("RGB", (4, 3), (1, 2, 3))])
def test_16_bits_of_sgi(tmp_path, image):
    for size, bits in ((1, 8), (2, None)):
        image.save(tmp_path / "a.sgi", bpc=size)
        assert read_header(tmp_path / "a.sgi").bits == bits


def test_the_cache_keeps_bits_apart(tmp_path):
    index = dataset(tmp_path, {"c/a": GRAY << 4})
    files, cache = {"a": index.path("c/a.png")}, tmp_path / "cache"
    for bits in (12, None, 12):
        images = cache_images(files, 16, cache, workers=1, bits=bits)
        assert (images.read("a") == load_image(files["a"], 16, bits=bits)).all()
    assert open_images(files, 16, cache, bits=13) is None
    assert open_images(files, 16, cache, bits=16) is not None  # as without any


def test_a_configuration_says_the_bits(tmp_path):
    dataset(tmp_path / "set", {"c/train/good/a": GRAY << 4, "c/test/good/a": GRAY << 4})
    assert load_index("folder", tmp_path / "set").bits is None
    assert load_index("folder", tmp_path / "set", bits=12).select(["c"]).bits == 12
    for bits in (7, 17):
        with pytest.raises(UserError, match=rf"dataset.bits={bits} must be from 8 to 16, or null"):
            load_index("folder", tmp_path / "set", bits=bits)


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared cases")
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_the_reported_images_equal_their_8_bit_twins(bits):
    index, twins = load_index("folder", CASES / f"bit{bits}", bits=bits), load_index("folder", CASES / "bit8")
    assert [sample.image for sample in index] == [sample.image for sample in twins]
    for sample in index:
        image, twin = level(index.path(sample.image), bits), level(twins.path(sample.image))
        assert (image == twin).all(), sample.image
    unsaid = replace(index, bits=None)
    told = "" if bits == 16 else f"give dataset.bits={bits}, or dataset.bits=16 if they are that dark"
    assert find_shallow(unsaid, 1).get("pcb", "").endswith(told)
    assert len(find_shallow(unsaid, 1)) == (bits < 16)
