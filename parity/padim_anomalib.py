"""PaDiM beside anomalib's (clone: ``anomalib``; needs torchvision, kornia, scikit-learn and tqdm)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ader.methods import build
from ader.methods._base import Batch
from ader.methods._options import option_arguments
from parity import SIZE, Difference, Pair, commit, import_anomalib, largest

TRAINING = 32  # images behind the Gaussians: fewer than dimensions


def pair(upstreams: Path, batch: int) -> Pair:
    """The same training images and the same channels on both sides."""
    upstream = commit("openvinotoolkit/anomalib", upstreams / "anomalib")
    code = import_anomalib(upstreams / "anomalib", "padim.torch_model")
    backbone = {"name": "resnet18", "pretrained": False}
    options = option_arguments("padim", "anomalib") | {"backbone": backbone, "channel_seed": 1024}
    ours: Any = build("padim", **options).eval()
    random.seed(1024)
    reference = code.PadimModel("resnet18", pre_trained=False, n_features=100)
    reference.feature_extractor.feature_extractor.load_state_dict(ours.backbone.net.state_dict())
    train_BCHW, test_BCHW = torch.rand(TRAINING, 3, SIZE, SIZE), torch.rand(batch, 3, SIZE, SIZE)
    normalize = ours.backbone.normalize

    @torch.no_grad()
    def train() -> None:
        reference.train()
        embedding_BDHW = reference(normalize(train_BCHW))
        reference.gaussian.fit(embedding_BDHW)
        reference.eval()

    @torch.no_grad()
    def train_ours() -> None:
        stage = next(ours.stages())
        stage.update(Batch(image_BCHW=train_BCHW, seed_B=torch.arange(TRAINING)))
        stage.finish()

    @torch.no_grad()
    def test() -> Any:
        return reference(normalize(test_BCHW))

    @torch.no_grad()
    def test_ours() -> Any:
        return ours.predict(test_BCHW)

    train()
    train_ours()

    def differences() -> Iterator[Difference]:
        order = reference.idx.argsort()
        yield largest("mean", ours.mean.get().flatten(0, 1).T, reference.gaussian.mean[order])
        inverse_PDD = ours.whitening.get().mT @ ours.whitening.get()
        yield largest("inverse covariance", inverse_PDD, reference.gaussian.inv_covariance[:, order][:, :, order])
        (score_ref, map_ref), (score_B, map_BHW) = test(), test_ours()
        yield largest("map", map_BHW, map_ref[:, 0])
        yield largest("image score", score_B, score_ref[:, 0])

    note = f"the training step is the Gaussians of {TRAINING} images"
    return Pair(ours, upstream, differences, (train, train_ours), (test, test_ours), TRAINING, batch, note)
