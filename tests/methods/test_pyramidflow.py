"""PyramidFlow against the numbers and definitions of its paper, of the official code and of ADer's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ader.config.compose import compose
from ader.methods import build
from ader.methods._base import Batch, Stage
from ader.methods.pyramidflow import (
    LaplacianPyramid,
    PyramidCoupling,
    PyramidFlow,
    UnitVolumeConv,
    couplings,
    spectral_loss,
    squared_differences,
)
from ader.nets.backbone import BackboneOptions
from ader.system.errors import UserError
from ader.testing.subject import images, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
SMALL = {"backbone": {"name": "resnet18", "pretrained": False}, "stacks": 1, "kernel_size": 3}


@pytest.fixture(scope="module")
def wide() -> PyramidFlow:
    """The full-size method without memory for its weights."""
    with META:
        return PyramidFlow(image_size=256, backbone=BackboneOptions("resnet18.tv_in1k", pretrained=False))


def small(**arguments) -> PyramidFlow:
    torch.manual_seed(0)
    return build("pyramidflow", **{"image_size": 64, **SMALL, **arguments}).eval()


def stirred(module, scale: float = 0.05):
    """With weights and running means as after some training, in float64."""
    torch.manual_seed(1)
    module.double()
    with torch.no_grad():
        for weight in module.parameters():
            weight += scale * torch.randn_like(weight)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer += scale * torch.randn_like(buffer)
    return module


def test_parameters(wide):
    """ADer Table 1: 34.3 M, which has all of ResNet-18; here it ends after its first stage."""
    total, trained = count_parameters(wide)
    assert trained == 22_610_944
    assert total - trained == 157_504
    assert (trained + 11_689_512) / 1e6 == pytest.approx(34.3, rel=0.005)
    assert [sum(weight.numel() for weight in block.parameters()) for block in wide.blocks] == 4 * [
        1_613_888,
        1_212_480,
        1_212_480,
        1_613_888,
    ]


def test_macs(wide):
    """60.1 G for two images of 256 pixels; sixteen times that, at 1024, are the 962 G of ADer Table 1."""
    macs = count_macs(wide, 256, META)
    assert 2 * macs / 1e9 == pytest.approx(60.1, rel=0.02)
    assert 32 * macs / 1e9 == pytest.approx(962, rel=0.02)


def test_order_of_couplings(wide):
    """The middle of 0, 1, 2; level 3 from 2; level 0 from 1; the middle of 1, 2, 3."""
    assert list(couplings(4)) == [(1, (0, 2)), (3, (2,)), (0, (1,)), (2, (1, 3))]
    assert list(couplings(2)) == [(1, (0,)), (0, (1,))]
    assert [target for target, _ in couplings(8)] == [1, 3, 5, 7, 0, 2, 4, 6]
    assert [tuple(latent.shape) for latent in wide(torch.empty(1, 3, 256, 256, device="meta"))] == [
        (1, 64, side, side) for side in (64, 32, 16, 8)
    ]
    assert [tuple(block.running_mean.shape) for block in wide.blocks[:4]] == [
        (1, 1, side, side) for side in (32, 16, 64, 16)
    ]


def test_recipe():
    method = small(epochs=30)
    flow, template = method.stages()
    assert (flow.epochs, flow.batch_size, flow.clip, flow.drop_last) == (30, 2, 5.0, True)
    assert [flow.schedules["flow"](progress) for progress in (0.79, 0.8)] == [1, 0.1]
    (optimizer,) = flow.optimizers.values()
    assert type(optimizer) is torch.optim.Adam
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (1e-5, 0)
    assert len(vectors["params"]) == len(method.blocks)  # log-scales alone
    assert {key: matrices[key] for key in ("lr", "betas", "eps")} == {"lr": 2e-4, "betas": (0.5, 0.9), "eps": 1e-4}
    assert (template.split, template.batches) == ("train", None)


def test_recipes():
    ader = compose(["method=pyramidflow", "dataset=demo", "recipe=ader"])
    assert (ader.image_size, ader.metric.size, ader.method.rest["epochs"]) == (1024, 256, 100)
    config = compose(["method=pyramidflow", "dataset=demo", "recipe=official"])
    chosen = config.method.rest
    assert (config.image_size, config.metric.size, chosen["epochs"]) == (1024, 256, 15)
    assert (chosen["clip"], chosen["lr_decay_at"], chosen["decay_vectors"]) == (1.0, None, True)
    (flow, _) = small(lr_decay_at=None, decay_vectors=True).stages()
    assert not flow.schedules
    (group,) = flow.optimizers["flow"].param_groups
    assert group["weight_decay"] == 1e-5


def blurred_by_hand(map_BCHW: Tensor) -> Tensor:
    row = torch.tensor([1.0, 4, 6, 4, 1])
    kernel = (row[:, None] * row[None] / 256).expand(map_BCHW.shape[1], 1, 5, 5)
    return F.conv2d(map_BCHW, kernel, padding=2, groups=map_BCHW.shape[1])


def test_pyramid_by_hand():
    pyramid, x = LaplacianPyramid(3), torch.rand(2, 3, 8, 12)
    first, second, last = pyramid.build(x)
    half = F.max_pool2d(blurred_by_hand(x), 2)
    quarter = F.max_pool2d(blurred_by_hand(half), 2)
    double = half.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(first, x - blurred_by_hand(double))
    torch.testing.assert_close(last, quarter)
    assert second.shape == (2, 3, 4, 6)
    torch.testing.assert_close(pyramid.compose([first, second, last]), x)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 7), (4, 2), (3, 1)])
def test_spectral_loss_is_of_the_whole_plane(height, width):
    maps = torch.rand(3, height, width, dtype=torch.float64)
    torch.testing.assert_close(spectral_loss(maps), torch.fft.fft2(maps).abs().mean())


def test_all_pairs_are_compared():
    latents = [torch.tensor([1.0, 3.0, 7.0]).view(3, 1, 1, 1), torch.tensor([0.0, 0.5, 0.0]).view(3, 1, 1, 1)]
    one, other = squared_differences(latents)
    assert one.flatten().tolist() == [4, 36, 16]
    assert other.flatten().tolist() == [0.25, 0, 0.25]


def test_mixing_has_unit_volume():
    """A random orthogonal matrix at first, whose determinant stays 1 or -1 whatever is trained."""
    torch.manual_seed(0)
    conv = UnitVolumeConv(6)
    weight = conv.weight()
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)
    stirred(conv, 0.5)
    assert torch.linalg.slogdet(conv.weight()).logabsdet.item() == pytest.approx(0, abs=1e-6)
    assert not torch.allclose(conv.weight() @ conv.weight().T, torch.eye(6, dtype=torch.float64), atol=0.1)
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(conv(x), torch.einsum("oc,bchw->bohw", conv.weight(), x))
    torch.testing.assert_close(conv.inverse(conv(x)), x)


SIDES = (8, 4, 2, 1)


def coupling(target: int, sources: tuple[int, ...], dims=(0, 1), **more) -> PyramidCoupling:
    torch.manual_seed(0)
    options = {"momentum": 0.1, "clamp": 2.0, "checkpointing": False, **more}
    return stirred(PyramidCoupling(2, target, sources, SIDES, 3, dims, **options), 0.3)


def a_pyramid(count: int = 1) -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(count, 2, side, side, dtype=torch.float64) for side in SIDES]


@pytest.mark.parametrize(("target", "sources"), list(couplings(4)))
def test_coupling_by_hand(target, sources):
    """In evaluation mode, its inverse, and its log-determinant, which is the sum of the log-scales alone."""
    block, pyramid = coupling(target, sources).eval(), a_pyramid()
    side, level = SIDES[target], pyramid[target]
    if target == sources[0] + 1 and len(sources) == 1:
        out = block.net(pyramid[sources[0]])
    else:
        out = block.net(torch.cat([F.interpolate(pyramid[source], (side, side)) for source in sources], 1))
    log_scale = 2 * 0.636 * torch.atan(out[:, :2] / 2) - block.running_mean
    log_scale, shift = (F.interpolate(each, (side, side)) for each in (log_scale, out[:, 2:]))
    found = block(pyramid)
    expected = torch.einsum("oc,bchw->bohw", block.mixing.weight(), log_scale.exp() * level + shift)
    torch.testing.assert_close(found[target], expected)
    for number, back in enumerate(block.inverse(found)):
        torch.testing.assert_close(back, pyramid[number])
        assert number == target or found[number] is pyramid[number]

    def transformed(value: Tensor) -> Tensor:
        return block([value if number == target else other for number, other in enumerate(pyramid)])[target].flatten()

    jacobian = torch.autograd.functional.jacobian(transformed, level).reshape(level.numel(), level.numel())
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_scale.sum(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dims", [(0, 1), (0, 2, 3)])
def test_volume_norm_in_training(dims):
    """The step's mean is taken off log-scales, so that volumes stay; the running mean moves by a tenth."""
    block, pyramid = coupling(0, (1,), dims), a_pyramid(3)
    before = block.running_mean.clone()
    raw, shift = block._coefficients(pyramid[1], pyramid[0])
    mean = raw.mean(dims, keepdim=True)
    assert mean.shape == before.shape
    found = block.train()(pyramid)[0]
    scaled = (raw - mean).exp() * pyramid[0] + shift
    torch.testing.assert_close(found, torch.einsum("oc,bchw->bohw", block.mixing.weight(), scaled))
    assert (raw - mean).sum().item() == pytest.approx(0, abs=1e-9)  # log-determinants of all images together
    torch.testing.assert_close(block.running_mean, 0.9 * before + 0.1 * mean)


def test_checkpointing_changes_nothing():
    """The same gradients, bit for bit, and running means that move once."""
    results = []
    for checkpointing in (True, False):
        method = small(checkpointing=checkpointing)
        method.blocks.train()
        latents = method(images(2, 64))
        spectral_loss(method.pyramid.compose(squared_differences(latents)).mean(dim=1)).backward()
        results.append([*(w.grad for w in method.blocks.parameters()), *method.blocks.buffers()])
    assert all(one.equal(other) for one, other in zip(*results, strict=True))
    assert any(value.abs().max() > 0 for value in results[0])


def test_the_flow_and_its_inverse():
    """From latents back to features, of a flow that has left its beginning."""
    method = small(stacks=2)
    stirred(method.blocks, 0.02)
    method.double()
    with torch.no_grad():
        (feature,) = method.backbone(images(2, 64).double())
        latents = method(images(2, 64).double())
        torch.testing.assert_close(method.inverse(latents), feature)
        assert not method.pyramid.compose(latents).allclose(feature, atol=0.1)


def test_template_and_map_by_hand():
    """The mean latent of the training images; distances are composed, averaged over channels, repeated 4x4."""
    method = small(epochs=1)
    data = RandomImages(64, 3, CPU, method.tags)
    Trainer(device=CPU).fit(method, data)
    with torch.no_grad():
        batches = [method(batch.image_BCHW) for batch in data.train(data.stages["template"], 0, 3)]
        latents = [torch.cat(level).double() for level in zip(*batches, strict=True)]
        for held, level in zip(method.template, latents, strict=True):
            assert held.get().dtype == torch.float32
            torch.testing.assert_close(held.get(), level.mean(0).float())
        image_BCHW = images(2, 64)
        distances = [(z - held.get()).abs() for z, held in zip(method(image_BCHW), method.template, strict=True)]
        expected = method.pyramid.compose(distances).mean(1)
    score_B, map_BHW = predict(method, image_BCHW)
    torch.testing.assert_close(map_BHW[:, ::4, ::4], expected)
    assert map_BHW.equal(expected.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert score_B.equal(map_BHW.amax((1, 2)))
    again = F.interpolate(map_BHW[:, None], (16, 16), mode="bilinear")[:, 0]
    torch.testing.assert_close(again, expected)  # what metric.size=256 does at 1024 pixels


def test_bfloat16_leaves_the_flow_alone():
    """Only the encoder has fewer bits."""
    method = small()
    feature = torch.randn(2, 64, 16, 16)
    method.backbone.forward = lambda image: [feature]
    with torch.no_grad():
        exact = method(images(2, 64))
        with torch.autocast("cpu", torch.bfloat16):
            rough = method(images(2, 64))
    assert all(one.equal(other) for one, other in zip(exact, rough, strict=True))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"batch_size": 1}, "method.batch_size=1: .* at least 2"),
        ({"kernel_size": 4}, "method.kernel_size=4 must be odd"),
        ({"image_size": 80}, "image_size=80 does not suit pyramidflow with method.levels=4: give a multiple of 32"),
        ({"levels": 1}, "at least 2 levels"),
    ],
)
def test_what_does_not_fit_is_explained(arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        small(**arguments)
    assert "\n" not in str(caught.value)


def test_single_images_are_refused():
    with pytest.raises(UserError, match="at least 2 training images"):
        small()._step(Batch(image_BCHW=images(1, 64), seed_B=torch.arange(1)), lambda *_: None)
    with pytest.raises(UserError, match="images of 96x96 pixels do not suit this pyramidflow"):
        predict(small(), images(1, 96))


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
    """Losses of the same batches come to lie below those of a flow that stays as it was: by little, as a flow that
    keeps volumes cannot shrink differences. The map tells defects."""
    results = []
    for lr in (1e-12, 2e-3):
        method, losses = small(epochs=8, lr=lr), []
        scalar = lambda tag, value, step: losses.append(value) if tag == "flow/fft" else None  # noqa: B023, E731
        data = Striped(64, 4, CPU, method.tags)
        Trainer(device=CPU, scalar=scalar).fit(method, data)
        results.append(losses)
    still, falling = results
    assert falling[0] == still[0]
    assert all(one < other for one, other in zip(falling[-4:], still[-4:], strict=True)), (falling, still)
    assert sum(falling[-4:]) < 0.985 * sum(still[-4:]), (falling, still)
    image_BCHW, mask_BHW = data.draw(4, True)
    map_BHW = predict(method, image_BCHW).map_BHW
    assert roc_auc_score(mask_BHW.flatten().numpy(), map_BHW.flatten().numpy()) > 0.9
