"""``trainer.cache_features``: what frozen networks give for the training images is computed once, and then read.

A method knows nothing of it. Where it calls a ``Frozen`` network with the very tensor ``Batch.image_BCHW``, unchanged,
the network's memory is asked; with anything else (augmented images, a part of the batch) it computes. Nothing that is
read differs by a bit from what would have been computed, which takes some care: the last bits of a network's output
depend on how many images a batch has, on some networks and several threads also on an image's place in it, on threads,
processor and library. So

- rows are kept for one shape of a batch, and an incomplete batch is computed;
- a batch with one image in all places is computed first: where places differ, nothing is read;
- the same batch tells whether a row of an earlier run is what is computed here and now: if not, nothing is read.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from ader.data.caching import SPARE
from ader.data.image_cache import free_bytes
from ader.nets.backbone import state_sha256
from ader.nets.frozen import Compute, Frozen
from ader.system.console import Console
from ader.system.errors import UserError
from ader.training.feature_rows import Layout, Rows, total_bytes

#: What ``auto`` takes of the disk at most: this many bytes in all, and this part of what is free.
LIMIT, PART = 32 << 30, 4

Arrive = Callable[[Tensor], None]
Remembering = AbstractContextManager[Arrive]


@dataclass
class FeatureCache:
    """Remembers features during a training's stages.

    Attributes:
        cache: folder for what can be made again; this uses ``<cache>/features``.
        wanted: ``on``; or ``auto``: on the CPU, in stages that see their images more than once, if there is room.
        console: says what is kept, and where.
        precision: of the products, besides autocast's.
        served, computed: images of whole batches in stages that remember, by where their features came from.
    """

    cache: Path
    wanted: Literal["auto", "on"] = "auto"
    console: Console = field(default_factory=lambda: Console(quiet=True))
    precision: str = "fp32"
    served: int = 0
    computed: int = 0
    rows: dict[str, Rows | None] = field(default_factory=dict)  # by key; None: not to be used

    @contextmanager
    def during(self, method: nn.Module, device: torch.device, images: int, whole: int, again: bool) -> Iterator[Arrive]:
        """Inside the block, a stage, its frozen networks remember.

        Args:
            method: whose networks.
            device: where it is.
            images: of the stage, to say how much disk that takes.
            whole: images of a complete batch of this process.
            again: whether the stage sees images more than once.

        Yields:
            To be called with the images of each batch as they arrive.
        """
        memories = [_Memory(self, part, images, whole, again) for part in method.modules() if isinstance(part, Frozen)]
        if not memories or (self.wanted == "auto" and device.type != "cpu"):
            yield lambda image_BCHW: None
            return

        def arrive(image_BCHW: Tensor) -> None:
            for memory in memories:
                memory.arrive(image_BCHW)

        served, computed = self.served, self.computed
        for memory in memories:
            memory.part.memory = memory
        try:
            yield arrive
        finally:
            for memory in memories:
                memory.part.memory = None
        served, computed = self.served - served, self.computed - computed
        if served:
            damaged = sum(rows.damaged for rows in self.rows.values() if rows is not None)
            also = f" ({damaged} damaged ones were computed again)" if damaged else ""
            self.console.say(f"features of {served:,} images were read, of {computed:,} computed{also}")

    def open(self, key: str, about: Any, name: str, values: list[Tensor], images: int) -> Rows | None:
        """The rows of a key, for this process's life; None where they must not or cannot be used.

        Args:
            key: of the folder.
            about: what it stands for.
            name: of an image.
            values: what the network gives for a batch with this image in all places.
            images: how many there will be.

        Raises:
            UserError: the disk has no room, and the cache was asked for (``on``).
        """
        rows = Rows(self.cache / "features" / key, [Layout.of(value) for value in values], about)
        if reason := _unfit(rows, name, values):
            self.console.say(f"features are not cached: {reason}")
            return None
        try:
            return rows if self._room(rows, images) else None
        except OSError as error:
            why = f"feature cache {rows.folder} cannot be written ({error.strerror})"
            if self.wanted == "on":
                raise UserError(f"{why}: give paths.cache=FOLDER or trainer.cache_features=off") from error
            self.console.say(f"{why}: features are computed every time")
            return None

    def _room(self, rows: Rows, images: int) -> bool:
        """Whether the disk has room for the rows that are not there; says so."""
        there = len(rows)
        needed, free = max(0, images - there) * rows.row_bytes, free_bytes(self.cache)
        size = f"{needed / 2**30:.2f} GiB" if needed >= 2**30 else f"{needed / 2**20:.1f} MiB"
        what = f"features of {images:,} images, {rows.row_bytes / 2**20:.2f} MiB each"
        if self.wanted == "on" and needed + SPARE > free:
            raise UserError(
                f"trainer.cache_features=on: {what}, take {size} in {rows.folder}, where {free / 2**30:.1f} GiB are "
                f"free ({SPARE >> 30} stay so): give paths.cache=FOLDER, make room, or set it to off"
            )
        if self.wanted == "auto" and needed:
            taken = total_bytes(self.cache)
            if needed > free // PART or needed + taken > LIMIT:
                self.console.say(
                    f"features are not cached: {what}, take {size}; auto takes a quarter of the "
                    f"{free / 2**30:.1f} GiB free in {self.cache}, and {LIMIT >> 30} GiB in all, of which "
                    f"{taken / 2**30:.1f} are taken: trainer.cache_features=on, paths.cache=FOLDER or `ader data clear`"
                )
                return False
        rows.prepare()
        have = f"; {there:,} rows are there" if there else ""
        self.console.say(f"caching {what}: up to {size} in {rows.folder}{have}; `ader data clear` deletes them")
        return True

    def put(self, rows: Rows, names: list[str], values: list[Tensor]) -> bool:
        """Writes rows; False where the disk does not take any more: then what is there is still read."""
        try:
            rows.put(names, values)
        except OSError as error:
            self.console.say(f"feature cache {rows.folder} takes no more ({error.strerror}): the rest is computed")
            return False
        return True


class _Memory:
    """One network's, during one stage."""

    def __init__(self, cache: FeatureCache, part: Frozen, images: int, whole: int, again: bool) -> None:
        self.cache, self.part, self.images, self.whole = cache, part, images, whole
        self.opens = again or cache.wanted == "on"
        self.writes = True
        self.image: Tensor | None = (
            None  # of the batch that arrived last, its version, and the images' names once known
        )
        self.version = 0
        self.names: list[str] = []
        self.stamp: Any = None
        self.weights = ""

    def arrive(self, image_BCHW: Tensor) -> None:
        self.image, self.version, self.names = image_BCHW, image_BCHW._version, []

    def __call__(self, image_BCHW: Tensor, compute: Compute) -> list[Tensor]:
        known = image_BCHW is self.image and image_BCHW._version == self.version
        if not known or len(image_BCHW) != self.whole:
            return compute(image_BCHW)
        about = self._about(image_BCHW)
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
        if key not in self.cache.rows and not self.opens:
            return compute(image_BCHW)
        self.names = self.names or _names(image_BCHW)
        if key not in self.cache.rows:
            everywhere = torch.empty_like(image_BCHW).copy_(image_BCHW[:1])
            values = compute(everywhere)
            self.cache.rows[key] = self.cache.open(key, about, self.names[0], values, self.images)
        rows = self.cache.rows[key]
        found = None if rows is None else rows.take(self.names)
        if rows is None or found is None:
            values = compute(image_BCHW)
            if rows is not None:
                self.cache.computed += self.whole
                self.writes = self.writes and self.cache.put(rows, self.names, values)
            return values
        self.cache.served += self.whole
        return [value.to(image_BCHW.device) for value in found]

    def _about(self, image_BCHW: Tensor) -> dict[str, Any]:
        """What the values of a row depend on, the image apart."""
        device = image_BCHW.device
        cuda = device.type == "cuda"
        half = torch.is_autocast_enabled(device.type)
        return {
            "network": f"{type(self.part).__module__}.{type(self.part).__qualname__}",
            "weights": self._weights(),
            "reads": list(self.part.reads),
            "batch": [list(image_BCHW.shape), list(image_BCHW.stride()), str(image_BCHW.dtype)],
            "precision": [self.cache.precision, str(torch.get_autocast_dtype(device.type)) if half else ""],
            "device": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
            "threads": 0 if cuda else torch.get_num_threads(),
            "versions": [torch.__version__, timm.__version__, platform.machine()],
        }

    def _weights(self) -> str:
        """SHA-256 over the network: its weights, what it is made of, and what hangs on it; again where one changed."""
        state = {**dict(self.part.named_parameters()), **dict(self.part.named_buffers())}
        stamp = [(value.data_ptr(), value._version) for value in state.values()]
        if stamp != self.stamp:
            text = [repr(self.part), *(_hooks(part) for part in self.part.modules())]
            made = hashlib.sha256(json.dumps(text).encode()).hexdigest()
            self.weights, self.stamp = f"{state_sha256(state)} {made}", stamp
        return self.weights


def _hooks(part: nn.Module) -> str:
    hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
    return " ".join(f"{hook.__module__}.{getattr(hook, '__qualname__', type(hook).__name__)}" for hook in hooks)


def _names(image_BCHW: Tensor) -> list[str]:
    """SHA-256 of each image's values."""
    return [hashlib.sha256(image.contiguous().numpy().data).hexdigest() for image in image_BCHW.detach().cpu()]


def _unfit(rows: Rows, name: str, values: list[Tensor]) -> str:
    """Why rows must not be used, or nothing.

    Args:
        rows: of a network.
        name: of an image.
        values: what it gives for a batch with this image in all places.
    """
    if not all(layout.plain and value.ndim > 1 for layout, value in zip(rows.layouts, values, strict=True)):
        return "the network's tensors share memory"
    if not all(value.equal(value[:1].expand_as(value)) for value in values):
        return (
            "the last bits of what this network gives depend on an image's place in the batch here "
            f"({torch.get_num_threads()} threads)"
        )
    if not rows.same(name, values):
        return f"rows in {rows.folder} have other last bits than this machine computes"
    return ""
