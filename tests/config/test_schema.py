"""The schema: every key says what it is, and what follows from that."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from ader.config import keys
from ader.config.compose import changed, compose, compose_as, composition, of
from ader.config.keys import MACHINE, RECIPE, Key, all_changeable, changeable, find, group
from ader.config.options import config_folder
from ader.config.schema import DataConfig, RunConfig, ScoreConfig, SweepConfig
from ader.config.schema import keys as documented
from ader.results.identity import recipe, run_name
from ader.system.errors import UserError

WORDS = ["dataset=demo", "method=rd"]


@group
@dataclass(frozen=True)
class MachineryOptions:
    """A group that there may be one day."""

    name: Annotated[str, Key(MACHINE, "its name")]
    slots: Annotated[int, Key(MACHINE, "runs at a time")]


@group
@dataclass(frozen=True)
class WiderConfig(RunConfig):
    """A run's configuration with one group more."""

    ROOT: ClassVar[str] = "run"

    machinery: MachineryOptions


@pytest.fixture
def with_machinery(tmp_path, monkeypatch):
    """The configs of this package with a further group in ``run.yaml``."""
    folder = tmp_path / "configs"
    shutil.copytree(config_folder(), folder)
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(
        text.replace("  - metric: histogram\n", "  - metric: histogram\n  - machinery: local\n")
    )
    (folder / "machinery").mkdir()
    (folder / "machinery" / "local.yaml").write_text("name: local\nslots: 2\n")
    monkeypatch.setattr("ader.config.compose.config_folder", lambda: folder)


def test_a_new_group_touches_no_fingerprint(with_machinery):
    plain = of(RunConfig, _without(composition(RunConfig, WORDS)))
    for words in ([], ["machinery.slots=4"]):
        config = compose_as(WiderConfig, [*WORDS, *words])
        assert config.machinery.slots == (4 if words else 2)
        assert recipe(config.values, WiderConfig) == recipe(plain.values)
        assert run_name(config.composition, WiderConfig) == run_name(plain.composition) == "e100-s42"


def _without(composed):
    values, defaults = (
        {name: value for name, value in plain.items() if name != "machinery"}
        for plain in (composed.values, composed.defaults)
    )
    return type(composed)(values, defaults, composed.choices)


def test_an_unmarked_key_fails_at_import():
    with pytest.raises(TypeError, match=r"Bad\.slots has no mark"):

        @group
        @dataclass(frozen=True)
        class Bad:
            name: Annotated[str, Key(MACHINE, "its name")]
            slots: int


@pytest.mark.parametrize("config", [RunConfig, ScoreConfig, DataConfig, SweepConfig])
def test_the_schema_and_the_yaml_agree(config):
    """Every key of the schema has a value in the files, except a group's optional ones; no other key is in them."""
    words = {RunConfig: WORDS, SweepConfig: []}.get(config, ["dataset=demo"])
    values = composition(config, words).values
    assert set(values) == set(keys.hints_of(config))
    for name in ("paths", "trainer", "metric"):
        if name in values:
            assert set(values[name]) == set(keys.marks(keys.hints_of(config)[name]))


ROLES = {
    "seed": "recipe",
    "image_size": "recipe",
    "recipe": "recipe",
    "trainer.epochs": "recipe",
    "trainer.max_steps": "recipe",
    "trainer.precision": "recipe",
    "trainer.device": "machine",
    "trainer.workers": "machine",
    "trainer.test_batch_size": "machine",
    "trainer.cache_features": "machine",
    "trainer.checkpoint_minutes": "machine",
    "metric.name": "recipe",
    "metric.size": "recipe",
    "metric.by_defect": "machine",
    "method.lr": "recipe",
    "method.backbone.name": "recipe",
    "setting.k": "recipe",
    "dataset.name": "recipe",
    "dataset.categories": "recipe",
    "dataset.root": "machine",
    "dataset.cache": "machine",
    "dataset.counts.train.good": "statement",
    "dataset.label": "statement",
    "paths.data": "machine",
    "run": "machine",
    "save_maps": "machine",
    "gallery": "machine",
    "logger.csv": "machine",
    "logger.wandb.project": "machine",
    "logger.mlflow.uri": "machine",
    "force": "machine",
}


@pytest.mark.parametrize(("key", "role"), ROLES.items())
def test_roles(key, role):
    """What decides a result has decided it since the first version: names of folders depend on it."""
    mark = find(RunConfig, key)
    assert mark is not None
    assert mark.role.value == role


def test_no_mark_for_what_no_field_takes():
    assert find(RunConfig, "machinery.slots") is None
    assert find(RunConfig, "trainer.nothing") is None


@pytest.mark.parametrize(
    "key", ["metric", "metric.size", "paths", "paths.data", "trainer.device", "dataset.root", "run"]
)
def test_may_change_at_evaluation(key):
    assert changeable(RunConfig, key)


@pytest.mark.parametrize(
    "key",
    [
        "trainer",
        "trainer.epochs",
        "logger",
        "logger.wandb.mode",
        "method",
        "method.lr",
        "dataset",
        "seed",
        "nothing",
        "",
    ],
)
def test_may_not_change_at_evaluation(key):
    assert not changeable(RunConfig, key)


def test_what_may_change_is_listed_once():
    listed = all_changeable(RunConfig)
    assert len(listed) == len(set(listed))
    assert {"metric", "paths", "save_maps", "gallery", "run", "force", "trainer.device", "dataset.root"} <= set(listed)
    assert not {"metric.size", "paths.data", "trainer", "dataset", "method", "seed"} & set(listed)


def test_every_key_is_documented():
    shown = {key.name: key for key in documented()}
    assert {"trainer.epochs", "method.*", "setting.*", "dataset.*", "paths.data", "seed", "metric.name"} <= set(shown)
    assert all(key.doc and not key.doc.endswith(".") for key in shown.values())
    types = {
        "trainer.epochs": "integer from 1 to 1000000",
        "metric.map_interpolation": "bilinear | nearest",
        "seed": "integer from 0 to 4294967295",
    }
    types |= {
        "trainer.max_steps": "integer from 1 to 1000000000 or null",
        "paths.data": "folder",
        "force": "true | false",
    }
    types |= {"image_size": "integer from 32 to 4096", "method.*": "", "dataset.about": "mapping or null"}
    assert {name: shown[name].type for name in types} == types


def test_typed_values():
    config = compose([*WORDS, "dataset.categories=[bolt]", "method.lr=0.5", "run=12"])
    assert (config.run, config.trainer.epochs, config.method.name) == ("12", 100, "rd")
    assert config.method.rest["lr"] == 0.5
    assert config.dataset.reader_arguments()["categories"] == ["bolt"]
    assert not {"about", "label", "cache", "check_counts", "name", "root"} & set(config.dataset.reader_arguments())
    assert config.paths.cache == Path(config.values["paths"]["cache"]).expanduser()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=-1", "seed=-1 does not fit"),
        ("seed=a", "seed='a' does not fit"),
        ("trainer.epochs=0", "trainer.epochs=0 does not fit"),
        ("trainer.precision=fp8", "trainer.precision='fp8' does not fit"),
        ("metric.size=large", "metric.size='large' does not fit"),
        ("dataset.cache=maybe", "dataset.cache='maybe' does not fit"),
        ("paths.results=null", "paths.results=null does not fit: .*a folder is text"),
        ("+nothing=1", "there is no key nothing: choose from"),
        ("+trainer.epoch=1", "there is no key trainer.epoch: did you mean 'epochs'"),
        ("~trainer.device", "trainer.device has no value: give trainer.device=..."),
        ("~dataset.name", "dataset.name has no value"),
    ],
)
def test_wrong_values_are_one_line(word, message):
    with pytest.raises(UserError, match=message) as error:
        compose([*WORDS, word])
    assert "\n" not in str(error.value)


def test_a_group_that_is_no_group():
    composed = composition(RunConfig, WORDS)
    values = {**composed.values, "trainer": 5}
    with pytest.raises(UserError, match="trainer=5 is not a group of keys"):
        of(RunConfig, type(composed)(values, composed.defaults, composed.choices))


def test_changed_values_are_no_overrides():
    before = compose(WORDS)
    after = changed(before, {"paths.results": "elsewhere", "dataset.root": "there"})
    assert (after.paths.results, after.dataset.root) == (Path("elsewhere"), "there")
    assert after.composition.overrides == before.composition.overrides
    assert before.paths.results != after.paths.results
    assert recipe(after.values) == recipe(before.values)
    assert RECIPE is not MACHINE
