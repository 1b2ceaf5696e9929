"""What every method costs, and how it compares with its reference implementation: one table.

    python -m benchmarks.methods --upstreams FOLDER --json results/bench/methods.json \\
        --markdown results/bench/methods.md
    python -m benchmarks.methods rd vitad --upstreams FOLDER --batch 2 --repeats 3

For each comparison of ``parity/``, in a process of its own: parameters and multiply-accumulates of our
method at its full size beside those that ADer Table 1 prints; the differences that ``python -m parity`` shows; one
training step and one inference batch, the reference's and ours by turns, as the ratio of their medians; and the memory
that each of them needs above what the loaded networks take (peak resident set, on Linux). ``FOLDER`` holds the
references' clones, each under its repository's name. Comparisons whose clone is missing are left out of the table, and
said to be; those that are not named keep the rows of an earlier ``--json`` file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Cell, Column, Row, Table
from ader.results.provenance import provenance
from ader.results.schema import plain
from ader.training.cost import count_macs, count_parameters
from benchmarks._common import forget_peak, resident, write_json
from parity import SIZE, Pair, Run, load, names, published


def main() -> int:
    """Measures everything that is asked for; 1 if a comparison failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(names())}; default: all")
    parser.add_argument("--upstreams", type=Path, required=True, help="folder of the references' clones")
    parser.add_argument("--batch", type=int, default=4, help="images of a step (default 4)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of each, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"there is no comparison {', '.join(unknown)}: choose from {', '.join(names())}")
    if not options.upstreams.is_dir():
        parser.error(f"--upstreams {options.upstreams}: no such folder")
    torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(measure(options.names[0], options.upstreams.resolve(), options.batch, options.repeats)))
        return 0
    rows, failed = kept(options), []
    for name in options.names or names():
        row = measured_apart(name, options)
        if row is None:
            failed.append(name)
            continue
        rows[name] = row
        print(line(name, row), flush=True)
    if failed:
        print(f"left out (clone missing, or failed; see above): {', '.join(failed)}", file=sys.stderr)
    about = {"size": SIZE, "batch": options.batch, "repeats": options.repeats, "threads": options.threads}
    if options.json:
        rows = {name: rows[name] for name in names() if name in rows}
        write_json(options.json, {"about": about, "methods": rows, **plain(provenance())})
    if options.markdown:
        options.markdown.write_text(markdown(rows, about), encoding="utf-8")
    return int(bool(failed))


def kept(options: argparse.Namespace) -> dict[str, Any]:
    """The rows of an earlier file, where only some comparisons are asked for: they are replaced, the others stay."""
    if not (options.names and options.json and options.json.is_file()):
        return {}
    rows: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))["methods"]
    return rows


def measured_apart(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """``measure`` in a process of its own: references bring packages of the same names."""
    words = [sys.executable, "-m", "benchmarks.methods", name, "--worker", "--upstreams", str(options.upstreams)]
    words += [f"--{key}={getattr(options, key)}" for key in ("batch", "repeats", "threads")]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return None
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(name: str, upstreams: Path, batch: int, repeats: int) -> dict[str, Any]:
    """All figures of one comparison."""
    pair = load(name, upstreams, batch)
    counted, device = (pair.full, "meta") if pair.full is not None else (pair.ours, "cpu")
    params, trained = count_parameters(counted)
    row: dict[str, Any] = {
        "upstream": pair.upstream,
        "note": pair.note,
        "params": params,
        "trained": trained,
        "macs": count_macs(counted, SIZE, torch.device(device)),
        "differences": [vars(difference) for difference in pair.differences()],
    }
    for phase, runs, images in phases(pair):
        reference, ours = timed(runs, repeats)
        memory = [peak(run) for run in runs]
        row[phase] = {
            "images": images,
            "reference_seconds": reference,
            "seconds": ours,
            "ratio": reference / ours,
            "reference_bytes": memory[0],
            "bytes": memory[1],
        }
    return row


def phases(pair: Pair) -> list[tuple[str, tuple[Run, Run], int]]:
    """What is timed: training, if there is any, and inference."""
    training = [("train", pair.train, pair.train_images)] if pair.train else []
    return [*training, ("test", pair.test, pair.test_images)]


def timed(runs: Sequence[Run], repeats: int) -> list[float]:
    """Median seconds of each, taken by turns so that a disturbance of the machine hits all."""
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for place, run in enumerate(runs):
            began = time.perf_counter()
            run()
            if repeat:
                seconds[place].append(time.perf_counter() - began)
    return [statistics.median(values) for values in seconds]


def peak(run: Callable[[], object]) -> int | None:
    """Bytes of resident memory that a run needs at its peak above what was there before; None where unknown."""
    if not forget_peak():
        return None
    before = resident()
    run()
    return max(0, resident("VmHWM") - before)


def relative(row: Mapping[str, Any], *words: str, without: str = "") -> float | None:
    """The largest difference, against the reference's largest value, of quantities whose name has one of the words."""
    chosen = [
        each["largest"] / each["scale"]
        for each in row["differences"]
        if any(word in each["what"] for word in words) and not (without and without in each["what"]) and each["scale"]
    ]
    return max(chosen) if chosen else None


def line(name: str, row: Mapping[str, Any]) -> str:
    """For the terminal."""
    speeds = [f"{phase} {row[phase]['ratio']:.2f}x" for phase in ("train", "test") if phase in row]
    worst = max((each["largest"] / each["scale"] for each in row["differences"] if each["scale"]), default=0.0)
    counts = f"{row['params'] / 1e6:.2f} M, {row['macs'] / 1e9:.2f} GMAC"
    return f"{name:20} {counts:24} {', '.join(speeds):26} largest relative difference {worst:.1e}"


def markdown(rows: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The table, with what one must know to read it."""
    lines = [
        "# Methods beside their reference implementations",
        "",
        f"Made by `benchmarks/methods.py`: {SIZE}x{SIZE} pixels, {about['batch']} images, {about['threads']} "
        f"threads, CPU, float32, medians of {about['repeats']}. In brackets: ADer Table 1. **map, score, loss, "
        "gradients**: largest difference from the reference at equal weights and input, over the reference's largest "
        "value (gradients in float64 where they were taken in both). **x**: the reference's time over ours, above 1 "
        "ours is faster. **memory**: peak above the loaded networks, ours / the reference's. All quantities, seconds "
        "and notes: the JSON file of the same name.",
        "",
        pipe_table(Table(COLUMNS, tuple(Row(tuple(cells(name, row))) for name, row in rows.items()))).rstrip(),
    ]
    counts = [f"- `{name}`, counts: {of.why}" for name in rows if (of := published(name)) and of.why]
    notes = [f"- `{name}`, comparison: {row['note']}" for name, row in rows.items() if row["note"]]
    return "\n".join([*lines, "", *counts, *notes, ""])


#: Of the table.
COLUMNS = (
    Column("method"),
    *(Column(heading, kind="number", digits=2) for heading in ("parameters (M)", "trained (M)", "GMAC")),
    *(Column(heading, kind="power", digits=0) for heading in ("map", "score", "loss", "gradients")),
    *(Column(heading, kind="number", digits=2) for heading in ("train, x", "test, x")),
    *(Column(heading) for heading in ("train memory (MiB)", "test memory (MiB)", "reference")),
)


def cells(name: str, row: Mapping[str, Any]) -> list[Cell]:
    """One line of the table."""
    table = published(name)
    gradients = relative(row, "gradients (float64)")
    values = (
        relative(row, "map"),
        relative(row, "image score"),
        relative(row, "loss", without="float64"),
        gradients if gradients is not None else relative(row, "gradient"),
    )
    return [
        Cell(name),
        Cell(row["params"] / 1e6, published=table.params if table else None),
        Cell(row["trained"] / 1e6),
        Cell(row["macs"] / 1e9, published=table.macs if table else None),
        *map(Cell, values),
        *(Cell(row[phase]["ratio"] if phase in row else None) for phase in ("train", "test")),
        *(Cell(memory(row.get(phase))) for phase in ("train", "test")),
        Cell(row["upstream"]),
    ]


def memory(figures: Mapping[str, Any] | None) -> str | None:
    """Ours / the reference's, in MiB."""
    if figures is None or figures["bytes"] is None:
        return None
    return f"{figures['bytes'] / 2**20:,.0f} / {figures['reference_bytes'] / 2**20:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
