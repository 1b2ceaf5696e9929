"""Processes that learn of each other's end."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch.distributed as td

from ader.system import peers
from ader.system.peers import Peers


@pytest.fixture
def together(tmp_path):
    """Starts processes that meet; each then does what it is told to, and ends with that as its status."""
    numbers = []

    def start(world, works):
        for rank in range(world):
            number = os.fork()
            if number == 0:
                status = 99
                try:
                    mine = Peers(rank, world, lambda: os._exit(77))
                    mine.meet(td.FileStore(str(tmp_path / "store"), world), "127.0.0.1")
                    status = works[rank](mine)
                finally:
                    os._exit(status)
            numbers.append(number)
        return [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers]

    return start


def _die(mine):
    os.kill(os.getpid(), signal.SIGKILL)


def _mask(mine):
    """The dead, as bits; 64: this process speaks."""
    return sum(1 << number for number in mine.lost(20)) + 64 * mine.speaks()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_all_learn_who_died(together, victim):
    works = [_mask, _mask, _mask]
    works[victim] = _die
    expected = [1 << victim] * 3
    expected[1 if victim == 0 else 0] += 64
    expected[victim] = -9
    assert together(3, works) == expected


@pytest.mark.parametrize("leaver", [0, 1])
def test_who_leaves_is_not_dead(together, leaver):
    def leave(mine):
        mine.leave()
        return 5

    works = [lambda mine: len(mine.lost(20))] * 2
    works[leaver] = leave
    assert together(2, works) == [5 * (rank == leaver) for rank in (0, 1)]


def test_a_death_ends_who_does_not_end(together, monkeypatch):
    monkeypatch.setattr(peers, "GRACE", 0.2)
    assert together(2, [lambda mine: time.sleep(30), _die]) == [77, -9]
