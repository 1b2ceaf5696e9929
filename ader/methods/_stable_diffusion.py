"""Stable Diffusion's networks, built by diffusers: U-Net, autoencoder and the embedding of the empty prompt.

Weights: ``v1-5-pruned`` (Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022),
under the CreativeML Open RAIL-M license. They are 7.7 GB and are never downloaded from here: who uses them has taken
note of that license. One file has all that is needed: ``model.diffusion_model`` (the weights without averaging, as
upstream takes them), ``first_stage_model`` and ``cond_stage_model``.

Shapes in names: N tokens, D channels of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from pydantic import ConfigDict, Field
from safetensors import safe_open
from torch import Tensor, nn

from ader.config.ranges import Channels, Depth, Width
from ader.nets.backbone import BackboneOptions
from ader.system.errors import UserError
from ader.system.files import sha256

#: Of latents, whose standard deviation it makes about 1.
LATENT_SCALE = 0.18215

LATENT_CHANNELS = 4

#: Of the U-Net's four levels, over its width.
LEVELS = (1, 2, 4, 4)

TOKENS = 77

LICENSE = "CreativeML Open RAIL-M"

ADDRESS = "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5/resolve/main"

PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model.")


@dataclass(frozen=True)
class StableDiffusionOptions:
    """Which networks, and where their weights come from. The sizes are Stable Diffusion 1's; others go without weights.

    Attributes:
        name: of the file with the weights, without its ending.
        pretrained: False leaves the networks at random weights; every output then says so.
        weights: folder with ``<name>.safetensors``, ``.pth`` or ``.ckpt``; None means the environment variable
            ``ADER_WEIGHTS``, or no folder.
        width: channels of the U-Net's finest level; a multiple of its heads, of which every level has 8.
        autoencoder_width: channels of the autoencoder's finest level.
        autoencoder_levels: widths of the autoencoder's levels over the finest one's. Each level but the last halves
            the resolution.
        blocks: residual blocks in each level of either encoder; decoders have one more.
        prompt_width: channels of a prompt's embedding.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str = "v1-5-pruned"
    pretrained: bool = True
    weights: str | None = None
    width: Annotated[Channels, Field(multiple_of=8)] = 320
    autoencoder_width: Annotated[Channels, Field(multiple_of=4)] = 128
    autoencoder_levels: Annotated[tuple[Depth, ...], Field(min_length=2, max_length=4)] = (1, 2, 4, 4)
    blocks: Annotated[int, Field(ge=1, le=8)] = 2
    prompt_width: Width = 768

    @property
    def stride(self) -> int:
        """Pixels per latent pixel."""
        return int(2 ** (len(self.autoencoder_levels) - 1))

    def file(self) -> Path | None:
        """The file with the weights; None where none are wanted.

        Raises:
            UserError: it is missing.
        """
        if not self.pretrained:
            return None
        folder = BackboneOptions(self.name, weights=self.weights).folder()
        found = [folder / f"{self.name}{ending}" for ending in (".safetensors", ".pth", ".ckpt")] if folder else []
        file = next((file for file in found if file.is_file()), None)
        if file is None:
            target = (folder or Path("weights")).absolute()
            raise UserError(
                f"weights {self.name!r} of Stable Diffusion ({LICENSE} license, 7.7 GB) are not in the weights folder "
                f"({folder or 'none given'}): read the license, give `curl -L --create-dirs -o "
                f"{target}/{self.name}.safetensors {ADDRESS}/{self.name}.safetensors` (paths.weights, ADER_WEIGHTS), "
                "or set method.stable_diffusion.pretrained=false to go without"
            )
        return file


class StableDiffusion(nn.Module):
    """U-Net, autoencoder and what they are told by an empty prompt.

    Args:
        options: sizes and weights.

    Attributes:
        unet: predicts noise.
        autoencoder: images of any range to latents and back.
        prompt_ND: embedding of the empty prompt; without weights a random one of the same length stands in.
        provenance, warning: as a backbone's.

    Raises:
        UserError: there are no such weights, or they do not fit.
    """

    prompt_ND: Tensor

    def __init__(self, options: StableDiffusionOptions) -> None:
        super().__init__()
        file = options.file()
        if file is None:
            self.unet, self.autoencoder = networks(options)
            self.register_buffer("prompt_ND", torch.randn(TOKENS, options.prompt_width))
            self.provenance = {"name": options.name, "source": "random", "sha256": None}
            self.warning: str | None = (
                f"Stable Diffusion's networks ({options.name}) have random weights (not pretrained), and a random "
                "embedding stands in for the empty prompt"
            )
            return
        with torch.device("meta"):  # the file's tensors take the place of these
            self.unet, self.autoencoder = networks(options)
        state = read(file, PARTS)
        _fill(self.unet, unet_state(state, self.unet), file)
        _fill(self.autoencoder, autoencoder_state(state, self.autoencoder), file)
        self.register_buffer("prompt_ND", empty_prompt(state, file))
        self.provenance = {"name": options.name, "source": str(file), "sha256": sha256(file)}
        self.warning = None


def networks(options: StableDiffusionOptions) -> tuple[Any, Any]:
    """U-Net and autoencoder of these sizes."""
    unet = UNet2DConditionModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=tuple(options.width * factor for factor in LEVELS),
        layers_per_block=options.blocks,
        cross_attention_dim=options.prompt_width,
        attention_head_dim=8,  # diffusers' name for the number of heads
        norm_num_groups=groups(options.width),
    )
    levels = len(options.autoencoder_levels)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(options.autoencoder_width * factor for factor in options.autoencoder_levels),
        layers_per_block=options.blocks,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=groups(options.autoencoder_width),
    )
    return unet, autoencoder


def groups(width: int) -> int:
    """Of group norms: 32, fewer where a narrow network would have less than two channels in one."""
    return math.gcd(32, width // 2)


def read(file: Path, parts: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """A file's tensors, without executing anything a pickle may contain.

    Args:
        file: with weights.
        parts: beginnings of the names to read, of which a file may hold many more.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as stored:
                names = [name for name in stored.keys() if name.startswith(parts)]  # noqa: SIM118 (no mapping)
                return {name: stored.get_tensor(name) for name in names}
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {name: value for name, value in state.items() if name.startswith(parts)}
    except Exception as error:  # damaged zip, damaged header, refused pickle: all are the file's fault
        raise UserError(f"weights file {file} cannot be read ({type(error).__name__}): replace it") from error


def unet_state(state: Mapping[str, Tensor], unet: Any) -> dict[str, Tensor]:
    """The U-Net's tensors under diffusers' names."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    return _converted(convert_ldm_unet_checkpoint, state, unet)


def autoencoder_state(state: Mapping[str, Tensor], autoencoder: Any) -> dict[str, Tensor]:
    """The autoencoder's tensors under diffusers' names; its attention's 1x1 convolutions are linear layers there."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return _converted(convert_ldm_vae_checkpoint, state, autoencoder)


def _converted(convert: Any, state: Mapping[str, Tensor], net: Any) -> dict[str, Tensor]:
    try:
        converted: dict[str, Tensor] = convert(dict(state), net.config)
    except (KeyError, IndexError):  # names that are not there
        return {}
    return converted


def _fill(net: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Puts a file's tensors in the place of those on the meta device."""
    try:
        net.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    except RuntimeError as error:  # torch lists all names that do not fit
        raise UserError(
            f"weights file {file} does not hold Stable Diffusion's {type(net).__name__} in the configured size: "
            "replace it, or leave method.stable_diffusion's sizes alone"
        ) from error


@torch.no_grad()
def empty_prompt(state: Mapping[str, Tensor], file: Path) -> Tensor:
    """The embedding (N, D) of the empty prompt: CLIP's text transformer (Radford et al., ICML 2021), run once.

    The prompt is a beginning and 76 ends. Layers norm first; an attention looks back only; the activation is
    x sigmoid(1.702 x); heads have 64 channels.

    Raises:
        UserError: the file lacks the text transformer.
    """
    prefix = PARTS[2]
    text = {name.removeprefix(prefix): value.float() for name, value in state.items() if name.startswith(prefix)}
    try:
        token_ND = text["embeddings.token_embedding.weight"]
        value_ND = token_ND[[len(token_ND) - 2] + [len(token_ND) - 1] * (TOKENS - 1)]
        value_ND = value_ND + text["embeddings.position_embedding.weight"]
        depth = len({name.split(".")[2] for name in text if name.startswith("encoder.layers.")})
        for number in range(depth):
            value_ND = _text_layer(value_ND, _Layer(text, f"encoder.layers.{number}."))
        return _Layer(text, "").norm("final_layer_norm", value_ND)
    except KeyError as error:
        raise UserError(f"weights file {file} lacks {error} of the text transformer: replace it") from error


def _text_layer(value_ND: Tensor, layer: _Layer) -> Tensor:
    normed_ND = layer.norm("layer_norm1", value_ND)
    q, k, v = (
        layer.linear(f"self_attn.{name}_proj", normed_ND).view(len(value_ND), -1, 64).transpose(0, 1) for name in "qkv"
    )
    attended_ND = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)
    value_ND = value_ND + layer.linear("self_attn.out_proj", attended_ND)
    hidden = layer.linear("mlp.fc1", layer.norm("layer_norm2", value_ND))
    return value_ND + layer.linear("mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))


@dataclass(frozen=True)
class _Layer:
    """Functions of the tensors whose names begin with a prefix."""

    state: Mapping[str, Tensor]
    prefix: str

    def linear(self, name: str, value: Tensor) -> Tensor:
        name = self.prefix + name
        return F.linear(value, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name: str, value: Tensor) -> Tensor:
        name = self.prefix + name
        weight = self.state[f"{name}.weight"]
        return F.layer_norm(value, weight.shape, weight, self.state[f"{name}.bias"], 1e-5)
