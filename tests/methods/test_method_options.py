"""Methods by the names of their options, without Hydra."""

from __future__ import annotations

import pytest

from ader.config.compose import compose
from ader.config.options import options
from ader.methods import build
from ader.methods._options import option_arguments, option_class, stated
from ader.methods.rd import RD
from ader.system.errors import UserError

BASE = """
name: rd
lr: 0.5
epochs: ${trainer.epochs}
backbone: {name: resnet18, pretrained: false, weights: "${paths.weights}"}
recipes:
  quick: {trainer.epochs: 3, image_size: 64, method.lr: 0.25, method.backbone.name: resnet34}
"""
VARIANT = """
defaults: [base]
clip: null
backbone: {name: resnet26}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "base.yaml").write_text(BASE)
    (tmp_path / "method" / "variant.yaml").write_text(VARIANT)
    monkeypatch.setattr("ader.config.options.config_folders", lambda *extra: [tmp_path])


@pytest.mark.usefixtures("here")
def test_an_options_arguments():
    backbone = {"name": "resnet18", "pretrained": False}
    assert option_arguments("base") == {"lr": 0.5, "backbone": backbone}
    assert option_arguments("base", "quick") == {"lr": 0.25, "epochs": 3, "backbone": {**backbone, "name": "resnet34"}}
    assert option_arguments("variant") == {"lr": 0.5, "clip": None, "backbone": {**backbone, "name": "resnet26"}}
    assert option_arguments("variant", "quick")["backbone"] == {**backbone, "name": "resnet34"}
    assert option_class("variant") is RD


@pytest.mark.usefixtures("here")
def test_build_takes_what_the_option_says():
    method = build("variant", lr=0.125, backbone={"name": "resnet18"})
    assert isinstance(method, RD)
    assert (method.lr, method.clip, method.epochs, method.batch_size) == (0.125, None, 100, 16)
    assert method.warnings() == build("base").warnings() != []  # random weights of a ResNet-18


@pytest.mark.usefixtures("here")
def test_wrong_names():
    for option, recipe, match in (
        ("bse", None, "method 'bse' does not exist: did you mean 'base'"),
        ("rd", None, "method 'rd' does not exist"),  # a module, and no option
        ("variant", "quik", "recipe=quik does not exist for variant: did you mean 'quick'"),
    ):
        with pytest.raises(UserError, match=match):
            option_arguments(option, recipe)


def test_interpolations_at_any_depth():
    values = {"a": "${x.y}", "b": {"c": "${z}", "d": 1}, "e": ["${z}"]}
    assert stated(values, {}) == {"b": {"d": 1}, "e": ["${z}"]}
    assert stated(values, {"x.y": 2, "z": None}) == {"a": 2, "b": {"c": None, "d": 1}, "e": ["${z}"]}


@pytest.mark.parametrize("option", options("method"))
def test_what_is_stated_is_what_hydra_composes(option):
    """Under the recipe for tests, which changes values at every depth."""
    composed = compose([f"method={option}", "dataset=demo", "recipe=small"]).values["method"]
    for key, value in option_arguments(option, "small").items():
        expected = composed[key]
        if isinstance(value, dict):
            expected = {name: expected[name] for name in value}
        assert value == expected, key
