"""``ader table``: tables of papers, and of one's own, from the results tree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ader.commands._keys import FORMATS, one_of, take_keys
from ader.commands._request import Request
from ader.commands._tables import give
from ader.system.errors import UserError

if TYPE_CHECKING:
    from ader.report.papers.spec import Spec

SUMMARY = """\
ader table NAME                a paper's table, our numbers beside the published (ader list tables)
ader table rows=... columns=.. a table of your own over all runs
"""

USAGE = """\
ader table NAME [show=both|ours|published] [key=value ...]
ader table rows=method columns=metric where='dataset=mvtec' [metrics=image_auroc,mad] [key=value ...]

A table over the runs of a results tree. NAME is one of a paper's tables (ader list tables): ours, the published value
and the difference, where there are runs; published values alone where there are none. Without NAME it is one of your
own: rows and columns are names of what runs are (dataset, setting, method, seed, epochs, backbone, recipe, profile,
image_size, or any key of the configuration, such as method.lr), category and metric.

  rows=KEY,...                  default: method
  columns=KEY[,KEY]             default: metric
  metrics=SLUG,...              ader list metrics; and params, macs, train_memory, test_memory, train_hours,
                                test_seconds, fps; default: the eight of the main table
  where='KEY=VALUE ...'         which runs; commas between values: where='method=rd,invad epochs=100'
  seeds=mean|latest             mean and sample deviation over seeds (default), or the run that was made last
  show=both|ours|published      of a paper's table
  format=terminal|csv|markdown|latex|html      csv: fractions in full precision
  out=FILE                      instead of printing
  paths.results=DIR             the tree; default: results
  --config-dir DIR              a folder with tables of your own, DIR/table/NAME.yaml

Runs that differ in their seed alone are averaged; runs that differ in more are never mixed in a cell: add the key to
rows or columns, or choose with where. A gap says why: not run, failed, undefined. Random backbones, stand-in textures,
cut training and other kinds of evaluation are told in footnotes.
"""

#: Of a table of one's own.
OWN = ("rows", "columns", "metrics")
DEFAULTS = {
    **dict.fromkeys((*OWN, "where", "out"), ""),
    "seeds": "mean",
    "show": "auto",
    "format": FORMATS[0],
}


def main(request: Request) -> int:
    """Prints one table."""
    taken = take_keys(request, DEFAULTS, config_dir=True)
    if taken is None:
        return 0
    values, words = taken
    folder = request.folder()
    one_of("format", values["format"], FORMATS)
    one_of("seeds", values["seeds"], ("mean", "latest"))
    show = one_of("show", values["show"], ("auto", "both", "ours", "published"))
    if len(words) > 1:
        raise UserError(f"ader table takes one table, got {' '.join(words)} (ader table --help)")
    if not words and not any(values[key] for key in (*OWN, "where")):
        raise UserError("no table is given: ader table NAME (ader list tables), or rows=method columns=metric")

    from ader.config.options import options
    from ader.report.collection import collect
    from ader.report.papers.places import fill
    from ader.report.papers.table import table_of

    spec = _named(words[0], values, folder) if words else _own(values)
    results = Path(values["paths.results"]).expanduser()
    asked = not spec.source or show in ("both", "ours") or bool(values["where"])
    runs = collect(results) if asked or results.is_dir() else []
    own = show != "published" and (asked or bool(runs))
    filled = fill(spec, runs, options("method", folder), values["seeds"], own)  # type: ignore[arg-type]
    give([table_of(filled, show)], values["format"], values["out"] or None)  # type: ignore[arg-type]
    return 0


def _named(name: str, values: dict[str, str], folder: Path | None) -> Spec:
    from ader.report.papers.spec import read_spec

    if own := [key for key in OWN if values[key]]:
        raise UserError(f"{own[0]}= is for tables of your own: leave it out, or leave {name} out")
    spec = read_spec(name, folder)
    return replace(spec, where=values["where"]) if values["where"] else spec


def _own(values: dict[str, str]) -> Spec:
    from ader.report.papers.spec import spec_of
    from ader.report.where import COMMA

    try:
        named = {key: COMMA.split(values[key]) for key in OWN if values[key]}
        return spec_of({**named, "where": values["where"]})
    except ValueError as error:
        raise UserError(f"{error} (ader table --help)") from error
