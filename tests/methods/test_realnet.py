"""RealNet against its fact sheet's counts, brute force and hand computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ader.config.compose import compose
from ader.data.image import planes
from ader.methods._base import Batch, recipe_arguments
from ader.methods._feature_unet import Attention, FeatureUNet, Residual, UNetOptions
from ader.methods.realnet import RealNet, ResidualSegmentation, Selection, drawn
from ader.nets.backbone import BackboneOptions
from ader.nets.synthesis.photos import Photos
from ader.nets.synthesis.synthetic import Synthetic
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
TINY = UNetOptions(multipliers=(1, 2), attention=(2,), blocks=1)


def make(**arguments) -> RealNet:
    return Subject.named("realnet", **arguments).make()


def batch_of(image_BCHW: torch.Tensor, **extra: torch.Tensor) -> Batch:
    return Batch(image_BCHW=image_BCHW, seed_B=torch.arange(len(image_BCHW)) * 7919, extra=extra)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of one color each."""
    root = tmp_path_factory.mktemp("sdas")
    (root / "deeper").mkdir()
    for name, color in (("a.png", (255, 0, 51)), ("deeper/b.png", (0, 102, 255))):
        Image.new("RGB", (20, 12), color).save(root / name)
    return root


def test_counts():
    """ADer Table 1: 591 M and 115 G; its 590,944,598 hold 1,536 indices, buffers here."""
    with torch.device("meta"):
        method = RealNet(backbone=BackboneOptions("wide_resnet50_2.racm_in1k", pretrained=False))
    assert count_parameters(method) == (590_944_598 - 1536, 524_108_822)
    of = lambda part: sum(weight.numel() for weight in part.parameters())  # noqa: E731
    assert [of(unet) for unet in method.unets] == [51_846_144, 207_271_936, 207_271_936, 51_846_144]
    assert of(method.segmentation) == 5_872_662
    assert count_macs(method, 256, META) == pytest.approx(114.58e9, rel=1e-4)
    shapes = [tuple(each.shape) for each in method.selection(method.backbone(torch.empty(1, 3, 256, 256, device=META)))]
    assert shapes == [(1, 256, 64, 64), (1, 512, 32, 32), (1, 512, 16, 16), (1, 256, 8, 8)]
    assert method(torch.empty(1, 3, 256, 256, device=META)).shape == (1, 2, 128, 128)


def test_recipes():
    for recipe, epochs, seed, factors, draws in (
        ("ader", 100, 42, [1, 1, 0.1, 0.1], 1),
        ("official", 1000, 100, [1, 1, 1, 1], 5),
    ):
        config = compose(["method=realnet", "dataset=demo", f"recipe={recipe}"])
        arguments = {**config.method.rest, "backbone": {"name": "wide_resnet50_2", "pretrained": False}}
        with torch.device("meta"):
            method = RealNet(**recipe_arguments(RealNet, config.image_size, arguments))
            select, train = method.stages()
        (optimizer,) = train.optimizers.values()
        assert isinstance(optimizer, torch.optim.Adam)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 0)
        assert sum(weight.numel() for weight in group["params"]) == 524_108_822
        assert (train.batch_size, train.epochs, train.clip, train.drop_last) == (16, epochs, None, True)
        assert [train.schedules["adam"](share) for share in (0, 0.79, 0.8, 0.99)] == pytest.approx(factors)
        assert (select.batch_size, select.batches, select.sampler, method.selection_draws) == (
            16,
            64,
            "shuffled",
            draws,
        )
        assert (config.seed, config.image_size, method.score_window) == (seed, 256, 16)
        made = method.textured
        assert (made.probability, made.opacity, made.augment_textures) == (0.5, (0.0, 0.8), True)
        assert (made.rotation_probability, made.threshold, made.noise_rotation) == (0.0, 0.5, 90.0)
    assert method.segmentation.norm.momentum == 0.9


def brute_force(clean, spoiled, mask) -> np.ndarray:
    """Of a batch the channels' errors: changes stretched to [0, 1] over all pixels, against the mask."""
    change = ((spoiled - clean) ** 2).double().numpy()
    low, high = change.min(axis=(0, 2, 3), keepdims=True), change.max(axis=(0, 2, 3), keepdims=True)
    step = mask.shape[-1] // change.shape[-1]
    truth = mask[:, None, ::step, ::step].double().numpy()
    return (((change - low) / (high - low + 1e-4) - truth) ** 2).mean(axis=(0, 2, 3))


@pytest.mark.parametrize("parts", [(3, 3, 3, 2), (5, 6), (11,)])
def test_selection_is_brute_force(parts):
    """In batches of 3 images, the last 2 images left out, however the images arrive; 2 anomalies of each."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(11, 12, 4, 4, generator=generator)
    masks = (torch.rand(2, 11, 8, 8, generator=generator) > 0.5).float()
    noise = torch.rand(2, 11, 12, 4, 4, generator=generator)
    strength_C = torch.rand(12, generator=generator)[:, None, None]
    spoiled = clean + masks[:, :, None, ::2, ::2] * strength_C * (1 + noise) + (1 - strength_C) * noise
    selection = Selection([5, 12], [5, 4], (1, 2))
    assert selection.numbers == [1]
    start = 0
    for count in parts:
        part = slice(start, start := start + count)
        rows = [
            selection.statistics([clean[part], clean[part]], [clean[part], spoiled[draw, part]], masks[draw, part])
            for draw in (0, 1)
        ]
        selection.rows.add(torch.stack(rows, dim=1))
    selection.conclude(3)
    error = sum(
        brute_force(clean[at : at + 3], spoiled[draw, at : at + 3], masks[draw, at : at + 3])
        for at in (0, 3, 6)
        for draw in (0, 1)
    )
    expected = sorted(np.argsort(error)[:4])
    assert expected != [0, 1, 2, 3]
    assert selection.index_1.tolist() == expected
    assert not len(selection.rows)
    first, second = torch.randn(1, 5, 2, 2), torch.randn(1, 12, 2, 2)
    kept = selection([first, second])
    assert kept[0].equal(first)
    assert kept[1].equal(second[:, expected])


def test_the_pass_looks_at_anomalies_of_every_image():
    """The rows of a batch are those of the features of clean and of spoiled images, all of which are spoiled."""
    method = make(selection_draws=2)
    stage = next(method.stages())
    batch = batch_of(images(6, 64))
    with torch.no_grad():
        stage.update(batch)
        (row_NDSK,) = method.selection.rows.parts
        assert row_NDSK.shape == (6, 2, 6, 128)  # of layer 2 alone: all channels of layer 1 are kept
        for draw in (0, 1):
            spoiled = method._spoiled(batch, draw, probability=1.0)
            change = (method.backbone(spoiled.image)[1] - method.backbone(batch.image_BCHW)[1]).square()
            torch.testing.assert_close(row_NDSK[:, draw, 1].float(), change.amax(dim=(2, 3)))
            torch.testing.assert_close(row_NDSK[:, draw, 2].float(), change.mean(dim=(2, 3)))
    assert (row_NDSK[:, :, 1].amax(dim=2) > 0).float().mean() > 0.7  # noise that never exceeds the threshold is rare
    assert not row_NDSK[:, 0].equal(row_NDSK[:, 1])


@pytest.mark.parametrize("training", [True, False])
def test_residuals_are_ranked_when_normalized_and_seen_as_they_are(training):
    generator = torch.Generator().manual_seed(0)
    module = ResidualSegmentation(20, 3, 4).train(training)
    residual = torch.rand(2, 20, 6, 6, generator=generator) * torch.rand(20, 1, 1, generator=generator) * 10
    if not training:
        module.norm.running_mean.uniform_(0, 5)
        module.norm.running_var.uniform_(0.1, 4)
        mean, var = module.norm.running_mean.numpy(), module.norm.running_var.numpy()
    else:
        mean, var = residual.mean(dim=(0, 2, 3)).numpy(), residual.var(dim=(0, 2, 3), correction=0).numpy()
    normal = (residual.numpy() - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    seen = []
    module.blocks[0].register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0]))
    module(residual)
    for image in (0, 1):
        highest = np.argsort(-normal[image].max(axis=(1, 2)))[:3]
        highest = [*highest, *np.argsort(-normal[image].mean(axis=(1, 2)))[:4]]
        assert seen[0][image].equal(residual[image, highest])
    if training:
        torch.testing.assert_close(module.norm.running_mean, torch.from_numpy(0.9 * mean))


def test_segmentation_in_detail():
    """Pre-activated residual blocks on the chosen residuals, then a map of twice the size."""
    torch.manual_seed(0)
    module = ResidualSegmentation(8, 4, 4).eval()
    residual = torch.rand(1, 8, 6, 6)
    value = residual[:, module.selected(residual)[0]]
    for block in module.blocks:
        value = value + F.conv2d(F.conv2d(value.relu(), block[1].weight, padding=1).relu(), block[3].weight)
    fine = F.interpolate(module.fine(value), scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(module(residual), module.finer(fine))
    assert isinstance(module.fine[0], nn.ReLU)
    assert [part.out_channels for part in module.modules() if isinstance(part, nn.Conv2d)][4:] == [128, 32, 8, 4, 2]


def test_unet_gives_zeros_at_first_and_attends_where_it_should():
    torch.manual_seed(0)
    unet = FeatureUNet(64, UNetOptions())
    assert not unet(torch.randn(1, 64, 8, 8)).any()
    attended = []
    for part in unet.modules():
        if isinstance(part, Attention):
            part.register_forward_hook(lambda part, inputs, output: attended.append(tuple(output.shape[1:])))
            assert not part.project.weight.any()
    unet(torch.randn(1, 64, 8, 8))
    assert attended == [(64, 4, 4)] * 2 + [(128, 2, 2)] * 2 + [(128, 2, 2)] + [(128, 2, 2)] * 3 + [(64, 4, 4)] * 3


def test_attention_by_hand():
    """Two heads, each with queries, keys and values one after another."""
    torch.manual_seed(0)
    part, value = Attention(128), torch.randn(1, 128, 2, 3)
    nn.init.normal_(part.project.weight, std=0.1)
    flat = value.flatten(2)
    rows = part.qkv(F.group_norm(flat, 32))[0].view(2, 3, 64, 6)
    mixed = []
    for query, key, own in rows:
        weight = (query.T @ key / math.sqrt(64)).softmax(dim=1)
        mixed.append(own @ weight.T)
    expected = flat[0] + part.project.weight[:, :, 0] @ torch.cat(mixed) + part.project.bias[:, None]
    torch.testing.assert_close(part(value)[0], expected.view(128, 2, 3))


@pytest.mark.parametrize("change", [None, "down", "up"])
def test_residual_block_by_hand(change):
    torch.manual_seed(0)
    part, value = Residual(32, 64, change), torch.randn(1, 32, 4, 4)
    resize = [lambda x: x] * 2
    if change == "down":
        resize = [lambda x: x.view(1, 32, 2, 2, 2, 2).mean(dim=(3, 5))] * 2
    elif change == "up":
        layers = (part.resize, part.resize_shortcut)
        resize = [lambda x, y=y: F.conv_transpose2d(x, y.weight, y.bias, stride=2, padding=1) for y in layers]
        assert not part.resize.weight.equal(part.resize_shortcut.weight)
    inside = resize[0](F.silu(F.group_norm(value, 32)))
    beside = F.conv2d(resize[1](value), part.shortcut.weight, part.shortcut.bias)
    torch.testing.assert_close(part(value), beside + F.conv2d(inside, part.conv.weight, part.conv.bias, padding=1))


def test_anomalies_of_a_folder(folder):
    """One color in each anomaly, through which up to half of the image shows."""
    method = make(images=str(folder))
    assert drawn(Photos(str(folder), "x"), 64, 3, None, np.random.default_rng(0))["images"].shape == (3, 3, 64, 64)
    image_BCHW = torch.full((40, 3, 64, 64), 0.5)
    colors = torch.tensor([[255, 0, 51], [0, 102, 255]], dtype=torch.uint8)[torch.arange(40) % 2]
    source = colors[:, None, :, None, None].expand(-1, 1, -1, 64, 64)
    spoiled = method._spoiled(batch_of(image_BCHW, images=source))
    there = spoiled.mask.amax(dim=(1, 2)) > 0
    assert 10 <= there.sum() <= 28
    assert spoiled.image[~there].equal(image_BCHW[~there])
    shares = []
    for image, mask, color in zip(spoiled.image[there], spoiled.mask[there], (colors / 255)[there], strict=True):
        pixels = image[:, mask > 0]
        share = ((pixels - color[:, None]) / (0.5 - color[:, None])).mean().item()
        torch.testing.assert_close(pixels, (share * 0.5 + (1 - share) * color)[:, None].expand_as(pixels))
        assert image[:, mask == 0].unique().tolist() == [0.5]
        shares.append(share)
    assert 0 <= min(shares) < 0.15
    assert 0.35 < max(shares) <= 0.5
    forced = method._spoiled(batch_of(image_BCHW, images=source), probability=1.0)
    assert (forced.mask.amax(dim=(1, 2)) > 0).sum() > 32


def test_both_kinds_of_anomalies(folder):
    """In the same places; about a third of them textures."""
    method = make(images=str(folder), texture_share=0.3, anomaly_probability=1.0, image_opacity=(0.0, 0.0))
    source = torch.full((60, 1, 3, 64, 64), 255, dtype=torch.uint8)
    spoiled = method._spoiled(batch_of(torch.zeros(60, 3, 64, 64), images=source))
    there = spoiled.mask.amax(dim=(1, 2)) > 0
    white = torch.stack(
        [image[:, mask > 0].amin() == 1 for image, mask in zip(*spoiled[::2], strict=True) if mask.any()]
    )
    assert 0.5 < white.float().mean() < 0.9
    assert not spoiled.image[there][~white].eq(1).all(dim=1).any(dim=0).all()
    assert spoiled.image.amax(dim=1)[spoiled.mask == 0].max() == 0


def test_what_results_say_of_the_anomalies(folder):
    """Log, record and table take warnings and weights from here."""
    made_up = "synthetic anomalies have procedural textures (no folder of images was given)"
    stand_in = "no anomalies made by diffusion (no method.images): patches of textures stand in"
    assert make().warnings()[:2] == [stand_in, made_up]
    assert make(textures=str(folder)).warnings()[:1] == [stand_in]
    assert made_up not in make(textures=str(folder)).warnings()
    method = make(images=str(folder))
    assert not {stand_in, made_up} & {*method.warnings()}
    assert [each["name"] for each in method.weights()] == ["resnet18", "images (2)"]
    assert method.weights()[1]["source"] == str(folder)
    assert make(images=str(folder), texture_share=0.5).warnings()[0] == made_up
    names = ["a.png", "deeper/b.png"]
    assert [*RealNet.files({"images": str(folder)})["images"]] == names
    assert "textures" not in RealNet.files({"images": str(folder), "textures": str(folder)})
    assert [*RealNet.files({"textures": str(folder)})["textures"]] == names
    assert [stage.augment is None for stage in method.stages()] == [False, False]
    assert [stage.augment is None for stage in make().stages()] == [True, True]
    stage = next(make(images=str(folder), selection_draws=3).stages())
    view = stage.augment(np.zeros((3, 64, 64), np.uint8), np.random.default_rng(1))["images"]
    assert view.shape == (3, 3, 64, 64)
    assert view[0].tolist() in [planes(Image.open(folder / name), 64).tolist() for name in names]


def test_losses_by_hand(monkeypatch):
    """U-Nets that give the spoiled features back, and a segmentation that is sure of nothing."""
    method = make()
    monkeypatch.setattr(FeatureUNet, "forward", lambda self, feature: feature)
    monkeypatch.setattr(ResidualSegmentation, "forward", lambda self, residual: torch.zeros(2, 2, 32, 32))
    clean, image, mask = images(2, 64), images(4, 64)[2:], torch.zeros(2, 64, 64)
    losses = method.losses(Synthetic(image, clean, mask))
    pairs = zip(*(method.selection(method.backbone(each)) for each in (image, clean)), strict=True)
    assert losses["mse"].item() == pytest.approx(sum((a - b).square().mean().item() for a, b in pairs), rel=1e-5)
    assert losses["ce"].item() == pytest.approx(math.log(2), rel=1e-6)
    sure = torch.zeros(2, 2, 32, 32)
    sure[:, 1] = math.log(3)  # 0.75 for an anomaly everywhere
    monkeypatch.setattr(ResidualSegmentation, "forward", lambda self, residual: sure)
    mask[0, :32] = 1  # a quarter of all pixels
    found = method.losses(Synthetic(image, clean, mask))["ce"].item()
    assert found == pytest.approx(-0.25 * math.log(0.75) - 0.75 * math.log(0.25), rel=1e-6)


def test_the_segmentation_sees_squared_residuals_on_the_finest_grid(monkeypatch):
    method, seen = make().eval(), []
    monkeypatch.setattr(FeatureUNet, "forward", lambda self, feature: 0.5 * feature)
    monkeypatch.setattr(
        ResidualSegmentation, "forward", lambda self, residual: seen.append(residual) or torch.zeros(1, 2, 32, 32)
    )
    predict(method, images(1, 64))
    with torch.no_grad():
        fine, coarse = method.selection(method.backbone(images(1, 64)))
    assert seen[0].shape == (1, 128, 16, 16)
    torch.testing.assert_close(seen[0][:, :64], 0.25 * fine.square())
    torch.testing.assert_close(seen[0][0, 64:, 0, 0], 0.25 * coarse[0, :, 0, 0].square())
    torch.testing.assert_close(seen[0][0, 64:, -1, -1], 0.25 * coarse[0, :, -1, -1].square())  # corners are aligned


def test_map_and_score_of_known_logits(monkeypatch):
    logit = torch.zeros(1, 2, 64, 64)
    logit[:, 1] = -50.0
    logit[0, 1, :10, :10] = math.log(3)
    monkeypatch.setattr(RealNet, "forward", lambda self, image: logit)
    score, map_BHW = predict(make(), images(1, 64))
    assert map_BHW[0, :10, :10].unique().tolist() == pytest.approx([0.75])
    assert map_BHW[0, 10:].max() < 1e-6
    assert score.item() == pytest.approx(0.75 * 100 / 16**2)


def test_what_is_refused():
    for arguments, message in (
        ({"image_opacity": (0.5, 0.1)}, "image_opacity=.* is upside down"),
        ({"planes": (64, 192)}, r"planes=\[64, 192\] does not suit layers \[1, 2\] of \[64, 128\] channels"),
        ({"planes": (64,)}, "give one number for each"),
        ({"top_max": 129}, "must not exceed the 128 channels"),
        ({"images": "/nowhere"}, None),
    ):
        if message:
            with pytest.raises(UserError, match=message):
                make(**arguments)
    with pytest.raises(UserError, match=r"^method.images='/nowhere' is not a folder"):
        RealNet.files({"images": "/nowhere"})
    with pytest.raises(UserError, match="images of 64x72 pixels do not allow: give multiples of 16"):
        predict(make(), torch.zeros(1, 3, 64, 72))


def test_short_training_lowers_the_loss():
    method, losses = make(epochs=12, lr=1e-3), []
    scalar = lambda tag, value, step: losses.append(value) if tag == "train/mse" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, RandomImages(64, 1, CPU, method.tags))
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0], losses
