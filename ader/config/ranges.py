"""Ranges of numbers that a configuration may give, stated once for the schema, methods, settings and readers.

All are finite, and wide: what lies outside is a slip, and would end hours later in a loss that is not finite or in more
memory than a machine has.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field

Natural = Annotated[int, Field(ge=0, le=1_000_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
#: Steps of training, images of a dataset.
Many = Annotated[int, Field(ge=1, le=1_000_000_000)]
#: What NumPy takes as a seed.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
#: Sides of images.
Pixels = Annotated[int, Field(ge=32, le=4096)]
#: Sides of windows and strides, in pixels or tokens.
Window = Annotated[int, Field(ge=1, le=4096)]
#: Dimensions of feature vectors and of linear layers.
Width = Annotated[int, Field(ge=1, le=16_384)]
#: Base widths of convolutional networks, which their deeper layers multiply.
Channels = Annotated[int, Field(ge=1, le=512)]
#: Layers of a network, heads of an attention.
Depth = Annotated[int, Field(ge=1, le=256)]

Positive = Annotated[float, Field(gt=0, le=1e6)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
#: Momentum, dropout, decay of a moving average: 1 would stop it.
Rate = Annotated[float, Field(ge=0, lt=1)]
#: Adam's averaging factors.
Betas = tuple[Rate, Rate]
#: Standard deviation of a Gaussian, in pixels.
Sigma = Annotated[float, Field(gt=0, le=1024)]


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(after <= before for before, after in pairwise(values)):
        raise ValueError("give each once, in ascending order")
    return values


#: timm's ``out_indices``, finest first.
Layers = Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Field(min_length=1), AfterValidator(_ascending)]
