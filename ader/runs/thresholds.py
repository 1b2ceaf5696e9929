"""Where a score begins to be an anomaly: thresholds per category, each with what it is.

Two sources. Normal images of the training data, or of the dataset's validation split where it has one: a stated
quantile of their scores, and of their maps' pixels; no test image is looked at. Or the test set: the threshold with the
largest F1 score, which is what published F1-max values are computed with, and which nobody has who does not know the
labels.

A score above its threshold is anomalous; one that is equal is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import TypeAdapter

from ader.data.check import check_files
from ader.data.index import TEST, TRAIN, Index, Sample
from ader.results.identity import contents_of
from ader.results.provenance import provenance
from ader.results.record import digest
from ader.results.schema import plain
from ader.runs.predictor import Predictor, needs_more
from ader.system.console import Console
from ader.system.errors import UserError, some
from ader.system.files import check_regular, write_atomic

#: In a run's folder: what was found on normal images, so that it need not be found again.
FILE = "thresholds.json"
SCHEMA = 1

#: The split of normal images that no model has seen.
VALIDATION = "validation"

#: Shares of normal images, and of their pixels, that are not above the thresholds.
QUANTILE, PIXEL_QUANTILE = 0.99, 0.999

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Threshold:
    """One threshold.

    Attributes:
        value: scores above it are anomalous.
        kind: ``normal``, ``f1max`` or ``given``.
        how: what it is, in words.
    """

    value: float
    kind: str
    how: str


@dataclass(frozen=True)
class NormalLevels:
    """What a model says of a category's normal images.

    Attributes:
        images: how many.
        split: of the dataset; ``train`` are images that the model has learned from.
        quantile, pixel_quantile: of which the levels are.
        score: quantile of the images' scores.
        pixel: quantile of all pixels of their maps; None without maps.
        lowest: smallest value of the maps; None without maps.
    """

    images: int
    split: str
    quantile: float
    pixel_quantile: float
    score: float
    pixel: float | None
    lowest: float | None

    @property
    def whose(self) -> str:
        """The images in words."""
        if self.split == VALIDATION:
            return f"{self.images} normal images of the validation split"
        return f"{self.images} normal training images, which the model has learned from"

    def image_threshold(self) -> Threshold:
        """For scores."""
        # of fewer than 1 / (1 - quantile) images that is the largest
        what = "largest score" if self.images * (1 - self.quantile) < 1 else f"{self.quantile:g} quantile of the scores"
        return Threshold(self.score, "normal", f"{what} of {self.whose}")

    def pixel_threshold(self) -> Threshold:
        """For maps.

        Raises:
            UserError: the method gives none.
        """
        if self.pixel is None:
            raise UserError("the method gives no maps: leave pixel_threshold out")
        return Threshold(self.pixel, "normal", f"{self.pixel_quantile:g} quantile of the pixels of {self.whose}")


LEVELS = TypeAdapter(NormalLevels)


def quantile_of(values: F32, share: float) -> float:
    """The smallest of the values that at least ``share`` of them do not exceed (NumPy's ``inverted_cdf``)."""
    return float(np.quantile(values, share, method="inverted_cdf"))


class LargestValues:
    """An exact quantile of numbers that come in parts and are too many to keep: only the largest are kept.

    Args:
        total: how many will come.
        share: the quantile that will be asked for.
    """

    def __init__(self, total: int, share: float) -> None:
        self.kept = total - max(1, math.ceil(share * total - 1e-9)) + 1  # that quantile is the smallest of so many
        self.values: F32 = np.empty(0, np.float32)

    def add(self, values: F32) -> None:
        """Takes a part."""
        joined = np.concatenate([self.values, values.ravel()])
        self.values = joined if len(joined) <= self.kept else np.partition(joined, -self.kept)[-self.kept :]

    def quantile(self) -> float:
        """As ``quantile_of`` all values."""
        return float(self.values.min())


def f1_max_threshold(score_N: npt.NDArray[Any], label_N: npt.NDArray[Any]) -> tuple[float, float]:
    """The threshold with the largest F1 score, and that; of several the highest.

    It lies halfway to the next score below, so that rounding on another machine changes no verdict.

    Args:
        score_N: higher is more anomalous.
        label_N: 0 or 1, of which there must be some.
    """
    order = np.argsort(-score_N, kind="stable")
    score_N, label_N = score_N[order].astype(np.float64), label_N[order]
    last_N = np.append(score_N[1:] != score_N[:-1], True)  # of equal scores, all or none are above a threshold
    found_N, called_N = np.cumsum(label_N)[last_N], np.flatnonzero(last_N) + 1
    f1_N = 2 * found_N / (called_N + label_N.sum())
    best = int(np.argmax(f1_N))
    level_N = score_N[last_N]
    if best + 1 < len(level_N):
        return float((level_N[best] + level_N[best + 1]) / 2), float(f1_N[best])
    spread = float(level_N[0] - level_N[-1]) or abs(float(level_N[best])) or 1.0
    return float(level_N[best] - 1e-3 * spread), float(f1_N[best])  # every image is called anomalous


def test_set_threshold(predictor: Predictor, category: str) -> Threshold:
    """The F1-max threshold of a category's test images, from the run's ``scores.csv``.

    Raises:
        UserError: the file is missing or damaged, or the category has no defective test images.
    """
    file = predictor.trained.folder / "scores.csv"
    rows = _rows(file, ["category", "label", "score"])
    rows = rows[rows["category"] == category]
    try:
        score_N, label_N = rows["score"].astype(float).to_numpy(), rows["label"].astype(int).to_numpy()
    except ValueError as error:
        raise UserError(
            f"{predictor.trained.folder / 'scores.csv'} is damaged ({error}): ader eval makes it"
        ) from error
    if not label_N.any():
        raise UserError(
            f"category {category!r} has no defective test images in {predictor.trained.folder}, so that no threshold "
            "has an F1 score: choose threshold=normal"
        )
    value, f1 = f1_max_threshold(score_N, label_N)
    how = f"F1-max (F1 {f1:.3f}) on the run's {len(rows)} test images: the test set was looked at"
    return Threshold(value, "f1max", how)


def normal_levels(
    predictor: Predictor,
    category: str,
    quantile: float = QUANTILE,
    pixel_quantile: float = PIXEL_QUANTILE,
    console: Console | None = None,
) -> NormalLevels:
    """What a model says of a category's normal images: looked up in the run's ``thresholds.json``, or found by a pass
    over them and kept there.

    The images are those of the dataset's split ``validation`` where it has one, else those of the training data that
    the model was told to be normal. They are read from ``dataset.root``, where their content must be what it was when
    the levels were kept.

    Raises:
        UserError: the images are not there, or the method needs more than images.
    """
    console = console or Console(quiet=True)
    index = normal_images(predictor, category)
    trainer, root = predictor.config.trainer, index.root
    files = {sample.image: root / sample.image for sample in index}
    model = predictor.trained.record.models[predictor.model_name(category)]
    of = {
        "category": category,
        "checkpoint": model.checkpoint.sha256,
        "images": contents_of(predictor.config).mark(files),
        "precision": trainer.precision,
        "quantile": quantile,
        "pixel_quantile": pixel_quantile,
    }
    key, file = digest(of), predictor.trained.folder / FILE
    with suppress(KeyError, TypeError, ValueError):  # it is not there, of another version, or damaged
        return _levels(_kept(file)[key])
    workers = trainer.decoders()
    check_files(index, predictor.config.paths.cache, workers)
    size = predictor.image_size
    pixels = LargestValues(len(index) * size * size, pixel_quantile)
    scores, lowest = list[float](), math.inf
    with console.track(f"normal images of {category}", len(index), "images") as track:
        for _, (score_B, map_BHW) in predictor.score_index(index, category, workers):
            scores += score_B.tolist()
            if map_BHW is not None:
                values = map_BHW.cpu().numpy()
                pixels.add(values)
                lowest = min(lowest, float(values.min()))
            track.reach(len(scores))
    maps = predictor.gives_maps
    levels = NormalLevels(
        images=len(index),
        split=index.samples[0].group or TRAIN,
        quantile=quantile,
        pixel_quantile=pixel_quantile,
        score=quantile_of(np.asarray(scores, np.float32), quantile),
        pixel=pixels.quantile() if maps else None,
        lowest=lowest if maps else None,
    )
    entry = {"of": of, "root": str(root), "levels": asdict(levels), "provenance": plain(provenance())}
    try:
        content = {"schema": SCHEMA, "entries": {**_kept(file), key: entry}}
        write_atomic(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        console.say(f"{file} cannot be written ({error.strerror}): the thresholds are found again next time")
    return levels


def normal_images(predictor: Predictor, category: str) -> Index:
    """A category's normal images of the split ``validation``, or of the training data, by the run's ``training.csv``.

    Returns:
        An index whose test split they are; ``group`` has the split that they are from.

    Raises:
        UserError: there are none, or they are not where they were.
    """
    if predictor.inputs:
        raise UserError(needs_more(predictor))
    file = predictor.trained.folder / "training.csv"
    rows = _rows(file, ["image", "category", "split", "label"])
    rows = rows[(rows["category"] == category) & (rows["label"] == "0")]
    splits = list(dict.fromkeys(rows["split"]))
    split = next((name for name in (VALIDATION, TRAIN, *splits) if name in splits), None)
    root = Path(predictor.config.dataset.root).expanduser().absolute()
    images = sorted(rows["image"][rows["split"] == split]) if split else []
    other = "or choose threshold=f1max, threshold=NUMBER or threshold=none"
    if not images:
        raise UserError(f"{file} has no normal images of category {category!r}: {other[3:]}")
    missing = [image for image in images if not (root / image).is_file()]
    if missing:
        raise UserError(
            f"normal images that the run was trained on are not at {root} ({some(missing, 2)}): set dataset.root, "
            f"{other}"
        )
    samples = tuple(Sample(image, category, TEST, 0, group=split) for image in images)
    return Index("normal", root, samples, has_masks=False, bits=predictor.config.dataset.bits)


def kept_levels(predictor: Predictor, category: str) -> NormalLevels | None:
    """What was found before for the run's present checkpoint at the default quantiles; None where nothing was."""
    checkpoint = predictor.trained.record.models[predictor.model_name(category)].checkpoint.sha256
    wanted = {"category": category, "checkpoint": checkpoint, "quantile": QUANTILE, "pixel_quantile": PIXEL_QUANTILE}
    for entry in _kept(predictor.trained.folder / FILE).values():
        with suppress(KeyError, TypeError, ValueError):
            if wanted.items() <= entry["of"].items():
                return _levels(entry)
    return None


def _levels(entry: Mapping[str, Any]) -> NormalLevels:
    """What an entry of the file holds; ValueError where that does not fit."""
    return LEVELS.validate_json(json.dumps(entry["levels"]), strict=True)


def _kept(file: Path) -> dict[str, Any]:
    """The entries of the file; none where there is no such file, or it is of another version, or damaged."""
    check_regular(file)
    with suppress(OSError, ValueError, AttributeError, TypeError, RecursionError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["schema"] == SCHEMA and isinstance(found["entries"], dict):
            return dict(found["entries"])
    return {}


def _rows(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table of the run, as text.

    Raises:
        UserError: it is missing or damaged.
    """
    check_regular(file)
    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False)[list(columns)]
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: ader eval makes it again") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}): ader eval makes it again") from error
