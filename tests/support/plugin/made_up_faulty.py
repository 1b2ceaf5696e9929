"""A third party's method that ends its process in every way there is, as long as a file asks for that."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ader.methods._base import Batch, Method, Optimize, Prediction, Stage, TrainStage

#: Faults happen while this file is there.
FAULTS = "MADE_UP_FAULTS"


class Faulty(Method):
    """One number is trained.

    Args:
        how: what happens in the first step; ``slow`` waits in each step, ``memory`` asks for more than there is, and
            ``test_memory`` does so where more than four images are predicted together.
    """

    def __init__(
        self,
        how: Literal["", "raise", "exit", "quit", "kill", "hang", "memory", "test_memory", "slow"] = "",
        steps: int = 2,
    ) -> None:
        super().__init__()
        self.how, self.steps = how, steps
        self.scale = nn.Parameter(torch.ones(()))

    def stages(self) -> Iterator[Stage]:
        optimizers = {"all": torch.optim.SGD([self.scale], lr=0.1)}
        yield TrainStage(name="s", batch_size=2, step=self._step, optimizers=optimizers, modules=[], steps=self.steps)

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        if Path(os.environ.get(FAULTS, "/nowhere")).exists():
            self._fail()
        loss = (batch.image_BCHW.mean() * self.scale).square()
        optimize(loss)
        return {"loss": loss}

    def _fail(self) -> None:
        match self.how:
            case "raise":
                raise RuntimeError("planted")
            case "exit":
                sys.exit(0)
            case "quit":
                os._exit(0)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(1000)
            case "memory":
                use_up_memory()
            case "slow":
                time.sleep(0.2)

    def predict(self, image_BCHW: Tensor) -> Prediction:
        if self.how == "test_memory" and len(image_BCHW) > 4 and Path(os.environ.get(FAULTS, "/nowhere")).exists():
            use_up_memory()
        map_BHW = image_BCHW.mean(dim=1) * self.scale
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def use_up_memory() -> None:
    """As in a shell with ``ulimit -v``."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    torch.zeros(1 << 30)
