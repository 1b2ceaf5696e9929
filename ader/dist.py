"""Processes of one run (torchrun): rank, gathering, averaging. Everything is a no-op in a single process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn


def start(device: torch.device) -> None:
    """Joins the process group that torchrun announces; nothing to do otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not td.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        td.init_process_group(backend, timeout=timedelta(hours=2))


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


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over processes (a missing one counts as zero)."""
    if world() == 1:
        return
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            td.all_reduce(parameter.grad)
            parameter.grad /= world()


def average_buffers(modules: Iterable[nn.Module]) -> None:
    """Replaces floating-point buffers (running statistics of batch norms) by their mean over processes."""
    if world() == 1:
        return
    for module in modules:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                td.all_reduce(buffer)
                buffer /= world()


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of ranks; their numbers may differ."""
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
