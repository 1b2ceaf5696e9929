"""Keys that are text: names and paths mean what was typed, whatever YAML or Hydra would make of them."""

from __future__ import annotations

import pytest

from ader.config import text
from ader.config.compose import compose
from ader.config.overrides import MOST, read
from ader.system.errors import UserError

WORDS = ["dataset=demo", "method=rd"]


@pytest.mark.parametrize("name", ["2024_05_01", "007", "1e3", "1.10", "true", "off", "12:30:00", "0o17", "a,b"])
def test_a_name_stays_as_typed(name):
    config = compose([*WORDS, f"run={name}", f"dataset.categories=['{name}',bolt]", f"dataset.label={name}"])
    assert (config.run, config.dataset.label) == (name, name)
    assert config.dataset.categories == [name, "bolt"]
    assert config.values["run"] == name  # the record's


def test_lists_of_names():
    typed = "dataset.categories=[1.10, 2024_05_01,on,'a,b',\"c]\",null]"
    assert compose([*WORDS, typed]).dataset.categories == ["1.10", "2024_05_01", "on", "a,b", "c]", "null"]
    assert compose([*WORDS, "dataset.categories=1.10"]).dataset.categories == ["1.10"]
    assert compose([*WORDS, "dataset.categories=null"]).dataset.categories is None
    for wrong in ("[]", "[[a]]", "a,b", "[a,]b]", "[,a]"):
        with pytest.raises(UserError, match=r"dataset\.categories=") as error:
            compose([*WORDS, f"dataset.categories={wrong}"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a,b/x", "a b", "x=1", "[a]", "{a}", 'it"s', "a'b", "$a#ü", "5", "C:\\x\\"])
def test_a_path_stays_as_typed(name):
    config = compose([*WORDS, f"dataset.root={name}", f"paths.results=/r/{name}", f"method.backbone.weights={name}"])
    assert config.dataset.root == name
    assert str(config.paths.results) == f"/r/{name}"
    assert config.method.rest["backbone"]["weights"] == name


def test_arguments_that_are_text_are_known_without_an_import():
    assert text.of_arguments("methods", "draem")["textures"] is text.Text.ONE
    assert text.of_arguments("methods", "segad")["detectors"] is text.Text.LIST
    assert text.of_arguments("methods", "segad")["runs"] is text.Text.EACH
    assert text.of_arguments("methods", "rd")["lr"] is None
    assert text.of_arguments("methods", "no_such_method") == {}
    config = compose(["dataset=demo", "method=draem", "method.textures=2024,05"])
    assert config.method.rest["textures"] == "2024,05"


def test_what_keeps_its_meaning():
    config = compose([*WORDS, "run='null'", "dataset.root=${paths.data}/a,b", "paths.data=1.10", "dataset.label=null"])
    assert (config.run, config.dataset.root, config.dataset.label) == ("null", "1.10/a,b", None)


@pytest.mark.parametrize("value", ["1.10", "2024_05_01", "010", "on", "12:30:00"])
def test_yaml_reads_numbers_which_are_no_names(tmp_path, value):
    """YAML 1.1 has octal and base-60 numbers: no one can tell what was written, so it is refused."""
    (tmp_path / "experiment").mkdir()
    lines = "# @package _global_\ndefaults:\n  - override /dataset: demo\n  - override /method: rd\n"
    file = tmp_path / "experiment" / "mine.yaml"
    for key in ("run: {}", "dataset:\n  categories: [bolt, {}]"):
        file.write_text(lines + key.format(value) + "\n")
        with pytest.raises(UserError, match="stands in quotation marks"):
            compose(["experiment=mine"], str(tmp_path))
        file.write_text(lines + key.format(f"'{value}'") + "\n")
        config = compose(["experiment=mine"], str(tmp_path))
        assert value in (config.run, *(config.dataset.categories or ()))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dataset.root=null", "dataset.root=null does not fit"),
        ("dataset.root=", "dataset.root='' does not fit: it is empty"),
        ("dataset.root=~nobody_of_this_name/x", "there is no user ~nobody_of_this_name"),
        ("paths.cache=null", "paths.cache=null does not fit"),
        (f"paths.results={'a/' * 3000}", "a path has at most 4095 bytes"),
        (f"run={'a' * 300}", "at most 200 characters"),
        ("run=a\x1bb", "no control characters"),
        ("run=\udcff", "run=.* does not fit"),
        ("run=", "does not fit"),
        ("run=${nothing}", "run: the value does not resolve"),
        ("seed=${nothing}", "seed: the value does not resolve"),
        ("seed=${seed}", "seed: the value does not resolve"),
        ("trainer.epochs=${nothing:1}", "epochs: the value does not resolve"),
        ("run=${run}", "Recursive interpolation"),
        ("run=${", "correct what stands in"),
        ("method.lr=${foo:1}", "Unsupported interpolation type foo"),
        ("seed=1,2", "names several values"),
        ("seed=true", "seed=True does not fit: a number is wanted"),
        (f"seed={'[' * 60}", "nested more than"),
        (f"seed={'1' * 5000}", "too many digits"),
        (f"run={'a' * 30000}", "30004 characters"),
        ("=5", "'' is no key"),
        ("a b=5", "'a b' is no key"),
        ("hydra.run.dir=/tmp", "paths.results=DIR is where runs write"),
        ("hydra/launcher=basic", "Hydra only composes here"),
        ("+experiment=demo", r"leave the \+ out"),
        ("experiment=[demo,demo_rd]", "experiment takes the name of one option"),
        ("dataset=[demo,mvtec]", "dataset takes the name of one option"),
        ("method=rd,patchcore", "method takes the name of one option"),
        ("method=null", "method=null does not exist"),
        ("~setting", "the group setting cannot be left out"),
        ("method.backbone=resnet18", r"did you mean method\.backbone\.name=resnet18\?"),
        ("epochs=10", r"did you mean trainer\.epochs=10 or method\.epochs=10\?"),
        ("lr=0.1", r"did you mean method\.lr=0\.1\?"),
        ("batch_size=4", r"did you mean method\.batch_size=4\?"),
        ("epoch=10", r"did you mean 'trainer\.epochs'"),
        ("device=cpu", r"did you mean trainer\.device=cpu\?"),
        ("+method.lr=1", "has a value already: leave the \\+ out"),
        ("dataset.counts=5", "dataset.counts=5 does not fit"),
        ("dataset.counts={a:[1,2]}", "does not fit"),
    ],
)
def test_refusals_are_one_line(word, message):
    with pytest.raises(UserError, match=message) as error:
        compose([*WORDS, word])
    assert "\n" not in str(error.value)


def test_what_is_taken():
    for words in (["experiment=null"], ["+seed=3"], ["++seed=3"], ["seed=2", "seed=3"], ["dataset=demo"]):
        assert compose([*WORDS, *words]).seed == (3 if any("seed" in word for word in words) else 42)
    assert not compose([*WORDS, "~method.lr"]).method.rest.keys() & {"lr"}


def test_too_many_words():
    with pytest.raises(UserError, match="10000 overrides are more than"):
        compose(["seed=1"] * 10_000)
    assert len(read(["seed=1"] * MOST)) == MOST
