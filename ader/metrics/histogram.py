"""The histogram state: counts per bin, one pass, memory that does not grow with the data, and bounds on what is lost.

Bins follow the float format, so no score range is needed in advance; `layout` decides how fine they are, the same
way for any order and partition of the data, so that histograms of batches, processes and runs add up.

Letters: B images, N pixels per image, M defective pixels, R rows (categories), K bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ader.metrics.curves import Bins
from ader.metrics.kernels import Kernels, Scan, Tables, kernels
from ader.metrics.keys import INFINITY, SIGN, bits_float, float_bits, key_float
from ader.metrics.layout import Int, Layout

BINS = 1 << 19  # per row; 24 bytes each
SPARE = 1 << 17  # places made at a time, at least
MOST_LATE = 1 << 16  # scores without a place that wait for others, so that room is made for many at once
SAMPLE = 1 << 14  # pixels of an image that are looked at before a row is counted for the first time
ROUND = 1 << 32  # the counts' modulus


Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Content:
    """All bins with a count, and what else makes up the state of each row; arrays on the CPU."""

    row_K: Int
    bits_K: Int
    shift_K: Int
    normal_K: Int
    defective_K: Int
    weight_K: npt.NDArray[np.float64]
    rest_K: npt.NDArray[np.float64]
    low_R: Int
    high_R: Int
    bits_R: Int
    cap_R: Int


class HistogramState:
    """Counts per row and bin; two states with the same settings add up.

    Args:
        rows: how many categories (or parts of them); the histogram knows them by index only.
        device: where the counts live and the counting is done.
        bins: budget per row, see `layout`.
        use: kernels other than the fastest ones for the device.

    Raises:
        ValueError: ``bins`` too small.
    """

    def __init__(
        self, rows: int, device: torch.device | str = "cpu", bins: int = BINS, use: Kernels | None = None
    ) -> None:
        self.bins_per_row = bins
        self.device = torch.device(device)
        self._kernels = use or kernels(self.device.type)
        self._layout = Layout(rows, bins)
        # As in `Tables`. On the CPU there is room for all budgets at once: memory is only spent on what is touched.
        room = rows * bins if self.device.type == "cpu" else 1
        kinds = (np.int32, np.int32, np.float64, np.float64)
        self._counts: tuple[Tensor, ...] = tuple(
            torch.from_numpy(np.zeros(room, kind)).to(self.device) for kind in kinds
        )
        self._carry: tuple[Tensor, ...] = ()  # normal_S, defective_S beyond the counts' modulus
        self._since_R = np.zeros(rows, np.int64)  # pixels counted since the last carry
        self._seen_R = np.zeros(rows, np.bool_)  # whether anything was counted here
        self._low_R = np.full(rows, np.iinfo(np.int64).max)
        self._high_R = np.full(rows, np.iinfo(np.int64).min)
        self._bits_R = np.zeros(rows, np.int64)
        self._late: list[tuple[Int, Scores]] = []  # rows and scores of pixels that are not counted yet
        self._late_marks: list[tuple[Int, Scores, npt.NDArray[np.float64]]] = []  # of these, defective ones: weights
        self._waiting = 0  # how many there are
        self._version = -1

    def add(self, row_B: Tensor, map_BHW: Tensor, position_M: Tensor, weight_M: Tensor, scan: Scan) -> None:
        """Counts the pixels of a batch.

        Args:
            row_B: int64 indices, on the CPU.
            map_BHW: float32 scores without NaN, contiguous, on the state's device.
            position_M: int64, flat positions of the defective pixels in the batch, on the state's device.
            weight_M: float64, their weights, on the state's device.
            scan: of the batch.
        """
        map_BN, rows = map_BHW.flatten(1), row_B.numpy()
        self._extend(rows, *(each.numpy() for each in scan[:3]))
        self._expect(np.bincount(rows, minlength=len(self._since_R)) * map_BN.shape[1])
        unseen = np.flatnonzero(~self._seen_R[rows])
        if len(unseen):  # most of what falls where nothing did before, found in a few pixels: quicker than in all
            self._seen_R[rows] = True
            some = map_BN[torch.from_numpy(unseen).to(self.device), :: map_BN.shape[1] // SAMPLE + 1]
            self._make_room(rows[unseen].repeat(some.shape[1]), float_bits(some.cpu().numpy().reshape(-1)))
        row_B = row_B.to(self.device)
        missed = self._kernels.count(self._tables(), row_B, map_BN)
        late = self._kernels.mark(self._tables(), row_B, map_BN, position_M, weight_M)
        if len(missed):  # late ones are among them
            self._late.append(self._of_pixels(rows, map_BN, missed))
            self._late_marks.append((*self._of_pixels(rows, map_BN, position_M[late]), weight_M[late].cpu().numpy()))
            self._waiting += len(missed)
        if self._waiting > MOST_LATE:
            self._catch_up()

    def _of_pixels(self, rows: Int, map_BN: Tensor, position: Tensor) -> tuple[Int, Scores]:
        """Rows and scores of pixels at some positions, on the CPU."""
        score: Scores = self._kernels.take(map_BN.reshape(-1), position).cpu().numpy()
        return rows[position.cpu().numpy() // map_BN.shape[1]], score

    def _catch_up(self) -> None:
        """Makes room for the scores that fell where none did before, and counts them."""
        if not self._late:
            return
        row, score = (np.concatenate(each) for each in zip(*self._late, strict=True))
        row_M, score_M, weight_M = (np.concatenate(each) for each in zip(*self._late_marks, strict=True))
        self._late.clear()
        self._late_marks.clear()
        self._waiting = 0
        self._make_room(row, float_bits(score))
        rows, scores, rows_M, scores_M, weights_M = (
            torch.from_numpy(each).to(self.device) for each in (row, score, row_M, score_M, weight_M)
        )
        self._kernels.count(self._tables(), rows, scores.view(-1, 1))
        each_M = torch.arange(len(rows_M), device=self.device)
        self._kernels.mark(self._tables(), rows_M, scores_M.view(-1, 1), each_M, weights_M)

    def _extend(self, rows: Int, low: Int, high: Int, bits: Int) -> None:
        """Takes in the extreme keys and the bits in use of rows."""
        np.minimum.at(self._low_R, rows, low)
        np.maximum.at(self._high_R, rows, high)
        np.bitwise_or.at(self._bits_R, rows, bits)

    def _tables(self) -> Tables:
        """The layout and the counts as the kernels take them."""
        if self._version != self._layout.version:
            layout = (self._layout.pages(), self._layout.node_NC)
            self._on_device = tuple(torch.from_numpy(each).to(self.device) for each in layout)
            self._version = self._layout.version
        return Tables(*self._on_device, *self._counts)

    def _make_room(self, row_N: Int, bits_N: Int, shift_N: Int | None = None, cap_R: Int | None = None) -> None:
        """Gives all scores, or bins, a place, and moves the counts of bins that get coarser thereby."""
        move = self._layout.admit(row_N, bits_N, shift_N, cap_R)
        arrays = [*self._counts, *self._carry]
        missing = self._layout.size - len(arrays[0])
        if missing > 0:
            missing = max(missing, SPARE, len(arrays[0]) // 4)  # some more, so that copying stays rare
            for i in range(len(arrays)):
                arrays[i] = torch.nn.functional.pad(arrays[i], (0, missing))
            self._counts, self._carry = tuple(arrays[:4]), tuple(arrays[4:])
        for array in arrays if len(move.source_K) else ():
            self._kernels.move(array, *(torch.from_numpy(each).to(self.device) for each in move))

    def _expect(self, pixels_R: Int) -> None:
        """Adds the counts to 64-bit ones, if otherwise they could now come round to 0."""
        if (self._since_R + pixels_R >= ROUND).any():
            self._catch_up()
            wide = self._wide(torch.arange(len(self._counts[1]), device=self.device))
            self._carry = (torch.from_numpy(wide[0]).to(self.device), torch.from_numpy(wide[1]).to(self.device))
            self._counts[0].zero_()
            self._counts[1].zero_()
            self._since_R[:] = 0
        self._since_R += pixels_R

    def _wide(self, place: Tensor) -> tuple[Int, Int]:
        """Normal and defective pixels at some places, on the CPU."""
        narrow = (self._kernels.take(each, place).cpu().numpy() for each in self._counts[:2])
        normal, defective = (each.astype(np.int64) & (ROUND - 1) for each in narrow)
        if self._carry:
            more = [self._kernels.take(each, place).cpu().numpy() for each in self._carry]
            normal, defective = normal + more[0], defective + more[1]
        return normal, defective

    def extend(self, rows: int) -> None:
        """Adds empty rows."""
        fresh = HistogramState(rows, bins=self.bins_per_row, use=self._kernels)
        self._layout.extend(rows)
        for name in ("_since_R", "_seen_R", "_low_R", "_high_R", "_bits_R"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(fresh, name)]))

    def merge(self, other: HistogramState, rows: Sequence[int]) -> None:
        """Adds the counts of ``other``, which stays as it is, to these rows, one for each of the other's.

        The other may live on another device.
        """
        self._add_content(other.content(), np.array(rows))

    def _add_content(self, content: Content, rows: Int) -> None:
        """Adds bins; row ``i`` of theirs is ``rows[i]`` here."""
        self._extend(rows, content.low_R, content.high_R, content.bits_R)
        row_K = rows[content.row_K]
        cap_R = self._layout.caps()
        np.minimum.at(cap_R, rows, content.cap_R)
        self._make_room(row_K, content.bits_K, content.shift_K, cap_R)
        place = torch.from_numpy(self._layout.place(row_K, content.bits_K)).to(self.device)
        pixels_K = content.normal_K + content.defective_K
        pixels_R = np.bincount(row_K, pixels_K, minlength=len(self._since_R)).astype(np.int64)
        if (pixels_R < ROUND).all():
            self._expect(pixels_R)
            arrays = self._counts
        else:
            zeros = torch.zeros_like(self._counts[1], dtype=torch.int64)
            self._carry = self._carry or (zeros, zeros.clone())
            arrays = (*self._carry, *self._counts[2:])
        counts = (content.normal_K, content.defective_K, content.weight_K, content.rest_K)
        for array, each in zip(arrays, counts, strict=True):
            self._kernels.add(array, place, torch.from_numpy(each).to(self.device, array.dtype))

    def content(self, rows: Sequence[int] | None = None) -> Content:
        """All bins with a count (of some rows), ascending in row and bits."""
        self._catch_up()
        blocks = self._layout.blocks(np.arange(len(self._low_R)) if rows is None else np.array(rows))
        row_K, bits_K, place_K, shift_K = blocks.bins()
        place = torch.from_numpy(place_K).to(self.device)
        normal, defective = self._wide(place)
        at = np.flatnonzero(normal + defective)
        weight, rest = (self._kernels.take(each, place).cpu().numpy() for each in self._counts[2:])
        bins = (row_K[at], bits_K[at], shift_K[at], normal[at], defective[at], weight[at], rest[at])
        return Content(*bins, self._low_R.copy(), self._high_R.copy(), self._bits_R.copy(), self._layout.caps())

    def bins(self, rows: Sequence[int]) -> Bins:
        """The bins in use of some rows together, in descending order of score."""
        content = self.content(rows)
        if len(rows) > 1:  # as one row, which has the bins that it would have if all had been counted in it
            chosen = np.array(rows)
            of_rows = {name: getattr(content, name)[chosen] for name in ("low_R", "high_R", "bits_R", "cap_R")}
            at = np.searchsorted(chosen, content.row_K)
            whole = HistogramState(1, bins=self.bins_per_row)
            whole._add_content(replace(content, row_K=at, **of_rows), np.zeros(len(chosen), np.int64))
            return whole.bins([0])
        (row,) = rows
        bits_K, shift_K = content.bits_K, content.shift_K
        # As integers, all scores are multiples of two to this power: a bin no wider than that holds one at most.
        used = int(content.bits_R[row])
        common = (used & -used).bit_length() - 1 if used else 32
        span_K = np.where(shift_K > common, (1 << shift_K) - 1, 0)
        first_K, last_K = bits_float(bits_K), bits_float(np.minimum(bits_K + span_K, bits_K & SIGN | INFINITY))
        # Without the sign, bits grow away from 0: positive scores from the end, then negative ones from the start.
        positive = int(np.searchsorted(bits_K, SIGN))
        low_K, high_K = _falling(first_K, last_K, positive), _falling(last_K, first_K, positive)
        counts = (content.normal_K, content.defective_K, content.weight_K + content.rest_K)
        normal_K, defective_K, weight_K = (_falling(each, each, positive).astype(np.float64) for each in counts)
        columns = [normal_K, defective_K, weight_K, low_K, high_K]
        if 0 < positive < len(bits_K) and bits_K[0] == 0 and bits_K[positive] == SIGN:
            columns = _join_zeros(columns, positive)
        normal_K, defective_K, weight_K, low_K, high_K = columns
        if len(low_K):
            smallest, largest = key_float(np.array([content.low_R[row], content.high_R[row]]))
            low_K, high_K = np.maximum(low_K, smallest), np.minimum(high_K, largest)
        # Every weight, and every addition of a bin, may lose half an ulp of a fraction.
        rounding = 1e-11 + float(np.finfo(np.float64).eps) * float(defective_K.sum() + normal_K.sum())
        return Bins(defective_K, normal_K, weight_K, low_K, high_K, rounding)

    def nbytes(self) -> int:
        """Bytes of the counts in use and of the layout's tables."""
        tables = sum(each.numel() * each.element_size() for each in self._tables()[:2])
        return tables + self._layout.size * sum(each.element_size() for each in (*self._counts, *self._carry))

    def state_dict(self) -> dict[str, Any]:
        """All bins in use; tensors on the CPU."""
        content = self.content()
        return {each.name: torch.from_numpy(getattr(content, each.name)) for each in fields(Content)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Adds what `state_dict` gave to a state that has counted nothing yet."""
        content = Content(**{each.name: state[each.name].numpy() for each in fields(Content)})
        self._add_content(content, np.arange(len(self._low_R)))


def _falling(positive_K: npt.NDArray[Any], negative_K: npt.NDArray[Any], positive: int) -> npt.NDArray[Any]:
    """From the order of bits to that of falling scores; the first so many bins are positive."""
    return np.concatenate([positive_K[:positive][::-1], negative_K[positive:]])


def _join_zeros(columns: list[npt.NDArray[np.float64]], positive: int) -> list[npt.NDArray[np.float64]]:
    """0.0 and -0.0 are one score, so the bins that start with them are one bin. The last columns: low and high."""
    joined = []
    for number, column in enumerate(columns):
        above, below = column[positive - 1 : positive + 1]
        both = (above + below, below, above)[max(0, number - 2)]
        joined.append(np.concatenate([column[: positive - 1], [both], column[positive + 1 :]]))
    return joined
