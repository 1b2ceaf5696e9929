"""Several processes give what one gives; an error in one ends all, with one line."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from ader.methods._base import Batch, Method, TrainStage
from ader.metrics import Evaluator
from ader.results.record import read_table
from ader.system import dist
from ader.testing.processes import in_processes
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer
from tests.support.commands import run_together
from tests.support.running import PLUGIN, Bench, free_port


class Data:
    image = torch.rand(11, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def order(self, stage):
        return BatchOrder(11, stage.batch_size, 1, "shuffled", False)

    def train(self, stage, start, stop):
        for step in range(start, stop):
            _, keys = self.order(stage).at(step, {})
            low, high = (len(keys) * (dist.rank() + i) // dist.world() for i in (0, 1))
            yield Batch(self.image[keys[low:high]], torch.zeros(high - low))


class Tiny(Method):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 48))

    def stages(self):
        yield TrainStage(
            name="d",
            batch_size=4,
            step=self.step,
            epochs=3,
            modules=[self.net],
            clip=0.5,
            drop_last=False,
            optimizers={"o": torch.optim.Adam(self.net.parameters(), lr=0.01)},
        )

    def step(self, batch, optimize):
        loss = (self.net(batch.image_BCHW) - batch.image_BCHW.flatten(1)).square().mean()
        optimize(loss)
        return {"l": loss}


def train_and_count() -> dict[str, Any]:
    """What a process of a group has in the end."""
    torch.manual_seed(0)
    tiny = Tiny()
    Trainer(device=torch.device("cpu")).fit(tiny, Data())
    rows = dist.gather_rows(torch.arange(3 * dist.rank(), 3 + 2 * dist.rank())[:, None])
    generator = torch.Generator().manual_seed(5)
    maps, masks = torch.rand(7, 8, 8, generator=generator), torch.rand(7, 8, 8, generator=generator) > 0.8
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    masks[labels == 0] = False
    mine = slice(7 * dist.rank() // dist.world(), 7 * (dist.rank() + 1) // dist.world())
    part = Evaluator(["a"])
    scores = maps[mine].amax((1, 2))
    part.update(category=[0] * len(scores), score=scores, label=labels[mine], map=maps[mine], mask=masks[mine])
    if dist.world() > 1:
        part.all_reduce()
    return {"weights": tiny.state_dict(), "evaluator": part.state_dict(), "rows": rows}


def _flat(state, prefix=""):
    if isinstance(state, dict):
        return [item for key, value in state.items() for item in _flat(value, f"{prefix}.{key}")]
    if isinstance(state, (list, tuple)):
        return [item for key, value in enumerate(state) for item in _flat(value, f"{prefix}.{key}")]
    return [(prefix, state)]


def test_two_processes_train_and_count_like_one():
    one, (two, _) = train_and_count(), in_processes(2, 60, train_and_count)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-6)
    for (name, left), (_, right) in zip(_flat(one["evaluator"]), _flat(two["evaluator"]), strict=True):
        same = torch.equal(left, right) if isinstance(left, torch.Tensor) and not left.is_floating_point() else True
        assert same, name
        if isinstance(left, torch.Tensor) and left.is_floating_point():
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    assert two["rows"].flatten().tolist() == [0, 1, 2, 3, 4]


def test_a_whole_run_with_torchrun(tmp_path, monkeypatch):
    bench = Bench(tmp_path, monkeypatch)
    (bench.data / "cable" / "test" / "good" / "001.png").unlink()  # 7 test images: uneven shards
    assert bench.run(results="one", method="patchcore") == 0
    words = bench.words("method.batch_size=3", results="two", method="patchcore")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    environment = {**os.environ, "PYTHONPATH": str(PLUGIN), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, "-m", "ader", *words], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("AUPRO  mAD") == 1
    assert result.stdout.count("bank: finishing") == 1
    # the same bank in the same order; scores may differ in the last bits, by the shapes of matrix products
    one, two = (read_table(bench.folder(name) / "metrics.csv") for name in ("one", "two"))
    assert (one - two).abs().fillna(0).max().max() < 1e-3
    assert (bench.folder("one") / "counts.csv").read_bytes() == (bench.folder("two") / "counts.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["trainer.epochs=x"], 2, "trainer.epochs='x' does not fit"),
        (["method.batch_size=1"], 2, "a batch of 1 images cannot be divided among 2 processes"),
        (["paths.results=/dev/null/x"], 2, "cannot be written"),
    ],
)
def test_an_error_is_one_line(tmp_path, monkeypatch, words, status, message):
    bench = Bench(tmp_path, monkeypatch)
    results = run_together(2, bench.words(*words), tmp_path)
    assert status in [each.status for each in results]
    assert all(each.status != 0 for each in results)
    lines = [line for each in results for line in each.error.splitlines() if line.startswith("ader:")]
    assert len(lines) == 1, results
    assert message in lines[0]
    assert bool(list(bench.root.rglob("config.yaml"))) == bool(list(bench.root.rglob("checkpoint.pt")))
