"""Rows that a pass collects on all processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ader.system import dist


class Rows(nn.Module):
    """What a ``FitPass`` collects, batch by batch, on every process: features of a memory bank, statistics of images.

    A pass gives each process a contiguous share of the images, so that the processes' rows one after another are the
    rows of a single process. A process may have had no image at all; ``gathered`` allows for that. ``gathered`` is a
    collective call: every process must make it.

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
        """New rows, made of each batch's; the old ones are never copied into one tensor."""
        made = Rows().to(self.anchor.device)
        made.parts = [function(row_ND) for row_ND in self.parts]
        return made

    def gathered(self, positions: Tensor | None = None) -> Tensor:
        """The rows of all processes in the order of ranks, (N, ...); the same tensor on each of them.

        Args:
            positions: among all rows, ascending; only these are taken and sent. None: all.

        Raises:
            RuntimeError: no process has a row.
        """
        parts = self.parts
        if positions is not None:
            counts = dist.gather_objects(len(self))
            parts, left = [], positions - sum(counts[: dist.rank()])  # positions among this process's own
            for row_ND in self.parts:
                parts.append(row_ND[left[(left >= 0) & (left < len(row_ND))]])
                left = left - len(row_ND)
        shapes = dist.gather_objects((parts[0].shape[1:], parts[0].dtype) if parts else None)
        if parts:
            return dist.gather_rows(torch.cat(parts))
        known = next((shape for shape in shapes if shape is not None), None)
        if known is None:
            raise RuntimeError("no process has collected a row: add some before they are gathered")
        return dist.gather_rows(self.anchor.new_empty((0, *known[0]), dtype=known[1]))
