"""CFLOW-AD against the numbers and definitions of its paper, of the official code and of ADer's."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import ader.methods.cflow as cflow
from ader.config.compose import compose
from ader.methods import build
from ader.methods._base import Batch, Stage
from ader.methods.cflow import CFlow, PositionalCodes, division, likelihood_per_dimension, meta_cosine
from ader.nets.backbone import BackboneOptions
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = {"backbone": {"name": "test_resnet", "pretrained": False}, "coupling_blocks": 2, "condition_dim": 8}


@pytest.fixture(scope="module")
def wide() -> CFlow:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return CFlow(backbone=BackboneOptions("wide_resnet50_2.racm_in1k", pretrained=False))


def small(**arguments) -> CFlow:
    torch.manual_seed(0)
    return build("cflow", image_size=64, **{**SMALL, **arguments})


def test_parameters(wide):
    """Published: rotations and their inverses as frozen parameters; here each rotation is a buffer, stored once."""
    total, trained = count_parameters(wide)
    assert trained == 81_647_616
    flows = [sum(weight.numel() for weight in flow.parameters()) for flow in wide.flows]
    assert flows == [5_523_456, 17_074_176, 59_049_984]
    rotations = [sum(value.numel() for value in flow.buffers()) for flow in wide.flows]
    assert rotations == [8 * 512**2, 8 * 1024**2, 8 * 2048**2]
    stored = [own + 2 * fixed for own, fixed in zip(flows, rotations, strict=True)]
    assert stored == [9_717_760, 33_851_392, 126_158_848]
    assert total + 2 * sum(rotations) == 236_562_240  # 237 M in ADer Table 1


def test_macs(wide):
    """ADer Table 1 says 28.7 G, which leaves the rotations out: 8 C^2 for each of 1024, 256 and 64 vectors."""
    everything = count_macs(wide, 256, torch.device("meta"))
    vectors = {512: 1024, 1024: 256, 2048: 64}
    rotations = sum(8 * channels**2 * count for channels, count in vectors.items())
    assert rotations == pytest.approx(6.44e9, rel=1e-3)
    widths = {channels: channels // 2 + 128 for channels in vectors}
    couplings = sum(8 * n * (widths[c] * 2 * widths[c] + 2 * widths[c] * c) for c, n in vectors.items())
    assert couplings == pytest.approx(13.77e9, rel=1e-3)
    encoder = count_macs(Encoder(wide), 256, torch.device("meta"))
    assert encoder == pytest.approx(14.92e9, rel=3e-3)  # with the normalizations, which are not products of matrices
    assert everything == encoder + couplings + rotations
    assert everything - rotations == pytest.approx(28.7e9, rel=2e-3)


class Encoder(nn.Module):
    def __init__(self, method: CFlow) -> None:
        super().__init__()
        self.backbone = method.backbone

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)


def test_layers(wide):
    shapes = [tuple(value.shape) for value in wide(torch.empty(2, 3, 256, 256, device="meta"))]
    assert shapes == [(2, 32, 32), (2, 16, 16), (2, 8, 8)]
    for flow, channels in zip(wide.flows, (512, 1024, 2048), strict=True):
        assert len(flow.blocks) == 8
        for block in flow.blocks:
            first, _, second = block.subnet
            width = channels // 2 + 128
            assert (first.in_features, first.out_features, second.out_features) == (width, 2 * width, channels)
            assert block.clamp == 1.9


def test_recipe():
    method = small(epochs=30, batch_size=3)
    descent, offset = method.stages()
    assert (descent.epochs, descent.batch_size, descent.clip, descent.drop_last) == (30, 3, None, True)
    assert list(descent.modules) == [method.flows]
    assert list(descent.optimizers) == ["layer2", "layer3", "layer4"]
    for flow, optimizer in zip(method.flows, descent.optimizers.values(), strict=True):
        assert isinstance(optimizer, torch.optim.Adam)
        (group,) = optimizer.param_groups
        assert {id(weight) for weight in group["params"]} == {id(weight) for weight in flow.parameters()}
        assert {key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "amsgrad")} == {
            "lr": 2e-4,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0,
            "amsgrad": False,
        }
    assert {schedule(0.0) for schedule in descent.schedules.values()} == {0.1}
    assert list(descent.schedules) == list(descent.optimizers)
    assert (offset.split, offset.batch_size, offset.batches) == ("train", 3, None)


def test_official_recipe():
    values = compose(["method=cflow", "dataset=demo", "recipe=official"]).values
    chosen = values["method"]
    assert (values["trainer"]["epochs"], chosen["epochs"], chosen["sub_epochs"]) == (200, 200, 8)  # 25 meta-epochs
    assert (chosen["score_window"], chosen["padding"]) == (1, "reflect")
    assert chosen["backbone"]["name"] == "wide_resnet50_2.tv_in1k"


def test_schedule():
    """Numbers from ADer's ``adjust_learning_rate`` and ``warmup_learning_rate``: 10 meta-epochs, 2 of them rising."""
    factor = meta_cosine(10, 2, 0.1, 0.001)
    top = 0.001 + 0.999 * (1 + math.cos(0.2 * math.pi)) / 2
    assert top == pytest.approx(0.904604, abs=1e-6)
    expected = {
        0.0: 0.1,
        0.1: (0.1 + top) / 2,
        0.15: 0.1 + 0.75 * (top - 0.1),
        0.2: top,
        0.299: top,
        0.3: 0.794098704,
        0.55: 0.5005,
        0.99: 0.025447,
    }
    assert {place: factor(place) for place in expected} == pytest.approx(expected, abs=1e-6)


def test_schedule_steps_at_every_meta_epoch():
    """Of steps that do not divide evenly in binary: each stair is as long as the others."""
    factor = meta_cosine(26, 0, 0.1, 0.001)  # 15 / 26 * 26 rounds to less than 15
    values = [factor(step / 754) for step in range(754)]
    assert [values[29 * stair] for stair in range(26)] == sorted(set(values), reverse=True)
    assert all(len(set(values[29 * stair : 29 * stair + 29])) == 1 for stair in range(26))


@pytest.mark.parametrize(("length", "expected"), [(0.1, [1, 1]), (1, [1, 1]), (2, [0.1, 0.5005])])
def test_schedule_of_short_trainings(length, expected):
    """The rise takes at most all meta-epochs but the last."""
    factor = meta_cosine(length, 2, 0.1, 0.001)
    assert [factor(0.0), factor(0.999)] == pytest.approx(expected)


def test_positional_codes():
    """Each number on its own, from the definition: column first, then row; sine at even, cosine at odd places."""
    codes = PositionalCodes(12)(torch.empty(1, 5, 2, 3))
    assert codes.shape == (6, 12)
    for row in range(2):
        for column in range(3):
            for number in range(12):
                place, half = (column, number) if number < 6 else (row, number - 6)
                angle = place * 10000 ** (-(half - half % 2) / 6)
                value = math.cos(angle) if half % 2 else math.sin(angle)
                assert codes[row * 3 + column, number].item() == pytest.approx(value, abs=1e-6)
    with pytest.raises(UserError, match="multiple of 4"):
        PositionalCodes(6)


def test_likelihood_and_loss_by_hand():
    """z = (1, 2), log-determinant 0.5: log p = -ln 2 pi - 2.5 + 0.5, per dimension half of it."""

    class Known(nn.Module):
        def forward(self, vector: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])

    value = likelihood_per_dimension(Known(), torch.empty(1, 2), torch.empty(1, 4))
    assert value.item() == pytest.approx((-math.log(2 * math.pi) - 2) / 2, rel=1e-6)


def updates(batch: Batch, positions: int, fibers: int = 256) -> list[tuple[Tensor, int]]:
    return division(batch, positions, fibers, "order", torch.device("cpu"))


def bare(images: int, **more) -> Batch:
    return Batch(image_BCHW=torch.empty(images, 0), seed_B=torch.arange(images), **more)


def test_updates_of_a_full_batch():
    """32 images at 256x256: 128 + 32 + 8 updates of 256 vectors (ADer); 33 images leave a remainder."""
    for side, expected in ((32, 128), (16, 32), (8, 8)):
        assert [(len(place), size) for place, size in updates(bare(32), side**2)] == [(256, 256)] * expected
    assert len(updates(bare(33), 64)) == 8
    assert [(len(place), size) for place, size in updates(bare(2), 64)] == [(128, 128)]  # fewer than 256: all of them


def test_vectors_come_in_any_order():
    """A permutation, another one for each step; places are as often in the first half as chance has it."""
    (first, _), (other, _) = (updates(bare(2, step_seed=seed), 64)[0] for seed in (1, 2))
    assert sorted(first.tolist()) == list(range(128))
    assert not first.equal(other)
    halves = [int((updates(bare(2, step_seed=seed), 64)[0][0][:64] < 64).sum()) for seed in range(200)]
    assert np.mean(halves) == pytest.approx(32, abs=4 * math.sqrt(64 / 4 / 200))


def test_updates_of_several_processes():
    """The same updates as one process makes, each process with those vectors that are in its images."""
    generator = random.Random(0)
    for _ in range(50):
        counts = [generator.randint(1, 9) for _ in range(generator.randint(2, 5))]
        positions, fibers, total = generator.randint(1, 70), generator.randint(1, 300), sum(counts)
        alone = updates(bare(total, step_seed=3), positions, fibers)
        parts = []
        for rank, count in enumerate(counts):
            first = sum(counts[:rank])
            mine = updates(bare(count, total=total, first=first, step_seed=3), positions, fibers)
            parts.append([(place + first * positions, size) for place, size in mine])
        for number, (place, size) in enumerate(alone):
            together = torch.cat([part[number][0] for part in parts])
            assert sorted(together.tolist()) == sorted(place.tolist())
            assert {part[number][1] for part in parts} == {size}
        assert {len(part) for part in parts} == {len(alone)}


class Recorder:
    """In place of the trainer's ``optimize``."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, tuple[str, ...]]] = []

    def __call__(self, loss: Tensor, *names: str) -> None:
        self.calls.append((loss.item(), names))


def batch_of(count: int) -> Batch:
    return Batch(image_BCHW=images(count, 64), seed_B=torch.arange(count) * 977 + 5)


class Spelled(nn.Module):
    """In place of a flow: vectors say (image, row, column) of their place, and the codes must be that place's."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        place = torch.cartesian_prod(torch.arange(3), torch.arange(height), torch.arange(width)).float()
        self.feature_BCHW = place.view(3, height, width, 3).permute(0, 3, 1, 2)
        self.codes, self.width = PositionalCodes(8)(self.feature_BCHW), width
        self.seen: list[Tensor] = []

    def forward(self, vector: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        torch.testing.assert_close(code, self.codes[(vector[:, 1] * self.width + vector[:, 2]).long()])
        self.seen.append(vector)
        return vector, torch.zeros(len(vector))


def test_step_uses_every_vector_once_with_its_own_code(monkeypatch):
    method, optimize = small(fibers=10), Recorder()
    flows = [Spelled(4, 6), Spelled(2, 3), Spelled(1, 2)]
    method.flows = nn.ModuleList(flows)
    monkeypatch.setattr(method, "_features", lambda image: [flow.feature_BCHW for flow in flows])
    seen = {name: flow.seen for name, flow in zip(method.names, flows, strict=True)}
    losses = method._step(batch_of(3), optimize)
    # 72, 18 and 6 vectors of 10 for each update: 7 and 1 full ones, and one of all 6
    assert [names for _, names in optimize.calls] == [("layer2",)] * 7 + [("layer3",), ("layer4",)]
    assert [[len(part) for part in seen[name]] for name in method.names] == [[10] * 7, [10], [6]]
    for name in method.names:
        assert len(torch.cat(seen[name]).unique(dim=0)) == sum(map(len, seen[name]))
    assert not torch.cat(seen["layer2"])[:, 0].diff().ge(0).all()  # shuffled
    values = [
        np.log1p(np.exp(-((-1.5 * math.log(2 * math.pi) - vector.square().sum(1).numpy() / 2) / 3))).mean()
        for vector in seen["layer2"]
    ]
    assert [value for value, _ in optimize.calls[:7]] == pytest.approx(values, rel=1e-5)
    assert losses["layer2"].item() == pytest.approx(np.mean(values), rel=1e-5)
    assert [tuple(value.shape) for value in method(images(3, 64))] == [(3, 4, 6), (3, 2, 3), (3, 1, 2)]  # codes fit too


def test_step_in_two_processes():
    """Two processes with 2 and 3 of 5 images: losses, weighted by these shares, add up to those of one process."""
    method, image_BCHW = small(fibers=10), images(5, 64)
    found = []
    for first, last in ((0, 5), (0, 2), (2, 5)):
        optimize = Recorder()
        part = Batch(image_BCHW=image_BCHW[first:last], seed_B=torch.arange(first, last), total=5, first=first)
        method._step(part, optimize)
        found.append([value * part.share for value, _ in optimize.calls])
    assert len(found[0]) == 5 * 64 // 10 + 5 * 16 // 10 + 5 * 4 // 10
    np.testing.assert_allclose(np.add(found[1], found[2]), found[0], rtol=1e-5)


def test_images_are_rotated_one_by_one(monkeypatch):
    method, angles = small(fibers=64), []

    def record(image: Tensor, degrees: Tensor) -> Tensor:
        angles.append(degrees)
        return image

    monkeypatch.setattr(cflow, "rotate", record)
    for start in (0, 100):
        seeds = torch.arange(start, start + 100)
        method._features = lambda image: [torch.zeros(100, channels, 1, 1) for channels in method.backbone.channels]
        method._step(Batch(image_BCHW=torch.zeros(100, 3, 8, 8), seed_B=seeds), Recorder())
    drawn = torch.cat(angles)
    assert len(drawn.unique()) == 200
    assert -5 <= drawn.min() < -4.8
    assert 4.8 < drawn.max() <= 5
    assert abs(drawn.mean()) < 0.6
    method.rotation = 0.0
    method._step(Batch(image_BCHW=torch.zeros(2, 3, 8, 8), seed_B=torch.arange(2)), Recorder())
    assert len(angles) == 2


def test_offsets_are_the_maxima_over_the_training_images():
    """Fitted after the flows, on images that are not rotated."""
    method = small(batch_size=2, epochs=1, fibers=32)
    data = RandomImages(64, 3, CPU, method.tags)
    Trainer(device=CPU).fit(method, data)
    with torch.no_grad():
        batches = [method(batch.image_BCHW) for batch in data.train(data.stages["offset"], 0, 3)]
    expected = [max(values[scale].max().item() for values in batches) for scale in range(3)]
    assert method.offset.get().tolist() == pytest.approx(expected, abs=1e-6)
    _, map_BHW = predict(method, next(iter(data.train(data.stages["offset"], 0, 1))).image_BCHW)
    assert 0 <= map_BHW.min() < map_BHW.max() < 3


def test_predict_before_fitting():
    with pytest.raises(RuntimeError, match="before the method was fitted"):
        predict(small(), images(1, 64))


def test_map_of_known_likelihoods(monkeypatch):
    """Two scales at their offset everywhere, the third below it by factors of 2, 4 and many: exp, aligned corners,
    inversion, pooling."""
    method = small()
    offset = torch.tensor([-1.0, 0.5, 2.0])
    method.offset.value = offset
    third = torch.tensor([[0.0, math.log(0.5)], [-50.0, -50.0]])
    values = [torch.full((1, 4, 4), -1.0), torch.full((1, 3, 3), 0.5), third[None] + 2 - math.log(2)]
    monkeypatch.setattr(type(method), "forward", lambda self, image: values)
    score_B, map_BHW = predict(method, images(1, 40))
    x = np.arange(40) / 39
    normal = 0.5 * np.outer(1 - x, (1 - x) + 0.5 * x)
    np.testing.assert_allclose(map_BHW[0].numpy(), 1 - normal, atol=1e-5)
    squares = [(1 - normal)[row : row + 16, column : column + 16].mean() for row in range(25) for column in range(25)]
    assert score_B.item() == pytest.approx(max(squares), rel=1e-5)
    method.score_window = 1
    assert predict(method, images(1, 40)).score_B.item() == pytest.approx((1 - normal).max(), rel=1e-5)


def test_reflecting_encoder():
    """Every convolution reflects; the first one by hand."""
    backbone = {"name": "resnet18", "pretrained": False}
    method, plain = small(padding="reflect", backbone=backbone), small(backbone=backbone)
    convolutions = [part for part in method.backbone.modules() if isinstance(part, nn.Conv2d)]
    assert {part.padding_mode for part in convolutions} == {"reflect"}
    assert {part.padding_mode for part in plain.backbone.modules() if isinstance(part, nn.Conv2d)} == {"zeros"}
    image = images(1, 64)
    expected = F.conv2d(F.pad(image, (3, 3, 3, 3), mode="reflect"), convolutions[0].weight, stride=2)
    torch.testing.assert_close(convolutions[0](image), expected)
    assert not method(image)[0].allclose(plain(image)[0])


@pytest.mark.parametrize(("padding", "least"), [("zeros", 32), ("reflect", 64)])
def test_images_too_small(padding, least):
    method = small(padding=padding)
    method(images(1, least))
    with pytest.raises(UserError, match=f"image_size={least - 1} is too small for cflow: give at least {least}"):
        method(images(1, least)[:, :, :, :-1])


def test_bfloat16_likelihoods():
    """Flows of 512 channels as after training: within 0.01 of likelihoods around -1 per dimension."""
    method = small(coupling_blocks=8)
    with torch.no_grad():
        exact = method(images(2, 64))
        with torch.autocast("cpu", torch.bfloat16):
            rough = method(images(2, 64))
    for one, two in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, atol=0.01, rtol=0)


def test_other_layers():
    method = small(layers=(1, 2))
    assert method.names == ["layer1", "layer2"]
    assert [tuple(value.shape) for value in method(images(1, 64))] == [(1, 16, 16), (1, 8, 8)]


class Colored(RandomImages):
    """Noisy images of one color. With ``defects``, a square is gray: features of the smallest norm, which an untrained
    flow takes for the most normal ones."""

    def draw(self, count: int, defects: bool) -> tuple[Tensor, Tensor]:
        color = torch.tensor([0.9, 0.1, 0.7]).view(3, 1, 1)
        image_BCHW = (color + 0.1 * torch.randn(count, 3, 64, 64)).clamp(0, 1)
        mask_BHW = torch.zeros(count, 64, 64)
        if defects:
            for number in range(count):
                row, column = 8 * (number % 3), 8 * (number % 4)
                mask_BHW[number, row : row + 32, column : column + 32] = 1
        gray = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        return torch.where(mask_BHW[:, None] > 0, gray, image_BCHW), mask_BHW

    def _batch(self, stage: Stage, positions: list[int]) -> Batch:
        return Batch(image_BCHW=self.draw(stage.batch_size, False)[0], seed_B=torch.arange(stage.batch_size))


def test_short_training_finds_defects():
    """The loss falls; the map tells defects where an untrained flow's tells the opposite."""
    results = []
    for lr in (1e-12, 2e-3):
        method, losses = small(lr=lr, layers=[2, 3], batch_size=4, fibers=64, epochs=10, sub_epochs=1, rotation=0), []
        scalar = lambda tag, value, step: losses.append(value) if tag == "flow/layer2" else None  # noqa: B023, E731
        data = Colored(64, 3, CPU, method.tags)
        Trainer(device=CPU, scalar=scalar).fit(method, data)
        torch.manual_seed(1)
        image_BCHW, mask_BHW = data.draw(4, True)
        map_BHW = predict(method, image_BCHW).map_BHW
        results.append((losses, roc_auc_score(mask_BHW.flatten().numpy(), map_BHW.flatten().numpy())))
    (_, untrained), (losses, trained) = results
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), losses
    assert untrained < 0.5
    assert trained > 0.9


def test_checks_make_many_updates():
    """The common checks' small method takes several updates for each batch."""
    method, optimize = Subject.named("cflow").make(), Recorder()
    method._step(batch_of(2), optimize)
    assert len(optimize.calls) > 8
