"""``ader doctor``: what this machine lacks, and how to get it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from ader.commands._request import Request
from ader.config.options import options, read_option
from ader.config.paths import default_folder
from ader.system.errors import UserError

SUMMARY = "ader doctor                    what this machine lacks, and how to get it"

USAGE = """\
ader doctor

Looks at packages, devices, folders, pretrained weights and datasets, and says what is there, what is
missing, and how to get it. Exit status 1 when something is broken without which nothing runs.
"""

OK, LACKS, BROKEN = "ok", "lacks", "BROKEN"

Finding = tuple[str, str, str]


def main(request: Request) -> int:
    """Prints a table of findings; status 1 when something without which nothing runs is broken."""
    request.nothing_composed()
    if request.words:
        raise UserError(f"ader doctor takes no arguments, got {' '.join(request.words)}")
    from rich.console import Console

    from ader.report.renderers import rich_table
    from ader.report.tables import Column, Row, Table

    findings = [*_packages(), *_devices(), *_folders(), *_weights(), *_datasets()]
    headings = Column("what"), Column("state"), Column("detail, and how to get it")
    Console(highlight=False).print(rich_table(Table(headings, tuple(Row.of(*each) for each in findings)), gap=3))
    return 1 if any(state == BROKEN for _, state, _ in findings) else 0


def _packages() -> Iterator[Finding]:
    yield "python", OK, platform.python_version()
    for name in ("torch", "torchvision", "timm"):
        try:
            module = importlib.import_module(name)
        except (
            ImportError,
            RuntimeError,
            AttributeError,
        ) as error:  # a torchvision of another torch raises these
            advice = "install a matching pair: pip install -c constraints.txt torch torchvision"
            yield name, BROKEN, f"{type(error).__name__}: {str(error).splitlines()[0]}; {advice}"
            continue
        yield name, OK, str(module.__version__)


def _devices() -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    yield "processor", OK, f"{cores} cores"
    try:
        import torch
    except ImportError:
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield f"cuda:{number}", OK, f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    if not torch.cuda.is_available():
        yield (
            "gpu",
            LACKS,
            "torch sees no CUDA device: runs work on the processor, full benchmarks take days there",
        )


def _folders() -> Iterator[Finding]:
    for key in ("results", "cache"):
        folder = default_folder(key)
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(nearest).free / 2**30
        if os.access(nearest, os.W_OK):
            yield f"{key} folder", OK, f"{folder}, {free:.0f} GiB free"
        else:
            yield f"{key} folder", BROKEN, f"{folder} cannot be written: set ADER_{key.upper()} or paths.{key}"


def _weights() -> Iterator[Finding]:
    """The weights that the methods' recipes ask for."""
    folder = default_folder("weights")
    wanted: dict[str, list[str]] = {}
    for method in options("method"):
        backbone = read_option("method", method).get("backbone")
        if isinstance(backbone, dict):
            wanted.setdefault(str(backbone["name"]), []).append(method)
    for name, methods in sorted(wanted.items()):
        file = next((f for ending in ("safetensors", "pth") if (f := folder / f"{name}.{ending}").is_file()), None)
        if file:
            yield f"weights {name}", OK, str(file)
        else:
            yield (
                f"weights {name}",
                LACKS,
                f"for {', '.join(methods)}: downloaded at first use, or put {name}.safetensors or .pth into {folder} "
                "(ADER_WEIGHTS)",
            )


def _datasets() -> Iterator[Finding]:
    """A finding for each folder; several options may read one."""
    data = default_folder("data")
    places: dict[Path, list[str]] = {}
    for name in options("dataset"):
        root = str(read_option("dataset", name).get("root"))
        if root != "???":
            places.setdefault(Path(root.replace("${paths.data}", str(data))), []).append(name)
    for folder, names in places.items():
        what = f"dataset {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        if folder.is_dir():
            yield what, OK, str(folder)
        else:
            yield what, LACKS, f"not at {folder}: ader data prepare dataset={names[0]}"
