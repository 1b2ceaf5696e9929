"""ViTAD against the numbers and definitions of its paper and of ADer's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from torch import nn

from ader.data import load_index
from ader.data.sizes import Sizes
from ader.methods import build
from ader.methods._base import Batch
from ader.methods.vitad import Decoder, Teacher, ViTAD
from ader.nets.backbone import BackboneOptions
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, no_network, predict
from ader.testing.toy import write_mvtec
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = {
    "teacher_blocks": (1, 2, 3),
    "neck_blocks": (6,),
    "decoder_blocks": (1, 2, 3),
    "backbone": BackboneOptions("test_vit", pretrained=False),
}
DEAD_DECODER = 384 + 295_296 + 768 + 385_000  # class token, patch embedding, last norm, head: in ADer's decoder
DEAD_TEACHER = 768  # last norm


@pytest.fixture(autouse=True)
def no_weights_folder(monkeypatch):
    monkeypatch.delenv("ADER_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def wide() -> ViTAD:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return ViTAD(backbone=BackboneOptions("vit_small_patch16_224.dino", pretrained=False))


def make(image_size: int = 64, **arguments) -> ViTAD:
    """A small one whose biases and norms are not the identity, as training makes them."""
    torch.manual_seed(0)
    method = ViTAD(image_size=image_size, **{**SMALL, **arguments})
    with torch.no_grad():
        for weight in method.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return method.eval()


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_parameters(wide):
    assert count(wide.teacher) == 21_688_704 - DEAD_TEACHER
    assert count(wide.fusion) == 147_840
    assert wide.decoder.position_1LC.numel() == 98_304
    assert [count(block) for block in wide.decoder.blocks] == 9 * [1_774_464]
    total, trained = count_parameters(wide)
    assert trained == 16_216_320
    assert total + DEAD_TEACHER + DEAD_DECODER == 38_586_472  # what ADer's code builds
    assert (total + DEAD_TEACHER + DEAD_DECODER + 385_000) / 1e6 == pytest.approx(39.0, rel=0.005)  # its Table 1


def test_macs(wide):
    """ADer Table 1 says 9.7 G: without the products inside attention, two of tokens x tokens x channels a block."""
    attention = 12 * 2 * 257**2 * 384 + 9 * 2 * 256**2 * 384
    total = count_macs(wide, 256, torch.device("meta"))
    assert total == 10_708_853_760
    assert (total - attention) / 1e9 == pytest.approx(9.647, abs=0.001)
    assert (total - attention) / 1e9 == pytest.approx(9.7, rel=0.02)


def test_shapes(wide):
    teacher, student = wide(torch.empty(2, 3, 256, 256, device="meta"))
    assert [tuple(feature.shape) for feature in [*teacher, *student]] == 6 * [(2, 256, 384)]
    assert wide.teacher.grid == (16, 16)
    assert wide.teacher.heads == 6


def test_decoder_in_detail(wide):
    """What counts cannot tell: epsilon, order of heads, no dropout, exact GELU, the initialization."""
    for block in wide.decoder.blocks:
        assert (block.norm1.eps, block.norm2.eps, block.attn.num_heads) == (1e-6, 1e-6, 6)
        assert isinstance(block.mlp.act, nn.GELU)
        assert block.mlp.act.approximate == "none"
    assert not any(isinstance(part, nn.Dropout) and part.p for part in wide.modules())
    torch.manual_seed(0)
    decoder = Decoder(64, 192, 3, (1, 2))
    linear = [part for part in decoder.modules() if isinstance(part, nn.Linear)]
    assert len(linear) == 8  # of each block: query, key and value; projection; two of the perceptron
    for part in linear:
        assert part.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert not part.bias.any()
    assert decoder.position_1LC.std().item() == pytest.approx(0.02, rel=0.03)
    fusion = ViTAD(image_size=32, **SMALL).fusion  # torch's default: uniform within 1 / sqrt(fan_in)
    assert fusion.weight.abs().max().item() <= 1 / math.sqrt(64)
    assert fusion.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 64), rel=0.05)
    assert fusion.bias.any()


def block_by_hand(block: nn.Module, token_BLC: torch.Tensor, heads: int) -> torch.Tensor:
    """A pre-norm transformer block from its definition."""

    def norm(part, values):
        mean, var = values.mean(-1, keepdim=True), values.var(-1, unbiased=False, keepdim=True)
        return (values - mean) / (var + 1e-6).sqrt() * part.weight + part.bias

    batch, tokens, width = token_BLC.shape
    mixed = norm(block.norm1, token_BLC) @ block.attn.qkv.weight.T + block.attn.qkv.bias
    query, key, value = mixed.view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-1, -2) / math.sqrt(width // heads)).softmax(-1)
    seen = (weights @ value).transpose(1, 2).reshape(batch, tokens, width)
    token_BLC = token_BLC + seen @ block.attn.proj.weight.T + block.attn.proj.bias
    hidden = norm(block.norm2, token_BLC) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return token_BLC + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


@torch.no_grad()
def test_the_network_by_hand():
    """Teacher tokens after blocks 2 and 5, before any last norm; a neck of blocks 4 and 6; a decoder of 3 blocks whose
    third restores the teacher's second and whose first its fifth."""
    method = make(image_size=48, teacher_blocks=(2, 5), neck_blocks=(4, 6), decoder_blocks=(1, 3)).double()
    image_BCHW = images(2, 48).double()
    net, heads = method.teacher.vit.net, 2
    normalized_BCHW = (image_BCHW - 0.5) / 0.5  # this network's; DINO has ImageNet's, below
    patch_BCHW = nn.functional.conv2d(normalized_BCHW, net.patch_embed.proj.weight, stride=16)
    patch_BCHW = patch_BCHW + net.patch_embed.proj.bias[:, None, None]
    token_BLC = torch.cat([net.cls_token.expand(2, -1, -1), patch_BCHW.flatten(2).transpose(1, 2)], dim=1)
    token_BLC, after = token_BLC + net.pos_embed, {}
    for number, block in enumerate(net.blocks, 1):
        token_BLC = block_by_hand(block, token_BLC, heads)
        after[number] = token_BLC[:, 1:]
    neck_BLC = torch.cat([after[4], after[6]], dim=2) @ method.fusion.weight.T + method.fusion.bias
    token_BLC, restored = neck_BLC + method.decoder.position_1LC, {}
    for number, block in enumerate(method.decoder.blocks, 1):
        token_BLC = block_by_hand(block, token_BLC, heads)
        restored[number] = token_BLC
    teacher, student = method(image_BCHW)
    for got, expected in zip([*teacher, *student], [after[2], after[5], restored[3], restored[1]], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
    assert len(method.decoder.blocks) == 3


def test_blocks_that_nothing_reads_are_not_there():
    assert len(make(neck_blocks=(4,)).teacher.vit.net.blocks) == 4
    assert not any("head" in name or name.endswith("net.norm.weight") for name in make().state_dict())


def test_only_the_student_learns():
    method = make()
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    teacher, student = method(images(2, 64))
    assert not any(feature.requires_grad for feature in teacher)
    assert all(feature.requires_grad for feature in student)
    Trainer(device=CPU, max_steps=2).fit(method, Subject.named("vitad").data())
    assert all(value.equal(before[name]) for name, value in method.teacher.state_dict().items())


def test_recipe():
    method = ViTAD(image_size=32, epochs=7, batch_size=3, **SMALL)
    (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    assert list(stage.modules) == [method.fusion, method.decoder]
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last, stage.split) == (7, 3, 5.0, True, "train")
    assert type(optimizer) is torch.optim.AdamW
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "eps", "amsgrad")} == {
        "lr": 1e-4,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "amsgrad": False,
    }
    decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4}
    trained = [*method.fusion.named_parameters(), *method.decoder.named_parameters()]
    assert len(decay) == len(trained) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, weight in trained:
        plain = name.endswith("bias") or "norm" in name
        assert decay[id(weight)] == (0.0 if plain else 1e-4), name  # the position decays, as in ADer
    schedule = stage.schedules["student"]
    assert [schedule(step / 700) for step in (0, 559, 560, 699)] == [1.0, 1.0, 0.1, 0.1]


def test_defaults():
    """Those that decide how large the network is or how it scores; the optimizer's are in ``test_recipe``."""
    with torch.device("meta"):
        method = ViTAD(backbone=BackboneOptions("vit_small_patch16_224.dino", pretrained=False))
    (stage,) = method.stages()
    assert (stage.epochs, stage.batch_size) == (100, 8)
    assert (method.teacher.restored, method.teacher.neck, method.decoder.restoring) == ((3, 6, 9), (12,), (3, 6, 9))
    assert (method.score_window, method.blur.sigma) == (16, 4.0)


def known_tokens() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Two images of four tokens and three scales. Their cosines as vectors: 0.5 and 0; 1 and -1; 1 and 0.6."""
    teacher = [torch.zeros(2, 4, 2) for _ in range(3)]
    student = [torch.zeros(2, 4, 2) for _ in range(3)]
    teacher[0][:, 0, 0] = 2.0
    student[0][0, 0, 0], student[0][0, 3, 1] = 3 * 0.5, 3 * math.sqrt(0.75)  # 60 degrees through another token
    student[0][1, 2, 0] = 5.0
    teacher[1][:, 1] = torch.tensor([1.0, 2.0])
    student[1][0, 1], student[1][1, 1] = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, -2.0])
    teacher[2][:, 2, 0] = 1.0
    student[2][0, 2, 0] = 7.0
    student[2][1, 2] = torch.tensor([0.6, 0.8])
    return teacher, student


def test_loss_of_known_tokens(monkeypatch):
    """Each feature map is one vector; images are averaged, scales summed."""
    method, minimized = make(), []
    monkeypatch.setattr(ViTAD, "forward", lambda self, image_BCHW: known_tokens())
    batch = Batch(image_BCHW=images(2, 64), seed_B=torch.arange(2))
    logged = method._step(batch, lambda loss, *names: minimized.append((loss.item(), names)))
    expected = (0.5 + 1.0) / 2 + (0.0 + 2.0) / 2 + (0.0 + 0.4) / 2
    assert minimized[0] == (pytest.approx(expected, abs=1e-6), ())
    assert {name: value.item() for name, value in logged.items()} == {"cos": pytest.approx(expected, abs=1e-6)}


def test_map_of_known_tokens(monkeypatch):
    """Token by token, upsampled scale by scale with aligned corners, smoothed by scipy, averages over all squares."""
    method, rng = make(image_size=64), np.random.default_rng(0)
    teacher = rng.normal(size=(3, 2, 16, 8))
    student = teacher + rng.normal(size=teacher.shape) * rng.uniform(0, 2, (3, 2, 16, 1))
    tensors = tuple([torch.from_numpy(values).float() for values in side] for side in (teacher, student))
    monkeypatch.setattr(ViTAD, "forward", lambda self, image_BCHW: tensors)
    lengths = np.linalg.norm(teacher, axis=3) * np.linalg.norm(student, axis=3)
    distance = 1 - (teacher * student).sum(axis=3) / lengths  # (3 scales, 2 images, 16 tokens)
    places, grid = np.linspace(0, 3, 64), np.arange(4)
    score_B, map_BHW = predict(method, images(2, 64))
    for number in range(2):
        expected = np.zeros((64, 64))
        for scale in range(3):
            rows = np.stack([np.interp(places, grid, row) for row in distance[scale, number].reshape(4, 4)])
            expected += np.stack([np.interp(places, grid, column) for column in rows.T], axis=1) / 3
        expected = gaussian_filter(expected, 4.0)
        assert np.abs(map_BHW[number].numpy() - expected).max() < 2e-6
        squares = [expected[y : y + 16, x : x + 16].mean() for y in range(49) for x in range(49)]
        assert score_B[number].item() == pytest.approx(max(squares), abs=2e-6)


def test_image_sizes_that_do_not_fit():
    for size in (100, 250):
        with pytest.raises(UserError, match=rf"^image_size={size} does not suit vitad: give a multiple of 16$"):
            ViTAD(image_size=size, **SMALL)
    with pytest.raises(UserError, match=r"^vitad was built for image_size=64 and cannot take images of 64x96 pixels$"):
        predict(make(), torch.rand(1, 3, 64, 96))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_blocks": (1, 2)}, r"decoder_blocks=\[1, 2, 3\] must be as many as method.teacher_blocks=\[1, 2\]"),
        ({"teacher_blocks": (1, 2, 7)}, r"teacher_blocks=\[1, 2, 7\] must be rising numbers of test_vit's 6 blocks"),
        ({"teacher_blocks": (3, 2, 1)}, r"teacher_blocks=\[3, 2, 1\] must be rising numbers"),
        ({"teacher_blocks": (), "decoder_blocks": ()}, r"teacher_blocks=\[\] must be rising numbers"),
        ({"neck_blocks": ()}, r"neck_blocks=\[\] must be rising numbers"),
        ({"neck_blocks": (7,)}, r"neck_blocks=\[7\] must be rising numbers of test_vit's 6 blocks"),
        ({"decoder_blocks": (1, 1, 2)}, r"decoder_blocks=\[1, 1, 2\] must be rising numbers"),
        ({"backbone": BackboneOptions("resnet18", False)}, "'resnet18': vitad needs a plain vision transformer"),
        (
            {"backbone": BackboneOptions("vit_small_patch16_18x2_224", False)},
            "'vit_small_patch16_18x2_224': vitad needs a plain vision transformer",
        ),
        ({"backbone": BackboneOptions("vit_smal", False)}, "'vit_smal' is not a timm model"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(UserError, match=message) as caught, torch.device("meta"):
        ViTAD(image_size=64, **{**SMALL, **arguments})
    assert "\n" not in str(caught.value)


def test_weights_from_a_folder(tmp_path):
    """The 14 x 14 positional grid of a file becomes 16 x 16 by bicubic interpolation; all else is taken as it is."""
    torch.manual_seed(5)
    name = "vit_small_patch16_224.dino"
    state = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0).state_dict()
    state = {key: value + 0.1 * torch.randn_like(value) for key, value in state.items()}
    save_file(state, tmp_path / f"{name}.safetensors")
    with no_network():
        method = build("vitad", image_size=256, backbone={"name": name, "weights": str(tmp_path)})
    loaded = method.teacher.vit.net.state_dict()
    assert set(loaded) == set(state) - {"norm.weight", "norm.bias"}
    for key, value in loaded.items():
        if key != "pos_embed":
            assert value.equal(state[key]), key
    old = state["pos_embed"]
    grid = old[:, 1:].reshape(1, 14, 14, 384).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(16, 16), mode="bicubic", antialias=True)
    expected = torch.cat([old[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(loaded["pos_embed"], expected, atol=1e-6, rtol=0)
    mean, std = method.teacher.vit.normalize.buffers()
    assert mean.flatten().tolist() == pytest.approx((0.485, 0.456, 0.406))
    assert std.flatten().tolist() == pytest.approx((0.229, 0.224, 0.225))
    (weights,) = method.weights()
    assert (weights["name"], weights["source"]) == (name, str(tmp_path / f"{name}.safetensors"))
    assert not method.warnings()


def test_another_transformer_from_a_folder(tmp_path):
    """One whose file brings a head, which the teacher leaves out."""
    torch.manual_seed(5)
    name = "test_vit.r160_in1k"
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    save_file(state, tmp_path / f"{name}.safetensors")
    options = BackboneOptions(name, weights=str(tmp_path))
    same, other = (Teacher(options, size, (1,), (2,)).vit.net for size in (160, 64))
    assert same.pos_embed.equal(state["pos_embed"])
    assert other.pos_embed.shape == (1, 17, 64)
    assert all(net.blocks[1].mlp.fc2.weight.equal(state["blocks.1.mlp.fc2.weight"]) for net in (same, other))


def pixel_auroc(method: ViTAD, loader: Loader) -> float:
    maps, masks = [], []
    for _, image_BCHW, mask_BHW, _ in loader.test(16, Sizes()):
        maps.append(predict(method, image_BCHW).map_BHW)
        masks.append(mask_BHW)
    return roc_auc_score(torch.cat(masks).flatten().numpy(), torch.cat(maps).flatten().numpy())


def test_short_training(tmp_path):
    """Six epochs: the loss falls to a twentieth, and the map finds defects that an untrained student does not."""
    index = load_index("folder", write_mvtec(tmp_path, train=16, good=4, bad=4, size=128), counts=None)
    torch.manual_seed(0)
    method, losses = ViTAD(image_size=128, lr=1e-3, epochs=6, **SMALL), []
    loader = Loader(index, 128, CPU, 0, 0, method.tags)
    before = pixel_auroc(method, loader)
    scalar = lambda tag, value, step: losses.append(value) if tag == "restore/cos" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, loader)
    assert len(losses) == 24
    assert sum(losses[-3:]) < 0.05 * sum(losses[:3]), losses
    after = pixel_auroc(method, loader)
    assert before < 0.7, before
    assert after > 0.85, after
