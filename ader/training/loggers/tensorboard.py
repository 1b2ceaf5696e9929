"""Training curves for TensorBoard, which every run writes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ader.system import dist
from ader.training.loggers import Logger


class TensorBoardWriter(Logger):
    """Writes scalars; opened at the first one, so that methods without training leave no files.

    In this thread and at once: TensorBoard's own writer has a thread, which a full disk ends with a traceback. Curves
    are no result, so a run goes on where they cannot be written.

    Args:
        folder: of the event files; steps only grow within it.
        say: is told when they cannot be written.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.say, self.broken = folder, say, False
        self.file: BinaryIO | None = None
        self.writer: Any = None

    def add(self, tag: str, value: float, step: int, model: str = "") -> None:
        """One value; a resumed run hides what an earlier one wrote from this step on."""
        if not dist.is_main() or self.broken:
            return
        try:
            if self.file is None:
                self._open(step)
            from torch.utils.tensorboard.summary import scalar

            self._write(step=step, summary=scalar(tag, value))  # type: ignore[no-untyped-call]
        except OSError as error:
            self.broken = True
            self.say(f"no more training curves: {self.folder} cannot be written ({error.strerror})")
            self.close()

    def close(self, done: bool = True) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _open(self, step: int) -> None:
        """A new event file, from whose first step on those before it do not count."""
        from tensorboard.compat.proto.event_pb2 import SessionLog  # slow to import
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self.file = (self.folder / name).open("xb", buffering=0)
        self.writer = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
