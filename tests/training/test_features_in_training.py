"""Trainings that read features: with incomplete batches, precisions, resumed, in several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ader.methods._base import FitPass, Method, Prediction, TrainStage
from ader.nets.frozen import Frozen
from ader.system.interrupt import Interrupt, Stopped
from ader.system.randomness import seed_all
from ader.testing.processes import in_processes
from ader.training.cost import RandomImages
from ader.training.features import FeatureCache
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer

CPU = torch.device("cpu")


class Teacher(Frozen):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1).requires_grad_(False)

    @property
    def reads(self):
        return ()

    def forward(self, image_BCHW):
        return self.remembered(image_BCHW, lambda image: [self.conv(image)])[0]


class Pupil(Method):
    """Two teachers and a pupil of both, who spoils what they say; then a mean that a pass fits."""

    def __init__(self):
        super().__init__()
        self.teachers, self.student = nn.ModuleList([Teacher(4), Teacher(4)]), nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("mean", torch.zeros(()))

    def stages(self):
        yield TrainStage(
            name="learn",
            batch_size=2,
            step=self.step,
            optimizers={"all": torch.optim.Adam(self.student.parameters(), 0.01)},
            modules=[self.student],
            epochs=4,
        )
        yield FitPass(name="fit", batch_size=2, update=self.collect, finish=lambda: None)

    def step(self, batch, optimize):
        loss = 0
        for teacher in self.teachers:
            said_BCHW = teacher(batch.image_BCHW)
            loss = loss + (self.student(batch.image_BCHW) - said_BCHW).float().square().mean()
            said_BCHW.detach().zero_()
        optimize(loss)
        return {"loss": loss}

    def collect(self, batch):
        self.mean += self.teachers[0](batch.image_BCHW).sum()

    def predict(self, image_BCHW):
        map_BHW = self.student(image_BCHW).mean(dim=1)
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


class Few(RandomImages):
    """Five images in batches of two."""

    def order(self, stage):
        return BatchOrder(5, stage.batch_size, 0, "shuffled")


def trained(features, data=Few, **options):
    seed_all(0)
    method = Pupil()
    Trainer(device=CPU, features=features, **options).fit(method, data(16, 3, CPU, Pupil.tags))
    return method.state_dict()


def differing(one, two):
    return [name for name, value in one.items() if not value.equal(two[name])]


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"channels_last": True}], ids=str)
def test_nothing_differs(tmp_path, options):
    plain, cache = trained(None, **options), FeatureCache(tmp_path)
    assert not differing(plain, trained(cache, **options))
    # four epochs have two whole batches for two teachers, and the pass for one, which reads what the stage has written
    assert cache.served + cache.computed == 4 * 2 * 2 * 2 + 2 * 2
    again = FeatureCache(tmp_path)
    assert not differing(plain, trained(again, **options))
    assert (again.computed, again.served > cache.served) == (0, True)
    types = {"bfloat16" if options.get("precision") else "float32"}
    assert {part for file in tmp_path.rglob("*.row") for part in types if part in str(file.read_bytes()[:200])} == types


def test_precisions_and_layouts_share_no_rows(tmp_path):
    for options in ({}, {"precision": "bf16"}, {"channels_last": True}, {"precision": "tf32"}):
        cache = FeatureCache(tmp_path)
        trained(cache, **options)
        assert cache.computed > 0, options


@pytest.mark.parametrize(("max_steps", "kept"), [(3, False), (4, True)])
def test_auto_is_for_more_than_an_epoch(tmp_path, max_steps, kept):
    trained(FeatureCache(tmp_path), max_steps=max_steps)
    assert bool(list(tmp_path.rglob("*.row"))) == kept


@pytest.mark.parametrize("before", [True, False])
def test_resumes_with_another_value(tmp_path, before):
    """Stopped in the third epoch, with features that are read; resumed without; and the other way round."""
    interrupt, step = Interrupt(), [0]

    class Stopping(Few):
        def train(self, stage, start, stop):
            for batch in super().train(stage, start, stop):
                step[0] += 1
                if step[0] == 8:
                    interrupt.name = "SIGTERM"
                yield batch

    first, second = FeatureCache(tmp_path, "on"), FeatureCache(tmp_path, "on")
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(Stopped):
        trained(first if before else None, Stopping, checkpoint=file, interrupt=interrupt)
    resumed = trained(None if before else second, checkpoint=file)
    assert not differing(trained(None), resumed)
    assert (first if before else second).served > 0


def in_one(folder):
    """The trained weights with features and without, and how many images were read."""
    plain, cache = trained(None, Eight), FeatureCache(Path(folder))
    remembering = trained(cache, Eight)
    return [plain, remembering, torch.tensor([cache.served, cache.computed])]


class Eight(RandomImages):
    """Eight images, divided among processes."""

    def order(self, stage):
        return BatchOrder(8, stage.batch_size, 0, "shuffled")


def test_processes_share_rows(tmp_path):
    results = in_processes(2, 120.0, in_one, str(tmp_path))
    for plain, remembering, counts in results:
        assert not differing(plain, remembering)
        assert plain["student.weight"].equal(results[0][0]["student.weight"])
        assert counts.sum() == 4 * 4 * 2 + 4  # one image of each batch for two teachers, half of the pass for one
        assert counts[0] > 0
    assert len(list(tmp_path.rglob("*.row"))) == 2 * 8
