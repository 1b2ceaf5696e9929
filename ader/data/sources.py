"""Where a method's declared inputs come from: what belongs to an image besides its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ader.data.index import Index, Sample


class Source(Protocol):
    """Gives one array for every image; ``ader.data.labelmaps.LabelMaps`` is one."""

    def check(self, index: Index, workers: int) -> None:
        """Looks at what there is for each image, once, before anything is trained.

        Args:
            index: all images that the run will use.
            workers: threads to look with.

        Raises:
            UserError: something is missing or damaged.
        """

    def files(self, index: Index) -> Mapping[str, Path]:
        """The files that are there, by a name that does not depend on where they lie: a result is of their content.

        Args:
            index: all images that the run will use.
        """

    def read(self, sample: Sample, size: int, rng: np.random.Generator) -> npt.NDArray[Any]:
        """What belongs to one image; in a loader's worker, so that it must be possible to pickle the source.

        Args:
            sample: the image.
            size: methods see images of (size, size) pixels.
            rng: for a source that draws; a stream that the seed, the epoch (0 in a test) and the image decide.

        Returns:
            An array of the same shape and type for every image; batches have them stacked, on the device.
        """
