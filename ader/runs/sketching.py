"""Sketches of test images' pixels (``ader.results.pixels``), made while the images are evaluated.

Letters: B images, H rows, W columns, P = H x W pixels, M defective ones; K and L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ader.metrics.regions import label_regions
from ader.results.pixels import DEFECTIVE, NONE, Sketch, Sketches, normal_ends

F4 = npt.NDArray[np.float32]

#: Types that a state may have, by numpy's kinds.
KINDS = {"u": np.int64, "f": np.float32}


def sketch(map_BHW: Tensor, mask_BHW: Tensor, known: Sequence[bool]) -> list[Sketch | None]:
    """Of each image whose defective pixels are known.

    Args:
        map_BHW: float32, not NaN.
        mask_BHW: 0/1, on the same device.
        known: of each image, whether the mask tells; others give None.
    """
    truth_BHW = mask_BHW.cpu().numpy() != 0
    marked_B = truth_BHW.any(axis=(1, 2))
    defective = _defective(map_BHW, truth_BHW, marked_B)
    normal = _normal(map_BHW, mask_BHW, truth_BHW)
    every = zip(normal, defective, known, strict=True)
    return [Sketch(good[0], good[1], *bad) if told else None for good, bad, told in every]


def state_of(sketches: Sketches) -> dict[str, Any]:
    """As ``torch.save`` takes it, to be loaded without executing a pickle."""
    arrays = sketches.arrays()
    names = arrays.pop("image").tolist()
    return {
        "image": names,
        **{name: torch.from_numpy(each.astype(KINDS[each.dtype.kind])) for name, each in arrays.items()},
    }


def restored(state: Mapping[str, Any]) -> Sketches:
    """What ``state_of`` gave."""
    return Sketches.of({name: np.asarray(each) for name, each in state.items()})


def _normal(
    map_BHW: Tensor, mask_BHW: Tensor, truth_BHW: npt.NDArray[np.bool_]
) -> list[tuple[F4, npt.NDArray[np.int64]]]:
    """Scores in the middle of the blocks, and the blocks' pixels."""
    pixels_B = truth_BHW.shape[1] * truth_BHW.shape[2] - truth_BHW.sum(axis=(1, 2))
    ends_BK = np.stack([normal_ends(int(pixels)) for pixels in pixels_B])
    count_BK = np.diff(ends_BK, prepend=0, axis=1)
    middle_BK = np.maximum(ends_BK - 1 - count_BK // 2, 0)
    # numpy sorts with vector instructions; a device sorts what it has
    at_middle = at_ranks_by_numpy if map_BHW.device.type == "cpu" else at_ranks
    return list(zip(at_middle(map_BHW, mask_BHW != 0, middle_BK), count_BK, strict=True))


def at_ranks(map_BHW: Tensor, bad_BHW: Tensor, rank_BK: npt.NDArray[np.int64]) -> F4:
    """Scores at ranks among each image's normal pixels, the highest being rank 0, (B, K).

    Meaningless where an image has no normal pixel.
    """
    descending_BP = map_BHW.masked_fill(bad_BHW, -torch.inf).flatten(1).sort(dim=1, descending=True).values
    value_BK: F4 = descending_BP.gather(1, torch.from_numpy(rank_BK).to(map_BHW.device)).cpu().numpy()
    return value_BK


def at_ranks_by_numpy(map_BHW: Tensor, bad_BHW: Tensor, rank_BK: npt.NDArray[np.int64]) -> F4:
    """The same on a CPU."""
    maps = zip(map_BHW.numpy(), bad_BHW.numpy(), rank_BK, strict=True)
    found = [(np.sort(map_HW[~bad_HW], axis=None)[::-1], rank_K) for map_HW, bad_HW, rank_K in maps]
    return np.stack([each[rank_K] if len(each) else np.zeros(len(rank_K), np.float32) for each, rank_K in found])


def _defective(
    map_BHW: Tensor, truth_BHW: npt.NDArray[np.bool_], marked_B: npt.NDArray[np.bool_]
) -> list[tuple[F4, npt.NDArray[np.int64], F4]]:
    """Scores in the middle of the blocks, their pixels, and their weights."""
    regions = label_regions(truth_BHW.astype(np.uint8), marked_B)
    position_M = torch.from_numpy(regions.position_M).to(map_BHW.device)
    score_M = map_BHW.flatten()[position_M].cpu().numpy()
    cuts = np.cumsum(regions.size_B)[:-1]
    scores, weights = np.split(score_M, cuts), np.split(regions.weight_M, cuts)
    return [_blocks(*each) if len(each[0]) else NONE for each in zip(scores, weights, strict=True)]


def _blocks(score_M: F4, weight_M: npt.NDArray[np.float64]) -> tuple[F4, npt.NDArray[np.int64], F4]:
    """Of one image with defective pixels."""
    order = np.argsort(-score_M, kind="stable")
    score_M, weight_M = score_M[order], weight_M[order]
    pixels = len(score_M)
    weight = np.append(0.0, np.cumsum(weight_M))
    if pixels <= DEFECTIVE:
        end_L = np.arange(1, DEFECTIVE + 1).clip(max=pixels)
    else:  # equal shares of pixels and of regions, each counting half
        mass_M = np.arange(1, pixels + 1) / pixels + weight[1:] / weight[-1]
        end_L = 1 + np.searchsorted(mass_M, 2 * np.arange(1, DEFECTIVE) / DEFECTIVE)
        end_L = np.append(end_L, pixels)
    count_L = np.diff(end_L, prepend=0)
    middle_L = np.maximum(end_L - 1 - count_L // 2, 0)
    return score_M[middle_L], count_L, np.diff(weight[end_L], prepend=0.0).astype(np.float32)
