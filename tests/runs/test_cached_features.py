"""Whole runs and ``trainer.cache_features``: it decides nothing, and runs of versions that did not know it go on."""

from __future__ import annotations

import json

import pytest
import yaml

from ader.__main__ import main
from tests.support.running import Bench, assert_same_result, terminate


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def make_earlier(folder):
    """Makes a run one of a version without ``trainer.cache_features``."""
    for name, read, write in (("config.yaml", yaml.safe_load, yaml.safe_dump), ("record.json", json.loads, json.dumps)):
        file = folder / name
        if file.is_file():
            values = read(file.read_text(encoding="utf-8"))
            values.get("config", values)["trainer"].pop("cache_features", None)
            if "overrides" in values:
                values["overrides"] = [word for word in values["overrides"] if "cache_features" not in word]
            assert "cache_features" not in str(values)  # nothing else of a run knows it
            file.write_text(write(values), encoding="utf-8")


def test_runs_of_earlier_versions_go_on(bench, capsys):
    assert bench.run(results="whole") == 0
    bench.hook("second", 3, terminate)
    assert bench.run() == 1
    bench.unhook()
    make_earlier(bench.folder())
    capsys.readouterr()
    assert bench.run("trainer.cache_features=on") == 0
    assert "resuming from" in capsys.readouterr().out
    assert_same_result(bench.folder("whole"), bench.folder())
    make_earlier(bench.folder())
    assert bench.run("trainer.cache_features=off") == 0
    assert "This result exists already" in capsys.readouterr().out
    assert main(["eval", str(bench.folder()), "metric=exact"]) == 0
