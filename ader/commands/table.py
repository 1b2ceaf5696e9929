"""``ader table``: tables of papers, and of one's own, from the results tree."""

from __future__ import annotations

from ader.commands._request import Request
from ader.commands._tree import FORMATS, give, results_tree
from ader.system.errors import UserError

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
KEYS = (*OWN, "where", "seeds", "show", "format", "out", "paths.results")


def main(request: Request) -> int:
    """Prints one table."""
    request.nothing_composed(config_dir=True)
    folder = request.folder()
    results, request = results_tree(request)
    given = {}
    for key in (*OWN, "where", "out"):
        given[key], request = request.value(key)
    seeds, request = request.option("seeds", ("mean", "latest"))
    show, request = request.option("show", ("auto", "both", "ours", "published"))
    format_, request = request.option("format", FORMATS)
    name = next((word for word in request.words if "=" not in word), None)
    rest = [word for word in request.words if word != name]
    if rest:
        from ader.system.errors import suggest

        raise UserError(f"ader table {rest[0]}: {suggest(rest[0].partition('=')[0], KEYS)} (ader table --help)")
    if name is None and not any(given[key] for key in ("rows", "columns", "metrics", "where")):
        raise UserError("no table is given: ader table NAME (ader list tables), or rows=method columns=metric")

    from ader.config.options import options
    from ader.report.collection import collect
    from ader.report.papers.places import fill
    from ader.report.papers.spec import read_spec, spec_of
    from ader.report.papers.table import table_of
    from ader.report.where import COMMA

    own = {key: COMMA.split(value) for key in OWN if (value := given[key])}
    if name is not None:
        if own:
            raise UserError(f"{next(iter(own))}= is for tables of your own: leave it out, or leave {name} out")
        spec = read_spec(name, folder)
        if given["where"]:
            from dataclasses import replace

            spec = replace(spec, where=given["where"])
    else:
        try:
            spec = spec_of({**own, "where": given["where"] or ""})
        except ValueError as error:
            raise UserError(f"{error} (ader table --help)") from error
    need_runs = name is None or show in ("both", "ours") or bool(given["where"])
    there = results.is_dir()
    runs = collect(results) if need_runs or there else []
    filled = fill(spec, runs, options("method", folder), seeds, own=show != "published" and (need_runs or bool(runs)))  # type: ignore[arg-type]
    give([table_of(filled, show)], format_, given["out"])  # type: ignore[arg-type]
    return 0
