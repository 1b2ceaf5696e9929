"""A method made small enough to check, and what the checks look at."""

from __future__ import annotations

import copy
import inspect
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ader.config.options import option_file
from ader.methods._base import Batch, Method, Prediction, Stage, recipe_arguments
from ader.methods._options import option_arguments, option_class
from ader.runs.export import random_images
from ader.system.randomness import seed_all
from ader.training.cost import RandomImages
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
STEPS = 3

#: Over every method's recipe ``small``, where it has such arguments: a check takes a few steps and no more.
SHORT: Mapping[str, Any] = {"batch_size": 2, "epochs": 1}


class Training(NamedTuple):
    """A training that several checks look at.

    Attributes:
        method: that was trained.
        stages: by name.
        logged: the last scalar of each tag.
        mode: whether it was left in training mode, which a prediction would have ended.
        moved: names of the tensors that changed in each stage.
        given: the arguments that the constructor got, as building and training have left them.
    """

    method: Method
    stages: Mapping[str, Stage]
    logged: Mapping[str, float]
    mode: bool
    moved: Mapping[str, frozenset[str]]
    given: Mapping[str, Any]


@dataclass
class Subject:
    """A method under test.

    Attributes:
        method_class: the class.
        arguments: of its constructor, making it small.
        size: images are (size, size) pixels.
        config: its YAML file; None skips the checks of the file.
    """

    method_class: type[Method]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int = 64
    config: Path | None = None

    @classmethod
    def named(cls, option: str, *, size: int = 64, **arguments: Any) -> Subject:
        """An option's method under its recipe ``small``; ``arguments`` come before those that the checks choose.

        Raises:
            UserError: there is no such option, or it has no such recipe.
        """
        method_class = option_class(option)
        known = inspect.signature(method_class).parameters
        short = {key: value for key, value in SHORT.items() if key in known}
        given = {**option_arguments(option, "small"), **short, **arguments}
        return cls(method_class, given, size, option_file("method", option))

    def make(self, seed: int = 0) -> Method:
        """A new method; ``seed`` decides its random weights."""
        seed_all(seed)
        return self.method_class(**self.given())

    def given(self) -> dict[str, Any]:
        """What the constructor gets: copies."""
        return recipe_arguments(self.method_class, self.size, copy.deepcopy(dict(self.arguments)))

    def fit(self, data: RandomImages | None = None, **options: Any) -> Method:
        """A new method, trained for a few steps on random images."""
        method = self.make()
        Trainer(device=CPU, max_steps=STEPS, **options).fit(method, data or self.data())
        return method

    def data(self) -> RandomImages:
        """Training data: a few batches of noise."""
        return RandomImages(self.size, STEPS, CPU, self.method_class.tags)

    @cached_property
    def training(self) -> Training:
        """A training that several checks look at: they must leave it as it is."""
        data, given = self.data(), self.given()
        logged, moved = dict[str, float](), dict[str, frozenset[str]]()
        seed_all(0)
        method = self.method_class(**given)
        before: dict[str, Tensor] = {}

        def tell(event: str, stage: Stage, number: int) -> None:
            if event == "begin":
                before.update(snapshot(method))
            elif event == "end":
                moved[stage.name] = frozenset(changed(before, {**before, **tensors(method)}))

        def log(tag: str, value: float, step: int) -> None:
            logged[tag] = value

        Trainer(device=CPU, max_steps=STEPS, scalar=log).fit(method, Watched(data, tell))
        return Training(method, data.stages, logged, method.training, moved, given)

    @property
    def fitted(self) -> Method:
        """The method that was trained there."""
        return self.training.method


class Watched:
    """Training data that tell what happens around them: a stage begins, batch n was taken, a stage ends."""

    def __init__(self, data: RandomImages, tell: Callable[[str, Stage, int], None]) -> None:
        self.data, self.tell = data, tell
        self.order = data.order

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        self.tell("begin", stage, start)
        for number, batch in enumerate(self.data.train(stage, start, stop), start):
            yield batch
            self.tell("step", stage, number + 1)
        self.tell("end", stage, stop)


#: Images for a method to predict.
images = random_images


@torch.no_grad()
def predict(method: Method, image_BCHW: Tensor) -> Prediction:
    """As the runner does it."""
    method.eval()
    return method.predict(image_BCHW)


def tensors(method: nn.Module) -> dict[str, Tensor]:
    """All tensors: parameters, buffers (saved or not) and what else the state dict holds."""
    named = {**dict(method.named_parameters()), **dict(method.named_buffers()), **method.state_dict()}
    return {name: value.detach() for name, value in named.items() if isinstance(value, Tensor)}


def snapshot(method: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors."""
    return {name: value.clone() for name, value in tensors(method).items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit, or are on one side only."""
    names = sorted({*before, *after})
    return [name for name in names if not _equal(before.get(name), after.get(name))]


def _equal(one: Tensor | None, two: Tensor | None) -> bool:
    if one is None or two is None:
        return one is two
    return one.dtype == two.dtype and one.shape == two.shape and one.equal(two)


def same(one: Prediction, two: Prediction) -> bool:
    return all(_equal(a, b) for a, b in zip(one, two, strict=True))


@contextmanager
def no_network() -> Iterator[None]:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("the method asks for the network")

    saved = socket.getaddrinfo, socket.socket.connect
    socket.getaddrinfo, socket.socket.connect = refuse, refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        socket.getaddrinfo, socket.socket.connect = saved  # type: ignore[method-assign]
