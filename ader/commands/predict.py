"""``ader predict``: scores a user's own images with a finished run's model."""

from __future__ import annotations

import math
from pathlib import Path

from ader.commands._request import Request
from ader.commands._trained import opened
from ader.system.errors import UserError

SUMMARY = "ader predict RUN IMAGES... --out DIR  scores your own images: CSV, heat maps, overlays, masks"

#: Flags with a value, which may also be given as ``key=value``.
FLAGS = ("out",)

USAGE = """\
ader predict RUN IMAGES... --out DIR [key=value ...]

Scores images with the model of a finished run. RUN is its results folder; IMAGES are files, and folders with
all images below them. The data that the run was trained on are needed for threshold=normal alone.

DIR must be new, or hold an earlier result of this command, which is replaced. There appear, whole or not at all:
  scores.csv          image, score, threshold, verdict, category, and what the threshold is
  heat/ overlay/      PNG at the image's own size; one color scale for all images of a category
  mask/               PNG, 255 where the map is above the pixel threshold
  maps/               float32 .npy at the model's image size, with maps=true
  predict.json        thresholds and scales with what they are, the run, images per second

  --out DIR, out=DIR
  category=NAME       of the images; needed where the run has several
  category=folder     each image's is the folder above it that has a category's name
  threshold=normal    of scores: a quantile on normal images of the training data (or of the validation split)
  threshold=f1max     the F1-max threshold of the run's test set, which was looked at for that
  threshold=NUMBER|none
  pixel_threshold=normal|NUMBER|none  of maps; normal where threshold is, else none
  quantile=0.99  pixel_quantile=0.999  of normal images, and of their pixels, that are not above the thresholds
  maps=true
  trainer.device=  trainer.workers=  trainer.test_batch_size=  trainer.precision=
  dataset.root=DIR  paths.data=  paths.weights=  paths.cache=
  --config-dir DIR    if the run had one and it was moved
  --cfg               print the run's configuration
"""

OWN = ("out", "category", "threshold", "pixel_threshold", "quantile", "pixel_quantile", "maps")


def main(request: Request) -> int:
    """Scores, draws and writes."""
    path, rest = request.take("the run's folder is not given: ader predict RUN IMAGES... --out DIR")
    out, rest = rest.value("out")
    category, rest = rest.value("category")
    threshold, rest = rest.value("threshold")
    pixel, rest = rest.value("pixel_threshold")
    quantile, rest = rest.value("quantile")
    pixel_quantile, rest = rest.value("pixel_quantile")
    maps, rest = rest.option("maps", ("false", "true"))
    images, rest = rest.paths()
    predictor = opened(path, rest, OWN)
    if predictor is None:
        return 0
    from ader.runs.predict import Wanted, predict_images
    from ader.runs.thresholds import PIXEL_QUANTILE, QUANTILE

    if not out:
        raise UserError("where to write is not given: ader predict RUN IMAGES... --out DIR")
    score_level = level("threshold", threshold or "normal", ("normal", "f1max"))
    pixel_level = level("pixel_threshold", pixel or default_pixel(score_level, predictor.gives_maps), ("normal",))
    wanted = Wanted(
        out=Path(out).expanduser(),
        category=category,
        threshold=score_level,
        pixel_threshold=pixel_level,
        quantile=share("quantile", quantile, QUANTILE),
        pixel_quantile=share("pixel_quantile", pixel_quantile, PIXEL_QUANTILE),
        maps=maps == "true",
    )
    predict_images(predictor, images, wanted)
    return 0


def default_pixel(score_level: str | float | None, gives_maps: bool) -> str:
    """Masks are cut where the scores' threshold is of normal images; no other threshold says anything of pixels."""
    return "normal" if score_level == "normal" and gives_maps else "none"


def level(key: str, text: str, choices: tuple[str, ...]) -> str | float | None:
    """A threshold as it is typed: a choice, a number, or ``none``.

    Raises:
        UserError: it is nothing of that.
    """
    if text in choices:
        return text
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{key}={text} is not known: give {', '.join(choices)}, a number, or none")
    return value


def share(key: str, text: str | None, default: float) -> float:
    """A number in (0, 1].

    Raises:
        UserError: it is none.
    """
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UserError(f"{key}={text} does not fit: give a share above 0 and at most 1, such as {default}")
    return value
