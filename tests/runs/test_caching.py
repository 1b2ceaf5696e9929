"""Runs that keep decoded images: when, for whom, and what an interruption leaves."""

from __future__ import annotations

import pytest

from ader.data import caching, image, masks
from ader.data.image_cache import total_bytes
from tests.support.running import Bench, assert_same_result, terminate


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Images that are decoded from now on."""
    seen, original = [], image.decode
    for module in (image, masks):
        monkeypatch.setattr(module, "decode", lambda path, *rest: seen.append(path.name) or original(path, *rest))
    return seen


def test_the_cache_changes_no_result(bench, capsys):
    assert bench.run("dataset.cache=off", results="off") == 0
    assert "decode images" not in capsys.readouterr().out
    assert total_bytes(bench.root / "cache") == 0
    assert bench.run("dataset.cache=on", results="on") == 0
    assert "decode images: 18/18" in capsys.readouterr().out
    assert total_bytes(bench.root / "cache") >= 18 * 3 * 32 * 32
    assert_same_result(bench.folder("off"), bench.folder("on"))


def test_a_second_run_decodes_masks_only(bench, decoded):
    assert bench.run("dataset.cache=on") == 0
    assert len([name for name in decoded if "mask" not in name]) == 18
    decoded.clear()
    assert bench.run("dataset.cache=on", "setting=few_shot", "setting.k=2", results="other") == 0
    assert not [name for name in decoded if "mask" not in name]


def test_auto_is_for_many_images(bench, capsys):
    assert bench.run("dataset.cache_above=19", results="few") == 0
    assert "decode images" not in capsys.readouterr().out
    assert bench.run("dataset.cache_above=18", results="many") == 0
    assert "decode images" in capsys.readouterr().out
    assert_same_result(bench.folder("few"), bench.folder("many"))


def test_auto_leaves_the_disk_some_room(bench, capsys, monkeypatch):
    monkeypatch.setattr(caching, "free_bytes", lambda folder: caching.SPARE + 18 * 3 * 32 * 32)
    assert bench.run("dataset.cache_above=1") == 0
    said = capsys.readouterr().out
    assert "no cache 0.0 GiB of decoded images do not fit into" in said
    assert "decode images" not in said


def test_an_interrupted_cache_is_gone_on_with(bench, capsys, monkeypatch, decoded):
    original = caching.cache_images
    monkeypatch.setattr(
        caching,
        "cache_images",
        lambda *values, progress, **more: original(
            *values, progress=lambda done, total: (progress(done, total), done == 9 and terminate()), **more
        ),
    )
    assert bench.run("dataset.cache=on") == 1
    assert "stopped by SIGTERM while checking files" in capsys.readouterr().err
    monkeypatch.setattr(caching, "cache_images", original)
    assert len(decoded) >= 9
    decoded.clear()
    assert bench.run("dataset.cache=on") == 0
    assert len([name for name in decoded if "mask" not in name]) == 18 - 9  # threads may have gone ahead for nothing


def test_bad_files_are_named_with_the_cache_on(bench, capsys):
    file = bench.data / "bottle/train/good/000.png"
    file.write_bytes(file.read_bytes()[:100])
    assert bench.run("dataset.cache=on") == 2
    message = capsys.readouterr().err
    assert "1 bad file: bottle/train/good/000.png is truncated" in message


def test_wrong_values(bench, capsys):
    assert bench.run("dataset.cache=maybe") == 2
    assert "dataset.cache='maybe' does not fit" in capsys.readouterr().err


def test_data_clear(bench, capsys):
    from ader.__main__ import main

    assert bench.run("dataset.cache=on") == 0
    assert main(["data", "clear", f"paths.cache={bench.root / 'cache'}"]) == 0
    assert "decoded images deleted" in capsys.readouterr().out
    assert total_bytes(bench.root / "cache") == 0
    assert main(["data", "clear", "everything"]) == 2
