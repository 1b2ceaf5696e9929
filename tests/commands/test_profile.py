"""``ader profile``: what it prints, and what it measures."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ader.__main__ import main
from ader.methods._base import FitPass, Method, Prediction, Tags, TrainStage
from ader.training.cost import RandomImages, count_macs, count_parameters, measure

CPU = torch.device("cpu")
SMALL = ["method.backbone.name=resnet18", "method.backbone.pretrained=false", "image_size=64", "trainer.device=cpu"]
KEYS = (
    "params",
    "trainable_params",
    "macs",
    "train_memory_bytes",
    "test_memory_bytes",
    "train_images_per_second",
    "test_images_per_second",
)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty working folder, and no data anywhere."""
    monkeypatch.chdir(tmp_path)
    for name in ("ADER_DATA", "ADER_RESULTS", "ADER_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_json(empty, capsys):
    assert main(["profile", "method=patchcore", *SMALL, "format=json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert set(KEYS) <= set(cost)
    assert (cost["params"], cost["trainable_params"]) == (2_782_784, 0)  # ResNet-18 up to layer3
    assert 0.10e9 < cost["macs"] < 0.13e9  # ResNet-18 has 1.8 G at 224 pixels, layer4 and all
    assert 50e6 < cost["train_memory_bytes"] <= cost["test_memory_bytes"] < 64e9  # a process's peak only rises
    assert 0.1 < cost["train_images_per_second"] < 1e5
    assert 0.1 < cost["test_images_per_second"] < 1e5
    assert (cost["method"], cost["image_size"], cost["device"]) == ("patchcore", 64, "cpu")
    assert list(empty.iterdir()) == []


def test_says_what_it_is_at(empty, capsys):
    """Beside the cost, which a program may read; the last word of each part before minutes of silence."""
    assert main(["profile", "method=rd", *SMALL, "method.batch_size=2", "trainer.test_batch_size=2"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("rd at 64x64 on cpu\n")
    parts = ["building rd", "counting", "training, a step", "training, 3 steps", "3/3 steps", "testing", "4/4 batches"]
    places = [said.err.index(part) for part in parts]
    assert places == sorted(places)


def test_needs_no_weights(empty, monkeypatch, capsys):
    """Costs do not depend on what the weights are, so a recipe that wants pretrained ones is profiled without."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("looked for the network"))
    small = [text for text in SMALL if "pretrained" not in text]
    assert len(small) < len(SMALL)
    assert main(["profile", "method=patchcore", *small, "format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == 2_782_784


def test_text(empty, capsys):
    assert main(["profile", "method=rd", *SMALL, "method.batch_size=2", "trainer.test_batch_size=2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("rd at 64x64 on cpu\n")
    for words in ("parameters", "trained", "multiply-accumulates", "images/s, batch 2", "memory, training"):
        assert words in text
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=patchcore", "format=xml"], "format=xml is not known: choose from json, text"),
        (["method=patchcor"], "did you mean 'patchcore'"),
        ([], "method"),
    ],
)
def test_mistakes(empty, capsys, words, message):
    assert main(["profile", *words]) == 2
    assert message in capsys.readouterr().err


class Known(Method):
    """A method whose costs can be written down."""

    tags = Tags(supervision="pixel")

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
        self.layer = nn.Conv2d(4, 1, 1, bias=False)
        self.passes, self.seen = 0, []

    def stages(self):
        yield FitPass(name="count", batch_size=1, update=self._take, finish=self._finish)
        assert self.passes, "code between stages runs before the stage that it follows"
        yield TrainStage(
            name="learn",
            batch_size=4,
            step=self._step,
            optimizers={"sgd": torch.optim.SGD(self.layer.parameters(), lr=0.1)},
            modules=[self.layer],
            epochs=1,
            augment=lambda image, rng: {"view": image[:1]},
        )

    def _take(self, batch):
        time.sleep(0.3)

    def _finish(self):
        self.passes += 1

    def _step(self, batch, optimize):
        self.seen.append(batch)
        time.sleep(0.05)
        loss = self.layer(self.frozen(batch.image_BCHW)).square().mean()
        optimize(loss)
        return {"loss": loss}

    def predict(self, image_BCHW):
        time.sleep(0.05)
        map_BHW = self.layer(self.frozen(image_BCHW))[:, 0]
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def test_known_costs():
    method = Known()
    cost = measure(method, 16, 5, CPU, steps=2)
    assert count_parameters(method) == (cost.params, cost.trainable_params) == (3 * 4 * 9 + 4 + 4, 4)
    assert cost.macs == count_macs(method, 16, CPU) == 16 * 16 * (3 * 4 * 9 + 4)
    assert method.passes == 2  # warm-up and measurement
    # sleeping bounds the speeds from above: of the descent's 4 images per step (not of the pass), and of the test's 5
    assert 20 < cost.train_images_per_second <= 4 / 0.05
    assert 10 < cost.test_images_per_second <= 5 / 0.05


def test_a_method_without_training():
    class Zero(Known):
        def stages(self):
            return iter(())

    assert measure(Zero(), 16, 1, CPU, steps=1).train_images_per_second is None


def test_random_images():
    method = Known()
    measure(method, 16, 1, CPU, steps=2)
    first, *rest = method.seen
    assert len(rest) == 2  # a step to warm up, two to measure
    assert first.image_BCHW.shape == (4, 3, 16, 16)
    assert first.image_BCHW.equal(rest[0].image_BCHW)
    assert not first.image_BCHW.equal(rest[1].image_BCHW)
    assert 0 <= first.image_BCHW.min() < 0.1 < 0.9 < first.image_BCHW.max() <= 1
    assert first.label_B.tolist() == [0, 1, 0, 1]
    assert first.mask_BHW.flatten(1).float().mean(1).tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(first.extra["view"], (first.image_BCHW[:, :1] * 255).round().to(torch.uint8))
    assert len({*first.seed_B.tolist(), *rest[1].seed_B.tolist()}) == 8


@pytest.mark.parametrize(
    ("supervision", "given"), [("normal", ()), ("image", ("label_B",)), ("pixel", ("label_B", "mask_BHW"))]
)
def test_random_images_show_declared_labels_only(supervision, given):
    stage = FitPass(name="x", batch_size=2, update=lambda batch: None, finish=lambda: None)
    data = RandomImages(8, 3, CPU, replace(Tags(), supervision=supervision))
    assert data.order(stage).steps_per_epoch == 3
    assert data.stages == {"x": stage}
    (batch,) = data.train(stage, 4, 5)
    assert tuple(name for name in ("label_B", "mask_BHW") if getattr(batch, name) is not None) == given
    (again,) = data.train(stage, 1, 2)
    assert batch.image_BCHW.equal(again.image_BCHW)  # the same in every epoch
