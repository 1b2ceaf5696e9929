"""PatchCore's memory bank over processes: peak memory of each, and time of a choice.

    python -m benchmarks.banks --json results/bench/banks.json --markdown results/bench/banks.md
    cd FOLDER; PYTHONPATH=OTHER python -m benchmarks.banks --label other ...    # another version of the package

(``FOLDER`` holds nothing but a link to ``benchmarks/``, ``OTHER`` that version's ``ader/``.) The pass's end
(``PatchCore.stages``) is measured on made-up patches that lie near a plane of few dimensions, as features do: a random
projection, the greedy choice, the bank in every process. Processes are on this machine, with one thread each, and take
turns with each other: 1, 2, 3, 1, ... The shortest of several runs counts, since others may use the machine. Seconds of
the processor do not count what others take, nor time in which a process waits: they are those of the process that used
most. A message is what a choice would cost at least if all processes spoke for each: three numbers of every process,
and one row.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor

from ader.methods.patchcore import PatchCore
from ader.nets.backbone import BackboneOptions
from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Column, Row, Table
from ader.results.provenance import provenance
from ader.results.schema import plain
from ader.system import dist
from ader.testing.processes import in_processes
from benchmarks._common import forget_peak, loads, read_json, resident, write_json

PART = 1000  # patches that are collected at once
WIDTH = 1024  # numbers of a patch
SECONDS = 1800.0  # after which processes are taken to wait for each other

COLUMNS = (
    Column("version"),
    *(Column(heading, kind="number", digits=0) for heading in ("patches", "bank", "processes")),
    Column("time (s)", kind="number", digits=2),
    Column("processor (s)", kind="number", digits=2),
    Column("a choice (us)", kind="number", digits=0),
    Column("peak of a process (MiB)", kind="number", digits=0),
    Column("same bank"),
)


def main() -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, nargs="+", default=[20_000, 100_000], help="of all processes")
    parser.add_argument("--choices", type=int, default=2000, help="items of the bank (default 2000)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=3, help="of which the shortest counts (default 3)")
    parser.add_argument("--label", default="now", help="of these figures; those of other labels in the file are kept")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    rows = []
    for patches in options.patches:
        for choices in (options.choices, patches):
            rows += measured(patches, choices, options)
    for world in options.processes:
        if world > 1:
            rows.append({"processes": world, "message_seconds": in_processes(world, SECONDS, message)[0]})
    figures = read_json(options.json) if options.json else {}
    runs = {**figures.get("runs", {}), options.label: {"load": os.getloadavg()[2], "rows": rows}}
    text = markdown(runs)
    print(text)
    if options.json:
        write_json(options.json, {"runs": runs, "repeats": options.repeats, **plain(provenance())})
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    return 0


def measured(patches: int, choices: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of one bank, a row for each number of processes."""
    runs: dict[int, list[list[dict[str, Any]]]] = {world: [] for world in options.processes}
    repeats = options.repeats if choices < patches else 1  # without a choice only memory is of interest
    for _ in range(repeats):
        for world in options.processes:
            runs[world].append(in_processes(world, SECONDS, fit, patches, choices))
            print(f"{patches} patches, {choices} kept, {world} processes: {runs[world][-1]}", file=sys.stderr)
    rows = []
    for world, each in runs.items():
        every = [share for run in each for share in run]
        rows.append(
            {
                "patches": patches,
                "bank": choices,
                "processes": world,
                "seconds": min(max(share["seconds"] for share in run) for run in each),
                "processor_seconds": min(max(share["processor_seconds"] for share in run) for run in each),
                "peak_bytes": max(share["peak_bytes"] for share in every),
                "same_bank": {share["bank"] for share in every} == {runs[options.processes[0]][0][0]["bank"]},
            }
        )
    return rows


def fit(patches: int, choices: int) -> dict[str, Any]:
    """In one process of several: what the end of the pass takes, and what bank it makes."""
    torch.manual_seed(0)
    share = choices / patches
    method = PatchCore(coreset=share, embed_dim=WIDTH, backbone=BackboneOptions("resnet18", pretrained=False))
    (stage,) = method.stages()
    forget_peak()
    before = resident()
    parts = patches // PART
    for number in range(parts * dist.rank() // dist.world(), parts * (dist.rank() + 1) // dist.world()):
        method.rows.add(made_up(number))
    forget_peak()
    dist.barrier()
    torch.manual_seed(0)
    began, processor = time.perf_counter(), time.process_time()
    with torch.no_grad():
        stage.finish()
    bank = method.bank.get()
    assert len(bank) == choices
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - processor,
        "peak_bytes": resident("VmHWM") - before,
        "bank": hashlib.sha256(bank.numpy().tobytes()).hexdigest(),
    }


def made_up(number: int) -> Tensor:
    """Patches near a plane of 24 dimensions."""
    plane_ED = torch.randn(24, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(number + 1)
    return torch.randn(PART, 24, generator=generator) @ plane_ED + torch.randn(PART, WIDTH, generator=generator)


def message(times: int = 50) -> float:
    """Seconds of the smallest talk about one choice."""
    numbers, row = torch.zeros(3), torch.zeros(128)
    everyones = [torch.zeros(3) for _ in range(dist.world())]
    best = float("inf")
    for _ in range(20):
        td.barrier()
        began = time.perf_counter()
        for _ in range(times):
            td.all_gather(everyones, numbers)
            td.broadcast(row, src=0)
        best = min(best, (time.perf_counter() - began) / times)
    return best


def markdown(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, with what one must know to read it."""
    table = tuple(row(label, each) for label, run in runs.items() for each in run["rows"] if "bank" in each)
    lines = [
        "# PatchCore's memory bank over processes",
        "",
        f"Made by `benchmarks/banks.py`: patches of {WIDTH} numbers, chosen among in 128 dimensions; CPU, gloo, one "
        "thread a process. **peak**: of the process that needs most, its patches and the bank included. **processor**: "
        "seconds of the process that used most of the processor, without waiting. **same bank**: bit for bit that of "
        "one process. Where the bank has all patches, nothing is chosen.",
        "",
        pipe_table(Table(COLUMNS, table)).rstrip(),
        "",
        *loads(runs),
    ]
    for label, run in runs.items():
        for each in run["rows"]:
            if "message_seconds" in each:
                microseconds = 1e6 * each["message_seconds"]
                lines.append(
                    f"- `{label}`: {each['processes']} processes that spoke for every choice would need at least "
                    f"{microseconds:.0f} us for it."
                )
    return "\n".join([*lines, ""])


def row(label: str, each: Mapping[str, Any]) -> Row:
    """One line of the table."""
    choice = 1e6 * each["seconds"] / each["bank"] if each["bank"] < each["patches"] else None
    return Row.of(
        label,
        each["patches"],
        each["bank"],
        each["processes"],
        each["seconds"],
        each["processor_seconds"],
        choice,
        each["peak_bytes"] / 2**20,
        "yes" if each["same_bank"] else "no",
    )


if __name__ == "__main__":
    sys.exit(main())
