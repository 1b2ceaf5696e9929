"""The gallery of a run: which test images it shows, chosen while they are predicted, and its pictures.

Maps are never held: of each category the worst errors so far and the examples, which are known beforehand, are kept at
the size of their pictures. The color scale is a category's, so it is known only at the end, and pictures are made then,
by each process of what it holds. ``gallery=all`` waits in a temporary file on the results' disk.

Letters: B images, C channels, H rows, W columns (pixels); 3 is RGB.
"""

from __future__ import annotations

import math
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from ader.data.index import Sample
from ader.metrics.planes import Planes
from ader.results.gallery import FILE, FOLDER, WHYS, Entry, Gallery, Why, as_json
from ader.results.outputs import Kind
from ader.runs.pictures import F32, U8, outlined, overlay, side_by_side, webp
from ader.system import dist
from ader.system.files import UMASK, WriteError, half_made, write_atomic
from ader.system.randomness import derive_seed

#: Pixels that a picture is high at most, and pictures that ``gallery=worst`` has at most.
HEIGHT, MOST = 224, 240
#: A map's median is taken of about so many rows and columns.
GRID = 64
#: Beyond it a map's values count as equal: what is infinite must not reach sums.
LARGEST = 1e30

RULE = (
    "low: the median over normal images of each map's median; high: the upper quartile, over defective images, of each "
    "map's largest value within the defect; one scale per category"
)


@dataclass(frozen=True)
class Picture:
    """A picture, and what it shows; its entry has no file's name yet."""

    entry: Entry
    content: bytes


@dataclass
class Pictures:
    """What a gallery is made of: those of one model's test, or of several.

    Attributes:
        scales: of each category, see ``Gallery``.
        pictures: in the order in which they are shown.
    """

    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    def add(self, other: Pictures) -> None:
        """Takes those of another model."""
        self.scales |= other.scales
        self.pictures += other.pictures

    def state(self) -> dict[str, Any]:
        """As ``torch.save`` takes it, to be loaded without executing a pickle."""
        contents = [torch.from_numpy(np.frombuffer(each.content, np.uint8).copy()) for each in self.pictures]
        return {"scales": self.scales, "entries": [vars(each.entry) for each in self.pictures], "contents": contents}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Pictures:
        """What ``state`` gave."""
        pairs = zip(state["entries"], state["contents"], strict=True)
        pictures = [Picture(Entry(**entry), content.numpy().tobytes()) for entry, content in pairs]
        return cls(dict(state["scales"]), pictures)


@dataclass(frozen=True)
class Shot:
    """What a picture is made of, at its size: image, defect (None: unknown) and map (None: the method has none)."""

    sample: Sample
    score: float
    image_HW3: U8
    mask_HW: npt.NDArray[np.bool_] | None
    map_HW: F32 | None


@dataclass(frozen=True)
class Choice:
    """What ``gallery=worst`` shows, as far as that is known before predicting.

    Attributes:
        categories: those of which the worst errors are kept.
        examples: names of images.
        left_out: pictures that would have been too many.
    """

    categories: frozenset[str] = frozenset()
    examples: frozenset[str] = frozenset()
    left_out: int = 0


def choose(samples: Sequence[Sample], most: int = MOST) -> Choice:
    """One example of every kind of defect, and which categories have their worst errors shown.

    Examples are drawn by the images' names, so that they are the same for every method. Where that is too many, each
    category first has its two errors, then one kind of defect after the other; where even errors are too many,
    categories are drawn.

    Args:
        samples: all test images of a run.
        most: pictures.
    """
    kinds: dict[str, dict[str, str]] = {}
    for sample in sorted(samples, key=lambda sample: derive_seed("gallery", sample.image)):
        examples = kinds.setdefault(sample.category, {})
        if sample.label:
            examples.setdefault(sample.defect, sample.image)
    wanted = sum(2 + len(examples) for examples in kinds.values())
    shown = sorted(kinds, key=lambda category: derive_seed("gallery", category))[: most // 2]
    each = [[image for _, image in sorted(kinds[category].items())] for category in shown]
    deepest = max(map(len, each), default=0)
    turns = [images[turn] for turn in range(deepest) for images in each if turn < len(images)]
    taken = turns[: max(0, most - 2 * len(shown))]
    return Choice(frozenset(shown), frozenset(taken), wanted - 2 * len(shown) - len(taken))


class Waiting(MutableMapping[str, Shot]):
    """Shots in a file without a name, which vanishes with the process, by their images' names.

    Args:
        folder: on whose disk it is.
    """

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when it is collected
        self.places: dict[str, int] = {}

    def __setitem__(self, image: str, shot: Shot) -> None:
        self.places[image] = self.file.seek(0, os.SEEK_END)
        pickle.dump(shot, self.file, protocol=5)  # read by this process alone

    def __getitem__(self, image: str) -> Shot:
        self.file.seek(self.places[image])
        shot: Shot = pickle.load(self.file)
        return shot

    def __delitem__(self, image: str) -> None:
        del self.places[image]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


class Collector:
    """Looks at every batch that is predicted, and keeps what a gallery shows.

    Args:
        kind: of the gallery; ``"off"`` keeps nothing.
        choice: what the whole run's shows; only for ``"worst"``.
        folder: exists; for what ``"all"`` lets wait.
    """

    def __init__(self, kind: Kind, choice: Choice, folder: Path) -> None:
        self.kind, self.choice = kind, choice
        self.shots: MutableMapping[str, Shot] = Waiting(folder) if kind == "all" else {}
        #: Of each category and error: what is the smaller the worse it is, and the image.
        self.worst: dict[tuple[str, Why], tuple[float, str]] = {}
        #: Of each category: label, median and largest value of every map.
        self.levels: dict[str, list[tuple[int, float, float]]] = {}

    @torch.no_grad()
    def add(
        self,
        samples: Sequence[Sample],
        image_BCHW: Tensor,
        score_B: Tensor,
        map_BHW: Tensor | None,
        masks: Planes | None,
    ) -> None:
        """Looks at a batch.

        Args:
            samples: what the images are.
            image_BCHW: RGB in [0, 1].
            score_B: not NaN.
            map_BHW: on the same device; not NaN. None: the method has no maps.
            masks: of any sizes, 1 is defective. None: the dataset has none.
        """
        if self.kind == "off":
            return
        levels = [] if map_BHW is None else levels_of(map_BHW.clamp(-LARGEST, LARGEST), masks)
        for place, (sample, score) in enumerate(zip(samples, score_B.tolist(), strict=True)):
            if levels:
                self.levels.setdefault(sample.category, []).append((sample.label, *levels[place]))
            if self._is_shown(sample, score):
                truth = sample.label == 0 or sample.masks
                self.shots[sample.image] = Shot(
                    sample,
                    score,
                    image_of(image_BCHW[place]),
                    mask_of(masks[place], image_BCHW.shape[2:]) if masks is not None and truth else None,
                    None if map_BHW is None else small(map_BHW[place].clamp(-LARGEST, LARGEST)[None])[0].cpu().numpy(),
                )

    def _is_shown(self, sample: Sample, score: float) -> bool:
        """Whether the image is one to keep, for now; one that it is worse than is let go."""
        why: Why = "miss" if sample.label else "false alarm"
        rank = (score if sample.label else -score, sample.image)
        worst = self.worst.get((sample.category, why))
        everything = self.kind == "all"
        if (everything or sample.category in self.choice.categories) and (worst is None or rank < worst):
            self.worst[sample.category, why] = rank
            if worst is not None and not everything and worst[1] not in self.choice.examples:
                del self.shots[worst[1]]
            return True
        return everything or sample.image in self.choice.examples

    def pictures(self) -> Pictures:
        """The pictures of all processes' images; only the main one gets them."""
        if self.kind == "off":
            return Pictures()
        shares = dist.gather_objects((self.levels, self.worst))
        levels: dict[str, list[tuple[int, float, float]]] = {}
        worst: dict[tuple[str, Why], tuple[float, str]] = {}
        for their_levels, their_worst in shares:
            for category, found in their_levels.items():
                levels.setdefault(category, []).extend(found)
            for key, rank in their_worst.items():
                worst[key] = min(rank, worst.get(key, rank))
        scales = {category: scale_of(found) for category, found in levels.items()}
        whys: dict[str, Why] = {image: why for (_, why), (_, image) in worst.items()}
        shown = [image for image in self.shots if self.kind == "all" or image in whys or image in self.choice.examples]
        own = [paint(self.shots[image], whys.get(image, "example"), scales) for image in shown]
        if dist.world() > 1:
            every = dist.gather_objects(own)
            own = [picture for share in every for picture in share] if dist.is_main() else []
        return Pictures(scales, sorted(own, key=lambda picture: order(picture.entry)))


def levels_of(map_BHW: Tensor, masks: Planes | None) -> list[tuple[float, float]]:
    """Of each map its median, and its largest value: within the defect, where one is known.

    Args:
        map_BHW: finite.
        masks: of any sizes, 1 is defective; None: unknown.
    """
    _, height, width = map_BHW.shape
    grid_BHW = map_BHW[:, :: max(1, height // GRID), :: max(1, width // GRID)]
    largest_B = map_BHW.flatten(1).amax(dim=1)
    if masks is not None:
        if not isinstance(masks, Tensor) or masks.shape != map_BHW.shape:
            masks = torch.cat([adaptive_max_pool2d(mask[None].float(), (height, width)) for mask in masks])
        within_B = map_BHW.masked_fill(masks == 0, -math.inf).flatten(1).amax(dim=1)
        largest_B = torch.where(within_B.isfinite(), within_B, largest_B)
    medians: list[float] = grid_BHW.flatten(1).median(dim=1).values.tolist()
    return list(zip(medians, largest_B.tolist(), strict=True))


def scale_of(levels: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Where a category's colors begin and end; see ``RULE``. Without images of one kind all of them count.

    Args:
        levels: label, median and largest value of each map.
    """
    low = float(np.median([median for label, median, _ in levels if not label] or [each[1] for each in levels]))
    tops = [top for label, _, top in levels if label] or [each[2] for each in levels]
    for high in (float(np.quantile(tops, 0.75)), max(each[2] for each in levels)):
        if high > low:
            return low, high
    return low, low + max(1.0, abs(low))  # maps without any contrast: all of one color


def small(plane_CHW: Tensor) -> Tensor:
    """At the size of a picture, (C, h, w), float32."""
    _, height, width = plane_CHW.shape
    size = _size(height, width)
    if size == (height, width):
        return plane_CHW.float()
    return interpolate(plane_CHW[None].float(), size, mode="bilinear", antialias=True, align_corners=False)[0]


def image_of(image_CHW: Tensor) -> U8:
    """RGB in 0..255, at the size of a picture."""
    image_HW3: U8 = (small(image_CHW).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return image_HW3


def mask_of(mask_HW: Tensor, size: Sequence[int]) -> npt.NDArray[np.bool_]:
    """A defect at the size of the picture of an image of that ``size``; none vanishes."""
    found: npt.NDArray[np.bool_] = (adaptive_max_pool2d(mask_HW[None].float(), _size(*size))[0] > 0).cpu().numpy()
    return found


def _size(height: int, width: int) -> tuple[int, int]:
    return min(height, HEIGHT), max(1, round(width * min(height, HEIGHT) / height))


def paint(shot: Shot, why: Why, scales: dict[str, tuple[float, float]]) -> Picture:
    """The picture of a test image: input, outline of the ground truth (if that is known), map (if there is one)."""
    sample, panels = shot.sample, [shot.image_HW3]
    if shot.mask_HW is not None:
        panels.append(outlined(shot.image_HW3, shot.mask_HW))
    if shot.map_HW is not None:
        panels.append(overlay(shot.image_HW3, shot.map_HW, *scales[sample.category]))
    score = shot.score if math.isfinite(shot.score) else None
    entry = Entry("", sample.category, sample.defect, sample.image, sample.label, score, why)
    return Picture(entry, webp(side_by_side(panels)))


def order(entry: Entry) -> tuple[str, int, str, str]:
    """Errors before examples, those by defect."""
    return entry.category, WHYS.index(entry.why), entry.defect, entry.image


def write_gallery(folder: Path, kind: Kind, found: Pictures, left_out: int = 0) -> None:
    """Writes ``gallery/`` into a run's folder, in place of the one that was there: as a whole or not at all.

    Args:
        folder: of the run.
        kind: of the gallery.
        found: its pictures.
        left_out: how many would have been too many.

    Raises:
        WriteError: the disk does not take it; the old one is as it was.
    """
    try:
        _exchange(folder / FOLDER, kind, found, left_out)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(error.errno, error.strerror, str(folder / FOLDER)) from error


def _exchange(place: Path, kind: Kind, found: Pictures, left_out: int) -> None:
    entries = tuple(replace(each.entry, file=f"{number:03}.webp") for number, each in enumerate(found.pictures))
    with half_made(place) as temporary:
        os.chmod(temporary, 0o777 & ~UMASK)  # results are to be shared
        for entry, picture in zip(entries, found.pictures, strict=True):
            write_atomic(temporary / entry.file, picture.content)
        gallery = Gallery(place, kind, found.scales, entries, RULE, left_out)
        write_atomic(temporary / FILE, as_json(gallery))
        with half_made(place.with_name(f"{FOLDER}-old")) as before:
            if os.path.lexists(place):  # a folder cannot be exchanged in one step: for a moment there is none
                os.rename(place, before / FOLDER)
            os.rename(temporary, place)
