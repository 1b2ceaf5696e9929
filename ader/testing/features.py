"""The check that features from the cache change nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ader.methods._base import Batch, Method, Stage
from ader.nets.frozen import Frozen
from ader.testing.subject import CPU, STEPS, Subject, changed, images, predict, same, snapshot
from ader.training.cost import RandomImages
from ader.training.features import FeatureCache
from ader.training.trainer import Trainer


class Seen(RandomImages):
    """Tells which image tensor is the step's."""

    now: Tensor | None = None

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        for batch in super().train(stage, start, stop):
            self.now = batch.image_BCHW
            yield batch


def check_cached_features(subject: Subject) -> None:
    """A training that reads all features from ``trainer.cache_features`` and one that computes them give the same
    method and predictions, bit for bit; a frozen network that is given the batch's images themselves computes nothing.
    The rows are of batches in another order."""
    plain, data = subject.fitted, Seen(subject.size, STEPS, CPU, subject.method_class.tags)
    if not any(isinstance(part, Frozen) for part in plain.modules()):
        return
    given: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder), "on")
        _fill(cache, subject)
        served, computed = cache.served, cache.computed
        remembering = subject.make()
        with _counting(remembering, data, given):
            Trainer(device=CPU, max_steps=STEPS, features=cache).fit(remembering, data)
    moved = changed(snapshot(plain), snapshot(remembering))
    assert not moved, f"with features from the cache {moved} differ"
    image_BCHW = images(2, subject.size)
    assert same(predict(plain, image_BCHW), predict(remembering, image_BCHW)), "predictions differ"
    assert cache.computed == computed, f"{cache.computed - computed} images were computed, whose features are there"
    assert cache.served - served == sum(given), f"{cache.served - served} images were read, {sum(given)} were given"


def _fill(cache: FeatureCache, subject: Subject) -> None:
    """Has the frozen networks of the method that was trained see the training images, each batch turned round."""
    parts = [part for part in subject.fitted.modules() if isinstance(part, Frozen)]
    stages = {stage.batch_size: replace(stage, augment=None) for stage in subject.training.stages.values()}
    for whole, stage in stages.items():
        data = subject.data()
        with cache.during(subject.fitted, CPU, data.order(stage).images, whole, again=True) as arrive:
            for batch in data.train(stage, 0, STEPS):
                image_BCHW = batch.image_BCHW.flip(0)
                arrive(image_BCHW)
                for part in parts:
                    part(image_BCHW)


@contextmanager
def _counting(method: Method, data: Seen, given: list[int]) -> Iterator[None]:
    """Inside the block, ``given`` gets the number of images each time a frozen network is given those of the step.

    By a function in place of the network's: hooks on a network make it another one.
    """

    def counted(forward: Callable[..., Any]) -> Callable[..., Any]:
        def look(*inputs: Any, **named: Any) -> Any:
            if (now := data.now) is not None:
                given.extend(len(now) for value in (*inputs, *named.values()) if value is now)
            return forward(*inputs, **named)

        return look

    parts = [part for part in method.modules() if isinstance(part, Frozen)]
    for part in parts:
        part.forward = counted(part.forward)
    try:
        yield
    finally:
        for part in parts:
            del part.forward
