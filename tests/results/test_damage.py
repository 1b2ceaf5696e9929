"""A finished run that something happened to: the same command and ``ader eval`` say it in one line, or go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ader.__main__ import main
from tests.support.running import Bench

#: Two models, so that there are parts.
WORDS = ("setting=single_class", "trainer.epochs=1", "metric.by_defect=true")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of two models."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        bench = Bench(tmp_path_factory.mktemp("damage"), monkeypatch)
        assert bench.run(*WORDS) == 0
        yield bench


def in_record(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Edits ``record.json``."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / "record.json").read_text())
        change(content)
        (folder / "record.json").write_text(json.dumps(content))

    return edit


def set_at(*path: Any) -> Callable[[Path], object]:
    """Sets the value (the last one) of a key in the record."""
    *way, key, value = path

    def change(content: Any) -> None:
        for step in way:
            content = content[step]
        content[key] = value

    return in_record(change)


def drop(*path: str) -> Callable[[Path], object]:
    """Removes a key from the record."""
    *way, key = path

    def change(content: Any) -> None:
        for step in way:
            content = content[step]
        del content[key]

    return in_record(change)


def put(name: str, content: bytes = b"") -> Callable[[Path], object]:
    """Other bytes in a file's place."""
    return lambda folder: (folder / name).write_bytes(content)


def folder_at(name: str) -> Callable[[Path], object]:
    """A folder, with something in it, in a file's or a folder's place."""

    def replace(folder: Path) -> None:
        remove(name)(folder)
        (folder / name / "inside").mkdir(parents=True)

    return replace


def file_at(name: str) -> Callable[[Path], object]:
    """A file in a folder's place."""

    def replace(folder: Path) -> None:
        remove(name)(folder)
        (folder / name).write_text("a file")

    return replace


def fifo_at(name: str) -> Callable[[Path], object]:
    """A FIFO in its place, at which whoever opens it waits for ever."""

    def replace(folder: Path) -> None:
        remove(name)(folder)
        os.mkfifo(folder / name)

    return replace


def link_at(name: str, target: str) -> Callable[[Path], object]:
    """A link in its place."""

    def replace(folder: Path) -> None:
        remove(name)(folder)
        (folder / name).symlink_to(target)

    return replace


def remove(name: str) -> Callable[[Path], object]:
    """Nothing in its place."""

    def go(folder: Path) -> None:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()

    return go


def truncated(name: str) -> Callable[[Path], object]:
    """Half of a file."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def rename(name: str, other: str) -> Callable[[Path], object]:
    """A file or folder by another name."""
    return lambda folder: (folder / name).rename(folder / other)


def swap(name: str, other: str) -> Callable[[Path], object]:
    """Two files in each other's place."""

    def go(folder: Path) -> None:
        (folder / name).rename(folder / "third")
        (folder / other).rename(folder / name)
        (folder / "third").rename(folder / other)

    return go


def unfinished(then: Callable[[Path], object]) -> Callable[[Path], object]:
    """As if the run had been killed before it wrote its tables: there is no record yet."""

    def go(folder: Path) -> None:
        (folder / "record.json").unlink()
        then(folder)

    return go


def saved(name: str, content: Any) -> Callable[[Path], object]:
    """Another object in a file of torch's."""
    return lambda folder: torch.save(content, folder / name)


def within(name: str, **values: Any) -> Callable[[Path], object]:
    """Some entries of a file of torch's are others."""
    return lambda folder: torch.save({**torch.load(folder / name, weights_only=True), **values}, folder / name)


DEEP = ("[" * 100_000).encode()
BOTTLE, CABLE = "parts/bottle", "parts/cable"
DAMAGES = {
    "record: empty": put("record.json"),
    "record: no JSON": put("record.json", b"{"),
    "record: a list": put("record.json", b"[]"),
    "record: deep": put("record.json", DEEP),
    "record: deep inside": put("record.json", b'{"schema": 3, "rows": ' + DEEP),
    "record: half": truncated("record.json"),
    "record: a folder": folder_at("record.json"),
    "record: a FIFO": fifo_at("record.json"),
    "record: a broken link": link_at("record.json", "nowhere"),
    "record: schema": set_at("schema", "3"),
    "record: no rows": drop("rows"),
    "record: no models": set_at("models", {}),
    "record: a model less": drop("models", "bottle"),
    "record: a part renamed": in_record(lambda it: it["models"].update(jar=it["models"].pop("bottle"))),
    "record: checkpoint elsewhere": set_at("models", "bottle", "checkpoint", "file", "/nowhere/checkpoint.pt"),
    "record: checkpoint of another part": set_at("models", "bottle", "checkpoint", "file", f"{CABLE}/checkpoint.pt"),
    "record: a file name with a zero": set_at("models", "bottle", "checkpoint", "file", "a\0b"),
    "record: config without metric": drop("config", "metric"),
    "record: metric size": set_at("config", "metric", "size", {"a": 1}),
    "record: no method chosen": drop("choices", "method"),
    "record: an override that is none": set_at("overrides", ["nothing"]),
    "record: data_root with a zero": set_at("data_root", "a\0b"),
    "record: data_hash": set_at("data_hash", "0" * 64),
    "record: evaluated from itself": set_at("evaluated_from", {"run": "../../..", "time": "then", "commit": None}),
    "record: an unknown row": set_at("rows", "jar", {"image_auroc": 0.5}),
    "config: empty": put("config.yaml"),
    "config: an object": put("config.yaml", b"fingerprint: !!python/object/apply:os.system ['true']"),
    "config: deep": put("config.yaml", b"fingerprint: " + b"[" * 3000),
    "config: odd keys": put("config.yaml", b"fingerprint: {1: 2, null: 3, [a]: 4, data: [1], contents: 5}"),
    "config: a FIFO": fifo_at("config.yaml"),
    "metrics: gone": remove("metrics.csv"),
    "metrics: no numbers": put("metrics.csv", b"category,image_auroc\nbottle,much\n"),
    "metrics: a FIFO": fifo_at("metrics.csv"),
    "metrics: other rows": put("metrics.csv", b"category,image_auroc\njar,0.5\n"),
    "bounds: other columns": put("bounds.csv", b"category,x\nbottle,0.5\n"),
    "counts: other columns": put("counts.csv", b"category,x\nbottle,0.5\n"),
    "log: a folder": folder_at("run.log"),
    "log: a FIFO": fifo_at("run.log"),
    "lock: a folder": folder_at(".lock"),
    "parts: a file": file_at("parts"),
    "checkpoint: gone": remove(f"{BOTTLE}/checkpoint.pt"),
    "checkpoint: half": truncated(f"{BOTTLE}/checkpoint.pt"),
    "checkpoint: a FIFO": fifo_at(f"{BOTTLE}/checkpoint.pt"),
    "checkpoint: of another part": swap(f"{BOTTLE}/checkpoint.pt", f"{CABLE}/checkpoint.pt"),
    "unfinished, parts: a file": unfinished(file_at("parts")),
    "unfinished, evaluation: empty": unfinished(put(f"{BOTTLE}/evaluation.pt")),
    "unfinished, evaluation: a list": unfinished(saved(f"{BOTTLE}/evaluation.pt", [1])),
    "unfinished, evaluation: a folder": unfinished(folder_at(f"{BOTTLE}/evaluation.pt")),
    "unfinished, evaluation: a FIFO": unfinished(fifo_at(f"{BOTTLE}/evaluation.pt")),
    "unfinished, evaluation: no counts": unfinished(within(f"{BOTTLE}/evaluation.pt", evaluator={})),
    "unfinished, evaluation: scores": unfinished(within(f"{BOTTLE}/evaluation.pt", scores={"x.png": 1.0})),
    "unfinished, evaluation: of another part": unfinished(swap(f"{BOTTLE}/evaluation.pt", f"{CABLE}/evaluation.pt")),
}


def damaged(whole: Bench, tmp_path: Path, name: str) -> Path:
    """A copy of the run with a damage."""
    run = whole.folder()
    folder = tmp_path / "results" / run.relative_to(whole.root / "results")
    shutil.copytree(run, folder)
    DAMAGES[name](folder)
    return folder


@pytest.fixture
def in_time():
    """A call that waits for ever is a failure."""

    def stop(number, frame):
        raise AssertionError("waits for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def assert_said(status: int, out: str, err: str) -> None:
    """Done, or one line and status 2."""
    assert status in (0, 2), (status, err, out)
    assert "Traceback" not in err + out
    if status:
        assert err.count("\n") == 1
        assert err.startswith("ader: error: ")
    else:
        assert err == ""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_said(whole, tmp_path, capsys, in_time, name):
    folder = damaged(whole, tmp_path, name)
    again = [*whole.words(*WORDS), f"paths.results={tmp_path / 'results'}"]
    assert_said(main(["eval", str(folder), f"paths.results={tmp_path / 'results'}"]), *capsys.readouterr())
    assert_said(main(again), *capsys.readouterr())
