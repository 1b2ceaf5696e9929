"""CFA against brute force, its fact sheet's counts and hand computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from ader.config.compose import compose
from ader.methods import cfa
from ader.methods._base import Batch, recipe_arguments
from ader.methods.cfa import CFA, leak, smallest_squares
from ader.nets.backbone import Backbone, BackboneOptions
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
RANDOM = BackboneOptions("resnet18", pretrained=False)


def fitted(**arguments) -> CFA:
    """Its memory alone, of 6 images of 64 pixels."""
    method = Subject.named("cfa", **arguments).make()
    stage = next(method.stages())
    with torch.no_grad():
        for batch in RandomImages(64, 3, CPU, method.tags).train(stage, 0, 3):
            stage.update(batch)
        stage.finish()
    return method


def test_counts():
    """ADer's 38,632,257 parameters hold the memory, a buffer here, and a convolution that is never used."""
    with torch.device("meta"):
        method = CFA(backbone=BackboneOptions("wide_resnet50_2.racm_in1k", pretrained=False))
    assert count_parameters(method) == (24_862_528 + 3_216_641, 3_216_641)
    assert method.memory.numel() == 7_340_032
    assert count_parameters(method)[0] + method.memory.numel() + 1792 * 1792 + 1792 == 38_632_257
    assert count_macs(method, 256, META) == pytest.approx(55.23e9, rel=2e-3)


def test_recipes():
    """AdamW with amsgrad at one rate; ADer's decay leaves bias and radius out, the official one takes all."""
    for recipe, epochs, decays, size, window in (("ader", 100, (5e-4, 0.0), 256, 16), ("official", 30, None, 224, 1)):
        config = compose(["method=cfa", "dataset=demo", f"recipe={recipe}"])
        assert config.image_size == size
        arguments = {**config.method.rest, "backbone": {"name": "resnet18", "pretrained": False}}
        with torch.device("meta"):
            method = CFA(**recipe_arguments(CFA, size, arguments))
            memory, stage = method.stages()
        (optimizer,) = stage.optimizers.values()
        assert isinstance(optimizer, torch.optim.AdamW)
        found = [(group["weight_decay"], group["lr"], group["amsgrad"]) for group in optimizer.param_groups]
        assert found == [(decay, 1e-3, True) for decay in decays or (5e-4, 5e-4)]
        shapes = [tuple(weight.shape) for group in optimizer.param_groups for weight in group["params"]]
        assert shapes == [(448, 450, 1, 1), (448,), (1,)]
        assert (memory.batch_size, stage.batch_size, stage.epochs, stage.drop_last) == (4, 4, epochs, True)
        assert (stage.clip, dict(stage.schedules), method.score_window) == (None, {}, window)
        assert isinstance(method.backbone.net.layer2[-1].act2, torch.nn.LeakyReLU) == (recipe == "official")
    assert compose(["method=cfa", "dataset=demo", "recipe=ader"]).seed == 1024


def test_features_are_pooled_interpolated_and_have_coordinates():
    method = Subject.named("cfa").make().eval()
    with torch.no_grad():
        feature_CHW = method.features(images(1, 64))[0]
        fine_1CHW, coarse_1CHW = method.backbone(images(1, 64))
    padded_CHW = F.pad(fine_1CHW[0], (1, 1, 1, 1))
    mean_C = padded_CHW[:, 2:5, 0:3].sum(dim=(1, 2)) / 9  # around row 2, column 0: three zeros count
    torch.testing.assert_close(feature_CHW[:128, 2, 0], mean_C)
    pooled_CHW = F.avg_pool2d(coarse_1CHW, 3, 1, 1)[0]
    expected_C = 0.75**2 * pooled_CHW[:, 0, 0] + 0.1875 * (pooled_CHW[:, 0, 1] + pooled_CHW[:, 1, 0])
    expected_C += 0.0625 * pooled_CHW[:, 1, 1]
    torch.testing.assert_close(feature_CHW[128:384, 1, 1], expected_C)
    line = torch.linspace(-1, 1, 8)
    assert feature_CHW[-2].equal(line[:, None].expand(8, 8))
    assert feature_CHW[-1].equal(line.expand(8, 8))


def test_memory_is_the_mean_of_the_untrained_descriptors():
    method = fitted()
    stage = next(method.stages())
    with torch.no_grad():
        every = [method._describe(each.image_BCHW) for each in RandomImages(64, 3, CPU, method.tags).train(stage, 0, 3)]
    torch.testing.assert_close(method.memory, torch.cat(every).mean(dim=0))


@pytest.mark.parametrize("block", [2**25, 60])
def test_smallest_squares_and_their_gradients(block, monkeypatch):
    """SciPy's distances, and autograd's gradients through the matrix of all."""
    monkeypatch.setattr(cfa, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    patch_QD = torch.randn(9, 5, dtype=torch.float64, generator=generator).requires_grad_()
    memory_MD = torch.randn(20, 5, dtype=torch.float64, generator=generator)
    weight_QK = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    found_QK = smallest_squares(patch_QD, memory_MD, 4)
    every_QM = np.sort(cdist(patch_QD.detach(), memory_MD) ** 2, axis=1)
    np.testing.assert_allclose(found_QK.detach().numpy(), every_QM[:, :4], rtol=1e-12)
    (mine,) = torch.autograd.grad((found_QK * weight_QK).sum(), patch_QD)
    square_QM = (patch_QD[:, None] - memory_MD).square().sum(dim=2)
    (theirs,) = torch.autograd.grad((square_QM.topk(4, largest=False).values * weight_QK).sum(), patch_QD)
    torch.testing.assert_close(mine, theirs)


def test_losses_by_hand(monkeypatch):
    """One patch at 1 on a line, centroids at 0, 2.5, 3.2 and 5, one neighbor and one negative: squares 1 and 2.25."""
    method = Subject.named("cfa", num_neighbors=1, num_hard_negatives=1, nu=0.5, radius=1.6, margin=0.2).make()
    method.memory = torch.tensor([[0.0], [2.5], [3.2], [5.0]])
    monkeypatch.setattr(CFA, "_describe", lambda self, image_BCHW: torch.tensor([[[1.0]]]))
    found = []
    losses = method._step(Batch(image_BCHW=torch.zeros(1, 3, 4, 4), seed_B=torch.arange(1)), found.append)
    assert losses["attraction"].item() == 0  # 1 < 2.56
    assert losses["repulsion"].item() == pytest.approx((2.56 - 2.25 - 0.2) / 0.5, rel=1e-5)
    (gradient,) = torch.autograd.grad(found[0], method.radius)
    assert gradient.item() == pytest.approx(2 * 1.6 / 0.5, rel=1e-6)
    with torch.no_grad():
        method.radius.fill_(0.5)
    losses = method._step(Batch(image_BCHW=torch.zeros(1, 3, 4, 4), seed_B=torch.arange(1)), found.append)
    assert losses["attraction"].item() == pytest.approx((1 - 0.25) / 0.5, rel=1e-5)
    assert losses["repulsion"].item() == 0


def test_map_is_the_weighted_nearest_distance():
    method, image_BCHW = fitted(score_window=5), images(2, 64)
    with torch.no_grad():
        patch_BQD = method.eval()._describe(image_BCHW)
    score_BQ = []
    for patch_QD in patch_BQD:
        near_QK = np.sort(cdist(patch_QD.double(), method.memory.double()), axis=1)[:, :3]
        weight_QK = np.exp(-near_QK)
        score_BQ.append(near_QK[:, 0] * weight_QK[:, 0] / weight_QK.sum(axis=1))
    patch_B1HW = torch.tensor(np.stack(score_BQ)).view(2, 1, 8, 8)
    map_BHW = F.interpolate(patch_B1HW, size=(64, 64), mode="bilinear")[:, 0].numpy()
    expected = np.stack([gaussian_filter(each, 4.0) for each in map_BHW])
    found = predict(method, image_BCHW)
    np.testing.assert_allclose(found.map_BHW.numpy(), expected, rtol=1e-4)
    windows = np.lib.stride_tricks.sliding_window_view(expected, (5, 5), axis=(1, 2)).mean(axis=(3, 4))
    np.testing.assert_allclose(found.score_B.numpy(), windows.max(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_leaky_features(name):
    """Where they are positive the plain ones, elsewhere a hundredth of the sums, which all later stages see as 0."""
    torch.manual_seed(0)
    plain = Backbone(BackboneOptions(name, pretrained=False), (1, 2, 3))
    torch.manual_seed(0)
    leaky = Backbone(BackboneOptions(name, pretrained=False), (1, 2, 3))
    for weight, other in zip(plain.parameters(), leaky.parameters(), strict=True):
        if weight.ndim == 1:  # timm's branches start at 0, and no sum below it
            other.copy_(weight.uniform_(-0.5, 1))
    leak(leaky, (1, 2, 3), name)
    sums = {}
    for number in (1, 2, 3):
        block = getattr(plain.net, f"layer{number}")[-1]
        act = block.act2 if name == "resnet18" else block.act3
        act.register_forward_pre_hook(lambda part, inputs, n=number: sums.update({n: inputs[0].clone()}))
    for number, (before, after) in enumerate(zip(plain(images(1, 64)), leaky(images(1, 64)), strict=True), 1):
        assert after.relu().equal(before)
        torch.testing.assert_close(after, torch.where(sums[number] > 0, sums[number], 0.01 * sums[number]))
        assert (sums[number] < 0).any()


def test_what_is_refused():
    with pytest.raises(UserError, match="leaky=true needs layers 1 to 4 of a plain ResNet"):
        CFA(leaky=True, backbone=BackboneOptions("efficientnet_lite0", pretrained=False))
    with pytest.raises(UserError, match="are more than the 64 centroids of image_size=32"):
        CFA(num_neighbors=60, num_hard_negatives=5, image_size=32, backbone=RANDOM)


def test_short_training_lowers_the_loss():
    method, losses = Subject.named("cfa", epochs=8).make(), []
    scalar = lambda tag, value, step: losses.append(value) if tag == "adapt/attraction" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, RandomImages(64, 2, CPU, method.tags))
    assert len(losses) == 16
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3]), losses
