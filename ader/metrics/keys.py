"""Scores as integers that keep their order: the bits of a float32, with the sign applied.

The key of a score is a 32-bit integer; larger scores have larger keys, and neighbouring float32 numbers have
neighbouring keys. Its top bits name a range of scores:

- page: ``key >> 20``, 12 bits: sign, exponent and three bits of the mantissa; 8 pages per power of two
- chunk: ``key >> 8``, 24 bits: 4,096 chunks per page, of 256 keys each
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAGE_BITS = 20  # key bits below the page's number
CHUNK_BITS = 8  # key bits below the chunk's number
PAGES = 1 << (32 - PAGE_BITS)
CHUNKS = 1 << (PAGE_BITS - CHUNK_BITS)  # per page
INFINITY = 0x7F800000  # key of +inf; beyond it (on both sides) are the NaNs


def bits_key(bits: Any) -> Any:
    """Order-preserving int32 key of the bits of a float32; see `float_key`."""
    sign = bits >> 31
    return ((bits & 0x7FFFFFFF) ^ sign) - sign


def float_key(score: Tensor) -> Tensor:
    """Order-preserving int32 key of float32 scores: -0.0 and 0.0 share key 0; NaN lies beyond `INFINITY`."""
    key: Tensor = bits_key(score.contiguous().view(torch.int32))
    return key


def key_value(key: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The score of each key: inverse of `float_key`."""
    magnitude = np.abs(key).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(key < 0, -magnitude, magnitude)


def octave(page: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exponent bits (0..255) of the scores in each page, 0..4095; 255: infinite."""
    signed = page - PAGES // 2
    return np.where(signed < 0, -signed - 1, signed) >> 3
