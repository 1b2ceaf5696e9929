"""DeSTSeg against the numbers and definitions of its paper and of both codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from ader.config.compose import compose
from ader.data import load_index
from ader.data.sizes import Sizes
from ader.methods import build
from ader.methods._base import Batch
from ader.methods.destseg import DeSTSeg, focal_loss, products, shrunk_mask, summed_cosine_loss, top_mean
from ader.nets.backbone import BackboneOptions
from ader.nets.synthesis.synthetic import Synthetic
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, predict, snapshot
from ader.testing.toy import write_mvtec
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.optimization import Optimization
from ader.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
RANDOM = BackboneOptions("resnet18.tv_in1k", pretrained=False)
TINY = {"name": "test_resnet", "pretrained": False}


@pytest.fixture(scope="module")
def full_size() -> DeSTSeg:
    """Without memory for its weights."""
    with torch.device("meta"):
        return DeSTSeg(backbone=RANDOM)


@pytest.fixture(scope="module")
def trained() -> DeSTSeg:
    """Small; a few steps move the statistics of its norms. Tests must leave it as it is."""
    method = Subject.named("destseg", backbone=TINY).fit()
    assert isinstance(method, DeSTSeg)
    return method


def small(**arguments) -> DeSTSeg:
    method = Subject.named("destseg", **{"backbone": TINY, **arguments}).make()
    assert isinstance(method, DeSTSeg)
    return method


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


# Architecture


def test_parameters(full_size):
    """ADer Table 1 says 35.2 M."""
    assert count_parameters(full_size) == (35_154_177, 32_371_393)
    assert count(full_size.teacher) == 2_782_784
    assert (count(full_size.student.encoder), count(full_size.student.decoder)) == (11_176_512, 13_488_512)
    assert (count(full_size.segmentation.blocks), count(full_size.segmentation.head)) == (2_918_912, 4_787_457)


def test_macs(full_size):
    """38.44 G. Both codes run the teacher twice: 40.28 G; and fvcore, which ADer Table 1 took 30.7 G from, counts
    nothing for a convolution whose padding is the word "same", the fusion of the pyramid pooling."""
    ours = count_macs(full_size, 256, META)
    teacher = count_macs(full_size.teacher, 256, META)
    fusion = 64 * 64 * full_size.segmentation.head[0].fusion[0].weight.numel()
    assert ours == pytest.approx(38.44e9, rel=0.005)
    assert ours + teacher == pytest.approx(40.276e9, rel=0.0005)
    assert fusion == pytest.approx(9.66e9, rel=0.001)
    assert ours + teacher - fusion == pytest.approx(30.7e9, rel=0.005)


def test_shapes(full_size, monkeypatch):
    image_BCHW = torch.empty(2, 3, 256, 256, device="meta")
    shapes = [(64, 64, 64), (128, 32, 32), (256, 16, 16)]
    assert [tuple(feature.shape[1:]) for feature in full_size.teacher(image_BCHW)] == shapes
    assert [tuple(feature.shape[1:]) for feature in full_size.student(image_BCHW)] == shapes
    assert full_size(image_BCHW).shape == (2, 64, 64)
    monkeypatch.setitem(full_size._modules, "segmentation", nn.Identity())  # what it is given comes out
    assert full_size(image_BCHW).shape == (2, 448, 64, 64)


def test_layers_in_detail():
    """What parameter counts cannot tell: strides, dilations, biases, norms, the initialization of each part."""
    method = small(width=32)
    head = method.segmentation.head
    convolutions = [part for part in head.modules() if isinstance(part, nn.Conv2d)]
    kinds = [(part.kernel_size[0], part.dilation[0], part.padding[0], part.bias is None) for part in convolutions]
    pooled, dilated = [(1, 1, 0, True)], [(3, 6, 6, True), (3, 12, 12, True), (3, 18, 18, True)]
    assert kinds == [*pooled, *dilated, (3, 1, 1, True), (3, 1, 1, True), (1, 1, 0, False)]
    built = nn.ModuleList([method.student.decoder, method.segmentation])
    for part in built.modules():
        if isinstance(part, nn.Conv2d):
            assert part.stride == (1, 1)
        elif isinstance(part, nn.BatchNorm2d):
            assert (part.eps, part.momentum) == (1e-5, 0.1)
            assert part.weight.eq(1).all()
            assert part.bias.eq(0).all()
    for part in nn.ModuleList([method.student.decoder, method.segmentation.blocks]).modules():
        if isinstance(part, nn.Conv2d):  # Kaiming's normal
            assert part.bias is None
            std = math.sqrt(2 / (part.out_channels * math.prod(part.kernel_size)))
            assert part.weight.std().item() == pytest.approx(std, rel=0.1)
            assert part.weight.abs().max().item() > 2.2 * std  # a uniform distribution ends at 1.73
    for part in convolutions:  # torch's: uniform within 1 / sqrt(fan in)
        limit = 1 / math.sqrt(part.weight[0].numel())
        assert part.weight.abs().max().item() <= limit
        assert part.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.25)


def test_student_is_the_teachers_network_with_other_weights():
    method = small()
    teacher, student = method.teacher.net.state_dict(), method.student.encoder.state_dict()
    assert set(teacher) < set(student)
    assert all(student[name].shape == value.shape for name, value in teacher.items())
    convolutions = [name for name, value in teacher.items() if value.ndim == 4]
    assert not any(teacher[name].equal(student[name]) for name in convolutions)
    assert not any(weight.requires_grad for weight in method.teacher.parameters())
    assert all(weight.requires_grad for weight in method.student.parameters())


def norm(part: nn.BatchNorm2d, feature: torch.Tensor) -> torch.Tensor:
    """A batch norm in evaluation mode, written out."""
    scale = part.weight / (part.running_var + 1e-5).sqrt()
    return (feature - part.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + part.bias.view(-1, 1, 1)


def residual(block, feature: torch.Tensor) -> torch.Tensor:
    """A basic block, written out."""
    inner = norm(block.bn1, F.conv2d(feature, block.conv1.weight, padding=1)).clamp(min=0)
    inner = norm(block.bn2, F.conv2d(inner, block.conv2.weight, padding=1))
    if block.downsample is not None:
        feature = norm(block.downsample[1], F.conv2d(feature, block.downsample[0].weight))
    return (inner + feature).clamp(min=0)


def resized(feature: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear interpolation by its definition: pixel centers at one half, edges repeated."""

    def matrix(inputs: int, outputs: int) -> torch.Tensor:
        weights = torch.zeros(outputs, inputs)
        for place in range(outputs):
            center = min(max((place + 0.5) * inputs / outputs - 0.5, 0), inputs - 1)
            low = int(center)
            weights[place, low] += 1 - (center - low)
            weights[place, min(low + 1, inputs - 1)] += center - low
        return weights

    return matrix(feature.shape[-2], height) @ feature @ matrix(feature.shape[-1], width).T


@torch.no_grad()
def test_decoder_is_its_definition(trained):
    """Two blocks at the deepest scale; then, three times, interpolation to the next scale and two blocks."""
    image_BCHW = images(2, 64)
    feature, expected = trained.student.encoder(image_BCHW)[-1], []
    feature = residual(trained.student.decoder[0][1], residual(trained.student.decoder[0][0], feature))
    for stage, side in zip(trained.student.decoder[1:], (4, 8, 16), strict=True):
        feature = residual(stage[1], residual(stage[0], resized(feature, side, side)))
        expected.insert(0, feature)
    for one, other in zip(trained.student(image_BCHW), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_segmentation_is_its_definition(trained):
    """Blocks; the mean and three dilations, joined; another convolution; logits. ReLU follows each norm."""
    similarity = torch.rand(2, sum(trained.teacher.channels), 10, 12) - 0.5
    blocks, (pyramid, last, last_norm, _, logits) = trained.segmentation.blocks, trained.segmentation.head
    feature = residual(blocks[1], residual(blocks[0], similarity))
    mean = feature.mean(dim=(2, 3), keepdim=True)
    branches = [norm(pyramid.pooled[2], F.conv2d(mean, pyramid.pooled[1].weight)).repeat(1, 1, 10, 12)]
    for branch, dilation in zip(pyramid.dilated, (6, 12, 18), strict=True):
        padded = F.pad(feature, [dilation] * 4)
        branches.append(norm(branch[1], F.conv2d(padded, branch[0].weight, dilation=dilation)))
    joined = torch.cat(branches, dim=1).clamp(min=0)
    fused = norm(pyramid.fusion[1], F.conv2d(joined, pyramid.fusion[0].weight, padding=1)).clamp(min=0)
    deepest = norm(last_norm, F.conv2d(fused, last.weight, padding=1)).clamp(min=0)
    expected = F.conv2d(deepest, logits.weight, logits.bias)[:, 0]
    torch.testing.assert_close(trained.segmentation(similarity), expected, atol=1e-4, rtol=1e-4)


def test_similarity_of_known_features(trained, monkeypatch):
    """-t s of unit vectors; a coarser scale is interpolated after the product; finest scale first."""
    fine, coarse = (torch.rand(1, 2, 4, 6) for _ in range(2)), (torch.rand(1, 3, 2, 3) for _ in range(2))
    (t1, s1), (t2, s2) = fine, coarse
    monkeypatch.setattr(trained.teacher, "forward", lambda image: [t1, t2])
    monkeypatch.setattr(trained.student, "forward", lambda image: [s1, s2])
    length = lambda vector: (vector**2).sum(1, keepdim=True).sqrt()  # noqa: E731
    second = resized(-t2 / length(t2) * s2 / length(s2), 4, 6)
    expected = torch.cat([-t1 / length(t1) * s1 / length(s1), second], dim=1)
    monkeypatch.setitem(trained._modules, "segmentation", nn.Identity())  # what it is given comes out
    torch.testing.assert_close(trained(images(1, 64)), expected, atol=1e-6, rtol=1e-5)


def test_features_that_vanish_have_no_direction():
    """After a ReLU a pixel may be all zero: its product is zero, and gradients stay finite."""
    student = torch.zeros(1, 4, 2, 2, requires_grad=True)
    (product,) = products([torch.ones(1, 4, 2, 2)], [student.relu()])
    assert product.eq(0).all()
    (1 - product.sum()).backward()
    assert student.grad.isfinite().all()


# Losses


def test_cosine_loss_is_a_sum_over_images():
    """Two images; a scale of 2x2 pixels and one of a single pixel; angles of 0, 60, 90 and 180 degrees."""
    teacher = [torch.zeros(2, 2, 2, 2), torch.zeros(2, 2, 1, 1)]
    teacher[0][:, 0], teacher[1][:, 0] = 3.0, 0.5
    student = [feature.clone() * 7 for feature in teacher]
    student[0][0, :, 0, 0] = torch.tensor([0.5, math.sqrt(0.75)])  # 1 - cos = 1/2, one pixel of four
    student[0][1, :, 1, 0] = torch.tensor([0.0, 2.0])  # 1, one of four
    student[1][1, 0] = -4.0  # 2, the only pixel
    expected = (0.5 / 4 + 1 / 4) + (0 + 2)
    assert summed_cosine_loss(teacher, student).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 2.0, 4.0])
def test_focal_loss_by_its_definition(gamma):
    generator = np.random.default_rng(0)
    logit, target = generator.normal(0, 4, (3, 5, 5)), (generator.random((3, 5, 5)) > 0.5).astype(float)
    p = 1 / (1 + np.exp(-logit))
    right = np.where(target == 1, p, 1 - p)
    expected = (-((1 - right) ** gamma) * np.log(right)).mean()
    got = focal_loss(torch.from_numpy(logit), torch.from_numpy(target), gamma)
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_focal_loss_of_certain_answers():
    """A wrong answer at a logit of 200 costs 200, with slope 1; a right one nothing. In float32 the sigmoid of 200 is
    1, from which neither could be had."""
    logit = torch.tensor([[[200.0, -200.0]]], requires_grad=True)
    loss = focal_loss(logit, torch.zeros(1, 1, 2), 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(100.0)
    assert logit.grad.flatten().tolist() == pytest.approx([0.5, 0.0])


def test_mask_shrinks_by_interpolation_without_antialiasing():
    """From 16 to 4 pixels: the mean of the four pixels in the middle of each cell, from one half on."""
    generator = torch.Generator().manual_seed(0)
    mask_BHW = (torch.rand(50, 16, 16, generator=generator) > 0.5).float()
    cell_BHWyx = mask_BHW.view(50, 4, 4, 4, 4).transpose(2, 3)
    middle_BHW = cell_BHWyx[..., 1:3, 1:3].sum(dim=(3, 4))
    expected = (middle_BHW >= 2).float()
    assert (middle_BHW == 2).any()
    assert shrunk_mask(mask_BHW, (4, 4)).equal(expected)


# Recipe


def stages(method: DeSTSeg):
    first, second = method.stages()
    return first, second


def groups(stage) -> list[tuple]:
    (optimizer,) = stage.optimizers.values()
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.9, 0, False)
    return [(group["params"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def test_recipe():
    method = small(epochs=100, batch_size=32)
    student, segmentation = stages(method)
    assert (student.name, segmentation.name) == ("student", "segmentation")
    for stage, module in ((student, method.student), (segmentation, method.segmentation)):
        assert list(stage.modules) == [module]
        assert (stage.batch_size, stage.clip, stage.drop_last, stage.steps) == (32, 5.0, True, None)
        assert stage.schedules == {}  # constant rates
        assert {id(w) for params, _, _ in groups(stage) for w in params} == {id(w) for w in module.parameters()}
    (matrices, *first), (vectors, *second) = groups(student)
    assert (first, second) == ([0.4, 1e-4], [0.4, 0.0])
    assert {weight.ndim for weight in matrices} == {4}
    assert {weight.ndim for weight in vectors} == {1}
    (blocks, *first), (head, *second) = groups(segmentation)
    assert (first, second) == ([0.1, 1e-4], [0.01, 1e-4])
    assert {id(w) for w in blocks} == {id(w) for w in method.segmentation.blocks.parameters()}
    assert {id(w) for w in head} == {id(w) for w in method.segmentation.head.parameters()}


def test_variants():
    student, segmentation = stages(small(steps=5000, decay_norms_and_biases=True, clip=None))
    assert (student.steps, segmentation.steps, student.epochs, segmentation.epochs) == (1000, 4000, None, None)
    assert (student.clip, segmentation.clip) == (None, None)
    assert {decay for _, _, decay in groups(student)} == {1e-4}


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 6, 35, 100, 300])
def test_epochs_of_the_phases(epochs):
    """As in ADer, epochs number 0, 1, ... below a fifth of all train the student; neither phase is left out."""
    student, segmentation = stages(small(epochs=epochs))
    expected = sum(5 * epoch < epochs for epoch in range(epochs))
    assert student.epochs == expected
    assert segmentation.epochs == max(1, epochs - expected)


def test_share_is_exact():
    """0.07 * 100 is 7.000000000000001 in floating point."""
    student, segmentation = stages(small(epochs=100, student_share=0.07))
    assert (student.epochs, segmentation.epochs) == (7, 93)


def test_named_recipes():
    def arguments(recipe: str | None) -> dict:
        composed = compose(["method=destseg", "dataset=demo", *([f"recipe={recipe}"] if recipe else [])])
        return composed.values["method"]

    default, ader, official = arguments(None), arguments("ader"), arguments("official")
    assert {key for key in default if ader[key] != default[key]} == {"channels"}
    assert ader["channels"] == "bgr"
    changed = {key: official[key] for key in default if official[key] != default[key]}
    assert changed == {"steps": 5000, "decay_norms_and_biases": True, "clip": None, "top_pixels": 100}


# Training steps


class Given(nn.Module):
    """Anomalies chosen by a test."""

    def __init__(self, made: Synthetic) -> None:
        super().__init__()
        self.made = made

    def forward(self, image_BCHW, seed_B):
        return self.made


def marked() -> Given:
    """The spoiled image is 0, the clean one 1; the mask is the left half."""
    mask_BHW = torch.zeros(2, 64, 64)
    mask_BHW[:, :, :32] = 1
    return Given(Synthetic(torch.zeros(2, 3, 64, 64), torch.ones(2, 3, 64, 64), mask_BHW))


def one_step(method: DeSTSeg, number: int, **changes) -> dict[str, torch.Tensor]:
    """What the trainer does for one batch."""
    stage = stages(method)[number]
    method.eval()
    for module in stage.modules:
        module.train()
    batch = Batch(image_BCHW=changes.get("image_BCHW", images(2, 64)), seed_B=torch.arange(2))
    return dict(stage.step(batch, Optimization(stage, CPU)))


def spy(method: DeSTSeg) -> dict[str, list[float]]:
    """Mean pixel (1: clean, 0: spoiled) that each network sees, call by call."""
    seen: dict[str, list[float]] = {"teacher": [], "student": [], "segmentation": []}
    net, student, segmentation = method.teacher.net, method.student, method.segmentation
    mean, std = method.teacher.normalize.mean, method.teacher.normalize.std

    def note(name):
        def hook(module, inputs, output):
            value = inputs[0] * std + mean if name != "segmentation" else inputs[0]
            seen[name].append(round(value.mean().item(), 4))

        return hook

    for name, module in (("teacher", net), ("student", student), ("segmentation", segmentation)):
        module.register_forward_hook(note(name))
    method.anomalies = marked()
    return seen


def test_first_phase_trains_the_student_to_denoise():
    """The teacher sees the clean image, the student the spoiled one, the segmentation network nothing."""
    method = small()
    seen = spy(method)
    one_step(method, 0)
    assert (seen["teacher"], seen["student"], seen["segmentation"]) == ([1.0], [0.0], [])


def test_second_phase_trains_the_segmentation_alone():
    """Both networks see the spoiled image, once; the student keeps its weights and the statistics of its norms, and
    nothing is propagated back through it."""
    method = small()
    seen = spy(method)
    before = snapshot(method.student)
    one_step(method, 1)
    assert (seen["teacher"], seen["student"], len(seen["segmentation"])) == ([0.0], [0.0], 1)
    assert all(before[name].equal(value) for name, value in snapshot(method.student).items())
    assert all(weight.grad is None for weight in method.student.parameters())


def test_losses_of_the_steps(monkeypatch):
    """The losses that are minimized, from the networks' known outputs."""
    method = small()
    method.anomalies = marked()
    logit_BHW = torch.linspace(-3, 3, 2 * 16 * 16).view(2, 16, 16).requires_grad_()
    monkeypatch.setattr(DeSTSeg, "forward", lambda self, image_BCHW: logit_BHW)
    minimized: list[torch.Tensor] = []
    batch = Batch(image_BCHW=images(2, 64), seed_B=torch.arange(2))
    logged = method._step_segmentation(batch, lambda loss, *names: minimized.append(loss))
    p, target = 1 / (1 + np.exp(-logit_BHW.detach().double().numpy())), np.zeros((2, 16, 16))
    target[:, :, :8] = 1
    right = np.where(target == 1, p, 1 - p)
    l1, focal = (1 - right).mean(), (-((1 - right) ** 4) * np.log(right)).mean()
    assert logged["l1"].item() == pytest.approx(l1, rel=1e-5)
    assert logged["focal"].item() == pytest.approx(focal, rel=1e-5)
    assert minimized[0].item() == pytest.approx(l1 + focal, rel=1e-5)


@pytest.mark.parametrize("phase", [0, 1])
def test_steps_in_bfloat16(phase):
    """Losses are float32 and within 1 % of those in float32."""
    exact = one_step(small(), phase)
    with Trainer(device=CPU, precision="bf16").autocast():
        rough = one_step(small(), phase)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(value.item(), rel=0.01), name


def test_sum_over_the_batch_is_that_of_all_processes():
    """Losses, weighted by the processes' shares of the images, add up to the sum over all of them."""
    method, image_BCHW, weighted = small(), images(5, 64), []
    method.eval()
    for first, last in ((0, 5), (0, 2), (2, 5)):
        batch = Batch(image_BCHW=image_BCHW[first:last], seed_B=torch.arange(first, last), total=5, first=first)
        share = (last - first) / 5
        method._step_student(batch, lambda loss, *names, share=share: weighted.append(loss.item() * share))
    assert weighted[1] + weighted[2] == pytest.approx(weighted[0], rel=1e-5)


# Prediction


def test_map_and_scores_of_known_logits(trained, monkeypatch):
    """Probabilities first, then interpolation with pixel centers at one half; scores from the map at full size."""
    logit_BHW = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)) * 4
    monkeypatch.setattr(DeSTSeg, "forward", lambda self, image_BCHW: logit_BHW)
    score_B, map_BHW = predict(trained, images(2, 64))
    expected = resized(1 / (1 + (-logit_BHW).exp()), 64, 64)
    torch.testing.assert_close(map_BHW, expected, atol=1e-5, rtol=1e-5)
    assert score_B.equal(map_BHW.amax(dim=(1, 2)))


def test_score_of_top_pixels():
    map_BHW = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0))
    for pixels in (1, 7, 100, 240, 1000):
        highest = np.sort(map_BHW.numpy().reshape(3, -1), axis=1)[:, ::-1][:, :pixels].mean(axis=1)
        np.testing.assert_allclose(top_mean(map_BHW, pixels).numpy(), highest, rtol=1e-6)
    method = small(top_pixels=50)
    score_B, map_BHW = predict(method, images(2, 64))
    assert score_B.equal(top_mean(map_BHW, 50))


def test_bgr_turns_the_colors_round_before_both_networks():
    image_BCHW = images(2, 64)
    rgb, bgr = small(), small(channels="bgr")
    assert predict(bgr, image_BCHW)[1].equal(predict(rgb, image_BCHW.flip(1))[1])
    assert not predict(bgr, image_BCHW)[1].equal(predict(rgb, image_BCHW)[1])
    clean = torch.linspace(0, 1, 3).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    losses = []
    for method, made in (
        (rgb, Synthetic(clean / 2, clean, torch.zeros(2, 64, 64))),
        (bgr, Synthetic(clean.flip(1) / 2, clean.flip(1), torch.zeros(2, 64, 64))),
    ):
        method.anomalies = Given(made)
        losses.append([value.item() for number in (0, 1) for value in one_step(method, number).values()])
    assert losses[0] == losses[1]


def test_any_image_size(trained):
    """Features of odd sizes fit: the decoder interpolates to the encoder's."""
    _, map_BHW = predict(trained, images(1, 83))
    assert map_BHW.shape == (1, 83, 83)


# Errors and warnings


def test_errors():
    with pytest.raises(UserError, match=r"method.batch_size=1 does not fit: .*greater than or equal to 2"):
        build("destseg", batch_size=1)
    with pytest.raises(UserError, match=r"method.student_share=1.0 does not fit"):
        build("destseg", student_share=1.0)
    with pytest.raises(UserError, match=r"backbone.name='convnext_atto' has no feature map 4, .*: take a ResNet"):
        build("destseg", backbone={"name": "convnext_atto", "pretrained": False})
    for phase in (0, 1):
        with pytest.raises(UserError, match="cannot train on 1 image per process: give more training images"):
            one_step(small(), phase, image_BCHW=images(1, 64))


def test_warnings():
    """Stand-in textures and random weights of the teacher; the student's are random by design."""
    (random, textures) = small().warnings()
    assert "test_resnet" in random
    assert "textures" in textures


# The whole


def test_short_training(tmp_path):
    index = load_index("folder", write_mvtec(tmp_path, size=64, train=16, good=4, bad=6), counts=None)
    torch.manual_seed(0)
    method = build(
        "destseg",
        image_size=64,
        batch_size=8,
        steps=100,
        student_share=0.4,
        head_lr=0.1,
        width=32,
        backbone={"name": "test_resnet", "pretrained": False},
    )
    loader = Loader(index, 64, CPU, 0, 0, method.tags)
    ((_, image_BCHW, mask_BHW, _),) = loader.test(64, Sizes())
    assert isinstance(mask_BHW, torch.Tensor)

    def auroc() -> float:
        return roc_auc_score(mask_BHW.numpy().ravel(), predict(method, image_BCHW)[1].numpy().ravel())

    logged: dict[str, list[float]] = {}
    before = auroc()
    Trainer(device=CPU, scalar=lambda tag, value, step: logged.setdefault(tag, []).append(value)).fit(method, loader)
    assert auroc() > max(0.7, before + 0.15)
    second = np.add(logged["segmentation/l1"], logged["segmentation/focal"])
    assert np.mean(second[-5:]) < 0.5 * np.mean(second[:5])
    first = logged["student/cos"]
    assert np.mean(first[-5:]) < 0.5 * np.mean(first[:5])
