"""Every config of a dataset, on a small fixture of the real layout (``layouts/``), through the common checks."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ader.config.keys import hints_of
from ader.config.options import options, read_option
from ader.config.schema import DatasetOptions
from ader.config.validate import validated
from ader.data import Index, load_index
from ader.data.audit import LEFT_OUT, audit
from ader.data.counts import SHORT, TOTAL, columns
from ader.data.load import find_reader
from ader.settings import apply
from ader.system.errors import UserError
from ader.testing.dataset_checks import check_dataset, check_no_leak

#: Users' own data have no published layout to imitate; the demo set is its own fixture.
OWN = {"folder", "meta", "table"}
PUBLISHED = sorted(set(options("dataset")) - OWN - {"demo"})

#: Keys of a config that are not the reader's.
COMMON = set(hints_of(DatasetOptions)) - {"rest", "label", "cache", "cache_above", "bits"} | {"categories", "train_on"}
ABOUT = {"title", "paper", "license", "homepage", "get", "archives", "categories", "masks", "views", "training"}
SPLITS = {"train_good", "train_bad", "validation_good", "test_good", "test_bad"}


def own_options(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in COMMON}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes each reader's fixture once."""

    @cache
    def write(reader: str) -> Path:
        module = importlib.import_module(f"tests.layouts.{reader}")
        return module.write(tmp_path_factory.mktemp(reader))

    return write


def load(config: dict[str, Any], root: Path) -> Index:
    joined = {"train_on": config["train_on"]} if "train_on" in config else {}
    return load_index(config["name"], root, config["categories"], **joined, **own_options(config))


@pytest.mark.parametrize("option", PUBLISHED)
def test_fixtures_pass_the_common_checks(option, written):
    config = read_option("dataset", option)
    root = written(config["name"])
    check_dataset(lambda: load(config, root), labeled_train=config["about"]["training"] == "labeled")


@pytest.mark.parametrize("option", PUBLISHED)
def test_facts_hold_for_the_fixtures(option, written):
    config = read_option("dataset", option)
    about, index = config["about"], load(config, written(config["name"]))
    assert index.name == config["name"]
    assert index.has_masks == about["masks"]
    assert any(sample.masks for sample in index) == about["masks"]
    assert any(sample.group is not None for sample in index) == (about["views"] > 1)
    labeled = any(sample.label for sample in index if sample.split != "test")
    noisy = any(sample.defect != "good" and not sample.label for sample in index if sample.split != "test")
    assert about["training"] == ("labeled" if labeled else "noisy" if noisy else "normal")
    if config["counts"] and TOTAL not in config["counts"]:
        assert set(index.categories) <= set(config["counts"])
    if about["categories"] is not None:
        assert list(index.categories) == [name for name in about["categories"] if name in index.categories]


@pytest.mark.parametrize("option", PUBLISHED)
def test_releases_as_they_are_give_no_alarm(option, written):
    """What a reader leaves out on purpose is declared, so that `ader data check` names strays and nothing else."""
    config = read_option("dataset", option)
    index = load(config, written(config["name"]))
    found = audit(index, None, whole=config["categories"] is None, image_size=32, workers=1, step=lambda: None)
    assert [finding for finding in found.findings if finding.verdict == "wrong"] == []
    assert found.found(LEFT_OUT) == []


@pytest.mark.parametrize("option", sorted(options("dataset")))
def test_configs_fit_their_readers(option):
    config = read_option("dataset", option)
    assert set(config) >= COMMON - {"train_on"}
    reader = find_reader(config["name"])
    parameters = inspect.signature(reader).parameters
    own = own_options(config)
    assert set(own) == set(parameters) - {"root", "categories"}
    validated(reader, {"root": Path(), **own}, "dataset")
    if option == config["name"]:
        assert own == {name: parameters[name].default for name in own}
    assert set(config["about"]) - {"images"} == ABOUT


@pytest.mark.parametrize("option", PUBLISHED)
def test_what_is_published_is_stated(option):
    config = read_option("dataset", option)
    about = config["about"]
    assert about["title"]
    assert about["homepage"]
    assert about["get"]
    assert about["training"] in ("normal", "labeled", "noisy")
    for archive in about["archives"]:
        assert {"file"} <= set(archive) <= {"file", "url", "sha256", "md5", "bytes", "holds"}
        assert "url" not in archive or {"sha256", "md5"} & set(archive), "a download that cannot be checked"
    for name, row in (config["counts"] or {}).items():
        assert name == TOTAL or about["categories"] is None or name in about["categories"]
        stated = dict(columns(row, {}))
        assert set(stated) <= SPLITS | set(SHORT)
        assert all(isinstance(number, int) for numbers in stated.values() for number in numbers)


@pytest.mark.parametrize("option", PUBLISHED)
@pytest.mark.parametrize("setting", ["multi_class", "supervised", "noisy"])
def test_no_setting_trains_on_a_test_image(option, setting, written):
    """On the files themselves: no test file is a training file, under whatever name."""
    config = read_option("dataset", option)
    values = {**read_option("setting", setting), "models": "all"}
    index = load(config, written(config["name"]))
    own = {key: value for key, value in values.items() if key != "name" and (setting, key) != ("multi_class", "models")}
    if setting == "noisy":
        own["ratio"] = 0.6  # of few images
    try:
        after, parts = apply(index, 1, values["name"], own)
    except UserError as error:  # a layout in which a category has a single defect
        if setting != "noisy" or not str(error).startswith("setting.ratio=0.6"):
            raise
        return
    check_no_leak(after)
    assert {s.image for s in after.split("test")} <= {s.image for s in index.split("test")}
    assert [part.index for part in parts] == [after]
