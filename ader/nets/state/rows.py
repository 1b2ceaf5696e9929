"""Rows that a pass collects on all processes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ader.system import dist


class Rows(nn.Module):
    """What a ``FitPass`` collects, batch by batch, on every process: features of a memory bank, statistics of images.

    A pass gives each process a contiguous share of the images, so that the processes' rows one after another are the
    rows of a single process. A process may have had no image at all; ``gathered`` and ``joined`` allow for that. They
    are collective calls: every process must make them. What every process must have (a bank) is ``gathered``; what only
    has to be looked at (a coreset's candidates) stays where it is, ``joined``.

    Nothing of this is saved: an interrupted pass starts again, which is why ``stages`` calls ``clear`` before it
    yields the pass.
    """

    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # knows the device before there is a row
        self.parts: list[Tensor] = []

    def __len__(self) -> int:
        """Rows of this process."""
        return sum(map(len, self.parts))

    def add(self, row_ND: Tensor) -> None:
        """Takes a batch's rows (N, ...); their shape and type are those of all others."""
        self.parts.append(row_ND)

    def clear(self) -> None:
        """Forgets all rows."""
        self.parts = []

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """New rows, one for each, made batch by batch; the old ones are never copied into one tensor."""
        made = Rows().to(self.anchor.device)
        filled = 0
        for row_ND in self.parts:
            new_NE = function(row_ND)
            if not made.parts:
                made.parts = [new_NE.new_empty((len(self), *new_NE.shape[1:]))]
            made.parts[0][filled : filled + len(new_NE)] = new_NE
            filled += len(new_NE)
        return made

    def joined(self) -> Tensor:
        """The rows of this process, (n, ...), of which there may be none. A collective call, as ``gathered`` is.

        Raises:
            RuntimeError: no process has a row.
        """
        _, like = self._everywhere()
        if len(self.parts) == 1:
            return self.parts[0]
        return torch.cat(self.parts) if self.parts else like

    def gathered(self, positions: Tensor | None = None) -> Tensor:
        """The rows of all processes in the order of ranks, (N, ...); the same tensor on each of them.

        Args:
            positions: among all rows, ascending; only these are taken and sent. None: all.

        Raises:
            RuntimeError: no process has a row.
        """
        counts, like = self._everywhere()
        parts = self.parts
        if positions is not None:
            bounds = [sum(counts[:rank]) for rank in range(len(counts) + 1)]
            parts, left = [], positions - bounds[dist.rank()]  # positions among this process's own
            for row_ND in self.parts:
                parts.append(row_ND[left[(left >= 0) & (left < len(row_ND))]])
                left = left - len(row_ND)
            passed = [int((positions < bound).sum()) for bound in bounds]
            counts = [after - before for before, after in pairwise(passed)]
        every = like.new_empty((sum(counts), *like.shape[1:]))
        shares = torch.split(every, counts)
        if parts:
            torch.cat(parts, out=shares[dist.rank()])
        dist.exchange(shares)
        return every

    def _everywhere(self) -> tuple[list[int], Tensor]:
        """How many rows each process has, and a tensor of none that is as they are."""
        own = (self.parts[0].shape[1:], self.parts[0].dtype) if self.parts else None
        counts, shapes = zip(*dist.gather_objects((len(self), own)), strict=True)
        known = next((shape for shape in shapes if shape is not None), None)
        if known is None:
            raise RuntimeError("no process has collected a row: add some before they are gathered")
        return list(counts), self.anchor.new_empty((0, *known[0]), dtype=known[1])
