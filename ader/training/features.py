"""``trainer.cache_features``: what frozen networks give for the training images is computed once, and then read.

A method knows nothing of it. Where it calls a ``Frozen`` network with the very tensor ``Batch.image_BCHW``, unchanged,
the network's memory is asked; with anything else (augmented images, a part of the batch) it computes. Nothing that is
read differs by a bit from what would have been computed, which takes some care: the last bits of a network's output
depend on how many images a batch has, on some networks and several threads also on an image's place in it, on threads,
processor and library. So

- rows are kept for one shape of a batch, and an incomplete batch is computed;
- a batch with one image, of noise, in all places is computed first: where places differ, nothing is read;
- what that batch gives is a part of the key: a machine that computes other last bits has other rows.
"""

from __future__ import annotations

import errno
import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ader.data.caching import SPARE
from ader.data.image_cache import free_bytes
from ader.nets.frozen import Compute, Frozen, state_sha256
from ader.system.console import Console
from ader.system.errors import UserError
from ader.training.feature_rows import Layout, Rows, bits, total_bytes

#: What ``auto`` takes of the disk at most: this many bytes in all, and this part of what is free.
LIMIT, PART = 32 << 30, 4

TIMM = version("timm")

Arrive = Callable[[Tensor], None]
Remembering = AbstractContextManager[Arrive]


@dataclass
class FeatureCache:
    """Remembers features during a training's stages.

    Attributes:
        cache: folder for what can be made again; this uses ``<cache>/features``.
        wanted: ``on``; or ``auto``: on the CPU, in stages that see their images more than once, if there is room.
        console: says what is kept, and where.
        served, computed: images of whole batches in stages that remember, by where their features came from.
    """

    cache: Path
    wanted: Literal["auto", "on"] = "auto"
    console: Console = field(default_factory=lambda: Console(quiet=True))
    served: int = 0
    computed: int = 0
    rows: dict[str, Rows | None] = field(default_factory=dict)  # by what they depend on; None: not to be used

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

        before = self._counts()
        for memory in memories:
            memory.part.memory = memory
        try:
            yield arrive
        finally:
            for memory in memories:
                memory.part.memory = None
        for memory in memories:
            memory.check()
        served, computed, damaged = (now - then for now, then in zip(self._counts(), before, strict=True))
        if served or computed:
            also = f" ({damaged:,} damaged rows among them)" if damaged else ""
            self.console.say(
                f"features of {served:,} images were read from {self.folder}, of {computed:,} computed{also}"
            )

    @property
    def folder(self) -> Path:
        """With all features."""
        return self.cache / "features"

    def _counts(self) -> tuple[int, int, int]:
        """Images served and computed, rows found damaged."""
        return self.served, self.computed, sum(rows.damaged for rows in self.rows.values() if rows is not None)

    def open(self, about: dict[str, Any], names: list[str], probe: list[Tensor], images: int) -> Rows | None:
        """The rows of a network, for this process's life; None where they must not or cannot be used.

        Args:
            about: what they depend on, the image and the machine apart.
            names: of a batch's images.
            probe: what the network gives for a batch with one image in all places, always the same one.
            images: how many there will be.

        Raises:
            UserError: the disk has no room, and the cache was asked for (``on``).
        """
        if reason := _unfit(probe, len(names)):
            self.console.say(f"features are not cached: {reason}")
            return None
        digest = hashlib.sha256(b"".join(bits(value[0]).numpy().tobytes() for value in probe)).hexdigest()
        about = {**about, "gives": digest}
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
        rows = Rows(self.folder / key, [Layout.of(value) for value in probe], about)
        try:
            return rows if self._room(rows, names, images) else None
        except OSError as error:
            why = f"feature cache {rows.folder} cannot be written ({error.strerror})"
            if self.wanted == "on":
                raise UserError(f"{why}: give paths.cache=FOLDER or trainer.cache_features=off") from error
            self.console.say(f"{why}: features are computed every time")
            return None

    def _room(self, rows: Rows, names: list[str], images: int) -> bool:
        """Whether the disk has room for the rows that are not there; says so.

        Which images will come is not known; the first batch stands for them. Rows of other images (another category's,
        another run's) lie in the same folder and tell nothing.
        """
        there = sum(name in rows for name in names)
        needed, free = -(-images * (len(names) - there) // len(names)) * rows.row_bytes, free_bytes(self.cache)
        what = f"features of {images:,} images, {_size(rows.row_bytes)} each"
        if not needed:  # and so nothing has to be made in a folder that may be another user's
            self.console.say(f"reading {what}, from {rows.folder}")
            return True
        if self.wanted == "on" and needed + SPARE > free:
            raise UserError(
                f"trainer.cache_features=on: {what}, take {_size(needed)} in {rows.folder}, where {_size(free)} are "
                f"free ({_size(SPARE)} stay so): give paths.cache=FOLDER, make room, or set it to off"
            )
        if self.wanted == "auto":
            taken = total_bytes(self.cache)
            if needed > free // PART or needed + SPARE > free or needed + taken > LIMIT:
                self.console.say(
                    f"features are not cached: {what}, take {_size(needed)}; auto takes a quarter of the {_size(free)} "
                    f"free in {self.cache}, leaves {_size(SPARE)}, and takes {_size(LIMIT)} in all, of which "
                    f"{_size(taken)} are taken: trainer.cache_features=on, paths.cache=FOLDER or `ader data clear`"
                )
                return False
        rows.prepare()
        size = f"{'about' if there else 'up to'} {_size(needed)}{' more' if there else ''}"
        self.console.say(f"caching {what}: {size} in {rows.folder}; `ader data clear` deletes them")
        return True

    def put(self, rows: Rows, names: list[str], values: list[Tensor]) -> bool:
        """Writes rows; False where the disk does not take any more: then what is there is still read."""
        try:
            if free_bytes(self.cache) < SPARE + len(names) * rows.row_bytes:
                raise OSError(errno.ENOSPC, f"{_size(SPARE)} stay free")
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
        self.image: Tensor | None = None  # of the batch that arrived last
        self.version = 0  # of it
        self.names: list[str] = []  # of its images, once they are known
        self.stamp: Any = None
        self.weights = ""

    def arrive(self, image_BCHW: Tensor) -> None:
        self.image, self.version, self.names = image_BCHW, image_BCHW._version, []

    def __call__(self, image_BCHW: Tensor, compute: Compute) -> list[Tensor]:
        known = image_BCHW is self.image and image_BCHW._version == self.version
        if not known or len(image_BCHW) != self.whole or not (self.opens or self.cache.rows):
            return compute(image_BCHW)
        about = self._about(image_BCHW)
        key = json.dumps(about)
        if key not in self.cache.rows and not self.opens:
            return compute(image_BCHW)
        self.names = self.names or _names(image_BCHW)
        if key not in self.cache.rows:
            probe = compute(_noise(image_BCHW))
            self.cache.rows[key] = self.cache.open(about, self.names, probe, self.images)
        rows = self.cache.rows[key]
        if rows is None:
            return compute(image_BCHW)
        found = rows.take(self.names)
        if found is not None:
            self.cache.served += self.whole
            return [value.to(image_BCHW.device) for value in found]
        values = compute(image_BCHW)
        self.cache.computed += self.whole
        self.writes = self.writes and self.cache.put(rows, self.names, values)
        return values

    def check(self) -> None:
        """At the end of a stage that used rows.

        Raises:
            RuntimeError: the network has other weights than its rows, and could not be seen to change.
        """
        known, before = self.stamp, self.weights
        if known is not None and known == _stamp(self.part):
            self.stamp = None
            if self._weights() != before:
                raise RuntimeError(
                    f"{type(self.part).__name__} is Frozen, and was changed through .data: its features in "
                    f"{self.cache.folder} are wrong: change it in place, without .data, and give `ader data clear`"
                )

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
            "precision": [
                str(torch.get_autocast_dtype(device.type)) if half else "",
                torch.get_float32_matmul_precision(),
                torch.backends.cudnn.allow_tf32,
            ],
            "device": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
            "threads": 0 if cuda else torch.get_num_threads(),
            "versions": [torch.__version__, TIMM, platform.machine()],
        }

    def _weights(self) -> str:
        """SHA-256 over the network: its weights, what it is made of, and what hangs on it; again where one changed."""
        stamp = _stamp(self.part)
        if stamp != self.stamp:
            state = _tensors(self.part)
            text = [repr(self.part), *(_hooks(part) for part in self.part.modules())]
            made = hashlib.sha256(json.dumps(text).encode()).hexdigest()
            self.weights, self.stamp = f"{state_sha256(state)} {made}", stamp
        return self.weights


def _tensors(part: nn.Module) -> dict[str, Tensor]:
    return {**dict(part.named_parameters()), **dict(part.named_buffers())}


def _stamp(part: nn.Module) -> list[tuple[int, int]]:
    """Differs where a tensor is another one, or was changed in place."""
    return [(value.data_ptr(), value._version) for value in _tensors(part).values()]


def _hooks(part: nn.Module) -> str:
    hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
    return " ".join(f"{hook.__module__}.{getattr(hook, '__qualname__', type(hook).__name__)}" for hook in hooks)


def _names(image_BCHW: Tensor) -> list[str]:
    """SHA-256 of each image's values."""
    return [hashlib.sha256(image.contiguous().numpy().data).hexdigest() for image in image_BCHW.detach().cpu()]


def _noise(image_BCHW: Tensor) -> Tensor:
    """A batch of the same layout with one image in all places, always the same one."""
    shape = (1, *image_BCHW.shape[1:])
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return torch.empty_like(image_BCHW).copy_(noise)


def _unfit(probe: list[Tensor], images: int) -> str:
    """Why rows must not be used, or nothing.

    Args:
        probe: what a network gives for a batch with one image in all places.
        images: of that batch.
    """
    if not all(value.ndim > 1 and len(value) == images and Layout.of(value).plain for value in probe):
        return "the network's tensors share memory, or have not an image in each row"
    if not all(bits(value[place]).equal(bits(value[0])) for value in probe for place in range(images)):
        return (
            "the last bits of what this network gives depend on an image's place in the batch here "
            f"({torch.get_num_threads()} threads)"
        )
    return ""


def _size(count: int) -> str:
    """Bytes for reading."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count / 1024:.1f} KiB"
