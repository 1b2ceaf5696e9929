"""SimpleNet beside the official code (clone: ``SimpleNet``; needs torchvision, tensorboard, tqdm, matplotlib,
scikit-learn and opencv-python-headless), at its 288 x 288 pixels and with the settings of its ``run.sh``."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torchvision

from parity import Difference, Pair, commit, copy_weights, gradients, largest, paired_parameters, training_step
from parity.simplenet import RENAMED, recipe, same_noise

OFFICIAL_SIZE = 288
RECIPE = {"decay_norms_and_biases": True, "lr_decay_at": 1.0, "clip": None, "image_score": "patch"}


class Curves:
    """Stands for the reference's TensorBoard writer; keeps the last value of each curve."""

    g_iter = 0

    def __init__(self) -> None:
        self.logger = self
        self.last: dict[str, float] = {}

    def add_scalar(self, tag: str, value: Any, step: int) -> None:
        self.last[tag] = float(torch.as_tensor(value).detach())

    def step(self) -> None:
        self.g_iter += 1


def pair(upstreams: Path, batch: int) -> Pair:
    """The official class with its own optimizers; a training step is an epoch of one batch."""
    upstream = commit("DonaldRR/SimpleNet", upstreams / "SimpleNet")
    sys.path.insert(0, str(upstreams / "SimpleNet"))
    code: Any = importlib.import_module("simplenet")
    code.tqdm = SimpleNamespace(tqdm=functools.partial(code.tqdm.tqdm, disable=True))  # no bars
    network = torchvision.models.wide_resnet50_2(weights=None)
    ours = recipe(network, OFFICIAL_SIZE, **RECIPE)
    reference = code.SimpleNet(torch.device("cpu"))
    reference.load(
        backbone=network,
        layers_to_extract_from=["layer2", "layer3"],
        device=torch.device("cpu"),
        input_shape=(3, OFFICIAL_SIZE, OFFICIAL_SIZE),
        pretrain_embed_dimension=1536,
        target_embed_dimension=1536,
        embedding_size=256,
        meta_epochs=40,
        gan_epochs=1,  # of 4: one call is one step
        noise_std=0.015,
        dsc_layers=2,
        dsc_hidden=1024,
        dsc_margin=0.5,
        pre_proj=1,
    )
    reference.logger = Curves()
    copy_weights(ours, reference, RENAMED)
    image_BCHW = torch.rand(batch, 3, OFFICIAL_SIZE, OFFICIAL_SIZE)
    mine, theirs = paired_parameters(ours, reference, RENAMED)

    def train() -> None:
        reference._train_discriminator([{"image": ours.backbone.normalize(image_BCHW)}])

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        scores, maps, _ = reference._predict(ours.backbone.normalize(image_BCHW))
        return np.stack(scores), np.stack(maps)

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        with torch.no_grad():
            patch_ND, _ = reference._embed(ours.backbone.normalize(image_BCHW))
            yield largest("patch features", ours._patches(image_BCHW).flatten(0, 2), patch_ND)
        noise_ND = torch.randn(patch_ND.shape, dtype=torch.float64)
        for kind, steps in ((torch.float32, 1), (torch.float64, 3)):
            name = str(kind).removeprefix("torch.")
            ours.to(kind)
            reference.to(kind)
            copy_weights(ours, reference, RENAMED)
            reference.proj_opt.state.clear()
            reference.dsc_opt.state.clear()
            train_ours = training_step(ours, image_BCHW)
            with same_noise(noise_ND.to(kind)), patch.object(torch, "float", kind):  # images become torch.float
                for step in range(steps):
                    logged: Any = train_ours()
                    train()
                    if step == 0:
                        last = reference.logger.last
                        yield largest(f"loss ({name})", logged["hinge"], last["loss"])
                        yield gradients(f"gradients ({name})", mine, theirs)
                        shares = [logged["real_above_margin"], logged["fake_below_margin"]]
                        yield largest(f"shares ({name})", shares, [last["p_true"], last["p_fake"]])
        yield largest("parameters after 3 steps (float64)", mine, theirs)
        ours.float()
        reference.float()
        reference.proj_opt.state.clear()  # it is in float64
        reference.dsc_opt.state.clear()
        copy_weights(ours, reference, RENAMED)
        score_ref, map_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)

    note = (
        f"images of {OFFICIAL_SIZE} x {OFFICIAL_SIZE}; the official code as it is, with a stand-in for its TensorBoard "
        "writer and without progress bars"
    )
    steps = (train, training_step(ours, image_BCHW))
    return Pair(ours, upstream, differences, steps, (test, test_ours), batch, batch, note)
