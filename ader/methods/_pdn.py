"""The networks of EfficientAD: patch description networks, and an autoencoder that gives features of their shape.

Paper: Batzner et al., "EfficientAD", WACV 2024, tables 5 to 7. Sizes and order of layers are those of
nelson1425/EfficientAD at fcab514 (Apache-2.0).

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ader.system.errors import UserError

#: Padding of a kernel of so many pixels where convolutions are padded; the last one of 4x4 has none.
PADDING = {4: 3, 3: 1, 1: 0}

#: What the names of the teacher's layers begin with in a method's state.
TEACHER = "teacher.net.convolutions."


class Patches(nn.Module):
    """A patch description network: convolutions of stride 1 and two poolings by 2; a pixel of the result sees 33x33.

    Args:
        network: ``small`` or ``medium``.
        width: channels of the first layer; the others have twice as many.
        outputs: channels of the result.
        padding: whether convolutions and poolings are padded.
    """

    def __init__(self, network: Literal["small", "medium"], width: int, outputs: int, padding: bool) -> None:
        super().__init__()
        wide = 2 * width
        small = [(width, 4), (wide, 4), (wide, 3), (outputs, 4)]
        medium = [(width, 4), (wide, 4), (wide, 1), (wide, 3), (outputs, 4), (outputs, 1)]
        layers = small if network == "small" else medium
        inputs = [3, *(channels for channels, _ in layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel) for before, (after, kernel) in zip(inputs[:-1], layers, strict=True)
        )
        self.outputs, self.padding = outputs, padding

    def grid(self, image_size: int) -> int:
        """Pixels of a side of the result; ``image_size`` is a multiple of 4."""
        return image_size // 4 - (0 if self.padding else 8)

    def forward(self, normalized_BCHW: Tensor, padding: bool | None = None) -> Tensor:
        """Descriptions (B, outputs, grid, grid); ``padding`` in place of the constructor's."""
        padding = self.padding if padding is None else padding
        described_BCHW: Tensor = self.convolutions[-1](self._trunk(normalized_BCHW, padding))
        return described_BCHW

    def _trunk(self, value_BCHW: Tensor, padding: bool) -> Tensor:
        """All but the last layer, which has no padding."""
        for number, convolution in enumerate(self.convolutions[:-1]):
            assert isinstance(convolution, nn.Conv2d)
            padded = padding and (number < 2 or convolution.kernel_size != (4, 4))
            border = PADDING[convolution.kernel_size[0]] if padded else 0
            value_BCHW = F.relu(F.conv2d(value_BCHW, convolution.weight, convolution.bias, padding=border))
            if number < 2:
                value_BCHW = F.avg_pool2d(value_BCHW, 2, padding=int(padding))
        return value_BCHW


class Student(Patches):
    """One whose result has two halves: what imitates the teacher, and what imitates the autoencoder."""

    def forward(  # type: ignore[override]
        self, normalized_BCHW: Tensor, other_BCHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both halves of the same images; or the first half of these images and the second one of the others."""
        if other_BCHW is None:
            first_BCHW, second_BCHW = super().forward(normalized_BCHW).chunk(2, dim=1)
            return first_BCHW, second_BCHW
        trunk_BCHW = self._trunk(torch.cat([normalized_BCHW, other_BCHW]), self.padding)
        count, half, last = len(normalized_BCHW), self.outputs // 2, self.convolutions[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        first_BCHW = F.conv2d(trunk_BCHW[:count], last.weight[:half], last.bias[:half])
        second_BCHW = F.conv2d(trunk_BCHW[count:], last.weight[half:], last.bias[half:])
        return first_BCHW, second_BCHW


class Autoencoder(nn.Module):
    """Five convolutions of stride 2 and a bottleneck; eight convolutions between bilinear interpolations.

    Args:
        image_size: pixels; a multiple of 32.
        width: channels; half as many in the first two layers.
        outputs: channels of the result.
        grid: pixels of a side of the result.
        dropout: after each of the first six of those eight convolutions.
    """

    def __init__(self, image_size: int, width: int, outputs: int, grid: int, dropout: float) -> None:
        super().__init__()
        channels = [3, width // 2, width // 2, width, width, width]
        self.encoder = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(channels)
        )
        self.bottleneck = nn.Conv2d(width, width, min(8, image_size // 32))
        sides = (image_size // 64 - 1, image_size // 32, image_size // 16 - 1, image_size // 8, image_size // 4 - 1)
        self.sides = [max(1, side) for side in (*sides, image_size // 2 - 1)]
        self.grid = grid
        self.decoder = nn.ModuleList(nn.Conv2d(width, width, 4, padding=2) for _ in self.sides)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, outputs, 3, padding=1)
        )

    def forward(self, normalized_BCHW: Tensor) -> Tensor:
        """Features (B, outputs, grid, grid)."""
        value_BCHW = normalized_BCHW
        for convolution in self.encoder:
            value_BCHW = F.relu(convolution(value_BCHW))
        value_BCHW = self.bottleneck(value_BCHW)
        for side, convolution in zip(self.sides, self.decoder, strict=True):
            value_BCHW = self.dropout(F.relu(convolution(_resized(value_BCHW, side))))
        feature_BCHW: Tensor = self.last(_resized(value_BCHW, self.grid))
        return feature_BCHW


def _resized(value_BCHW: Tensor, side: int) -> Tensor:
    return F.interpolate(value_BCHW, size=(side, side), mode="bilinear", align_corners=False)


def load_patches(network: Patches, file: Path) -> bool:
    """Puts the weights of a file into a patch description network, without executing anything in it.

    Layers are numbered: by their place in a sequence, as nelson1425's, or ``conv1`` on, as anomalib's. Or the file is
    the checkpoint of a run of EfficientAD.

    Returns:
        Whether it is such a checkpoint.

    Raises:
        UserError: it cannot be read, or holds another network.
    """
    try:
        if file.suffix == ".safetensors":
            state: dict[str, Any] = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        of_run = "method" in state
        if of_run:
            state = {name: value for name, value in state["method"].items() if name.startswith(TEACHER)}
        found = {(int(re.sub(r"\D", "", name)), name.rsplit(".", 1)[1]): value for name, value in state.items()}
    except Exception as error:  # damaged zip, damaged header, refused pickle, other names: all are the file's fault
        raise UserError(f"weights file {file} cannot be read ({type(error).__name__}): replace it") from error
    places = {number: place for place, number in enumerate(sorted({number for number, _ in found}))}
    renamed = {f"convolutions.{places[number]}.{kind}": value for (number, kind), value in found.items()}
    try:
        network.load_state_dict(renamed)
    except RuntimeError as error:  # torch lists all that does not fit
        raise UserError(
            f"weights file {file} does not hold this teacher (method.network, width, features): replace it"
        ) from error
    return of_run
