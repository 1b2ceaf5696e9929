"""Processes of one run (torchrun): rank, gathering, averaging. Everything is a no-op in a single process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ader.system.errors import UserError
from ader.system.interrupt import Stopped
from ader.system.launch import processes
from ader.system.parallel import die_with
from ader.system.peers import Peers

#: Seconds within which it is known whether a process died: after an error, when the system has just closed its
#: connections, and after torchrun's signal, which comes later than that.
AFTER_ERROR, AFTER_SIGNAL = 3.0, 0.5

_store: Any = None  # the key-value store through which the processes met
_peers: Peers | None = None


def start(device: torch.device) -> None:
    """Joins the process group that torchrun announces; nothing to do in a single process.

    Raises:
        Stopped: some processes did not come.
    """
    global _store, _peers
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launched() and not td.is_initialized():
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, killed, would leave its processes to themselves
            die_with(os.getppid())
        _store, number, count = next(rendezvous("env://"))
        _peers = Peers(number, count, _give_up)
        _peers.meet(_store, os.environ["MASTER_ADDR"])  # torch would wait where no signal is answered
        backend = "nccl" if device.type == "cuda" else "gloo"
        td.init_process_group(backend, store=_store, rank=number, world_size=count, timeout=timedelta(hours=2))


def stop() -> None:
    """Leaves the process group, at the end of a run that went well."""
    if _peers is not None:
        _peers.leave()
    if td.is_initialized():
        td.destroy_process_group()


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return processes() > 1


def last_word(message: str) -> bool:
    """Whether this process is the one that tells the user why the run failed, with which it ends. torchrun is told, the
    words of which are the last, and the other processes learn that this one ends by itself."""
    if not launched():
        return True
    speaking = _speaks()
    _tell_launcher(message if speaking or _store is None else None)
    if _peers is not None:
        _peers.leave()
    return speaking


def _speaks() -> bool:
    """The first one that fails speaks, or where one died the first that lives."""
    if _store is None:  # not joined yet: all processes fail alike
        return os.environ.get("RANK", "0") == "0"
    try:
        if _peers is not None and (_peers.dead or _peers.missing):
            return _peers.speaks()
        return bool(_store.add("ader/failed", 1) == 1)
    except RuntimeError:  # the store went with another process
        return False


def _tell_launcher(message: str | None) -> None:
    """Has torchrun report the reason, or None where another process gives it: it names the earliest as the cause."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        when = int(time.time()) + (message is None)
        told = {"message": message or "ended with the others", "extraInfo": {"timestamp": str(when)}}
        Path(file).write_text(json.dumps({"message": told}), encoding="utf-8")


@contextmanager
def naming_the_dead() -> Iterator[None]:
    """Says which process died, in place of what its death did to this one: an error of the next exchange, or torchrun's
    SIGTERM.

    Raises:
        Stopped: a process died.
    """
    try:
        yield
    except (RuntimeError, Stopped) as error:
        if _peers is None:
            raise
        if _peers.lost(AFTER_SIGNAL if isinstance(error, Stopped) else AFTER_ERROR):
            raise Stopped(_epitaph(_peers)) from error
        if _peers.missing and isinstance(error, Stopped):
            late = _peers.named(_peers.missing)
            raise Stopped(f"{error}; {late} had not started: dead, unless the run was stopped") from error
        raise


def _epitaph(peers: Peers) -> str:
    return f"{peers.named(peers.dead)} died (killed, or ended by a library): run the same command again to resume"


def _give_up() -> None:
    """Ends this process, which another one's death has not ended yet. Files appear whole or not at all."""
    if _peers is not None and _peers.speaks():
        message = _epitaph(_peers)
        _tell_launcher(message)
        os.write(2, f"ader: {message}\n".encode())
    os._exit(1)


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


def total(value: Tensor) -> Tensor:
    """Elementwise sum over all processes, in the place of ``value``, of which large ones would need a second."""
    if world() > 1:
        td.all_reduce(value)
    return value


def gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """The rows of all processes, in the order of ranks; their numbers may differ, and may be 0.

    Args:
        rows: of this process, (n, ...).
        counts: rows of each process, where they are known; None: they are asked for.
    """
    if world() == 1:
        return rows
    counts = gather_objects(len(rows)) if counts is None else list(counts)
    every = rows.new_empty((sum(counts), *rows.shape[1:]))
    parts = torch.split(every, counts)
    parts[rank()].copy_(rows)
    exchange(parts)
    return every


def exchange(parts: Sequence[Tensor]) -> None:
    """Fills each process's part in all others: part r comes from process r. A tensor for all parts is all that this
    takes, where a gathering of parts of different lengths would pad each to the longest, and copy them once more."""
    if world() > 1:
        for source, part in enumerate(parts):
            if part.numel():
                td.broadcast(part, src=source)


def gather_objects(item: Any) -> list[Any]:
    """One picklable object of every process, in the order of ranks."""
    if world() == 1:
        return [item]
    items: list[Any] = [None] * world()
    td.all_gather_object(items, item)
    return items
