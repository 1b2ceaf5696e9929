"""Reading images and masks: every file kind a dataset may hold, and what happens with bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from ader.data.image import BadImageError, load_image, read_image, read_size
from ader.data.masks import load_mask, own_mask, read_mask

RGB = np.array([[[10, 20, 30], [200, 100, 0]], [[0, 0, 0], [255, 255, 255]]], np.uint8)
GREY = np.array([[0, 7], [128, 255]], np.uint8)
DEEP = np.array([[0, 255], [256, 65535]], np.uint16)  # high bytes 0, 0, 1, 255


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def mode(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def gray3(values) -> np.ndarray:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "a.bmp", "a.tif", "a.TIFF", "Größe 1 ß.png", "画像.png"])
def test_rgb_survives_every_lossless_format_and_name(tmp_path, name):
    assert (pixels(saved(Image.fromarray(RGB), tmp_path / name)) == RGB).all()


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
def test_gray_and_1_bit(tmp_path, extension):
    assert (pixels(saved(Image.fromarray(GREY), tmp_path / f"l.{extension}")) == gray3(GREY)).all()
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert (pixels(saved(bits, tmp_path / f"1.{extension}")) == gray3([[0, 255], [255, 0]])).all()


def test_alpha_is_dropped_and_colors_kept(tmp_path):
    alpha = np.array([[0, 128], [255, 1]], np.uint8)
    rgba = Image.fromarray(np.dstack([RGB, alpha]))
    assert (pixels(saved(rgba, tmp_path / "rgba.png")) == RGB).all()
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    assert (pixels(saved(la, tmp_path / "la.png")) == gray3(GREY)).all()


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palette_with_and_without_transparency(tmp_path, transparency, recwarn):
    image = Image.new("P", (3, 1))
    image.putpalette([1, 2, 3, 40, 50, 60, 255, 0, 9])
    image.putdata([0, 1, 2])
    options = {} if transparency is None else {"transparency": transparency}
    path = saved(image, tmp_path / "p.png", **options)
    assert mode(path) == "P"
    recwarn.clear()
    assert (pixels(path) == [[[1, 2, 3], [40, 50, 60], [255, 0, 9]]]).all()
    assert not recwarn.list


def test_transparent_color_of_an_rgb_png_is_kept(tmp_path):
    path = saved(Image.fromarray(RGB), tmp_path / "trns.png", transparency=(10, 20, 30))
    assert (pixels(path) == RGB).all()


def test_cmyk_jpeg(tmp_path):
    inks = np.full((16, 16, 4), (0, 255, 255, 0), np.uint8)  # no cyan, full magenta and yellow: red
    path = saved(Image.fromarray(inks, "CMYK"), tmp_path / "cmyk.jpg", quality=95)
    assert mode(path) == "CMYK"
    assert abs(pixels(path).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_gray_keeps_its_high_byte(tmp_path, name):
    path = saved(Image.fromarray(DEEP), tmp_path / name)
    assert (pixels(path) == gray3([[0, 0], [1, 255]])).all()


def test_16_bit_big_endian_and_32_bit_container(tmp_path):
    big = saved(Image.frombytes("I;16B", (2, 2), DEEP.astype(">u2").tobytes()), tmp_path / "big.tif")
    assert mode(big) == "I;16B"
    assert (pixels(big) == gray3([[0, 0], [1, 255]])).all()
    wide = saved(Image.fromarray(DEEP.astype(np.int32)), tmp_path / "wide.tif")
    assert mode(wide) == "I"
    assert (pixels(wide) == gray3([[0, 0], [1, 255]])).all()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.array([[0.0, 1.0]], np.float32), "float pixels"),
        (np.array([[0, 65536]], np.int32), "32-bit pixels from 0 to 65536"),
        (np.array([[-1, 5]], np.int32), "32-bit pixels from -1"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path, values, match):
    path = saved(Image.fromarray(values), tmp_path / "x.tif")
    for read in (read_image, read_mask):
        with pytest.raises(BadImageError, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_masks_count_every_value_above_zero(tmp_path):
    expected = np.array([[0, 255], [255, 255]], np.uint8)
    classes = np.array([[0, 1], [9, 255]], np.uint8)
    files = [
        saved(Image.fromarray(classes), tmp_path / "l.png"),
        saved(Image.fromarray(np.dstack([classes * 0, classes * 0, classes])), tmp_path / "blue.png"),
        saved(Image.fromarray(classes.astype(np.uint16)), tmp_path / "deep.png"),  # high bytes are all 0
        saved(Image.fromarray((expected > 0).astype(np.uint8) * 255).convert("1"), tmp_path / "1.bmp"),
    ]
    for path in files:
        mask = read_mask(path)
        assert mask.mode == "L"
        assert (np.asarray(mask) == expected).all(), path.name


def test_an_opaque_alpha_does_not_mark_the_mask(tmp_path):
    truth = np.array([[0, 255], [0, 0]], np.uint8)
    opaque = np.full((2, 2), 255, np.uint8)
    rgba = Image.fromarray(np.dstack([truth, truth, truth, opaque]))
    la = Image.merge("LA", [Image.fromarray(truth), Image.fromarray(opaque)])
    assert (np.asarray(read_mask(saved(rgba, tmp_path / "rgba.png"))) == truth).all()
    assert (np.asarray(read_mask(saved(la, tmp_path / "la.png"))) == truth).all()


def test_palette_masks_are_judged_by_color(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 0, 1])
    image.putdata([0, 1, 2])
    assert (np.asarray(read_mask(saved(image, tmp_path / "p.png"))) == [[0, 255, 255]]).all()


@pytest.mark.parametrize("shape", [(70, 90), (20, 15), (32, 32)])
def test_images_are_resized_as_torchvision_resizes_pil_images(tmp_path, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / "noise.png")
    expected = tv.pil_to_tensor(tv.resize(Image.fromarray(noise), [32, 32], InterpolationMode.BILINEAR))
    image = load_image(path, 32)
    assert image.dtype == np.uint8
    assert image.shape == (3, 32, 32)
    assert (image == expected.numpy()).all()


@pytest.mark.parametrize("shape", [(70, 90), (20, 15), (32, 32)])
def test_masks_follow_ader(tmp_path, shape):
    classes = np.random.default_rng(1).integers(0, 3, shape, np.uint8)
    path = saved(Image.fromarray(classes), tmp_path / "mask.png")
    binary = Image.fromarray(np.where(classes > 0, 255, 0).astype(np.uint8))
    expected = tv.to_tensor(tv.resize(binary, [32, 32], InterpolationMode.BILINEAR))[0] > 0.5
    mask = load_mask([path], 32)
    assert mask.dtype == np.uint8
    assert (mask == expected.numpy()).all()
    assert 0 < mask.mean() < 1


def test_no_mask_is_an_empty_mask():
    mask = load_mask([], 5)
    assert (mask.dtype, mask.shape, mask.any()) == (np.uint8, (5, 5), False)


def test_arrays_do_not_depend_on_the_file(tmp_path):
    """Loaded arrays own their memory and may be written to."""
    path = saved(Image.fromarray(RGB), tmp_path / "a.png")
    image = load_image(path, 2)
    path.unlink()
    image[0, 0, 0] = 99
    assert image.flags.c_contiguous


def noisy(path: Path) -> Path:
    return saved(Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)), path)


def test_bad_files_are_named_with_the_reason(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("<html>404</html>")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for name in ("cut.png", "cut.jpg", "cut.bmp", "cut.tif", "cut.webp"):
        data = noisy(tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    reasons = {
        "missing.png": "does not exist",
        "link.png": "does not exist",
        "empty.png": r"is empty \(0 bytes\)",
        "text.png": "is not an image",
        "folder.png": "is a folder",
        "cut.png": "truncated",
        "cut.jpg": "truncated",
        "cut.bmp": "truncated",
        "cut.tif": "truncated",
        "cut.webp": "truncated|not an image",
    }
    for name, reason in reasons.items():
        for read in (read_image, read_mask):
            with pytest.raises(BadImageError, match=reason) as caught:
                read(tmp_path / name)
            assert str(tmp_path / name) in str(caught.value)
            assert caught.value.reason in str(caught.value)
            assert str(tmp_path) not in caught.value.reason


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    """Damage anywhere in a file gives an image or a BadImageError, nothing else."""
    rng, refused = np.random.default_rng(3), 0
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif"):
        whole = noisy(tmp_path / name).read_bytes()
        for _ in range(25):
            data = bytearray(whole)
            for place in rng.integers(0, min(len(data), 300), 6):
                data[place] = rng.integers(256)
            (tmp_path / name).write_bytes(data)
            try:
                read_image(tmp_path / name)
            except BadImageError:
                refused += 1
    assert refused > 20


def test_decompression_bomb(tmp_path, monkeypatch):
    path = noisy(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 4096 pixels are above twice the limit
    with pytest.raises(BadImageError, match="too many pixels"):
        read_image(path)


def test_unreadable_file(tmp_path, monkeypatch):
    path = noisy(tmp_path / "locked.png")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # as root, chmod would not refuse
    with pytest.raises(BadImageError, match=r"cannot be read \(Permission denied\): check its permissions"):
        read_image(path)


def test_the_header_tells_the_size(tmp_path):
    path = saved(Image.new("RGB", (30, 10)), tmp_path / "wide.png")
    assert read_size(path) == (10, 30)
    for damaged, match in ((tmp_path / "nope.png", "does not exist"), (tmp_path / "no.png", "is not an image")):
        if damaged.name == "no.png":
            damaged.write_bytes(b"not an image")
        with pytest.raises(BadImageError, match=match):
            read_size(damaged)


@pytest.mark.parametrize("shape", [(5, 8), (10, 16), (3, 20), (1, 1), (23, 7)])
def test_nearest_masks_follow_opencvs_rule(tmp_path, shape):
    marked = np.random.default_rng(0).random((10, 16)) > 0.6
    path = saved(Image.fromarray(marked.astype(np.uint8) * np.uint8(9)), tmp_path / "m.png")
    mask = load_mask([path], shape, "nearest")
    assert mask.dtype == np.uint8
    wanted = torch.nn.functional.interpolate(torch.from_numpy(marked)[None, None].float(), shape, mode="nearest")
    assert (mask == wanted[0, 0].numpy()).all()
    assert (own_mask([path]) == marked).all()
