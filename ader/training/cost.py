"""Parameters, multiply-accumulates, memory and speed of a method (ADer Table 1)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ader.methods._base import Batch, Method, Stage, Tags, TrainStage, supervision_of
from ader.system.console import Console
from ader.system.device import synchronize
from ader.system.memory import peak_memory, reset_peak
from ader.system.precision import Precision
from ader.training.order import BatchOrder, BatchSampler
from ader.training.trainer import Trainer


@dataclass(frozen=True)
class Cost:
    """What a method costs. Memory is in bytes, speed in images per second.

    ``memory_kind`` says what the memory figures are: the CUDA allocator's peak for the phase, or on a CPU the peak
    resident set of the whole process up to the end of the phase (libraries included).
    """

    params: int
    trainable_params: int
    macs: int
    train_memory_bytes: int
    test_memory_bytes: int
    train_images_per_second: float | None
    test_images_per_second: float
    image_size: int
    batch_size: int
    device: str
    memory_kind: str

    def as_dict(self) -> dict[str, int | float | str | None]:
        """Plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For reading."""
        speed = self.train_images_per_second
        return [
            f"  parameters              {self.params / 1e6:.1f} M ({self.params:,})",
            f"  trained                 {self.trainable_params / 1e6:.1f} M ({self.trainable_params:,})",
            f"  multiply-accumulates    {self.macs / 1e9:.1f} G per image",
            f"  training                {'none' if speed is None else f'{speed:.2f} images/s'}",
            f"  testing                 {self.test_images_per_second:.2f} images/s, batch {self.batch_size}",
            f"  memory, training        {self.train_memory_bytes / 2**20:,.0f} MiB ({self.memory_kind})",
            f"  memory, testing         {self.test_memory_bytes / 2**20:,.0f} MiB",
        ]


def count_parameters(method: Method) -> tuple[int, int]:
    """All parameters, and those that take gradients."""
    counts = [(weight.numel(), weight.requires_grad) for weight in method.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trained in counts if trained)


@torch.no_grad()
def count_macs(method: Method, size: int, device: torch.device) -> int:
    """Multiply-accumulates of the network pass of one image (products of matrices and convolutions, as fvcore's
    convention; torch counts two operations for each)."""
    method.eval()
    # torch does not count the CPU's fused attention; plain products are the same number on every device
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        method(torch.rand(1, 3, size, size, device=device))
    return int(counter.get_total_flops()) // 2


class RandomImages:
    """Noise in place of a dataset: training data of ``steps`` batches per epoch, the same in every epoch. Several
    processes share the images as they share a loader's.

    Args:
        size: images are (size, size).
        steps: batches per epoch, of each stage's own size.
        device: where batches go.
        tags: of the method, which decide the labels it gets; every second image is then defective.

    Attributes:
        stages: those that asked for images, by name.
    """

    def __init__(self, size: int, steps: int, device: torch.device, tags: Tags) -> None:
        self.size, self.steps, self.device, self.tags = size, steps, device, tags
        self.stages: dict[str, Stage] = {}

    def order(self, stage: Stage) -> BatchOrder:
        """As a loader's."""
        self.stages[stage.name] = stage
        return BatchOrder(self.steps * stage.batch_size, stage.batch_size, 0, "sequential")

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        """Steps ``start`` to ``stop`` of a training stage."""
        for keys in BatchSampler(self.order(stage), start, stop, together=isinstance(stage, TrainStage)):
            yield self._batch(stage, [position for _, position in keys])

    def _batch(self, stage: Stage, seeds: list[int]) -> Batch:
        shape = (3, self.size, self.size)
        images = [np.random.default_rng(seed).integers(0, 256, shape, np.uint8) for seed in seeds]
        extra = {}
        if stage.augment is not None:
            views = [
                stage.augment(image, np.random.default_rng(seed)) for image, seed in zip(images, seeds, strict=True)
            ]
            extra = {name: torch.from_numpy(np.stack([view[name] for view in views])) for name in views[0]}
        truth = supervision_of(stage, self.tags)
        label_B = torch.tensor(seeds, device=self.device) % 2
        mask_BHW = label_B[:, None, None].expand(-1, self.size, self.size).to(torch.uint8)
        return Batch(
            image_BCHW=torch.from_numpy(np.stack(images)).to(self.device).float().div_(255),
            seed_B=torch.tensor(seeds),
            label_B=None if truth == "normal" else label_B,
            mask_BHW=mask_BHW if truth == "pixel" else None,
            extra={name: value.to(self.device) for name, value in extra.items()},
        )


def measure(
    method: Method,
    size: int,
    batch_size: int,
    device: torch.device,
    precision: Precision = "fp32",
    steps: int = 3,
    console: Console | None = None,
) -> Cost:
    """Trains and tests on random images for a few steps.

    Args:
        method: freshly built.
        size: images are (size, size).
        batch_size: of the test; training uses each stage's own.
        device: where to measure.
        precision: as ``trainer.precision``.
        steps: timed batches, after one to warm up.
        console: for progress, which on a slow processor takes minutes; None shows none.
    """
    console = console or Console(quiet=True)
    params, trainable = count_parameters(method)
    console.say("counting multiply-accumulates")
    method.to(device)
    macs = count_macs(method, size, device)
    trainer = Trainer(device=device, precision=precision, console=console)
    train_memory, train_speed = _train(method, size, trainer, steps)
    test_memory, test_speed = _test(method, size, batch_size, trainer, steps)
    kind = "peak allocated (CUDA)" if device.type == "cuda" else "peak resident set of the process"
    return Cost(
        params,
        trainable,
        macs,
        train_memory,
        test_memory,
        train_speed,
        test_speed,
        size,
        batch_size,
        str(device),
        kind,
    )


def _train(method: Method, size: int, trainer: Trainer, steps: int) -> tuple[int, float | None]:
    """Peak memory, and images per second of the gradient descent (of the passes where there is none)."""
    reset_peak(trainer.device)
    trainer.max_steps = 1
    trainer.console.say("training, a step to warm up")
    trainer.fit(method, RandomImages(size, 1, trainer.device, method.tags))  # warm-up
    trainer.max_steps = steps
    trainer.console.say(f"training, {steps} steps to measure")
    data = RandomImages(size, steps, trainer.device, method.tags)
    done = trainer.fit(method, data)
    if not data.stages:
        return peak_memory(trainer.device), None
    names = [name for name, stage in data.stages.items() if isinstance(stage, TrainStage)] or list(data.stages)
    speed = sum(done.images[name] for name in names) / sum(done.seconds[name] for name in names)
    return peak_memory(trainer.device), speed


@torch.no_grad()
def _test(method: Method, size: int, batch_size: int, trainer: Trainer, steps: int) -> tuple[int, float]:
    image_BCHW = torch.rand(batch_size, 3, size, size, device=trainer.device)
    method.eval()
    reset_peak(trainer.device)
    began = 0.0
    trainer.console.say(f"testing, a batch of {batch_size} to warm up and {steps} to measure")
    with trainer.console.track("testing", steps + 1, "batches") as track:
        for step in range(steps + 1):
            if step == 1:  # the first batch warms up
                synchronize(trainer.device)
                began = time.perf_counter()
            with trainer.autocast():
                method.predict(image_BCHW)
            track.advance()
    synchronize(trainer.device)
    return peak_memory(trainer.device), batch_size * steps / (time.perf_counter() - began)
