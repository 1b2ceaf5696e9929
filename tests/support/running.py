"""What tests of whole runs share: a toy dataset, a made-up method from a made-up package, and command lines."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ader.__main__ import main
from ader.testing.toy import write_mvtec

PLUGIN = Path(__file__).parent / "plugin"


class Bench:
    """A folder with toy data, and command lines that use it.

    Args:
        root: an empty folder.
        monkeypatch: puts the made-up package on the path and the cache into ``root``.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.data = write_mvtec(root / "toy", train=5, good=2, bad=2, size=40)
        monkeypatch.syspath_prepend(str(PLUGIN))
        monkeypatch.setenv("ADER_CACHE", str(root / "cache"))

    #: Whether runs keep pictures as they do unasked, which takes a tenth of a second of each.
    with_gallery = False

    def words(self, *words: str, results: str = "results", method: str = "made_up") -> list[str]:
        """A command line; later words win."""
        own = {"rd": ["method.backbone.name=resnet18", "method.backbone.pretrained=false", "method.batch_size=4"]}
        return [
            f"method={method}",
            "dataset=folder",
            f"dataset.root={self.data}",
            f"paths.results={self.root / results}",
            *("image_size=32", "trainer.epochs=2", "trainer.workers=0", "trainer.device=cpu"),
            *([] if self.with_gallery else ["gallery=off"]),
            *own.get(method, own["rd"][:2] if method == "patchcore" else []),
            *words,
        ]

    def run(self, *words: str, results: str = "results", method: str = "made_up") -> int:
        """Runs in this process; returns the exit status."""
        return main(self.words(*words, results=results, method=method))

    def folder(self, results: str = "results") -> Path:
        """The only run's folder."""
        (record,) = (self.root / results).rglob("config.yaml")
        return record.parent

    def hook(self, place: str, number: int, action: Callable[[], Any]) -> None:
        """Has the made-up method do something when it reaches a place for the ``number``-th time."""
        seen = []

        def reached(name: str) -> None:
            if name == place:
                seen.append(name)
                if len(seen) == number:
                    action()

        import made_up

        self.monkeypatch.setattr(made_up, "hook", reached)

    def unhook(self) -> None:
        """Undoes ``hook``."""
        import made_up

        self.monkeypatch.setattr(made_up, "hook", lambda name: None)


def terminate() -> None:
    """What ``kill PID`` does."""
    os.kill(os.getpid(), signal.SIGTERM)


def free_port() -> str:
    """A TCP port that no process listens on, for a group of processes to meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def assert_same_result(one: Path, other: Path) -> None:
    """Equal weights, bit for bit, and equal tables."""
    for file in ("metrics.csv", "bounds.csv", "counts.csv", "pixels.npz"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    checkpoints = [sorted(folder.rglob("checkpoint.pt")) for folder in (one, other)]
    assert len(checkpoints[0]) == len(checkpoints[1]) > 0
    for pair in zip(*checkpoints, strict=True):
        left, right = (torch.load(path, weights_only=True) for path in pair)
        assert left["progress"]["finished"]
        assert right["progress"]["finished"]
        assert left["progress"]["images"] == right["progress"]["images"]
        assert left["method"].keys() == right["method"].keys()
        for name, value in left["method"].items():
            assert torch.equal(value, right["method"][name]), name
