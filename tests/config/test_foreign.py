"""``--config-dir``: a file that is wrong is named, with its line; none is executed, expanded or waited for."""

from __future__ import annotations

import os
import time

import pytest

from ader.config.compose import compose
from ader.config.foreign import vetted
from ader.config.options import config_folder, options
from ader.system.errors import UserError

LAUGH = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)

BAD = {
    "syntax": ("name: [rd\nlr: 1\n", r":2: not valid YAML"),
    "tab": ("name: rd\n\tlr: 1\n", r":2: not valid YAML"),
    "twice": ("name: rd\nlr: 1\nlr: 2\n", r":3: the key 'lr' stands there twice"),
    "latin": ("name: rd\n# Prüfung\n".encode("latin-1"), r":2: it is not UTF-8"),
    "utf16": ("name: rd\n".encode("utf-16"), r":1: it is not UTF-8"),
    "python": ("name: !!python/object/apply:os.mkdir [executed]\n", r":1: the tag \S*os.mkdir is not allowed"),
    "tag": ("name: !mine rd\n", r":1: the tag !mine is not allowed"),
    "circle": ("defaults:\n  - mine\nname: rd\n", r"the defaults lead in a circle, mine -> mine"),
    "list": ("- a\n- b\n", r":1: a file of options is key: value"),
    "text": ("hello\n", r":1: a file of options is key: value"),
    "laugh": (f"name: rd\n{LAUGH}", r":\d+: with its aliases written out it has more than 100,000 values"),
    "self": ("a: &a\n  b: *a\n", r":1: an alias stands inside of what it names"),
    "nul": ("name: rd\0\n", r"not valid YAML"),
    "deep": (f"a: {'[' * 3000}{']' * 3000}\n", r"not valid YAML|nested"),
    "deepish": (f"a: {'[' * 60}{']' * 60}\n", r"nested more than 50 deep"),
    "large": (f"a: {'x' * (1 << 20)}\n", r"a file of options has at most"),
    "defaults": ("defaults: 5\nname: rd\n", r"defaults is a list of names"),
    "defaults in a group": ("defaults: [{a: {b: c}}]\nname: rd\n", r"defaults is a list of names"),
    "defaults in defaults": ("defaults: [[a]]\nname: rd\n", r"defaults is a list of names"),
    "number as key": ("010: 2\n", r":1: a key that is no plain text"),
    "documents": ("name: rd\n---\nname: b\n", r":2: not valid YAML"),
    "missing base": ("defaults: [nothing]\nname: rd\n", r"Could not load 'method/nothing'"),
    "no name": ("lr: 3\n", r"method.name has no value"),
    "recipes": ("name: rd\nrecipes: 5\n", r"is not a group of recipes"),
    "interpolation": ("name: ${\n", r"no viable alternative"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_named(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, message = BAD[case]
    file = tmp_path / "method" / "mine.yaml"
    file.parent.mkdir()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.monotonic()
    with pytest.raises(UserError, match=message) as error:
        compose(["dataset=demo", "method=mine", *(["recipe=small"] if case == "recipes" else [])], str(tmp_path))
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 20
    assert not (tmp_path / "executed").exists()
    if case not in ("missing base", "no name", "recipes", "interpolation"):  # what only composing shows
        assert "mine.yaml" in str(error.value)


def _fifo(file):
    os.mkfifo(file)


def _folder(file):
    file.mkdir()


def _dangling(file):
    file.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_fifo, _folder, _dangling])
def test_what_is_no_file(tmp_path, make):
    (tmp_path / "method").mkdir()
    make(tmp_path / "method" / "x.yaml")
    with pytest.raises(UserError, match=r"x\.yaml (is no file|cannot be read)"):
        vetted(str(tmp_path))


@pytest.mark.parametrize("name", ["missing", "file.yaml", "~nobody_of_this_name/x", "a" * 5000, "nul\0"])
def test_what_is_no_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.yaml").write_text("a: 1\n")
    with pytest.raises(UserError, match="no such folder"):
        vetted(name)


def test_right_ones_pass(tmp_path):
    (tmp_path / "method").mkdir()
    file = tmp_path / "method" / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: rd\nlr: &lr 0.5\nsigma: *lr\nbetas: [0.5, 0.9]\n")
    config = compose(["dataset=demo", "method=mine"], str(tmp_path))
    assert (config.method.rest["lr"], config.method.rest["sigma"]) == (0.5, 0.5)
    assert vetted(str(config_folder())) == config_folder().resolve()
    assert "mine" in options("method", tmp_path)
    assert "mine" not in options("method")


def test_a_dataset_that_states_little(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("name: folder\nroot: /somewhere\n")
    words = ["dataset=mine", "method=rd", "dataset.check_counts=false", "dataset.categories=[1.10]"]
    dataset = compose(words, str(tmp_path)).dataset
    assert (dataset.check_counts, dataset.categories, dataset.train_on) == (False, ["1.10"], ["train"])
