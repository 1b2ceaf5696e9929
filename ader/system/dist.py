"""Processes of one run (torchrun): rank, gathering, averaging. Everything is a no-op in a single process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ader.system.errors import UserError
from ader.system.launch import processes
from ader.system.parallel import die_with

_store: Any = None  # the key-value store through which the processes met


def start(device: torch.device) -> None:
    """Joins the process group that torchrun announces; nothing to do in a single process."""
    global _store
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launched() and not td.is_initialized():
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, killed, would leave its processes to themselves
            die_with(os.getppid())
        _store, number, count = next(rendezvous("env://"))
        backend = "nccl" if device.type == "cuda" else "gloo"
        td.init_process_group(backend, store=_store, rank=number, world_size=count, timeout=timedelta(hours=2))


def stop() -> None:
    """Leaves the process group, at the end of a run that went well."""
    if td.is_initialized():
        td.destroy_process_group()


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return processes() > 1


def speaks() -> bool:
    """Whether this process is the one that tells the user why the run failed: the first one that fails."""
    if not launched():
        return True
    if _store is None:  # not joined yet: all processes fail alike
        return os.environ.get("RANK", "0") == "0"
    try:
        return bool(_store.add("ader/failed", 1) == 1)
    except RuntimeError:  # the store went with another process
        return False


def tell_launcher(message: str) -> None:
    """Has torchrun, whose words are the last, give the reason. Its exit status is 1 whatever ours was."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        told = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": told}), encoding="utf-8")


def rank() -> int:
    """This process's number, from 0."""
    return td.get_rank() if td.is_initialized() else 0


def world() -> int:
    """How many processes take part."""
    return td.get_world_size() if td.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Waits for all processes."""
    if world() > 1:
        td.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """The block is executed by the first process, and then by the others (which find made what it makes)."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def on_main(function: Callable[[], object]) -> None:
    """Calls ``function`` in the first process only; its ``UserError`` is raised in all."""
    error: UserError | None = None
    if is_main():
        try:
            function()
        except UserError as raised:
            error = raised
    if world() > 1:
        errors = [error]
        td.broadcast_object_list(errors, src=0)
        error = errors[0]
    if error is not None:
        raise error


def average_buffers(modules: Iterable[nn.Module]) -> None:
    """Replaces floating-point buffers (running statistics of batch norms) by their mean over processes."""
    if world() == 1:
        return
    for module in modules:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                td.all_reduce(buffer)
                buffer /= world()


def smallest(value: Tensor) -> Tensor:
    """Elementwise, of all processes; without gradient."""
    value = value.detach()
    if world() > 1:
        value = value.clone()
        td.all_reduce(value, td.ReduceOp.MIN)
    return value


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of ranks; their numbers may differ, and may be 0."""
    if world() == 1:
        return rows
    counts = gather_objects(len(rows))
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    td.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_objects(item: Any) -> list[Any]:
    """One picklable object of every process, in the order of ranks."""
    if world() == 1:
        return [item]
    items: list[Any] = [None] * world()
    td.all_gather_object(items, item)
    return items
