"""What is read as an image, whatever its ending and orientation; and files that are refused though they decode."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ader.data import Index, Sample, load_index
from ader.data.check import check_files
from ader.data.image import BadImageError, check_whole, open_image, read_header, read_image, read_size
from ader.data.image_cache import cache_images
from ader.data.left_out import describe, left_out
from ader.data.listing import SUFFIXES, image_files
from ader.data.masks import read_mask
from ader.data.png import is_tagged_late
from ader.datasets.folder import folder
from ader.system.errors import UserError
from ader.testing.toy import write_mvtec
from tests.support.pngs import chunk, chunks, encoded

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), np.uint8))
SMOOTH = Image.fromarray(np.indices((24, 32)).sum(0).astype(np.uint8) * 4).convert("RGB")

#: Ending, Pillow's format, what else it is saved with; all of them keep every pixel.
LOSSLESS = [
    *((ending, "PNG", {}) for ending in ("png", "apng", "PNG")),
    *((ending, "BMP", {}) for ending in ("bmp", "dib")),
    *((ending, "TIFF", {"compression": kind}) for ending, kind in (("tif", "tiff_lzw"), ("tiff", "raw"))),
    *((ending, "PPM", {}) for ending in ("ppm", "pnm")),
    *((ending, "JPEG2000", {"irreversible": False}) for ending in ("jp2", "j2k", "jpx")),
    *((ending, "SGI", {}) for ending in ("sgi", "rgb")),
    ("webp", "WEBP", {"lossless": True}),
    ("tga", "TGA", {}),
    ("pcx", "PCX", {}),
    ("qoi", "QOI", {}),
]


def saved(image: Image.Image, path: Path, kind: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(read_image(path))


# Endings.


@pytest.mark.parametrize(
    ("ending", "kind", "options"), LOSSLESS, ids=[f"{kind}.{ending}" for ending, kind, _ in LOSSLESS]
)
def test_every_ending_is_listed_and_read(tmp_path, ending, kind, options):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    path = saved(NOISE, tmp_path / f"000.{ending}", kind, **options)
    assert image_files(tmp_path) == [path]
    assert (pixels(path) == np.asarray(NOISE)).all()
    assert read_size(path) == (24, 32)


@pytest.mark.parametrize(
    ("ending", "kind"), [("jfif", "JPEG"), ("jpe", "JPEG"), ("gif", "GIF"), ("avif", "AVIF"), ("pgm", "PPM")]
)
def test_endings_of_kinds_that_lose_something(tmp_path, ending, kind):
    if kind == "AVIF" and kind not in Image.registered_extensions().values():
        pytest.skip("this Pillow has no AVIF")
    image = SMOOTH.convert("L") if ending in ("pgm", "gif") else SMOOTH
    path = saved(image, tmp_path / f"000.{ending}", kind, **({"quality": 95} if kind in ("JPEG", "AVIF") else {}))
    assert image_files(tmp_path) == [path]
    assert abs(pixels(path).astype(int) - np.asarray(SMOOTH)).max() <= 8


def test_bitmaps_of_one_bit(tmp_path):
    bits = RNG.integers(0, 2, (5, 9)).astype(bool)
    path = saved(Image.fromarray(bits), tmp_path / "mask.pbm")
    assert (np.asarray(read_mask(path)) == bits * 255).all()


def test_what_runs_programs_or_has_pages_is_no_image(tmp_path):
    """Pillow would hand an EPS to Ghostscript, whatever its ending."""
    for kind in ("EPS", "PDF", "ICO", "PSD"):
        assert f".{kind.lower()}" not in SUFFIXES
    path = saved(NOISE, tmp_path / "000.png", "EPS")
    with pytest.raises(BadImageError, match="is not an image that Pillow can read"):
        read_image(path)


def test_photographs_of_phones_are_never_skipped(tmp_path):
    """HEIC without its package: refused with what to install."""
    root = write_mvtec(tmp_path / "set", categories=("a",))
    (root / "a/train/good/new.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    index = load_index("folder", root)
    assert "a/train/good/new.heic" in {sample.image for sample in index}
    with pytest.raises(UserError, match=r"new\.heic (needs the package pillow-heif: install it|is )"):
        check_files(index, tmp_path / "cache", 1)


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared cases")
def test_the_reported_folder_has_all_its_images():
    index, right = (load_index("folder", CASES / "03" / name) for name in ("data", "right"))
    assert index.counts() == right.counts() == {"pcb": (6, 6, 6)}
    exact = 0
    for sample in index:
        twin = pixels(right.path(str(Path(sample.image).with_suffix(".png")))).astype(int)
        image = pixels(index.path(sample.image)).astype(int)
        if sample.image.endswith("pgm"):
            twin = np.repeat(np.asarray(Image.fromarray(twin.astype(np.uint8)).convert("L"))[..., None], 3, 2).astype(
                int
            )
        exact += (image == twin).all()
        assert abs(image - twin).mean() < 4, sample.image
    assert exact >= 12  # all but .jfif and .jp2
    assert sum(len(sample.masks) for sample in index) == 2  # as many as there are


# Left out.


def test_other_files_among_the_images_are_counted(tmp_path):
    root = write_mvtec(tmp_path / "set", categories=("a", "b"))
    for name in (
        "a/train/good/000.json",
        "a/train/good/x.NPY",
        "a/test/hole/notes",
        "b/ground_truth/hole/000_mask.npy",
    ):
        (root / name).write_text("not looked into")
    for name in ("a/train/good/.DS_Store", "a/train/good/Thumbs.db", "a/about.txt", "readme.md"):
        (root / name).touch()
    index = folder(root)
    names = left_out(index)
    assert names == [
        "a/test/hole/notes",
        "a/train/good/000.json",
        "a/train/good/x.NPY",
        "b/ground_truth/hole/000_mask.npy",
    ]
    assert describe(names) == (
        "4 files among the images are left out, having no image's ending (2 .npy, 1 without ending, 1 .json): "
        "a/test/hole/notes, a/train/good/000.json, a/train/good/x.NPY and 1 more"
    )
    assert describe(names[:1]).startswith("1 file among the images is left out, having no image's ending")
    assert left_out(index.select(["b"])) == names[3:]
    excepted = Index(index.name, index.root, index.samples, exceptions=("*.json", "*/notes", "*.npy", "*.NPY"))
    assert left_out(excepted) == []


# Orientation.

#: Where the upper left corner of an image as shown lies in the file, and which way its rows run, by EXIF's words:
#: 1 row 0 is the top, column 0 the left side; 6 row 0 is the right side, column 0 the top; and so on.
STORED = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: shown.transpose(1, 0, 2)[::-1],
    7: lambda shown: shown.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda shown: shown.transpose(1, 0, 2)[:, ::-1],
}


def tagged(shown: np.ndarray, orientation: int, path: Path, **options) -> Path:
    """An image that viewers show as ``shown``."""
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](shown)))
    return saved(stored, path, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("ending", "options"), [("png", {}), ("tif", {}), ("webp", {"lossless": True}), ("jpg", {})])
def test_images_are_upright(tmp_path, orientation, ending, options):
    shown = np.asarray(SMOOTH if ending == "jpg" else NOISE)
    path = tagged(shown, orientation, tmp_path / f"a.{ending}", **options)
    assert abs(pixels(path).astype(int) - shown).max() <= (8 if ending == "jpg" else 0)
    assert read_size(path) == shown.shape[:2]
    assert open_image(path).size == shown.shape[1::-1]
    assert read_header(path).orientation == orientation


def test_16_bit_images_are_upright(tmp_path):
    deep = RNG.integers(0, 65536, (3, 5, 1)).astype(np.uint16)
    exif = Image.Exif()
    exif[274] = 6
    path = saved(Image.fromarray(STORED[6](deep)[..., 0].copy()), tmp_path / "a.png", exif=exif)
    assert (pixels(path)[..., 0] == deep[..., 0] >> 8).all()


def test_masks_turn_by_their_own_tag_only(tmp_path):
    marks = np.zeros((4, 6, 3), np.uint8)
    marks[0, 1] = 255
    plain = saved(Image.fromarray(marks), tmp_path / "plain.png")
    own = tagged(marks, 8, tmp_path / "own.png")
    for path in (plain, own):
        assert (np.asarray(read_mask(path)) == marks[..., 0]).all()


def test_a_tag_behind_the_pixels_counts(tmp_path):
    shown = np.asarray(NOISE)
    content = tagged(shown, 6, tmp_path / "a.png").read_bytes()
    early = chunks(content)
    late = [chunk for chunk in early if chunk[4:8] != b"eXIf"]
    late.insert(-1, next(chunk for chunk in early if chunk[4:8] == b"eXIf"))
    for order, is_late in ((early, False), (late, True)):
        path = tmp_path / f"{is_late}.png"
        path.write_bytes(content[:8] + b"".join(order))
        assert is_tagged_late(io.BytesIO(path.read_bytes())) == is_late
        assert read_size(path) == (24, 32)
        assert (pixels(path) == shown).all()
        assert read_header(path).orientation == 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_tag_is_none(tmp_path):
    path = saved(NOISE, tmp_path / "a.png", exif=b"Exif\0\0MM\0*nonsense")
    assert (pixels(path) == np.asarray(NOISE)).all()


def test_sizes_that_disagree_for_a_tag_are_explained(tmp_path):
    shown = np.asarray(NOISE)
    tagged(shown, 6, tmp_path / "a.png")
    tagged(shown, 6, tmp_path / "train.png")
    mark = np.zeros((32, 24), np.uint8)  # drawn over the image as it is stored
    mark[3:9] = 255
    saved(Image.fromarray(mark), tmp_path / "mask.png")
    samples = (Sample("train.png", "c", "train", 0), Sample("a.png", "c", "test", 1, ("mask.png",), "bad"))
    with pytest.raises(UserError, match=r"mask\.png is 24x32 pixels but its image a\.png is 32x24 when turned as its"):
        check_files(Index("x", tmp_path, samples), tmp_path / "cache", 1)
    saved(Image.fromarray(mark.T.copy()), tmp_path / "mask.png")
    check_files(Index("x", tmp_path, samples), tmp_path / "cache", 1)


# Pages.


def frames(path: Path, count: int, kind: str | None = None, **options) -> Path:
    images = [Image.fromarray(np.asarray(NOISE) // (number + 1)) for number in range(count)]
    return saved(images[0], path, kind, save_all=True, append_images=images[1:], **options)


@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png"])
def test_several_pages_are_refused(tmp_path, ending):
    path = frames(tmp_path / f"a.{ending}", 3)
    for read in (read_image, read_mask, read_size, open_image):
        with pytest.raises(BadImageError, match=r"has 3 pages or frames, and one is expected: save each"):
            read(path)
    single = frames(tmp_path / f"b.{ending}", 1)
    assert read_size(single) == (24, 32)


def test_a_preview_is_no_page(tmp_path):
    """As phones store one behind the photograph, and scanners a thumbnail behind the page."""
    preview = SMOOTH.resize((8, 6))
    photograph = saved(SMOOTH, tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview], quality=95)
    with Image.open(photograph) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert abs(pixels(photograph).astype(int) - np.asarray(SMOOTH)).max() <= 8
    small = NOISE.resize((8, 6))
    for flag, refused in ((1, False), (2, True)):  # a smaller copy; a page of several
        small.encoderinfo = {"tiffinfo": {254: flag}}
        path = saved(NOISE, tmp_path / f"{flag}.tif", save_all=True, append_images=[small])
        with Image.open(path) as image:
            image.seek(1)
            assert image.tag_v2[254] == flag
        if refused:
            with pytest.raises(BadImageError, match="has 2 pages"):
                read_image(path)
        else:
            assert (pixels(path) == np.asarray(NOISE)).all()
            assert read_size(path) == (24, 32)


# Damage that decoders pass over.


def with_wrong_checksum(path: Path) -> Path:
    """One value of ``NOISE`` is another, and the chunk has the checksum of what it held before."""
    other = np.asarray(NOISE).copy()
    other[1, 2, 0] ^= 255
    before, after = encoded(np.asarray(NOISE)), encoded(other)
    path.write_bytes(after[:-16] + before[-16:-12] + after[-12:])
    return path


def test_wrong_checksums_are_refused(tmp_path):
    path = with_wrong_checksum(tmp_path / "a.png")
    assert (pixels(path) != np.asarray(NOISE)).sum() == 1  # what was read in silence
    with pytest.raises(BadImageError, match=r"checksum of 'IDAT' at byte 33 is wrong\): copy"):
        check_whole(path)
    with pytest.raises(BadImageError, match="checksum of 'IDAT'"):
        check_whole(Path("elsewhere.png"), path.read_bytes())
    whole = saved(NOISE, tmp_path / "b.png").read_bytes()
    check_whole(tmp_path / "b.png")
    check_whole(tmp_path / "b.png", whole + b"and what programs append")
    for cut, kind in ((whole[:-12], "its end is missing"), (whole[:-20], "its end is missing")):
        with pytest.raises(BadImageError, match=kind):
            check_whole(tmp_path / "b.png", cut)
    late = whole[:-12] + chunk(b"tEXt", b"a\0bc").replace(b"bc", b"bd") + whole[-12:]
    with pytest.raises(BadImageError, match="checksum of 'tEXt'"):
        check_whole(tmp_path / "b.png", late)
    check_whole(saved(NOISE, tmp_path / "c.bmp"))
    check_whole(tmp_path / "missing.png")  # whoever opens it says so


@pytest.mark.parametrize("cached", [False, True])
def test_the_check_names_wrong_checksums(tmp_path, cached):
    root = write_mvtec(tmp_path / "set", categories=("a",), size=24)
    with_wrong_checksum(root / "a/train/good/001.png")
    index = load_index("folder", root)
    files = {sample.image: index.path(sample.image) for sample in index}
    decoded = cache_images(files, 16, tmp_path / "cache", workers=1) if cached else ()
    assert "a/train/good/001.png" not in decoded
    with pytest.raises(UserError, match=r"1 bad file: a/train/good/001\.png is truncated or damaged \(checksum of"):
        check_files(index, tmp_path / "cache", 1, decoded=decoded)


# What is no file.


def test_fifos_do_not_hang(tmp_path):
    root = write_mvtec(tmp_path / "set", categories=("a",))
    for name in ("a/train/good/001.png", "a/ground_truth/hole/000_mask.png"):
        (root / name).unlink()
        os.mkfifo(root / name)
    index = load_index("folder", root)
    files = {sample.image: index.path(sample.image) for sample in index}
    assert "a/train/good/001.png" not in cache_images(files, 16, tmp_path / "cache", workers=1)
    with pytest.raises(UserError, match=r"2 bad files: a/ground_truth/hole/000_mask\.png is a FIFO, not an image: .*"):
        check_files(index, tmp_path / "cache", 1)
    for read in (read_image, read_mask, read_size):
        with pytest.raises(BadImageError, match="is a device, not an image: remove it"):
            read(Path("/dev/zero"))
