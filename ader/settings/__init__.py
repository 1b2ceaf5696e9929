"""Settings: what of a dataset is trained on, and by how many models. Each is a pure function of an index and a seed.

``configs/setting/<name>.yaml`` names one of the functions in ``SETTINGS``, gives its options, and says whether there is
one model for all categories or one for each.

Draws are nested (8 images hold the 4 of ``k=4``) and depend on nothing but the seed and the images' names. Where a
dataset shows one object in several images, objects are drawn and not images, so that no view of a training object is
tested on. What moves from test to training is gone from the test: no setting ever trains on a test image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ader.config.validate import validated
from ader.data.index import TEST, TRAIN, Index, Sample
from ader.system.errors import UserError, some, suggest

Count = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Models = Literal["all", "category"]

#: The split of normal and defective images that SegAD's forest learns from, and no detector ever.
FOREST = "forest"

#: IM-IAD never takes more of a category's defective test images than this share.
MOST = 0.75


@dataclass(frozen=True)
class ModelSplit:
    """One model's share of a dataset: what it trains on and what it is tested on.

    Attributes:
        name: names the part's folder in a run of several parts.
        index: its samples.
    """

    name: str
    index: Index


def normal(index: Index, seed: int) -> Index:
    """Every normal training image (ADer, protocols (a); IM-IAD "vanilla", (b)).

    Labeled defects in the training data are left out; defects that a dataset publishes as noise are not.
    """
    return index.where(lambda sample: sample.split == TEST or sample.label == 0)


def few_shot(index: Index, seed: int, k: Count) -> Index:
    """``k`` normal training images of each category (IM-IAD, protocols (h)).

    Raises:
        UserError: a category has fewer.
    """
    index, keep = normal(index, seed), set[str]()
    for category in _trained(index):
        drawn = _draw(_in(index, category, TRAIN), seed, "few_shot")
        if len(drawn) < k:
            raise UserError(f"setting.k={k}: category {category!r} has {len(drawn)} normal training images")
        keep.update(sample.image for unit in drawn[:k] for sample in unit)
    return index.where(lambda sample: sample.split != TRAIN or sample.image in keep)


def labeled(index: Index, seed: int, k: Count) -> Index:
    """All normal training images, and ``k`` defective ones of each category that move from test to training, labeled.

    SegAD's protocol for VisA (k = 10) and MVTec AD (k = 20), protocols (c).

    Raises:
        UserError: a category would have no defective test image left.
    """
    return supervised(index, seed, source="test", shots=k)


def semi(index: Index, seed: int, n: Count) -> Index:
    """As ``labeled``, but with at most 75 % of a category's defective images (IM-IAD "semi", protocols (h))."""
    index = normal(index, seed)
    moved: dict[str, Sample] = {}
    for category in index.categories:
        drawn = _defective(index, category, TEST, seed)
        moved |= _moved(drawn[: min(n, int(MOST * len(drawn)))])
    return _replaced(index, moved)


def noisy(index: Index, seed: int, ratio: Ratio) -> Index:
    """Defective test images move to training as if they were normal (IM-IAD "noisy", protocols (d) and (h)).

    Of each category the number of its training images times ``ratio``, cut to an integer, and at most 75 % of its
    defective images. IM-IAD's published commands leave them in the test as well; this does not.
    """
    index = normal(index, seed)
    moved: dict[str, Sample] = {}
    for category in index.categories:
        drawn = _defective(index, category, TEST, seed)
        wanted = int(ratio * len(_in(index, category, TRAIN)))
        moved |= _moved(drawn[: min(wanted, int(MOST * len(drawn)))], label=0)
    return _replaced(index, moved)


def contamination(
    index: Index,
    seed: int,
    ratio: Ratio,
    of: Literal["normal", "all"] = "normal",
    mode: Literal["add", "replace"] = "add",
) -> Index:
    """A share of the training images is defective and said to be normal ("Beyond Academic Benchmarks", protocols (d)).

    They come from the training data's labeled defects where there are enough (VAD), else from the test, which loses
    them.

    Args:
        index: the dataset.
        seed: of the draw; a smaller ratio's images are among a larger one's.
        ratio: how many, in relation to
        of: the category's normal training images, or all training images that result.
        mode: add them, or put them in the place of as many normal ones.

    Raises:
        UserError: a category has too few.
    """
    moved: dict[str, Sample] = {}
    dropped: set[str] = set()
    for category in _trained(index):
        units = _draw([s for s in _in(index, category, TRAIN) if not s.label], seed, "replaced")
        share = ratio / (1 - ratio) if of == "all" and mode == "add" else ratio
        wanted = round(share * len(units))
        chosen = _noise(index, category, seed, wanted)
        moved |= _moved(chosen, label=0)
        if mode == "replace":
            dropped.update(sample.image for unit in units[:wanted] for sample in unit)
    return normal(_replaced(index, moved), seed).where(lambda sample: sample.image not in dropped)


def supervised(
    index: Index,
    seed: int,
    source: Literal["train", "test"] = "train",
    shots: Annotated[int, Field(ge=0)] | Literal["all", "list"] = "all",
    draw: Annotated[int, Field(ge=0)] | None = None,
    detector_share: Annotated[float, Field(gt=0, le=1)] = 1.0,
    split_seed: Annotated[int, Field(ge=0)] | None = None,
) -> Index:
    """Labeled defects in the training data (SegAD, protocols (c)).

    Args:
        index: the dataset.
        seed: of all draws.
        source: the defects are the training data's own, or move there from the test.
        shots: how many of each category; ``"list"``: those of a list that the dataset publishes.
        draw: which of the lists, from 0; None: the seed modulo their number.
        detector_share: below 1, this share of each category's normal training images stays in ``"train"``, for the
            detectors; the others and the defects become the split ``"forest"``.
        split_seed: decides which normal images stay for the detectors; None: the seed does. A fixed one lets detectors
            that were trained once serve runs of all seeds, which then differ in their defects and forests only.

    Raises:
        UserError: there are too few defects, or no lists.
    """
    keep: set[str] = set()
    moved: dict[str, Sample] = {}
    for category in _trained(index):
        drawn = _defective(index, category, source, seed)
        if shots == "list":
            names = _listed(index, seed, draw)
            drawn = [[sample for sample in unit if sample.image in names] for unit in drawn]
        elif shots != "all":
            drawn = _enough(drawn, shots, category, leave=source == "test")
        keep.update(sample.image for unit in drawn for sample in unit)
        moved |= _moved(drawn)
    result = _replaced(index, moved).where(lambda s: s.split == TEST or not s.label or s.image in keep)
    return (
        result if detector_share == 1 else _halved(result, seed if split_seed is None else split_seed, detector_share)
    )


#: The functions, and for how many categories a model is; None: the setting's option ``models`` says.
SETTINGS: dict[str, tuple[Callable[..., Index], Models | None]] = {
    "multi_class": (normal, "all"),
    "single_class": (normal, "category"),
    "few_shot": (few_shot, None),
    "labeled": (labeled, None),
    "semi": (semi, None),
    "noisy": (noisy, None),
    "contamination": (contamination, None),
    "supervised": (supervised, None),
}


def apply(index: Index, seed: int, name: str, options: Mapping[str, Any]) -> tuple[Index, list[ModelSplit]]:
    """Applies the setting called ``name``.

    Args:
        index: the dataset as published.
        seed: of the run.
        name: a key of ``SETTINGS``.
        options: the function's, and ``models``: ``"all"`` or ``"category"``.

    Returns:
        What is trained and tested on, and the models' shares of it.

    Raises:
        UserError: unknown setting or option, or the dataset does not fit it.
    """
    if name not in SETTINGS:
        raise UserError(f"setting.name={name!r} does not exist: {suggest(name, SETTINGS)}")
    function, models = SETTINGS[name]
    own = dict(options)
    if models is None:
        models = validated(_models, {"models": own.pop("models", "category")}, where="setting")["models"]
    result = function(**validated(function, {"index": index, "seed": seed, **own}, where="setting"))
    check_moves(index, result)
    return result, cut(result, models)


def cut(index: Index, models: Models) -> list[ModelSplit]:
    """One part, or one for each category that is tested.

    Raises:
        UserError: a category has nothing to train on.
    """
    if models == "all":
        return [ModelSplit("all", index)]
    tested = index.split(TEST).categories
    lacking = [name for name in tested if name not in index.where(lambda sample: sample.split != TEST).categories]
    if lacking:
        raise UserError(
            f"dataset {index.name!r} has no training images of {some(lacking)}, so that there cannot be a model for "
            "each category: choose setting=multi_class, or setting.models=all"
        )
    return [ModelSplit(name, index.select([name])) for name in tested]


def check_moves(before: Index, after: Index) -> None:
    """Asserts what every setting promises: no image in two places, and none in the test that was not there before."""
    images = [sample.image for sample in after]
    assert len(set(images)) == len(images), "a setting uses an image twice"
    assert set(images) <= {sample.image for sample in before}, "a setting made up an image"
    tested = {sample.image for sample in before if sample.split == TEST}
    assert all(sample.image in tested for sample in after if sample.split == TEST), "training images became test images"


def check_supervision(supervision: str, index: Index) -> None:
    """Refuses to train on labels that are not there, before anything is computed.

    Raises:
        UserError: the method needs defective training images (or their masks) and the setting gives none.
    """
    if supervision == "normal":
        return
    defective = [sample for sample in index if sample.split != TEST and sample.label == 1]
    if not defective:
        raise UserError(
            f"the method trains on defective images and dataset {index.name!r} gives it none: choose a setting that "
            "moves some into training, such as setting=labeled, or setting=supervised where the dataset has some"
        )
    if supervision == "pixel" and not any(sample.masks for sample in defective):
        raise UserError(f"the method trains on masks and the training images of {index.name!r} have none")


def _models(models: Models) -> Models:
    return models


def _trained(index: Index) -> tuple[str, ...]:
    """The categories that have training images."""
    return index.split(TRAIN).categories


def _in(index: Index, category: str, split: str) -> list[Sample]:
    return [sample for sample in index if sample.category == category and sample.split == split]


def _draw(samples: Iterable[Sample], seed: int, purpose: str) -> list[list[Sample]]:
    """Objects (images, or all views of one) in a random order that neither a library nor the other images decide."""
    units: dict[str, list[Sample]] = {}
    for sample in samples:
        units.setdefault(sample.group or sample.image, []).append(sample)
    order = sorted(units, key=lambda name: hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest())
    return [units[name] for name in order]


def _defective(index: Index, category: str, split: str, seed: int) -> list[list[Sample]]:
    """A category's defective objects in random order, their views without a defect included."""
    units = _draw(_in(index, category, split), seed, "defective")
    return [unit for unit in units if any(sample.label for sample in unit)]


def _enough(units: list[list[Sample]], wanted: int, category: str, leave: bool) -> list[list[Sample]]:
    """The first ``wanted`` units.

    Raises:
        UserError: there are fewer, or with ``leave`` none would remain.
    """
    most = len(units) - leave
    if wanted > most:
        raise UserError(
            f"category {category!r} has {len(units)} defective images to draw {wanted} from: choose at most "
            f"{max(0, most)}{' (one has to stay in the test)' if leave else ''}, or name other categories"
        )
    return units[:wanted]


def _noise(index: Index, category: str, seed: int, wanted: int) -> list[list[Sample]]:
    """Defects to contaminate with: the training data's own, or else the test's."""
    own = _defective(index, category, TRAIN, seed)
    if len(own) >= wanted:
        return own[:wanted]
    return _enough(_defective(index, category, TEST, seed), wanted, category, leave=True)


def _listed(index: Index, seed: int, draw: int | None) -> set[str]:
    """The images of one of the dataset's published lists."""
    lists = list(index.lists.values())
    if not lists:
        raise UserError(f"setting.shots=list: dataset {index.name!r} publishes no lists: give a number")
    number = seed % len(lists) if draw is None else draw
    if number >= len(lists):
        raise UserError(
            f"setting.draw={number}: dataset {index.name!r} has {len(lists)} lists: give 0 to {len(lists) - 1}"
        )
    return set(lists[number])


def _moved(units: Iterable[Iterable[Sample]], label: int | None = None) -> dict[str, Sample]:
    """The samples as training data, by image; with ``label`` 0, said to be normal and without their masks."""
    samples = [sample for unit in units for sample in unit]
    if label == 0:
        return {s.image: replace(s, split=TRAIN, label=0, masks=()) for s in samples}
    return {s.image: replace(s, split=TRAIN) for s in samples}


def _replaced(index: Index, changed: Mapping[str, Sample]) -> Index:
    return index.with_samples(changed.get(sample.image, sample) for sample in index)


def _halved(index: Index, seed: int, share: float) -> Index:
    """Normal training images divided between detectors and forest; training defects are the forest's."""
    detectors: set[str] = set()
    for category in _trained(index):
        units = _draw([s for s in _in(index, category, TRAIN) if not s.label], seed, "halves")
        stay = round(share * len(units))
        if not 0 < stay < len(units):
            raise UserError(
                f"setting.detector_share={share}: category {category!r} has {len(units)} normal training images, which "
                "leaves the detectors or the forest without any: choose another share"
            )
        detectors.update(sample.image for unit in units[:stay] for sample in unit)
    return index.with_samples(
        replace(s, split=FOREST) if s.split == TRAIN and (s.label or s.image not in detectors) else s for s in index
    )
