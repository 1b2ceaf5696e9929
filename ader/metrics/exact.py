"""States that keep every score: the image scores of all profiles, and the reference for the pixel histogram.

Letters: B images, H rows, W columns, M defective pixels, N scores kept, C categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ader.metrics.curves import Bins


def _join(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)


class ImageState:
    """Category, score and label of every image, on the CPU: a few bytes per image."""

    _DTYPES = (torch.int64, torch.float64, torch.bool)

    def __init__(self) -> None:
        self._parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])

    def add(self, category_B: Tensor, score_B: Tensor, label_B: Tensor) -> None:
        """Keeps a batch: int64 indices, float64 scores, bool labels (True: defective), all on the CPU."""
        for part, tensor in zip(self._parts, (category_B, score_B, label_B), strict=True):
            part.append(tensor.clone())

    def scores(self, category: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Scores and labels of one category, in no particular order."""
        category_N, score_N, label_N = self._joined()
        mine = category_N == category
        return score_N[mine].numpy(), label_N[mine].numpy()

    def merge(self, other: ImageState) -> None:
        """Adds the images of ``other``, which stays as it is."""
        self.add(*other._joined())

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that is kept."""
        return {name: each.clone() for name, each in zip(("category", "score", "label"), self._joined(), strict=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces what is kept by a `state_dict`."""
        self._parts = ([], [], [])
        self.add(*(state[name].cpu() for name in ("category", "score", "label")))

    def _joined(self) -> tuple[Tensor, Tensor, Tensor]:
        category, score, label = (_join(part, dtype) for part, dtype in zip(self._parts, self._DTYPES, strict=True))
        self._parts = ([category], [score], [label])
        return category, score, label


class ExactState:
    """Every pixel's score, 13 bytes per pixel: the sorting reference with the histogram's interface.

    Args:
        categories: how many; the state knows them by index only.
        device: where the scores are kept; sorting is done on the CPU, one category at a time.
    """

    profile = "exact"
    _DTYPES = (torch.float32, torch.bool, torch.float64)
    _NAMES = ("score", "mask", "weight")

    def __init__(self, categories: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._parts: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = [([], [], []) for _ in range(categories)]

    def add(self, category_B: Tensor, map_BHW: Tensor, mask_BHW: Tensor, weight_M: Tensor) -> None:
        """Keeps the pixels of a batch; arguments as for `HistogramState.add`."""
        weight_BHW = torch.zeros_like(map_BHW, dtype=torch.float64)
        weight_BHW[mask_BHW] = weight_M
        for category in torch.bincount(category_B).nonzero().view(-1).tolist():
            mine = category_B == category
            batch = (map_BHW[mine].reshape(-1), mask_BHW[mine].reshape(-1), weight_BHW[mine].reshape(-1))
            for part, tensor in zip(self._parts[category], batch, strict=True):
                part.append(tensor)

    def merge(self, other: ExactState) -> None:
        """Adds the scores of ``other``, which stays as it is."""
        for mine, theirs in zip(self._parts, other._parts, strict=True):
            for part, more in zip(mine, theirs, strict=True):
                part.extend(tensor.to(self.device) for tensor in list(more))

    def bins(self, category: int) -> Bins:
        """One bin per distinct score of a category, in descending order."""
        score_N, mask_N, weight_N = (each.cpu().numpy() for each in self._joined(category))
        return Bins.from_scores(score_N, mask_N, weight_N)

    def _joined(self, category: int) -> tuple[Tensor, Tensor, Tensor]:
        score, mask, weight = (
            _join(part, dtype) for part, dtype in zip(self._parts[category], self._DTYPES, strict=True)
        )
        return score, mask, weight

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that is kept, on the CPU."""
        state: dict[str, Any] = {}
        for category in range(len(self._parts)):
            for name, tensor in zip(self._NAMES, self._joined(category), strict=True):
                state[f"{name}.{category}"] = tensor.cpu().clone()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces what is kept by a `state_dict`, onto the state's own device."""
        for category in range(len(self._parts)):
            score, mask, weight = ([state[f"{name}.{category}"].to(self.device, copy=True)] for name in self._NAMES)
            self._parts[category] = (score, mask, weight)
