"""Times how fast training batches reach the device: decoded every time, while the cache fills, and cached.

    python -m benchmarks.data                                    # made-up 1024x1024 PNGs
    python -m benchmarks.data --root my/images --workers 2       # any folder in MVTec layout
    python -m benchmarks.data --json results/bench/data.json

Beside them ADer's loader recipe on the same files: PIL decodes and converts to RGB, torchvision resizes, makes a float
tensor and normalizes it, all in worker processes of a DataLoader. All ways take turns, so that a disturbance of the
machine hits all; the median of the rounds counts. Every way ends with a float batch on the device. Exit status 1: a
cached batch differs from the decoded one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ader.data import Index, load_index
from ader.data.image_cache import CachedImages, cache_images, needed_bytes, remove
from ader.methods._base import Batch, Tags, TrainStage
from ader.report.renderers import terminal
from ader.report.tables import Column, Row, Table
from ader.results.provenance import provenance
from ader.results.schema import plain
from ader.training.loader import Loader
from benchmarks._common import write_json

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 16


class Recipe(Dataset[Tensor]):
    """ADer's: everything for one image, in a worker."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size), transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        tensor: Tensor = self.transform(Image.open(self.files[number]).convert("RGB"))
        return tensor


class Bench:
    """The ways, on one set of files.

    Args:
        index: its training images are used.
        size: side of a batch's images in pixels.
        workers: processes or threads that decode.
        device: where batches go.
        folder: for the cache; emptied.
    """

    def __init__(self, index: Index, size: int, workers: int, device: torch.device, folder: Path) -> None:
        self.index, self.size, self.workers, self.device, self.folder = (
            index.split("train"),
            size,
            workers,
            device,
            folder,
        )
        self.files = {sample.image: self.index.path(sample.image) for sample in self.index}

    def recipe(self) -> Iterable[Tensor]:
        loader: DataLoader[Tensor] = DataLoader(
            Recipe(list(self.files.values()), self.size),
            batch_size=BATCH,
            shuffle=True,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            drop_last=False,
        )
        return (batch.to(self.device, non_blocking=True) for batch in loader)

    def batches(self, cached: CachedImages | None) -> Iterable[Tensor]:
        """One epoch of this project's loader."""
        loader = Loader(self.index, self.size, self.device, 0, self.workers, Tags(), cached)
        stage = TrainStage(
            name="bench",
            batch_size=BATCH,
            step=lambda batch, optimize: {},
            optimizers={},
            modules=[],
            epochs=1,
            drop_last=False,
        )
        return (normalized(batch) for batch in loader.train(stage, 0, loader.order(stage).steps_per_epoch))

    def cache(self) -> CachedImages:
        return cache_images(self.files, self.size, self.folder, workers=self.workers)


def normalized(batch: Batch) -> Tensor:
    """On the device, as a backbone does it."""
    mean, std = (torch.tensor(values, device=batch.image_BCHW.device)[:, None, None] for values in (MEAN, STD))
    return (batch.image_BCHW - mean) / std


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; returns the exit status."""
    options = parse(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as place:
        index = load_index("folder", options.root) if options.root else made_up(Path(place), options)
        bench = Bench(index, options.size, options.workers, device, Path(place) / "cache")
        if different(bench):
            print("cached images differ from decoded ones", file=sys.stderr)
            return 1
        result = describe(bench, measure(bench, options.rounds))
    show(result)
    if options.json:
        write_json(options.json, result)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="images in MVTec layout; default: made-up ones")
    parser.add_argument("--images", type=int, default=96, help="how many to make up (default 96)")
    parser.add_argument("--pixels", type=int, default=1024, help="their side (default 1024)")
    parser.add_argument("--size", type=int, default=256, help="side of what is trained on (default 256)")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes or threads (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="of all ways (default 5)")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    return parser.parse_args(arguments)


def made_up(place: Path, options: argparse.Namespace) -> Index:
    """Demo images of that size; they compress like photographs, since every pixel has noise."""
    train = -(-options.images // 6)
    print(f"making {6 * train} images of {options.pixels}x{options.pixels}", file=sys.stderr)
    return load_index("demo", place / "demo", size=options.pixels, train=train, test_good=1, per_defect=0)


def different(bench: Bench) -> bool:
    """Whether any batch differs; fills the cache."""
    pairs = zip(bench.batches(None), bench.batches(bench.cache()), strict=True)
    return any(not torch.equal(one, other) for one, other in pairs)


def measure(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Images per second of each way, per round."""
    ways: dict[str, Callable[[], Any]] = {
        "ADer's recipe": lambda: use(bench.recipe()),
        "decoded every epoch": lambda: use(bench.batches(None)),
        "filling the cache": bench.cache,
        "cached": lambda: use(bench.batches(bench.cache())),
        "cached, as uint8": lambda: use_rows(bench),
    }
    paces: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        remove(bench.folder)
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if bench.device.type == "cuda":
                torch.cuda.synchronize()
            paces[name].append(len(bench.files) / (time.perf_counter() - began))
    return paces


def use(batches: Iterable[Tensor]) -> None:
    for _ in batches:
        pass


def use_rows(bench: Bench) -> None:
    """What memory bandwidth allows: rows gathered in random order and moved to the device."""
    cached, names = bench.cache(), list(bench.files)
    order = np.random.default_rng(0).permutation(len(names))
    for start in range(0, len(names), BATCH):
        torch.from_numpy(cached.take([names[place] for place in order[start : start + BATCH]])).to(bench.device)


def describe(bench: Bench, paces: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in paces.items()}
    first = next(iter(bench.files.values()))
    return {
        "images": len(bench.files),
        "first_image": {"size": Image.open(first).size, "bytes": first.stat().st_size, "kind": first.suffix[1:]},
        "size": bench.size,
        "workers": bench.workers,
        "batch": BATCH,
        "device": str(bench.device),
        "bytes_per_image_to_device": 3 * bench.size**2,
        "cache_bytes": needed_bytes(len(bench.files), bench.size),
        "images_per_second": medians,
        "ratio_to_ader": {name: pace / medians["ADer's recipe"] for name, pace in medians.items()},
        "rounds": paces,
        "machine": plain(provenance()),
    }


def show(result: dict[str, Any]) -> None:
    width, height = result["first_image"]["size"]
    hardware = result["machine"]["hardware"]
    print(
        f"{result['images']} images of {width}x{height} ({result['first_image']['kind']}) to {result['size']}, "
        f"{result['workers']} workers, batches of {result['batch']} on {result['device']}"
    )
    print(f"{hardware['cpu']}, {hardware['cores']} cores{', ' + hardware['gpus'][0] if hardware['gpus'] else ''}")
    print(f"\n{terminal(table(result), gap=3)}")


def table(result: dict[str, Any]) -> Table:
    """The paces, beside that of ADer's recipe."""
    columns = (Column(""), Column("images/s", kind="count"), Column("ratio", kind="number"), Column("spread"))
    paces = result["images_per_second"]
    spreads = {name: f"{min(values):,.0f} to {max(values):,.0f}" for name, values in result["rounds"].items()}
    return Table(
        columns, tuple(Row.of(name, paces[name], result["ratio_to_ader"][name], spreads[name]) for name in paces)
    )


if __name__ == "__main__":
    sys.exit(main())
