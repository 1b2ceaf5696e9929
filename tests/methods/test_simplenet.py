"""SimpleNet against the numbers and definitions of its paper, of ADer's code and of the official code."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ader.config.compose import compose
from ader.config.options import config_folder
from ader.methods import build
from ader.methods._base import Batch, TrainStage
from ader.methods.simplenet import SimpleNet, hinge_loss
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.scoring.patches import PatchFeatures, probe_in_training_mode
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.optimization import Optimization
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
RESNET18 = {"name": "resnet18", "pretrained": False}


@pytest.fixture(scope="module")
def wide() -> SimpleNet:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return SimpleNet(backbone=BackboneOptions("wide_resnet50_2.tv_in1k", pretrained=False))


def small(**arguments) -> SimpleNet:
    return Subject.named("simplenet", **arguments).make()


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


# ------------------------------------------------------------------ size


def test_parameters(wide):
    """The published 72.8 M hold the whole backbone, of which layer4 and the classifier are never used."""
    assert count_parameters(wide) == (24_862_528 + 3_937_792, 3_937_792)
    assert count(wide.adaptor) == 2_360_832
    assert count(wide.discriminator) == 1_576_960
    with torch.device("meta"):
        whole = timm.create_model("wide_resnet50_2")
    assert count(whole) == 68_883_240
    assert count(wide) + count(whole.layer4) + count(whole.fc) == 72_821_032


def test_macs(wide):
    """The published 17.715 G are fvcore's of the training pass: convolutions, linear layers, and two kinds that the
    counter of torch leaves out (batch norms, and upstream's interpolation of unfolded patches)."""
    convolutions, linear, norms, interpolation = 11_998_855_168, 5_639_241_728, 39_583_744, 37_748_736
    assert convolutions + linear + norms + interpolation == 17_715_429_376
    patches = 768 * 18 * 32**2 + 768 * 36 * 16**2
    macs = count_macs(wide, 256, torch.device("meta"))
    assert macs == convolutions + linear + patches
    assert macs == pytest.approx(17.715e9, rel=0.005)


def test_macs_of_a_prediction(wide):
    with FlopCounterMode(display=False) as counter:
        predict(wide, torch.empty(1, 3, 256, 256, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(16.0e9, rel=0.01)


# ------------------------------------------------------------------ layers


def bilinear(rows: int, outputs: int) -> np.ndarray:
    """(outputs, rows) weights of bilinear interpolation without aligned corners, from its definition."""
    matrix = np.zeros((outputs, rows))
    for output in range(outputs):
        place = max((output + 0.5) * rows / outputs - 0.5, 0.0)
        low = math.floor(place)
        matrix[output, low] += 1 - (place - low)
        matrix[output, min(low + 1, rows - 1)] += place - low
    return matrix


def test_patch_features_in_closed_form():
    """Neighborhoods of zero-padded features, flattened channel first, in runs of 6 (layer2) and of 12 (layer3)."""
    rng = np.random.default_rng(0)
    fine_CHW, coarse_CHW = rng.normal(size=(512, 6, 4)), rng.normal(size=(1024, 3, 2))
    pooled = []
    for feature_CHW, run in ((fine_CHW, 6), (coarse_CHW, 12)):
        channels, height, width = feature_CHW.shape
        padded = np.pad(feature_CHW, ((0, 0), (1, 1), (1, 1)))
        pooled.append(np.zeros((channels * 9 // run, height, width)))
        for row in range(height):
            for column in range(width):
                patch = padded[:, row : row + 3, column : column + 3].reshape(-1)
                pooled[-1][:, row, column] = patch.reshape(-1, run).mean(axis=1)
    coarse = np.einsum("hH,cHW,wW->chw", bilinear(3, 6), pooled[1], bilinear(2, 4))
    expected = np.concatenate([pooled[0], coarse])
    features = [torch.from_numpy(feature)[None].float() for feature in (fine_CHW, coarse_CHW)]
    patch_BDHW = PatchFeatures([512, 1024], 1536)(features)
    assert patch_BDHW.shape == (1, 1536, 6, 4)
    np.testing.assert_allclose(patch_BDHW[0].numpy(), expected, atol=2e-6)


def test_layers_in_detail():
    """What parameter counts cannot tell: order, slope, normalization, the initialization of weights and biases."""
    method = small(embed_dim=512, hidden_dim=256)
    first, norm, slope, last = method.discriminator
    assert isinstance(method.adaptor, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert (norm.eps, norm.momentum, norm.affine) == (1e-5, 0.1, True)
    assert isinstance(slope, nn.LeakyReLU)
    assert slope.negative_slope == 0.2
    assert last.bias is None
    for layer, shape in ((method.adaptor, (512, 512)), (first, (256, 512)), (last, (1, 256))):
        assert tuple(layer.weight.shape) == shape
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / sum(shape)), rel=0.15)
    for layer in (method.adaptor, first):
        assert abs(layer.weight).max() > 3.5 * math.sqrt(2 / sum(layer.weight.shape))  # normal, not uniform
        assert layer.bias.std().item() == pytest.approx(1 / math.sqrt(3 * 512), rel=0.15)  # torch's default
    assert method.backbone.channels == [128, 256]  # layer2 and layer3


def test_features_come_from_layer2_and_layer3(wide):
    assert (wide.backbone.channels, wide.backbone.strides) == ([512, 1024], [8, 16])
    assert wide._patches(torch.empty(2, 3, 256, 256, device="meta")).shape == (2, 32, 32, 1536)


def test_probe_moves_batch_norms_as_one_image_of_ones_in_training_mode():
    """First batch norm by hand: a tenth of the way to mean and unbiased variance of what the first convolution gives
    for unnormalized ones."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneOptions(**RESNET18), (2, 3))
    plain = copy.deepcopy(backbone.net)
    probe_in_training_mode(backbone, 64)
    before = plain.conv1(torch.ones(1, 3, 64, 64)).detach().double()
    norm = backbone.net.bn1
    torch.testing.assert_close(norm.running_mean.double(), 0.1 * before.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    expected = 0.9 + 0.1 * before.var(dim=(0, 2, 3), unbiased=True)
    torch.testing.assert_close(norm.running_var.double(), expected, rtol=1e-4, atol=1e-6)
    assert not any(part.training for part in backbone.modules())
    for name, weight in plain.named_parameters():
        assert weight.equal(backbone.net.get_parameter(name))


def test_probe_is_upstreams_only():
    default, probed = (small(probe_size=size).backbone.net for size in (None, 64))
    assert default.bn1.running_mean.abs().max() == 0
    assert probed.bn1.running_mean.abs().max() > 0
    assert probed.layer3[1].bn2.running_mean.abs().max() > 0


# ------------------------------------------------------------------ recipe


def stage_of(recipe: str | None = None) -> tuple[SimpleNet, TrainStage]:
    """The YAML's method, or one of its recipes, and its stage; epochs are the trainer's business."""
    values = OmegaConf.to_container(OmegaConf.load(config_folder() / "method" / "simplenet.yaml"), resolve=False)
    recipes = values.pop("recipes")
    changes = recipes[recipe] if recipe else {}
    values |= {key.removeprefix("method."): value for key, value in changes.items() if key.startswith("method.")}
    method = build(values.pop("name"), **(values | {"epochs": 7, "backbone": RESNET18}))
    assert isinstance(method, SimpleNet)
    (stage,) = method.stages()
    return method, stage


def decays(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """Weight decay by the parameter's identity."""
    return {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}


@pytest.mark.parametrize(
    ("recipe", "batch_size", "drop_last", "clip", "constant", "biases", "image_score"),
    [
        (None, 32, True, 5.0, False, False, "map"),
        ("ader", 32, True, 5.0, True, False, "map"),
        ("official", 8, False, None, True, True, "patch"),
    ],
)
def test_recipes(recipe, batch_size, drop_last, clip, constant, biases, image_score):
    method, stage = stage_of(recipe)
    assert list(stage.modules) == [method.adaptor, method.discriminator]
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last) == (7, batch_size, clip, drop_last)
    adaptor, discriminator = stage.optimizers["adaptor"], stage.optimizers["discriminator"]
    assert list(stage.optimizers) == ["adaptor", "discriminator"]
    assert (type(adaptor), type(discriminator)) == (torch.optim.AdamW, torch.optim.Adam)
    for optimizer, part, rate, decay in (
        (adaptor, method.adaptor, 1e-4, 1e-2),
        (discriminator, method.discriminator, 2e-4, 1e-5),
    ):
        defaults = {key: optimizer.defaults[key] for key in ("betas", "eps", "amsgrad")}
        assert defaults == {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}
        assert {group["lr"] for group in optimizer.param_groups} == {rate}
        expected = {id(weight): decay if weight.ndim > 1 or biases else 0 for weight in part.parameters()}
        assert decays(optimizer) == expected
    for name in stage.optimizers:
        factors = [stage.schedules[name](step / 700) for step in (0, 559, 560, 699)]
        assert factors == ([1.0] * 4 if constant else [1.0, 1.0, 0.1, 0.1])
    assert (method.noise_std, method.margin, method.image_score, method.blur.sigma) == (0.015, 0.5, image_score, 4.0)
    moved = bool(method.backbone.net.bn1.running_mean.abs().max() > 0)
    assert moved == (recipe is not None), "the probe with an image of ones is upstream's"


def test_aders_recipe_has_its_seed_and_precision():
    """ADer's configuration has seed 0 for SimpleNet alone; it runs with PyTorch's default: TF32 in convolutions."""
    config = compose(["method=simplenet", "dataset=demo", "recipe=ader"])
    assert (config.seed, config.trainer.precision) == (0, "torch")
    assert compose(["method=simplenet", "dataset=demo", "recipe=ader", "seed=5"]).seed == 5


def test_recipe_of_the_run():
    recipes = OmegaConf.load(config_folder() / "method" / "simplenet.yaml").recipes
    assert (recipes.official["trainer.epochs"], recipes.official["image_size"]) == (160, 288)
    assert (recipes.official["method.probe_size"], recipes.ader["method.probe_size"]) == (288, 256)


# ------------------------------------------------------------------ training


def test_loss_by_hand():
    real, fake = torch.tensor([0.7, 0.2, 0.5, -1.0]), torch.tensor([-0.9, 0.1])
    expected = (0 + 0.3 + 0 + 1.5) / 4 + (0 + 0.6) / 2
    assert hinge_loss(real, fake, 0.5).item() == pytest.approx(expected, abs=1e-6)
    assert hinge_loss(real, fake, 0.0).item() == pytest.approx((0 + 0 + 0 + 1.0) / 4 + 0.1 / 2, abs=1e-6)


def batch_of(method: SimpleNet, number: int = 2) -> Batch:
    return Batch(image_BCHW=images(number, 64), seed_B=torch.arange(number))


def training(method: SimpleNet) -> TrainStage:
    (stage,) = method.stages()
    method.eval()
    for module in stage.modules:
        module.train()
    return stage


def test_logs_loss_and_shares(monkeypatch):
    """Three quarters of the real outputs reach the margin of 0.5, a quarter of the fake ones their negative one."""
    real, fake = torch.tensor([0.6, 0.5, 9.0, 0.4]), torch.tensor([-0.6, -0.4, 0.6, 9.0])
    monkeypatch.setattr(SimpleNet, "forward", lambda self, image_BCHW, seed_B: (real, fake))
    method = small()
    seen = []
    logged = training(method).step(batch_of(method), lambda loss, *names: seen.append((loss, names)))
    assert {name: value.item() for name, value in logged.items()} == pytest.approx(
        {"hinge": 0.1 / 4 + (0.1 + 1.1 + 9.5) / 4, "real_above_margin": 0.75, "fake_below_margin": 0.25}
    )
    assert seen == [(logged["hinge"], ())]  # all optimizers, one backward pass


def test_fake_patches_are_real_ones_with_noise():
    """One pass of the discriminator over both; Gaussian noise of the given spread on adapted features, its own for
    each element and each step."""
    method = small(embed_dim=128, noise_std=0.25)
    training(method)
    seen = []
    method.discriminator.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    results = [method(images(2, 64), torch.arange(2) + 2 * step) for step in range(2)]
    assert len(seen) == 2
    noise = []
    for (rows, output), (real_N, fake_N) in zip(seen, results, strict=True):
        assert rows.shape == (2 * 128, 128)
        assert torch.cat([real_N, fake_N]).equal(output[:, 0])
        adapted = method.adaptor(method._patches(images(2, 64)).flatten(0, 2))
        torch.testing.assert_close(rows[:128], adapted)
        noise.append((rows[128:] - rows[:128]).detach().double())
    flat = torch.stack(noise).flatten().numpy()
    assert len(np.unique(flat.round(7))) > 0.95 * len(flat)
    assert kstest(flat / 0.25, "norm").pvalue > 1e-3
    assert np.std(flat) == pytest.approx(0.25, rel=0.02)
    assert abs(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) < 0.05


def test_one_step_by_the_formulas():
    """AdamW and Adam at their first step, each on gradients clipped by its own norm; vectors do not decay."""
    method = small(clip=1e-6, embed_dim=96, hidden_dim=32, adaptor_weight_decay=0.5, discriminator_weight_decay=1e-7)
    stage, batch = training(method), None
    batch = batch_of(method)
    twin = copy.deepcopy(method)
    hinge_loss(*twin(batch.image_BCHW, batch.seed_B), 0.5).backward()
    stage.step(batch, Optimization(stage, CPU))
    for part, rate in (("adaptor", 1e-4), ("discriminator", 2e-4)):
        weights = dict(twin.get_submodule(part).named_parameters())
        norm = math.sqrt(sum(float(weight.grad.double().square().sum()) for weight in weights.values()))
        assert norm > 1e-3  # clipping has an effect
        for name, weight in weights.items():
            value = weight.detach().double()
            gradient = weight.grad.double() * 1e-6 / norm
            matrix = weight.ndim > 1
            if part == "discriminator":  # Adam: decay goes into the gradient
                gradient = gradient + (1e-7 * value if matrix else 0)
                kept = value
            else:  # AdamW: decay shrinks the weight
                kept = value * (1 - rate * 0.5) if matrix else value
            expected = kept - rate * gradient / (gradient.abs() + 1e-8)
            found = method.get_submodule(part).get_parameter(name).detach().double()
            moved = (expected - value).abs().max()
            assert (found - expected).abs().max() < 0.01 * moved + 1e-8, f"{part}.{name}"


def stripes(number: int, seed: int, vertical: bool = False) -> torch.Tensor:
    """Noisy gray stripes of any phase, 8 pixels apart."""
    generator = torch.Generator().manual_seed(seed)
    phase = 2 * math.pi * torch.rand(number, 1, 1, 1, generator=generator)
    place = torch.arange(64).view(1, 1, 1, 64) if vertical else torch.arange(64).view(1, 1, 64, 1)
    wave = 0.5 + 0.3 * torch.sin(2 * math.pi * place / 8 + phase)
    return (wave + 0.05 * torch.randn(number, 3, 64, 64, generator=generator)).clamp(0, 1)


class Stripes(RandomImages):
    """Training images: horizontal stripes."""

    def _batch(self, stage, positions):
        return Batch(
            image_BCHW=stripes(stage.batch_size, positions[0] // stage.batch_size),
            seed_B=torch.arange(stage.batch_size),
        )


def test_short_training_finds_defects():
    """From random backbone weights: the loss falls, and a square of vertical stripes stands out, as it did not."""
    defective_BHW = torch.zeros(16, 64, 64, dtype=torch.bool)
    defective_BHW[::2, 16:48, 24:56] = True
    image_BCHW = torch.where(defective_BHW[:, None], stripes(16, 98, vertical=True), stripes(16, 99))
    label_B = defective_BHW.any(dim=(1, 2))
    rates = {"adaptor_lr": 1e-3, "discriminator_lr": 1e-3}
    method = small(batch_size=8, epochs=5, noise_std=0.5, layers=[1, 2], sigma=2.0, **rates)
    before = roc_auc_score(label_B, predict(method, image_BCHW).score_B)
    curves: dict[str, list[float]] = {}
    scalar = lambda tag, value, step: curves.setdefault(tag.split("/")[1], []).append(value)  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, Stripes(64, 8, CPU, method.tags))
    after = roc_auc_score(label_B, predict(method, image_BCHW).score_B)
    assert len(curves["hinge"]) == 40
    assert sum(curves["hinge"][-3:]) < 0.3 * sum(curves["hinge"][:3])
    for name in ("real_above_margin", "fake_below_margin"):
        assert curves[name][-1] > curves[name][0] + 0.3
    assert before < 0.6
    assert after > 0.9


# ------------------------------------------------------------------ prediction


def trained(**arguments) -> SimpleNet:
    """A method whose batch norm has statistics of its own."""
    method = small(**arguments)
    norm = method.discriminator[1]
    with torch.no_grad():
        for value, low in ((norm.weight, 0.5), (norm.bias, -0.5), (norm.running_mean, -0.5), (norm.running_var, 0.2)):
            value.uniform_(low, low + 1)
    return method


@pytest.mark.parametrize("image_score", ["map", "patch"])
def test_prediction_by_hand(image_score):
    """Negated discriminator output with the running statistics, interpolated, then smoothed."""
    method = trained(image_score=image_score)
    image_BCHW = images(2, 64)
    found = predict(method, image_BCHW)
    patch_BDHW = method.patches(method.backbone(image_BCHW))
    patch_BHWD = np.moveaxis(patch_BDHW.double().numpy(), 1, 3)
    value = {name: weight.detach().double().numpy() for name, weight in method.state_dict().items()}
    adapted = patch_BHWD @ value["adaptor.weight"].T + value["adaptor.bias"]
    hidden = adapted @ value["discriminator.0.weight"].T + value["discriminator.0.bias"]
    spread = np.sqrt(value["discriminator.1.running_var"] + 1e-5)
    hidden = (hidden - value["discriminator.1.running_mean"]) / spread
    hidden = hidden * value["discriminator.1.weight"] + value["discriminator.1.bias"]
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    patch_BHW = -(hidden @ value["discriminator.3.weight"][0])
    rise = bilinear(8, 64)
    map_BHW = np.stack([gaussian_filter(rise @ patch_HW @ rise.T, 4.0) for patch_HW in patch_BHW])
    np.testing.assert_allclose(found.map_BHW.numpy(), map_BHW, atol=2e-5)
    scored = map_BHW if image_score == "map" else patch_BHW
    np.testing.assert_allclose(found.score_B.numpy(), scored.max(axis=(1, 2)), atol=2e-5)


def test_images_of_any_size():
    """The grids of layer2 and layer3 need not be multiples of each other: 72 pixels give 9 x 9 and 5 x 5."""
    assert predict(trained(), images(2, 72)).map_BHW.shape == (2, 72, 72)


def test_bfloat16_keeps_the_head_in_full():
    """Only the backbone is rounded: maps stay near, and no two patches share a score."""
    method = trained()
    image_BCHW = images(2, 64)
    exact = predict(method, image_BCHW)
    seen = []
    for part in (method.adaptor, *method.discriminator):
        part.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with Trainer(device=CPU, precision="bf16").autocast():
        assert method.backbone(image_BCHW)[0].dtype == torch.bfloat16
        rough = predict(method, image_BCHW)
        real_N, fake_N = method(image_BCHW)
    assert set(seen) == {(torch.float32, torch.float32)}
    assert real_N.dtype == fake_N.dtype == torch.float32
    assert len(real_N.unique()) == len(real_N)
    assert (rough.map_BHW - exact.map_BHW).abs().max() < 0.05 * exact.map_BHW.abs().max()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"embed_dim": 95}, "embed_dim=95 must be a multiple of the 2 layers"),
        ({"noise_std": 0.0}, "method.noise_std=0.0 does not fit"),
        ({"margin": -1.0}, "method.margin=-1.0 does not fit"),
        ({"clip": 0.0}, "method.clip=0.0 does not fit"),
        ({"lr_decay_at": 1.5}, "method.lr_decay_at=1.5 does not fit"),
        ({"adaptor_weight_decay": -1e-3}, "method.adaptor_weight_decay=-0.001 does not fit"),
        ({"probe_size": 0}, "method.probe_size=0 does not fit"),
        ({"image_score": "mean"}, "method.image_score='mean' does not fit"),
        ({"layers": [2, 7]}, "no feature maps"),
    ],
)
def test_bad_arguments_are_explained(arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        build("simplenet", **{"backbone": RESNET18, **arguments})
    assert "\n" not in str(caught.value)
