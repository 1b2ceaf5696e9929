"""STPM against its fact sheet's counts, hand computation and SciPy's interpolation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ader.config.compose import compose
from ader.data import load_index
from ader.methods import build
from ader.methods._base import Batch, recipe_arguments
from ader.methods.stpm import STPM, squared_distances
from ader.nets.backbone import BackboneOptions
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, predict
from ader.testing.toy import write_mvtec
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
RANDOM = BackboneOptions("resnet18", pretrained=False)


def on_meta(**arguments) -> STPM:
    with torch.device("meta"):
        return STPM(backbone=RANDOM, **arguments)


def test_counts():
    method = on_meta()
    assert count_parameters(method) == (5_565_568, 2_782_784)
    assert count_macs(method, 256, META) == pytest.approx(3.66e9, rel=2e-3)
    teacher, student = method(torch.empty(1, 3, 256, 256, device="meta"))
    expected = [(64, 64, 64), (128, 32, 32), (256, 16, 16)]
    assert [tuple(each.shape[1:]) for each in teacher] == [tuple(each.shape[1:]) for each in student] == expected


def test_the_student_starts_as_torchvisions_or_as_timms():
    """Random, not the teacher's copy; branches end in batch norms of weight 1, or 0."""
    for zero_init, expected in ((False, 1.0), (True, 0.0)):
        method = STPM(backbone=RANDOM, zero_init=zero_init)
        ends = [weight for name, weight in method.student.named_parameters() if name.endswith("bn2.weight")]
        assert len(ends) == 6
        assert all((weight == expected).all() for weight in ends)
        for name, weight in method.student.named_parameters():
            if weight.ndim == 4:
                assert not weight.equal(method.teacher.net.get_parameter(name))
                fan_out = weight.shape[0] * math.prod(weight.shape[2:])
                assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert method.warnings() == ["backbone resnet18 has random weights (not pretrained)"]  # of the teacher alone


def test_recipes():
    """SGD without schedule or clipping, the incomplete batch kept, nothing of the teacher trained."""
    found = {}
    for recipe in (None, "official", "hcw", "anomalib"):
        config = compose(["method=stpm", "dataset=demo", *([f"recipe={recipe}"] if recipe else [])])
        assert config.method.rest["backbone"]["name"] == "resnet18.tv_in1k"
        arguments = {**config.method.rest, "backbone": {"name": "resnet18", "pretrained": False}}
        with torch.device("meta"):
            method = STPM(**recipe_arguments(STPM, 256, arguments))
            (stage,) = method.stages()
        (optimizer,) = stage.optimizers.values()
        assert isinstance(optimizer, torch.optim.SGD)
        (group,) = optimizer.param_groups
        assert [id(weight) for weight in group["params"]] == [id(weight) for weight in method.student.parameters()]
        assert (group["lr"], group["momentum"], group["dampening"], group["nesterov"]) == (0.4, 0.9, 0, False)
        assert (stage.batch_size, stage.epochs, stage.drop_last, stage.clip) == (32, 100, False, None)
        assert (list(stage.modules), dict(stage.schedules)) == ([method.student], {})
        found[recipe] = (group["weight_decay"], method.loss, method.fuse_at, arguments["zero_init"])
    assert found[None] == found["official"] == (1e-4, "mean", "features", False)
    assert found["hcw"] == (1e-4, "sum", "image", False)
    assert found["anomalib"] == (1e-3, "sum", "image", True)


def test_distances_are_those_of_unit_vectors():
    """60, 90 and 180 degrees, whatever the lengths: 2 - 2 cos; nearly equal bfloat16 vectors keep theirs."""
    teacher = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]).T.reshape(1, 2, 1, 3)
    student = torch.tensor([[0.5, math.sqrt(0.75)], [0.0, 7.0], [0.0, -1.0]]).T.reshape(1, 2, 1, 3)
    (distance_BHW,) = squared_distances([teacher], [student])
    torch.testing.assert_close(distance_BHW, torch.tensor([[[1.0, 2.0, 4.0]]]))
    one = torch.ones(1, 64, 1, 1, dtype=torch.bfloat16)
    other = one.clone()
    other[0, 0] = 1 + 2**-7
    (distance_BHW,) = squared_distances([one], [other])
    a, b = one.double().flatten().numpy(), other.double().flatten().numpy()
    exact = 2 - 2 * (a @ b) / np.sqrt((a @ a) * (b @ b))
    assert distance_BHW.item() == pytest.approx(exact, rel=1e-3)


def with_features(method: STPM, monkeypatch, teacher, student) -> None:
    monkeypatch.setattr(type(method), "forward", lambda self, image_BCHW: (teacher, student))


def test_losses(monkeypatch):
    """Official: sum over levels of the mean over images and pixels; the others' is that times half the batch."""
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(3, c, s, s, generator=generator) for c, s in ((4, 8), (6, 4))]
    student = [torch.randn(3, c, s, s, generator=generator) for c, s in ((4, 8), (6, 4))]
    official = summed = 0.0
    for t, s in zip(teacher, student, strict=True):
        unit = [(x / x.pow(2).sum(dim=1, keepdim=True).sqrt()).double().numpy() for x in (t, s)]
        square = (unit[0] - unit[1]) ** 2
        official += square.sum() / (3 * t.shape[2] * t.shape[3])
        summed += 0.5 / (t.shape[2] * t.shape[3]) * square.sum()
    for loss, expected in (("mean", official), ("sum", summed)):
        method = Subject.named("stpm", loss=loss).make()
        with_features(method, monkeypatch, teacher, student)
        found = []
        method._step(Batch(image_BCHW=torch.zeros(3, 3, 32, 32), seed_B=torch.arange(3)), found.append)
        assert found[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fuse_at", ["features", "image"])
def test_map_is_the_product(fuse_at, monkeypatch):
    """Columns alone, so that interpolation is a line: pixel centers at (x + 0.5) / scale - 0.5, edges repeated."""

    def line(values, count):
        scale = count / len(values)
        return np.interp((np.arange(count) + 0.5) / scale - 0.5, np.arange(len(values)), values)

    fine, coarse = np.array([1.0, 2.0, 0.0, 4.0]), np.array([1.0, 3.0])
    method = Subject.named("stpm", fuse_at=fuse_at).make()
    with_features(method, monkeypatch, None, None)
    levels = [torch.tensor(each, dtype=torch.float32).expand(1, len(each), -1) for each in (fine, coarse)]
    monkeypatch.setattr("ader.methods.stpm.squared_distances", lambda teacher, student: levels)
    found = predict(method, images(1, 32))
    expected = line(fine * line(coarse, 4), 32) if fuse_at == "features" else line(fine, 32) * line(coarse, 32)
    np.testing.assert_allclose(found.map_BHW[0].numpy(), np.tile(expected, (32, 1)), rtol=1e-5, atol=1e-6)
    assert found.score_B.item() == pytest.approx(expected.max(), rel=1e-5)


def test_the_teachers_statistics_stay():
    """Also after a bare ``train()`` of the whole method."""
    method = Subject.named("stpm").make().train()
    assert not any(part.training for part in method.teacher.modules())
    assert all(part.training for part in method.student.modules() if isinstance(part, nn.BatchNorm2d))


def test_a_network_without_residual_blocks_is_refused():
    with pytest.raises(UserError, match="stpm needs a plain ResNet"):
        STPM(backbone=BackboneOptions("efficientnet_lite0", pretrained=False))


def test_short_training_lowers_the_loss(tmp_path):
    index = load_index("folder", write_mvtec(tmp_path, size=64), counts=None)
    torch.manual_seed(0)
    backbone = {"name": "resnet18", "pretrained": False}
    method, losses = build("stpm", backbone=backbone, layers=(1, 2), batch_size=4, epochs=8), []
    scalar = lambda tag, value, step: losses.append(value) if tag == "distil/distance" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, Loader(index, 64, CPU, 0, 0, method.tags))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3]), losses
