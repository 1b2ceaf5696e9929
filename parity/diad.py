"""DiAD beside its authors' code (clone: ``DiAD``; package: einops; pytorch_lightning and others are stood in for).

At a fifth of the width and with images of 128 pixels, with random weights in every layer: the full size is 1.4 billion
parameters. The released fusion
has its channels' numbers written into the code, so its layers are made again, narrower, in the same order.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from ader.methods import build
from ader.methods._base import Batch
from ader.methods._stable_diffusion import LATENT_SCALE, autoencoder_state, unet_state
from ader.nets.synthesis.draws import integers, normal
from parity import Difference, Pair, Published, commit, largest, smoothed, training_step

PUBLISHED = Published(
    params=1331.0,
    macs=451.5,
    why="the published parameters are those of U-Net and semantic-guided network, ours also hold autoencoder (83.7 M), "
    "features (8.5 M) and discriminator (2.8 M); no pass of the released code has the published multiply-accumulates "
    "(the nearest are the autoencoder's encoder and decoder, 447.4 G); ours are a whole prediction with 10 steps",
)

#: What is smaller here than Stable Diffusion's, and than the other comparisons' images.
SIZE = 128
WIDTH, LEVELS, PROMPT = 64, (1, 1, 2, 2), 64

SMALL = {
    "pretrained": False,
    "width": WIDTH,
    "autoencoder_width": WIDTH,
    "autoencoder_levels": LEVELS,
    "prompt_width": PROMPT,
}

NOTE = (
    "both at a fifth of the width and 128 pixels, with equal noise; the reference predicts twice in each step, for its "
    "guidance, and decodes twice; counts are those of the full size"
)


def pair(upstreams: Path, batch: int) -> Pair:
    """The whole of upstream's model, its weights copied into ours."""
    clone = upstreams / "DiAD"
    upstream = commit("lewandofskee/DiAD", clone)
    reference = _reference(clone)
    silent = _silent_fusion(reference)
    _disturb(reference)  # of which the U-Net is disturbed once more
    without = {"pretrained": False}
    features = {"name": "resnet50", "pretrained": False}
    ours: Any = build(
        "diad",
        stable_diffusion=SMALL,
        perceptual=without,
        backbone=features,
        recompute=False,
        learn_fusion=True,
        discriminator_start=0,
    )
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    for part, values in _converted(ours, state).items():
        left = getattr(ours, part).load_state_dict(values, strict=False)
        assert not left.unexpected_keys, left
        assert not left.missing_keys, left
    with torch.device("meta"):
        full = build("diad", stable_diffusion=without, perceptual=without, backbone=features)
    return _pair(ours, reference, silent, upstream, batch, full)


def _reference(clone: Path) -> Any:
    """Upstream's model in a small size, on the CPU."""
    sys.path.insert(0, str(clone))
    _stand_in("pytorch_lightning", LightningModule=_Lightning)
    _stand_in("pytorch_lightning.utilities")
    _stand_in("pytorch_lightning.utilities.distributed", rank_zero_only=lambda function: function)
    names = ("cal_anomaly_map", "log_local", "create_logger")
    _stand_in("utils")
    _stand_in("utils.util", **dict.fromkeys(names))
    _stand_in("utils.eval_helper", **dict.fromkeys(("dump", "log_metrics", "merge_together", "performances")))
    _stand_in("taming")
    _stand_in("taming.modules")
    _stand_in("taming.modules.losses")
    _stand_in("taming.modules.losses.vqperceptual", **_LOSSES)
    util = importlib.import_module("ldm.modules.diffusionmodules.util")
    util.GroupNorm32.forward = nn.GroupNorm.forward  # which casts to float32
    attention: Any = importlib.import_module("ldm.modules.attention")
    attention._ATTN_PRECISION = "as it is"  # it casts as well
    sampler: Any = importlib.import_module("ldm.models.diffusion.ddim")
    sampler.DDIMSampler.register_buffer = lambda self, name, value: setattr(self, name, value)  # to a GPU
    sampler.tqdm = lambda values, **options: values
    nets = {
        "image_size": SIZE // 8,
        "in_channels": 4,
        "model_channels": WIDTH,
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "num_heads": 8,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": PROMPT,
        "use_checkpoint": False,
        "legacy": False,
    }
    autoencoder = {
        "double_z": True,
        "z_channels": 4,
        "resolution": SIZE,
        "in_channels": 3,
        "out_ch": 3,
        "ch": WIDTH,
        "ch_mult": LEVELS,
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    code = importlib.import_module("sgn.sgn")
    stage = {"embed_dim": 4, "ddconfig": autoencoder, "lossconfig": {"target": "torch.nn.Identity"}}
    model = code.DiAD(
        control_stage_config={
            "target": "sgn.sgn.SemanticGuidedNetwork",
            "params": {**nets, "hint_channels": 3},
        },
        control_key="hint",
        only_mid_control=True,
        unet_config={"target": "sgn.sgn.ControlledUnetModel", "params": {**nets, "out_channels": 4}},
        first_stage_config={"target": "ldm.models.autoencoder.AutoencoderKL", "params": stage},
        cond_stage_config="__is_unconditional__",
        linear_start=0.00085,
        linear_end=0.0120,
        timesteps=1000,
        channels=4,
        image_size=SIZE // 8,
        scale_factor=LATENT_SCALE,
        use_ema=False,
        first_stage_key="jpg",
    )
    model.first_stage_model.requires_grad_(True)  # it is trained alone before
    for fine in (1, 2, 3):
        for coarse in (1, 2, 3):
            branch = getattr(model.control_model, f"down{fine}{coarse}")
            inputs = WIDTH * (2 if fine == 1 else 4)
            branch[0] = util.zero_module(nn.Conv2d(inputs, 4 * WIDTH, 3, stride=2, padding=1, bias=False))
            branch[1] = nn.InstanceNorm2d(4 * WIDTH)
    return model


class _Lightning(nn.Module):
    """Of a LightningModule what the model itself uses."""

    device = torch.device("cpu")


def _stand_in(name: str, **items: Any) -> None:
    module: Any = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(items)
    sys.modules[name] = module


def _hinge(real: Tensor, made: Tensor) -> Tensor:
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + made).mean())


class _NoPerceptualLoss(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one.new_zeros(len(one), 1, 1, 1)


#: What upstream takes from taming-transformers, which is not in its repository. The discriminator is ours.
_LOSSES: dict[str, Any] = {
    "torch": torch,
    "nn": nn,
    "LPIPS": _NoPerceptualLoss,
    "NLayerDiscriminator": lambda **options: nn.Identity(),
    "weights_init": lambda module: None,
    "hinge_d_loss": _hinge,
    "vanilla_d_loss": None,
    "adopt_weight": lambda weight, step, threshold=0: 0.0 if step < threshold else weight,
}


@torch.no_grad()
def _disturb(module: nn.Module) -> None:
    """Layers that begin at zero hide what stands before them."""
    for weight in module.parameters():
        scale = 0.3 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.05
        weight.add_(scale * torch.randn_like(weight))


def _converted(ours: Any, values: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Upstream's tensors (weights or gradients) under our names, by our parts."""
    control = {name: value for name, value in values.items() if name.startswith("control_model.")}
    guide = convert_controlnet_checkpoint(dict(control), ours.unet.config)
    found = {f"control.{name}": value for name, value in guide.items() if value is not None}
    for fine in range(3):
        names = [f"control_model.down{fine + 1}{coarse + 1}.0.weight" for coarse in range(3)]
        if names[0] in control:
            found[f"fusion.branches.{fine}.weight"] = torch.cat([control[name] for name in names])
    return {
        "unet": unet_state(values, ours.unet),
        "autoencoder": autoencoder_state(values, ours.autoencoder),
        "guide": found,
    }


def _silent_fusion(reference: Any) -> Difference:
    """Largest weights of the fusion, and of the convolutions that it alone takes, after upstream's training from
    upstream's initial weights has moved the guide's other layers that begin at zero: those' largest for comparison."""
    _disturb(reference.model)  # a U-Net that was trained before
    optimizer = torch.optim.AdamW(reference.control_model.parameters(), lr=1e-3)
    for _ in range(3):
        (latent, noise), image = torch.randn(2, 2, 4, SIZE // 8, SIZE // 8), torch.randn(2, 3, SIZE, SIZE)
        loss = _reference_loss(reference, latent, torch.tensor([100, 700]), noise, image, torch.randn(77, PROMPT))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fusion, others = [0.0], [0.0]
    for name, weight in reference.control_model.named_parameters():
        if name.startswith(("down", "zero_convs.6", "zero_convs.7", "zero_convs.8")):
            fusion.append(float(weight.detach().abs().max()))
        elif name.startswith(("zero_convs", "middle_block_out", "input_hint_block.14")):
            others.append(float(weight.detach().abs().max()))
    return Difference("upstream's fusion after 3 steps", max(fusion), max(others))


def _reference_loss(reference: Any, latent: Tensor, time: Tensor, noise: Tensor, image: Tensor, prompt: Tensor) -> Any:
    given = {"c_crossattn": [prompt.expand(len(image), -1, -1)], "c_concat": [image]}
    loss, _ = reference.p_losses(latent, given, time, noise=noise)
    return loss


def _pair(ours: Any, reference: Any, silent: Difference, upstream: str, batch: int, full: Any) -> Pair:
    image_BCHW, seed_B = torch.rand(batch, 3, SIZE, SIZE), torch.arange(batch)
    prompt_ND = ours.generative.prompt_ND
    optimizer = torch.optim.AdamW(
        [
            *reference.control_model.parameters(),
            *reference.model.diffusion_model.output_blocks.parameters(),
            *reference.model.diffusion_model.out.parameters(),
        ],
        lr=ours.lr,
    )

    def normalized(kind: torch.dtype = torch.float32) -> Tensor:
        tensor: Tensor = ours.features.normalize(image_BCHW.to(kind))
        return tensor

    def diffusion_loss(kind: torch.dtype) -> Any:
        with torch.no_grad():
            posterior = reference.encode_first_stage(normalized(kind))
            noise = normal(seed_B, "posterior", *posterior.mean.shape[1:]).to(kind)
            latent = reference.scale_factor * (posterior.mean + posterior.std * noise)
        noise = normal(seed_B, "noise", *latent.shape[1:]).to(kind)
        time = integers(seed_B, "time", 1000)
        return _reference_loss(reference, latent, time, noise, normalized(kind), prompt_ND.to(kind))

    def train() -> None:
        loss = diffusion_loss(torch.float32)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def test() -> tuple[Any, Any, Tensor]:
        reference.eval()
        image = normalized()
        latent = reference.scale_factor * reference.encode_first_stage(image).mode()
        reference.decode_first_stage(latent)  # upstream shows it
        last = torch.full((batch,), 999)
        noise = normal(ours.seed, "test", *latent.shape[1:]).expand_as(latent)
        given = {"c_crossattn": [prompt_ND.expand(batch, -1, -1)], "c_concat": [image]}
        samples, _ = reference.sample_log_test(
            cond=given,
            batch_size=batch,
            ddim=True,
            ddim_steps=10,
            eta=0.0,
            unconditional_guidance_scale=9.0,
            unconditional_conditioning=given,
            x_T=reference.q_sample(latent, last, noise),
            timesteps=torch.tensor(999),
        )
        made = reference.decode_first_stage(samples)
        map_BHW = reference_map(ours.features.net(image), ours.features.net(made))
        pooled = torch.tensor(map_BHW)[:, None]
        for _ in range(8):
            pooled = F.avg_pool2d(pooled, 8, stride=1)
        return map_BHW, pooled.amax(dim=(1, 2, 3)), made

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        yield silent
        map_ref, score_ref, made_ref = test()
        with torch.no_grad():
            yield largest("repaint", ours.repaint(normalized()), made_ref)
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, map_ref)
        yield largest("image score", score_B, score_ref)
        for kind in (torch.float32, torch.float64):
            ours.to(kind)
            _to(reference, kind)
            name = str(kind).removeprefix("torch.")
            loss_ref, loss = diffusion_loss(kind), _our_loss(ours, ours._step_diffusion, image_BCHW.to(kind), seed_B)[0]
            yield largest(f"loss ({name})", loss, loss_ref)
            yield _gradients(f"gradients ({name})", ours, reference, loss, loss_ref)
            refs = _autoencoder_losses(ours, reference, normalized(kind), seed_B)
            losses = _our_loss(ours, ours._step_autoencoder, image_BCHW.to(kind), seed_B)
            yield largest(f"autoencoder's losses ({name})", losses, refs)
            yield _gradients(f"autoencoder's gradients ({name})", ours, reference, losses[0], refs[0])
        ours.float()
        _to(reference, torch.float32)

    runs = training_step(ours, image_BCHW, stage=1)
    return Pair(ours, upstream, differences, (train, runs), (test, test_ours), batch, batch, NOTE, full)


def _to(reference: Any, kind: torch.dtype) -> None:
    """Upstream's networks cast to a type of their own, and embed time in float32."""
    reference.to(kind)
    for net in (reference.model.diffusion_model, reference.control_model):
        net.dtype = kind
        net.time_embed._forward_pre_hooks.clear()
        net.time_embed.register_forward_pre_hook(lambda module, given, kind=kind: (given[0].to(kind),))


def _our_loss(ours: Any, step: Any, image_BCHW: Tensor, seed_B: Tensor) -> list[Tensor]:
    """What a step minimizes, loss by loss."""
    losses: list[Tensor] = []
    ours.adversary.train()
    step(Batch(image_BCHW=image_BCHW, seed_B=seed_B), lambda loss, *names: losses.append(loss))
    return losses


def _autoencoder_losses(ours: Any, reference: Any, image_BCHW: Tensor, seed_B: Tensor) -> list[Tensor]:
    """Upstream's losses of autoencoder and discriminator, with our discriminator and without perceptual loss."""
    code = importlib.import_module("ldm.modules.losses.contperceptual")
    losses = code.LPIPSWithDiscriminator(disc_start=0, kl_weight=1e-6, disc_weight=0.5).to(image_BCHW.dtype)
    losses.discriminator = ours.adversary.discriminator
    stage = reference.first_stage_model
    posterior = stage.encode(image_BCHW)
    noise = normal(seed_B, "posterior", *posterior.mean.shape[1:]).to(image_BCHW.dtype)
    made = stage.decode(posterior.mean + posterior.std * noise)
    last = stage.get_last_layer()
    return [losses(image_BCHW, made, posterior, index, 1, last_layer=last)[0] for index in (0, 1)]


def _gradients(what: str, ours: Any, reference: Any, loss: Tensor, loss_ref: Tensor) -> Difference:
    ours.zero_grad()
    reference.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    loss_ref.backward()  # type: ignore[no-untyped-call]
    values = {name: weight.grad for name, weight in reference.named_parameters() if weight.grad is not None}
    pairs = []
    for part, gradients in _converted(ours, values).items():
        own = {n: w.grad for n, w in getattr(ours, part).named_parameters() if w.grad is not None}
        assert own.keys() == gradients.keys(), f"{part}: {sorted(own.keys() ^ gradients.keys())}"
        pairs += [(own[name], gradients[name]) for name in own]
    assert len(pairs) > 100
    return largest(what, [one for one, _ in pairs], [other for _, other in pairs])


def reference_map(first: list[Tensor], second: list[Tensor]) -> np.ndarray[Any, Any]:
    """Upstream's map, written again: each distance interpolated, a sum, scipy's filter image by image."""
    total: Any = np.zeros([len(first[0]), SIZE, SIZE])
    for one, other in zip(first, second, strict=True):
        distance = (1 - F.cosine_similarity(one, other)).unsqueeze(1)
        total = total + F.interpolate(distance, SIZE, mode="bilinear", align_corners=True).squeeze(1).numpy()
    return smoothed(total, sigma=5)
