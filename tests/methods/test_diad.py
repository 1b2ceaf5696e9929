"""DiAD against the numbers and definitions of its paper and of its authors' code."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("diffusers")

from ader.config.compose import compose
from ader.config.tags import read_tags
from ader.methods import _autoencoding as autoencoding
from ader.methods import _stable_diffusion as stable
from ader.methods import build
from ader.methods._base import Batch
from ader.methods._options import option_arguments
from ader.methods.diad import DiAD, SpatialAwareFusion, divergence, drawn, pooled_score, schedule
from ader.nets.backbone import BackboneOptions
from ader.system.errors import UserError
from ader.testing.subject import images, no_network, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.optimization import Optimization
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
RANDOM = {"pretrained": False}


@pytest.fixture(autouse=True)
def no_weights_folder(monkeypatch):
    monkeypatch.delenv("ADER_WEIGHTS", raising=False)


def small(**arguments) -> DiAD:
    torch.manual_seed(0)
    return build("diad", **{**option_arguments("diad", "small"), "batch_size": 2, "epochs": 1, **arguments}).eval()


@pytest.fixture(scope="module")
def wide() -> DiAD:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return build("diad", stable_diffusion=RANDOM, perceptual=RANDOM, backbone={"name": "resnet50", **RANDOM})


def count(*modules: nn.Module) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


# Counts of the fact sheet


def test_parameters(wide):
    assert count(wide.unet) == 859_520_964
    assert count(wide.autoencoder) == 83_653_863
    assert count(wide.guide) == 471_871_120
    assert count(wide.guide.fusion) == 110_592_000
    assert count(wide.guide.control.controlnet_cond_embedding) == 1_086_480
    assert count(wide.unet, wide.guide) / 1e6 == pytest.approx(1331, rel=0.005)  # ADer Table 1
    discriminator = (3 * 16 + 1) * 64 + 16 * (64 * 128 + 128 * 256 + 256 * 512) + 2 * (128 + 256 + 512) + 16 * 512 + 1
    assert count(wide.adversary) == discriminator


def test_what_is_trained(wide):
    """Upstream's optimizer holds 982,679,124 parameters, among them the fusion, the convolutions that it alone takes
    and those that go nowhere: their gradients are zero or missing, so here they are frozen."""
    autoencoder, diffusion = wide.stages()
    optimized = {
        name: sum(weight.numel() for group in optimizer.param_groups for weight in group["params"])
        for stage in (autoencoder, diffusion)
        for name, optimizer in stage.optimizers.items()
    }
    outputs = [320] * 4 + [640] * 3 + [1280] * 2
    silent = 110_592_000 + sum(channels**2 + channels for channels in outputs)
    assert optimized["network"] == 982_679_124 - silent
    assert optimized["autoencoder"] == 83_653_863
    assert count_parameters(wide)[1] == sum(optimized.values())
    with torch.device("meta"):
        learning = build(
            "diad",
            stable_diffusion=RANDOM,
            perceptual=RANDOM,
            backbone={"name": "resnet50", **RANDOM},
            learn_fusion=True,
        )
    _, diffusion = learning.stages()
    (group,) = diffusion.optimizers["network"].param_groups
    nowhere = sum(channels**2 + channels for channels in outputs[:6])
    assert sum(weight.numel() for weight in group["params"]) == 982_679_124 - nowhere


def test_multiply_accumulates(wide):
    """Of the fact sheet: one step of U-Net and guide at 32 x 32 latents, encoder and decoder at 256 x 256 pixels."""
    latent, time, image = torch.rand(1, 4, 32, 32, device=META), torch.zeros(1, device=META), torch.rand(1, 3, 256, 256)
    image, prompt = image.to(META), torch.rand(1, 77, 768, device=META)

    class Pass(nn.Module):
        def __init__(self, run) -> None:
            super().__init__()
            self.run = run

        def forward(self, unused):
            return self.run()

    for run, giga in (
        (lambda: wide.unet(latent, time, prompt), 90.05),
        (lambda: wide.guide(latent, time, image, prompt), 33.11),
        (lambda: wide.autoencoder.encode(image), 136.36),
        (lambda: wide.autoencoder.decode(latent), 311.09),
    ):
        assert count_macs(Pass(run), 8, META) / 1e9 == pytest.approx(giga, rel=0.001)


META = torch.device("meta")


# Networks


def test_fusion_is_upstream_s_nine_branches():
    """A branch is a convolution, a norm over an image's pixels and SiLU, from every finer feature to every coarser."""
    torch.manual_seed(0)
    fusion = SpatialAwareFusion([4, 6, 6], 6, 3)
    fine = [torch.randn(2, channels, 8, 8) for channels in (4, 6, 6)]
    coarse = [torch.randn(2, 6, 4, 4) for _ in range(3)]
    for number, (result, own) in enumerate(zip(fusion(fine, coarse), coarse, strict=True)):
        for branch, feature in zip(fusion.branches, fine, strict=True):
            value = F.conv2d(feature, branch.weight[6 * number : 6 * number + 6], stride=2, padding=1)
            mean, variance = value.mean((2, 3), keepdim=True), value.var((2, 3), unbiased=False, keepdim=True)
            value = (value - mean) / (variance + 1e-5).sqrt()
            own = own + value * value.sigmoid()
        torch.testing.assert_close(result, own * own.sigmoid(), atol=1e-5, rtol=1e-4)


def test_guide_begins_as_the_u_net_s_encoder_and_in_silence():
    method = small()
    for name in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        ours, theirs = getattr(method.guide.control, name).state_dict(), getattr(method.unet, name).state_dict()
        assert all(ours[key].equal(theirs[key]) for key in theirs)
    latent, time = torch.randn(2, 4, 16, 16), torch.tensor([3, 700])
    with torch.no_grad():
        alone = method.unet(latent, time, method.generative.prompt_ND.expand(2, -1, -1)).sample
        assert method.denoise(latent, time, torch.randn(2, 3, 64, 64)).equal(alone)


def loud(**arguments) -> DiAD:
    """Layers that begin at zero are no longer zero."""
    method = small(**arguments)
    with torch.no_grad():
        for weight in method.guide.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return method


def test_guide_reaches_the_coarsest_skips_and_the_middle_alone():
    method, added = loud(), {}
    method.unet.register_forward_pre_hook(lambda module, given, more: added.update(more), with_kwargs=True)
    with torch.no_grad():
        method.denoise(torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 3, 64, 64))
    skips = added["down_block_additional_residuals"]
    assert [bool(value.any()) for value in skips] == [False] * 6 + [True] * 2  # two outputs a level in this size
    assert added["mid_block_additional_residual"].any()


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        method = loud(recompute=recompute)
        batch = Batch(image_BCHW=images(2, 64), seed_B=torch.arange(2))
        method.train()
        method._step_diffusion(batch, lambda loss, *names: loss.backward())
        gradients.append([weight.grad for weight in method.guide.parameters() if weight.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 50
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


# Diffusion


def alphas() -> np.ndarray:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def test_sampling_by_its_formula():
    """Deterministic steps at the times 901, 801 ... 1 (Song et al., equation 12); the last one goes to time 0."""
    sampler, alpha = schedule(10), alphas()
    assert sampler.timesteps.tolist() == list(range(901, 0, -100))
    assert alpha[-1] ** 0.5 == pytest.approx(0.068, abs=5e-4)  # of the fact sheet
    generator = np.random.default_rng(0)
    for time, after in ((901, 801), (101, 1), (1, 0)):
        latent, noise = generator.normal(size=(2, 1, 4, 2, 2))
        clean = (latent - (1 - alpha[time]) ** 0.5 * noise) / alpha[time] ** 0.5
        expected = alpha[after] ** 0.5 * clean + (1 - alpha[after]) ** 0.5 * noise
        got = sampler.step(torch.from_numpy(noise), time, torch.from_numpy(latent)).prev_sample
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_diffusion_loss(monkeypatch):
    """The network is given sqrt(a) z + sqrt(1 - a) e and is to say e; z is a draw from the autoencoder, scaled."""
    method, given = small(), {}

    def denoise(self, noised, time, image):
        given.update(noised=noised, time=time, image=image)
        return torch.zeros_like(noised)

    monkeypatch.setattr(DiAD, "denoise", denoise)
    image_BCHW, seed_B = images(64, 64), torch.arange(64)
    loss = method._step_diffusion(Batch(image_BCHW=image_BCHW, seed_B=seed_B), lambda loss: None)["mse"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(given["image"], (image_BCHW - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    with torch.no_grad():
        latent = 0.18215 * drawn(method.autoencoder.encode(given["image"]).latent_dist, seed_B)
    alpha = torch.from_numpy(alphas()[given["time"].numpy()]).float().view(-1, 1, 1, 1)
    noise = (given["noised"] - alpha.sqrt() * latent) / (1 - alpha).sqrt()
    assert loss.item() == pytest.approx(noise.square().mean().item(), rel=1e-3)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert given["time"].min() >= 0
    assert 900 < given["time"].max() <= 999
    assert len(given["time"].unique()) > 50


def test_draws_belong_to_the_image():
    posterior = SimpleNamespace(mean=torch.zeros(3, 4, 2, 2), std=torch.ones(3, 4, 2, 2))
    whole = drawn(posterior, torch.tensor([5, 6, 7]))
    posterior = SimpleNamespace(mean=torch.zeros(1, 4, 2, 2), std=torch.ones(1, 4, 2, 2))
    assert drawn(posterior, torch.tensor([6])).equal(whole[1:2])
    assert not whole[0].equal(whole[1])


# Prediction


def test_map_and_score_of_a_known_repaint(monkeypatch):
    """A repaint that is the image itself is normal everywhere; both are compared in normalized space, not cut."""
    method, image_BCHW = small(), images(2, 64)
    monkeypatch.setattr(DiAD, "repaint", lambda self, normalized: normalized)
    score_B, map_BHW = predict(method, image_BCHW)
    assert map_BHW.abs().max() < 1e-5
    assert score_B.abs().max() < 1e-5
    monkeypatch.setattr(DiAD, "repaint", lambda self, normalized: 3 * normalized)
    _, map_BHW = predict(method, image_BCHW)
    normalized = method.features.normalize(image_BCHW)
    with torch.no_grad():
        pairs = zip(method.features.net(normalized), method.features.net(3 * normalized), strict=True)
        distances = [1 - F.cosine_similarity(a, b)[:, None] for a, b in pairs]
        maps = [F.interpolate(each, size=(64, 64), mode="bilinear", align_corners=True)[:, 0] for each in distances]
    torch.testing.assert_close(map_BHW, method.blur(sum(maps)), atol=1e-5, rtol=1e-4)
    assert method.blur.sigma == 5.0


def test_score_is_the_maximum_after_repeated_pooling():
    """Eight poolings of 8 pixels are one convolution with the eightfold convolution of a box."""
    map_BHW = torch.rand(2, 80, 70, generator=torch.Generator().manual_seed(0))
    box = np.ones(1)
    for _ in range(8):
        box = np.convolve(box, np.ones(8) / 8)
    rows = np.apply_along_axis(np.convolve, 1, map_BHW.numpy(), box, "valid")
    smooth = np.apply_along_axis(np.convolve, 2, rows, box, "valid")
    assert smooth.shape == (2, 24, 14)
    np.testing.assert_allclose(pooled_score(map_BHW, 8, 8).numpy(), smooth.max(axis=(1, 2)), rtol=1e-5)


def test_noise_of_the_test_is_the_run_s():
    """One noise for all images, which the run's seed decides; it is in the state."""
    torch.manual_seed(1)
    other = build("diad", **option_arguments("diad", "small")).eval()
    method = small()
    assert not other.seed.equal(method.seed)
    image_BCHW = images(1, 64).expand(2, -1, -1, -1)
    score_B, _ = predict(method, image_BCHW)
    torch.testing.assert_close(score_B[0], score_B[1], atol=1e-5, rtol=1e-5)
    other.load_state_dict(method.state_dict())
    assert predict(other, image_BCHW)[1].equal(predict(method, image_BCHW)[1])


# The autoencoder's training


def test_divergence():
    torch.manual_seed(0)
    mean, logvar = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(divergence(SimpleNamespace(mean=mean, logvar=logvar)), expected)


def test_adaptive_weight():
    """Of losses whose gradients are known: (3, 4) and (0, 2)."""
    weight = torch.zeros(2, requires_grad=True)
    one, other = 3 * weight[0] + 4 * weight[1], 2 * weight[1] + 0 * weight[0]
    assert autoencoding.adaptive_weight(one, other, weight, 1.0).item() == pytest.approx(5 / 2.0001)
    assert autoencoding.adaptive_weight(one, 0 * other, weight, 1.0).item() == pytest.approx(1e4)


def test_hinge():
    adversary = autoencoding.Adversary(8, 0)
    adversary.discriminator = nn.Identity()
    real, made = torch.tensor([0.5, 2.0]), torch.tensor([-2.0, 0.5])
    assert adversary.hinge(real, made).item() == pytest.approx((0.25 + 0.75) / 2)
    assert adversary.deceived(made).item() == pytest.approx(0.75)


def test_discriminator_begins_late():
    method, calls = small(discriminator_start=2), []
    stage = next(method.stages())
    batch = Batch(image_BCHW=images(2, 64), seed_B=torch.arange(2))
    before = {name: value.clone() for name, value in method.adversary.state_dict().items()}
    for step in range(3):
        logged = stage.step(batch, lambda loss, *names: calls.append(names))
        assert ("discriminator" in logged) == (step == 2)
    assert calls == [("autoencoder",)] * 3 + [("discriminator",)]
    assert before["batches"] == 0
    assert method.adversary.batches == 3


def test_reconstruction_loss_is_a_sum_over_pixels():
    method, losses = small(discriminator_start=9, kl_weight=0.0), []
    batch = Batch(image_BCHW=images(2, 64), seed_B=torch.arange(2))
    method._step_autoencoder(batch, lambda loss, *names: losses.append(loss.item()))
    image = method.features.normalize(batch.image_BCHW)
    with torch.no_grad():
        made = method.autoencoder.decode(drawn(method.autoencoder.encode(image).latent_dist, batch.seed_B)).sample
    assert losses[0] == pytest.approx((image - made).abs().sum().item() / 2, rel=1e-5)


class _Layers(nn.Module):
    """In place of VGG-16: five features of two channels."""

    channels = [2] * 5

    def __init__(self, options, layers) -> None:
        super().__init__()
        self.net = lambda image: [image[:, :2] * (number + 1) + number for number in range(5)]


def test_perceptual_loss(tmp_path, monkeypatch):
    """Features of unit length in each pixel, squared differences weighted by channel, mean over pixels, summed."""
    monkeypatch.setattr(autoencoding, "Backbone", _Layers)
    weights = torch.rand(5, 2)
    save_file(
        {f"lin{n}.model.1.weight": weights[n].view(1, 2, 1, 1) for n in range(5)}, tmp_path / "lpips_vgg.safetensors"
    )
    loss = autoencoding.PerceptualLoss(BackboneOptions("vgg16.tv_in1k", weights=str(tmp_path)))
    one, other = torch.randn(2, 2, 3, 4, 4).numpy()
    expected = np.zeros(2)
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    scaled = [(value - shift[:, None, None]) / scale[:, None, None] for value in (one, other)]
    for number in range(5):
        a, b = (value[:, :2] * (number + 1) + number for value in scaled)
        a, b = (value / np.sqrt((value**2).sum(axis=1, keepdims=True)) for value in (a, b))
        expected += (weights[number].numpy()[:, None, None] * (a - b) ** 2).sum(axis=1).mean(axis=(1, 2))
    np.testing.assert_allclose(loss(torch.from_numpy(one), torch.from_numpy(other)).numpy(), expected, rtol=1e-4)
    monkeypatch.setattr(_Layers, "channels", [2, 2, 2, 2, 3])
    with pytest.raises(UserError, match=r"lpips_vgg.safetensors does not hold LPIPS's five layers"):
        autoencoding.PerceptualLoss(BackboneOptions("vgg16.tv_in1k", weights=str(tmp_path)))


# Weights


def test_empty_prompt_is_that_of_torch_s_transformer(tmp_path):
    """Two layers and two heads of 64 channels, by ``nn.TransformerEncoder``."""
    torch.manual_seed(0)
    width, state = 128, {}
    layer = nn.TransformerEncoderLayer(
        width, 2, 256, 0.0, lambda value: value * torch.sigmoid(1.702 * value), batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
    for weight in encoder.parameters():
        weight.data = 0.1 * torch.randn_like(weight)
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "linear1": "mlp.fc1", "linear2": "mlp.fc2"}
    for name, value in encoder.state_dict().items():
        kind = name.rpartition(".")[2]
        prefix = f"encoder.layers.{name.split('.')[1]}."
        if "in_proj" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[f"{prefix}self_attn.{letter}_proj.{kind.removeprefix('in_proj_')}"] = part
        elif name.startswith("norm"):
            state[f"final_layer_norm.{kind}"] = value
        else:
            part = name.split(".")[2]
            state[prefix + (name.split(".", 2)[2] if part == "self_attn" else f"{names[part]}.{kind}")] = value
    token, position = torch.randn(9, width), torch.randn(77, width)
    state |= {"embeddings.token_embedding.weight": token, "embeddings.position_embedding.weight": position}
    file = tmp_path / "clip.pth"
    stored = {f"cond_stage_model.transformer.text_model.{name}": value for name, value in state.items()}
    with torch.no_grad():
        prompt = torch.cat([token[7:8], token[8:9].expand(76, -1)]) + position
        expected = encoder(prompt[None], mask=nn.Transformer.generate_square_subsequent_mask(77), is_causal=True)[0]
    torch.testing.assert_close(stable.empty_prompt(stored, file), expected, atol=1e-5, rtol=1e-4)
    del stored["cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias"]
    with pytest.raises(UserError, match=r"clip.pth lacks 'encoder.layers.1.mlp.fc1.bias' of the text transformer"):
        stable.empty_prompt(stored, file)


def test_weights_come_from_one_file(tmp_path, monkeypatch):
    """What the file holds is loaded, what it holds besides is not read; names are diffusers' here."""
    options = {**option_arguments("diad", "small")["stable_diffusion"], "autoencoder_levels": (1, 1, 2)}
    options |= {"pretrained": True, "weights": str(tmp_path)}
    given = stable.StableDiffusionOptions(**options)
    unet, autoencoder = stable.networks(given)
    state = {f"model.diffusion_model.{name}": value for name, value in unet.state_dict().items()}
    state |= {f"first_stage_model.{name}": value for name, value in autoencoder.state_dict().items()}
    state["model_ema.decay"] = torch.zeros(1)
    for part, prefix in (("unet_state", "model.diffusion_model."), ("autoencoder_state", "first_stage_model.")):
        monkeypatch.setattr(
            stable,
            part,
            lambda state, net, prefix=prefix: {
                name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
            },
        )
    seen: list[set[str]] = []
    monkeypatch.setattr(stable, "empty_prompt", lambda state, file: seen.append(set(state)) or torch.zeros(77, 8))
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "v1-5-pruned.safetensors")
    loaded = stable.StableDiffusion(given)
    assert seen == [set(state) - {"model_ema.decay"}]
    for ours, theirs in ((loaded.unet, unet), (loaded.autoencoder, autoencoder)):
        assert all(ours.state_dict()[name].equal(value) for name, value in theirs.state_dict().items())
    assert (loaded.warning, loaded.provenance["name"]) == (None, "v1-5-pruned")
    assert len(loaded.provenance["sha256"]) == 64
    files = DiAD.files({"stable_diffusion": given, "perceptual": BackboneOptions("vgg16", pretrained=False)})
    assert files == {"weights": {"v1-5-pruned.safetensors": tmp_path / "v1-5-pruned.safetensors"}}
    wider = stable.StableDiffusionOptions(**{**options, "autoencoder_levels": (1, 1, 2), "width": 16})
    with pytest.raises(
        UserError, match=r"does not hold Stable Diffusion's UNet2DConditionModel in the configured size"
    ):
        stable.StableDiffusion(wider)


def test_missing_weights_are_explained(tmp_path):
    with no_network():
        with pytest.raises(
            UserError, match=r"'v1-5-pruned' .*CreativeML Open RAIL-M license, 7.7 GB.*curl -L"
        ) as caught:
            build("diad", stable_diffusion={"weights": str(tmp_path)}, backbone={"name": "resnet18", **RANDOM})
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=r"'lpips_vgg' .*BSD-2-Clause.*method.perceptual.pretrained=false"):
            small(perceptual={"pretrained": True, "weights": str(tmp_path)})
    (tmp_path / "v1-5-pruned.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"v1-5-pruned.safetensors cannot be read"):
        build("diad", stable_diffusion={"weights": str(tmp_path)}, backbone={"name": "resnet18", **RANDOM})


def test_without_diffusers(monkeypatch):
    """The list of methods says what is missing and how to get it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else find(name))
    with pytest.raises(UserError, match=r"method 'diad' needs the package 'diffusers'.*: pip install diffusers"):
        read_tags("diad")
    assert read_tags("rd").paper


# Recipe, errors, the whole


def test_recipes():
    def values(recipe: str | None) -> tuple[dict, dict]:
        composed = compose(["method=diad", "dataset=demo", *([f"recipe={recipe}"] if recipe else [])])
        return composed.values["method"], composed.values["trainer"]

    (default, trainer), (official, more) = values(None), values("official")
    changed = {key for key in default if official[key] != default[key]}
    assert changed == {"epochs", "autoencoder_epochs", "autoencoder_batch_size", "discriminator_start"}
    assert (trainer["accumulate"], more["accumulate"], official["epochs"]) == (1, 4, 1000)
    assert more["accumulate"] * default["batch_size"] == 12 * 4
    assert more["accumulate"] * official["autoencoder_batch_size"] == 4 * 8
    assert official["discriminator_start"] == 50_001 * more["accumulate"]


def test_stages(wide):
    autoencoder, diffusion = wide.stages()
    assert (autoencoder.name, diffusion.name) == ("autoencoder", "diffusion")
    assert (autoencoder.batch_size, diffusion.batch_size, autoencoder.epochs, diffusion.epochs) == (4, 12, 100, 100)
    for optimizer in autoencoder.optimizers.values():
        assert isinstance(optimizer, torch.optim.Adam)
        assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (1.8e-4, (0.5, 0.9))
        assert optimizer.defaults["weight_decay"] == 0
    (optimizer,) = diffusion.optimizers.values()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (1e-5, (0.9, 0.999))
    assert optimizer.defaults["weight_decay"] == 0.01
    (only,) = small(autoencoder_epochs=0).stages()
    assert only.name == "diffusion"


def test_errors():
    for size in (80, 32):
        with pytest.raises(UserError, match=rf"image_size={size} does not suit diad: give a multiple of 32 from 64 on"):
            predict(small(), images(1, size))
    with pytest.raises(UserError, match=r"method.steps=0 does not fit"):
        build("diad", steps=0)
    with pytest.raises(UserError, match=r"method.stable_diffusion.*width"):
        build("diad", stable_diffusion={"width": 12})


def test_warnings():
    said = " ".join(small().warnings())
    assert all(name in said for name in ("resnet18", "v1-5-pruned", "empty prompt", "without perceptual loss"))


def test_short_training():
    """Both stages learn two images by heart, and a learning fusion moves."""
    method = small(learn_fusion=True, autoencoder_lr=5e-3, lr=5e-3)
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    batch = Batch(image_BCHW=torch.stack([ramp, ramp.transpose(1, 2)]), seed_B=torch.arange(2))
    for stage, name, steps in zip(method.stages(), ("l1", "mse"), (15, 15), strict=True):
        optimize, losses = Optimization(stage, CPU), []
        for module in stage.modules:
            module.train()
        for _ in range(steps):
            losses.append(stage.step(batch, optimize)[name].item())
        assert min(losses[-3:]) < 0.8 * losses[0], (name, losses)
    assert all(weight.any() for weight in method.guide.control.controlnet_down_blocks[4:].parameters())


def test_resumes_where_the_discriminator_stood():
    """How many batches were seen is in the state, so that a checkpoint keeps it."""
    method = small(discriminator_start=2, discriminator_width=8)
    Trainer(device=CPU, max_steps=3).fit(method, RandomImages(64, 3, CPU, method.tags))
    assert method.state_dict()["adversary.batches"] == 3
