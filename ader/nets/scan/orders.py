"""The orders in which a scan visits the pixels of a square map (figure 3 and section 3.2 of MambaAD's paper).

Each is a curve through an S x S grid; up to eight directions are that curve over the map as it is, transposed, turned
by 90 degrees, turned and transposed, and each of them backwards.

Shapes in names: K directions, L = S * S pixels, row by row.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ader.system.errors import UserError

#: ``sweep``: row by row. ``snake``: every second row backwards (the paper's "Scan"). ``zorder``: Morton's curve.
#: ``zigzag``: diagonals, as JPEG reads its blocks. ``hilbert``: Hilbert's curve.
Curve = Literal["hilbert", "sweep", "snake", "zorder", "zigzag"]
Directions = Literal[2, 4, 8]

Array = npt.NDArray[Any]


def orders(curve: Curve, side: int, directions: Directions = 8) -> Tensor:
    """For each direction the pixels in the order of their visit (K, L), int64 on the CPU; the second half of the
    directions is the first one backwards.

    Raises:
        UserError: a side that is no power of 2, for a curve that needs one.
    """
    if curve in ("hilbert", "zorder") and side & (side - 1):
        raise UserError(f"method.curve={curve} visits maps whose side is a power of 2, not {side}: give another curve")
    pixel_HW = np.arange(side * side).reshape(side, side)
    turned_HW = np.rot90(pixel_HW)
    views = (pixel_HW, pixel_HW.T, turned_HW, turned_HW.T)[: directions // 2]
    along_L = _CURVES[curve](side)
    forward_KL = np.stack([view.reshape(-1)[along_L] for view in views])
    return torch.from_numpy(np.concatenate([forward_KL, forward_KL[:, ::-1]]).copy())


def _sweep(side: int) -> Array:
    return np.arange(side * side)


def _snake(side: int) -> Array:
    pixel_HW = np.arange(side * side).reshape(side, side)
    pixel_HW[1::2] = pixel_HW[1::2, ::-1].copy()
    return pixel_HW.reshape(-1)


def _zorder(side: int) -> Array:
    """Row and column of the n-th pixel are the odd and the even bits of n."""
    number_L = np.arange(side * side)
    bits = range(max(side - 1, 0).bit_length())
    row_L = sum((number_L >> (2 * bit + 1) & 1) << bit for bit in bits)
    column_L = sum((number_L >> (2 * bit) & 1) << bit for bit in bits)
    along_L: Array = np.asarray(row_L * side + column_L).reshape(-1)
    return along_L


def _zigzag(side: int) -> Array:
    """Diagonals from the upper left, by turns upwards and downwards."""
    row_L, column_L = np.divmod(np.arange(side * side), side)
    diagonal_L = row_L + column_L
    within_L = np.where(diagonal_L % 2 == 0, column_L, row_L)
    return np.lexsort((within_L, diagonal_L))


def _hilbert(side: int) -> Array:
    """From four quarters, of which the first and the last are mirrored, at every doubling."""
    x_L, y_L = np.zeros(1, np.int64), np.zeros(1, np.int64)
    size = 1
    while size < side:
        x_L, y_L = (
            np.concatenate([y_L, x_L, x_L + size, 2 * size - 1 - y_L]),
            np.concatenate([x_L, y_L + size, y_L + size, size - 1 - x_L]),
        )
        size *= 2
    along_L: Array = x_L + side * y_L
    return along_L


_CURVES = {"sweep": _sweep, "snake": _snake, "zorder": _zorder, "zigzag": _zigzag, "hilbert": _hilbert}
