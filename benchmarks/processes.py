"""Whether a method gives the same in 1, 2 and 3 processes: gradients, passes, predictions, as one table.

    python -m benchmarks.processes --json results/bench/processes.json --markdown results/bench/processes.md
    python -m benchmarks.processes rd cflow

Every method under its recipe ``small``, a step of 5 images, float64, gloo on the CPU, as ``check_processes`` has it;
with batch norms of each process's own (the default) and with shared ones (``trainer.sync_batchnorm``). Differences are
the largest over all tensors, relative to the largest value of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ader.config.options import options
from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Cell, Column, Row, Table
from ader.results.provenance import provenance
from ader.results.schema import plain
from ader.testing.division import GROUPS, in_all_worlds, largest_difference, prepared
from ader.testing.processes import in_processes
from ader.testing.subject import Subject
from benchmarks._common import write_json

SECONDS = 900.0


def main() -> int:
    """Measures what is asked for; 1 if shared batch norms left a method with another gradient."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods (default: all)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    given = parser.parse_args()
    rows = [row for name in given.names or options("method") for row in measured(name)]
    text = table(rows)
    print(text)
    if given.json:
        write_json(given.json, {"provenance": plain(provenance()), "rows": rows})
    if given.markdown:
        given.markdown.write_text(f"# Data-parallel training\n\n{__doc__.split(chr(10) * 2)[2]}\n\n{text}\n", "utf-8")
    return int(any((row["shared gradients"] or 0) > 1e-7 for row in rows))


def measured(name: str) -> list[dict[str, Any]]:
    """Rows of a method, for 2 and for 3 processes."""
    whole = Subject.named(name)
    subject = Subject(whole.method_class, whole.arguments, whole.size)
    found: dict[bool, list[Any] | None] = {}
    for sync in (True, False):
        try:
            found[sync] = in_processes(
                len(GROUPS[0]), SECONDS, in_all_worlds, subject, sync, sync, prepare=prepared
            )  # batch norms of a process's own need larger images
        except AssertionError as error:
            if "trainer.sync_batchnorm=true" not in str(error):
                raise
            found[sync] = None  # a process has one image, too few for batch norms of its own
    return [row_of(name, len(members), found) for members in GROUPS[:-1][::-1]]


def row_of(name: str, world: int, found: Mapping[bool, list[Any] | None]) -> dict[str, Any]:
    """The figures of one method and number of processes; None where there are none."""
    row: dict[str, Any] = {"method": name, "processes": world}
    for sync, results in found.items():
        kind = "shared" if sync else "own"
        for key in ("gradients", "state", "scores"):
            row[f"{kind} {key}"] = None
        if results is None:
            continue
        one, several = results[GROUPS[-1][0]]["1"], results[0][str(world)]
        if one["gradients"]:
            row[f"{kind} gradients"] = largest_difference(several["gradients"], one["gradients"])[0]
        row[f"{kind} state"] = largest_difference(several["state"], one["state"])[0]
        scores = ({"score": each["prediction"][0]} for each in (several, one))
        row[f"{kind} scores"] = largest_difference(*scores)[0]
        row["draws"], row["norms"] = bool(several["draws"]), one["norms"]
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """As Markdown."""
    keys = [f"{kind} {key}" for kind in ("own", "shared") for key in ("gradients", "state", "scores")]
    names = ["method", "processes", *keys, "draws per process", "batch norms that train"]
    texts = [
        [
            row["method"],
            str(row["processes"]),
            *("-" if row[key] is None else f"{row[key]:.0e}" for key in keys),
            "yes" if row["draws"] else "no",
            str(row["norms"]),
        ]
        for row in rows
    ]
    made = tuple(Row(tuple(Cell(text) for text in line)) for line in texts)
    return pipe_table(Table(tuple(Column(name) for name in names), made)).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())
