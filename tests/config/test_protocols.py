"""``protocol=NAME``: all that makes a run comparable to a published row, by one word, and said in the run's name."""

from __future__ import annotations

import pytest

from ader.__main__ import main
from ader.config.compose import compose
from ader.config.options import options, read_option
from ader.results.identity import run_name
from ader.system.errors import UserError

#: What ADer's released configurations have, from its paper and code; the key of a method's config and the value.
ADER = {
    "cfa": {
        "batch_size": 4,
        "lr": 1e-3,
        "weight_decay": 5e-4,
        "score_window": 16,
        "sigma": 4.0,
        "backbone.name": "wide_resnet50_2.racm_in1k",
    },
    "cflow": {
        "batch_size": 32,
        "lr": 2e-4,
        "sub_epochs": 10,
        "warmup_meta_epochs": 2,
        "backbone.name": "wide_resnet50_2.racm_in1k",
    },
    "destseg": {
        "batch_size": 32,
        "student_lr": 0.4,
        "blocks_lr": 0.1,
        "head_lr": 0.01,
        "channels": "bgr",
        "top_pixels": 1,
    },
    "draem": {
        "batch_size": 8,
        "lr": 1e-4,
        "anomalies": False,
        "normalize": "imagenet",
        "score_window": 21,
        "score_padded": False,
    },
    "invad": {
        "batch_size": 32,
        "lr": 4e-3,
        "betas": [0.0, 0.99],
        "sigma": 4.0,
        "backbone.name": "wide_resnet50_2.racm_in1k",
    },
    "diad": {"batch_size": 12, "lr": 1e-5, "backbone.name": "resnet50.a1_in1k"},
    "invad_lite": {"batch_size": 32, "lr": 4e-3, "sigma": 4.0, "backbone.name": "resnet34.bt_in1k"},
    "mambaad": {
        "batch_size": 16,
        "lr": 5e-3,
        "betas": [0.9, 0.999],
        "weight_decay": 1e-4,
        "lr_decay_at": 0.8,
        "clip": 5.0,
        "loss_weight": 5.0,
        "curve": "hilbert",
        "directions": 8,
        "sigma": 4.0,
        "backbone.name": "resnet34.bt_in1k",
    },
    "patchcore": {"coreset": 0.1, "num_neighbors": 1, "image_score": "map", "probe_size": 256, "sigma": 4.0},
    "rd": {
        "batch_size": 16,
        "lr": 5e-3,
        "betas": [0.5, 0.999],
        "lr_decay_at": 0.8,
        "backbone.name": "wide_resnet50_2.racm_in1k",
    },
    "rdpp": {
        "batch_size": 16,
        "lr": 5e-3,
        "projection_lr": 1e-3,
        "betas": [0.5, 0.999],
        "lr_decay_at": 1.0,
        "clip": 5.0,
        "discard": True,
        "backbone.name": "wide_resnet50_2.racm_in1k",
    },
    "realnet": {
        "batch_size": 16,
        "lr": 1e-4,
        "betas": [0.9, 0.999],
        "lr_decay_at": [0.8],
        "image_opacity": [0.0, 0.5],
        "anomaly_probability": 0.5,
        "planes": [256, 512, 512, 256],
        "selection_batches": 64,
        "score_window": 16,
        "backbone.name": "wide_resnet50_2.racm_in1k",
    },
    "simplenet": {
        "batch_size": 32,
        "adaptor_lr": 1e-4,
        "discriminator_lr": 2e-4,
        "lr_decay_at": 1.0,
        "probe_size": 256,
    },
    "pyramidflow": {
        "batch_size": 2,
        "lr": 2e-4,
        "eps": 1e-4,
        "weight_decay": 1e-5,
        "clip": 5.0,
        "volume_norm": "cvn",
        "backbone.name": "resnet18.tv_in1k",
    },
    "uniad": {
        "batch_size": 8,
        "lr": 1e-4,
        "weight_decay": 1e-4,
        "lr_decay_at": 0.8,
        "backbone.name": "tf_efficientnet_b4.aa_in1k",
    },
    "vitad": {
        "batch_size": 8,
        "lr": 1e-4,
        "score_window": 16,
        "sigma": 4.0,
        "backbone.name": "vit_small_patch16_224.dino",
    },
}
METRICS = {"ader": "ader", "invad": "invad"}


def test_every_protocol_and_every_method_of_the_benchmark_is_tested():
    assert options("protocol") == sorted(METRICS)
    assert {name for name in options("method") if "ader" in (read_option("method", name).get("recipes") or {})} == {
        *ADER
    }


@pytest.mark.parametrize("method", ADER)
@pytest.mark.parametrize("protocol", METRICS)
def test_a_run_under_it_is_what_the_table_was_made_of(protocol, method):
    config = compose(["dataset=mvtec", f"method={method}", f"protocol={protocol}"])
    assert config.metric.name == METRICS[protocol]
    metric = config.metric
    size = 256 if method == "pyramidflow" else "input"  # of images of 1024 pixels
    assert (metric.size, metric.mask_interpolation, metric.mask_rule) == (size, "bilinear", "any")
    assert config.recipe == "ader"
    assert (config.trainer.epochs, config.trainer.precision, config.trainer.ema) == (100, "torch", None)
    seed = {"cfa": 1024, "simplenet": 0}.get(method, 42)  # their released code sets its own
    size = 1024 if method == "pyramidflow" else 256
    assert (config.image_size, config.seed, config.setting.name) == (size, seed, "multi_class")
    for key, expected in ADER[method].items():
        value = config.method.rest
        for part in key.split("."):
            value = value[part]
        assert value == expected, key


@pytest.mark.parametrize("protocol", METRICS)
def test_names_say_what_it_sets(protocol):
    """The same values, whoever gave them, are the same run; another one is never taken for it."""
    common = ["dataset=mvtec", "method=rd"]
    under = compose([*common, f"protocol={protocol}"]).composition
    by_hand = compose([*common, f"metric={METRICS[protocol]}", "recipe=ader", "trainer.precision=torch"]).composition
    assert under.values == by_hand.values
    assert run_name(under) == run_name(by_hand)
    assert run_name(under) == f"e100-s42-metric={METRICS[protocol]}-recipe=ader-trainer.precision=torch"
    assert under.choices["protocol"] == protocol
    assert run_name(compose(common).composition) == "e100-s42"


def test_what_is_typed_comes_before_it():
    common = ["dataset=mvtec", "method=simplenet", "protocol=ader"]
    config = compose([*common, "metric=exact", "recipe=official", "trainer.precision=fp32"])
    assert (config.metric.name, config.recipe, config.trainer.precision) == ("exact", "official", "fp32")
    assert compose([*common, "trainer=e300"]).trainer.epochs == 300
    assert compose([*common, "trainer=e300"]).trainer.precision == "torch"


@pytest.mark.parametrize("method", ["segad", "wrn_classifier"])
def test_methods_that_its_tables_do_not_have(method):
    with pytest.raises(UserError, match=f"recipe=ader does not exist for {method}: .*protocol=ader is for the methods"):
        compose(["dataset=mvtec", f"method={method}", "protocol=ader"])


def test_misspelt():
    with pytest.raises(UserError, match="protocol=adr does not exist: did you mean 'ader'"):
        compose(["dataset=mvtec", "method=rd", "protocol=adr"])


def test_what_was_not_seen_here_is_said_where_one_looks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["list", "protocols"]) == 0
    said = capsys.readouterr().out
    assert said.count("not yet run here") == len(METRICS)
    assert main(["list", "experiments"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("segad_")]
    assert len(lines) == len([name for name in options("experiment") if name.startswith("segad_")])
    assert all("not yet run here" in line and "published" in line and "cost" not in line for line in lines)
