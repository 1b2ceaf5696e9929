"""FastFlow against the numbers and definitions of its paper and of its implementations."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from ader.config.compose import compose
from ader.methods import build
from ader.methods._base import Batch, Stage
from ader.methods.fastflow import FastFlow, Tokens, convolutions, improbability, negative_log_likelihood
from ader.nets.backbone import BackboneOptions
from ader.system.errors import UserError
from ader.testing.subject import images, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
SMALL = {"backbone": {"name": "resnet18", "pretrained": False}, "flow_steps": 2}


def full_size(name: str, **arguments) -> FastFlow:
    """Without memory for its weights."""
    with META:
        return FastFlow(backbone=BackboneOptions(name, pretrained=False), **arguments)


def small(**arguments) -> FastFlow:
    torch.manual_seed(0)
    return build("fastflow", **{"image_size": 64, **SMALL, **arguments}).eval()


@pytest.mark.parametrize(
    ("name", "only", "total", "matrices", "trained", "norms", "gmac"),
    [  # of gathierry's code: parameters, of which permutations and their inverses; multiply-accumulates
        ("wide_resnet50_2", False, 91_890_496, 22_020_096, 45_007_872, 3_670_016, 42.60),
        ("wide_resnet50_2", True, 124_920_640, 22_020_096, 78_038_016, 3_670_016, 61.93),
        ("resnet18", True, 9_733_952, 1_376_256, 5_574_912, 917_504, 4.95),
        ("resnet18", False, 7_669_568, 1_376_256, 3_510_528, 917_504, 3.74),
    ],
)
def test_parameters_and_operations(name, only, total, matrices, trained, norms, gmac):
    """What the permutations take is not there: they are indices here."""
    method = full_size(name, conv3x3_only=only)
    assert count_parameters(method) == (total - matrices, trained)
    assert sum(weight.numel() for weight in method.norms.parameters()) == norms
    channels = (256, 512, 1024) if name == "wide_resnet50_2" else (64, 128, 256)
    sides = (64, 32, 16)
    assert [(norm.normalized_shape[0], norm.normalized_shape[1]) for norm in method.norms] == list(
        zip(channels, sides, strict=True)
    )
    assert matrices == sum(8 * 2 * c * c for c in channels)
    products = sum(8 * c * c * side * side for c, side in zip(channels, sides, strict=True))
    assert (count_macs(method, 256, META) + products) / 1e9 == pytest.approx(gmac, abs=0.006)


def test_recipe():
    method = small(epochs=30, batch_size=3)
    (stage,) = method.stages()
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last, dict(stage.schedules)) == (
        30,
        3,
        None,
        True,
        {},
    )
    assert list(stage.modules) == [method.norms, method.flows]
    (optimizer,) = stage.optimizers.values()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert {id(weight) for weight in group["params"]} == {id(w) for w in method.parameters() if w.requires_grad}
    assert {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")} == {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-5,
    }


@pytest.mark.parametrize(
    ("recipe", "size", "epochs", "steps", "only", "ratio", "layers", "name"),
    [  # gathierry's configs/*.yaml and constants.py
        ("official", 256, 500, 8, False, 1.0, (1, 2, 3), "wide_resnet50_2.racm_in1k"),
        ("resnet18", 256, 500, 8, True, 1.0, (1, 2, 3), "resnet18.tv_in1k"),
        ("deit", 384, 500, 20, False, 0.16, (7,), "deit_base_distilled_patch16_384.fb_in1k"),
        ("cait", 448, 500, 20, False, 0.16, (40,), "cait_m48_448.fb_dist_in1k"),
        ("segad", 256, 200, 8, False, 1.0, (1, 2, 3), "wide_resnet50_2.tv_in1k"),
    ],
)
def test_recipes(recipe, size, epochs, steps, only, ratio, layers, name):
    config = compose(["method=fastflow", "dataset=demo", f"recipe={recipe}"])
    chosen = config.method.rest
    assert (config.image_size, chosen["epochs"], chosen["batch_size"]) == (size, epochs, 32)
    assert (chosen["flow_steps"], chosen["conv3x3_only"], chosen["hidden_ratio"]) == (steps, only, ratio)
    assert (tuple(chosen["layers"]), chosen["backbone"]["name"]) == (layers, name)
    assert timm.get_pretrained_cfg(name).tag == name.split(".")[1]


def test_coupling_networks():
    """3x3 and 1x1 by turns; hidden channels are rounded down."""
    flow = small(flow_steps=5).flows[0]
    assert [block.subnet[0].kernel_size[0] for block in flow.blocks] == [3, 1, 3, 1, 3]
    assert {block.subnet[2].kernel_size[0] for block in small(conv3x3_only=True).flows[1].blocks} == {3}
    assert {block.clamp for block in flow.blocks} == {2.0}
    first, relu, second = convolutions(3, 0.16, 384, 768)
    assert isinstance(relu, nn.ReLU)
    assert (first.in_channels, first.out_channels, second.in_channels, second.out_channels) == (384, 61, 61, 768)
    assert first.bias is not None
    assert second(first(torch.rand(1, 384, 5, 7))).shape == (1, 768, 5, 7)


def test_loss_by_hand():
    """Two scales and two images: half the squared norm less the log-determinant, averaged, added."""
    one, two = torch.zeros(2, 3, 2, 2), torch.zeros(2, 5, 1, 1)
    one[0, 0, 0, 0], one[1, 2, 1, 0], two[1, 4] = 4.0, 2.0, 6.0
    value = negative_log_likelihood([(one, torch.tensor([1.0, 3.0])), (two, torch.tensor([0.5, 0.0]))])
    assert value.item() == pytest.approx(((8 - 1) + (2 - 3)) / 2 + ((0 - 0.5) + 18) / 2)


def test_map_by_hand():
    """One place of a 2x2 scale is at 3, the other scale is at its mode: bilinear with half-pixel centers, mean."""
    one, two = torch.zeros(1, 4, 2, 2), torch.zeros(1, 6, 1, 1)
    one[0, :, 0, 0] = 3.0
    map_BHW = improbability([one, two], (4, 4))
    depth = 1 - math.exp(-4.5)
    along = torch.tensor([1.0, 0.75, 0.25, 0.0])
    expected = -1 + depth / 2 * along[:, None] * along[None]
    torch.testing.assert_close(map_BHW[0], expected)
    assert improbability([torch.full((1, 2, 2, 2), 20.0)], (4, 4)).eq(0).all()  # no more than this


def test_prediction_is_the_map_and_its_maximum():
    method, image_BCHW = small(), images(2, 64)
    score_B, map_BHW = predict(method, image_BCHW)
    with torch.no_grad():
        features = method.backbone(image_BCHW)
        latents = [
            flow(norm(feature))[0] for flow, norm, feature in zip(method.flows, method.norms, features, strict=True)
        ]
    assert [tuple(latent.shape) for latent in latents] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4)]
    torch.testing.assert_close(map_BHW, improbability(latents, (64, 64)))
    assert -1 <= map_BHW.min() < map_BHW.max() <= 0
    assert score_B.equal(map_BHW.amax(dim=(1, 2)))


def test_norms_are_over_the_whole_map():
    method, feature = small(), torch.randn(2, 64, 16, 16)
    flat = feature.flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(method.norms[0](feature).flatten(1), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "cait_xxs24_224"])
def test_tokens_by_hand(name):
    """Blocks one after another, the last norm, without class and distillation tokens: row by row."""
    torch.manual_seed(0)
    options = BackboneOptions(name, pretrained=False)
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, img_size=48, num_classes=0).eval()
    torch.manual_seed(0)
    tokens, image_BCHW = Tokens(options, 48, [2]), torch.rand(2, 3, 48, 48)
    token_BLC = net.patch_embed((image_BCHW - tokens.vit.normalize.mean) / tokens.vit.normalize.std)
    if "deit" in name:
        extra = [net.cls_token, net.dist_token]
        token_BLC = torch.cat([*(each.expand(2, -1, -1) for each in extra), token_BLC], dim=1)
    token_BLC = token_BLC + net.pos_embed
    for block in net.blocks[:3]:
        token_BLC = block(token_BLC)
    expected = net.norm(token_BLC)[:, -9:].transpose(1, 2).reshape(2, 192, 3, 3)
    (found,) = tokens(image_BCHW)
    torch.testing.assert_close(found, expected)
    assert (tokens.channels, tokens.strides, len(tokens.vit.net.blocks)) == ([192], [16], 3)
    assert not any(weight.requires_grad for weight in tokens.parameters())
    assert not tokens.train().training


def test_transformers_train():
    """Their own norm is frozen: only flows train."""
    method = small(backbone={"name": "test_vit", "pretrained": False}, layers=[1, 3], hidden_ratio=0.16, epochs=1)
    assert len(method.flows) == 2
    assert not method.norms
    before = method.flows[0].blocks[0].scale_C.clone()
    Trainer(device=CPU, max_steps=2).fit(method, RandomImages(64, 2, CPU, method.tags))
    assert not before.equal(method.flows[0].blocks[0].scale_C)
    assert predict(method, images(2, 64)).map_BHW.shape == (2, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"image_size": 72}, "image_size=72 does not suit fastflow: give a multiple of 16"),
        ({"backbone": {"name": "test_vit", "pretrained": False}, "layers": [9]}, r"method.layers=\[9\] must be below"),
        ({"backbone": {"name": "cait_m48_448.fb_dist_in1k"}, "layers": [40]}, "image_size=64 .* give 448"),
    ],
)
def test_what_does_not_fit_is_explained(arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        small(**arguments)
    assert "\n" not in str(caught.value)


def test_other_image_sizes():
    with pytest.raises(UserError, match="images of 80x80 pixels do not suit this fastflow"):
        predict(small(), images(1, 80))


def test_log_determinants_under_bfloat16():
    """Sums of half a million log-scales stay float32: a relative difference of 1e-2 is the convolutions'."""
    method, image_BCHW = small(flow_steps=8), images(2, 64)
    with torch.no_grad():
        exact = method(image_BCHW)
        with torch.autocast("cpu", torch.bfloat16):
            rough = method(image_BCHW)
    for (latent, log_det), (latent_ref, log_det_ref) in zip(rough, exact, strict=True):
        assert latent.dtype == log_det.dtype == torch.float32
        torch.testing.assert_close(log_det, log_det_ref, rtol=0.01, atol=1.0)
        torch.testing.assert_close(latent, latent_ref, rtol=0, atol=0.1)


class Striped(RandomImages):
    """Noise over stripes; with ``defects`` a square has none."""

    def draw(self, count: int, defects: bool) -> tuple[Tensor, Tensor]:
        stripes = 0.5 + 0.4 * torch.sin(torch.arange(64) * 0.8).expand(3, 64, 64)
        image_BCHW, mask_BHW = stripes + 0.05 * torch.randn(count, 3, 64, 64), torch.zeros(count, 64, 64)
        if defects:
            mask_BHW[:, 16:48, 24:56] = 1
        return torch.where(mask_BHW[:, None] > 0, torch.full_like(image_BCHW, 0.5), image_BCHW).clamp(0, 1), mask_BHW

    def _batch(self, stage: Stage, positions: list[int]) -> Batch:
        return Batch(image_BCHW=self.draw(stage.batch_size, False)[0], seed_B=torch.arange(stage.batch_size))


def test_short_training_finds_defects():
    """The loss falls, and maps tell defects better than an untrained flow's."""
    results = []
    for lr in (1e-12, 1e-3):
        method, losses = small(lr=lr, batch_size=4, epochs=6, layers=[2, 3]), []
        scalar = lambda tag, value, step: losses.append(value) if tag == "flow/nll" else None  # noqa: B023, E731
        data = Striped(64, 3, CPU, method.tags)
        Trainer(device=CPU, scalar=scalar).fit(method, data)
        torch.manual_seed(1)
        image_BCHW, mask_BHW = data.draw(4, True)
        map_BHW = predict(method, image_BCHW).map_BHW
        results.append((losses, roc_auc_score(mask_BHW.flatten().numpy(), map_BHW.flatten().numpy())))
    (_, untrained), (losses, trained) = results
    assert losses[-1] < 0.7 * losses[0], losses
    assert trained > max(0.9, untrained), (untrained, trained)
