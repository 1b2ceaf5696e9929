"""Settings: what of a dataset is trained on, and by how many models. Each is a pure function of an index and a seed.

``setting.name: few_shot`` in a YAML file is the function ``few_shot`` of ``ader/settings/few_shot.py``, or of the
module that an installed package registers under that name in the entry-point group ``ader.settings``::

    def few_shot(index: Index, seed: int, k: Count) -> Index

The other keys of the YAML file are the function's options, checked against its annotations, and ``models``: one model
for each category, or one for all. A module that decides this itself has a constant ``MODELS``.

Draws are nested (8 images hold the 4 of ``k=4``) and depend on nothing but the seed and the images' names. Where a
dataset shows one object in several images, objects are drawn and not images, so that no view of a training object is
tested on. What moves from test to training is gone from the test: no setting ever trains on a test image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ader.config import plugins
from ader.config.validate import validated
from ader.data.index import TEST, Index
from ader.system.errors import UserError, some

Models = Literal["all", "category"]

#: The split of normal and defective images that SegAD's forest learns from, and no detector ever.
FOREST = "forest"


@dataclass(frozen=True)
class ModelSplit:
    """What one model trains on and is tested on: a whole dataset, or one category of it.

    Attributes:
        name: ``"all"`` or the category's; names the model's folder where a run has several.
        index: its samples.
    """

    name: str
    index: Index


def apply(index: Index, seed: int, name: str, options: Mapping[str, Any]) -> tuple[Index, list[ModelSplit]]:
    """Applies the setting called ``name``.

    Args:
        index: the dataset as published.
        seed: of the run.
        name: a setting's, as ``plugins.names("settings")`` lists them.
        options: its function's, and ``models`` (``"category"`` where it is missing) unless its module decides that.

    Returns:
        What is trained and tested on, and the models' shares of it.

    Raises:
        UserError: unknown setting or option, or the dataset does not fit it.
    """
    function = plugins.load_function("settings", name, "(index, seed) -> Index")
    models: Models | None = getattr(plugins.load("settings", name), "MODELS", None)
    own = dict(options)
    if models is None:
        models = validated(cut, {"index": index, "models": own.pop("models", "category")}, where="setting")["models"]
    result: Index = function(**validated(function, {"index": index, "seed": seed, **own}, where="setting"))
    check_moves(index, result)
    return result, cut(result, models)


def cut(index: Index, models: Models) -> list[ModelSplit]:
    """One model for all, or one for each category that is tested.

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
