"""The check that features from the cache change nothing."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ader.methods._base import Batch, Stage
from ader.nets.frozen import Frozen
from ader.system.console import Console
from ader.testing.subject import CPU, Subject, changed, images, predict, same, snapshot
from ader.training.cost import RandomImages
from ader.training.features import FeatureCache
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer


class Shuffled(RandomImages):
    """One batch, in another order in every epoch; tells which image tensor is the step's."""

    now: Tensor | None = None

    def order(self, stage: Stage) -> BatchOrder:
        return replace(super().order(stage), sampler="shuffled")

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        for batch in super().train(stage, start, stop):
            self.now = batch.image_BCHW
            yield batch


def check_cached_features(subject: Subject) -> None:
    """Two epochs with features from ``trainer.cache_features`` and two without give the same method and predictions,
    bit for bit; a frozen network that is given the batch's images themselves is not computed in the second epoch."""
    parameters = inspect.signature(subject.method_class).parameters
    twice = replace(subject, arguments={**subject.arguments, **({"epochs": 2} if "epochs" in parameters else {})})
    given: list[str] = []
    if not any(isinstance(part, Frozen) for part in subject.fitted.modules()):
        return
    plain = _trained(twice, None, given)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder), "on", Console(quiet=True))
        remembering = _trained(twice, cache, [])
    moved = changed(snapshot(plain), snapshot(remembering))
    assert not moved, f"with features from the cache {moved} differ"
    image_BCHW = images(2, subject.size)
    assert same(predict(plain, image_BCHW), predict(remembering, image_BCHW)), "predictions differ"
    again = len(given) - len(set(given))
    assert cache.served == again, f"{cache.served} images were served, {again} were given a second time"


def _trained(subject: Subject, features: FeatureCache | None, given: list[str]) -> Any:
    """A method after two epochs; ``given`` gets an entry for each image that a frozen network saw untouched,
    in a batch of how many."""
    method, data = subject.make(), Shuffled(subject.size, 1, CPU, subject.method_class.tags)

    def look(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0] is data.now:
            given.extend(f"{id(part)} {len(inputs[0])} {hash(image.numpy().tobytes())}" for image in inputs[0])

    hooks = [part.register_forward_pre_hook(look) for part in method.modules() if isinstance(part, Frozen)]
    Trainer(device=CPU, max_steps=2, features=features).fit(method, data)
    for hook in hooks:
        hook.remove()
    return method
