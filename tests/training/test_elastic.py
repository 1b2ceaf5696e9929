"""Going on with another number of processes: where that changes the order of sums alone, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ader.methods._base import Batch, FitPass, Method, TrainStage
from ader.system import dist
from ader.system.errors import UserError
from ader.system.interrupt import Interrupt, Stopped
from ader.testing.processes import in_processes
from ader.training import vote
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer
from ader.training.vote import Vote


class Data:
    """11 random images."""

    image_BCHW = torch.rand(11, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def order(self, stage):
        return BatchOrder(11, stage.batch_size, 1)

    def train(self, stage, start, stop):
        for step in range(start, stop):
            _, keys = self.order(stage).at(step, {})
            low, high = (len(keys) * (dist.rank() + i) // dist.world() for i in (0, 1))
            yield Batch(self.image_BCHW[keys[low:high]], torch.zeros(high - low))


class Tiny(Method):
    """A pass and two stages that learn the identity.

    Args:
        kind: of what the first stages do: ``plain``, ``norm``, ``draw`` or ``draw in a pass``.
        stop: called at every step with its number, from 1.
    """

    def __init__(self, kind="plain", stop=lambda step: None):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.stop, self.steps = kind, stop, 0
        norm = [nn.BatchNorm1d(48)] if kind == "norm" else []
        self.net = nn.Sequential(nn.Flatten(), *norm, nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 48))
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(48, 48))

    def stages(self):
        yield FitPass(name="pass", batch_size=6, update=self.look, finish=lambda: None)
        for name, net in (("first", self.net), ("second", self.last)):
            yield TrainStage(
                name=name,
                batch_size=6,
                step=lambda batch, optimize, net=net: self.learn(batch, optimize, net),
                epochs=2,
                modules=[net],
                optimizers={"o": torch.optim.Adam(net.parameters(), lr=0.01)},
            )

    def look(self, batch):
        if self.kind == "draw in a pass":
            torch.rand(1)

    def learn(self, batch, optimize, net):
        noise = torch.rand(1) if self.kind == "draw" and net is self.net else 1.0
        loss = (net(batch.image_BCHW) - noise * batch.image_BCHW.flatten(1)).square().mean()
        optimize(loss)
        self.steps += 1
        self.stop(self.steps)
        return {"l": loss}


def train(file: Path | None, kind: str = "plain", stop_at: int | None = None, rank: int = 0) -> Tiny:
    """Trains, or goes on; SIGUSR1 comes to one process in the step ``stop_at``."""
    interrupt = Interrupt()

    def stop(step):
        if step == stop_at and dist.rank() == rank:
            interrupt.note("SIGUSR1")

    method = Tiny(kind, stop)
    trainer = Trainer(device=torch.device("cpu"), checkpoint=file, interrupt=interrupt)
    if stop_at is None:
        trainer.fit(method, Data())
    else:
        with pytest.raises(Stopped, match="stopped by SIGUSR1 at step"):
            trainer.fit(method, Data())
    return method


def interrupted(file: str, stop_at: int) -> list[int]:
    """Work of one of several processes: stopped by a signal to the second one; steps that were made."""
    vote.PERIOD = 0.0  # at every step
    return [train(Path(file), stop_at=stop_at, rank=1).steps]


def continued(file: str) -> dict[str, torch.Tensor]:
    """Work of one of several processes: trains to the end."""
    return train(Path(file)).state_dict()


def test_from_two_processes_to_one_and_from_one_to_three(tmp_path):
    whole = train(None).state_dict()
    two, one = tmp_path / "two.pt", tmp_path / "one.pt"
    assert in_processes(2, 60, interrupted, str(two), 2) == [[2], [2]]
    train(one, stop_at=5)
    ends = [train(two).state_dict(), *in_processes(3, 60, continued, str(one))]
    for end in ends:
        for name, weight in whole.items():
            torch.testing.assert_close(end[name], weight, rtol=0, atol=1e-6)
    saved = torch.load(one, weights_only=True)
    assert (saved["progress"]["processes"], saved["progress"]["depends"]) == (3, "")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("norm", "in stage 'first' each process has batch norms of its own images"),
        ("draw", "in stage 'first' each process draws its own random numbers"),
        ("draw in a pass", "in stage 'pass' each process draws its own random numbers"),
    ],
)
@pytest.mark.parametrize("stop_at", [2, 5])
def test_what_depends_on_processes_is_refused(tmp_path, monkeypatch, kind, reason, stop_at):
    """In the midst of such a stage, and when it is over."""
    file = tmp_path / "checkpoint.pt"
    train(file, kind, stop_at)
    with monkeypatch.context() as patch:
        patch.setattr(dist, "world", lambda: 2)
        with pytest.raises(UserError) as error:
            train(file, kind)
    assert reason in str(error.value)
    assert "was written by a run of 1 process and cannot be resumed by 2" in str(error.value)
    assert "start it again with ader ... without torchrun, or give force=true" in str(error.value)
    train(file, kind)  # as many as before


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pt"
    train(file, stop_at=2)
    saved = torch.load(file, weights_only=True)
    del saved["progress"]["depends"]
    torch.save(saved, file)
    monkeypatch.setattr(dist, "world", lambda: 2)
    with pytest.raises(UserError, match="an earlier version of ader did not note"):
        train(file)


@pytest.mark.parametrize(("seconds", "most"), [(0.01, 100), (0.3, 3), (20.0, 1)])
def test_a_signal_is_known_to_all_within_about_a_second(monkeypatch, seconds, most):
    """Two processes, steps of which take so long; the signal comes to the slower one, after any step."""
    now = [0.0]
    monkeypatch.setattr(vote.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(dist, "world", lambda: 2)
    for moment in (0, 1, 2, 5, 50, 500):
        mine, theirs, asked = Interrupt(), [None], []

        def gather(vote, theirs=theirs, asked=asked):
            asked.append(vote)
            return [vote, (False, theirs[0], vote[2] * 1.5)]

        monkeypatch.setattr(dist, "gather_objects", gather)
        ballot, step = Vote(mine, 0), 0
        while True:
            theirs[0] = "SIGTERM" if step >= moment else None
            step, now[0] = step + 1, now[0] + seconds
            due, stop = ballot.cast(step, due=True)
            if stop:
                break
        assert step - moment <= most
        assert due
        assert mine.name == "SIGTERM"
        assert len(asked) <= 10 + step / max(1, most / 3)
