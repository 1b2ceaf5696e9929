"""InvAD and InvAD-lite against the numbers and definitions of their paper and of ADer's code."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from ader.config.compose import compose
from ader.config.options import read_option
from ader.data import load_index
from ader.methods import build
from ader.methods._base import recipe_arguments
from ader.methods.invad import InvAD, feature_loss, joint_cosine_distance
from ader.system.errors import UserError
from ader.testing.subject import Subject, changed, images, predict, snapshot
from ader.testing.toy import write_mvtec
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
TINY = {"backbone": {"name": "test_resnet", "pretrained": False}, "image_size": 64, "batch_size": 2, "epochs": 1}


def on_meta(option="invad", **arguments) -> InvAD:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return build(option, backbone={"pretrained": False}, **arguments)


@pytest.fixture(scope="module")
def wide() -> InvAD:
    return on_meta()


@pytest.fixture(scope="module")
def lite() -> InvAD:
    return on_meta("invad_lite")


@pytest.fixture(scope="module")
def small() -> InvAD:
    return Subject.named("invad", backbone={"name": "test_resnet", "pretrained": False}).make()


def count(module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def parts(method: InvAD) -> dict[str, int]:
    encoder, generator = method.style_encoder, method.generator
    named = {"shrink": encoder.shrink, "merge": encoder.merge, "bottlenecks": encoder.bottlenecks}
    named |= {"pyramid": encoder.unfold, "conv": generator.conv, "heads": generator.heads, "stages": generator.stages}
    return {name: count(module) for name, module in named.items()} | {"constant": generator.constant_1CHW.numel()}


def test_parameters(wide):
    """ADer Table 1: 95.6 M."""
    assert count_parameters(wide) == (95_631_088, 70_768_560)
    assert count(wide.encoder) == 24_862_528
    assert parts(wide) == {
        "shrink": 3_151_104,
        "merge": 114_816,
        "bottlenecks": 4_544,
        "pyramid": 221_568,
        "conv": 9_438_208,
        "heads": 138_480,
        "stages": 57_437_696,
        "constant": 262_144,
    }


def test_parameters_lite(lite):
    """ADer Table 1: 17.1 M."""
    assert count_parameters(lite) == (17_146_544, 8_976_240)
    assert count(lite.encoder) == 8_170_304
    assert parts(lite) == {
        "shrink": 197_952,
        "merge": 28_800,
        "bottlenecks": 4_544,
        "pyramid": 221_568,
        "conv": 590_080,
        "heads": 138_480,
        "stages": 7_729_280,
        "constant": 65_536,
    }


def test_macs(wide, lite):
    """ADer Table 1: 45.4 and 9.3 G. fvcore measures 45.394 and 9.283: with norms, without the upsampling filters."""
    assert count_macs(wide, 256, torch.device("meta")) == pytest.approx(45.394e9, rel=2e-3)
    assert count_macs(lite, 256, torch.device("meta")) == pytest.approx(9.283e9, rel=2e-3)


def test_shapes(wide):
    features, generated = wide(torch.empty(2, 3, 256, 256, device="meta"))
    assert [tuple(feature.shape[1:]) for feature in features] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16)]
    assert [feature.shape for feature in generated] == [feature.shape for feature in features]


# A stage of C channels has 2 convolutions per block, each with 9 CC weights, C biases and, where modulated, 2 heads of
# 9 C N_S weights and C biases; a block's skip has CC weights. The modulated convolutions' inputs have 4 x 1024, 3 x 512
# and 3 x 256 channels: 6400.
SWITCHES = {
    "N_B=0": ({"bottlenecks": 0}, -4_544),
    "N_B=3": ({"bottlenecks": 3}, 2 * 4_544),
    "N_C=0": ({"style_convs": 0}, -3 * (9 * 64 * 64 + 64)),
    "N_C=3": ({"style_convs": 3}, 6 * (9 * 64 * 64 + 64)),
    "N_L=1": ({"blocks": 1}, -sum(19 * c * c + (2 + 4 * 145) * c for c in (1024, 512, 256))),
    "N_L=4": ({"blocks": 4}, 2 * 27_191_808),
    "N_S=8": ({"modulation_width": 8}, -2 * 9 * 8 * 6400 - 3 * (9 * 64 * 8 + 8)),
    "N_S=64": ({"modulation_width": 64}, 2 * 9 * 48 * 6400 + 3 * (9 * 64 * 48 + 48)),
    # merge, bottleneck, six convolutions, heads; with 64 channels 479,408
    "N_R=16": ({"style_width": 16}, 28_704 + 320 + 13_920 + 13_920 - 479_408),
    "N_R=256": ({"style_width": 256}, 459_264 + 70_400 + 3_540_480 + 1_880_880 - 479_408),
    "no style features": ({"style_features": False}, -221_568),
    "no modulation": ({"spatial_modulation": False}, -2 * (9 * 16 + 1) * 6400 + 9 * 16 * 6400),
    "neither": ({"style_features": False, "spatial_modulation": False}, -221_568 - 934_400),
    "average": ({"rescaling": "average"}, -3_151_104),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_parameters_of_the_paper_tables(switch):
    """What each switch of Tables 4, 6 and 8 adds or takes, worked out by hand."""
    arguments, difference = SWITCHES[switch]
    changed_method = on_meta(**arguments)
    assert count_parameters(changed_method)[1] - 70_768_560 == difference
    with torch.no_grad():
        features, generated = changed_method(torch.empty(1, 3, 256, 256, device="meta"))
    assert [feature.shape for feature in generated] == [feature.shape for feature in features]


OPTIONS = [
    *[arguments for arguments, _ in SWITCHES.values()],
    {"loss": "l1"},
    {"loss": "flat_cosine"},
    {"loss": "pixel_cosine"},
    {"schedule": "cosine"},
    {"optimizer": "adamw", "weight_decay": 0.1},
]


@pytest.mark.parametrize("arguments", OPTIONS, ids=str)
def test_every_switch_trains(arguments):
    """A step moves all parameters of the style encoder and the generator, and nothing else."""
    torch.manual_seed(0)
    method = build("invad", **{**TINY, "style_width": 8, "modulation_width": 4, **arguments})
    before = snapshot(method)
    Trainer(device=CPU, max_steps=1).fit(method, RandomImages(64, 1, CPU, method.tags))
    moved = set(changed(before, snapshot(method)))
    trained = {name for name, weight in method.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"style_encoder", "generator"}
    assert trained <= moved
    assert not {name for name in moved if name.startswith("encoder")}
    assert predict(method, images(1, 64)).map_BHW.isfinite().all()


def test_recipe(small):
    method = InvAD(**recipe_arguments(InvAD, 64, {**TINY, "epochs": 7, "batch_size": 3}))
    (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    assert list(stage.modules) == [method.style_encoder, method.generator]
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last) == (7, 3, 5.0, True)
    assert type(optimizer) is torch.optim.Adam
    assert [(group["lr"], group["betas"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.004, (0.0, 0.99), 0.0)
    ] * 2
    schedule = stage.schedules["inversion"]
    assert [schedule(step / 700) for step in (0, 559, 560, 699)] == [1.0, 1.0, 0.1, 0.1]
    wide, lite = (compose([f"method={option}", "dataset=demo"]).values["method"] for option in ("invad", "invad_lite"))
    backbones = [values.pop("backbone")["name"] for values in (wide, lite)]
    assert backbones == ["wide_resnet50_2.racm_in1k", "resnet34.bt_in1k"]
    assert {key: (wide[key], lite[key]) for key in wide if wide[key] != lite[key]} == {
        "loss_weight": (1.0, 5.0),
        "blocks": (2, 4),
    }
    assert wide.keys() == lite.keys()


@pytest.mark.parametrize("name", ["invad", "invad_lite"])
def test_official_recipe(name):
    """The paper's text: AdamW, 1e-4, decay of 1e-4, 300 epochs; here without biases and norms, as ADer does it."""
    values = read_option("method", name)["recipes"]["official"]
    assert values.pop("trainer.epochs") == 300
    arguments = {key.removeprefix("method."): value for key, value in values.items()}
    (stage,) = build(name, **{**TINY, **arguments}).stages()
    (optimizer,) = stage.optimizers.values()
    assert type(optimizer) is torch.optim.AdamW
    decayed, kept = optimizer.param_groups
    assert (decayed["lr"], decayed["betas"], decayed["weight_decay"]) == (1e-4, (0.9, 0.999), 1e-4)
    assert (kept["lr"], kept["weight_decay"]) == (1e-4, 0)
    assert {weight.ndim for weight in decayed["params"]} == {4}
    assert {weight.ndim for weight in kept["params"]} == {1}
    assert sum(weight.numel() for group in optimizer.param_groups for weight in group["params"]) == sum(
        count(module) for module in stage.modules
    )


def test_cosine_schedule():
    (stage,) = build("invad", **TINY, schedule="cosine").stages()
    factors = [stage.schedules["inversion"](progress) for progress in (0, 0.5, 1)]
    assert factors == pytest.approx([1, (1 + 0.01) / 2, 0.01])


def known_features():
    """Two images, two scales. Angles of the whole maps: 60 and 90 degrees, then 0 and 180."""
    first = [torch.zeros(2, 2, 2, 2), torch.zeros(2, 1, 1, 2)]
    second = [torch.zeros(2, 2, 2, 2), torch.zeros(2, 1, 1, 2)]
    first[0][:, 0, 0, 0] = 2.0
    second[0][0, 0, 0, 0], second[0][0, 1, 1, 1] = 1.5, 3 * math.sqrt(0.75)
    second[0][1, 1, 0, 0] = 5.0
    first[1][:, 0, 0] = torch.tensor([1.0, 2.0])
    second[1][0, 0, 0], second[1][1, 0, 0] = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, -2.0])
    return first, second


def test_losses_by_hand():
    """Means over all numbers of a scale, summed over scales."""
    first, second = known_features()
    squares = (0.5**2 + 9 * 0.75 + 2**2 + 5**2) / 16 + (1 + 4 + 4 + 16) / 4
    assert feature_loss(first, second, "mse").item() == pytest.approx(squares)
    sizes = (0.5 + 3 * math.sqrt(0.75) + 2 + 5) / 16 + (1 + 2 + 2 + 4) / 4
    assert feature_loss(first, second, "l1").item() == pytest.approx(sizes)
    assert feature_loss(first, second, "flat_cosine").item() == pytest.approx((0.5 + 1) / 2 + (0 + 2) / 2, abs=1e-6)
    # positions: one agrees, the other seven have a vector of length 0 or a right angle; then 0 and 180 degrees
    assert feature_loss(first, second, "pixel_cosine").item() == pytest.approx(7 / 8 + 1, abs=1e-6)


@pytest.mark.parametrize(("name", "weight"), [("invad", 1), ("invad_lite", 5)])
def test_step_minimizes_the_weighted_loss(name, weight, monkeypatch):
    method = build(name, **TINY)
    first, second = known_features()
    monkeypatch.setattr(type(method), "forward", lambda self, image_BCHW: (first, second))
    (stage,) = method.stages()
    minimized = []
    logged = stage.step(next(iter(RandomImages(64, 1, CPU, method.tags).train(stage, 0, 1))), minimized.append)
    assert minimized[0].item() == pytest.approx(weight * (36 / 16 + 25 / 4))
    assert list(logged) == ["mse"]


def test_losses_survive_bfloat16():
    torch.manual_seed(0)
    first, second = ([torch.randn(2, 64, 16, 16, dtype=torch.bfloat16) + 3] for _ in range(2))
    exact = [[each.double() for each in side] for side in (first, second)]
    with torch.autocast("cpu", torch.bfloat16):
        for kind in ("mse", "l1", "flat_cosine", "pixel_cosine"):
            assert feature_loss(first, second, kind).item() == pytest.approx(
                feature_loss(*exact, kind).item(), rel=1e-4
            )


def aligned(image_CHW, side) -> np.ndarray:
    """Bilinear interpolation with corners on corners, by two passes of np.interp."""
    for axis in (1, 2):
        places = np.linspace(0, image_CHW.shape[axis] - 1, side)
        known = np.arange(image_CHW.shape[axis])
        image_CHW = np.apply_along_axis(lambda line, k=known, p=places: np.interp(p, k, line), axis, image_CHW)
    return image_CHW


def test_map_by_numpy(small, monkeypatch):
    """Unit vectors of each scale, enlarged, stacked, one cosine, enlarged, smoothed; the image score is the maximum."""
    generator = torch.Generator().manual_seed(0)
    sides = [
        [torch.randn(2, channels, side, side, generator=generator) for channels, side in ((4, 16), (6, 8), (8, 4))]
        for _ in range(2)
    ]
    monkeypatch.setattr(type(small), "forward", lambda self, image_BCHW: sides)
    score_B, map_BHW = predict(small, images(2, 64))
    for number in range(2):
        stacks = []
        for side in sides:
            maps = [feature[number].double().numpy() for feature in side]
            stacks.append(np.concatenate([aligned(each / np.linalg.norm(each, axis=0), 16) for each in maps]))
        norms = np.linalg.norm(stacks[0], axis=0) * np.linalg.norm(stacks[1], axis=0)
        distance = 1 - (stacks[0] * stacks[1]).sum(axis=0) / norms
        expected = gaussian_filter(aligned(distance[None], 64)[0], 4.0)
        np.testing.assert_allclose(map_BHW[number].numpy(), expected, atol=1e-5)
        assert score_B[number].item() == map_BHW[number].max().item()


def test_map_of_vanishing_features():
    """Vectors of length 0 are at distance 1 of everything, not NaN; equal ones at distance 0."""
    feature = torch.ones(1, 3, 4, 4)
    feature[..., 0] = 0
    distance_BHW = joint_cosine_distance([feature], [feature])
    assert distance_BHW[0, :, 0].tolist() == [1.0] * 4
    assert distance_BHW[0, :, 1:].abs().max().item() < 1e-6


def test_bfloat16(small):
    """Generated features within 3 % of the largest."""
    image_BCHW = images(2, 64)
    with torch.no_grad():
        _, exact = small(image_BCHW)
        with torch.autocast("cpu", torch.bfloat16):
            _, rough = small(image_BCHW)
    for one, other in zip(rough, exact, strict=True):
        assert (one.float() - other).abs().max() < 0.03 * other.abs().max()


def test_errors(small):
    with pytest.raises(UserError, match="image_size=100 does not fit the backbone: give a multiple of 16"):
        build("invad", **{**TINY, "image_size": 100})
    with pytest.raises(UserError, match="built for image_size=64"):
        small(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match=r"style_width=6: .* multiple of 4 \(or bottlenecks=0\)"):
        build("invad", **TINY, style_width=6)
    build("invad", **TINY, style_width=6, bottlenecks=0)
    with pytest.raises(UserError, match=r"test_vit.*must halve"):
        build("invad", **{**TINY, "image_size": 160, "backbone": {"name": "test_vit", "pretrained": False}})
    for wrong in ({"loss": "ssim"}, {"blocks": 0}, {"bottlenecks": -1}, {"weight_decay": -1}, {"betas": [0.5, 2]}):
        with pytest.raises(UserError, match=rf"method\.{next(iter(wrong))}"):
            build("invad", **TINY, **wrong)


def pixels(folder: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Test images (B, 3, H, W) and masks of a folder in MVTec layout."""
    read, masks = [], []
    for file in sorted(folder.glob("*/test/*/*.png")):
        read.append(np.asarray(Image.open(file)).transpose(2, 0, 1) / 255)
        mask = file.parents[2] / "ground_truth" / file.parent.name / f"{file.stem}_mask.png"
        masks.append(np.asarray(Image.open(mask)) > 0 if mask.exists() else np.zeros(read[-1].shape[1:], bool))
    return torch.from_numpy(np.stack(read)).float(), np.stack(masks)


def test_short_training_finds_defects(tmp_path):
    """Ninety steps on eight images; a random backbone separates the toy's defects no better.

    Training is chaotic and the last bits differ between processors: images and steps are enough for all of them.
    """
    index = load_index("folder", write_mvtec(tmp_path, ["bottle"], train=8, good=4, bad=8, size=64), counts=None)
    torch.manual_seed(0)
    method = build("invad", **{**TINY, "batch_size": 4, "epochs": 45}, style_width=16, sigma=2.0, lr=0.01)
    image_BCHW, mask_BHW = pixels(tmp_path)

    def auroc() -> float:
        return float(roc_auc_score(mask_BHW.ravel(), predict(method, image_BCHW).map_BHW.numpy().ravel()))

    before, losses = auroc(), []
    scalar = lambda tag, value, step: losses.append(value) if tag == "inversion/mse" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, Loader(index, 64, CPU, 0, 0, method.tags))
    assert len(losses) == 90
    assert sum(losses[-3:]) < 0.1 * sum(losses[:3]), losses
    assert before < 0.65
    assert auroc() > 0.7
    assert roc_auc_score(mask_BHW.any(axis=(1, 2)), predict(method, image_BCHW).score_B.numpy()) > 0.8


def test_lite_is_invad_with_other_defaults():
    """Four blocks of each size, the wide network's two."""
    wide, lite = build("invad", **TINY), build("invad_lite", **TINY)
    assert type(lite) is type(wide) is InvAD
    assert [len(stage) for stage in lite.generator.stages] == [4, 4, 4]
    assert [len(stage) for stage in wide.generator.stages] == [2, 2, 2]
    assert (wide.loss_weight, lite.loss_weight) == (1, 5)
