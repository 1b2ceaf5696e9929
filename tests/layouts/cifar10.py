"""CIFAR-10: PNG files as prepared from the archive, and the archive's pickles as Python 2 wrote them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))

#: Images of (N, 32, 32, 3) and the number of each one's class.
Batch = tuple[np.ndarray, list[int]]


def write(root: Path) -> Path:
    """Writes the prepared dataset into ``root``; returns what ``dataset.root`` is to be."""
    return write_images(root, batches(), CLASSES, ("test_batch",))


def batches(images: int = 20) -> dict[str, Batch]:
    """Every batch has every class, in no order."""
    return {name: batch(seed, images, 10) for seed, name in enumerate((*TRAIN, "test_batch"))}


def batch(seed: int, images: int, classes: int) -> Batch:
    rng = np.random.default_rng([seed, 7])
    labels = rng.permutation(np.arange(images) % classes).tolist()
    return rng.integers(0, 256, (images, 32, 32, 3), np.uint8), labels


def write_images(root: Path, found: Mapping[str, Batch], classes: Sequence[str], test: Sequence[str]) -> Path:
    for name, (pixels, labels) in found.items():
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            part = "test" if name in test else "train"
            path = root / part / classes[label] / f"{name}_{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    (root / "prepared.json").write_text("{}")
    return root


def write_archive(root: Path) -> Path:
    """The unpacked archive."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches().items():
        content = {
            "batch_label": f"{name} of 6",
            "labels": labels,
            "data": planes(pixels),
            "filenames": [f"leptodactylus_pentadactylus_s_{number:06}.png" for number in range(len(labels))],
        }
        (folder / name).write_bytes(python2(content))
    names = {"label_names": list(CLASSES), "num_cases_per_batch": 10000, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2(names))
    (folder / "readme.html").write_text("<html>")
    return root


def planes(pixels: np.ndarray) -> np.ndarray:
    """The red, the green and the blue plane of each image, row by row."""
    return np.stack([np.concatenate([image[..., channel].ravel() for channel in range(3)]) for image in pixels])


# Pickles of Python 2's cPickle, protocol 2


def python2(content: object) -> bytes:
    """Its strings are texts and bytes at once, which no pickle of Python 3 has."""
    return b"\x80\x02" + _python2(content) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, str):
        return _string(value.encode())
    if isinstance(value, dict):
        items = b"".join(_python2(key) + _python2(item) for key, item in value.items())
        return b"}r\x00\x00\x01\x00(" + items + b"u"
    if isinstance(value, list):  # in portions, as cPickle's of 1,000
        portions = (value[start : start + 7] for start in range(0, len(value), 7))
        return b"]q\x02" + b"".join(b"(" + b"".join(map(_python2, portion)) + b"e" for portion in portions)
    assert isinstance(value, int)
    return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)


def _string(content: bytes) -> bytes:
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content + b"q\x01"
    return b"T" + struct.pack("<i", len(content)) + content


def _array(values: np.ndarray) -> bytes:
    sides = b"".join(_python2(side) for side in values.shape)
    kind = b"cnumpy\ndtype\n" + _string(values.dtype.str[1:].encode()) + b"K\x00K\x01\x87R(K\x03" + _string(b"|")
    kind += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string(b"b") + b"\x87R"
    return made + b"(K\x01" + sides + b"\x86" + kind + b"\x89" + _string(values.tobytes()) + b"tb"
