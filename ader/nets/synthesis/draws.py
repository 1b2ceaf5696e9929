"""Random numbers for whole batches that depend on each image's own seed and nothing else.

``Batch.seed_B`` holds a seed for each image, made of the run's seed, the epoch and the image's name. A generator for
each of them would cost a loop over images; here a number is a hash of (seed, purpose, place), so a batch of them is a
few elementwise operations on any device, and the same on all. Only where each image needs millions of numbers, a
generator for each costs less (``normal_one_by_one``).

Shapes in names: B images.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

# Constants of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) as
# signed numbers: torch has no unsigned 64-bit arithmetic, and the signed one wraps just as well.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def uniform(seed_B: Tensor, purpose: str, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), float32, (B, *shape), on the seeds' device.

    Args:
        seed_B: int64, one for each image.
        purpose: numbers drawn for different purposes are independent.
        shape: of each image's numbers; none gives (B,).
    """
    count = math.prod(shape)
    base_B1 = _purposeful(seed_B, purpose)[:, None]
    place_N = torch.arange(1, count + 1, device=seed_B.device, dtype=torch.int64)
    bits_BN = _shifted(_mixed(base_B1 + place_N * _GOLDEN), 40)  # the 24 bits that a float32 in [0, 1) can hold
    return (bits_BN.float() / 2**24).view(len(seed_B), *shape)


def uniform_between(seed_B: Tensor, purpose: str, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in [low, high), float32, (B, *shape)."""
    return low + (high - low) * uniform(seed_B, purpose, *shape)


def integers(seed_B: Tensor, purpose: str, count: int, *shape: int) -> Tensor:
    """Uniform integers in [0, count), int64, (B, *shape); ``count`` at most 2^24."""
    return (uniform(seed_B, purpose, *shape) * count).long().clamp_(max=count - 1)


def normal(seed_B: Tensor, purpose: str, *shape: int) -> Tensor:
    """Standard normal numbers, float32, (B, *shape) (Box and Muller's transform)."""
    radius = (-2 * torch.log1p(-uniform(seed_B, f"{purpose}/radius", *shape))).sqrt()
    return radius * torch.cos(2 * math.pi * uniform(seed_B, f"{purpose}/angle", *shape))


def normal_one_by_one(seed_B: Tensor, purpose: str, *shape: int, device: torch.device) -> Tensor:
    """As ``normal``, by torch's own generator and an image at a time: for large shapes, for which the other would go
    through memory dozens of times. Kinds of devices give other numbers.

    Args:
        seed_B: on the CPU: a copy from a GPU would wait for it.
        purpose, shape: as ``uniform``'s.
        device: of the result.
    """
    generator = torch.Generator(device)
    value = torch.empty(len(seed_B), *shape, device=device)
    for own, seed in zip(value, _purposeful(seed_B, purpose).tolist(), strict=True):
        own.normal_(generator=generator.manual_seed(seed))
    return value


def _purposeful(seed_B: Tensor, purpose: str) -> Tensor:
    """Other seeds for each purpose."""
    return _mixed(seed_B + int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big", signed=True))


def _mixed(value: Tensor) -> Tensor:
    """SplitMix64's output function."""
    value = (value ^ _shifted(value, 30)) * _FIRST
    value = (value ^ _shifted(value, 27)) * _SECOND
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, places: int) -> Tensor:
    """Logical right shift of 64-bit numbers that torch takes as signed."""
    return (value >> places) & ((1 << (64 - places)) - 1)
