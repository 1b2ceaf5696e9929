"""Frozen backbones: where weights come from, what is refused, what never changes."""

from __future__ import annotations

import hashlib
import logging
import pickle
import socket
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants as hub
from safetensors.torch import save_file

from ader.nets import backbone as module
from ader.nets.backbone import Backbone, BackboneOptions, state_sha256
from ader.system.errors import UserError

NAME = "resnet18.tv_in1k"


@pytest.fixture(autouse=True)
def no_weights_folder(monkeypatch):
    monkeypatch.delenv("ADER_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    net = timm.create_model("resnet18", pretrained=False)
    with torch.no_grad():
        for value in net.buffers():
            value += torch.rand(value.shape).to(value.dtype)
    return net.state_dict()


def make(folder: Path | None = None, name: str = NAME, layers=(1, 2, 3), **options) -> Backbone:
    return Backbone(BackboneOptions(name, weights=str(folder) if folder else None, **options), layers)


def refused(match: str, folder: Path | None = None, **options) -> None:
    with pytest.raises(UserError, match=match) as caught:
        make(folder, **options)
    assert "\n" not in str(caught.value)


def test_local_files(tmp_path, state, monkeypatch):
    for folder in ("safetensors", "pth", "nested"):
        (tmp_path / folder).mkdir()
    save_file(state, tmp_path / "safetensors" / f"{NAME}.safetensors")
    torch.save(state, tmp_path / "pth" / f"{NAME}.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested" / f"{NAME}.pth")
    image_BCHW = torch.rand(2, 3, 64, 64)

    net = timm.create_model("resnet18", pretrained=False).eval()
    net.load_state_dict(state)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        feature_BCHW = net.maxpool(net.act1(net.bn1(net.conv1((image_BCHW - mean) / std))))
        expected = [feature_BCHW := layer(feature_BCHW) for layer in (net.layer1, net.layer2, net.layer3)]

    for folder, ending in (("safetensors", "safetensors"), ("pth", "pth"), ("nested", "pth")):
        file = tmp_path / folder / f"{NAME}.{ending}"
        loaded = make(tmp_path / folder)
        assert all(a.equal(b) for a, b in zip(loaded(image_BCHW), expected, strict=True))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert loaded.provenance == {"name": NAME, "source": str(file), "sha256": digest}
        assert loaded.warning is None
    monkeypatch.setenv("ADER_WEIGHTS", str(tmp_path / "pth"))
    assert make().provenance["source"] == str(tmp_path / "pth" / f"{NAME}.pth")


def test_what_feature_maps_leave_out_is_not_warned_of(tmp_path, state, caplog):
    """timm warns of the classifier's weights, which no feature map needs; whatever else it says stays."""
    save_file(state, tmp_path / f"{NAME}.safetensors")
    log = logging.getLogger("timm.models._builder")
    with caplog.at_level(logging.WARNING):
        make(tmp_path, layers=(1, 2))
        assert not caplog.messages
        log.warning("Unexpected keys (a) found")
        log.warning("something else")
    assert caplog.messages == ["Unexpected keys (a) found", "something else"]
    assert not log.filters


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_refused(tmp_path, state):
    mark = tmp_path / "executed"
    for save in (torch.save, lambda item, file: file.write_bytes(pickle.dumps(item))):
        save({**state, "bomb": Bomb(mark)}, tmp_path / f"{NAME}.pth")
        refused(r"resnet18.tv_in1k.pth cannot be read \(UnpicklingError\): replace it", tmp_path)
        assert not mark.exists()


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_damaged_files_are_refused(tmp_path, state, ending):
    file = tmp_path / f"{NAME}.{ending}"
    save_file(state, file) if ending == "safetensors" else torch.save(state, file)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b""):
        file.write_bytes(damaged)
        refused(rf"{ending} cannot be read", tmp_path)


def test_other_weights_are_refused(tmp_path, state):
    other = timm.create_model("resnet34", pretrained=False).state_dict()
    partial = {name: value for name, value in state.items() if name != "layer1.0.conv1.weight"}
    prefixed = {f"module.{name}": value for name, value in state.items()}
    for wrong in (other, partial, prefixed, {**state, "conv1.weight": torch.zeros(1)}):
        torch.save(wrong, tmp_path / f"{NAME}.pth")
        refused("does not hold the weights of resnet18.tv_in1k: replace it", tmp_path)
    for useless in ([1, 2], {}, {"state_dict": {}}):
        torch.save(useless, tmp_path / f"{NAME}.pth")
        refused("cannot be read", tmp_path)


def test_random_numbers_do_not_depend_on_the_source_of_weights(tmp_path, state):
    save_file(state, tmp_path / f"{NAME}.safetensors")
    drawn = []
    for options in ({"folder": tmp_path}, {"pretrained": False}):
        torch.manual_seed(0)
        make(**options)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


def test_names():
    refused("'resnet18' does not name weights.*resnet18.*pretrained=false", name="resnet18")
    refused(r"did you mean .*'resnet18.tv_in1k'", name="resnet18.tv_in1kk")
    refused("'resnet18.nothing' does not name weights", name="resnet18.nothing", pretrained=False)
    refused("is not a timm model: did you mean 'resnet18'", name="resnet81.tv_in1k")
    refused(r"has no feature maps \[9\]", name="resnet18", layers=(9,), pretrained=False)


@pytest.fixture
def no_address(monkeypatch, tmp_path):
    """A machine without a name service and without proxies; the hub's cache is empty."""

    def fail(*args, **options):
        raise socket.gaierror("no name service")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(module, "getproxies", dict)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_address")
def test_offline_fails_fast_and_quietly(tmp_path, caplog, capfd):
    (tmp_path / "weights").mkdir()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        refused(
            "are not in the weights folder .* `curl -L --create-dirs -o resnet18.tv_in1k.safetensors "
            "https://huggingface.co/timm/resnet18.tv_in1k/resolve/main/model.safetensors` and put the file into "
            f"{tmp_path / 'weights'} .* method.backbone.pretrained=false",
            tmp_path / "weights",
        )
    assert time.monotonic() - began < 5
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert hub.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("no_address")
def test_offline_finds_the_hubs_cache(tmp_path, state):
    """A snapshot as ``huggingface_hub`` keeps it."""
    folder = tmp_path / "cache" / "models--timm--resnet18.tv_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    loaded = make()
    assert loaded.provenance == {"name": NAME, "source": "timm", "sha256": state_sha256(loaded.net.state_dict())}
    assert loaded.net.conv1.weight.equal(state["conv1.weight"])


def test_a_proxy_or_an_address_keeps_the_hub_online(monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "_build", lambda *a, **k: seen.append(hub.HF_HUB_OFFLINE) or timm.create_model("resnet18")
    )
    options = BackboneOptions(NAME)
    for proxies, address, offline in (({}, False, True), ({"https": "http://p"}, False, False), ({}, True, False)):

        def look_up(host, port, address=address):
            if not address:
                raise socket.gaierror("no name service")
            return [(host, port)]

        monkeypatch.setattr(module, "getproxies", lambda proxies=proxies: proxies)
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        module._create(options, (1,))
        assert seen.pop() is offline
        assert hub.HF_HUB_OFFLINE is False


def test_state_sha256_sees_names_and_values():
    state = {"a": torch.ones(2), "b": torch.tensor(1)}
    assert state_sha256(state) == state_sha256(dict(reversed(state.items())))
    others = {"a": torch.ones(2), "c": torch.tensor(1)}, {"a": torch.ones(2), "b": torch.tensor(2)}
    assert len({state_sha256(each) for each in (state, *others)}) == 3


def test_random_weights_say_so():
    net = make(name="resnet18", pretrained=False)
    assert net.warning == "backbone resnet18 has random weights (not pretrained)"
    assert net.provenance == {"name": "resnet18", "source": "random", "sha256": None}
    assert net.channels == [64, 128, 256]
    assert net.strides == [4, 8, 16]


def test_it_stays_frozen():
    net = make(name="resnet18", pretrained=False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    assert not any(part.training for part in net.modules())
    image_BCHW = torch.rand(2, 3, 64, 64, requires_grad=True)
    features = net(image_BCHW)
    assert [tuple(feature.shape) for feature in features] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4)]
    assert not any(feature.requires_grad for feature in features)
    assert not any(weight.requires_grad for weight in net.parameters())
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
