"""The one inference loop: scores the test images, feeds the evaluator, and times both."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ader.data.index import Sample
from ader.mapfiles.folder import saved_names
from ader.methods._base import Method, Prediction
from ader.metrics import Evaluator
from ader.results.pixels import Sketches
from ader.results.schema import PredictionCost
from ader.runs.gallery import Pictures
from ader.runs.observe import observe
from ader.runs.plan import RunPlan
from ader.runs.session import Session
from ader.system import dist
from ader.system.device import synchronize
from ader.system.errors import some
from ader.system.files import write_atomic
from ader.system.interrupt import Stopped
from ader.system.memory import peak_memory, reset_peak
from ader.system.precision import autocast
from ader.training.loader import Loader
from ader.training.order import test_batches


@torch.no_grad()
def predict(
    method: Method, loader: Loader, evaluator: Evaluator, session: Session[RunPlan]
) -> tuple[PredictionCost, dict[str, float], Pictures, Sketches]:
    """Scores this process's test images and gives them to ``evaluator``.

    Returns:
        What it cost, the score of every test image, the gallery's pictures and the sketches of pixels; those of other
        processes are included.
    """
    plan, options = session.plan, session.plan.config.trainer
    reset_peak(plan.device)
    batch_size, images = options.test_batch_size, len(loader.index.split("test"))
    seconds = {"predict": 0.0, "evaluate": 0.0}
    scores: dict[str, float] = {}
    sizes, places, gallery = session.sizes, saved_names(plan.index), session.new_gallery()
    sketches = Sketches() if session.sketched else None
    method.eval()
    with session.console.track("predict", len(test_batches(images, batch_size)), "batches") as track:
        for samples, image_BCHW, masks, inputs in loader.test(batch_size, sizes):
            began = time.perf_counter()
            with autocast(plan.device, options.precision):
                prediction = check_prediction(method, method.predict(image_BCHW, **inputs), image_BCHW)
            synchronize(plan.device)
            middle = time.perf_counter()
            refuse_nan(method, prediction, samples)
            observe(evaluator, sizes, samples, prediction.score_B, prediction.map_BHW, masks, sketches)
            seconds["predict"] += middle - began
            seconds["evaluate"] += time.perf_counter() - middle
            gallery.add(samples, image_BCHW, *prediction, masks)
            if session.outputs.maps and prediction.map_BHW is not None:
                save_maps(plan.folder / "maps", [places[sample.image] for sample in samples], prediction.map_BHW)
            scores |= zip((sample.image for sample in samples), prediction.score_B.tolist(), strict=True)
            track.advance(f"{len(scores) / max(1e-9, seconds['predict']):.1f} images/s")
            session.interrupt.check()
    pictures = gallery.pictures()
    shares = dist.gather_objects((seconds, scores, sketches or Sketches()))
    scores = {image: score for _, share, _ in shares for image, score in share.items()}
    predicting, evaluating = (max(share[kind] for share, _, _ in shares) for kind in ("predict", "evaluate"))
    every = Sketches({image: each for _, _, share in shares for image, each in share.images.items()})
    return PredictionCost.of(len(scores), predicting, evaluating, peak_memory(plan.device)), scores, pictures, every


def check_prediction(method: Method, prediction: Prediction, image_BCHW: Tensor) -> Prediction:
    """The prediction in float32, if it has the shapes that the interface promises.

    Raises:
        TypeError: it has not; the method is at fault.
    """
    count, _, height, width = image_BCHW.shape
    name = type(method).__name__
    score_B, map_BHW = prediction
    if score_B.shape != (count,):
        raise TypeError(f"{name}.predict: expected scores of shape ({count},), got {tuple(score_B.shape)}")
    if (map_BHW is not None) != method.tags.maps:
        raise TypeError(f"{name}.predict: expected {'a map' if method.tags.maps else 'no map'}, as its tags say")
    if map_BHW is not None and map_BHW.shape != (count, height, width):
        raise TypeError(f"{name}.predict: expected maps of shape {(count, height, width)}, got {tuple(map_BHW.shape)}")
    return Prediction(score_B.float(), None if map_BHW is None else map_BHW.float())


def refuse_nan(method: Method, prediction: Prediction, samples: Sequence[Sample]) -> None:
    """Ends the run at the first score that is no number.

    Raises:
        Stopped: NaN in a score or a map.
    """
    bad_B = prediction.score_B.isnan()
    if prediction.map_BHW is not None:
        bad_B = bad_B | prediction.map_BHW.flatten(1).isnan().any(dim=1)
    if bad_B.any():
        names = [sample.image for sample, bad in zip(samples, bad_B.tolist(), strict=True) if bad]
        raise Stopped(
            f"{type(method).__name__}.predict gave NaN for {some(names, 3)}: the training diverged (lower the learning "
            "rate, check the precision) or the method has a mistake; force=true starts again"
        )


def save_maps(folder: Path, names: Sequence[str], map_BHW: Tensor) -> None:
    """Writes each map as ``<name>.npy``, float32 (H, W)."""
    for name, map_HW in zip(names, map_BHW.cpu().numpy(), strict=True):
        buffer = io.BytesIO()
        np.save(buffer, map_HW.astype(np.float32))
        write_atomic(folder / f"{name}.npy", buffer.getvalue())
