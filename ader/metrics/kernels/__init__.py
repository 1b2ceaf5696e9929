"""The passes over every pixel: one module per compiler, all with the same results.

``torch`` works everywhere and is the reference; ``numba`` is for the CPU and ``triton`` for CUDA, where they are
installed. The environment variable ``ADER_KERNELS=torch`` leaves the compiled ones out.

Letters: B images, N pixels per image, M defective pixels, S places, P pages of all rows, C chunks per page, D sparse
pages (nodes).
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any, NamedTuple, Protocol

from torch import Tensor

#: A region's weight of a pixel is added up in two parts, whose sums float64 holds exactly up to 2^27 regions, and 2^27
#: defective pixels, in a bin: order and partition of the data change nothing, and a pixel loses at most half of `REST`.
WEIGHT = 2.0**-26
REST = 2.0**-52


class Scan(NamedTuple):
    """What must be known of each image before it is counted; tensors on the CPU.

    ``low_B`` and ``high_B``: smallest and largest key, int64; beyond `keys.INFINITY` if there is a NaN.
    ``bits_B``: all scores' bits, or-ed, int64. ``marked_B``: bool, whether the mask has a defective pixel.
    """

    low_B: Tensor
    high_B: Tensor
    bits_B: Tensor
    marked_B: Tensor


class Tables(NamedTuple):
    """A `layout.Layout` and the counts at its places, on the device."""

    page_P: Tensor  # int32, `Layout.pages`
    node_DC: Tensor  # int32, `Layout.node_NC`
    normal_S: Tensor  # int32, as all counts modulo 2^32
    defective_S: Tensor  # int32
    weight_S: Tensor  # float64, multiples of `WEIGHT`
    rest_S: Tensor  # float64, what is missing there: multiples of `REST`


class Kernels(Protocol):
    """One module of this package."""

    def scan(self, map_BN: Tensor, mask_BN: Tensor | None) -> Scan:
        """Looks at a batch: float32 scores, uint8 masks (0 where normal)."""

    def count(self, tables: Tables, row_B: Tensor, map_BN: Tensor) -> Tensor:
        """Counts all pixels as normal; returns the flat positions (int64) of those that have no place yet."""

    def mark(self, tables: Tables, row_B: Tensor, map_BN: Tensor, position_M: Tensor, weight_M: Tensor) -> Tensor:
        """Makes pixels that were counted as normal defective ones; returns the indices of those without a place."""

    def take(self, array: Tensor, place_K: Tensor) -> Tensor:
        """What is at some places."""

    def add(self, array: Tensor, place_K: Tensor, value_K: Tensor) -> None:
        """Adds to what is at some places; a place may come twice."""

    def move(self, array: Tensor, source_K: Tensor, target_K: Tensor) -> None:
        """Adds what is at some places to others, and leaves 0; a place may be in both lists."""


COMPILERS = {"cpu": "numba", "cuda": "triton"}


@functools.cache
def kernels(kind: str) -> Kernels:
    """The fastest kernels for a kind of device (``cpu``, ``cuda``) that can be used here."""
    found: Kernels = compiled(kind) or load("torch")
    return found


@functools.cache
def compiled(kind: str) -> Any:
    """The compiled kernels for a kind of device; None if the compiler is not installed, or not wanted."""
    name = COMPILERS.get(kind)
    if name is None or os.environ.get("ADER_KERNELS") == "torch":
        return None
    try:
        importlib.import_module(name)
    except ImportError:
        return None
    return load(name)


def load(name: str) -> Any:
    """The kernels of one compiler: ``torch``, ``numba`` or ``triton``."""
    return importlib.import_module(f"ader.metrics.kernels.with_{name}")
