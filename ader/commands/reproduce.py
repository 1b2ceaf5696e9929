"""``ader reproduce``: whether a paper's table, or what was reached before, is reached."""

from __future__ import annotations

from pathlib import Path

from ader.commands._keys import one_of, take_keys
from ader.commands._request import Request
from ader.system.errors import UserError, suggest

SUMMARY = """\
ader reproduce NAME [run=true] which runs a paper's table takes, and whether ours reach it; a gate for CI
"""

USAGE = """\
ader reproduce NAME [only='method=rd epochs=100'] [run=true] [key=value ...]

NAME is a paper's table (ader list tables), a file of expected values in configs/expected, or the path of one
(NAME.yaml). Says which runs it takes, which of them are there, the commands for the rest with an estimate of hours,
and which of our values are further from the expected ones than they may be.

  only='KEY=VALUE ...'          a part: dataset, setting, epochs, method, category, metric
  run=true                      run what is missing first, as sweeps; more words go to them (launcher.slots=2 ...)
  tolerance=POINTS              in place of the table's own
  missing=fail|ok               whether runs that are missing make the exit status 1; default: fail
  paths.results=DIR             the tree; default: results
  --config-dir DIR              a folder of your own, with DIR/table/NAME.yaml and DIR/expected/NAME.yaml

exit status: 0 all that can be run here is there and near enough; 1 something is off, or missing
"""


DEFAULTS = {"only": "", "tolerance": "", "missing": "fail", "run": "false"}


def main(request: Request) -> int:
    """Prints what is there and what is off; status 1 where anything is."""
    taken = take_keys(request, DEFAULTS, config_dir=True, others=True)
    if taken is None:
        return 0
    values, words = taken
    folder, results = request.folder(), Path(values["paths.results"]).expanduser()
    missing = one_of("missing", values["missing"], ("fail", "ok"))
    run = one_of("run", values["run"], ("false", "true"))
    plain = [word for word in words if "=" not in word or word.endswith((".yaml", ".yml"))]
    more = [word for word in words if word not in plain]
    if len(plain) != 1:
        raise UserError("ader reproduce takes one table: ader reproduce NAME (ader list tables)")
    if more and run == "false":
        raise UserError(f"{more[0]!r} would go to the sweeps that run=true starts: add that, or leave it out")

    from dataclasses import replace

    from ader.config.options import options
    from ader.report.collection import Run, collect
    from ader.report.papers import reproduce
    from ader.report.papers.spec import names, read_spec
    from ader.report.renderers import terminal_text
    from ader.system.console import Console

    name, console = plain[0], Console()

    def look() -> reproduce.Reproduction:
        runs: list[Run] = collect(results) if results.is_dir() else []
        if name in names(folder):
            spec, methods = read_spec(name, folder), options("method", folder)
            found = reproduce.reproduction(name, spec, runs, methods, values["only"])
        elif name.endswith((".yaml", ".yml")) or name in reproduce.expected_names(folder):
            found = reproduce.expected(name, runs, values["only"], folder)
        else:
            raise UserError(
                f"there is no table {name!r}: {suggest(name, [*names(folder), *reproduce.expected_names(folder)])}"
            )
        if values["tolerance"]:
            found.spec = replace(found.spec, tolerance=_points(values["tolerance"]), tolerances={})
        return found

    found = look()
    if run == "true" and found.missing:
        from ader.commands import _run

        for line in found.lines():
            console.say(f"ader -m {' '.join(line)}\n")
            _run.main(Request.of("ader", ["-m", *line, *more, f"paths.results={results}"]))
        found = look()
    for table in found.tables():
        console.say(terminal_text(table, max(80, console.rich.width)))
    if found.missing:
        console.say("\nto make what is missing:")
        for line in found.lines():
            console.say(f"  ader -m {' '.join(line)}")
    if (off := reproduce.off_table(found)) is not None:
        console.say("")
        console.say(terminal_text(off, max(80, console.rich.width)))
    there = sum(each.there for each in found.judged)
    counts = ", ".join(f"{count} {state}" for state, count in reproduce.totals(found).items())
    console.say(f"\nruns: {counts}. Values: {there} of {len(found.judged)} there, {len(found.off)} off")
    undone = bool(found.missing) or there < len(found.judged)
    return 1 if found.off or (undone and missing == "fail") else 0


def _points(typed: str) -> float:
    try:
        value = float(typed)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UserError(f"tolerance={typed!r} is no number of points from 0 to 100")
    return value
