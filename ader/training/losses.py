"""The logged losses of a descent: their means, and the first one that was not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ader.system.interrupt import Stopped


class LossMeter:
    """Means of the logged losses since the last look.

    On a GPU looking at a value waits for the device, so values are looked at every few steps only; the first bad
    step is still known exactly, because it is remembered on the device.

    Args:
        where: method and stage, for the message.
        device: where the losses are.
    """

    def __init__(self, where: str, device: torch.device) -> None:
        self.where = where
        self.every = 1 if device.type == "cpu" else 20
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.bad: dict[str, Tensor] = {}
        self.last: dict[str, float] = {}

    def add(self, losses: Mapping[str, Tensor], step: int) -> None:
        """Takes the losses (scalars) of one step; not every step need have all of them."""
        for name, loss in losses.items():
            value = loss.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
            bad = self.bad.get(name, torch.full_like(value, torch.inf, dtype=torch.float64))
            self.bad[name] = torch.minimum(bad, torch.where(value.isfinite(), torch.inf, float(step)))

    def means(self) -> dict[str, float]:
        """Means since the last call.

        Raises:
            Stopped: a loss was not finite.
        """
        bad = {name: float(step) for name, step in self.bad.items() if step.isfinite()}
        if bad:
            name = min(bad, key=lambda key: bad[key])
            raise Stopped(
                f"loss {name!r} of {self.where} is not finite at step {int(bad[name])}: lower the learning rate, "
                "or check the data and the precision"
            )
        if self.sums:
            self.last = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts, self.bad = {}, {}, {}
        return self.last

    def text(self, pace: str) -> str:
        """For the progress line."""
        return "  ".join([*(f"{name} {value:.4g}" for name, value in self.last.items()), pace])
