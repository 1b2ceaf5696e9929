"""A finished run's models at work on new images: ``ader.load``, and what ``ader predict`` and ``ader export`` use.

Nothing of the data that the run was trained on is needed: a model is built from the record's configuration, and its
weights, pretrained ones included, are in the checkpoint.

Shapes in names: N and B images, H height, W width.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ader.config.schema import RunConfig
from ader.config.validate import without_weights
from ader.data.image import U8, check_whole, colors, load_image, planes
from ader.data.index import Index
from ader.data.sizes import Sizes
from ader.data.sources import Source
from ader.methods._base import Method, Prediction, find_class, recipe_arguments
from ader.results.trained import Trained, open_run
from ader.runs.evaluate_again import recompose
from ader.runs.inference import check_prediction, refuse_nan
from ader.system.console import Console
from ader.system.device import resolve_device
from ader.system.errors import UserError, some, suggest
from ader.system.parallel import threads
from ader.system.precision import autocast
from ader.training.loader import Loader, TestBatch
from ader.training.trainer import Trainer

F32 = npt.NDArray[np.float32]

#: An image as Python has it: a file, Pillow's, or an array of bytes (H, W, 3) in RGB or (H, W) in gray.
Picture = str | os.PathLike[str] | Image.Image | U8


@dataclass(frozen=True)
class Predictions:
    """What a model says of images.

    Attributes:
        score_N: float32; higher is more anomalous, in the method's own range.
        map_NHW: the same per pixel, float32, at the size at which the model sees images (``image_size`` x
            ``image_size``); None where the method gives no maps.
        images: the files' paths as they were given; ``"0"``, ``"1"`` ... of images that are no files.
    """

    score_N: F32
    map_NHW: F32 | None
    images: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.score_N)


class Predictor:
    """Scores images as the test images of a run were scored: same decoding, size, precision and weights.

    Args:
        trained: the run.
        config: its configuration (``ader.runs.evaluate_again.recompose``).

    Raises:
        UserError: the device is not there.

    Attributes:
        trained, config: as given.
        device: where the models are.
    """

    def __init__(self, trained: Trained, config: RunConfig) -> None:
        self.trained, self.config = trained, config
        self.device = resolve_device(config.trainer.device)
        self._methods: dict[str, Method] = {}

    @property
    def categories(self) -> tuple[str, ...]:
        """What the run was tested on."""
        return self.trained.categories

    @property
    def image_size(self) -> int:
        """Pixels; images are resized to a square."""
        return self.config.image_size

    @property
    def method_class(self) -> type[Method]:
        """The method."""
        return find_class(self.config.method.name)

    @property
    def gives_maps(self) -> bool:
        """Whether it gives anomaly maps."""
        return self.method_class.tags.maps

    @cached_property
    def inputs(self) -> Mapping[str, Source]:
        """What the method gets of every image besides its pixels."""
        return self.method_class.inputs(self._arguments)

    @property
    def per_category(self) -> bool:
        """Whether there is a model for each category."""
        return len(self.trained.record.models) > 1

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        given = without_weights(self.config.method.rest)  # they are all in the checkpoint
        return recipe_arguments(self.method_class, self.image_size, given)

    def model_name(self, category: str | None) -> str:
        """The name of the model for a category.

        Raises:
            UserError: there is a model for each category, and none is given, or no such one.
        """
        models = list(self.trained.record.models)
        if len(models) == 1:
            return models[0]
        if not category:
            raise UserError(f"{self.trained.folder} has a model for each category: give category=NAME ({some(models)})")
        if category not in models:
            raise UserError(f"category={category} has no model in {self.trained.folder}: {suggest(category, models)}")
        return category

    def method(self, category: str | None = None) -> Method:
        """The trained method for a category, on the device, in evaluation mode; loaded when it is first asked for.

        Raises:
            UserError: its checkpoint is missing, or is not the one that the record knows.
        """
        name = self.model_name(category)
        if name not in self._methods:
            file, options = self.trained.whole_checkpoint(name), self.config.trainer
            with torch.random.fork_rng(devices=[]):  # random weights are drawn, and then replaced
                method = self.method_class(**self._arguments)
            trainer = Trainer(
                device=self.device,
                precision=options.precision,
                channels_last=options.channels_last,
                checkpoint=file,
                console=Console(quiet=True),
            )
            trainer.restore(method)
            self._methods[name] = method.requires_grad_(False)
        return self._methods[name]

    @torch.no_grad()
    def score(self, image_BCHW: Tensor, category: str | None = None, **inputs: Tensor) -> Prediction:
        """Scores images that are at the model's size.

        Args:
            image_BCHW: RGB in [0, 1], float32, on the device.
            category: which model, where there are several.
            inputs: what the method needs besides (``inputs``).
        """
        method = self.method(category)
        with autocast(self.device, self.config.trainer.precision):
            return check_prediction(method, method.predict(image_BCHW, **inputs), image_BCHW)

    def score_index(
        self, index: Index, category: str | None = None, workers: int = 0
    ) -> Iterator[tuple[TestBatch, Prediction]]:
        """Scores an index's test images, which are read as a run reads its own.

        Args:
            index: the images, all for the same model.
            category: which model.
            workers: decoding processes.

        Raises:
            Stopped: a score is no number.
        """
        method = self.method(category)
        loader = Loader(index, self.image_size, self.device, self.config.seed, workers, method.tags, inputs=self.inputs)
        for batch in loader.test(self.config.trainer.test_batch_size, Sizes()):
            prediction = self.score(batch.image_BCHW, category, **batch.inputs)
            refuse_nan(method, prediction, batch.samples)
            yield batch, prediction

    def predict(
        self, images: Picture | Iterable[Picture], category: str | None = None, workers: int = 4
    ) -> Predictions:
        """Scores images; all of their maps are in memory at once (256 KB each at 256 pixels).

        Args:
            images: one, or several: paths, Pillow images, or uint8 arrays (H, W, 3) in RGB or (H, W) in gray, of any
                size. A four-dimensional array is a batch (N, H, W, 3).
            category: which model, where the run has one for each category.
            workers: decoding threads.

        Raises:
            UserError: an image is damaged or of another kind, or the method needs more than images.
        """
        if self.inputs:
            raise UserError(needs_more(self))
        single = isinstance(images, (str, os.PathLike, Image.Image)) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        pictures: Iterable[Picture] = [images] if single else images  # type: ignore[list-item, assignment]
        names, scores, maps = list[str](), list[F32](), list[F32]()
        self.method(category)  # what is wrong with it is said before anything is decoded
        with threads(workers, "decode") as pool:
            numbered = enumerate(pictures)
            while chosen := list(itertools.islice(numbered, self.config.trainer.test_batch_size)):
                decoded = list(pool.map(lambda item: self._decoded(*item), chosen))
                image_BCHW = torch.from_numpy(np.stack(decoded)).to(self.device).float().div_(255)
                score_B, map_BHW = self.score(image_BCHW, category)
                names += [_name(*item) for item in chosen]
                scores.append(score_B.cpu().numpy())
                maps += [] if map_BHW is None else [map_BHW.cpu().numpy()]
        if not names:
            raise UserError("no images are given: name files, or give arrays")
        return Predictions(np.concatenate(scores), np.concatenate(maps) if maps else None, tuple(names))

    def _decoded(self, number: int, picture: Picture) -> U8:
        """As a run decodes its own, uint8 (3, H, W)."""
        if isinstance(picture, (str, os.PathLike)):
            check_whole(Path(picture))
            return load_image(Path(picture), self.image_size, bits=self.config.dataset.bits)
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or not (picture.ndim == 2 or picture.shape[2:] == (3,)):
                raise UserError(
                    f"image {number} is an array of {picture.dtype} and shape {picture.shape}: give uint8 of shape "
                    "(H, W, 3) in RGB, or (H, W)"
                )
            picture = Image.fromarray(np.ascontiguousarray(picture))
        if not isinstance(picture, Image.Image):
            raise UserError(f"image {number} is a {type(picture).__name__}: give a path, a Pillow image or an array")
        if picture.mode in ("F", "I", "I;16"):
            raise UserError(f"image {number} has mode {picture.mode}, whose range is unknown: convert it to 8 bits")
        return planes(colors(picture, Path(f"image {number}")), self.image_size)


def _name(number: int, picture: Picture) -> str:
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else str(number)


def needs_more(predictor: Predictor) -> str:
    """Why a method that declares inputs cannot score an image alone."""
    return (
        f"{predictor.config.method.name} needs {some(predictor.inputs)} of every image besides its pixels, as this run "
        "was trained: train one without, or evaluate it on a dataset that has them (ader eval)"
    )


def open_predictor(run: str | Path, words: Sequence[str] = (), config_dir: str | None = None) -> Predictor:
    """The models of a finished run.

    Args:
        run: its folder.
        words: overrides of what an evaluation may change, such as ``trainer.device=cpu``.
        config_dir: a folder with further options; None: the run's own.

    Raises:
        UserError: it is no finished run, or the words are wrong.
    """
    trained = open_run(Path(run))
    return Predictor(trained, recompose(trained, words, config_dir))
