"""UniAD against the numbers and definitions of its paper, of ADer's code and of the official code."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import timm
import torch
from scipy.ndimage import map_coordinates
from sklearn.metrics import roc_auc_score
from torch import nn

from ader.config.compose import compose
from ader.data import load_index
from ader.data.sizes import Sizes
from ader.methods import build
from ader.methods._base import Batch
from ader.methods.uniad import Attention, EncoderLayer, FeatureJitter, Transformer, UniAD, align, beyond_neighbors
from ader.nets.backbone import BackboneOptions
from ader.system.errors import UserError
from ader.system.precision import autocast
from ader.testing.subject import Subject, images, predict
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.optimization import Optimization
from ader.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
SMALL = {
    "backbone": {"name": "test_resnet", "pretrained": False},
    "embed_dim": 64,
    "num_heads": 4,
    "dim_feedforward": 128,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "neighbor_size": 3,
    "stride": 8,
    "layers": (0, 1, 2),
}
ALL = ("encoder", "decoder_memory", "decoder_previous")
OFFICIAL = {"image_size": 224, "clip": 0.1, "neighbor_size": 7, "decay_norms_and_biases": True}


def on_meta(**arguments) -> UniAD:
    """The full-size method without memory for its weights."""
    with META:
        return UniAD(backbone=BackboneOptions("tf_efficientnet_b4", pretrained=False), **arguments)


@pytest.fixture(scope="module")
def whole() -> UniAD:
    return on_meta()


@pytest.fixture(scope="module")
def small() -> UniAD:
    return Subject.named("uniad").make()


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_parameters(whole):
    """24,521,560 are published: what is kept and the stages of stride 32, which are cut here."""
    with META:
        backbone = timm.create_model("tf_efficientnet_b4", features_only=True, out_indices=(0, 1, 2, 3))
    cut = count(backbone.blocks[5:])
    assert count(backbone) == 16_742_216
    assert count(whole.backbone) == 16_742_216 - cut
    assert count_parameters(whole) == (24_521_560 - cut, 7_779_344) == (11_415_328, 7_779_344)
    transformer = whole.transformer
    assert (count(transformer.input), count(transformer.output)) == (69_888, 69_904)
    assert count(transformer.position) == 4_096
    assert [count(layer) for layer in transformer.encoder] == [789_760] * 4
    assert [count(layer) for layer in transformer.decoder] == [1_118_976] * 4
    assert count(transformer.norm) == 512
    assert count_parameters(on_meta(**OFFICIAL))[1] == 7_717_392


@pytest.mark.parametrize(
    ("arguments", "published", "printed"),
    [({}, 3_364_113_760, 3.4e9), (OFFICIAL, 2_540_000_000, None)],
)
def test_macs(arguments, published, printed):
    """fvcore's count of ADer's network, which is Table 1's, has normalizations and resizing, but no products of queries
    and keys (it does not know ``baddbmm``) and no stages of stride 32 (what has no effect is not in its trace)."""
    method = on_meta(**arguments)
    side, tokens = method.image_size, method.grid**2
    scores = 12 * tokens * tokens * 256
    normalized, hooks = [], []
    for part in method.backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            hooks.append(part.register_forward_hook(lambda part, inputs, output: normalized.append(inputs[0].numel())))
    macs = count_macs(method, side, META)
    for hook in hooks:
        hook.remove()
    others = 2 * sum(normalized) + 5 * 21 * tokens * 256 + 4 * (tokens * 272 + side**2)
    assert macs - scores == pytest.approx(published, rel=0.02)
    if printed:
        assert macs - scores + others == published
        assert round(published / 1e9, 1) * 1e9 == printed
    else:
        assert macs - scores + others == pytest.approx(published, rel=2e-4)


def test_shapes(whole):
    maps = whole.backbone(torch.empty(1, 3, 256, 256, device="meta"))
    assert [tuple(feature.shape[1:]) for feature in maps] == [(24, 128, 128), (32, 64, 64), (56, 32, 32), (160, 16, 16)]
    aligned, restored = whole(torch.empty(2, 3, 256, 256, device="meta"))
    assert aligned.shape == restored.shape == (2, 256, 272)
    assert whole.transformer.allowed_NN.shape == (256, 256)


def test_cut_backbone_gives_the_same_features():
    torch.manual_seed(0)
    method = UniAD(
        image_size=64,
        neighbor_size=3,
        embed_dim=16,
        num_heads=2,
        backbone=BackboneOptions("test_efficientnet", pretrained=False),
    )
    uncut = timm.create_model("test_efficientnet", features_only=True, out_indices=(0, 1, 2, 3)).eval()
    assert len(uncut.blocks) > len(method.backbone.net.blocks) == uncut.feature_info.get_dicts()[-1]["stage"]
    uncut.load_state_dict(method.backbone.net.state_dict(), strict=False)
    image_BCHW = images(2, 64)
    expected = uncut(method.backbone.normalize(image_BCHW))
    found = method.backbone(image_BCHW)
    assert [feature.shape[2] for feature in found] == [32, 16, 8, 4]
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    assert not any(weight.requires_grad for weight in method.backbone.parameters())


def test_layers_in_detail():
    """What parameter counts cannot tell: initialization, which layers start alike, eps, dropout."""
    torch.manual_seed(0)
    transformer = Transformer(
        272, 16, window=9, masked=ALL, width=256, heads=8, feedforward=1024, depths=(2, 3), dropout=0.1
    )
    for part in transformer.modules():
        if isinstance(part, nn.Linear):
            bound = math.sqrt(6 / (part.in_features + part.out_features))
            assert part.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
            assert part.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
            assert not part.bias.any()
        elif isinstance(part, nn.LayerNorm):
            assert part.eps == 1e-5
            assert part.weight.eq(1).all()
            assert not part.bias.any()
        elif isinstance(part, nn.Dropout):
            assert part.p == 0.1
        elif isinstance(part, Attention):
            assert (part.heads, part.dropout) == (8, 0.1)
            assert part.input_weight.abs().max().item() == pytest.approx(math.sqrt(6 / (256 + 768)), rel=1e-3)
            assert not part.input_bias.any()
    first, *others = transformer.decoder
    assert first.query_ND.std().item() == pytest.approx(1, abs=0.02)
    assert not first.to_memory.input_weight.equal(first.to_previous.input_weight)
    for layer in others:  # upstream copies one layer, then draws its linear layers again
        assert layer.query_ND.equal(first.query_ND)
        assert layer.query_ND is not first.query_ND
        assert layer.to_memory.input_weight.equal(first.to_memory.input_weight)
        assert not layer.to_memory.output.weight.equal(first.to_memory.output.weight)
        assert not layer.feedforward[0].weight.equal(first.feedforward[0].weight)
    for table in (transformer.position.column_GD, transformer.position.row_GD):
        assert table.shape == (16, 128)
        assert 0 <= table.min() < 0.01 < 0.99 < table.max() < 1


def test_positions_are_columns_then_rows(small):
    position = small.transformer.position
    place_ND, grid = position(), len(position.row_GD)
    for row, column in itertools.product(range(grid), repeat=2):
        expected = torch.cat([position.column_GD[column], position.row_GD[row]])
        assert place_ND[row * grid + column].equal(expected)


@pytest.mark.parametrize(("grid", "window"), [(5, 3), (16, 9), (14, 7), (6, 1)])
def test_neighbors_are_hidden(grid, window):
    allowed_NN = beyond_neighbors(grid, window)
    places = list(itertools.product(range(grid), repeat=2))
    for one, other in itertools.product(range(grid**2), repeat=2):
        distance = max(abs(places[one][0] - places[other][0]), abs(places[one][1] - places[other][1]))
        assert allowed_NN[one, other].item() == (distance > window // 2)
    assert allowed_NN.any(dim=1).all()
    center = grid // 2 * (grid + 1)
    assert (~allowed_NN[center]).sum() == window**2
    assert (~allowed_NN[0]).sum() == (window // 2 + 1) ** 2


class Oracle:
    """The transformer in numpy, from the paper's equations and the fact sheet; float64."""

    def __init__(self, transformer: Transformer, heads: int, hidden: dict[str, np.ndarray]) -> None:
        self.state = {name: value.numpy() for name, value in transformer.state_dict().items()}
        self.heads, self.hidden = heads, hidden

    def linear(self, name, token):
        return token @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, token):
        centerd = token - token.mean(-1, keepdims=True)
        scaled = centerd / np.sqrt((centerd**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attention(self, name, query, key, value, hidden):
        """One image: (N, D)."""
        width = query.shape[1]
        weight, bias = self.state[f"{name}.input_weight"], self.state[f"{name}.input_bias"]
        query, key, value = (
            token @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width]
            for i, token in enumerate((query, key, value))
        )
        depth, output = width // self.heads, np.zeros_like(query)
        for head in range(self.heads):
            part = slice(head * depth, (head + 1) * depth)
            for token in range(len(query)):
                seen = [i for i in range(len(key)) if hidden is None or not hidden[token, i]]
                score = np.array([query[token, part] @ key[i, part] for i in seen]) / math.sqrt(depth)
                share = np.exp(score - score.max())
                output[token, part] = (share / share.sum()) @ value[seen, part]
        return self.linear(f"{name}.output", output)

    def feedforward(self, name, token):
        return self.linear(f"{name}.3", np.maximum(self.linear(f"{name}.0", token), 0))

    def encode(self, name, token, place):
        placed = token + place
        attended = self.attention(f"{name}.attention", placed, placed, token, self.hidden.get("encoder"))
        token = self.norm(f"{name}.norms.0", token + attended)
        return self.norm(f"{name}.norms.1", token + self.feedforward(f"{name}.feedforward", token))

    def decode(self, name, previous, memory, place):
        query = self.state[f"{name}.query_ND"]
        hidden = self.hidden.get("decoder_memory")
        token = query + self.attention(f"{name}.to_memory", query + place, memory + place, memory, hidden)
        token = self.norm(f"{name}.norms.0", token)
        hidden = self.hidden.get("decoder_previous")
        attended = self.attention(f"{name}.to_previous", token + place, previous + place, previous, hidden)
        token = self.norm(f"{name}.norms.1", token + attended)
        return self.norm(f"{name}.norms.2", token + self.feedforward(f"{name}.feedforward", token))

    def __call__(self, token, grid, depths):
        column, row = self.state["position.column_GD"], self.state["position.row_GD"]
        place = np.array([np.concatenate([column[x], row[y]]) for y in range(grid) for x in range(grid)])
        memory = self.linear("input", token)
        for number in range(depths[0]):
            memory = self.encode(f"encoder.{number}", memory, place)
        output = memory
        for number in range(depths[1]):
            output = self.decode(f"decoder.{number}", output, memory, place)
        return self.linear("output", self.norm("norm", output))


@pytest.mark.parametrize("masked", [ALL, ("encoder",), ("decoder_memory",), ("decoder_previous",), ()])
def test_transformer_is_the_papers(masked):
    """Every product by numpy, with random values for all that starts at 0 or 1."""
    torch.manual_seed(0)
    transformer = Transformer(
        5, 4, window=3, masked=masked, width=8, heads=2, feedforward=12, depths=(2, 3), dropout=0.1
    )
    transformer.double().eval().requires_grad_(False)
    for weight in transformer.parameters():
        weight.copy_(torch.randn_like(weight) / 2)
    places = np.array(list(itertools.product(range(4), repeat=2)))
    near = np.abs(places[:, None] - places[None]).max(axis=2) <= 1
    oracle = Oracle(transformer, 2, dict.fromkeys(masked, near))
    token_BNC = torch.randn(3, 16, 5, dtype=torch.float64)
    expected = np.stack([oracle(token.numpy(), 4, (2, 3)) for token in token_BNC])
    torch.testing.assert_close(transformer(token_BNC), torch.from_numpy(expected), atol=1e-12, rtol=1e-10)


def test_dropout_is_where_it_should_be():
    """Rates of 1 leave the residuals (or the biases); the attention's weights are dropped in training only."""
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2, 12, 0.5)
    token_BND, place_ND = torch.randn(2, 16, 8), torch.randn(16, 8)
    layer.train()
    layer.dropout.p = 1.0
    norm = nn.functional.layer_norm
    torch.testing.assert_close(layer(token_BND, place_ND, None), norm(norm(token_BND, (8,)), (8,)))
    layer.feedforward[2].p = 1.0
    layer.feedforward[3].bias.data.normal_()
    assert layer.feedforward(token_BND).equal(layer.feedforward[3].bias.expand(2, 16, 8))
    attention = layer.attention
    run = lambda: attention(token_BND, token_BND, token_BND, None)  # noqa: E731
    assert not run().equal(run())
    attention.eval()
    assert run().equal(run())


def of_step(images: int, seed: int = 0) -> Batch:
    return Batch(image_BCHW=torch.empty(images, 0), seed_B=torch.arange(images), step_seed=seed)


def test_jitter():
    """Noise of standard deviation 20 * norm / C for each token, for all images of a step or none."""
    torch.manual_seed(0)
    jitter, token_BNC = FeatureJitter(20.0, 1.0), torch.zeros(200, 3, 64)
    token_BNC[:, 1, :2] = torch.tensor([3.0, 4.0])
    token_BNC[:, 2] = 1.0
    noise_BNC = jitter(token_BNC, of_step(200)) - token_BNC
    assert not noise_BNC[:, 0].any()
    assert noise_BNC[:, 1].std().item() == pytest.approx(20 * 5 / 64, rel=0.03)
    assert noise_BNC[:, 2].std().item() == pytest.approx(20 * 8 / 64, rel=0.03)
    assert abs(noise_BNC.mean().item()) < 0.03
    assert FeatureJitter(20.0, 0.0)(token_BNC, of_step(200)) is token_BNC
    some, one_BNC = FeatureJitter(20.0, 0.3), token_BNC[:1]
    share = np.mean([some(one_BNC, of_step(1, seed)) is not one_BNC for seed in range(2000)])
    assert share == pytest.approx(0.3, abs=0.05)


def test_only_the_input_is_jittered(small):
    image_BCHW = images(2, 64)
    small.eval()
    clean, restored = small(image_BCHW)
    target, jittered = small(image_BCHW, of_step(2))
    assert target.equal(clean)
    assert (jittered - restored).abs().max() > 1e-3


def test_alignment_keeps_corners():
    """Against scipy's linear interpolation at evenly spaced points from corner to corner."""
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, 3, 32, 32)), rng.normal(size=(2, 2, 8, 8)), rng.normal(size=(2, 1, 4, 4))]
    token_BNC = align([torch.from_numpy(each) for each in maps], 8)
    assert token_BNC.shape == (2, 64, 6)
    channel = 0
    for each in maps:
        points = np.linspace(0, each.shape[2] - 1, 8)
        grid = np.meshgrid(points, points, indexing="ij")
        for number in range(each.shape[1]):
            for image in range(2):
                expected = map_coordinates(each[image, number], grid, order=1).ravel()
                np.testing.assert_allclose(token_BNC[image, :, channel].numpy(), expected, atol=1e-12)
            channel += 1


def test_map_and_score_of_known_features(small, monkeypatch):
    """A token at distance 5 (3 and 4 in two channels): a pyramid around its place; the score is a 16x16 mean."""
    aligned, restored = torch.randn(2, 16, 6), None
    restored = aligned.clone()
    restored[1, 1 * 4 + 2, [0, 3]] += torch.tensor([3.0, -4.0])
    monkeypatch.setattr(type(small), "forward", lambda self, image_BCHW: (aligned, restored))
    score_B, map_BHW = predict(small, images(2, 64))
    places = torch.arange(64, dtype=torch.float64) * 3 / 63  # aligned corners: 3 cells on 63 pixels
    ramps = [(1 - (places - cell).abs()).clamp(min=0) for cell in (1, 2)]
    expected = 5 * torch.outer(*ramps)
    torch.testing.assert_close(map_BHW[1].double(), expected, atol=1e-5, rtol=0)
    squares = np.lib.stride_tricks.sliding_window_view(expected.numpy(), (16, 16))
    assert score_B[1].item() == pytest.approx(squares.mean(axis=(2, 3)).max(), rel=1e-5)
    assert score_B[0].item() == 0
    assert not map_BHW[0].any()


def test_loss_is_the_mean_square(small, monkeypatch):
    aligned, restored = torch.zeros(2, 16, 6), torch.zeros(2, 16, 6)
    restored[0, 3, 1], restored[1, 5, 2] = 4.0, -2.0
    monkeypatch.setattr(type(small), "forward", lambda self, image_BCHW, batch: (aligned, restored))
    minimized = []
    losses = small._step(Batch(images(2, 64), torch.arange(2)), minimized.append)
    assert losses["mse"].item() == pytest.approx((16 + 4) / (2 * 16 * 6))
    assert minimized == [losses["mse"]]


def test_recipe():
    method = UniAD(image_size=64, epochs=7, neighbor_size=3, backbone=BackboneOptions("resnet18", pretrained=False))
    (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    assert stage.modules == [method.transformer]
    assert (stage.epochs, stage.batch_size, stage.clip, stage.drop_last) == (7, 8, 5.0, True)
    assert type(optimizer) is torch.optim.AdamW
    decayed, vectors = optimizer.param_groups
    for group, decay in ((decayed, 1e-4), (vectors, 0.0)):
        assert {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")} == {
            "lr": 1e-4,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": decay,
        }
    trained = dict(method.transformer.named_parameters())
    bare = {id(weight) for name, weight in trained.items() if name.endswith("bias") or "norm" in name}
    assert {id(weight) for weight in vectors["params"]} == bare
    assert {id(weight) for weight in decayed["params"]} == {id(weight) for weight in trained.values()} - bare
    schedule = stage.schedules["transformer"]
    assert [schedule(step / 700) for step in (0, 559, 560, 699)] == [1.0, 1.0, 0.1, 0.1]


def test_official_recipe():
    default, official = (
        compose(["method=uniad", "dataset=demo", *words]).values for words in ([], ["recipe=official"])
    )
    own = {key: value for key, value in official["method"].items() if value != default["method"].get(key)}
    assert own.pop("epochs") == official["trainer"]["epochs"] == 1000
    assert {**own, "image_size": official["image_size"]} == OFFICIAL
    method = on_meta(**OFFICIAL)
    (stage,) = method.stages()
    (group,) = stage.optimizers["transformer"].param_groups
    assert (stage.clip, group["weight_decay"], len(group["params"])) == (
        0.1,
        1e-4,
        len([*method.transformer.parameters()]),
    )
    assert (method.grid, (~method.transformer.allowed_NN).shape) == (14, (196, 196))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"image_size": 250}, "image_size=250 does not suit uniad: give a multiple of method.stride=16"),
        ({"image_size": 8}, "image_size=8 does not suit uniad"),
        ({"image_size": 64}, "method.neighbor_size=9 hides all 4x4 tokens"),
        ({"image_size": 80, "neighbor_size": 5}, "method.neighbor_size=5 hides all 5x5 tokens"),
        ({"neighbor_size": 8}, "method.neighbor_size=8 has no center"),
        ({"embed_dim": 250}, "even multiple of method.num_heads=8"),
        ({"embed_dim": 15, "num_heads": 5}, "even multiple of method.num_heads=5"),
        ({"dropout": 1.0}, "method.dropout=1.0 does not fit"),
        ({"jitter_probability": 1.5}, "method.jitter_probability=1.5 does not fit"),
        ({"masked": ["decoder"]}, "method.masked"),
        ({"layers": [0, 9]}, "no feature maps"),
    ],
)
def test_errors(arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        build("uniad", **{"backbone": {"name": "resnet18", "pretrained": False}, **arguments})
    assert "\n" not in str(caught.value)


def test_sizes(small):
    with pytest.raises(UserError, match="images of 96x96 pixels do not suit this uniad"):
        predict(small, images(1, 96))
    for size, window, masked in ((80, 3, ALL), (16, 9, ())):  # an odd grid; one token, which sees itself
        method = build(
            "uniad", **{**SMALL, "stride": 16, "image_size": size, "neighbor_size": window, "masked": masked}
        )
        score_B, map_BHW = predict(method, images(2, size))
        assert map_BHW.shape == (2, size, size)
        assert map_BHW.isfinite().all()
        assert score_B.isfinite().all()


def test_bfloat16(small):
    """Tokens, errors and the loss stay in float32; restored features within 2 % of the largest."""
    image_BCHW = images(2, 64)
    small.eval()
    aligned, restored = small(image_BCHW)
    with autocast(CPU, "bf16"):
        rough = small(image_BCHW)
    for one, other in zip(rough, (aligned, restored), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.02 * other.abs().max()


def test_all_of_the_network_learns():
    """One step reaches every parameter; the gradient's norm is clipped."""
    torch.manual_seed(0)
    method = build("uniad", image_size=64, clip=0.01, **SMALL)
    (stage,) = method.stages()
    for module in stage.modules:
        module.train()
    stage.step(Batch(images(2, 64), torch.arange(2)), Optimization(stage, CPU))
    gradients = [weight.grad for weight in method.transformer.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)
    assert torch.cat([gradient.flatten() for gradient in gradients]).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert not any(weight.requires_grad for weight in method.backbone.parameters())


def pixel_auroc(method: UniAD, loader: Loader) -> float:
    maps, masks = [], []
    for _, image_BCHW, mask_BHW, _ in loader.test(16, Sizes()):
        maps.append(predict(method, image_BCHW).map_BHW)
        masks.append(mask_BHW)
    return roc_auc_score(torch.cat(masks).flatten().numpy(), torch.cat(maps).flatten().numpy())


def test_short_training(tmp_path):
    """With a backbone at random weights: the loss falls, and the map finds the defects."""
    index = load_index("demo", tmp_path / "demo", ["wood"], size=64, train=16, test_good=4, per_defect=4)
    torch.manual_seed(0)
    method, losses = (
        build(
            "uniad",
            **{**SMALL, "backbone": {"name": "resnet18", "pretrained": False}},
            image_size=64,
            lr=2e-3,
            epochs=20,
        ),
        [],
    )
    loader = Loader(index, 64, CPU, 0, 0, method.tags)
    before = pixel_auroc(method, loader)
    scalar = lambda tag, value, step: losses.append(value) if tag == "restore/mse" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, loader)
    assert len(losses) == 40
    assert sum(losses[-3:]) < 0.2 * sum(losses[:3]), losses
    after = pixel_auroc(method, loader)
    assert before < 0.6, before
    assert after > 0.7, after
