"""RD++ against the numbers and definitions of its paper, of the official code and of ADer's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ader.config.compose import compose
from ader.data import load_index
from ader.methods import build
from ader.methods._base import recipe_arguments
from ader.methods.rdpp import RDPP, contrast_loss, pixel_cosine_loss
from ader.nets.backbone import BackboneOptions
from ader.nets.scoring.maps import cosine_distance_map, flat_cosine_loss
from ader.system.interrupt import Interrupt, Stopped
from ader.testing.subject import changed, images, predict, tensors
from ader.testing.toy import write_mvtec
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
TINY = {"backbone": {"name": "test_resnet", "pretrained": False}, "batch_size": 2}


@pytest.fixture(scope="module")
def wide() -> RDPP:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return RDPP(backbone=BackboneOptions("wide_resnet50_2.racm_in1k", pretrained=False))


def made(**arguments) -> RDPP:
    torch.manual_seed(0)
    return build("rdpp", image_size=64, **{**TINY, **arguments})


def test_parameters(wide):
    """ADer Table 1: 96.1 M; 71.2 M of them are trained."""
    assert count_parameters(wide) == (96_096_512, 71_233_984)
    assert sum(weight.numel() for weight in wide.projections.parameters()) == 15_486_912


def test_macs(wide):
    """ADer Table 1: 37.5 G."""
    assert count_macs(wide, 256, torch.device("meta")) == pytest.approx(37.5e9, rel=0.02)


def test_projections_in_detail(wide):
    for project, channels in zip(wide.projections, (256, 512, 1024), strict=True):
        convolutions = [part for part in project if isinstance(part, nn.Conv2d)]
        widths = [(part.in_channels, part.out_channels) for part in convolutions]
        assert widths == [
            (channels, channels // 2),
            (channels // 2, channels // 4),
            (channels // 4, channels // 2),
            (channels // 2, channels),
        ]
        assert all(part.bias is not None and part.padding == (1, 1) for part in convolutions)
        assert [type(part) for part in project] == [nn.Conv2d, nn.InstanceNorm2d, nn.LeakyReLU] * 4
        assert {part.negative_slope for part in project if isinstance(part, nn.LeakyReLU)} == {0.01}
        assert not any(part.affine for part in project if isinstance(part, nn.InstanceNorm2d))


@pytest.mark.parametrize(
    ("recipe", "epochs", "clip", "drop_last", "width", "accumulate"),
    [(None, 100, 5.0, True, 64, 2), ("ader", 100, 5.0, True, 64, 1), ("official", 200, None, False, 128, 2)],
)
def test_recipes(recipe, epochs, clip, drop_last, width, accumulate):
    config = compose(["method=rdpp", "dataset=demo", *([f"recipe={recipe}"] if recipe else [])])
    arguments = {**config.method.rest, "backbone": {"name": "test_resnet", "pretrained": False}}
    with torch.device("meta"):
        method = RDPP(**recipe_arguments(RDPP, 256, arguments))
        (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["betas"] == (0.5, 0.999)
    rate = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert {rate[id(weight)] for weight in method.projections.parameters()} == {0.001}
    assert {rate[id(weight)] for part in (method.bottleneck, method.decoder) for weight in part.parameters()} == {0.005}
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last) == (epochs, 16, clip, drop_last)
    assert (config.method.rest["bottleneck_width"], stage.accumulate) == (width, accumulate)
    assert {stage.schedules["student"](step / 700) for step in range(700)} == {1.0}
    backbone = {None: "wide_resnet50_2.racm_in1k", "ader": "wide_resnet50_2.racm_in1k"}.get(
        recipe, "wide_resnet50_2.tv_in1k"
    )
    assert config.method.rest["backbone"]["name"] == backbone


def test_losses_are_those_of_literal_loops():
    torch.manual_seed(0)
    first, second = ([torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)] for _ in range(2))
    pixels = contrast = 0.0
    for a, b in zip(first, second, strict=True):
        b[1] = a[1] + 0.3 * b[1]  # an image whose cosine is above the margin
        values = [
            1 - torch.dot(a[i, :, y, x], b[i, :, y, x]) / (a[i, :, y, x].norm() * b[i, :, y, x].norm())
            for i in range(2)
            for y in range(a.shape[2])
            for x in range(a.shape[3])
        ]
        pixels += sum(values) / len(values)
        cosines = [torch.dot(a[i].flatten(), b[i].flatten()) / (a[i].norm() * b[i].norm()) for i in range(2)]
        assert cosines[0] < 0.5 < cosines[1]
        contrast += (cosines[1] - 0.5) / 2
    torch.testing.assert_close(pixel_cosine_loss(first, second), pixels)
    torch.testing.assert_close(contrast_loss(first, second), contrast)


def test_which_features_the_losses_compare():
    """Written out with the method's own networks, as section 3 and the official training loop have them."""
    method = made().train()
    clean_BCHW, noisy_BCHW = images(2, 64), images(2, 64).flip(0)
    losses = method.losses(clean_BCHW, noisy_BCHW, torch.arange(2))
    teacher, noisy = method.teacher(clean_BCHW), method.teacher(noisy_BCHW)
    clean = [project(feature) for project, feature in zip(method.projections, teacher, strict=True)]
    cleaned = [project(feature) for project, feature in zip(method.projections, noisy, strict=True)]
    student = method.decoder(method.bottleneck(clean))
    torch.testing.assert_close(losses["cos"], flat_cosine_loss(teacher, student))
    torch.testing.assert_close(losses["reconstruction"], pixel_cosine_loss(cleaned, clean))
    torch.testing.assert_close(losses["contrast"], contrast_loss(noisy, clean))
    losses["cos"].backward()
    assert all(weight.grad is not None for weight in method.projections.parameters())  # all gradients


def test_transport_of_a_shuffled_batch_is_nothing():
    """Value and gradient, which is why the term is left out."""
    method = made().double()
    given = images(3, 64).double(), images(3, 64).double().flip(0), torch.tensor([3, 1, 2])
    assert method.losses(*given)["transport"].item() == 0
    method.transport = True
    losses = method.losses(*given)
    assert abs(losses["transport"].item()) < 1e-9
    weights = list(method.projections.parameters())
    nothing = torch.autograd.grad(losses["transport"], weights, retain_graph=True)
    something = torch.autograd.grad(losses["reconstruction"], weights)
    largest = [max(gradient.abs().max().item() for gradient in each) for each in (nothing, something)]
    assert largest[0] < 1e-9 * largest[1]


def test_map_compares_the_unprojected_features():
    method, image_BCHW = made().eval(), images(2, 64)
    with torch.no_grad():
        teacher = method.teacher(image_BCHW)
        projected = [project(feature) for project, feature in zip(method.projections, teacher, strict=True)]
        student = method.decoder(method.bottleneck(projected))
        levels = [
            F.interpolate(
                (1 - F.cosine_similarity(a, b, dim=1))[:, None], size=(64, 64), mode="bilinear", align_corners=True
            )
            for a, b in zip(teacher, student, strict=True)
        ]
        expected = method.blur(torch.cat(levels, dim=1).sum(dim=1))
    score_B, map_BHW = predict(method, image_BCHW)
    torch.testing.assert_close(map_BHW, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(score_B, map_BHW.flatten(1).amax(dim=1))
    assert cosine_distance_map(teacher, teacher, (64, 64)).abs().max() < 1e-5


class Two(RandomImages):
    """Two batches of two; keeps them."""

    def __init__(self):
        super().__init__(64, 2, CPU, RDPP.tags)
        self.given = []

    def train(self, stage, start, stop):
        for batch in super().train(stage, start, stop):
            self.given.append(batch)
            yield batch


def by_hand(counted):
    """The weights after both batches of ``Two``: Adam's single step with the mean of the gradients that count."""
    method, data = made(epochs=1).train(), Two()
    (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for place, batch in enumerate(data.train(stage, 0, 2)):
        noisy_BCHW = method.noise(batch.image_BCHW, batch.seed_B)
        losses = method.losses(batch.image_BCHW, noisy_BCHW, batch.seed_B)
        loss = losses["cos"] + 0.2 * (0.01 * losses["reconstruction"] + 0.1 * losses["contrast"]) / 1.11
        if place in counted:
            (loss / len(counted)).backward()
        if place == counted[-1]:
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.step()
    return method.state_dict()


@pytest.mark.parametrize(("discard", "counted"), [(False, (0, 1)), (True, (0,))])
def test_updates(discard, counted):
    """One for two batches: of both gradients, or as ADer's code clears them, of the first alone."""
    method = made(epochs=1, discard=discard)
    before = {name: value.clone() for name, value in method.state_dict().items() if isinstance(value, torch.Tensor)}
    Trainer(device=CPU).fit(method, Two())
    expected = by_hand(counted)
    moved = 0
    for name, value in method.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4, msg=name)
            moved += not value.equal(before[name])
    assert moved > 20


def test_discarding_training_resumes_in_its_turn(tmp_path):
    """Stopped after one step, where the next one's gradient does not count."""

    def fit(**options):
        method = made(epochs=2, discard=True)
        Trainer(device=CPU, **options).fit(method, Two())
        return method

    interrupt = Interrupt()

    class Stopping(Two):
        def train(self, stage, start, stop):
            interrupt.name = "SIGTERM"  # seen by the trainer at the end of the step
            yield from super().train(stage, start, stop)

    with pytest.raises(Stopped):
        Trainer(device=CPU, interrupt=interrupt, checkpoint=tmp_path / "c.pt").fit(
            made(epochs=2, discard=True), Stopping()
        )
    resumed, straight = fit(checkpoint=tmp_path / "c.pt"), fit()
    assert not changed(tensors(straight), tensors(resumed))


def test_short_training_lowers_the_loss(tmp_path):
    index = load_index("folder", write_mvtec(tmp_path, size=64), counts=None)
    method, losses = made(batch_size=4, epochs=8), []
    scalar = lambda tag, value, step: losses.append(value) if tag == "distil/cos" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, Loader(index, 64, CPU, 0, 0, method.tags))
    assert len(losses) == 16
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3]), losses
