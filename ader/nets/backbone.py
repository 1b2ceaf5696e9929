"""Frozen, pretrained, multi-scale feature extractors from timm."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants as hub
from pydantic import ConfigDict
from safetensors.torch import load_file
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from ader.nets.frozen import Frozen, state_sha256
from ader.system.errors import UserError, suggest
from ader.system.files import sha256


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

    def folder(self) -> Path | None:
        """The folder that is searched for weights."""
        given = self.weights or os.environ.get("ADER_WEIGHTS")
        return Path(given).expanduser() if given else None

    def local_file(self) -> Path | None:
        """The file with the pretrained weights, if a folder has one."""
        folder = self.folder()
        if folder is None or not self.pretrained or not self.name:
            return None
        files = [folder / f"{self.name}{ending}" for ending in (".safetensors", ".pth")]
        return next((file for file in files if file.is_file()), None)


class Normalize(nn.Module):
    """RGB in [0, 1] to what a pretrained network was trained on: (image - mean) / std, per channel.

    Args:
        net: a network of timm, which knows both.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: Any) -> None:
        super().__init__()
        config = net.default_cfg if hasattr(net, "default_cfg") else net.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Same shape."""
        normalized_BCHW: Tensor = (image_BCHW - self.mean) / self.std
        return normalized_BCHW


class Pretrained(nn.Module):
    """A whole timm network with its normalization: what a method does with it is the method's business.

    Trained or frozen, in training or evaluation mode: as any module. ``Backbone`` is the frozen one with feature maps.

    Args:
        options: which network.
        **arguments: of ``timm.create_model``, such as ``num_classes`` or ``img_size``.

    Attributes:
        net: the network; call it on normalized images.
        normalize: RGB in [0, 1] to its input.
        provenance, warning: as ``Backbone``'s.
    """

    def __init__(self, options: BackboneOptions, **arguments: Any) -> None:
        super().__init__()
        self.net, self.provenance = _create(options, arguments)
        self.warning = _warning(options)
        self.normalize = Normalize(self.net)

    def forward(self, image_BCHW: Tensor) -> Any:
        """What the network gives for RGB images in [0, 1]."""
        return self.net(self.normalize(image_BCHW))


class Backbone(Frozen):
    """Feature maps of several stages of a frozen network.

    The network stays in evaluation mode whatever ``train()`` says, takes no gradients, and normalizes its input
    itself, so that methods see RGB in [0, 1] only. What it gives for the images of a training batch the trainer may
    remember (``ader.training.features``): call it with ``Batch.image_BCHW`` itself where nothing was done to them.

    Args:
        options: which network.
        layers: timm's ``out_indices``: 1, 2, 3 are a ResNet's layer1, layer2, layer3. Later stages are not built.

    Raises:
        UserError: no such network, layers or weights.

    Attributes:
        channels: of each feature map.
        strides: input pixels per feature pixel, of each map.
        provenance: name, source and checksum of the weights.
        warning: what to tell readers of results, or None.
    """

    def __init__(self, options: BackboneOptions, layers: Sequence[int]) -> None:
        super().__init__()
        self.net, self.provenance = _create(options, {"features_only": True, "out_indices": tuple(layers)})
        self.warning = _warning(options)
        if isinstance(self.net, (EfficientNetFeatures, MobileNetV3Features)):  # these keep later stages, and run them
            del self.net.blocks[self.net.feature_info.get_dicts()[-1]["stage"] :]
        self.channels: list[int] = self.net.feature_info.channels()
        self.strides: list[int] = self.net.feature_info.reduction()
        self.layers = tuple(layers)
        self.normalize = Normalize(self.net)
        self.requires_grad_(False)
        self.eval()
        self._check_sizes(options.name)

    def _check_sizes(self, name: str) -> None:
        """Refuses transformers for images of one size, which would end in the middle of a run."""
        net = self.net
        config = net.default_cfg if hasattr(net, "default_cfg") else net.pretrained_cfg
        if not config.get("fixed_input_size"):
            return
        height, width = (side + 32 for side in config["input_size"][1:])
        try:
            self(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"method.backbone.name={name!r} takes images of one size only ({str(error).splitlines()[0]}): give a "
                "convolutional network, such as a ResNet"
            ) from error

    @property
    def reads(self) -> tuple[int, ...]:
        """The layers."""
        return self.layers

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Feature maps (B, channels[k], H / strides[k], W / strides[k]) of RGB images in [0, 1]."""
        return self.remembered(image_BCHW, lambda image: list(self.net(self.normalize(image))))


@cache
def obtain(options: BackboneOptions) -> None:
    """Has the weights of a network on this machine, which may mean a download; asked twice it remembers.

    Raises:
        UserError: they cannot be had, or there is no such network.
    """
    with torch.random.fork_rng(devices=[]):
        _create(options, {})


def _warning(options: BackboneOptions) -> str | None:
    return None if options.pretrained else f"backbone {options.name} has random weights (not pretrained)"


def _create(options: BackboneOptions, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The network, and where its weights are from; ``arguments`` are timm's."""
    base = options.name.split(".")[0]
    if not timm.is_model(base):
        raise UserError(
            f"method.backbone.name={options.name!r} is not a timm model: {suggest(base, timm.list_models())}"
        )
    tagged = timm.list_pretrained(f"{base}.*")
    if options.name not in tagged and (options.pretrained or options.name != base):
        raise UserError(
            f"method.backbone.name={options.name!r} does not name weights that timm knows: "
            f"{suggest(options.name, tagged)} (or set method.backbone.name={base} method.backbone.pretrained=false)"
        )
    if not options.pretrained:
        net = _build(options.name, arguments, pretrained=False)
        return net, {"name": options.name, "source": "random", "sha256": None}
    file = options.local_file()
    if file is not None:
        return _load(options.name, arguments, file), {"name": options.name, "source": str(file), "sha256": sha256(file)}
    try:
        with _offline_when_unreachable():
            net = _build(options.name, arguments, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # timm and the hub raise many kinds for "no network" and "no such file"
        folder = options.folder()
        raise UserError(
            f"weights {options.name!r} are not in the weights folder ({folder or 'none given'}) and could not be "
            f"downloaded ({type(error).__name__}): {_where_to_get(options.name, folder)}"
        ) from error
    return net, {"name": options.name, "source": "timm", "sha256": state_sha256(net.state_dict())}


def _where_to_get(name: str, folder: Path | None) -> str:
    """The command that fetches weights by hand, and what else one can do."""
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.hf_hub_id:
        source, ending = f"{hub.ENDPOINT}/{known.hf_hub_id}/resolve/main/model.safetensors", ".safetensors"
    else:
        source, ending = (known.url if known is not None else None) or "ADDRESS", ".pth"
    target = (folder or Path("weights")).absolute()
    return (
        f"where there is a network, give `curl -L --create-dirs -o {name}{ending} {source}` and put the file into "
        f"{target} (paths.weights, ADER_WEIGHTS), or set method.backbone.pretrained=false to go without"
    )


def _build(name: str, arguments: Mapping[str, Any], pretrained: bool, overlay: Mapping[str, Any] | None = None) -> Any:
    cut = logging.Filter()
    cut.filter = lambda record: not record.getMessage().startswith("Unexpected keys")  # type: ignore[method-assign]
    log = logging.getLogger("timm.models._builder")
    log.addFilter(cut)  # timm warns of weights of the stages that feature maps leave out; whole networks are strict
    try:
        return timm.create_model(
            name, pretrained=pretrained, pretrained_cfg_overlay=dict(overlay) if overlay else None, **arguments
        )
    except (IndexError, AssertionError) as error:  # timm looks the layers up without a check
        if "out_indices" not in arguments:
            raise
        raise UserError(
            f"method.backbone.name={name!r} has no feature maps {list(arguments['out_indices'])}: give other layers"
        ) from error
    finally:
        log.removeFilter(cut)


def _load(name: str, arguments: Mapping[str, Any], file: Path) -> Any:
    """The network with the weights of a local file.

    timm leaves what a file lacks at random values when it builds feature maps, but is strict with the whole network:
    that is built first.
    """
    state = _read(file)
    try:
        with torch.random.fork_rng(devices=[]):  # random numbers must not depend on where weights come from
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)})
    except RuntimeError as error:  # torch lists all names that do not fit
        raise UserError(f"weights file {file} does not hold the weights of {name}: replace it") from error
    return _build(name, arguments, pretrained=True, overlay={"state_dict": state})


@contextmanager
def _offline_when_unreachable() -> Iterator[None]:
    """Leaves the hub out, all but its local cache, where its host has no address.

    Without this the hub's client tries again for most of a minute, with warnings, before it gives up. Behind a proxy
    the address is the proxy's business, so nothing is changed.
    """
    before = offline = hub.HF_HUB_OFFLINE
    if not (before or getproxies()):
        try:
            socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
        except OSError:
            offline = True
    hub.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _read(file: Path) -> dict[str, Tensor]:
    """Reads tensors without executing anything a pickle may contain."""
    state: Any
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        if not state:
            raise ValueError("no tensors")  # timm would go on to download some
        return dict(state)
    except Exception as error:  # damaged zip, damaged header, refused pickle: all are the file's fault
        raise UserError(f"weights file {file} cannot be read ({type(error).__name__}): replace it") from error
