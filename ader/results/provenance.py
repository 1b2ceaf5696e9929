"""When, by what code and on which machine something was computed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ader.results.schema import Commit, Hardware, Provenance

#: Those that decide what is computed.
PACKAGES = (
    "ader-bench",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "pillow",
    "hydra-core",
    "omegaconf",
    "xgboost",
    "diffusers",
)


def provenance() -> Provenance:
    """Of what is computed now, by this process."""
    return Provenance(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit(),
        versions={"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
        hardware=hardware(),
        command=tuple(sys.argv[1:]),
    )


def hardware() -> Hardware:
    """Processor, cores, and the GPUs that torch sees."""
    gpus = tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return Hardware(
        platform=platform.platform(),
        cpu=cpu(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpus=gpus,
        cuda=torch.version.cuda if gpus else None,
    )


def installed(package: str) -> str | None:
    """A package's version, or None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> Commit | None:
    """The clone's commit, and whether files differ from it; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        asked = ["git", "--no-optional-locks", "status", "--porcelain"]  # killed, it would leave the clone locked
        status = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return Commit(sha=head.stdout.strip(), dirty=bool(status.stdout.strip()))


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
