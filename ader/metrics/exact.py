"""States that keep every score: the image scores of all kinds of evaluation, and the reference for the pixel histogram.

Letters: B images, H rows, W columns, M defective pixels, N scores kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ader.metrics.curves import Bins
from ader.metrics.kernels import Scan


def _join(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)


@dataclass(frozen=True)
class Images:
    """Images of one category: ``score_N`` float64; ``label_N`` bool, True where defective; ``group_N``: views of one
    object share a name, "" where there is none; ``defect_N``: the kind of defect, "" where normal and not told."""

    score_N: npt.NDArray[np.float64]
    label_N: npt.NDArray[np.bool_]
    group_N: npt.NDArray[np.str_]
    defect_N: npt.NDArray[np.str_]

    def where(self, mine_N: npt.NDArray[np.bool_]) -> Images:
        """Some of the images."""
        return Images(self.score_N[mine_N], self.label_N[mine_N], self.group_N[mine_N], self.defect_N[mine_N])

    def objects(self) -> Images:
        """One entry per object: the largest score, and defective if any view is. Images without group are objects."""
        names, group_N = np.unique(self.group_N, return_inverse=True)
        alone_N = len(names) + np.arange(len(group_N))
        _, which_N = np.unique(np.where(self.group_N == "", alone_N, group_N), return_inverse=True)
        objects = int(which_N.max(initial=-1)) + 1
        score, label = np.full(objects, -np.inf), np.zeros(objects, bool)
        np.maximum.at(score, which_N, self.score_N)
        np.logical_or.at(label, which_N, self.label_N)
        return Images(score, label, np.zeros(objects, "U1"), np.zeros(objects, "U1"))


class ImageState:
    """What is known of every image, on the CPU: a few bytes per image."""

    _DTYPES = (torch.int64, torch.float64, torch.bool)
    _NAMES = ("category", "score", "label")

    def __init__(self) -> None:
        self._parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        self._groups: list[str] = []
        self._defects: list[str] = []

    def add(
        self, category_B: Tensor, score_B: Tensor, label_B: Tensor, groups: Sequence[str], defects: Sequence[str]
    ) -> None:
        """Keeps a batch: int64 indices, float64 scores, bool labels (True: defective), all on the CPU; names or ""."""
        for part, tensor in zip(self._parts, (category_B, score_B, label_B), strict=True):
            part.append(tensor.clone())
        self._groups += groups
        self._defects += defects

    def images(self, category: int) -> Images:
        """The images of one category, in no particular order."""
        category_N, score_N, label_N = (each.numpy() for each in self._joined())
        mine = category_N == category
        names = ([each[i] for i in np.flatnonzero(mine)] for each in (self._groups, self._defects))
        return Images(score_N[mine], label_N[mine], *(np.array(each, dtype=np.str_) for each in names))

    def merge(self, other: ImageState) -> None:
        """Adds the images of ``other``, which stays as it is."""
        self.add(*other._joined(), list(other._groups), list(other._defects))

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that is kept."""
        tensors = {name: each.clone() for name, each in zip(self._NAMES, self._joined(), strict=True)}
        return {**tensors, "groups": list(self._groups), "defects": list(self._defects)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces what is kept by a `state_dict`."""
        self.__init__()  # type: ignore[misc]
        category, score, label = (state[name].cpu() for name in self._NAMES)
        self.add(category, score, label, state["groups"], state["defects"])

    def _joined(self) -> tuple[Tensor, Tensor, Tensor]:
        category, score, label = (_join(part, dtype) for part, dtype in zip(self._parts, self._DTYPES, strict=True))
        self._parts = ([category], [score], [label])
        return category, score, label


class ExactState:
    """Every pixel's score, 5 bytes per pixel and 8 per defective one: the sorting reference.

    Args:
        rows: how many categories (or parts of them); the state knows them by index only.

    Scores are kept and sorted on the CPU, whose memory is larger.
    """

    _DTYPES = (torch.float32, torch.bool, torch.float64)
    _NAMES = ("score", "mask", "weight")

    def __init__(self, rows: int) -> None:
        self._parts: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = []
        self.extend(rows)

    def extend(self, rows: int) -> None:
        """Adds empty rows."""
        self._parts += [([], [], []) for _ in range(rows)]

    def add(self, row_B: Tensor, map_BHW: Tensor, position_M: Tensor, weight_M: Tensor, scan: Scan) -> None:
        """Keeps the pixels of a batch; arguments as for `HistogramState.add`."""
        map_BN, position_M, weight_M = map_BHW.flatten(1).cpu(), position_M.cpu(), weight_M.cpu()
        mask_BN = torch.zeros_like(map_BN, dtype=torch.bool)
        mask_BN.view(-1)[position_M] = True
        owner_M = torch.div(position_M, map_BN.shape[1], rounding_mode="floor")
        for row in torch.unique(row_B).tolist():
            mine = row_B == row
            batch = (map_BN[mine].view(-1), mask_BN[mine].view(-1), weight_M[mine[owner_M]])
            for part, tensor in zip(self._parts[row], batch, strict=True):
                part.append(tensor)

    def merge(self, other: ExactState, rows: Sequence[int]) -> None:
        """Adds the scores of ``other``, which stays as it is, to these rows, one for each of the other's."""
        for row, theirs in zip(rows, other._parts, strict=True):
            for part, more in zip(self._parts[row], theirs, strict=True):
                part.extend(list(more))

    def scores(
        self, rows: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Scores (float32) of some rows, whether each pixel is defective, and its weight (0 where normal)."""
        parts = [[tensor for row in rows for tensor in self._parts[row][i]] for i in range(3)]
        score, mask, weight_M = (_join(part, dtype).numpy() for part, dtype in zip(parts, self._DTYPES, strict=True))
        weight = np.zeros(len(score))
        weight[mask] = weight_M
        return score, mask, weight

    def bins(self, rows: Sequence[int]) -> Bins:
        """One bin per distinct score of some rows, in descending order."""
        return Bins.from_scores(*self.scores(rows))

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that is kept."""
        return {
            f"{name}.{row}": _join(part, dtype).clone()
            for row, parts in enumerate(self._parts)
            for name, part, dtype in zip(self._NAMES, parts, self._DTYPES, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces what is kept by a `state_dict`."""
        for row in range(len(self._parts)):
            score, mask, weight = ([state[f"{name}.{row}"].cpu().clone()] for name in self._NAMES)
            self._parts[row] = (score, mask, weight)
