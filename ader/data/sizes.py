"""At which size maps and masks are compared.

Letters: B images, H rows, W columns (pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ader.data.image import U8, read_size
from ader.data.index import Index, Sample
from ader.data.masks import Interpolation, MaskRule, load_mask, own_mask

if TYPE_CHECKING:  # a finished result is shown without torch
    from torch import Tensor

#: As predicted, as the dataset has it, or the side of a square.
Size = Literal["input", "original"] | Annotated[int, Field(ge=16, le=8192)]


@dataclass(frozen=True)
class Sizes:
    """The evaluation size, and how maps and masks get there.

    Attributes:
        size: ``"input"``: maps stay as they are and masks are resized to them (ADer). ``"original"``: maps are resized
            to the masks, which stay as they are (ADEval). A number: both are resized to a square of that side.
        map_interpolation: ``"bilinear"`` as OpenCV's INTER_LINEAR: half-pixel centers, no antialiasing; ``"nearest"``.
        mask_interpolation, mask_rule: see ``load_mask``.
    """

    size: Size = "input"
    map_interpolation: Interpolation = "bilinear"
    mask_interpolation: Interpolation = "bilinear"
    mask_rule: MaskRule = "any"

    def mask(self, index: Index, sample: Sample, map_size: tuple[int, int]) -> U8:
        """A sample's mask at the evaluation size, uint8 0/1; empty where there is no file.

        Args:
            index: where the sample is from.
            sample: the image.
            map_size: height and width of its map.

        Raises:
            BadImageError: the mask, or the image that has none, cannot be read.
        """
        paths = [index.path(name) for name in sample.masks]
        if self.size == "original":
            return (
                np.zeros(read_size(index.path(sample.image)), np.uint8)
                if not paths
                else own_mask(paths, self.mask_rule)
            )
        size = map_size if self.size == "input" else (self.size, self.size)
        return load_mask(paths, size, self.mask_interpolation, self.mask_rule)

    def fit(self, map_BHW: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps at another size (height, width)."""
        from torch.nn.functional import interpolate

        if map_BHW.shape[1:] == size:
            return map_BHW
        if self.map_interpolation == "nearest":
            return interpolate(map_BHW[:, None], size, mode="nearest")[:, 0]
        return interpolate(map_BHW[:, None], size, mode="bilinear", align_corners=False)[:, 0]

    def rule(self) -> str:
        """One clause for a table's footnote."""
        masks = "bilinear, cut above one half" if self.mask_interpolation == "bilinear" else "nearest"
        if self.size == "input":
            return f"masks are resized to the maps ({masks})"
        if self.size == "original":
            return f"maps are resized to the masks of the dataset ({self.map_interpolation})"
        return f"maps ({self.map_interpolation}) and masks ({masks}) are resized to {self.size}x{self.size}"
