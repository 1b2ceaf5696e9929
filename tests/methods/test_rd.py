"""RD against the numbers and definitions of its paper and of ADer's code."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from ader.config.compose import compose
from ader.data import load_index
from ader.methods import build
from ader.methods._base import recipe_arguments
from ader.methods.rd import RD
from ader.nets.backbone import BackboneOptions
from ader.nets.scoring.maps import flat_cosine_loss
from ader.testing.subject import Subject, images, predict
from ader.testing.toy import write_mvtec
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer

CPU = torch.device("cpu")


def on_meta(**arguments) -> RD:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return RD(backbone=BackboneOptions("wide_resnet50_2.racm_in1k", pretrained=False), **arguments)


@pytest.fixture(scope="module")
def wide() -> RD:
    return on_meta()


@pytest.fixture(scope="module")
def small() -> RD:
    return Subject.named("rd").make()


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_parameters(wide):
    assert count_parameters(wide) == (80_609_600, 55_747_072)
    assert count(wide.teacher) == 24_862_528
    assert count(wide.bottleneck) == 30_829_568
    assert count(wide.decoder) == 24_917_504


def test_macs(wide):
    """ADer Table 1 says 28.4 G; 28.36 without the batch norms, which fvcore counts."""
    assert count_macs(wide, 256, torch.device("meta")) == pytest.approx(28.36e9, rel=1e-3)


def test_official_bottleneck():
    """Official: 67,277,824 parameters, of which a never-used convolution and its norm hold 8,392,704."""
    official = on_meta(bottleneck_width=128)
    assert count(official.bottleneck) == 67_277_824 - 8_392_704
    assert count(official.decoder) == 24_917_504


def test_shapes(wide):
    teacher, student = wide(torch.empty(2, 3, 256, 256, device="meta"))
    assert [tuple(feature.shape[1:]) for feature in teacher] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16)]
    assert [feature.shape for feature in student] == [feature.shape for feature in teacher]
    assert wide.bottleneck(teacher).shape == (2, 2048, 8, 8)


def test_layers_in_detail(small):
    """What parameter counts cannot tell: strides, biases, the initialization of each kind of convolution."""
    transposed = [part for part in small.decoder.modules() if isinstance(part, nn.ConvTranspose2d)]
    assert len(transposed) == 6  # of the first block of each stage: the path and the shortcut
    assert {(part.kernel_size, part.stride, part.bias) for part in transposed} == {((2, 2), (2, 2), None)}
    student = nn.ModuleList([small.bottleneck, small.decoder])
    for part in student.modules():
        if isinstance(part, nn.Conv2d):
            assert part.bias is None
            fan_out = part.out_channels * math.prod(part.kernel_size)
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        elif isinstance(part, nn.ConvTranspose2d):  # torch's default: uniform within 1 / sqrt(fan_in)
            fan_in = part.weight[0].numel()
            assert part.weight.abs().max().item() <= 1 / math.sqrt(fan_in)
            assert part.weight.std().item() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.05)


def test_recipe():
    method = RD(epochs=7, batch_size=3, backbone=BackboneOptions("resnet18", pretrained=False))
    (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    assert list(stage.modules) == [method.bottleneck, method.decoder]
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last) == (7, 3, 5.0, True)
    assert isinstance(optimizer, torch.optim.Adam)
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 0.005,
        "betas": (0.5, 0.999),
        "weight_decay": 0,
    }
    schedule = stage.schedules["student"]
    assert [schedule(step / 700) for step in (0, 559, 560, 699)] == [1.0, 1.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("recipe", "batch_size", "betas", "width", "border"),
    [("official", 16, (0.5, 0.999), 128, "reflect"), ("anomalib", 32, (0.5, 0.99), 64, "mirror")],
)
def test_recipes_of_other_codes(recipe, batch_size, betas, width, border):
    """200 epochs at one rate, no clipping, the incomplete batch kept (60 images in batches of 16: 4 steps, not 3)."""
    config = compose(["method=rd", "dataset=demo", f"recipe={recipe}"])
    assert config.method.rest["backbone"]["name"] == "wide_resnet50_2.tv_in1k"
    arguments = {**config.method.rest, "backbone": {"name": "resnet18", "pretrained": False}}
    with torch.device("meta"):
        method = RD(**recipe_arguments(RD, 256, arguments))
        (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last) == (200, batch_size, None, False)
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.005, betas)
    assert {stage.schedules["student"](step / 700) for step in range(700)} == {1.0}
    assert BatchOrder(60, 16, 0, drop_last=stage.drop_last).steps_per_epoch == 4
    assert (config.method.rest["bottleneck_width"], method.blur.border, method.combine) == (width, border, "sum")


def test_loss_is_the_flattened_cosine():
    """Two images of two scales with known angles: 60 and 90 degrees, 0 and 180 degrees."""
    teacher = [torch.zeros(2, 2, 2, 2), torch.zeros(2, 1, 1, 2)]
    student = [torch.zeros(2, 2, 2, 2), torch.zeros(2, 1, 1, 2)]
    teacher[0][:, 0, 0, 0] = 2.0
    student[0][0, 0, 0, 0], student[0][0, 1, 1, 1] = 3 * 0.5, 3 * math.sqrt(0.75)  # 60 degrees, another pixel
    student[0][1, 1, 0, 0] = 5.0  # 90 degrees
    teacher[1][:, 0, 0] = torch.tensor([1.0, 2.0])
    student[1][0, 0, 0], student[1][1, 0, 0] = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, -2.0])
    assert flat_cosine_loss(teacher, student).item() == pytest.approx((0.5 + 1.0) / 2 + (0.0 + 2.0) / 2, abs=1e-6)


def test_map_of_known_features(small, monkeypatch):
    """One pixel of one scale at right angles: a smoothed bump there; elsewhere features agree."""
    teacher = [torch.ones(1, 2, 16, 16), torch.ones(1, 2, 8, 8), torch.ones(1, 2, 4, 4)]
    student = [feature.clone() for feature in teacher]
    student[2][0, 1, 0, 3] = -1.0  # the upper right corner of the coarsest scale
    monkeypatch.setattr(type(small), "forward", lambda self, image_BCHW: (teacher, student))
    score_B, map_BHW = predict(small, images(1, 64))
    ramp = (1 - torch.arange(64, dtype=torch.float64) / 21).clamp(min=0)  # aligned corners: 3 cells on 63 pixels
    expected = gaussian_filter(torch.outer(ramp, ramp.flip(0)).numpy(), 4.0)
    torch.testing.assert_close(map_BHW[0].double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert score_B.item() == map_BHW.max().item()


def test_short_training_lowers_the_loss(tmp_path):
    index = load_index("folder", write_mvtec(tmp_path, size=64), counts=None)
    arguments = {"backbone": {"name": "test_resnet", "pretrained": False}, "batch_size": 4, "epochs": 8}
    torch.manual_seed(0)
    method, losses = build("rd", image_size=64, **arguments), []
    scalar = lambda tag, value, step: losses.append(value) if tag == "distil/cos" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, Loader(index, 64, CPU, 0, 0, method.tags))
    assert len(losses) == 16
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3]), losses
