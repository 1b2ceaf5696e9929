"""PaDiM beside the implementation that benchmarks rest on (clone: ``PaDiM-Anomaly-Detection-Localization-master``)."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from scipy.spatial.distance import mahalanobis
from torch import Tensor

from ader.methods import build
from ader.methods._base import Batch
from parity import SIZE, Difference, Pair, commit, largest, smoothed

CLONE = "PaDiM-Anomaly-Detection-Localization-master"
TRAINING = 32  # images behind the Gaussians: fewer than dimensions

#: What the reference's file imports for its drawings and its dataset.
UNUSED = ("skimage", "skimage.segmentation", "matplotlib", "matplotlib.pyplot", "datasets", "datasets.mvtec", "tqdm")


def pair(upstreams: Path, batch: int) -> Pair:
    """The same training images on both sides. Features and their stacking are the reference's code; its loops over
    positions, which stand inside its main function, are written again."""
    upstream = commit(f"xiahaifeng1995/{CLONE}", upstreams / CLONE)
    sys.path.insert(0, str(upstreams / CLONE))
    with patch.dict(sys.modules, {name: MagicMock() for name in UNUSED}):
        code = importlib.import_module("main")
    ours: Any = build("padim", backbone={"name": "resnet18", "pretrained": False}).eval()
    network = torchvision.models.resnet18(weights=None).eval()
    network.load_state_dict(ours.backbone.net.state_dict(), strict=False)
    random.seed(1024)
    channels_D = torch.tensor(random.sample(range(448), 100))  # as the reference draws them
    train_BCHW, test_BCHW = torch.rand(TRAINING, 3, SIZE, SIZE), torch.rand(batch, 3, SIZE, SIZE)

    @torch.no_grad()
    def vectors(image_BCHW: Tensor) -> Tensor:
        feature = network.maxpool(network.relu(network.bn1(network.conv1(ours.backbone.normalize(image_BCHW)))))
        layers = []
        for layer in (network.layer1, network.layer2, network.layer3):
            feature = layer(feature)
            layers.append(feature)
        stacked = code.embedding_concat(code.embedding_concat(layers[0], layers[1]), layers[2])
        return torch.index_select(stacked, 1, channels_D)

    gaussians: dict[str, Any] = {}

    def train() -> None:
        vector_BDP = vectors(train_BCHW).flatten(2)
        covariance = torch.zeros(100, 100, vector_BDP.shape[2]).numpy()
        for place in range(vector_BDP.shape[2]):
            spread = np.cov(vector_BDP[:, :, place].numpy(), rowvar=False)
            covariance[:, :, place] = spread + 0.01 * np.identity(100)
        gaussians.update(mean=vector_BDP.mean(dim=0).numpy(), covariance=covariance)

    @torch.no_grad()
    def train_ours() -> None:
        stage = next(ours.stages())
        stage.update(Batch(image_BCHW=train_BCHW, seed_B=torch.arange(TRAINING)))
        stage.finish()

    def distances(wanted: type[Any]) -> Tensor:
        """(B, 64, 64); the reference's precision is that of its covariances, float32."""
        vector_BDP = vectors(test_BCHW).flatten(2).numpy().astype(wanted)
        found = []
        for place in range(vector_BDP.shape[2]):
            center = gaussians["mean"][:, place].astype(wanted)
            inverse = np.linalg.inv(gaussians["covariance"][:, :, place].astype(wanted))
            found.append([mahalanobis(vector[:, place], center, inverse) for vector in vector_BDP])
        return torch.tensor(np.array(found).T.reshape(len(vector_BDP), 64, 64))

    def maps(distance_BHW: Tensor) -> Any:
        return smoothed(F.interpolate(distance_BHW[:, None], size=SIZE, mode="bilinear", align_corners=False)[:, 0])

    def test() -> Any:
        map_BHW = maps(distances(np.float32))
        return SimpleNamespace(map=map_BHW, score=map_BHW.reshape(len(map_BHW), -1).max(axis=1))

    @torch.no_grad()
    def test_ours() -> Any:
        return ours.predict(test_BCHW)

    train()
    train_ours()

    def differences() -> Iterator[Difference]:
        with torch.no_grad():
            vector_BDHW = ours(test_BCHW).permute(0, 3, 1, 2)
        yield largest("patch features", vector_BDHW, vectors(test_BCHW)[:, channels_D.argsort()])
        order = channels_D.argsort().numpy()
        yield largest("mean", ours.mean.get().flatten(0, 1).T, gaussians["mean"][order])
        factor_PDD = torch.linalg.inv(ours.whitening.get()[:64].double())
        covariance_PDD = gaussians["covariance"][np.ix_(order, order)].transpose(2, 0, 1)[:64]
        yield largest("covariance", factor_PDD @ factor_PDD.mT, covariance_PDD)
        reference, found = test(), test_ours()
        yield largest("map", found.map_BHW, reference.map)
        yield largest("image score", found.score_B, reference.score)
        exact = maps(distances(np.float64))
        yield largest("distances, ours to float64", found.map_BHW, exact)
        yield largest("distances, reference to float64", reference.map, exact)

    note = (
        f"the training step is the Gaussians of {TRAINING} images, in which ours factors their covariances; the "
        "reference inverts them in every test batch. Its loops are written again"
    )
    return Pair(ours, upstream, differences, (train, train_ours), (test, test_ours), TRAINING, batch, note)
