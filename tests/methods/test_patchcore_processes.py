"""PatchCore's bank over several processes; apart from its other tests, whose imports each process would repeat."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from ader.system import dist
from ader.testing.processes import in_processes
from ader.testing.subject import Subject


def banks(shares: Sequence[int]) -> list[torch.Tensor]:
    """Some and all of 60 patches, of which this process has its share."""
    patch_ND = torch.randn(60, 64, generator=torch.Generator().manual_seed(0))
    method, found = Subject.named("patchcore", embed_dim=64).make(), []
    for method.coreset in (0.2, 1.0):
        for part_ND in patch_ND.split(list(shares))[dist.rank()].split(10):
            if len(part_ND):
                method.rows.add(part_ND)
        torch.manual_seed(5)
        method._reduce()
        found.append(method.bank.get())
    return found


@pytest.mark.parametrize("shares", [(25, 35), (7, 0, 53)])
def test_processes_keep_what_a_single_one_would(shares):
    """However the patches are shared, the bank is the same."""
    some, every = banks((60,))
    assert (len(some), len(every)) == (12, 60)
    for found in in_processes(len(shares), 60, banks, shares):
        assert found[0].equal(some)
        assert found[1].equal(every)
