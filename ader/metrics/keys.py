"""float32 scores as integers: what bins are made of.

The bits of a float32 without its sign, read as an integer, grow with its magnitude; neighboring numbers have
neighboring integers. The top bits name a range of scores, the same on every machine:

- page: ``bits >> 20``, 12 bits: sign, exponent and three bits of the mantissa; 8 pages per power of two
- chunk: ``bits >> 8``, 24 bits: 4,096 chunks per page, of 256 floats each

Bits are kept as int64, 0 to 2^32 - 1, so that nothing overflows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAGE_BITS = 20  # bits below the page's number
CHUNK_BITS = 8  # bits below the chunk's number
PAGES = 1 << (32 - PAGE_BITS)
CHUNKS = 1 << (PAGE_BITS - CHUNK_BITS)  # per page
SIGN = 1 << 31
INFINITY = 0x7F800000  # bits of +inf; above it are the NaNs


def float_bits(score: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The bits of scores; -0.0 has others than 0.0."""
    return score.view(np.uint32).astype(np.int64)


def bits_float(bits: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Inverse of `float_bits`."""
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def float_key(score: Tensor) -> Tensor:
    """Order-preserving int32 key: -0.0 and 0.0 share key 0; NaN lies beyond `INFINITY`, on either side."""
    bits = score.contiguous().view(torch.int32)
    sign = bits >> 31
    return ((bits & 0x7FFFFFFF) ^ sign) - sign


def key_float(key: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Inverse of `float_key`."""
    magnitude = bits_float(np.abs(key))
    return np.where(key < 0, -magnitude, magnitude)


def octave(page: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exponent bits (0..255) of the scores in each page, 0..4095."""
    return (page & (PAGES // 2 - 1)) >> 3
