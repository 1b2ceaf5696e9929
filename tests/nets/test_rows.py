"""Rows that several processes collect, one of which has none."""

from __future__ import annotations

import pytest
import torch

from ader.nets.state.rows import Rows
from ader.system import dist
from ader.testing.processes import in_processes

ALL_ND = torch.arange(21.0).view(7, 3)


def collected(shares: tuple[int, ...]) -> Rows:
    """This process's share of all rows, two at a time."""
    rows = Rows()
    for part_ND in ALL_ND.split(shares)[dist.rank()].split(2):
        if len(part_ND):
            rows.add(part_ND)
    return rows


def gather(shares: tuple[int, ...]) -> list[torch.Tensor]:
    rows = collected(shares)
    return [
        rows.gathered(),
        rows.gathered(torch.tensor([1, 2, 6])),
        rows.gathered(torch.tensor([], dtype=torch.long)),
        rows.map(lambda row_ND: row_ND[:, :2].long()).gathered(),
        rows.joined(),
        rows.map(lambda row_ND: row_ND[:, 0].half()).joined(),
    ]


@pytest.mark.parametrize("shares", [(2, 0, 5), (0, 7, 0), (3, 2, 2)])
def test_rows_come_in_the_order_of_ranks(shares):
    expected = [ALL_ND, ALL_ND[[1, 2, 6]], ALL_ND[:0], ALL_ND[:, :2].long()]
    for found, own_ND in zip(in_processes(3, 60, gather, shares), ALL_ND.split(shares), strict=True):
        for one, two in zip(found, [*expected, own_ND, own_ND[:, 0].half()], strict=True):
            assert one.dtype == two.dtype
            assert one.equal(two)


def test_a_single_process():
    rows = collected((7,))
    assert (len(rows), rows.gathered().tolist()) == (7, ALL_ND.tolist())
    assert rows.gathered(torch.tensor([0, 5])).equal(ALL_ND[[0, 5]])
    assert rows.joined().equal(ALL_ND)
    assert rows.state_dict() == {}
    rows.clear()
    assert len(rows) == 0
    for call in (rows.gathered, rows.joined, rows.map(torch.square).gathered):
        with pytest.raises(RuntimeError, match="no process has collected a row"):
            call()
