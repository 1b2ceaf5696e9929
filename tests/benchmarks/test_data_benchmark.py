"""The loading benchmark at a size that takes a second: what it reports, and that a wrong cache ends it."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest

from benchmarks import data as bench_data


def test_bench_data(tmp_path, capsys, monkeypatch):
    words = ["--images", "6", "--pixels", "48", "--size", "32", "--workers", "0", "--rounds", "2"]
    assert bench_data.main([*words, "--json", str(tmp_path / "data.json")]) == 0
    report = json.loads((tmp_path / "data.json").read_text())
    assert report["images"] == 6
    assert report["bytes_per_image_to_device"] == 3 * 32 * 32
    paces = report["images_per_second"]
    assert list(paces) == ["ADer's recipe", "decoded every epoch", "filling the cache", "cached", "cached, as uint8"]
    for name, pace in paces.items():
        assert pace == pytest.approx(np.median(report["rounds"][name]))
        assert report["ratio_to_ader"][name] == pytest.approx(pace / paces["ADer's recipe"])
    calls = count()
    monkeypatch.setattr(bench_data, "normalized", lambda batch: batch.image_BCHW + next(calls))
    assert bench_data.main(words) == 1
    assert "differ" in capsys.readouterr().err
