"""Maps of other programs, scores and lists: ``ader score``, ``dataset=table``, ``dataset=meta``."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.hostile.replay import Answer, Case, Prepare
from scripts.hostile.world import RUN, SCORE, World

KIND = "map_files"
FIRST = "maps/bolt/good/000.npy"


def _npy(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=True)
    return file.getvalue()


def _declared(shape: str, body: bytes = b"") -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


#: Contents of the first map.
MAPS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "noise": lambda: bytes(range(256)) * 4,
    "half": lambda: _npy(np.ones((32, 32), np.float32))[:1000],
    "NaN": lambda: _npy(np.full((32, 32), np.nan, np.float32)),
    "one NaN": lambda: _npy(np.where(np.eye(32) > 0, np.nan, 1).astype(np.float32)),
    "objects": lambda: _npy(np.array([{"a": 1}], dtype=object)),
    "text": lambda: _npy(np.array([["a", "b"]])),
    "complex": lambda: _npy(np.ones((32, 32), complex)),
    "three axes": lambda: _npy(np.ones((3, 32, 32), np.float32)),
    "one axis": lambda: _npy(np.ones(32, np.float32)),
    "no pixels": lambda: _npy(np.ones((0, 32), np.float32)),
    "declared too large": lambda: _declared("(1000000000, 1000000)"),
    "declared negative": lambda: _declared("(-1, 32)"),
    "declared code": lambda: _declared("__import__('os').system('touch pwned')"),
    "declared deep": lambda: _declared("(" * 60 + ")" * 60),
    "no ending in the header": lambda: b"\x93NUMPY\x01\x00\xff\xff{",
    "dates": lambda: _npy(np.full((32, 32), "2024-01-01", "datetime64[D]")),
}
MAYBE: dict[str, Callable[[], bytes]] = {
    "another size": lambda: _npy(np.ones((16, 48), np.float32)),
    "infinite": lambda: _npy(np.full((32, 32), np.inf, np.float32)),
    "truth values": lambda: _npy(np.ones((32, 32), bool)),
    "whole numbers": lambda: _npy(np.arange(1024).reshape(32, 32)),
    "half precision": lambda: _npy(np.ones((32, 32), np.float16)),
    "longer than it says": lambda: _npy(np.ones((32, 32), np.float32)) + b"more",
    "big-endian": lambda: _npy(np.ones((32, 32), ">f4")),
}
KINDS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a FIFO": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
SCORES: dict[str, str | bytes] = {
    "empty": "",
    "header only": "image,score\n",
    "other columns": "file,value\nx,1\n",
    "semicolons": "image;score\nbolt/test/good/000.png;1\n",
    "a word for a number": "image,score\nbolt/test/good/000.png,high\n",
    "NaN": "image,score\nbolt/test/good/000.png,nan\n",
    "unknown image": "image,score\nbolt/test/good/777.png,1\n",
    "not UTF-8": b"image,score\n\xff\xfe,1\n",
    "NUL": b"image,score\n\0,1\n",
    "quote open": 'image,score\n"bolt,1\n',
    "binary": bytes(range(256)),
    "three fields": "image,score\na,1,2\n",
    "twice": "image,score\nbolt/test/good/000.png,1\nbolt/test/good/000.png,2\n",
    "escape code": "image,score\n\x1b[2J,1\n",
    "long field": "image,score\n" + "x" * 300000 + ",1\n",
}
TABLE = ("dataset=table", *RUN[1:2], *RUN[3:-1], "run=table")
HEADER = "image,category,split,label,mask\n"
ROWS = "".join(f"bolt/train/good/00{n}.png,bolt,train,0,\n" for n in range(4)) + "".join(
    f"bolt/test/good/00{n}.png,bolt,test,0,\nbolt/test/scratch/00{n}.png,bolt,test,1,bolt/ground_truth/scratch/00{n}_mask.png\n"
    for n in range(2)
)
TABLES: dict[str, str | bytes] = {
    "empty": "",
    "header only": HEADER,
    "a column less": HEADER.replace(",label", "") + ROWS,
    "semicolons": (HEADER + ROWS).replace(",", ";"),
    "an unknown column": HEADER.replace("mask", "maks") + ROWS,
    "a column twice": HEADER.replace("mask", "label") + ROWS,
    "a label of words": HEADER + ROWS.replace(",train,0,", ",train,good,", 1),
    "a label beyond": HEADER + ROWS.replace(",train,0,", ",train,2,", 1),
    "a split of words": HEADER + ROWS.replace(",train,", ",training,", 1),
    "no category": HEADER + ROWS.replace(",bolt,", ",,", 1),
    "a path out": HEADER + ROWS.replace("bolt/train", "../own/bolt/train", 1),
    "an absolute path": HEADER + ROWS.replace("bolt/train", "/etc/bolt/train", 1),
    "a path that is missing": HEADER + ROWS.replace("bolt/train/good/000", "bolt/train/good/777", 1),
    "a mask out": HEADER + ROWS.replace("bolt/ground_truth", "../../x", 1),
    "twice": HEADER + ROWS + ROWS,
    "not UTF-8": (HEADER + ROWS).encode().replace(b"bolt,train", b"b\xff,train", 1),
    "NUL": (HEADER + ROWS).encode().replace(b"bolt,train", b"b\0,train", 1),
    "quote open": HEADER + '"' + ROWS,
    "a category with a slash": HEADER + ROWS.replace(",bolt,", ",../x,"),
    "fields too many": HEADER + ROWS + "a,b,test,0,,,,,\n",
    "binary": bytes(range(256)),
    "only normal": HEADER
    + "".join(f"{line}\n" for line in ROWS.splitlines() if ",1," not in line).replace("test,", "train,"),
}
META = ("dataset=meta", *RUN[1:2], *RUN[3:-1], "run=meta")
ENTRY = {
    "img_path": "bolt/train/good/000.png",
    "mask_path": "",
    "cls_name": "bolt",
    "specie_name": "good",
    "anomaly": 0,
}
METAS: dict[str, str] = {
    "a list": "[]",
    "empty": "",
    "half": '{"train": {',
    "no test": json.dumps({"train": {}}),
    "unknown split": json.dumps({"train": {}, "test": {}, "x": {}}),
    "a word for entries": json.dumps({"train": {"bolt": "x"}, "test": {}}),
    "a number for an entry": json.dumps({"train": {"bolt": [5]}, "test": {}}),
    "keys missing": json.dumps({"train": {"bolt": [{}]}, "test": {}}),
    "another category": json.dumps({"train": {"nut": [ENTRY]}, "test": {}}),
    "anomaly of words": json.dumps({"train": {"bolt": [{**ENTRY, "anomaly": "no"}]}, "test": {}}),
    "anomaly true": json.dumps({"train": {"bolt": [{**ENTRY, "anomaly": True}]}, "test": {}}),
    "path out": json.dumps({"train": {"bolt": [{**ENTRY, "img_path": "../x.png"}]}, "test": {}}),
    "deep": "[" * 100000,
    "deep mapping": '{"train":' * 3000,
    "NaN": json.dumps({"train": float("nan"), "test": {}}),
    "escape code": json.dumps({"train": {"\x1b[2J": "x"}, "test": {}}),
}


def cases() -> Iterator[Case]:
    """Maps, files of scores, tables of images."""
    for name, content in MAPS.items():
        yield Case(KIND, f"map: {name}", SCORE, "refused", "", _content(FIRST, content))
    for name, content in MAYBE.items():
        yield Case(KIND, f"map: {name}", SCORE, "either", "", _content(FIRST, content))
    for name, make in KINDS.items():
        yield Case(KIND, f"map: {name}", SCORE, "refused", "000", _kind(FIRST, make))
        yield Case(KIND, f"scores: {name}", (*SCORE, "scores=s.csv"), "refused", "s.csv", _kind("s.csv", make))
        yield Case(KIND, f"table: {name}", TABLE, "refused", "index.csv", _kind("own/index.csv", make))
        yield Case(KIND, f"meta: {name}", META, "refused", "meta.json", _kind("own/meta.json", make))
    for name, text in SCORES.items():
        yield Case(KIND, f"scores: {name}", (*SCORE, "scores=s.csv"), "refused", "s.csv", _text("s.csv", text))
    for name, text in TABLES.items():
        yield Case(KIND, f"table: {name}", TABLE, "refused", "", _text("own/index.csv", text))
    for name, text in METAS.items():
        yield Case(KIND, f"meta: {name}", META, "refused", "meta.json", _text("own/meta.json", text))
    yield Case(KIND, "table: right", TABLE, "done", "", _text("own/index.csv", HEADER + ROWS))
    for name, (prepare, answer) in OTHERS.items():
        yield Case(KIND, f"maps: {name}", SCORE, answer, "", prepare)
    yield Case(KIND, "a pickle of maps", ("score", "maps.pkl", *SCORE[2:]), "refused", "maps.pkl", _malicious)
    yield Case(
        KIND, "labels: a FIFO", (*RUN, "force=true"), "either", "", _kind("own/labels", lambda path: os.mkfifo(path))
    )


def _content(place: str, content: Callable[[], bytes]) -> Prepare:
    return lambda world: (world.folder / place).write_bytes(content())


def _text(place: str, text: str | bytes) -> Prepare:
    return lambda world: (world.folder / place).write_bytes(text if isinstance(text, bytes) else text.encode())


def _kind(place: str, make: Callable[[Path], object]) -> Prepare:
    def replace(world: World) -> None:
        path = world.folder / place
        path.unlink(missing_ok=True)
        make(path)

    return replace


def _malicious(world: World) -> None:
    (world.folder / "maps.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")


def _zipped(world: World) -> None:
    """An .npz whose member decodes to 3 GB of zeros."""
    (world.folder / FIRST).unlink()
    file = (world.folder / FIRST).with_suffix(".npz")
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as member,
    ):
        member.write(_declared("(30000, 30000)"))
        for _ in range(30):
            member.write(bytes(1 << 20))


def _two_arrays(world: World) -> None:
    (world.folder / FIRST).unlink()
    np.savez((world.folder / FIRST).with_suffix(".npz"), a=np.ones((32, 32)), b=np.ones((32, 32)))


def _both(world: World) -> None:
    Image.fromarray(np.zeros((32, 32), np.uint8)).save((world.folder / FIRST).with_suffix(".png"))


def _extra(world: World) -> None:
    shutil.copy(world.folder / FIRST, world.folder / "maps" / "bolt" / "good" / "777.npy")


def _no_maps(world: World) -> None:
    shutil.rmtree(world.folder / "maps")
    (world.folder / "maps").mkdir()


OTHERS: dict[str, tuple[Prepare, Answer]] = {
    "a compressed bomb": (_zipped, "refused"),
    "two arrays": (_two_arrays, "refused"),
    "two files for one image": (_both, "refused"),
    "one too many": (_extra, "done"),
    "none": (_no_maps, "refused"),
}
