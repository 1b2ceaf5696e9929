"""SegAD beside abc-125/segad: its features and its forest on the same anomaly maps (needs pandas and scikit-learn).

Both get two detectors' maps and a segment map for every image. The detectors are compared by themselves.
"""

from __future__ import annotations

import importlib
import sys
import types
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ader.methods import Batch, FitPass, Method, Prediction, build
from ader.methods.segad import LABELS
from parity import SIZE, Difference, Pair, commit, largest

#: Images of the forest's training data, a quarter of them defective.
TRAINED = 200
MODELS = ["one", "other"]
SEGMENTS = 7


def pair(upstreams: Path, batch: int) -> Pair:
    """Smooth random maps, larger somewhere in defective images; no two images have the same segments."""
    clone = upstreams / "segad"
    upstream = commit("abc-125/segad", clone)
    sys.path.insert(0, str(clone))
    theirs = importlib.import_module("SegAD")
    image_BCHW, segment_BHW, label_B = _images(TRAINED + batch)
    ours: Any = build("segad", detectors=["rd", "patchcore"], backbone={"name": "resnet18", "pretrained": False})
    ours.detectors = nn.ModuleDict({name: _Given(place) for place, name in enumerate(MODELS)})
    ours.per_image = True
    reference = _Reference(theirs, image_BCHW, segment_BHW, label_B)
    train, test = slice(TRAINED), slice(TRAINED, None)

    def train_ours() -> None:
        stage = next(iter(ours.stages()))
        assert isinstance(stage, FitPass)
        torch.manual_seed(reference.torch_seed)
        for first in range(0, TRAINED, ours.batch_size):
            part = slice(first, min(first + ours.batch_size, TRAINED))
            inputs = {LABELS: segment_BHW[part]}
            stage.update(Batch(image_BCHW[part], torch.arange(first, part.stop), label_B[part], inputs=inputs))
        stage.finish()

    def test_ours() -> Tensor:
        score_B: Tensor = ours.predict(image_BCHW[test], segments=segment_BHW[test]).score_B
        return score_B

    def differences() -> Iterator[Difference]:
        train_ours()
        reference.fit(train)
        table = ours.table.get().numpy()
        own = reference.features(train).to_numpy()
        names = ("99.5 % quantile", "skewness", "kurtosis", "mean")
        statistics = own.shape[1] - len(MODELS)
        for place, name in enumerate(names):
            yield largest(name, table[:, 1 + place : 1 + statistics : 4], own[:, place:statistics:4])
        yield largest("maximum of the map", table[:, 1 + statistics :], own[:, statistics:])
        wide = segment_statistics_of(ours, image_BCHW[train].double(), segment_BHW[train])
        reference.maps = image_BCHW.double().numpy()
        yield largest("statistics, maps in float64", wide, reference.features(train).to_numpy()[:, :statistics])
        reference.maps = image_BCHW.numpy()
        given = torch.from_numpy(reference.features(test).to_numpy(np.float32))
        reference.fit_on(pd.DataFrame(table[:, 1:]), table[:, 0])
        yield largest("margin, same features", ours.forest(given), reference.margin_of(pd.DataFrame(given.numpy())))
        reference.fit(train)
        yield largest("margin, each with its own features", test_ours(), reference.margin(test))

    def train_reference() -> None:
        reference.fit(train)

    return Pair(
        ours=ours,
        upstream=upstream,
        differences=differences,
        train=(train_reference, train_ours),
        test=(lambda: reference.margin(test), test_ours),
        train_images=TRAINED,
        test_images=batch,
        note=f"from {len(MODELS)} maps and {SEGMENTS} segments of each image in memory (upstream reads files) to the "
        "forest, or to scores; the detectors are left out; one thread",
    )


def segment_statistics_of(ours: Any, image_BCHW: Tensor, segment_BHW: Tensor) -> Tensor:
    """Our statistics in double precision, (N, F)."""
    stats_BLK4, _ = ours._features(image_BCHW, {LABELS: segment_BHW})
    flat: Tensor = stats_BLK4.flatten(1)
    return flat


class _Given(Method):
    """A detector whose map is one of its image's channels."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def predict(self, image_BCHW: Tensor) -> Prediction:
        map_BHW = image_BCHW[:, self.channel]
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


class _Reference:
    """Upstream's class, fed from memory."""

    def __init__(self, module: Any, image_BCHW: Tensor, segment_BHW: Tensor, label_B: Tensor) -> None:
        self.maps, self.segments, self.label = image_BCHW.numpy(), segment_BHW.numpy(), label_B.numpy()
        module.np = types.SimpleNamespace(load=self._load, quantile=np.quantile, max=np.max)
        defective = int(self.label[:TRAINED].sum())
        self.torch_seed = 0
        torch.manual_seed(self.torch_seed)
        seed = int(torch.randint(2**31 - 1, ()))  # as our method draws it
        places = Namespace(segm_path="segments", an_path="maps")
        self.segad = module.SegAD(places, seed, (TRAINED - defective) / defective, SEGMENTS, MODELS)

    def _load(self, path: str) -> Any:
        parts = Path(path).parts
        number = int(Path(path).stem)
        return self.segments[number] if parts[0] == "segments" else self.maps[number, MODELS.index(parts[1])]

    def features(self, which: slice) -> pd.DataFrame:
        """Upstream's table of features, made row by row as in its main program."""
        label = self.label[which]
        first = which.start or 0
        paths = [f"{first + place}.npy" for place in range(len(label))]
        frame = pd.DataFrame({"an_map_path": paths, "label": label})
        table: pd.DataFrame = frame.apply(lambda row: self.segad.get_features(row, "category"), axis=1)
        chosen: pd.DataFrame = table[self.segad.list_features]
        return chosen

    def fit(self, which: slice) -> None:
        self.fit_on(self.features(which), self.label[which])

    def fit_on(self, features: pd.DataFrame, label: Any) -> None:
        self.segad.xgb.fit(features, label)

    def margin(self, which: slice) -> Any:
        return self.margin_of(self.features(which))

    def margin_of(self, features: pd.DataFrame) -> Any:
        return self.segad.forward(features)


def _images(count: int) -> tuple[Tensor, Tensor, Tensor]:
    coarse = torch.rand(count, 3, 8, 8)
    label_B = (torch.arange(count) % 4 == 0).long()
    coarse[:, :, 3, 4] += 0.3 * label_B[:, None] * torch.rand(count, 3)
    image_BCHW = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(min=0).square()
    bands_HW = (torch.arange(SIZE * SIZE) * SEGMENTS // SIZE**2).view(SIZE, SIZE)
    segment_BHW = torch.stack([bands_HW.roll((3 * number, number), dims=(0, 1)) for number in range(count)])
    segment_BHW[0] = segment_BHW[0].clamp(max=SEGMENTS - 2)  # an empty segment
    return image_BCHW, segment_BHW, label_B
