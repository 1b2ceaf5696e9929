"""MambaAD against the numbers and definitions of its paper and of ADer's code."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ader.data import load_index
from ader.methods._base import Batch
from ader.methods.mambaad import Decoder, HybridScan, LSSModule, MambaAD, PatchExpand
from ader.nets.backbone import BackboneOptions
from ader.nets.scan.orders import orders
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, predict
from ader.testing.toy import write_mvtec
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
UNUSED = 12_096  # a depthwise 3x3 branch of ADer's that no pass uses
INDICES = 39_296  # of scans, which ADer keeps as frozen parameters


@pytest.fixture(scope="module")
def wide() -> MambaAD:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return MambaAD(backbone=BackboneOptions("resnet34", pretrained=False))


def small(**arguments) -> MambaAD:
    method = Subject.named("mambaad", **arguments).make()
    assert isinstance(method, MambaAD)
    return method


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_parameters(wide):
    """The fact sheet's, measured of ADer's code, whose stages hold the unused branch and two indices a pixel."""
    assert count(wide.teacher) == 8_170_304
    assert count(wide.bottleneck) == 1_458_304
    assert [count(part) for part in wide.decoder.expansions] == [524_800, 131_328, 32_896]
    stages, unused, indices = [], 0, 0
    for number, (level, width) in enumerate(zip(wide.decoder.levels, (512, 256, 128, 64), strict=True)):
        branch, own = 9 * width * len(level), 2 * (8 * 2**number) ** 2 * sum(len(module.blocks) for module in level)
        expansion = count(wide.decoder.expansions[number - 1]) if number else 0
        stages.append(count(level) + expansion + branch + own)
        unused, indices = unused + branch, indices + own
    assert stages == [9_440_640, 4_432_384, 1_816_320, 348_672]
    assert (unused, indices) == (UNUSED, INDICES)
    total, trained = count_parameters(wide)
    assert trained == 17_457_024 - UNUSED
    assert total == 25_666_624 - UNUSED - INDICES
    assert total / 1e6 == pytest.approx(25.7, rel=0.005)


def test_macs(wide):
    """ADer Table 1 says 8.3 G; neither fvcore nor torch counts the scan."""
    total = count_macs(wide, 256, torch.device("meta"))
    assert total == 8_241_545_216
    assert total / 1e9 == pytest.approx(8.3, rel=0.02)


def test_shapes(wide):
    teacher, student = wide(torch.empty(2, 3, 256, 256, device="meta"))
    expected = [(2, 64, 64, 64), (2, 128, 32, 32), (2, 256, 16, 16)]
    assert [tuple(feature.shape) for feature in teacher] == expected
    assert [tuple(feature.shape) for feature in student] == expected


def test_rates_of_stochastic_depth(wide):
    """Of the 16 values from 0.2 to 0, the first of each stage, one for all blocks of a module."""
    blocks = [(0.2, 3), (0.16, 2), (0.1467, 2), (0.1067, 3), (0.0933, 3), (0.0267, 3)]
    expected = [rate for rate, times in blocks for _ in range(times)]
    assert wide.decoder.rates == pytest.approx(expected, abs=1e-4)


def test_paths_are_drawn_for_each_image():
    decoder = small(drop_path=0.4).decoder
    path_BP = decoder.kept_paths(torch.arange(4000))
    rates = torch.tensor([0.4, 0.4 * 2 / 3, 0.4 / 3, 0.0])
    assert torch.allclose((path_BP == 0).float().mean(0), rates, atol=0.03)
    assert torch.allclose(path_BP.max(0).values, 1 / (1 - rates))
    assert decoder.kept_paths(torch.tensor([7])).equal(path_BP[7:8])


def test_recipe(wide):
    (stage,) = wide.stages()
    (optimizer,) = stage.optimizers.values()
    assert list(stage.modules) == [wide.bottleneck, wide.decoder]
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last, stage.split) == (100, 16, 5.0, True, "train")
    assert type(optimizer) is torch.optim.AdamW
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "eps", "amsgrad")} == {
        "lr": 0.005,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "amsgrad": False,
    }
    decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    trained = [*wide.bottleneck.named_parameters(), *wide.decoder.named_parameters()]
    assert len(decay) == len(trained)
    for name, weight in trained:  # ADer's rule by its names: A and the steps' bias end otherwise, and decay
        plain = name.endswith((".bias", "skip_P")) or weight.ndim == 1
        assert decay[id(weight)] == (0.0 if plain else 1e-4), name
    schedule = stage.schedules["student"]
    assert [schedule(step / 1000) for step in (0, 799, 800, 999)] == [1.0, 1.0, 0.1, 0.1]


def test_initialization():
    torch.manual_seed(0)
    scan = HybridScan(64, 16, 8)
    rate = F.softplus(scan.step_bias_KD)
    assert rate.min().item() >= 1e-3 * 0.999
    assert rate.max().item() <= 0.1 * 1.001
    assert rate.log().std().item() == pytest.approx(math.log(100) / math.sqrt(12), rel=0.05)
    assert scan.log_decay_KDN.exp()[3, 5].tolist() == pytest.approx(range(1, 17))
    assert scan.skip_P.eq(1).all()
    assert scan.step_KDR.abs().max().item() == pytest.approx(0.5, rel=0.01)  # rank 4
    assert scan.select_KCD.abs().max().item() == pytest.approx(1 / math.sqrt(128), rel=0.01)
    decoder = Decoder([128, 64, 32, 16], (1, 1, 1, 1), 2, 2, 0.0)
    linear = [part for part in decoder.modules() if isinstance(part, nn.Linear)]
    assert len(linear) == 11
    assert all(part.weight.std().item() == pytest.approx(0.02, rel=0.1) for part in linear)
    module = decoder.levels[0][0]
    for conv, fan_out in ((module.mix, 128), (module.local7[3], 49), (module.blocks[0].scan.conv, 9)):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
    assert not module.mix.bias.any()


@torch.no_grad()
def test_hybrid_scan_by_hand():
    """Eight scans of one image in float64: cut out, projected, run and put back one after the other."""
    torch.manual_seed(0)
    scan = HybridScan(6, 3, 8).double()
    for weight in scan.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    x_HWC = torch.randn(4, 4, 6, dtype=torch.float64)
    x_HWD, gate_HWD = (x_HWC @ scan.enter.weight.T).split(12, dim=-1)
    kernel_D33, padded = scan.conv.weight[:, 0], F.pad(x_HWD.permute(2, 0, 1), (1, 1, 1, 1))
    x_DHW = scan.conv.bias[:, None, None] + sum(
        kernel_D33[:, i, j, None, None] * padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)
    )
    x_DHW = x_DHW * x_DHW.sigmoid()
    hilbert = [0, 1, 5, 4, 8, 12, 13, 9, 10, 14, 15, 11, 7, 6, 2, 3]  # numpy-hilbert-curve's, x + 4 y
    views = [x_DHW, x_DHW.mT, x_DHW.rot90(1, (1, 2)), x_DHW.rot90(1, (1, 2)).mT]
    undo = [lambda y: y, lambda y: y.mT, lambda y: y.rot90(3, (1, 2)), lambda y: y.mT.rot90(3, (1, 2))]
    total_DHW = torch.zeros_like(x_DHW)
    for k in range(8):
        order = hilbert[::-1] if k >= 4 else hilbert
        sequence_LD = views[k % 4].reshape(12, 16)[:, order].T
        out_DL, state_DN = torch.zeros(12, 16, dtype=torch.float64), torch.zeros(12, 3, dtype=torch.float64)
        for x_D, place in zip(sequence_LD, order, strict=True):
            rank, b_N, c_N = (scan.select_KCD[k] @ x_D).split([1, 3, 3])
            delta_D = F.softplus(scan.step_KDR[k] @ rank + scan.step_bias_KD[k])
            decay_DN = torch.exp(-delta_D[:, None] * scan.log_decay_KDN[k].exp())
            state_DN = decay_DN * state_DN + (delta_D * x_D)[:, None] * b_N
            out_DL[:, place] = state_DN @ c_N + scan.skip_P.view(8, 12)[k] * x_D
        total_DHW += undo[k % 4](out_DL.view(12, 4, 4))
    y_HWD = F.layer_norm(total_DHW.permute(1, 2, 0), (12,), scan.norm.weight, scan.norm.bias)
    expected = (y_HWD * gate_HWD * gate_HWD.sigmoid()) @ scan.leave.weight.T
    torch.testing.assert_close(scan(x_HWC[None], orders("hilbert", 4))[0], expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_lss_module_by_hand():
    module = LSSModule(4, 2, 2, 2).double()
    x_BHWC, order_KL = torch.randn(2, 4, 4, 4, dtype=torch.float64), orders("sweep", 4, 2)

    def norm_silu(x_BCHW):
        mean, var = x_BCHW.mean((2, 3), keepdim=True), x_BCHW.var((2, 3), unbiased=False, keepdim=True)
        x_BCHW = (x_BCHW - mean) / (var + 1e-5).sqrt()
        return x_BCHW * x_BCHW.sigmoid()

    x_BCHW, far_BHWC = x_BHWC.permute(0, 3, 1, 2), x_BHWC
    path_BP = torch.tensor([[0.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    for number, block in enumerate(module.blocks):
        branch = block.scan(block.norm(far_BHWC), order_KL)
        far_BHWC = far_BHWC + path_BP[:, number, None, None, None] * branch
    parts = [far_BHWC.permute(0, 3, 1, 2)]
    for branch in (module.local5, module.local7):
        value = x_BCHW
        for conv in (branch[0], branch[3], branch[6]):
            value = norm_silu(conv(value))
        parts.append(value)
    expected = (module.mix(torch.cat(parts, 1)) + x_BCHW).permute(0, 2, 3, 1)
    torch.testing.assert_close(module(x_BHWC, order_KL, path_BP), expected)
    assert [module.local5[3].kernel_size, module.local7[3].kernel_size] == [(5, 5), (7, 7)]


@torch.no_grad()
def test_patch_expansion_by_hand():
    """Of a pixel's four vectors the first two are its upper row."""
    part = PatchExpand(3)
    part.norm = nn.Identity()
    x_BHWC = torch.randn(1, 2, 2, 6)
    out, flat = part(x_BHWC), x_BHWC @ part.expand.weight.T
    for row in range(4):
        for column in range(4):
            place = 3 * (2 * (row % 2) + column % 2)
            expected = flat[0, row // 2, column // 2, place : place + 3]
            torch.testing.assert_close(out[0, row, column], expected)


def test_loss_and_map_of_known_features(monkeypatch):
    method, minimized = small(), []
    teacher = [torch.ones(1, 2, side, side) for side in (16, 8, 4)]
    student = [torch.ones(1, 2, 16, 16), torch.full((1, 2, 8, 8), 3.0), torch.ones(1, 2, 4, 4)]
    student[2][:, 1] = -1.0  # at right angles
    monkeypatch.setattr(MambaAD, "_features", lambda self, image_BCHW, path_BP: (teacher, student))
    logged = method._step(Batch(image_BCHW=images(1, 64), seed_B=torch.arange(1)), minimized.append)
    assert logged["mse"].item() == minimized[0].item() == pytest.approx(5 * (0 + 4 + 2))
    score_B, map_BHW = predict(method, images(1, 64))
    torch.testing.assert_close(map_BHW, torch.ones(1, 64, 64), atol=1e-5, rtol=0)
    assert score_B.item() == map_BHW.max().item()


@pytest.mark.parametrize(
    ("size", "curve", "message"),
    [
        ((96, 96), "hilbert", "method.curve=hilbert visits maps whose side is a power of 2, not 3: give another curve"),
        ((96, 96), "zorder", "method.curve=zorder visits maps whose side is a power of 2"),
        ((80, 80), "sweep", "image_size=80 does not suit mambaad: give a multiple of 32"),
        ((32, 32), "sweep", "image_size=32 does not suit mambaad"),
        ((64, 96), "sweep", "mambaad takes square images, not 64x96 pixels"),
    ],
)
def test_sizes_that_do_not_fit(size, curve, message):
    with pytest.raises(UserError, match=message) as caught:
        predict(small(curve=curve), torch.rand(1, 3, *size))
    assert "\n" not in str(caught.value)


def test_other_curves_take_other_sizes():
    assert predict(small(curve="zigzag"), torch.rand(1, 3, 96, 96)).map_BHW.shape == (1, 96, 96)


def test_backbones_that_do_not_fit():
    with pytest.raises(UserError, match=r"'test_resnet': mambaad needs feature maps whose channels double"):
        MambaAD(backbone=BackboneOptions("test_resnet", pretrained=False))


def test_short_training(tmp_path):
    """Twelve steps: the loss falls to less than half."""
    index = load_index("folder", write_mvtec(tmp_path, train=8, good=1, bad=1, size=64), counts=None)
    method, losses = small(epochs=3, batch_size=4), []
    scalar = lambda tag, value, step: losses.append(value) if tag == "restore/mse" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, Loader(index, 64, CPU, 0, 0, method.tags))
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3]), losses
