"""The file with all that a training needs to go on where it was stopped, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ader.methods._base import Method
from ader.system import dist
from ader.system.errors import UserError
from ader.system.files import check_regular, write_atomic
from ader.system.randomness import random_states, restore_random
from ader.training.optimization import Optimization


@dataclass
class TrainState:
    """Where a training stands; with the method's and the optimizers' state it is a checkpoint.

    Attributes:
        stage, step: the next step to make.
        steps_before: of all earlier training stages; with ``step`` the horizontal axis of the training curves.
        finished: nothing is left to do.
        seconds, images: per stage; images over all processes.
        processes: that trained; 0 where an earlier version did not say.
    """

    stage: int = 0
    step: int = 0
    steps_before: int = 0
    finished: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    processes: int = 0


def same_processes(before: int, file: Path) -> None:
    """Going on with another number of processes would give what neither number gives.

    They differ in the order of sums, and in the images over which each batch norm takes its statistics.

    Args:
        before: how many made the file.
        file: for the message.

    Raises:
        UserError: this run has another number.
    """
    if before != dist.world():
        start = f"torchrun --nproc-per-node={before} -m ader ..." if before > 1 else "ader ... without torchrun"
        raise UserError(
            f"{file} was written by a run of {before} process{'es' * (before > 1)} and cannot be resumed by "
            f"{dist.world()}: start it again with {start}, or give force=true to train again"
        )


class Checkpoint:
    """Reads and writes one file. Within a stage it holds the weights that are trained beside their moving average; at
    the end of a stage the method's weights are the average.

    Args:
        path: of the file; None keeps nothing.
        device: of the random streams.
        owner: whose training it is, such as a run's checksum and a model's name; None is not compared.
    """

    def __init__(self, path: Path | None, device: torch.device, owner: str | None = None) -> None:
        self.path, self.device, self.owner = path, device, owner

    def load(self) -> dict[str, Any] | None:
        """What the file holds, on the CPU; None where there is none. Nothing in it is executed.

        Raises:
            UserError: it is damaged, of another version, or of an unfinished training by another number of processes.
        """
        if self.path is None or not self.path.exists():
            return None
        check_regular(self.path)
        try:
            saved: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            state = TrainState(**saved["progress"])
        except Exception as error:  # a damaged file raises anything
            raise UserError(
                f"{self.path} is damaged or of another version ({type(error).__name__}): delete it to train again"
            ) from error
        if self.owner is not None and saved.get("owner", self.owner) != self.owner:
            raise UserError(f"{self.path} is of another run or model: put the right file there, or delete it")
        if not state.finished:
            same_processes(len(saved["local"]), self.path)
        return saved

    def put_back(self, method: Method, saved: Mapping[str, Any]) -> None:
        """Gives a method the weights that were saved.

        Raises:
            UserError: they are another method's.
        """
        try:
            method.load_state_dict(saved["method"])
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path} does not hold the weights of this {type(method).__name__}: put the right file there, or "
                "delete it to train again"
            ) from error

    def save(self, method: Method, state: TrainState, optimization: Optimization | None = None) -> None:
        """Writes the file; every process must call it.

        Args:
            method: its state dict is kept.
            state: where the training stands.
            optimization: of the stage that is under way; None between two.
        """
        if self.path is None:
            return
        modules = optimization.stage.modules if optimization and dist.world() > 1 else ()
        local = {
            "random": random_states(self.device),
            # running statistics differ between processes until the stage's end
            "buffers": [[buffer.cpu() for buffer in module.buffers()] for module in modules],
        }
        state.processes = dist.world()
        locals_ = dist.gather_objects(local)
        if dist.is_main():
            content = {
                "owner": self.owner,
                "progress": vars(state),
                "method": method.state_dict(),
                "optimization": optimization.state_dict() if optimization else None,
                "local": locals_,
            }
            write_atomic(self.path, lambda file: torch.save(content, file))

    def resume(self, optimization: Optimization, saved: Mapping[str, Any]) -> None:
        """Puts back what a stage under way needs besides the method's weights."""
        optimization.load_state_dict(saved["optimization"])
        local = saved["local"][dist.rank()]
        for module, values in zip(optimization.stage.modules, local["buffers"], strict=False):
            for buffer, value in zip(module.buffers(), values, strict=True):
                buffer.copy_(value)
        restore_random(local["random"], self.device)
