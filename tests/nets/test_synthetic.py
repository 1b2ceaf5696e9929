"""Synthetic anomalies against scalar and library implementations of the same definitions."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import rotate as scipy_rotate

from ader.data.image import load_image
from ader.nets.synthesis import draws, operations
from ader.nets.synthesis.draws import integers, uniform
from ader.nets.synthesis.operations import augmented
from ader.nets.synthesis.perlin import perlin
from ader.nets.synthesis.synthetic import SyntheticAnomalies
from ader.nets.synthesis.textures import KINDS_OF_TEXTURE, Textures
from ader.system.errors import UserError

CPU = torch.device("cpu")


def seeds(count: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + count) * 1_000_003 + 17


def scalar_perlin(angle_GG: np.ndarray, cells: tuple[int, int], size: int) -> np.ndarray:
    """Pixel by pixel, from the definition: the four corners' slopes, mixed by a fade in each direction."""
    noise = np.zeros((size, size))
    fade = lambda t: 6 * t**5 - 15 * t**4 + 10 * t**3  # noqa: E731
    for i in range(size):
        for j in range(size):
            y, x = i * cells[0] / size, j * cells[1] / size
            row, column = math.floor(y), math.floor(x)
            for down in (0, 1):
                for right in (0, 1):
                    angle = angle_GG[row + down, column + right]
                    slope = math.cos(angle) * (y - row - down) + math.sin(angle) * (x - column - right)
                    weight_y = fade(y - row) if down else 1 - fade(y - row)
                    weight_x = fade(x - column) if right else 1 - fade(x - column)
                    noise[i, j] += weight_y * weight_x * slope
    return math.sqrt(2) * noise


@pytest.mark.parametrize(("size", "scales"), [(32, (0, 5)), (45, (0, 5)), (16, (2, 3)), (24, (0, 0))])
def test_perlin_is_the_scalar_definition(size, scales):
    """At sizes that the cells divide and at others."""
    seed_B = seeds(6)
    noise_BHW = perlin(seed_B, "p", size, CPU, scales)
    corners = 2 ** scales[1] + 1
    angle_BGG = 2 * math.pi * uniform(seed_B, "p/angles", corners, corners).double().numpy()
    cells_B2 = 2 ** (scales[0] + integers(seed_B, "p/scales", scales[1] - scales[0] + 1, 2).numpy())
    assert noise_BHW.dtype == torch.float32
    for noise_HW, angle_GG, cells in zip(noise_BHW, angle_BGG, cells_B2, strict=True):
        np.testing.assert_allclose(noise_HW.numpy(), scalar_perlin(angle_GG, tuple(cells), size), atol=2e-6)


def test_perlin_draws_both_exponents_for_each_image():
    """A noise of 2^a x 2^b cells is zero at every corner: 64 / 2^a pixels apart downwards, 64 / 2^b to the right."""
    noise_BHW = perlin(seeds(200), "p", 64, CPU)
    found = set()
    for noise_HW in noise_BHW.numpy():
        fits = [(a, b) for a in range(6) for b in range(6) if np.abs(noise_HW[:: 64 >> a, :: 64 >> b]).max() < 1e-6]
        found.add(max(fits, key=sum))
    assert {a for a, _ in found} == {b for _, b in found} == set(range(6))
    assert len(found) > 30  # of 36 pairs: the two are independent


def test_perlin_depends_on_seed_and_purpose_only():
    seed_B = seeds(5)
    noise_BHW = perlin(seed_B, "p", 40, CPU)
    torch.testing.assert_close(perlin(seed_B[[3]], "p", 40, CPU)[0], noise_BHW[3], atol=0, rtol=0)
    assert not perlin(seed_B, "q", 40, CPU).allclose(noise_BHW)
    assert not noise_BHW[0].allclose(noise_BHW[1])


@pytest.fixture
def folder(tmp_path):
    """Images of one color each: (number, 2 number, 3 number), and what is no image."""
    for number, place in enumerate(["b/2.png", "a/1.PNG", "c.jpg", "a/deep/er/3.png"]):
        file = tmp_path / "dtd" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        color = (40 * number, 20 * number, 10 * number)
        Image.new("RGB", (30, 20), color).save(file, quality=100)
    (tmp_path / "dtd" / "labels.txt").write_text("no image")
    (tmp_path / "dtd" / "._1.png").write_text("no image either")
    return tmp_path / "dtd"


def test_textures_of_a_folder(folder):
    textures = Textures(str(folder), 16)
    assert textures.warning is None
    assert textures.provenance["name"] == "textures (4 images)"
    assert textures.provenance["source"] == str(folder)
    assert not textures.state_dict()
    texture_BCHW = textures.draw(seeds(400), "t")
    assert texture_BCHW.shape == (400, 3, 16, 16)
    assert texture_BCHW.dtype == torch.float32
    counts = (texture_BCHW[:, 0, 0, 0] * 255 / 40).round().long().bincount(minlength=4)  # JPEG is off by one level
    assert len(counts) == 4
    assert counts.min() > 70  # 100 each on average
    torch.testing.assert_close(textures.draw(seeds(400)[7:9], "t"), texture_BCHW[7:9], atol=0, rtol=0)


def test_textures_are_read_like_images_and_ordered_by_name(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("z.png", "m/b.png", "m/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 37, 3), np.uint8)).save(tmp_path / name)
    seed_B = seeds(30)
    texture_BCHW = Textures(str(tmp_path), 24).draw(seed_B, "t")
    expected = np.stack([load_image(tmp_path / name, 24) for name in ("m/a.png", "m/b.png", "z.png")])
    number_B = integers(seed_B, "t/file", 3)
    assert set(number_B.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal((texture_BCHW * 255).round().numpy(), expected[number_B])


def test_texture_checksum_tells_folders_apart(folder):
    before = Textures(str(folder), 16).provenance["sha256"]
    assert Textures(str(folder), 32).provenance["sha256"] == before
    Image.new("RGB", (30, 20), (1, 2, 3)).save(folder / "a" / "1.PNG")
    assert Textures(str(folder), 16).provenance["sha256"] != before


@pytest.mark.parametrize(("name", "words"), [("none", "is not a folder"), ("empty", "holds no images")])
def test_texture_folders_that_do_not_fit(tmp_path, name, words):
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match=words):
        Textures(str(tmp_path / name), 16)


def test_a_damaged_texture_is_named(folder):
    (folder / "b" / "2.png").write_bytes(b"no png")
    textures = Textures(str(folder), 16)  # nothing is decoded yet
    with pytest.raises(UserError, match=r"b/2\.png"):
        textures.draw(seeds(1), "t")


def test_procedural_textures_differ_and_depend_on_the_seed_only():
    textures = Textures(None, 32)
    assert "procedural" in textures.warning
    assert "provenance" not in vars(textures)
    texture_BCHW = textures.draw(seeds(40), "t")
    assert texture_BCHW.shape == (40, 3, 32, 32)
    assert texture_BCHW.min() >= 0
    assert texture_BCHW.max() <= 1
    assert texture_BCHW.std(dim=(2, 3)).amax(dim=1).median() > 0.03
    mean_B = texture_BCHW.mean(dim=(1, 2, 3))
    assert mean_B.min() < 0.35
    assert mean_B.max() > 0.65
    gray_B = (texture_BCHW.amax(dim=1) - texture_BCHW.amin(dim=1)).amax(dim=(1, 2)) < 1e-5
    assert 0.3 < gray_B.float().mean() < 0.7  # half of them, so that color alone gives no anomaly away
    flat_BN = texture_BCHW.flatten(1)
    assert torch.cdist(flat_BN, flat_BN).fill_diagonal_(99).min() > 0.1  # none is another
    for number in (0, 17, 39):
        alone = textures.draw(seeds(40)[[number]], "t")
        torch.testing.assert_close(alone[0], texture_BCHW[number], atol=1e-6, rtol=0)


def test_each_kind_of_procedural_texture():
    """Kinds look as they are called: frequencies of stripes in one direction, of checks in two, areas of blobs."""
    seed_B, size = seeds(60), 64
    power = {}
    for make in KINDS_OF_TEXTURE:
        texture_BCHW = make(seed_B, "t", size)
        assert texture_BCHW.shape == (60, 3, size, size)
        assert texture_BCHW.isfinite().all()
        power[make.__name__] = texture_BCHW
    for name in ("stripes", "checks", "blobs"):  # two colors: all channels are one field, up to scale and shift
        field_BCN = power[name].flatten(2)
        field_BCN = field_BCN - field_BCN.mean(dim=2, keepdim=True)
        field_BCN = field_BCN / field_BCN.norm(dim=2, keepdim=True)
        assert (field_BCN @ field_BCN.transpose(1, 2)).abs().min() > 0.99
    field_BCN = power["clouds"].flatten(2)
    assert torch.corrcoef(field_BCN[0]).abs().triu(1).max() < 0.9


def anomalies(textures=None, **changed) -> SyntheticAnomalies:
    arguments = {"probability": 1.0, "opacity": (0.0, 0.8), "augment_textures": True, "rotation_probability": 0.0}
    return SyntheticAnomalies(textures or Textures(None, 64), **{**arguments, **changed})


def noise_images(count: int, size: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_blending_by_hand(tmp_path):
    """One texture of one color and one opacity: 0.7 times the texture and 0.3 times the image."""
    Image.new("RGB", (9, 9), (255, 51, 0)).save(tmp_path / "only.png")
    textures = Textures(str(tmp_path), 64)
    image_BCHW = noise_images(12)
    image, clean, mask = anomalies(textures, opacity=(0.3, 0.3), augment_textures=False)(image_BCHW, seeds(12))
    assert clean.equal(image_BCHW)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    color = torch.tensor([1.0, 0.2, 0.0]).view(3, 1, 1)
    inside = (mask[:, None] == 1).expand_as(image)
    torch.testing.assert_close(image[inside], (0.7 * color + 0.3 * image_BCHW)[inside], atol=1e-6, rtol=0)
    assert image[~inside].equal(image_BCHW[~inside])


def test_textures_of_the_call_and_another_probability():
    """Without textures of its own every image brings one; which get an anomaly is the recipe's or the call's choice."""
    module = SyntheticAnomalies(None, 0.5, (0.0, 0.0), False, 0.0)
    image_BCHW, texture_BCHW = noise_images(12), noise_images(24)[12:]
    some, every = (module(image_BCHW, seeds(12), texture_BCHW, probability) for probability in (None, 1.0))
    for found in (some, every):
        assert found.image.equal(torch.where(found.mask[:, None] == 1, texture_BCHW, image_BCHW))
    spoiled = some.mask.amax(dim=(1, 2)) == 1
    assert some.mask[spoiled].equal(every.mask[spoiled])
    assert (every.mask.amax(dim=(1, 2)) == 1).sum() > spoiled.sum() > 0
    with pytest.raises(ValueError, match="give texture_BCHW"):
        module(image_BCHW, seeds(12), probability=1.0)


def test_opacity_is_uniform_in_its_range(tmp_path):
    """White on black: what is left of white is 1 - beta."""
    Image.new("RGB", (9, 9), (255, 255, 255)).save(tmp_path / "white.png")
    spoiled = anomalies(Textures(str(tmp_path), 64), opacity=(0.2, 0.8), augment_textures=False)(
        torch.zeros(300, 3, 64, 64), seeds(300)
    )
    beta = 1 - spoiled.image.amax(dim=(1, 2, 3))[spoiled.mask.amax(dim=(1, 2)) > 0]
    assert beta.min().item() == pytest.approx(0.2, abs=0.02)
    assert beta.max().item() == pytest.approx(0.8, abs=0.02)
    assert beta.mean().item() == pytest.approx(0.5, abs=0.04)


def reference_mask(rng: np.random.Generator, size: int) -> np.ndarray:
    """DRAEM's mask of one image, in numpy and scipy."""
    cells = 2 ** rng.integers(0, 6, 2)
    angle = 2 * np.pi * rng.random((34, 34))
    y, x = (np.arange(size) * number / size for number in cells)
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    noise = np.zeros((size, size))
    fade = lambda t: 6 * t**5 - 15 * t**4 + 10 * t**3  # noqa: E731
    for down in (0, 1):
        for right in (0, 1):
            corner = angle[np.ix_(row + down, column + right)]
            slope = np.cos(corner) * (y - row - down)[:, None] + np.sin(corner) * (x - column - right)
            weights = np.outer(np.abs(1 - down - fade(y - row)), np.abs(1 - right - fade(x - column)))
            noise += weights * slope
    return scipy_rotate(math.sqrt(2) * noise, rng.uniform(-90, 90), reshape=False, order=1) > 0.5


def test_masks_have_the_size_of_the_reference():
    """Shares of anomalous pixels: the mean, how many masks are empty, and the largest tenth."""
    size, count = 64, 600
    rng = np.random.default_rng(0)
    expected = np.array([reference_mask(rng, size).mean() for _ in range(count)])
    module = anomalies(augment_textures=False)
    share = np.concatenate([module._shapes(seeds(200, at), 64, CPU).mean(dim=(1, 2)).numpy() for at in (0, 200, 400)])
    assert share.mean() == pytest.approx(expected.mean(), rel=0.15)
    assert (share == 0).mean() == pytest.approx((expected == 0).mean(), abs=0.06)
    assert np.quantile(share, 0.9) == pytest.approx(np.quantile(expected, 0.9), rel=0.2)


def test_threshold_and_rotation_of_the_noise():
    seed_B = seeds(400)
    plain = anomalies(noise_rotation=0.0)._shapes(seed_B, 64, CPU)
    assert (anomalies(noise_rotation=0.0, threshold=0.3)._shapes(seed_B, 64, CPU) - plain).min() == 0
    assert plain.equal((perlin(seed_B, "anomaly/noise", 64, CPU) > 0.5).float())
    turned = anomalies()._shapes(seed_B, 64, CPU)
    corner = turned[:, :6, :6].mean() / turned.mean()  # rotated in from outside in most images, where the noise is 0
    assert corner < 0.5 < plain[:, :6, :6].mean() / plain.mean()


def test_probability():
    image_BCHW, seed_B = noise_images(300), seeds(300)
    always = anomalies(probability=1.0)(image_BCHW, seed_B)
    half = anomalies(probability=0.5)(image_BCHW, seed_B)
    never = anomalies(probability=0.0)(image_BCHW, seed_B)
    assert never.image.equal(image_BCHW)
    assert never.mask.sum() == 0
    spoiled = half.mask.amax(dim=(1, 2)) > 0
    ever = always.mask.amax(dim=(1, 2)) > 0
    assert 0.8 < ever.float().mean() < 1
    assert spoiled[ever].float().mean().item() == pytest.approx(0.5, abs=0.09)
    assert half.image[~spoiled].equal(image_BCHW[~spoiled])
    assert half.image[spoiled].equal(always.image[spoiled])  # an anomaly does not depend on the others


def test_an_image_does_not_depend_on_its_batch():
    module, image_BCHW = anomalies(probability=0.7, rotation_probability=0.5), noise_images(10)
    whole = module(image_BCHW, seeds(10))
    for number in range(10):
        alone = module(image_BCHW[[number]], seeds(10)[[number]])
        for one, other in zip(alone, whole, strict=True):
            torch.testing.assert_close(one[0], other[number], atol=1e-5, rtol=0)


def test_inputs_are_left_alone_and_autocast_changes_nothing():
    module, image_BCHW = anomalies(rotation_probability=0.5), noise_images(6)
    first = module(image_BCHW, seeds(6))
    assert image_BCHW.equal(noise_images(6))
    with torch.autocast("cpu", torch.bfloat16):
        second = module(image_BCHW, seeds(6))
    assert all(one.equal(other) for one, other in zip(first, second, strict=True))
    assert all(part.dtype == torch.float32 for part in second)


def test_rotated_images():
    """A bright dot right of the center goes round by up to 90 degrees either way; what comes in is black."""
    image_BCHW = torch.full((400, 3, 64, 64), 0.25)
    image_BCHW[:, :, 30:34, 50:54] = 1.0
    _, clean, _ = anomalies(probability=0.0, rotation_probability=0.4)(image_BCHW, seeds(400))
    turned = (clean != image_BCHW).any(dim=(1, 2, 3))
    assert turned.float().mean().item() == pytest.approx(0.4, abs=0.07)
    dot = (clean[turned, 0] - 0.25).clamp(min=0)
    place = torch.arange(64) - 31.5
    total = dot.sum(dim=(1, 2))
    y, x = (dot.sum(dim=2) @ place) / total, (dot.sum(dim=1) @ place) / total
    angle = torch.rad2deg(torch.atan2(y, x))
    assert (y.square() + x.square()).sqrt().sub(20).abs().max() < 0.3
    assert angle.abs().max() < 91
    assert angle.min() < -80
    assert angle.max() > 80
    assert angle.mean().abs() < 12
    assert (clean[turned].amin(dim=(1, 2, 3)) == 0).float().mean() > 0.9


def test_three_distinct_operations_in_random_order(monkeypatch):
    """Operations that note which seeds they see."""
    seen: dict[int, list[int]] = {}

    def noting(number):
        def operation(level_BCHW, seed_B):
            assert len(level_BCHW) == len(seed_B)
            for seed in seed_B.tolist():
                seen.setdefault(seed, []).append(number)
            return level_BCHW

        return operation

    monkeypatch.setattr(operations, "OPERATIONS", tuple(noting(number) for number in range(10)))
    augmented(torch.rand(1000, 3, 2, 2), seeds(1000))
    assert len(seen) == 1000
    assert all(len(set(order)) == len(order) == 3 for order in seen.values())
    for turn in range(3):
        counts = np.bincount([order[turn] for order in seen.values()], minlength=10)
        assert counts.min() > 60  # 100 each on average
    assert len({tuple(order) for order in seen.values()}) > 450  # of 720


def test_augmented_textures_are_whole_levels_of_their_own_image():
    texture_BCHW = Textures(None, 32).draw(seeds(40), "t")
    changed_BCHW = augmented(texture_BCHW, seeds(40))
    level_BCHW = changed_BCHW * 255
    torch.testing.assert_close(level_BCHW, level_BCHW.round(), atol=1e-4, rtol=0)
    assert level_BCHW.min() >= 0
    assert level_BCHW.max() <= 255.001
    assert (changed_BCHW - texture_BCHW).abs().amax(dim=(1, 2, 3)).min() > 0.01
    for number in (0, 21):
        alone = augmented(texture_BCHW[[number]], seeds(40)[[number]])
        torch.testing.assert_close(alone[0], changed_BCHW[number], atol=1.01 / 255, rtol=0)


@pytest.fixture
def photos() -> torch.Tensor:
    """Levels of 0..255 in (3, 3, 40, 48): smooth colors, noise within a narrow range, and a flat image."""
    rng = np.random.default_rng(3)
    smooth = cv2.resize(rng.random((5, 6, 3)), (48, 40), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255
    narrow = rng.integers(90, 141, (40, 48, 3))
    flat = np.full((40, 48, 3), 77.0)
    return torch.from_numpy(np.stack([smooth, narrow, flat])).permute(0, 3, 1, 2).round().float()


def drawing(monkeypatch, share: float) -> None:
    """Every random number is ``share`` of its range."""
    shape = lambda seed_B, shape: (len(seed_B), *shape)  # noqa: E731
    for module in (draws, operations):
        monkeypatch.setattr(module, "uniform", lambda seed_B, purpose, *extra: torch.full(shape(seed_B, extra), share))
    monkeypatch.setattr(
        operations,
        "integers",
        lambda seed_B, purpose, count, *extra: torch.full(shape(seed_B, extra), int(share * count)),
    )


def pillow(level_BCHW: torch.Tensor, change) -> np.ndarray:
    """The images after a function of Pillow images."""
    image_BHWC = level_BCHW.permute(0, 2, 3, 1).byte().numpy()
    return np.stack([np.asarray(change(Image.fromarray(image_HWC))) for image_HWC in image_BHWC]).transpose(0, 3, 1, 2)


def within(ours: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    """After the clamping and rounding that follows every operation."""
    np.testing.assert_allclose(ours.clamp(0, 255).round().numpy(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_operations_of_pillow(monkeypatch, photos, share):
    drawing(monkeypatch, share)
    seed_B = seeds(3)
    within(
        operations.sharpness(photos, seed_B), pillow(photos, lambda p: ImageEnhance.Sharpness(p).enhance(2 * share)), 1
    )
    within(operations.posterize(photos, seed_B), pillow(photos, lambda p: ImageOps.posterize(p, 1 + int(8 * share))), 0)
    within(operations.invert(photos, seed_B), pillow(photos, ImageOps.invert), 0)
    cutoff = int(21 * share)
    within(operations.autocontrast(photos, seed_B), pillow(photos, lambda p: ImageOps.autocontrast(p, cutoff)), 1)
    within(operations.equalized(photos, seed_B), pillow(photos, ImageOps.equalize), 0)
    threshold = math.ceil(32 + 96 * share)
    solarized = pillow(photos, lambda p: ImageOps.solarize(p, threshold)) if share < 0.5 else photos.numpy()
    within(operations.solarize(photos, seed_B), solarized, 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_gamma(monkeypatch, photos, share):
    drawing(monkeypatch, share)
    expected = np.round(255 * (photos.double().numpy() / 255) ** (0.5 + 1.5 * share))
    within(operations.gamma(photos, seeds(3)), expected, 1)


def test_gamma_is_drawn_for_each_channel(photos):
    gray = photos[:1, :1].expand(3, 3, -1, -1)
    result = operations.gamma(gray, seeds(3))
    assert not result[0, 0].allclose(result[0, 1])


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.95])
def test_brightness(monkeypatch, photos, share):
    """OpenCV's Y of YCrCb, scaled and shifted in either order."""
    drawing(monkeypatch, share)
    factor, shift = 0.8 + 0.4 * share, int(61 * share) - 30

    def expected(picture):
        ycc = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2YCrCb).astype(float)
        ycc[..., 0] = ycc[..., 0] * factor + shift if share < 0.5 else (ycc[..., 0] + shift) * factor
        return cv2.cvtColor(ycc.clip(0, 255).round().astype(np.uint8), cv2.COLOR_YCrCb2RGB)

    within(operations.brightness(photos, seeds(3)), pillow(photos, expected), 3)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7, 0.999])
def test_hue_and_saturation(monkeypatch, photos, share):
    drawing(monkeypatch, share)
    shift = int(101 * share) - 50

    def expected(picture):
        pixels = []
        for color in np.asarray(picture).reshape(-1, 3) / 255:
            hue, saturation, value = colorsys.rgb_to_hsv(*color)
            saturation = min(1, max(0, saturation + shift / 255))
            pixels.append(colorsys.hsv_to_rgb((hue + shift / 255) % 1, saturation, value))
        return np.round(np.reshape(pixels, (40, 48, 3)) * 255)

    within(operations.hue_and_saturation(photos, seeds(3)), pillow(photos, expected), 1)


def test_hue_and_saturation_are_independent(photos):
    """Primary colors keep their saturation or hue where only the other one was drawn to change."""
    seed_B = seeds(500)
    shift_B2 = integers(seed_B, "texture/hue and saturation", 101, 2) - 50
    assert shift_B2.min() == -50
    assert shift_B2.max() == 50
    assert torch.corrcoef(shift_B2.T.float())[0, 1].abs() < 0.15


@pytest.mark.parametrize("share", [0.0, 0.35, 0.999])
def test_texture_rotation(monkeypatch, photos, share):
    """SciPy's, but for the rim, where one interpolates with black and the other does not."""
    drawing(monkeypatch, share)
    square = photos[:, :, :40, :40]
    ours = operations.rotated(square, seeds(3))
    degrees = -45 + 90 * share
    expected = scipy_rotate(square.numpy(), degrees, axes=(2, 3), reshape=False, order=1)
    inside = scipy_rotate(np.ones((40, 40)), degrees, reshape=False, order=1, mode="constant") > 0.999
    inner = inside & np.pad(np.ones((36, 36), bool), 2)
    np.testing.assert_allclose(ours.numpy()[..., inner], expected[..., inner], atol=0.1)
    assert (ours[0, 0, 0, 0] == 0) == (share != 0.5)


def test_ranges_of_the_operations(photos):
    """Draws of single images reach both ends: identity and extremes."""
    gray = torch.full((1000, 3, 4, 4), 128.0)
    seed_B = seeds(1000)
    gamma_B = (operations.gamma(gray, seed_B)[:, 0, 0, 0] / 255).log() / math.log(128 / 255)
    assert (gamma_B.min().item(), gamma_B.max().item()) == pytest.approx((0.5, 2.0), abs=0.02)
    solarized = operations.solarize(gray, seed_B)[:, 0, 0, 0] != 128
    assert solarized.float().mean().item() == pytest.approx(0.5, abs=0.05)
    levels = {
        len(operations.posterize(torch.arange(256.0).view(1, 1, 16, 16), seed_B[[n]]).unique()) for n in range(60)
    }
    assert levels == {2**bits for bits in range(1, 9)}
