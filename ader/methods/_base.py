"""The interface between a method and the benchmark.

A method says *what* it learns (``stages``) and *how it scores* (``predict``). Everything else, loops, precision,
distribution, clipping, checkpoints, evaluation, is written once elsewhere.

Shapes in names: B images, C channels, H height, W width (pixels at the evaluation resolution).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.optim import Optimizer

from ader.config import plugins

# ranges of constructor arguments; ``build`` refuses values outside
from ader.config.ranges import Count as Count
from ader.config.ranges import NonNegative as NonNegative
from ader.config.ranges import Positive as Positive
from ader.config.ranges import Probability as Probability
from ader.config.ranges import Share as Share
from ader.config.tags import Supervision as Supervision
from ader.config.tags import Tags as Tags
from ader.config.validate import validated
from ader.data.index import Index
from ader.data.sources import Source
from ader.nets.optim.schedules import Schedule
from ader.settings import check_supervision
from ader.system.errors import UserError

if TYPE_CHECKING:
    from ader.nets.backbone import BackboneOptions

Array = npt.NDArray[Any]

#: Makes a training image's extra inputs in a loader worker: (uint8 image (3, H, W), random stream) -> named arrays.
#: The stream depends on the seed, the epoch and the image only.
Augment = Callable[[Array, np.random.Generator], Mapping[str, Array]]

#: The order of a stage's images: a new permutation for each epoch; the index's own order; or as many normal as
#: defective images in every batch, the rarer kind repeated in fresh permutations (``ader.training.order``).
Sampling = Literal["shuffled", "sequential", "balanced"]


class Prediction(NamedTuple):
    """What a method says of a batch of images.

    ``score_B``: higher is more anomalous, any range. ``map_BHW``: the same per pixel, at the input's size, or None
    when the method does not localize (pixel metrics are then undefined, never 0).
    """

    score_B: Tensor
    map_BHW: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Training images on the device.

    Attributes:
        image_BCHW: RGB in [0, 1], float32.
        seed_B: int64 on the CPU; a random seed for each image that depends on the run's seed, the epoch and the
            image, for synthetic anomalies made on the device.
        label_B: 0 or 1; None unless the method's tags declare supervision.
        mask_BHW: 0 or 1; None unless the method's tags declare pixel supervision.
        extra: what the stage's ``augment`` made, by name.
        inputs: what the method's declared ``inputs`` have for these images, by name; as ``predict`` gets them.
        total: in a ``TrainStage``, images of the step over all processes, of which these are a part; None: all.
        first: how many of the step's images stand before these, at other processes.
        step_seed: in a ``TrainStage``, a random seed of the step, the same in all processes.
    """

    image_BCHW: Tensor
    seed_B: Tensor
    label_B: Tensor | None = None
    mask_BHW: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    total: int | None = None
    first: int = 0
    step_seed: int = 0

    @property
    def share(self) -> float:
        """Of the step's images, that these are; 1 with one process."""
        return 1.0 if self.total is None else len(self.image_BCHW) / self.total


class Optimize(Protocol):
    """Given to ``TrainStage.step`` by the trainer.

    Clears the gradients of the named optimizers (all when none is named), back-propagates ``loss``, takes the mean of
    the gradients over processes, clips each optimizer's gradient norm and steps. May be called many times per batch.

    Processes are weighted by their shares of the step's images, which is right for a loss that is a mean over images.
    A sum over images is divided by ``Batch.share``; what the loss takes from the whole batch (a count, an extreme) is
    gathered with ``ader.system.dist``, and what it draws comes from ``Batch.seed_B``. ``check_processes`` tells.

    With ``trainer.accumulate`` or the stage's own an optimizer steps at every N-th call that concerns it
    (``ader.training.optimization``); a method needs to know nothing of that.
    """

    def __call__(self, loss: Tensor, *names: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a ``FitPass`` and a ``TrainStage`` share: which images come, in which order, with which labels.

    Attributes:
        name: unique within the method; appears in logs, checkpoints and the record.
        batch_size: images per step, over all processes; even where ``sampler`` is ``"balanced"``.
        split: which part of the training data: ``"train"``, or one named in ``Method.holdout`` or by the setting; or
            several of them together.
        share: of each category's normal and of its defective images that the stage sees, drawn by the run's seed.
        supervision: the labels it trains with, where it is less than the method's tags say (a detector inside a
            supervised method); None: as the tags say. A stage with ``"normal"`` never sees a labeled defect.
        augment: makes ``Batch.extra`` in loader workers.
        inputs: the names of those of ``Method.inputs`` that its batches have; None: all.
        sampler: in which order the images come; ``"balanced"`` wants image labels.

    Raises:
        UserError: balanced batches of an odd size.
    """

    name: str
    batch_size: int
    split: str | tuple[str, ...] = "train"
    share: float = 1.0
    supervision: Supervision | None = None
    augment: Augment | None = None
    inputs: tuple[str, ...] | None = None
    sampler: Sampling = "shuffled"

    def __post_init__(self) -> None:
        if self.sampler == "balanced" and self.batch_size % 2:
            raise UserError(
                f"stage {self.name!r} has as many normal as defective images in a batch, and a batch size of "
                f"{self.batch_size}: give an even batch_size"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """``split`` as a tuple."""
        return (self.split,) if isinstance(self.split, str) else self.split


@dataclass(frozen=True, kw_only=True)
class FitPass(Stage):
    """One sweep without gradients, method in evaluation mode: memory banks, statistics, fitting of trees.

    An interrupted pass starts again from its beginning, so what ``update`` collects must be reset by the code in
    ``stages`` that precedes the ``yield``.

    Of several processes each sees a part of the images, and one may see none: ``finish`` is called all the same, and
    gathers. ``ader.nets.state.rows.Rows`` collects rows of tensors and does that.

    Attributes:
        update: takes each batch.
        finish: called once after the last batch.
        sampler: the index's own order, unless another is given.
        batches: stop after so many batches (None: all images once, the last batch may be smaller).
    """

    update: Callable[[Batch], None]
    finish: Callable[[], None]
    sampler: Sampling = "sequential"
    batches: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """Gradient descent: batches, each given to ``step``, for so many epochs or steps.

    Attributes:
        step: minimizes on one batch and returns the losses to log, by name (scalar tensors).
        optimizers: by name.
        modules: put in training mode; the rest of the method stays in evaluation mode.
        epochs: sweeps over the split; exactly one of ``epochs`` and ``steps`` is given.
        steps: batches, for recipes that count updates.
        schedules: learning-rate factor per optimizer name, evaluated before every step.
        clip: largest gradient norm per optimizer.
        drop_last: leave out the incomplete batch at an epoch's end (kept when it would be the only one).
        accumulate: calls of ``optimize`` whose gradients make one update, as the recipe has it; ``trainer.accumulate``
            multiplies it. Steps, epochs and schedules count batches all the same.
    """

    step: Callable[[Batch, Optimize], Mapping[str, Tensor]]
    optimizers: Mapping[str, Optimizer]
    modules: Sequence[nn.Module]
    epochs: int | None = None
    steps: int | None = None
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    clip: float | None = None
    drop_last: bool = True
    accumulate: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"stage {self.name!r}: give epochs or steps, one of them")
        unknown = set(self.schedules) - set(self.optimizers)
        if unknown:
            raise ValueError(f"stage {self.name!r}: schedules for unknown optimizers {sorted(unknown)}")


class Method(nn.Module):
    """Base class of all methods. The constructor takes named, typed arguments: the method's recipe.

    Randomness comes from torch's global generator: seeded, alike in all processes, before the constructor is called;
    seeded again, saved and restored by the trainer.

    Attributes:
        tags: what the method is.
    """

    tags: ClassVar[Tags] = Tags()

    @classmethod
    def arguments_for(cls, arguments: Mapping[str, Any], training: Index, data_hash: str) -> Mapping[str, Any]:
        """The constructor's arguments for a model that learns from ``training``.

        Called for every model of a run before anything is computed or written. Nearly every method takes what it is
        given; one that brings parts which other runs trained chooses and checks them here.

        Args:
            arguments: as configured, of the constructor's types.
            training: what the model may see, test images apart.
            data_hash: of the whole dataset, as records have it.

        Raises:
            UserError: the method cannot learn from these samples.
        """
        check_supervision(cls.tags.supervision, training)
        return arguments

    @classmethod
    def inputs(cls, arguments: Mapping[str, Any]) -> Mapping[str, Source]:
        """What the method gets of every image besides its pixels, e.g. ``{"segments": LabelMaps(folder)}``.

        One declaration for training and test: a training batch has them in ``Batch.inputs``, and ``predict`` gets them
        as keyword arguments of the same names. They are checked before anything is trained and read in the loader's
        workers. Most methods have none.

        Args:
            arguments: the constructor's, as configured.
        """
        return {}

    @classmethod
    def files(cls, arguments: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
        """Files besides the dataset's that training depends on, by their kind and by a name that does not depend on
        where they lie. A run whose files changed is another run.

        Here: the weights of every backbone, where they are in a folder.

        Args:
            arguments: the constructor's, as configured.

        Raises:
            UserError: some are missing.
        """
        files = [each.local_file() for each in cls.backbones(arguments)]
        weights = {file.name: file for file in files if file is not None}
        return {"weights": weights} if weights else {}

    @classmethod
    def obtain(cls, arguments: Mapping[str, Any]) -> None:
        """Gets what the constructor would get from elsewhere, before many runs ask for it: a sweep calls this once.

        Here: the pretrained weights of every backbone, which are downloaded where no folder has them.

        Args:
            arguments: the constructor's, as configured.

        Raises:
            UserError: it cannot be had; the message says how to get it by hand.
        """
        from ader.nets.backbone import obtain

        for options in cls.backbones(arguments):
            obtain(options)

    @classmethod
    def backbones(cls, arguments: Mapping[str, Any]) -> list[BackboneOptions]:
        """Those of its arguments, the constructor's defaults included, that choose a pretrained network."""
        from ader.nets.backbone import BackboneOptions  # brings timm

        parameters = inspect.signature(cls).parameters
        values = [arguments.get(name, parameter.default) for name, parameter in parameters.items()]
        return [each for each in values if isinstance(each, BackboneOptions)]

    @property
    def holdout(self) -> Mapping[str, float]:
        """Shares of each category's normal training images set apart as further splits, e.g. ``calibration: 0.1``."""
        return {}

    def stages(self) -> Iterator[Stage]:
        """Yields the stages of training, in order; none for a method that needs no training.

        A generator, so that a later stage can use what an earlier one made. Code between two yields runs again
        when a run is resumed: it must be cheap and repeatable.
        """
        return iter(())

    def predict(self, image_BCHW: Tensor) -> Prediction:
        """Scores images (RGB in [0, 1]); evaluation mode, no gradients. Each image's result is independent of the
        others in its batch.

        Images may have another size than those of training, unless the constructor takes ``image_size``; a method that
        cannot score a size says so in a ``UserError``.

        A method that declares ``inputs`` takes each as a further keyword argument: it is called as
        ``predict(image_BCHW, **inputs)``, with tensors (B, ...) on the images' device.
        """
        raise NotImplementedError(f"{type(self).__name__} must define predict")  # abstract

    def forward(self, image_BCHW: Tensor) -> Any:
        """The network pass whose multiply-accumulates the papers count; ``predict`` unless a method says otherwise."""
        return self.predict(image_BCHW)

    def warnings(self) -> list[str]:
        """What a reader of the numbers must know (random backbone weights, stand-in textures), one clause each."""
        return list(dict.fromkeys(text for part in self.modules() if (text := getattr(part, "warning", None))))

    def weights(self) -> list[dict[str, Any]]:
        """Name, source and checksum of every set of pretrained weights in use."""
        return [dict(vars(part)["provenance"]) for part in self.modules() if "provenance" in vars(part)]


def supervision_of(stage: Stage, tags: Tags) -> Supervision:
    """The labels that a stage of a method with these tags sees: what it asks for, and never more than the tags say."""
    levels: tuple[Supervision, ...] = ("normal", "image", "pixel")
    return min(stage.supervision or tags.supervision, tags.supervision, key=levels.index)


def find_class(name: str) -> type[Method]:
    """The one ``Method`` class of the module called ``name``.

    Raises:
        UserError: there is no such method, or a package that it needs is missing.
    """
    module = plugins.load("methods", name)
    classes = [
        item
        for _, item in inspect.getmembers(module, inspect.isclass)
        if issubclass(item, Method) and item.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise ImportError(f"{module.__name__} must define exactly one Method class, it defines {len(classes)}")
    return classes[0]


def recipe_arguments(method_class: type[Method], image_size: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's arguments as the constructor takes them; ``image_size`` only where it asks for it.

    Raises:
        UserError: unknown argument, or a value of the wrong kind.
    """
    if "image_size" in inspect.signature(method_class).parameters:
        arguments = {"image_size": image_size, **arguments}
    return validated(method_class, arguments, where="method")
