"""``ader figure``: figures of a results tree, of a paper's numbers, or of a dataset."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ader.commands._keys import take_keys
from ader.commands._request import Request
from ader.system.errors import UserError, some, suggest

if TYPE_CHECKING:
    import matplotlib.figure

    from ader.report.collection import Run
    from ader.report.figures import Figure

SUMMARY = "ader figure NAME [where=...]   figures of a results tree as PNG and SVG; ader figure alone lists them"

USAGE = """\
ader figure NAME [where='dataset=mvtec method=rd,invad'] [metric=SLUG] [out=DIR] [format=png,svg]
ader figure all
ader figure

Draws one kind of figure, or all that can be made, for a column of a paper (3.4 inches), and prints the paths of the
files; without a name, lists the figures. One of a dataset or of a run is drawn for each that the condition holds for.

  where='key=value,value ...'   which runs: any key of a run, values separated by commas
  metric=SLUG                   of `ader list metrics`; efficiency and correlation take several, separated by commas
  out=DIR                       default RESULTS/figures
  format=png,svg                also pdf
  paths.results=DIR             the results tree

  published=ader|invad|...      of efficiency, categories, epochs, ranks, correlation: a paper's numbers instead
  over=datasets|categories alpha=0.05   of ranks
  size=params|macs              of efficiency: what the markers' areas stand for
  category=NAME                 of roc, pr and scores: only this one
  unseen=KIND,...               of scores: defects that are shown apart; by default those that training lacks

ader figure defects dataset=NAME [dataset.root=DIR] [out=DIR] [format=...]   is of a dataset: no run is needed
"""

#: Keys of the command, and those that it hands on to the figure.
OWN = {"out": "", "format": "png,svg", "where": ""}
HANDED = ("metric", "published", "over", "alpha", "size", "category", "unseen")

FORMATS = ("png", "svg", "pdf")

#: More files at once are a mistake.
MOST = 40


def main(request: Request) -> int:
    """Draws figures and prints the paths of their files."""
    if request.words[:1] == ("defects",):
        return _of_dataset(request)
    taken = take_keys(request, {**OWN, **dict.fromkeys(HANDED, "")})
    if taken is None:
        return 0
    values, words = taken
    from ader.report.figures import FIGURES, find

    if not words:
        from dataclasses import replace
        from importlib import import_module

        listing = import_module("ader.commands.list")
        return int(listing.main(replace(request, command="ader list", words=("figures",))))
    if len(words) > 1:
        raise UserError(f"ader figure takes one name, got {' '.join(words)}")
    kinds = _formats(values["format"])

    @cache
    def chosen() -> list[Run]:
        from ader.report.collection import collect
        from ader.report.where import select

        return select(collect(Path(values["paths.results"])), values["where"])

    options = {key: values[key] for key in HANDED if values[key]}
    if words[0] != "all":
        figure = find(words[0])
        return _write(figure, values, options, kinds, chosen)
    if options:
        raise UserError(f"{next(iter(options))}= is of a single figure: ader figure NAME {next(iter(options))}=...")
    status, told = 1, []
    for figure in FIGURES.values():
        if figure.scope != "index":
            try:
                status = min(status, _write(figure, values, {}, kinds, chosen))
            except UserError as error:
                told.append(f"{figure.name}: {error}")
    print("\n".join(f"not made: {line}" for line in told), end="\n" if told else "")
    return status


def _write(
    figure: Figure, values: dict[str, str], options: dict[str, Any], kinds: list[str], chosen: Callable[[], list[Run]]
) -> int:
    """All pictures of one kind; ``chosen`` reads the tree, once for all kinds."""
    out = Path(values["out"] or Path(values["paths.results"]) / "figures").expanduser()
    if options.get("published"):
        if values["where"]:
            options["where"] = values["where"]
        _save(figure.make([], **options), out, f"{figure.name}-{options['published']}", kinds)
        return 0
    from ader.report.figures import divide

    runs = chosen()
    parts = list(divide(figure, runs))
    if not any(its for _, its in parts):
        raise UserError(f"none of {len(runs)} runs is finished: there is nothing to draw")
    if len(parts) > MOST:
        names = some([name for name, _ in parts], 2)
        raise UserError(
            f"figure {figure.name} is made for each {figure.scope}, {len(parts)} of them ({names}): where=..."
        )
    told, taken = list[str](), set[str]()
    for name, its in parts:
        try:
            made = figure.make(its, **options)
        except UserError as error:
            if len(parts) == 1:
                raise
            told.append(f"{name}: {error}")
            continue
        _save(made, out, _file(figure.name, name, taken), kinds)
    if len(told) == len(parts):
        raise UserError(f"figure {figure.name} could not be made: {told[0]}")
    for line in told:
        print(f"not made: {line}")
    return 0


def _file(figure: str, part: str, taken: set[str]) -> str:
    """A file's name, which no other part has."""
    plain = re.sub(r"[^A-Za-z0-9_.=,+-]+", "-", part).strip("-")[:150]
    name, number = f"{figure}-{plain}" if plain else figure, 1
    while (found := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    taken.add(found)
    return found


def _save(figure: matplotlib.figure.Figure, out: Path, name: str, kinds: list[str]) -> None:
    from ader.report.figures._style import render
    from ader.system.files import write_atomic

    for kind in kinds:
        write_atomic(out / f"{name}.{kind}", render(figure, kind))
        print(out / f"{name}.{kind}")


def _formats(text: str) -> list[str]:
    kinds = [kind for kind in text.split(",") if kind]
    for kind in kinds:
        if kind not in FORMATS:
            raise UserError(f"format={text}: {kind!r} is not known: {suggest(kind, FORMATS)}")
    if not kinds:
        raise UserError(f"format= is empty: choose from {', '.join(FORMATS)}")
    return kinds


def _of_dataset(request: Request) -> int:
    """``defects``: its words are a configuration, in which a dataset is what counts."""
    from dataclasses import replace

    from ader.config.schema import DataConfig, decoders
    from ader.data.mask_rule import settle
    from ader.data.reading import read_index
    from ader.report.figures import find

    out, request = replace(request, words=request.words[1:]).value("out")
    kind, request = request.value("format")
    config = request.compose(DataConfig)
    if config is None:
        return 0
    index = read_index(config.dataset, config.composition.choices["dataset"])
    workers = decoders(config.workers)
    rule = settle(index, "auto", index.name == config.dataset.name, config.paths.cache, workers).rule
    folder = Path(out).expanduser() if out else config.paths.results / "figures"
    _save(
        find("defects").make([], index=index, rule=rule, workers=workers),
        folder,
        f"defects-{index.name}",
        _formats(kind or OWN["format"]),
    )
    return 0
