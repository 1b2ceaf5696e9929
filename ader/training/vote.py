"""What all processes must do at the same step: write a checkpoint, or stop."""

from __future__ import annotations

import time

from ader.system import dist
from ader.system.interrupt import Interrupt

#: Seconds between two votes: so long it may take until a signal to one process is known to all.
PERIOD = 1.0


class Vote:
    """Asks all processes, about every second: at every step it would cost more than a small step itself.

    The next vote's step follows from what all have seen at the last one, hence it is the same for all. The distance
    doubles at most, so that a few quick steps do not lead to a long wait.

    Args:
        interrupt: of this process; it learns of a signal that came to another one.
        step: the stage's first one in this session.
    """

    def __init__(self, interrupt: Interrupt, step: int) -> None:
        self.interrupt = interrupt
        self.last, self.next, self.asked = step, step + 1, time.monotonic()

    def cast(self, step: int, due: bool) -> tuple[bool, bool]:
        """Whether to write a checkpoint, and whether to stop.

        Args:
            step: as many are made.
            due: whether this process finds that a checkpoint should be written; the first process decides.
        """
        if dist.world() == 1:
            return due, self.interrupt.name is not None
        if step < self.next:
            return False, False
        pace = (time.monotonic() - self.asked) / (step - self.last)
        votes = dist.gather_objects((due, self.interrupt.name, pace))
        name = next((name for _, name, _ in votes if name), None)
        if name and not self.interrupt.name:
            self.interrupt.note(name)
        slowest = max(pace for *_, pace in votes)
        distance = min(2 * (step - self.last), max(1, int(PERIOD / max(slowest, 1e-9))))
        self.last, self.next, self.asked = step, step + distance, time.monotonic()
        return votes[0][0], name is not None
