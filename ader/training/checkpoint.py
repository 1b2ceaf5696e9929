"""The file with all that a training needs to go on where it was stopped, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ader.methods._base import Method, Stage, TrainStage
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
        processes: that trained, those of the last session; 0 where an earlier version did not say.
        depends: why another number of processes would have changed more than the order of sums in what was trained so
            far, finished stages included; empty where it would not.
    """

    stage: int = 0
    step: int = 0
    steps_before: int = 0
    finished: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    processes: int = 0
    depends: str = ""


UNKNOWN = "an earlier version of ader did not note whether that matters"


def check_processes(before: int, depends: str, file: Path) -> None:
    """Another number of processes may go on with a training only where that changes nothing but the order of sums: else
    it would end with what neither number gives.

    Args:
        before: how many made the file.
        depends: as in ``TrainState``.
        file: for the message.

    Raises:
        UserError: this run has another number, and that matters.
    """
    if depends and before != dist.world():
        start = f"torchrun --nproc-per-node={before} -m ader ..." if before > 1 else "ader ... without torchrun"
        raise UserError(
            f"{file} was written by a run of {before} process{'es' * (before > 1)} and cannot be resumed by "
            f"{dist.world()}, since the result would be that of neither ({depends}): start it again with {start}, or "
            "give force=true to train again"
        )


def own_statistics(stage: TrainStage) -> bool:
    """Whether batch norms train, each process's on the statistics of its own images."""
    return any(isinstance(part, _BatchNorm) and part.training for module in stage.modules for part in module.modules())


def dependence(stage: Stage, began: Mapping[str, Any], device: torch.device, shared: bool) -> str:
    """Why a stage that is under way, or just over, depends on the number of processes, as in ``TrainState``. Every
    process must call it.

    Args:
        stage: its batch norms are as in training.
        began: the random states at its beginning.
        device: of the random streams.
        shared: whether batch norms take their statistics over all processes.
    """
    modules = stage.modules if isinstance(stage, TrainStage) else ()
    drew = not _equal(began, random_states(device))
    buffers = [buffer for module in modules for buffer in module.buffers()] if dist.world() > 1 else []
    shares = dist.gather_objects((drew, _digest(buffers)))
    if isinstance(stage, TrainStage) and not shared and own_statistics(stage):
        return f"in stage {stage.name!r} each process has batch norms of its own images"
    if any(drew for drew, _ in shares):
        return f"in stage {stage.name!r} each process draws its own random numbers"
    if any(digest != shares[0][1] for _, digest in shares):
        return f"in stage {stage.name!r} each process keeps its own state"
    return ""


def _digest(tensors: Iterable[Tensor]) -> bytes:
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.digest()


def _equal(one: Any, other: Any) -> bool:
    """Whether two random states are the same."""
    if isinstance(one, Mapping):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(_equal(*pair) for pair in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


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
            UserError: it is damaged, of another version, or of an unfinished training that this number of processes
                must not go on with.
        """
        if self.path is None or not self.path.exists():
            return None
        check_regular(self.path)
        try:
            saved: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            saved["progress"].setdefault("depends", UNKNOWN)
            state = TrainState(**saved["progress"])
        except Exception as error:  # a damaged file raises anything
            raise UserError(
                f"{self.path} is damaged or of another version ({type(error).__name__}): delete it to train again"
            ) from error
        if self.owner is not None and saved.get("owner", self.owner) != self.owner:
            raise UserError(f"{self.path} is of another run or model: put the right file there, or delete it")
        if not state.finished:
            check_processes(len(saved["local"]), state.depends, self.path)
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
        if len(saved["local"]) != dist.world():
            return  # nothing was drawn, and all that a process had of its own was the same in all
        local = saved["local"][dist.rank()]
        for module, values in zip(optimization.stage.modules, local["buffers"], strict=False):
            for buffer, value in zip(module.buffers(), values, strict=True):
                buffer.copy_(value)
        restore_random(local["random"], self.device)
