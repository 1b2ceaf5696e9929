"""DRAEM against the numbers and definitions of its paper, of the official code and of ADer's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d
from sklearn.metrics import roc_auc_score
from torch import nn

from ader.config.compose import compose
from ader.data import load_index
from ader.data.sizes import Sizes
from ader.methods import build
from ader.methods._base import Batch
from ader.methods.draem import DRAEM, focal_loss, ssim_loss
from ader.nets.synthesis.synthetic import Synthetic, SyntheticAnomalies
from ader.system.errors import UserError
from ader.testing.subject import images, predict
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = {"image_size": 64, "reconstruction_width": 4, "discriminator_width": 4}


@pytest.fixture(scope="module")
def wide() -> DRAEM:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return DRAEM()


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def trained_on(method: DRAEM, image_BCHW: torch.Tensor, seed_B: torch.Tensor) -> Synthetic:
    """What a training step takes the losses of."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "losses", lambda spoiled: seen.append(spoiled) or {"none": torch.zeros(())})
        method._step(Batch(image_BCHW=image_BCHW, seed_B=seed_B), lambda loss: None)
    (spoiled,) = seen
    return spoiled


def test_parameters(wide):
    assert count_parameters(wide) == (97_422_725, 97_422_725)  # ADer Table 1: 97.4 M
    assert count(wide.reconstructor) == 69_048_579
    assert count(wide.segmenter) == 28_374_146


def test_macs(wide):
    """ADer Table 1 says 198 G, 198.27 by fvcore with the batch norms; the convolutions have 197.95."""
    assert count_macs(wide, 256, torch.device("meta")) == pytest.approx(197.95e9, rel=1e-4)


def outputs_of(module: nn.Module, number: int) -> list[tuple[int, ...]]:
    """Shapes (C, H, W) that the module's convolutions give."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        part.register_forward_hook(lambda part, inputs, output: shapes.append(tuple(output.shape[1:])))
        for part in module.modules()
        if isinstance(part, nn.Conv2d)
    ]
    module(torch.empty(1, number, 256, 256, device="meta"))
    for hook in hooks:
        hook.remove()
    return shapes


def test_shapes_of_the_reconstruction(wide):
    twice = lambda *shape: [shape, shape]  # noqa: E731
    assert outputs_of(wide.reconstructor, 3) == [
        *twice(128, 256, 256),
        *twice(256, 128, 128),
        *twice(512, 64, 64),
        *twice(1024, 32, 32),
        *twice(1024, 16, 16),
        *[(1024, 32, 32), (1024, 32, 32), (512, 32, 32)],
        *[(512, 64, 64), (512, 64, 64), (256, 64, 64)],
        *[(256, 128, 128), (256, 128, 128), (128, 128, 128)],
        *[(128, 256, 256)] * 3,
        (3, 256, 256),
    ]


def test_shapes_of_the_segmentation(wide):
    twice = lambda *shape: [shape, shape]  # noqa: E731
    assert outputs_of(wide.segmenter, 6) == [
        *twice(64, 256, 256),
        *twice(128, 128, 128),
        *twice(256, 64, 64),
        *twice(512, 32, 32),
        *twice(512, 16, 16),
        *twice(512, 8, 8),
        *[(512, 16, 16)] * 3,
        *[(256, 32, 32)] * 3,
        *[(128, 64, 64)] * 3,
        *[(64, 128, 128)] * 3,
        *[(64, 256, 256)] * 3,
        (2, 256, 256),
    ]
    merged = [block[0].in_channels for block in wide.segmenter.merges]
    assert merged == [512 + 512, 256 + 512, 128 + 256, 64 + 128, 64 + 64]


def test_skips_come_from_the_scale_they_go_to():
    """The decoder sees what came up first, and then what its own scale's encoder gave."""
    torch.manual_seed(0)
    segmenter = DRAEM(**SMALL).segmenter
    given: dict[str, torch.Tensor] = {}
    for number in range(5):
        down, rise, merge = segmenter.down[4 - number], segmenter.rises[number], segmenter.merges[number]
        down.register_forward_hook(lambda part, inputs, output, n=number: given.update({f"skip{n}": output}))
        rise.register_forward_hook(lambda part, inputs, output, n=number: given.update({f"rise{n}": output}))
        merge.register_forward_pre_hook(lambda part, inputs, n=number: given.update({f"merged{n}": inputs[0]}))
    segmenter(torch.rand(2, 6, 64, 64))
    for number in range(5):
        assert given[f"merged{number}"].equal(torch.cat([given[f"rise{number}"], given[f"skip{number}"]], dim=1))


def test_layers_in_detail():
    """What parameter counts cannot tell: order, padding, interpolation, initialization."""
    torch.manual_seed(0)
    method = DRAEM(**{**SMALL, "reconstruction_width": 16, "discriminator_width": 16})
    parts = list(method.modules())
    for number, part in enumerate(parts):
        if isinstance(part, nn.Conv2d):
            assert (part.kernel_size, part.padding, part.stride) == ((3, 3), (1, 1), (1, 1))
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.2)
            limit = 1 / math.sqrt(part.weight[0].numel())  # torch's default for biases: uniform
            assert 0 < part.bias.abs().max().item() <= limit
            if part.out_channels > 3:
                assert isinstance(parts[number + 1], nn.BatchNorm2d)
                assert isinstance(parts[number + 2], nn.ReLU)
        elif isinstance(part, nn.BatchNorm2d):
            assert (part.eps, part.momentum) == (1e-5, 0.1)
            assert part.bias.abs().max() == 0
        elif isinstance(part, nn.MaxPool2d):
            assert (part.kernel_size, part.stride or 2) == (2, 2)
        elif isinstance(part, nn.Upsample):
            assert (part.scale_factor, part.mode, part.align_corners) == (2, "bilinear", True)
    scales = torch.cat([part.weight for part in parts if isinstance(part, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1.0, abs=0.003)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)
    assert sum(isinstance(part, nn.MaxPool2d) for part in parts) == 4 + 5
    assert sum(isinstance(part, nn.Upsample) for part in parts) == 4 + 5
    assert not any(isinstance(part, nn.Sigmoid) for part in parts)


def composed(*overrides: str) -> tuple[dict, DRAEM]:
    values = compose(["method=draem", "dataset=demo", *overrides]).values
    small = {"reconstruction_width": 4, "discriminator_width": 4}
    arguments = {key: value for key, value in values["method"].items() if key != "name"} | small
    return values, build("draem", **arguments)


def test_recipe():
    _, method = composed()
    (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    assert list(stage.modules) == [method.reconstructor, method.segmenter]
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last) == (100, 8, 5.0, True)
    assert isinstance(optimizer, torch.optim.Adam)
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay", "eps")} == {
        "lr": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0,
        "eps": 1e-8,
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(method.parameters()))
    schedule = stage.schedules["networks"]
    assert [schedule(step / 100) for step in (0, 79, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1])
    assert isinstance(method.normalize, nn.Identity)
    made = method.anomalies
    assert (made.probability, made.opacity, made.augment_textures) == (0.5, (0.0, 0.8), True)
    assert (made.rotation_probability, made.threshold, made.noise_rotation) == (0.3, 0.5, 90.0)
    assert method.warnings() == [made.textures.warning]


def test_official_recipe():
    values, method = composed("recipe=official")
    (stage,) = method.stages()
    assert values["image_size"] == 256
    assert (stage.epochs, stage.batch_size, stage.clip) == (700, 8, None)
    schedule = stage.schedules["networks"]
    assert [schedule(step / 700) for step in (559, 560, 629, 630, 699)] == pytest.approx([1, 0.2, 0.2, 0.04, 0.04])
    assert isinstance(method.normalize, nn.Identity)
    assert method.score_padding == 10


def test_ader_recipe():
    """No anomaly, so nothing to find, and ImageNet's statistics for input and target."""
    _, method = composed("recipe=ader")
    (stage,) = method.stages()
    assert (stage.epochs, stage.clip) == (100, 5.0)
    assert "empty masks" in method.warnings()[0]
    image_BCHW = images(2, 64)
    spoiled = trained_on(method, image_BCHW, torch.arange(2))
    assert spoiled.image.equal(image_BCHW)
    assert spoiled.clean.equal(image_BCHW)
    assert spoiled.mask.shape == (2, 64, 64)
    assert spoiled.mask.sum() == 0
    gray = method.normalize(torch.full((1, 3, 1, 1), 0.5)).flatten()
    assert gray.tolist() == pytest.approx([0.015 / 0.229, 0.044 / 0.224, 0.094 / 0.225], rel=1e-4)
    before = method.eval()(image_BCHW)[0]
    torch.testing.assert_close(before, method.reconstructor(method.normalize(image_BCHW)))


def brute_ssim(first: np.ndarray, second: np.ndarray, span: float) -> float:
    """Two-dimensional windows, channel by channel, zeros around."""
    offset = np.arange(11) - 5
    line = np.exp(-(offset**2) / 4.5)
    window = np.outer(line, line) / line.sum() ** 2
    blur = lambda channel: convolve2d(channel, window, mode="same")  # noqa: E731
    c1, c2, values = (0.01 * span) ** 2, (0.03 * span) ** 2, []
    for a, b in zip(first.reshape(-1, *first.shape[2:]), second.reshape(-1, *second.shape[2:]), strict=True):
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        cov = blur(a * b) - mean_a * mean_b
        top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
        values.append(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize(("shift", "span"), [(0.0, 1.0), (-0.4, 1.0), (-0.6, 2.0)])
def test_ssim_is_the_brute_force_one(shift, span):
    """Whether the range is 1 or 2 follows from the reconstruction, not from the target."""
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 3, 24, 20)) + shift, rng.random((2, 3, 24, 20)) - 1
    expected = 1 - brute_ssim(first, second, span)
    assert ssim_loss(torch.from_numpy(first), torch.from_numpy(second)).item() == pytest.approx(expected, abs=1e-9)
    single = ssim_loss(torch.from_numpy(first).float(), torch.from_numpy(second).float()).item()
    assert single == pytest.approx(expected, abs=1e-5)


def test_ssim_of_constant_images():
    """By hand, away from the border's zeros: no variance, so the means' term alone."""
    one, other = torch.full((1, 1, 200, 200), 0.8), torch.full((1, 1, 200, 200), 0.4)
    hand = 1 - (2 * 0.32 + 1e-4) / (0.64 + 0.16 + 1e-4)
    assert ssim_loss(one, other).item() == pytest.approx(hand, abs=0.03)
    assert ssim_loss(one, one).item() == pytest.approx(0, abs=1e-6)
    assert ssim_loss(1000 * one, 1000 * one).isfinite()


def test_ssim_gradient():
    first = torch.rand(1, 2, 12, 12, dtype=torch.float64, requires_grad=True)
    second = torch.rand(1, 2, 12, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda image: ssim_loss(image, second), first)


def test_focal_by_hand():
    """Four pixels of known probability: anomalous at 0.9 and 0.5, normal at 0.2 and 0.5."""
    odds = torch.tensor([[9.0, 1.0], [0.25, 1.0]])
    logit = torch.stack([torch.zeros(2, 2), odds.log()])[None]
    mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    hand = np.mean([-((1 - p) ** 2) * math.log(p) for p in (0.9, 0.5, 0.8, 0.5)])
    assert focal_loss(logit, mask, 2.0).item() == pytest.approx(hand, rel=1e-3)
    entropy = np.mean([-math.log(p) for p in (0.9, 0.5, 0.8, 0.5)])
    assert focal_loss(logit, mask, 0.0).item() == pytest.approx(entropy, rel=1e-3)


def test_focal_smoothing():
    """Smoothed targets to the last digit, also where a probability is 0: finite, with p = 1e-5 (1 - 1e-5) at most."""
    logit = torch.tensor([[[[0.0]], [[1.0]]]], dtype=torch.float64)
    right, s = math.e / (1 + math.e), 1e-5
    true = (1 - s) * right + s * (1 - right) + s
    expected = -((1 - true) ** 2) * math.log(true)
    assert focal_loss(logit, torch.ones(1, 1, 1, dtype=torch.float64), 2.0).item() == pytest.approx(expected, rel=1e-12)
    wrong = focal_loss(torch.tensor([[[[200.0]], [[-200.0]]]]), torch.ones(1, 1, 1), 2.0)
    assert wrong.item() == pytest.approx(-math.log(2e-5), rel=1e-3)


def test_losses_are_of_the_clean_image_and_the_mask(monkeypatch):
    """A network that repaints nothing and is sure of nothing, on a spoiled image."""
    method = DRAEM(**SMALL)
    clean = torch.full((2, 3, 64, 64), 0.5)
    image, mask = clean.clone(), torch.zeros(2, 64, 64)
    image[0, :, :32], mask[0, :32] = 0.9, 1.0
    monkeypatch.setattr(DRAEM, "forward", lambda self, image: (image, torch.zeros(2, 2, 64, 64)))
    losses = method.losses(Synthetic(image, clean, mask))
    assert losses["mse"].item() == pytest.approx(0.16 / 4, rel=1e-5)
    assert losses["ssim"].item() == pytest.approx(1 - brute_ssim(image.numpy(), clean.numpy(), 1.0), abs=1e-4)
    assert losses["focal"].item() == pytest.approx(0.25 * math.log(2), rel=1e-3)
    minimized = []
    monkeypatch.setattr(SyntheticAnomalies, "forward", lambda self, *batch: Synthetic(image, clean, mask))
    logged = method._step(Batch(clean, torch.arange(2)), lambda loss: minimized.append(loss))
    assert {name: loss.item() for name, loss in logged.items()} == {name: loss.item() for name, loss in losses.items()}
    assert minimized[0].item() == pytest.approx(sum(loss.item() for loss in logged.values()))


def test_both_networks_learn_from_the_focal_loss():
    """The reconstruction receives gradients through the segmentation."""
    torch.manual_seed(0)
    method = DRAEM(**SMALL).train()
    _, logit = method(images(2, 64))
    focal_loss(logit, torch.zeros(2, 64, 64), 2.0).backward()
    assert all(weight.grad is not None for weight in method.parameters())


def test_map_and_scores_of_known_logits(monkeypatch):
    """An anomaly in the corner: with padding its window holds 10 x 10 pixels fewer of it than it could."""
    logit = torch.full((1, 2, 64, 64), 0.0)
    logit[:, 1] = -50.0
    logit[0, 1, :15, :8] = math.log(3)  # probability 0.75
    monkeypatch.setattr(DRAEM, "forward", lambda self, image: (image, logit))
    score, map_BHW = predict(DRAEM(**SMALL), images(1, 64))
    assert map_BHW[0, :15, :8].unique().tolist() == pytest.approx([0.75])
    assert map_BHW[0, 15:].max() < 1e-6
    assert score.item() == pytest.approx(0.75 * 15 * 8 / 21**2)
    padded, _ = predict(DRAEM(**SMALL, score_padded=True), images(1, 64))
    assert padded.item() == pytest.approx(score.item())  # all of it fits either way
    logit[0, 1, :15, :8], logit[0, 1, :, :21] = -50.0, math.log(3)
    whole, _ = predict(DRAEM(**SMALL), images(1, 64))
    assert whole.item() == pytest.approx(0.75)
    odd, _ = predict(DRAEM(**SMALL, score_window=1), images(1, 64))
    assert odd.item() == pytest.approx(0.75)
    logit[0, 1] = math.log(3)
    logit[0, 1, 1:] = -50.0  # one row: an unpadded window holds it as a padded one does
    assert predict(DRAEM(**SMALL, score_padded=True), images(1, 64)).score_B.item() == pytest.approx(0.75 / 21)


def test_padding_matters_for_small_maps(monkeypatch):
    """A window larger than the map is cut to it; a padded one counts zeros."""
    logit = torch.zeros(1, 2, 64, 64)
    monkeypatch.setattr(DRAEM, "forward", lambda self, image: (image, logit))
    assert predict(DRAEM(**SMALL, score_window=201), images(1, 64)).score_B.item() == pytest.approx(0.5)
    padded = predict(DRAEM(**SMALL, score_window=101, score_padded=True), images(1, 64)).score_B.item()
    assert padded == pytest.approx(0.5 * 64**2 / 101**2)


def test_the_layout_in_memory_changes_nothing():
    """Without gradients convolutions run channels last, with them channels first: the same numbers."""
    torch.manual_seed(0)
    method = DRAEM(**SMALL).eval()
    first = method(images(2, 64))
    with torch.no_grad():
        second = method(images(2, 64))
    assert second[1].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_training_sees_anomalies_of_the_seeds():
    method = DRAEM(**SMALL, anomaly_probability=1.0)
    image_BCHW = images(6, 64)
    first = trained_on(method, image_BCHW, torch.arange(6))
    again = trained_on(method, image_BCHW, torch.arange(6))
    other = trained_on(method, image_BCHW, torch.arange(6, 12))
    assert first.image.equal(again.image)
    assert not first.mask.equal(other.mask)
    assert 0 < first.mask.mean() < 0.5


def test_textures_of_a_folder_are_said(tmp_path):
    Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / "one.png")
    method = DRAEM(**SMALL, textures=str(tmp_path))
    assert method.warnings() == []
    assert [entry["name"] for entry in method.weights()] == ["textures (1 images)"]
    assert not any("texture" in name for name in method.state_dict())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 100}, "image_size=100 does not suit draem: give a multiple of 32"),
        ({"opacity": [0.8, 0.2]}, "upside down"),
        ({"opacity": [0.0, 1.2]}, "less than or equal to 1"),
        ({"textures": "/nowhere/dtd"}, "is not a folder"),
        ({"lr_decay_at": [0.0]}, "greater than 0"),
        ({"normalize": "mean"}, "'none' or 'imagenet'"),
        ({"anomaly_probability": -0.1}, "greater than or equal to 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, words):
    with pytest.raises(UserError, match=words):
        build("draem", **{**SMALL, **arguments})


def test_bfloat16_losses():
    """Norms, SSIM and focal loss in float32: losses move by what the convolutions lose, not by more."""
    torch.manual_seed(0)
    method = DRAEM(**SMALL, anomaly_probability=1.0).train()
    spoiled = trained_on(method, images(4, 64), torch.arange(4))
    exact = method.losses(spoiled)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method.losses(spoiled)
    for name, loss in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(loss.item(), rel=0.02), name
    flat = torch.full((1, 3, 32, 32), 0.7)
    with torch.autocast("cpu", torch.bfloat16):
        assert ssim_loss((flat + 0.001).bfloat16(), flat).item() == pytest.approx(
            ssim_loss(flat, flat).item(), abs=1e-3
        )


def pixel_auroc(method: DRAEM, loader: Loader) -> float:
    maps, masks = [], []
    for _, image_BCHW, mask_BHW, _ in loader.test(8, Sizes()):
        maps.append(predict(method, image_BCHW).map_BHW.numpy().ravel())
        masks.append(mask_BHW.numpy().ravel())
    return float(roc_auc_score(np.concatenate(masks), np.concatenate(maps)))


def test_short_training_finds_defects(tmp_path):
    """Narrow networks, 32 pixels, 90 steps on generated images of one category, with anomalies that are easy to see."""
    index = load_index("demo", tmp_path / "demo", ["metal"], size=64)
    torch.manual_seed(0)
    method = build(
        "draem",
        image_size=32,
        reconstruction_width=8,
        discriminator_width=8,
        lr=0.003,
        epochs=30,
        anomaly_probability=0.8,
        opacity=[0.0, 0.3],
        rotation_probability=0.0,
    )
    loader = Loader(index, 32, CPU, 0, 0, method.tags)
    before = pixel_auroc(method, loader)
    logged: dict[str, list[float]] = {}
    scalar = lambda tag, value, step: logged.setdefault(tag, []).append(value)  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, loader)
    for name in ("mse", "ssim", "focal"):
        values = logged[f"train/{name}"]
        assert np.mean(values[-5:]) < 0.5 * np.mean(values[:3]), (name, values)
    after = pixel_auroc(method, loader)
    assert before < 0.6
    assert after > 0.75, (before, after)
