"""What the benchmarks of several processes make of their runs, where those are made up."""

from __future__ import annotations

import argparse
import json

import pytest

from benchmarks import banks, parallel


def test_shares_of_two_processors(monkeypatch):
    """By hand: two processes that share train 150 images where one trains 100, and two apart 180."""
    per_second = {(1, 1): [(100, 1.0, 1.0)], (2, 1): [(300, 2.0, 1.5), (300, 1.0, 1.8)], (1, 2): [(90, 1.0, 1.0)]}

    def run(world, seconds, work, name, arguments, *rest):
        share = parallel.option_arguments(name, "small")["batch_size"] // arguments["batch_size"]
        return [
            dict(zip(("images", "seconds", "processor_seconds"), each, strict=True))
            for each in per_second[world, share]
        ]

    monkeypatch.setattr(parallel, "in_processes", run)
    row = parallel.measured("rd", None, None, argparse.Namespace(steps=1, repeats=2))
    assert (row["one"]["images_per_second"], row["sharing"]["images_per_second"]) == (100, 150)
    assert row["apart"]["images_per_second"] == 180
    text = parallel.markdown({"now": {"load": 3.0, "rows": {"rd": row}}})
    assert "`now`: load 3.0 on " in text
    (last,) = (each for each in text.splitlines() if each.startswith("| now"))
    cells = [cell.strip() for cell in last.split("|")[1:-1]]
    assert cells == ["now", "rd", "20.1", "100.0", "1.50", "1.80", "0.75", "0.83", "0.83"]


def test_figures_of_a_bank(monkeypatch, tmp_path, capsys):
    """The shortest run, of it the slowest process; the largest peak; a label's figures beside those of another."""
    seconds = iter([4.0, 2.0, 3.0, 5.0])

    def run(world, limit, work, *arguments):
        if work is banks.message:
            return [2e-5] * world
        first = next(seconds)
        return [
            {"seconds": first - rank, "processor_seconds": 1.0 + rank, "peak_bytes": 2**20 * (rank + 1), "bank": "a"}
            for rank in range(world)
        ]

    monkeypatch.setattr(banks, "in_processes", run)
    file = tmp_path / "banks.json"
    file.write_text(json.dumps({"runs": {"before": {"load": 1.0, "rows": []}}}))
    words = ["--patches", "1000", "--choices", "100", "--processes", "2", "--repeats", "3", "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["banks", *words])
    assert banks.main() == 0
    chosen, every, message = json.loads(file.read_text())["runs"]["now"]["rows"]
    assert chosen == {
        "patches": 1000,
        "bank": 100,
        "processes": 2,
        "seconds": 2.0,
        "processor_seconds": 2.0,
        "peak_bytes": 2**21,
        "same_bank": True,
    }
    assert (every["bank"], every["seconds"]) == (1000, 5.0)
    assert message == {"processes": 2, "message_seconds": pytest.approx(2e-5)}
    assert "before" in json.loads(file.read_text())["runs"]
    assert "at least 20 us" in capsys.readouterr().out
