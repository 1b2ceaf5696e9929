"""``ader list``: what there is."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ader.commands._request import Request
from ader.config import plugins
from ader.config.options import option_file, options, read_option
from ader.system.errors import UserError, suggest

SUMMARY = """\
ader list KIND                 methods, datasets, metrics, settings, trainers, protocols, experiments, tables, figures
ader list methods NAME         a method's arguments and recipes, as ader method=NAME --help
"""

USAGE = """\
ader list methods|datasets|metrics|settings|trainers|protocols|experiments|tables|figures
ader list methods NAME

What there is, a line each: what may follow method=, dataset=, setting=, trainer=, protocol= and experiment=, and the
columns of a result's metrics.csv. Of experiments also what is expected of them, and whether that was seen here. With
the name of a method: its arguments and recipes.

  --config-dir DIR              a folder with options of your own
"""


def main(request: Request) -> int:
    """Prints one kind of thing, a line each."""
    request.nothing_composed(config_dir=True)
    folder = request.folder()
    if len(request.words) == 2 and request.words[0] == "methods":
        explain(request.words[1], folder)
        return 0
    if len(request.words) != 1 or request.words[0] not in KINDS:
        wanted = request.words[0] if request.words else ""
        raise UserError(f"{' '.join([request.command, *request.words])}: {suggest(wanted, KINDS)}")
    from rich.console import Console

    from ader.report.renderers import rich_table
    from ader.report.tables import Column, Row, Table

    headings, rows = KINDS[request.words[0]]
    columns = [Column(heading, wrap="fold" if number else "never") for number, heading in enumerate(headings)]
    table = Table(
        tuple(columns), tuple(Row.of(*each) for each in rows(folder))
    )  # names, which stand first, are to be copied
    Console(highlight=False).print(rich_table(table, gap=3))
    return 0


def explain(option: str, folder: Path | None) -> None:
    """Prints a method's arguments and recipes.

    Args:
        option: as ``ader list methods`` prints it.
        folder: with further options, vetted.

    Raises:
        UserError: there is no such method.
    """
    if option not in (names := options("method", folder)):
        raise UserError(f"method={option} does not exist: {suggest(option, names)}")
    from rich.console import Console

    from ader.methods._description import describe
    from ader.report.renderers import rich_table
    from ader.report.tables import Column, Row, Table

    described, console = describe(option, folder), Console(highlight=False, soft_wrap=False)
    about = inspect.cleandoc(described.method_class.__doc__ or "").partition("\n\n")[0]
    columns = Column("argument", wrap="never"), Column("default", wrap="fold"), Column("values"), Column("meaning")
    rows = [
        Row.of(each.key, _typed(each.default), each.values, " ".join(each.meaning.replace("``", "").split()))
        for each in described.arguments
    ]
    console.print(f"method={option}: {' '.join(about.split())}\n", markup=False)
    console.print(rich_table(Table(columns, tuple(rows)), gap=2))
    for name, changes in described.recipes.items():
        words = " ".join(_word(key, value) for key, value in changes.items())
        console.print(f"\nrecipe={name}: {words or 'nothing else'}", markup=False)


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _word(key: str, value: Any) -> str:
    word = f"{key}={_typed(value)}".replace(", ", ",")
    return f"'{word}'" if re.search(r"[^\w.=/:,-]", word) else word


def _methods(folder: Path | None) -> Iterator[tuple[str, ...]]:
    """Options and, since a package may bring one without a YAML file, modules that no option names."""
    from ader.config.tags import read_tags

    values = {name: read_option("method", name, config_dir=folder) for name in options("method", folder)}
    named = {str(option["name"]) for option in values.values()}
    unnamed = {name: {"name": name} for name in plugins.names("methods") if name not in named}
    for name, option in sorted((values | unnamed).items()):
        try:
            tags = read_tags(str(option["name"]))
        except UserError as error:
            yield name, "", "", str(error).partition(": ")[2] or str(error), ""
            continue
        recipes = option.get("recipes") or {}
        yield name, "maps" if tags.maps else "scores", tags.supervision, tags.paper, ", ".join(recipes)


def _datasets(folder: Path | None) -> Iterator[tuple[str, ...]]:
    counting = importlib.import_module("ader.data.counts")
    for name in options("dataset", folder):
        values = read_option("dataset", name, config_dir=folder)
        about = values.get("about") or {}
        images = about.get("images") or counting.images(values.get("counts") or {})
        yield (
            name,
            str(len(about.get("categories") or "") or ""),
            f"{images:,}" if images else "",
            about.get("license") or "",
            str(about.get("title") or ""),
        )


def _metrics(_: Path | None) -> Iterator[tuple[str, ...]]:
    from ader.metrics import METRICS

    for metric in METRICS:
        yield metric.slug, metric.heading, metric.description


def _figures(_: Path | None) -> Iterator[tuple[str, ...]]:
    from ader.report.figures import FIGURES

    for figure in FIGURES.values():
        yield figure.name, figure.title, figure.scope


def _comments(group: str) -> Callable[[Path | None], Iterator[tuple[str, ...]]]:
    """Options of a config group with the comment that opens their file."""

    def rows(folder: Path | None) -> Iterator[tuple[str, ...]]:
        for name in options(group, folder):
            yield name, (_heading(group, name, folder) or [""])[0]

    return rows


def _experiments(folder: Path | None) -> Iterator[tuple[str, ...]]:
    """With what they are expected to give, which stands after ``expected:`` in the heading of their file."""
    for name in options("experiment", folder):
        lines, expected, inside = _heading("experiment", name, folder), list[str](), False
        for line in lines[1:]:
            key = re.match(r"([a-z]+):\s+(.*)", line)  # command, cost, expected
            inside = inside if key is None else key[1] == "expected"
            if inside:
                expected.append(line if key is None else key[2])
        yield name, (lines or [""])[0], " ".join(expected)


def _heading(group: str, name: str, folder: Path | None) -> list[str]:
    """The lines of the comments in an option's file."""
    lines = option_file(group, name, folder).read_text(encoding="utf-8").splitlines()
    return [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]


KINDS: dict[str, tuple[tuple[str, ...], Callable[[Path | None], Iterator[tuple[str, ...]]]]] = {
    "methods": (("method", "gives", "trains on", "paper", "other recipes"), _methods),
    "datasets": (("dataset", "categories", "images", "license", "title"), _datasets),
    "metrics": (("metric", "heading", "meaning"), _metrics),
    "figures": (("figure", "shows", "one for each"), _figures),
    "settings": (("setting", "meaning"), _comments("setting")),
    "trainers": (("trainer", "meaning"), _comments("trainer")),
    "protocols": (("protocol", "meaning"), _comments("protocol")),
    "tables": (("table", "meaning"), _comments("table")),
    "experiments": (("experiment", "meaning", "expected"), _experiments),
}
