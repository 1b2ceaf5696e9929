"""A finished result is shown again without importing torch, and only where it is what was asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ader.config.compose import compose
from ader.results.outputs import Outputs
from ader.runs.finished import show_finished
from tests.support.running import Bench

WITHOUT_TORCH = """
import sys
from ader.__main__ import main
status = main(sys.argv[1:])
assert not {"torch", "timm", "numba"} & set(sys.modules), "imported"
sys.exit(status)
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def shown(bench, *words):
    return show_finished(compose(bench.words(*words)))


def test_what_was_made_is_shown_without_torch(bench, capsys):
    words = bench.words(method="patchcore")
    assert bench.run(method="patchcore") == 0
    first = capsys.readouterr().out
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    again = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=os.getcwd())
    assert again.returncode == 0, again.stderr
    notice, _, rest = again.stdout.partition("\n\n")
    assert notice.startswith("This result exists already")
    table = first[first.index("toy") :]
    assert rest.strip() in table
    assert "AUROC" in rest
    assert "This result exists already" in (bench.folder() / "run.log").read_text()


def test_only_what_is_there_and_asked_for(bench, capsys, monkeypatch):
    assert not shown(bench)
    assert not list((bench.root / "results").glob("*")) if (bench.root / "results").exists() else True
    assert bench.run() == 0
    capsys.readouterr()
    assert shown(bench)
    assert capsys.readouterr().out
    for words in (["force=true"], ["seed=1"], ["save_maps=true"], ["metric.by_defect=true"]):
        assert not shown(bench, *words), words
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not shown(bench)
    monkeypatch.delenv("WORLD_SIZE")
    file = next(bench.data.rglob("ground_truth/*/000*"))
    file.write_bytes(file.read_bytes() + b"\0")
    assert not shown(bench)
    assert "exists" not in capsys.readouterr().out  # that the changed file is read may be said


def test_files_that_only_the_method_knows_are_left_to_the_run(bench):
    """Textures or weights may have changed: what they are takes the method's code to tell."""
    assert bench.run() == 0
    owner = bench.folder() / "config.yaml"
    assert shown(bench)
    text = owner.read_text()
    assert "contents: {}" in text
    owner.write_text(text.replace("contents: {}", "contents: {weights: abc}"))
    assert not shown(bench)


def test_outputs_add_up():
    assert Outputs(maps=True) | Outputs(by_defect=True) == Outputs(True, True)
    assert Outputs.of(None) == Outputs()
    assert Outputs() in Outputs(maps=True) in Outputs(True, True)
    assert Outputs(by_defect=True) not in Outputs(maps=True)


def test_a_new_run_reads_its_dataset_once(bench, monkeypatch):
    """What is looked up beforehand is only whether a result of that name is there."""
    read = []
    monkeypatch.setattr("ader.runs.finished.read_index", lambda *given: read.append(given))
    assert not shown(bench)
    assert bench.run() == 0
    assert not shown(bench, "seed=1")
    assert not read
