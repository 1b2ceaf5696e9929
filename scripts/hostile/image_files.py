"""Images and masks that are damaged, odd, or no files."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.hostile.replay import Answer, Case, Prepare
from scripts.hostile.world import RUN, World, mask, picture

KIND = "image_files"
HERE = (*RUN[:-1], "run=images")
CHECK = ("data", "check", *RUN[:2])

TRAIN, TEST, MASK = "train/good/000.png", "test/scratch/000.png", "ground_truth/scratch/000_mask.png"


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    return encoded(image, "PNG")


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """The image as a file of any format."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """A PNG chunk, with a wrong checksum if one is given."""
    right = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", right)


def _rng() -> np.random.Generator:
    return np.random.default_rng(1)


def _header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _bomb() -> bytes:
    """Few bytes that decode to many pixels."""
    return _header(60000, 60000) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def _wrong_checksum(kind: bytes) -> bytes:
    content = png(picture(_rng()))
    place = content.index(kind)
    length = struct.unpack(">I", content[place - 4 : place])[0]
    at = place + 4 + length
    return content[:at] + bytes(4) + content[at + 4 :]


def _flipped() -> bytes:
    content = bytearray(png(picture(_rng())))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def _pages(format: str) -> bytes:
    first = picture(_rng())
    others = [picture(np.random.default_rng(number)) for number in (2, 3)]
    return encoded(first, format, save_all=True, append_images=others)


def _deep(values: object) -> bytes:
    return png(Image.fromarray(np.asarray(values)))


#: Contents of the first training image: refused.
BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "noise": lambda: bytes(range(256)) * 20,
    "text": lambda: b"this is no image\n",
    "half": lambda: png(picture(_rng()))[:800],
    "without its end": lambda: png(picture(_rng()))[:-40],
    "wrong checksum of the pixels": lambda: _wrong_checksum(b"IDAT"),
    "wrong checksum of the header": lambda: _wrong_checksum(b"IHDR"),
    "a flipped byte": _flipped,
    "a bomb": _bomb,
    "no pixels": lambda: _header(0, 0) + chunk(b"IEND", b""),
    "too large by the header": lambda: _header(2**31 - 1, 2**31 - 1) + chunk(b"IEND", b""),
    "header only": lambda: _header(32, 32),
    "half a JPEG": lambda: encoded(picture(_rng()), "JPEG")[:500],
    "pages of TIFF": lambda: _pages("TIFF"),
    "pages of GIF": lambda: _pages("GIF"),
    "pages of WebP": lambda: _pages("WEBP"),
    "pages of PNG": lambda: _pages("PNG"),
    "float TIFF": lambda: encoded(Image.fromarray(np.ones((32, 32), np.float32)), "TIFF"),
    "32 bits": lambda: encoded(Image.fromarray(np.full((32, 32), 1 << 20, np.int32)), "TIFF"),
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='32' height='32'/>",
    "PDF": lambda: encoded(picture(_rng()), "PDF"),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(x) run\n%%EOF\n",
    "a pickle": lambda: b"cos\nsystem\n(S'touch pwned'\ntR.",
    "an archive": lambda: b"PK\x03\x04" + bytes(100),
}
#: Contents that are odd and fine.
FINE: dict[str, Callable[[], bytes]] = {
    "gray": lambda: png(picture(_rng()).convert("L")),
    "alpha": lambda: png(picture(_rng()).convert("RGBA")),
    "palette": lambda: png(picture(_rng()).convert("P")),
    "one bit": lambda: png(picture(_rng()).convert("1")),
    "CMYK": lambda: encoded(picture(_rng()).convert("CMYK"), "JPEG"),
    "JPEG under another name": lambda: encoded(picture(_rng()), "JPEG"),
    "one pixel": lambda: png(picture(_rng()).crop((0, 0, 1, 1))),
    "one row": lambda: png(picture(_rng()).crop((0, 0, 32, 1))),
    "one page of GIF": lambda: encoded(picture(_rng()), "GIF"),
}
#: Contents of the first mask: (name, content, answer of a run).
MASKS: tuple[tuple[str, Callable[[], bytes], Answer], ...] = (
    ("all zero", lambda: _deep(np.zeros((32, 32), np.uint8)), "refused"),
    ("another size", lambda: png(mask().resize((16, 16))), "refused"),
    ("rotated size", lambda: png(Image.new("L", (16, 64), 255)), "refused"),
    ("empty", lambda: b"", "refused"),
    ("half", lambda: png(mask())[:60], "refused"),
    ("wrong checksum", lambda: png(mask())[:-16] + bytes(4) + png(mask())[-12:], "refused"),
    ("float", lambda: encoded(Image.fromarray(np.ones((32, 32), np.float32)), "TIFF"), "refused"),
    ("pages", lambda: _pages("TIFF"), "refused"),
    ("everything", lambda: _deep(np.full((32, 32), 255, np.uint8)), "done"),
    ("zeros and ones", lambda: _deep((np.asarray(mask()) > 0).astype(np.uint8)), "done"),
    ("colors", lambda: png(mask().convert("RGB")), "done"),
    ("transparent", lambda: png(mask().convert("RGBA")), "done"),
    ("16 bits", lambda: _deep((np.asarray(mask()) > 0).astype(np.uint16)), "done"),
    ("JPEG", lambda: encoded(mask(), "JPEG"), "done"),
)


def cases() -> Iterator[Case]:
    """Contents, kinds of file, and layouts."""
    for name, content in BAD.items():
        for what, place in (("train", TRAIN), ("test", TEST)):
            says = place.split("/")[-1]
            yield Case(KIND, f"{name}, {what}", HERE, "refused", says, _content(place, content))
        yield Case(KIND, f"{name}, check", CHECK, "refused", "", _content(TRAIN, content))
    for name, content in FINE.items():
        yield Case(KIND, f"{name}, train", HERE, "done", "", _content(TRAIN, content))
    for name, content, answer in MASKS:
        yield Case(KIND, f"mask: {name}", HERE, answer, "", _content(MASK, content))
        yield Case(KIND, f"mask: {name}, check", CHECK, answer, "", _content(MASK, content))
    for place in (TRAIN, TEST, MASK):
        for name, make in KINDS.items():
            yield Case(KIND, f"{place}: {name}", HERE, "refused", "", _kind(place, make))
            yield Case(KIND, f"{place}: {name}, check", CHECK, "refused", "", _kind(place, make))
    for name, (prepare, answer, says) in LAYOUTS.items():
        yield Case(KIND, f"layout: {name}", HERE, answer, says, prepare)
        yield Case(KIND, f"layout: {name}, check", CHECK, "either", "", prepare)


def _content(place: str, content: Callable[[], bytes]) -> Prepare:
    return lambda world: (world.own / "bolt" / place).write_bytes(content())


def _kind(place: str, make: Callable[[Path], object]) -> Prepare:
    def replace(world: World) -> None:
        path = world.own / "bolt" / place
        path.unlink()
        make(path)

    return replace


KINDS: dict[str, Callable[[Path], object]] = {
    "a FIFO": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a link to nothing": lambda path: path.symlink_to("nowhere.png"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": lambda path: path.mkdir(),
    "a process's memory": lambda path: path.symlink_to("/proc/self/mem"),
}


def _move(source: str, target: str) -> Prepare:
    def move(world: World) -> None:
        place = world.own / "bolt"
        (place / target).parent.mkdir(parents=True, exist_ok=True)
        (place / source).rename(place / target)

    return move


def _beside(world: World) -> None:
    place = world.own / "bolt"
    for file in (place / "ground_truth" / "scratch").iterdir():
        file.rename(place / "test" / "scratch" / file.name)
    shutil.rmtree(place / "ground_truth")


def _flat(world: World) -> None:
    truth = world.own / "bolt" / "ground_truth"
    for file in (truth / "scratch").iterdir():
        file.rename(truth / file.name)
    (truth / "scratch").rmdir()


def _two_goods(world: World) -> None:
    place = world.own / "bolt" / "test"
    (place / "GOOD").mkdir()
    (place / "good" / "001.png").rename(place / "GOOD" / "001.png")


def _no_images(world: World) -> None:
    for file in (world.own / "bolt" / "train" / "good").iterdir():
        file.unlink()


def _no_category(world: World) -> None:
    shutil.rmtree(world.own)
    world.own.mkdir()


def _left_out(world: World) -> None:
    shutil.copy(world.own / "bolt" / TRAIN, world.own / "bolt" / "train" / "good" / "100.heic9")


def _loop(world: World) -> None:
    (world.own / "bolt" / "test" / "loop").symlink_to(world.own / "bolt")


def _deep_tree(world: World) -> None:
    place = world.own / "bolt" / "test" / "good"
    for _ in range(40):
        place = place / "d"
    place.mkdir(parents=True)


def _same_stem(world: World) -> None:
    shutil.copy(world.own / "bolt" / TEST, world.own / "bolt" / "test" / "scratch" / "000.bmp")


#: (what is done, the answer, what it says).
LAYOUTS: dict[str, tuple[Prepare, Answer, str]] = {
    "Good": (_move("test/good", "test/Good"), "done", ""),
    "NORMAL": (_move("test/good", "test/NORMAL"), "done", ""),
    "ok": (_move("test/good", "test/ok"), "done", ""),
    "two good folders": (_two_goods, "refused", "GOOD"),
    "masks beside": (_beside, "either", ""),
    "masks flat": (_flat, "either", ""),
    "Ground_truth": (_move("ground_truth", "Ground_truth"), "either", ""),
    "masks": (_move("ground_truth", "masks"), "either", ""),
    "gt in the name": (_move(MASK, "ground_truth/scratch/000_gt.png"), "either", ""),
    "no training images": (_no_images, "refused", "bolt"),
    "no category": (_no_category, "refused", "own"),
    "no test folder": (_move("test", "x"), "refused", "bolt"),
    "no mask for one": (_move(MASK, "x.png"), "either", ""),
    "mask of another": (_move(MASK, "ground_truth/scratch/777_mask.png"), "refused", "777"),
    "left out": (_left_out, "done", "heic9"),
    "loop": (_loop, "refused", "loop"),
    "deep": (_deep_tree, "refused", ""),
    "training in a defect's folder": (_move("train/good", "train/scratch"), "refused", "scratch"),
    "images beside folders": (_move("train/good/000.png", "train/000.png"), "refused", "000.png"),
    "same stem twice": (_same_stem, "refused", "000"),
}
