"""Settings: how a benchmark cuts a dataset into models. Each is a pure function of an index and a seed.

``configs/setting/<name>.yaml`` names one of the functions in ``SETTINGS`` and gives its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ader.arguments import validated
from ader.data.index import TEST, Index
from ader.errors import UserError, suggest


@dataclass(frozen=True)
class Part:
    """One model's share of a dataset: what it trains on and what it is tested on.

    Attributes:
        name: names the part's folder in a run of several parts.
        index: its samples.
    """

    name: str
    index: Index


def multi_class(index: Index, seed: int) -> list[Part]:
    """One model for all categories (ADer; protocols (a))."""
    return [Part("all", index)]


def single_class(index: Index, seed: int) -> list[Part]:
    """One model per category, one table (IM-IAD "vanilla"; protocols (b))."""
    return [Part(name, index.select([name])) for name in index.categories]


SETTINGS: dict[str, Callable[..., list[Part]]] = {"multi_class": multi_class, "single_class": single_class}


def divide(index: Index, seed: int, name: str, options: Mapping[str, Any]) -> list[Part]:
    """Applies the setting called ``name``.

    Raises:
        UserError: unknown setting or option.
    """
    if name not in SETTINGS:
        raise UserError(f"setting.name={name!r} does not exist: {suggest(name, SETTINGS)}")
    function = SETTINGS[name]
    arguments = validated(function, {"index": index, "seed": seed, **options}, where="setting")
    return function(**arguments)


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
            "moves some into training"
        )
    if supervision == "pixel" and not any(sample.mask for sample in defective):
        raise UserError(f"the method trains on masks and the training images of {index.name!r} have none")
