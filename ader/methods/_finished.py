"""What another, finished run has trained, as a part of a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ader.config.validate import without_weights
from ader.data.index import TRAIN, Index
from ader.methods._base import Method, find_class, recipe_arguments
from ader.results.schema import ModelRecord
from ader.results.trained import Trained, open_run
from ader.system.errors import UserError, some
from ader.system.files import sha256


@dataclass(frozen=True)
class Model:
    """One model of a finished run.

    Attributes:
        trained: the run.
        part: which of its models.
    """

    trained: Trained
    part: str

    @classmethod
    def at(cls, path: Path, categories: Sequence[str] | None = None) -> Model:
        """The model at a run's folder, or at one of a run's parts (``<run>/parts/<category>``).

        Args:
            path: the folder.
            categories: what it is wanted for, where the run has a model for each category.

        Raises:
            UserError: it is no finished run, or has no model for these categories.
        """
        if path.parent.name == "parts":
            trained, part = open_run(path.parents[1]), path.name
            if part not in trained.record.models:
                raise UserError(f"{path} is no part of the run in {path.parents[1]}: it has {_names(trained)}")
            return cls(trained, part)
        trained = open_run(path)
        parts = list(trained.record.models)
        if len(parts) == 1:
            return cls(trained, parts[0])
        if categories is None or len(categories) != 1 or categories[0] not in parts:
            raise UserError(
                f"{path} has a model for each of {_names(trained)}, and one for {some(categories or ['all'])} is "
                "wanted: choose a setting with a model for each category, or a run with one for all"
            )
        return cls(trained, categories[0])

    @property
    def path(self) -> Path:
        """A folder by which ``at`` finds it again."""
        only = len(self.trained.record.models) == 1
        return self.trained.folder if only else self.trained.folder / "parts" / self.part

    @property
    def method_class(self) -> type[Method]:
        return find_class(self.trained.record.config["method"]["name"])

    @property
    def image_size(self) -> int:
        """In pixels."""
        return int(self.trained.record.config["image_size"])

    @property
    def record(self) -> ModelRecord:
        """What the run's record says of it."""
        return self.trained.record.models[self.part]

    def check_data(self, training: Index, data_hash: str) -> None:
        """Asserts that it was trained on what ``training`` has for detectors, its split ``train``, and nothing else:
        neither images set apart from detectors nor test images.

        Raises:
            UserError: it was not, or that is not known.
        """
        folder = self.trained.folder
        if self.trained.record.data_hash != data_hash:
            raise UserError(
                f"{folder} was trained on another dataset than this run's, or on other categories of it: use the same "
                "dataset options in both"
            )
        seen = self._seen(training.categories)
        own = {sample.image: sample.split for sample in training}
        apart = sorted(image for image in seen if own.get(image, TRAIN) != TRAIN)
        if apart:
            raise UserError(
                f"{folder} was trained on {len(apart)} images that this run keeps from detectors ({some(apart, 2)}): "
                "use a run with this run's setting, or with the same detector_share and split_seed (null: the same "
                "seed)"
            )
        other = sorted(seen - set(own))
        if other:
            raise UserError(
                f"{folder} was trained on {len(other)} images that are no training images here ({some(other, 2)}): use "
                "a run whose setting moves no test image into its training"
            )

    def _seen(self, categories: Sequence[str]) -> set[str]:
        """The images of these categories that it may have learned from, by the run's ``training.csv``.

        One that learns from normal images alone sees those of the split ``train`` and of what it holds out itself;
        of others, every training image counts.
        """
        file = self.trained.folder / "training.csv"
        if not file.is_file():
            raise UserError(f"{file} is missing, which says what the run was trained on: train it again (force=true)")
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
        rows = rows[rows["category"].isin(list(categories))]
        if self.method_class.tags.supervision == "normal":
            rows = rows[(rows["split"] == TRAIN) & (rows["label"] == "0")]
        return set(rows["image"])

    def restore(self) -> Method:
        """The trained method, frozen. Its weights are all in the checkpoint: no pretrained ones are looked for.

        Raises:
            UserError: the checkpoint is not the run's.
        """
        file = self.trained.checkpoint(self.part)
        if not file.is_file():
            raise UserError(f"{file} is missing: put it back, or train {self.trained.folder} again (force=true)")
        if sha256(file) != self.record.checkpoint.sha256:
            raise UserError(f"{file} is not the checkpoint that the record knows: put that back, or train again")
        given = dict(self.trained.record.config["method"])
        given.pop("name")
        arguments = recipe_arguments(self.method_class, self.image_size, without_weights(given))
        method = self.method_class(**arguments)
        method.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["method"])
        return method.requires_grad_(False).eval()


def _names(trained: Trained) -> str:
    return some(trained.record.models, 3)
