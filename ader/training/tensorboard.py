"""Training curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ader.system import dist

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardWriter:
    """Writes scalars; opened at the first one, so that methods without training leave no files.

    Args:
        folder: of the event files; steps only grow within it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None

    def add(self, tag: str, value: float, step: int) -> None:
        """One value; a resumed run hides what an earlier one wrote from this step on."""
        if not dist.is_main():
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        self.writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Writes out what is buffered."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
