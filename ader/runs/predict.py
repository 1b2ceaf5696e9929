"""Scores a user's own images with a finished run's model, and draws what it found: ``ader predict``.

First all images are decoded once, then all are scored, then all are painted: a bad file is found before anything is
computed, and the colors of a category may depend on all of its images. What is written appears as a whole, at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ader.data.check import check_files
from ader.data.image import read_image
from ader.data.index import Index, Sample
from ader.data.pictures import BY_FOLDER, Pictures, find_pictures
from ader.results.provenance import provenance
from ader.results.schema import plain
from ader.runs import painting
from ader.runs.predictor import F32, Predictor, needs_more
from ader.runs.thresholds import (
    PIXEL_QUANTILE,
    QUANTILE,
    NormalLevels,
    Threshold,
    normal_levels,
    test_set_threshold,
)
from ader.system.console import Console
from ader.system.device import synchronize
from ader.system.errors import UserError, some
from ader.system.files import UMASK, WriteError, write_atomic
from ader.system.interrupt import Interrupt
from ader.system.parallel import ahead, threads

#: What makes a folder one of this command's.
FILE = "predict.json"
SCHEMA = 1


@dataclass(frozen=True)
class Wanted:
    """What is to be made of the images.

    Attributes:
        out: the folder.
        category: of all images; ``"folder"``: that of the folder which an image is in; None: the run's only one.
        threshold: of scores: ``normal``, ``f1max``, a number, or None for none.
        pixel_threshold: of maps: ``normal``, a number, or None for none.
        quantile, pixel_quantile: of ``normal``.
        maps: keep the maps as float32 .npy.
    """

    out: Path
    category: str | None = None
    threshold: str | float | None = "normal"
    pixel_threshold: str | float | None = None
    quantile: float = QUANTILE
    pixel_quantile: float = PIXEL_QUANTILE
    maps: bool = False


class Levels(NamedTuple):
    """What a category's pictures are judged and painted by.

    ``scale``: values of the darkest and the brightest color; ``scale_how``: what they are, in words.
    """

    image: Threshold | None
    pixel: Threshold | None
    scale: tuple[float, float] | None
    scale_how: str


class Scored(NamedTuple):
    """Images' scores in their order, the lowest and highest value of each category's maps, seconds of prediction."""

    scores: dict[str, float]
    ranges: dict[str, tuple[float, float]]
    seconds: float


def predict_images(predictor: Predictor, given: Sequence[Path], wanted: Wanted) -> Path:
    """Scores images and writes ``scores.csv``, pictures, masks and ``predict.json`` into a folder.

    Args:
        predictor: the run's models.
        given: files and folders.
        wanted: what to make of them.

    Returns:
        The folder.

    Raises:
        UserError: bad input; nothing was written.
        Stopped: a signal came, or a score is no number; nothing was written.
    """
    console = Console()
    interrupt = Interrupt("nothing was written: give the same command again")
    with interrupt.listening(), interrupt.during("while predicting"), console.keeping_errors():
        pictures = find_pictures(given, wanted.out)
        check_out(wanted.out)
        index = pictures.index(predictor.categories, wanted.category, predictor.config.dataset.bits)
        check_wanted(predictor, index, wanted)
        _announce(predictor, pictures, index, console)
        check_files(index, predictor.config.paths.cache, predictor.config.trainer.decoders())
        with appearing(wanted.out) as folder:
            levels = {name: _thresholds(predictor, name, wanted, console) for name in index.categories}
            scored = _score(predictor, index, pictures.outputs(), folder, console)
            levels = {name: _with_scale(found, scored.ranges.get(name)) for name, found in levels.items()}
            if predictor.gives_maps:
                _paint(index, pictures.outputs(), levels, folder, predictor.config.trainer.decoders(), console)
                if not wanted.maps:
                    shutil.rmtree(folder / "maps")
            _write(predictor, index, pictures, levels, scored, folder)
        _summarize(index, levels, scored, console)
        console.say(f"written to {wanted.out}")
    return wanted.out


def check_wanted(predictor: Predictor, index: Index, wanted: Wanted) -> None:
    """Refuses what the method or the run cannot give.

    Raises:
        UserError: says what.
    """
    if predictor.inputs:
        raise UserError(needs_more(predictor))
    unknown = index.categories == ("",)
    if unknown and (predictor.per_category or isinstance(wanted.threshold, str) or wanted.pixel_threshold == "normal"):
        what = "a model" if predictor.per_category else "thresholds"
        raise UserError(
            f"{predictor.trained.folder} has {what} for each category: give category=NAME "
            f"({some(predictor.categories)}), or category={BY_FOLDER} where images lie in folders of these names"
        )
    if wanted.pixel_threshold is not None and not predictor.gives_maps:
        raise UserError(f"pixel_threshold: {predictor.config.method.name} gives no maps: leave it out")
    for category in index.categories:
        predictor.method(category)


def check_out(out: Path) -> None:
    """A folder that is new, empty, or an earlier result with nothing else in it.

    Raises:
        UserError: it is something else.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise UserError(f"{out} is not a folder: give --out another one")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if not found:
        return
    try:
        known = json.loads((out / FILE).read_text(encoding="utf-8"))
        own = {FILE, *known["files"]} if known["made_by"] == "ader predict" else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        own = set()
    if foreign := sorted(found - own):
        raise UserError(
            f"{out} holds what ader predict did not write ({some(foreign, 2)}): give --out a new folder, or remove that"
        )


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write to, which takes its place when the block ends well, and else is removed.

    Raises:
        WriteError: the disk refuses.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:50]}.", suffix=".tmp"))
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(out)) from error
    try:
        yield folder
        os.chmod(folder, 0o777 & ~UMASK)  # mkdtemp makes folders private; results are to be shared
        before = folder.with_suffix(".old")
        if os.path.lexists(out):
            os.rename(out, before)
        os.rename(folder, out)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(error.errno, error.strerror, str(error.filename or out)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _announce(predictor: Predictor, pictures: Pictures, index: Index, console: Console) -> None:
    """Says what will be done, and what readers of the result must know."""
    count = len(index)
    console.say(f"model    {predictor.trained.home}")
    console.say(f"images   {count} in {pictures.root}")
    if pictures.left_out:
        names = some((os.path.relpath(name, pictures.root) for name in pictures.left_out), 3)
        console.say(f"         {len(pictures.left_out)} other files are left out: {names}")
    console.say(f"device   {predictor.device}, {predictor.config.trainer.precision}, {predictor.image_size} pixels")
    for warning in predictor.trained.record.warnings:
        console.say(f"CAUTION  {warning}")
    if not predictor.gives_maps:
        console.say(f"         {predictor.config.method.name} gives no maps: there will be scores, and no pictures")


def _thresholds(predictor: Predictor, category: str, wanted: Wanted, console: Console) -> Levels:
    """A category's thresholds; the scale as far as it follows from them."""
    normal: NormalLevels | None = None
    if "normal" in (wanted.threshold, wanted.pixel_threshold):
        normal = normal_levels(predictor, category, wanted.quantile, wanted.pixel_quantile, console)
    image: Threshold | None = None
    if isinstance(wanted.threshold, float):
        image = Threshold(wanted.threshold, "given", "given")
    elif wanted.threshold == "f1max":
        image = test_set_threshold(predictor, category)
    elif normal is not None and wanted.threshold == "normal":
        image = normal.image_threshold()
    pixel: Threshold | None = None
    if isinstance(wanted.pixel_threshold, float):
        pixel = Threshold(wanted.pixel_threshold, "given", "given")
    elif normal is not None and wanted.pixel_threshold == "normal":
        pixel = normal.pixel_threshold()
    if normal is None or normal.pixel is None or normal.lowest is None:
        return Levels(image, pixel, None, "")
    low, middle = normal.lowest, normal.pixel
    how = f"from the lowest pixel of {normal.whose}, their {normal.pixel_quantile:g} quantile in the middle"
    return Levels(image, pixel, (low, 2 * middle - low), how)


def _with_scale(levels: Levels, found: tuple[float, float] | None) -> Levels:
    """The scale that normal images gave, or the range of these images' maps."""
    if levels.scale is not None or found is None:
        return levels
    return levels._replace(scale=found, scale_how="lowest and highest pixel of the category's images here")


def _score(predictor: Predictor, index: Index, outputs: dict[str, str], folder: Path, console: Console) -> Scored:
    """Scores all images and lays their maps into ``folder/maps``."""
    scores, ranges, seconds = dict[str, float](), dict[str, tuple[float, float]](), 0.0
    workers = predictor.config.trainer.decoders()
    with console.track("predict", len(index), "images") as track:
        for category in index.categories:
            part = index.select([category])
            batches = predictor.score_index(part, category or None, workers)
            while True:
                began = time.perf_counter()
                found = next(batches, None)
                synchronize(predictor.device)
                seconds += time.perf_counter() - began
                if found is None:
                    break
                batch, (score_B, map_BHW) = found
                names = [sample.image for sample in batch.samples]
                scores |= zip(names, score_B.tolist(), strict=True)
                for name, map_HW in zip(names, () if map_BHW is None else map_BHW.cpu().numpy(), strict=False):
                    low, high = ranges.get(category, (np.inf, -np.inf))
                    ranges[category] = (min(low, float(map_HW.min())), max(high, float(map_HW.max())))
                    _save(folder / "maps" / f"{outputs[name]}.npy", partial(np.save, arr=map_HW))
                track.reach(len(scores), f"{len(scores) / max(1e-9, seconds):.1f} images/s")
    return Scored(scores, ranges, seconds)


def _paint(
    index: Index, outputs: dict[str, str], levels: dict[str, Levels], folder: Path, workers: int, console: Console
) -> None:
    """Heat maps, overlays and masks of all images, each at the image's own size."""

    def paint(sample: Sample) -> None:
        name, level = outputs[sample.image], levels[sample.category]
        assert level.scale is not None  # there are maps
        image = read_image(index.path(sample.image), bits=index.bits)
        map_HW: F32 = painting.at_own_size(np.load(folder / "maps" / f"{name}.npy"), image.size)
        mask_HW = None if level.pixel is None else map_HW > level.pixel.value
        pictures = {
            "heat": painting.heat(map_HW, level.scale),
            "overlay": painting.overlay(np.asarray(image), map_HW, level.scale, mask_HW),
        }
        if mask_HW is not None:
            pictures["mask"] = np.where(mask_HW, np.uint8(255), np.uint8(0))
        for kind, pixels in pictures.items():
            _save(folder / kind / f"{name}.png", partial(Image.fromarray(pixels).save, format="PNG"))

    with threads(workers, "paint") as pool, console.track("paint", len(index), "images") as track:
        for _ in ahead(pool, paint, index, 2 * max(1, workers)):
            track.advance()


def _save(path: Path, write: Any) -> None:
    """A file of a folder that only appears when all are there.

    Raises:
        WriteError: the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            write(file)
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path)) from error


def _write(
    predictor: Predictor,
    index: Index,
    pictures: Pictures,
    levels: dict[str, Levels],
    scored: Scored,
    folder: Path,
) -> None:
    """``scores.csv`` and ``predict.json``."""
    rows = [_row(sample, scored.scores[sample.image], levels[sample.category].image) for sample in index]
    columns = ["image", "score", "threshold", "verdict", "category", "threshold_is"]
    write_atomic(folder / "scores.csv", pd.DataFrame(rows, columns=columns).to_csv(index=False))
    models = {predictor.model_name(category or None) for category in index.categories}
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    facts = {
        "schema": SCHEMA,
        "made_by": "ader predict",
        "run": str(predictor.trained.folder),
        "title": predictor.trained.record.title,
        "checkpoints": {name: predictor.trained.record.models[name].checkpoint.sha256 for name in sorted(models)},
        "warnings": predictor.trained.record.warnings,
        "root": str(pictures.root),
        "images": len(index),
        "seconds": scored.seconds,
        "images_per_second": len(index) / max(1e-9, scored.seconds),
        "image_size": predictor.image_size,
        "precision": predictor.config.trainer.precision,
        "device": str(predictor.device),
        "categories": {
            name: {
                "threshold": asdict(level.image) if level.image else None,
                "pixel_threshold": asdict(level.pixel) if level.pixel else None,
                "scale": level.scale,
                "scale_is": level.scale_how,
            }
            for name, level in levels.items()
        },
        "files": files,
        "provenance": plain(provenance()),
    }
    write_atomic(folder / FILE, json.dumps(facts, indent=2, allow_nan=False) + "\n")


def _row(sample: Sample, score: float, threshold: Threshold | None) -> tuple[Any, ...]:
    if threshold is None:
        return sample.image, score, None, "", sample.category, ""
    return sample.image, score, threshold.value, verdict(score, threshold), sample.category, threshold.how


def verdict(score: float, threshold: Threshold) -> str:
    """``anomalous`` above the threshold, else ``normal``."""
    return "anomalous" if score > threshold.value else "normal"


def _summarize(index: Index, levels: dict[str, Levels], scored: Scored, console: Console) -> None:
    """What was found, by what threshold, and how fast."""
    for category, level in levels.items():
        names = [sample.image for sample in index if sample.category == category]
        label = f"{category or 'images'}: " if len(levels) > 1 or category else ""
        if level.image is not None:
            found = sum(scored.scores[name] > level.image.value for name in names)
            console.say(
                f"{label}{found} of {len(names)} images anomalous, above {level.image.value:.6g}: {level.image.how}"
            )
        if level.pixel is not None:
            console.say(f"{label}masks above {level.pixel.value:.6g}: {level.pixel.how}")
        if level.scale is not None:
            low, high = level.scale
            console.say(f"{label}colors from {low:.6g} to {high:.6g}: {level.scale_how}")
    rate = len(index) / max(1e-9, scored.seconds)
    console.say(f"{rate:.1f} images per second, reading included, painting not")
