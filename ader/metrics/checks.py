"""What `Evaluator.update` accepts: its arguments are checked as a whole, before anything is counted.

Letters: B images, H rows, W columns (pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ader.metrics.kernels import Scan, kernels
from ader.metrics.keys import INFINITY
from ader.metrics.planes import as_tensor
from ader.system.errors import UserError, suggest

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: The kind of a defect whose kind is not told: never that of normal images.
UNNAMED = "defective"


@dataclass(frozen=True)
class Pixels:
    """The images of an update that have both a map and pixel truth."""

    image_B: Tensor  # int64, CPU: which of the update's images these are
    map_BHW: Tensor  # float32 without NaN, contiguous, on the evaluator's device
    mask_BHW: Tensor  # uint8, nonzero where defective, contiguous, on the evaluator's device
    scan: Scan


@dataclass(frozen=True)
class Observations:
    """The images of one update, all checks passed; what is known per image is on the CPU."""

    category_B: Tensor  # int64
    score_B: Tensor  # float64, no NaN
    label_B: Tensor  # bool, True where defective
    groups: list[str]  # "" where there is none
    defects: list[str]  # "" where normal and not told
    mapped: bool
    pixels: Pixels | None


class UpdateChecker:
    """Turns the arguments of an update into `Observations`.

    Args:
        categories: names that strings and indices refer to.
        device: where maps and masks have to be.
    """

    def __init__(self, categories: Sequence[str], device: torch.device) -> None:
        self._categories = list(categories)
        self._device = device

    def check(
        self,
        category: Any,
        score: Any,
        label: Any,
        map: Any = None,
        mask: Any = None,
        pixel_truth: Any = None,
        names: Sequence[str] | None = None,
        group: Sequence[str | None] | None = None,
        defect: Sequence[str | None] | None = None,
    ) -> Observations:
        """Checks one batch; arguments and errors as for `Evaluator.update`."""
        category_B = self._category(category)
        size = len(category_B)
        score_B = _vector("score", score, size, FLOATS).double()
        given_B = _vector("label", label, size, (torch.bool, *INTEGERS))
        wrong_B = (given_B != 0) & (given_B != 1)
        if wrong_B.any():
            raise ValueError(f"label: expected 0 (normal) or 1 (defective), got {given_B[wrong_B][0].item()}")
        label_B = given_B.bool()
        groups, given = _names("group", group, size), _names("defect", defect, size)
        defects = [name or (UNNAMED if label else "") for name, label in zip(given, label_B.tolist(), strict=True)]
        who = _Who(self._categories, category_B, names)
        nan_B = score_B.isnan()
        if nan_B.any():
            raise _nan("score", who(int(nan_B.nonzero()[0])))
        map_BHW = None
        if map is not None:
            map_BHW = self._image_like("map", map, FLOATS)
            if map_BHW.ndim != 3 or len(map_BHW) != size or (size and map_BHW.numel() == 0):
                raise ValueError(f"map: expected shape ({size}, H, W), got {tuple(map_BHW.shape)}")
            map_BHW = map_BHW.float().contiguous()  # the kernels read the bits of float32, row by row
        mask_BHW = None if mask is None else self._mask(mask, size, map_BHW, who)
        truth_B = torch.ones(size, dtype=torch.bool)
        if pixel_truth is not None:
            truth_B = _vector("pixel_truth", pixel_truth, size, (torch.bool,))
        pixels = None
        if size and map_BHW is not None:
            pixels = self._pixels(map_BHW, mask_BHW, truth_B & label_B.new_tensor(mask_BHW is not None), label_B, who)
        elif size and mask_BHW is not None:
            _refuse_defect_in_good(mask_BHW.flatten(1).amax(1).cpu().bool() & truth_B & ~label_B, who)
        return Observations(category_B, score_B, label_B, groups, defects, map_BHW is not None, pixels)

    def _pixels(
        self, map_BHW: Tensor, mask_BHW: Tensor | None, truth_B: Tensor, label_B: Tensor, who: _Who
    ) -> Pixels | None:
        """Looks at every pixel once; images without truth are left out of what is returned."""
        look = kernels(self._device.type).scan
        found = look(map_BHW.flatten(1), None if mask_BHW is None else mask_BHW.flatten(1))
        nan_B = (found.low_B < -INFINITY) | (found.high_B > INFINITY)
        if nan_B.any():
            raise _nan("map", who(int(nan_B.nonzero()[0])))
        _refuse_defect_in_good(found.marked_B & truth_B & ~label_B, who)
        image_B = truth_B.nonzero().view(-1)
        if mask_BHW is None or len(image_B) == 0:
            return None
        if len(image_B) < len(truth_B):
            keep_B = image_B.to(self._device)
            map_BHW, mask_BHW, found = map_BHW[keep_B], mask_BHW[keep_B], Scan(*(each[image_B] for each in found))
        return Pixels(image_B, map_BHW, mask_BHW, found)

    def _category(self, category: Any) -> Tensor:
        if isinstance(category, str):
            raise ValueError(f"category: expected one entry per image, got the string {category!r}")
        if not isinstance(category, Tensor) and any(isinstance(name, str) for name in category):
            names = [str(name) for name in category]
            for name in names:
                if name not in self._categories:
                    raise UserError(f"category {name!r} is not the evaluator's: {suggest(name, self._categories)}")
            return torch.tensor([self._categories.index(name) for name in names], dtype=torch.int64)
        category_B = _vector("category", category, None, INTEGERS).long()
        wrong_B = (category_B < 0) | (category_B >= len(self._categories))
        if wrong_B.any():
            got = int(category_B[wrong_B][0])
            raise ValueError(f"category: expected indices 0..{len(self._categories) - 1}, got {got}")
        return category_B

    def _mask(self, mask: Any, size: int, map_BHW: Tensor | None, who: _Who) -> Tensor:
        mask_BHW = self._image_like("mask", mask, (torch.bool, *INTEGERS, *FLOATS))
        if map_BHW is not None and mask_BHW.shape != map_BHW.shape:
            raise ValueError(f"mask: expected the map's shape {tuple(map_BHW.shape)}, got {tuple(mask_BHW.shape)}")
        if mask_BHW.ndim != 3 or len(mask_BHW) != size:
            raise ValueError(f"mask: expected shape ({size}, H, W), got {tuple(mask_BHW.shape)}")
        if mask_BHW.dtype in FLOATS:
            wrong_B = ((mask_BHW != 0) & (mask_BHW != 1)).flatten(1).any(dim=1)
            if wrong_B.any():
                raise UserError(
                    f"the mask of {who(int(wrong_B.nonzero()[0]))} has values between or beyond 0 and 1: give 0 and 1, "
                    "or cut it (mask > 0.5)"
                )
        if mask_BHW.dtype not in (torch.bool, torch.uint8):
            mask_BHW = mask_BHW != 0
        return mask_BHW.contiguous().view(torch.uint8)

    def _image_like(self, what: str, given: Any, dtypes: tuple[torch.dtype, ...]) -> Tensor:
        """(B, H, W) of that or of (B, 1, H, W). Tensors have to be on the evaluator's device; arrays, which have none,
        are copied there."""
        if not isinstance(given, Tensor):
            given = as_tensor(given).to(self._device)
        if given.device != self._device:
            raise ValueError(f"{what}: expected device {self._device}, got {given.device}")
        _check_dtype(what, given, dtypes)
        image_like: Tensor = given.detach()
        return image_like.squeeze(1) if image_like.ndim == 4 and image_like.shape[1] == 1 else image_like


class _Who:
    """Names an image of the batch in error messages."""

    def __init__(self, categories: Sequence[str], category_B: Tensor, names: Sequence[str] | None) -> None:
        if names is not None and len(names) != len(category_B):
            raise ValueError(f"names: expected {len(category_B)} entries, got {len(names)}")
        self._categories, self._category_B, self._names = categories, category_B, names

    def __call__(self, position: int) -> str:
        name = f"number {position} of the batch" if self._names is None else repr(self._names[position])
        return f"image {name} of category {self._categories[int(self._category_B[position])]!r}"


def _vector(what: str, given: Any, size: int | None, dtypes: tuple[torch.dtype, ...]) -> Tensor:
    """One value per image, on the CPU."""
    vector_B = as_tensor(given)
    if vector_B.numel() == 0 and not isinstance(given, Tensor):
        vector_B = vector_B.to(dtypes[0])  # an empty list carries no type
    if vector_B.ndim != 1 or (size is not None and len(vector_B) != size):
        expected = "B" if size is None else size
        raise ValueError(f"{what}: expected shape ({expected},), got {tuple(vector_B.shape)}")
    _check_dtype(what, vector_B, dtypes)
    return vector_B.cpu()


def _check_dtype(what: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if tensor.dtype not in dtypes:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{what}: expected dtype {expected}, got {str(tensor.dtype).removeprefix('torch.')}")


def _names(what: str, given: Sequence[str | None] | None, size: int) -> list[str]:
    """One text per image; "" for None."""
    if given is None:
        return [""] * size
    if isinstance(given, str) or len(given) != size:
        raise ValueError(f"{what}: expected {size} names, got {given if isinstance(given, str) else len(given)!r}")
    return ["" if name is None else str(name) for name in given]


def _nan(what: str, who: str) -> UserError:
    return UserError(f"the {what} of {who} is NaN: a score has to be a number (infinities are allowed)")


def _refuse_defect_in_good(wrong_B: Tensor, who: _Who) -> None:
    if wrong_B.any():
        position = int(wrong_B.nonzero()[0])
        raise UserError(f"{who(position)} has label 0 (normal) but a mask with defective pixels: fix one of the two")
