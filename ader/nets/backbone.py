"""Frozen, pretrained, multi-scale feature extractors from timm."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import ConfigDict
from safetensors.torch import load_file
from torch import Tensor, nn

from ader.errors import UserError, suggest


@dataclass(frozen=True)
class BackboneOptions:
    """Which network, and where its weights come from.

    Attributes:
        name: timm model with its weights tag, such as ``wide_resnet50_2.tv_in1k``. A name without a tag is refused
            when weights are wanted: timm's default tag changes between versions.
        pretrained: False leaves the network at random weights; every output then says so.
        weights: folder searched first for ``<name>.safetensors`` or ``<name>.pth``; None means the environment
            variable ``ADER_WEIGHTS``, or no folder.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    pretrained: bool = True
    weights: str | None = None


class Backbone(nn.Module):
    """Feature maps of several stages of a frozen network.

    The network stays in evaluation mode whatever ``train()`` says, takes no gradients, and normalises its input
    itself, so that methods see RGB in [0, 1] only.

    Args:
        options: which network.
        layers: timm's ``out_indices``: 1, 2, 3 are a ResNet's layer1, layer2, layer3. Later stages are not built.

    Attributes:
        channels: of each feature map.
        strides: input pixels per feature pixel, of each map.
        provenance: name, source and checksum of the weights.
        caveat: what to tell readers of results, or None.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, options: BackboneOptions, layers: Sequence[int]) -> None:
        super().__init__()
        self.net, self.provenance = _create(options, tuple(layers))
        self.caveat = None if options.pretrained else f"backbone {options.name} has random weights (not pretrained)"
        self.channels: list[int] = self.net.feature_info.channels()
        self.strides: list[int] = self.net.feature_info.reduction()
        config = self.net.default_cfg if hasattr(self.net, "default_cfg") else self.net.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Keeps evaluation mode: batch statistics of a frozen network must not move."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Feature maps (B, channels[k], H / strides[k], W / strides[k]) of RGB images in [0, 1]."""
        features: list[Tensor] = self.net((image_BCHW - self.mean) / self.std)
        return features


def _create(options: BackboneOptions, layers: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
    base = options.name.split(".")[0]
    if not timm.is_model(base):
        raise UserError(
            f"method.backbone.name={options.name!r} is not a timm model: {suggest(base, timm.list_models())}"
        )
    if not options.pretrained:
        net = _features(options.name, layers, pretrained=False)
        return net, {"name": options.name, "source": "random", "sha256": None}
    tagged = timm.list_pretrained(f"{base}.*")
    if options.name not in tagged:
        raise UserError(
            f"method.backbone.name={options.name!r} does not name its weights: {suggest(options.name, tagged)} "
            "(or set method.backbone.pretrained=false)"
        )
    file = _local_file(options)
    if file is not None:
        net = _features(options.name, layers, pretrained=True, overlay={"state_dict": _read(file)})
        return net, {"name": options.name, "source": str(file), "sha256": _sha256(file)}
    try:
        net = _features(options.name, layers, pretrained=True)
    except Exception as error:  # timm and the hub raise many kinds for "no network" and "no such file"
        raise UserError(
            f"weights {options.name!r} are not in the weights folder ({_folder(options) or 'none given'}) and could "
            f"not be downloaded ({type(error).__name__}): put {options.name}.safetensors or .pth there and give "
            "paths.weights=FOLDER, or set method.backbone.pretrained=false"
        ) from error
    return net, {"name": options.name, "source": "timm", "sha256": state_sha256(net.state_dict())}


def _features(name: str, layers: tuple[int, ...], pretrained: bool, overlay: Mapping[str, Any] | None = None) -> Any:
    return timm.create_model(
        name,
        pretrained=pretrained,
        features_only=True,
        out_indices=layers,
        pretrained_cfg_overlay=dict(overlay) if overlay else None,
    )


def _folder(options: BackboneOptions) -> Path | None:
    folder = options.weights or os.environ.get("ADER_WEIGHTS")
    return Path(folder).expanduser() if folder else None


def _local_file(options: BackboneOptions) -> Path | None:
    folder = _folder(options)
    if folder is None:
        return None
    files = [folder / f"{options.name}{ending}" for ending in (".safetensors", ".pth")]
    return next((file for file in files if file.is_file()), None)


def _read(file: Path) -> dict[str, Tensor]:
    """Reads tensors without executing anything a pickle may contain."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged zip, damaged header, refused pickle: all are the file's fault
        raise UserError(f"weights file {file} cannot be read ({type(error).__name__}): replace it") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    return dict(state)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values of tensors, for weights that did not come from a file of their own."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
