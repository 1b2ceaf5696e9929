"""Methods made of other methods: their parts' recipes, stages, splits and origins."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ader.config.validate import validated
from ader.data.index import TRAIN
from ader.methods._base import Method, Stage, Supervision
from ader.methods._finished import Model
from ader.methods._options import option_arguments, option_class
from ader.nets.backbone import BackboneOptions
from ader.results.schema import plain
from ader.system.errors import UserError


class Ensemble(Method):
    """A method whose parts are methods, trained in its own stages or taken from finished runs.

    A part's stages and hold-outs keep their names behind ``"<part>/"``, so that parts do not get in each other's way
    in logs, checkpoints and splits.

    Attributes:
        finished: parts that other runs trained, by name.
        warning: of the whole, in a clause; None: only the parts have any.
    """

    finished: Mapping[str, Model]
    warning: str | None = None

    @property
    def trained(self) -> dict[str, Method]:
        """The parts that are trained here, in this order, by name."""
        raise NotImplementedError(f"{type(self).__name__} must define trained")  # abstract

    @property
    def holdout(self) -> Mapping[str, float]:
        return {
            f"{name}/{split}": share for name, method in self.trained.items() for split, share in method.holdout.items()
        }

    def stages_of(self, name: str, *, supervision: Supervision | None = None, barred: str = "") -> Iterator[Stage]:
        """A part's stages as those of the whole. What other parts hold out is training data to it as any.

        Args:
            name: of a part in ``trained``.
            supervision: the labels it trains with, where the whole's are more; None: as its stages say.
            barred: a split that it must not ask for.
        """
        method = self.trained[name]
        others = [split for split in self.holdout if not split.startswith(f"{name}/")]
        for stage in method.stages():
            assert barred not in stage.splits, f"{name} asks for what the {barred} learns from"
            splits: list[str] = []
            for split in stage.splits:
                own = f"{name}/{split}" if split in method.holdout else split
                splits += [TRAIN, *others] if split == TRAIN else [own]
            yield replace(
                stage,
                name=f"{name}/{stage.name}",
                split=tuple(splits),
                supervision=supervision or stage.supervision,
                inputs=(),  # those that are declared are the whole's
            )

    def warnings(self) -> list[str]:
        """Its own and those of the parts; what another run trained has the warnings of that run."""
        texts = [self.warning] if self.warning else []
        texts += [text for method in self.trained.values() for text in method.warnings()]
        texts += [text for model in self.finished.values() for text in model.record.network.warnings]
        return list(dict.fromkeys(texts))

    def weights(self) -> list[dict[str, Any]]:
        """Those of the parts, and the runs that they are from."""
        found = [entry for method in self.trained.values() for entry in method.weights()]
        for name, model in self.finished.items():
            found += [plain(weights) for weights in model.record.network.weights]
            found.append({"name": name, "source": str(model.path), "sha256": model.record.checkpoint.sha256})
        return found


def part_arguments(
    name: str, own: Mapping[str, Any], *, epochs: int, backbone: BackboneOptions, image_size: int
) -> dict[str, Any]:
    """A part's constructor arguments: its option's, what is common to all parts, and its own.

    Args:
        name: of an option.
        own: what is configured for this part; a mapping changes single values of a default that is one. ``recipe`` is
            one of the option's, whose arguments then stand in place of the option's own.
        epochs: where the method has such an argument, whatever a recipe says of the whole run's.
        backbone: weights of all backbones, and with a name the network itself.
        image_size: pixels.

    Raises:
        UserError: unknown argument or recipe, or a value of the wrong kind.
    """
    method_class = option_class(name)
    parameters = inspect.signature(method_class).parameters
    own = dict(own)
    given = option_arguments(name, own.pop("recipe", None)) | ({"epochs": epochs} if "epochs" in parameters else {})
    for key, parameter in parameters.items():
        if isinstance(parameter.default, BackboneOptions):
            network = backbone if backbone.name else replace(parameter.default, **given.get(key, {}))
            given[key] = vars(replace(network, pretrained=backbone.pretrained, weights=backbone.weights))
    for key, value in own.items():
        single = isinstance(value, Mapping) and isinstance(given.get(key), dict)
        given[key] = {**given[key], **value} if single else value
    if "image_size" in parameters:
        given.setdefault("image_size", image_size)
    return validated(method_class, given, where=f"method.options.{name}")


def new_part(name: str, own: Mapping[str, Any], **common: Any) -> Method:
    """A part that is trained here; arguments as those of ``part_arguments``."""
    return option_class(name)(**part_arguments(name, own, **common))


def finished_part(name: str, folder: str, image_size: int, categories: Sequence[str] | None = None) -> Model:
    """A part that another run trained.

    Args:
        name: of its method.
        folder: of the run, or of one of the run's models.
        image_size: of the images that it will see, in pixels.
        categories: what it is wanted for, where the run has a model for each category.

    Raises:
        UserError: it is not one of this name and image size.
    """
    model = Model.at(Path(folder).expanduser(), categories)
    there = model.trained.record.choices["method"]
    if there != name:
        raise UserError(f"method.runs.{name}={folder} is a run of {there}: give one of {name}")
    if model.image_size != image_size:
        raise UserError(
            f"method.runs.{name}={folder} saw images of {model.image_size} pixels, this run's have {image_size}: set "
            f"image_size={model.image_size}, or train it again"
        )
    return model
