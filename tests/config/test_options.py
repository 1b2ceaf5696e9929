"""Options and their bases: what ``read_option`` says is what Hydra composes, and bases are no options."""

from __future__ import annotations

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from ader.config import options as module
from ader.config.compose import compose, composition
from ader.config.options import config_folder, option_file, options, read_option
from ader.config.schema import DataConfig, RunConfig, ScoreConfig
from ader.system.errors import UserError

GROUPS = ("dataset", "method", "setting", "trainer", "metric")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes ``<group>/<name>.yaml`` into a folder that stands behind this package's own, as an installed one does."""
    monkeypatch.setattr(module, "config_folders", lambda config_dir=None: [config_folder(), tmp_path])

    def write(path: str, text: str) -> str:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return str(tmp_path)

    return write


def by_hydra(group: str, name: str, *folders: str) -> object:
    """The oracle: what Hydra composes, unresolved."""
    search = ",".join(f"file://{folder}" for folder in folders)
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        composed = hydra_compose(overrides=[f"+{group}={name}", f"hydra.searchpath=[{search}]"])
    return OmegaConf.to_container(composed[group], resolve=False)


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in options(group)])
def test_read_as_hydra_composes(group, name):
    assert read_option(group, name) == by_hydra(group, name)


ORDERS = [
    ("[visa]", {"split": "1cls", "seed": 3}),
    ("[visa, _mine]", {"split": "mine", "seed": 3}),
    ("[_mine, visa]", {"split": "1cls", "seed": 3}),
    ("[_self_, _mine]", {"split": "mine", "seed": 2}),
    ("[_mine, _self_]", {"split": "mine", "seed": 3}),
    ("[_mine]", {"split": "mine", "categories": ["c"], "about": {"masks": True, "views": 5}, "counts": None}),
]


@pytest.mark.parametrize(("bases", "expected"), ORDERS, ids=[bases for bases, _ in ORDERS])
def test_bases_of_another_package(bases, expected, write):
    write("dataset/_mine.yaml", "split: mine\nseed: 2\ncategories: [a, b]\nabout: {masks: true}\ncounts: {a: 1}\n")
    folder = write(
        "dataset/mine.yaml", f"defaults: {bases}\nseed: 3\ncategories: [c]\nabout: {{views: 5}}\ncounts: null\n"
    )
    found = read_option("dataset", "mine")
    assert {key: found[key] for key in expected} == expected
    assert found == by_hydra("dataset", "mine", folder)


def test_bases_are_no_options(write):
    write("dataset/_mine.yaml", "name: mine\n")
    assert option_file("dataset", "_visa").is_file()
    assert "visa" in options("dataset")
    assert not [name for group in GROUPS for name in options(group) if name.startswith("_")]


def test_what_is_missing_is_named(write):
    folder = write("dataset/mine.yaml", "defaults: [_vsa]\n")
    with pytest.raises(UserError, match=r"no config folder has dataset/vsa\.yaml: did you mean .*'visa'"):
        read_option("dataset", "vsa")
    with pytest.raises(UserError, match=rf"^{folder}/dataset/mine\.yaml, in its defaults: .*/_vsa\.yaml: .* '_visa'"):
        read_option("dataset", "mine")


def test_a_circle_is_named(write):
    write("dataset/_one.yaml", "defaults: [_two]\n")
    write("dataset/_two.yaml", "defaults: [_one]\n")
    folder = write("dataset/mine.yaml", "defaults: [_one]\n")
    with pytest.raises(UserError, match=r"_one\.yaml: the defaults lead in a circle, _one -> _two -> _one: remove one"):
        read_option("dataset", "mine")
    with pytest.raises(UserError, match="lead in a circle"):
        compose(["dataset=mine", "method=rd"], config_dir=folder)


@pytest.mark.parametrize("config", [RunConfig, ScoreConfig, DataConfig])
def test_a_base_cannot_be_chosen(config):
    more = ["method=rd"] if config is RunConfig else []
    with pytest.raises(UserError, match="dataset=_visa does not exist: did you mean 'visa'"):
        composition(config, ["dataset=_visa", *more])
    with pytest.raises(UserError, match=r"dataset is not given: .* choose from: aebad_s, [^_]"):
        composition(config, more)
