"""The device that a configuration names."""

from __future__ import annotations

import os
import re

import torch

from ader.system.errors import UserError


def resolve_device(name: str, key: str = "trainer.device") -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:i`` as a device that is there; ``key`` is for messages.

    Raises:
        UserError: no such device.
    """
    kind, _, number = name.partition(":")
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (":" in name and (kind == "cpu" or not re.fullmatch("[0-9]{1,4}", number))):
        raise UserError(f"{key}={name[:40]!r} is not a device: choose from auto, cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cpu":
        return torch.device("cpu")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if number and processes > 1:
        raise UserError(f"{key}={name} is one GPU for {processes} processes: set {key}=cuda")
    seen = torch.cuda.device_count()
    if int(number or 0) >= seen or processes > max(1, seen):
        wanted = f"{processes} processes need as many GPUs" if processes > 1 else f"{key}={name} is not there"
        raise UserError(f"{wanted}: torch sees {seen} CUDA devices")
    return torch.device("cuda", int(number or os.environ.get("LOCAL_RANK", "0")))


def synchronize(device: torch.device) -> None:
    """Waits for the device's queue, so that a clock reads what was done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
