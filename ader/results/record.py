"""The record of a run: one JSON with everything that stands behind its numbers."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ader.system.errors import UserError
from ader.system.files import replace_together

#: Changes when a reader of records has to change.
SCHEMA = 2

FILE = "record.json"

#: Columns of a table that name its rows.
ROW_NAMES = ("category", "defect")

PACKAGES = (
    "ader",
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
)


def provenance() -> dict[str, Any]:
    """When, by what code and on which machine."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": hardware(),
        "command": sys.argv[1:],
    }


def hardware() -> dict[str, Any]:
    """Processor, cores, and the GPUs that torch sees."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, independent of key order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def rows(frame: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """A table as plain values; undefined is None, never NaN (which is not JSON)."""
    return {
        str(name): {str(column): None if math.isnan(value) else float(value) for column, value in row.items()}
        for name, row in frame.iterrows()
    }


def write(folder: Path, files: Mapping[str, str], record: Mapping[str, Any]) -> None:
    """Writes a result: files by name, and ``record.json``, which makes them one. An earlier result is replaced as a
    whole."""
    text = json.dumps({"schema": SCHEMA, **record}, indent=2, allow_nan=False)
    replace_together(folder, {**files, FILE: text + "\n"})


def read(folder: Path) -> dict[str, Any] | None:
    """The record in ``folder``, or None when there is none.

    Raises:
        UserError: the file is not a record of this version.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: delete it and run again") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UserError(f"{file} was written by another version of ader: delete it, or give run=NAME")
    return record


def as_csv(table: pd.DataFrame) -> str:
    """A table whose rows are categories, or pairs of category and defect: fractions in full precision, empty where
    undefined."""
    text: str = table.to_csv(index_label=list(ROW_NAMES[: table.index.nlevels]))
    return text


def read_table(path: Path) -> pd.DataFrame:
    """What ``as_csv`` made."""
    texts = pd.read_csv(path, dtype=str, keep_default_na=False)  # "001" and "NA" are names, too
    names = [name for name in ROW_NAMES if name in texts]
    table: pd.DataFrame = texts.set_index(names).replace("", "nan").astype(float)
    return table


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    """The clone's commit, and whether files differ from it; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"sha": head.stdout.strip(), "dirty": bool(status.stdout.strip())}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Trained:
    """A finished run, or an evaluation of one.

    Attributes:
        folder: with its result, absolute.
        record: of the result.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def home(self) -> Path:
        """The folder of the run that trained the model."""
        origin = self.record.get("evaluated_from", {"run": "."})
        return Path(os.path.realpath(self.folder / origin["run"]))

    def checkpoint(self, part: str) -> Path:
        """The file with a part's weights."""
        return Path(os.path.realpath(self.folder / self.record["parts"][part]["checkpoint"]["file"]))

    def is_at(self, folder: Path) -> bool:
        """Whether ``folder`` is that of the run that trained the model."""
        return Path(os.path.realpath(folder)) == self.home


def open_run(path: Path) -> Trained:
    """A finished run by its folder.

    Raises:
        UserError: it is none.
    """
    folder = Path(os.path.abspath(path.expanduser()))
    if not folder.is_dir():
        raise UserError(f"{path} is not a folder: give a run's, RESULTS/<dataset>/<setting>/<method>/<run>")
    result = read(folder)
    if result is None and (folder / "config.yaml").exists():
        raise UserError(f"{path} holds an unfinished run: give its own command again to finish it")
    if result is None:
        raise UserError(f"{path} is not a run's folder: it has no {FILE}")
    if "source" in result:
        raise UserError(f"{path} holds scored maps and no model: give ader score {result['source']['path']} again")
    return Trained(folder, result)
