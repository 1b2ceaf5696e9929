"""Parameters, multiply-accumulates, memory and speed of a method (ADer Table 1)."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ader.data.loader import Order
from ader.methods.base import Batch, Descent, Method, Stage
from ader.trainer import Precision, Trainer


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
    with FlopCounterMode(display=False) as counter:
        method(torch.rand(1, 3, size, size, device=device))
    return int(counter.get_total_flops()) // 2


class RandomImages:
    """Random training images in place of a dataset: ``images`` per epoch."""

    def __init__(self, size: int, images: int, device: torch.device) -> None:
        self.size, self.images, self.device = size, images, device

    def order(self, stage: Stage) -> Order:
        """As a loader's."""
        return Order(self.images, stage.batch_size, 0, shuffle=False, drop_last=False)

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        """Batches of noise; what a stage's ``augment`` would add is made from the same noise."""
        for step in range(start, stop):
            generator = torch.Generator().manual_seed(step)
            shape = (stage.batch_size, 3, self.size, self.size)
            image_BCHW = torch.rand(shape, generator=generator).to(self.device)
            label_B = (torch.arange(stage.batch_size) % 2).to(self.device)
            mask_BHW = label_B[:, None, None].expand(-1, self.size, self.size).to(torch.uint8)
            seed_B = torch.arange(stage.batch_size) + step * stage.batch_size
            yield Batch(image_BCHW, seed_B, label_B, mask_BHW)


def measure(
    method: Method,
    size: int,
    batch_size: int,
    device: torch.device,
    precision: Precision = "fp32",
    steps: int = 3,
) -> Cost:
    """Trains and tests on random images for a few steps.

    Args:
        method: freshly built.
        size: images are (size, size).
        batch_size: of the test; training uses each stage's own.
        device: where to measure.
        precision: as ``trainer.precision``.
        steps: timed batches, after one to warm up.
    """
    params, trainable = count_parameters(method)
    method.to(device)
    macs = count_macs(method, size, device)
    train_memory, train_speed = _train(method, size, Trainer(device=device, precision=precision), steps)
    test_memory, test_speed = _test(method, size, batch_size, Trainer(device=device, precision=precision), steps)
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
    stages = list(method.stages())
    if not stages:
        return peak_memory(trainer.device), None
    largest = max(stage.batch_size for stage in stages)
    reset_peak(trainer.device)
    trainer.max_steps = 1
    trainer.fit(method, RandomImages(size, largest, trainer.device))  # warm-up
    trainer.max_steps = steps
    done = trainer.fit(method, RandomImages(size, largest * steps, trainer.device))
    names = [stage.name for stage in stages if isinstance(stage, Descent)] or list(done.images)
    speed = sum(done.images[name] for name in names) / sum(done.seconds[name] for name in names)
    return peak_memory(trainer.device), speed


@torch.no_grad()
def _test(method: Method, size: int, batch_size: int, trainer: Trainer, steps: int) -> tuple[int, float]:
    image_BCHW = torch.rand(batch_size, 3, size, size, device=trainer.device)
    method.eval()
    reset_peak(trainer.device)
    began = 0.0
    for step in range(steps + 1):
        if step == 1:  # the first batch warms up
            synchronise(trainer.device)
            began = time.perf_counter()
        with trainer.autocast():
            method.predict(image_BCHW)
    synchronise(trainer.device)
    return peak_memory(trainer.device), batch_size * steps / (time.perf_counter() - began)


def synchronise(device: torch.device) -> None:
    """Waits for the device's queue, so that a clock reads what was done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Starts a new peak (only the CUDA allocator can)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: the CUDA allocator's peak, or the process's peak resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
