"""``ader list``: what there is."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator

from ader.commands._request import Request
from ader.config import plugins
from ader.config.options import option_file, options, read_option
from ader.system.errors import UserError, suggest

SUMMARY = "ader list KIND                 methods, datasets, metrics, settings, trainers, protocols, experiments"

USAGE = """\
ader list methods|datasets|metrics|settings|trainers|protocols|experiments

What there is, a line each: what may follow method=, dataset=, setting=, trainer=, protocol= and experiment=, and the
columns of a result's metrics.csv. Of experiments also what is expected of them, and whether that was seen here.
"""


def main(request: Request) -> int:
    """Prints one kind of thing, a line each."""
    request.nothing_composed()
    if len(request.words) != 1 or request.words[0] not in KINDS:
        wanted = request.words[0] if request.words else ""
        raise UserError(f"{' '.join([request.command, *request.words])}: {suggest(wanted, KINDS)}")
    from rich.console import Console

    from ader.report.renderers import rich_table
    from ader.report.tables import Column, Row, Table

    headings, rows = KINDS[request.words[0]]
    columns = [Column(heading, wrap="fold" if number else "never") for number, heading in enumerate(headings)]
    table = Table(tuple(columns), tuple(Row.of(*each) for each in rows()))  # names, which stand first, are to be copied
    Console(highlight=False).print(rich_table(table, gap=3))
    return 0


def _methods() -> Iterator[tuple[str, ...]]:
    """Options and, since a package may bring one without a YAML file, modules that no option names."""
    from ader.config.tags import read_tags

    values = {name: read_option("method", name) for name in options("method")}
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


def _datasets() -> Iterator[tuple[str, ...]]:
    counting = importlib.import_module("ader.data.counts")
    for name in options("dataset"):
        values = read_option("dataset", name)
        about = values.get("about") or {}
        images = about.get("images") or counting.images(values.get("counts") or {})
        yield (
            name,
            str(len(about.get("categories") or "") or ""),
            f"{images:,}" if images else "",
            about.get("license") or "",
            str(about.get("title") or ""),
        )


def _metrics() -> Iterator[tuple[str, ...]]:
    from ader.metrics import METRICS

    for metric in METRICS:
        yield metric.slug, metric.heading, metric.description


def _comments(group: str) -> Callable[[], Iterator[tuple[str, ...]]]:
    """Options of a config group with the comment that opens their file."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name in options(group):
            yield name, (_heading(group, name) or [""])[0]

    return rows


def _experiments() -> Iterator[tuple[str, ...]]:
    """With what they are expected to give, which stands after ``expected:`` in the heading of their file."""
    for name in options("experiment"):
        lines, expected, inside = _heading("experiment", name), list[str](), False
        for line in lines[1:]:
            key = re.match(r"([a-z]+):\s+(.*)", line)  # command, cost, expected
            inside = inside if key is None else key[1] == "expected"
            if inside:
                expected.append(line if key is None else key[2])
        yield name, (lines or [""])[0], " ".join(expected)


def _heading(group: str, name: str) -> list[str]:
    """The lines of the comments in an option's file."""
    lines = option_file(group, name).read_text(encoding="utf-8").splitlines()
    return [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]


KINDS: dict[str, tuple[tuple[str, ...], Callable[[], Iterator[tuple[str, ...]]]]] = {
    "methods": (("method", "gives", "trains on", "paper", "other recipes"), _methods),
    "datasets": (("dataset", "categories", "images", "license", "title"), _datasets),
    "metrics": (("metric", "heading", "meaning"), _metrics),
    "settings": (("setting", "meaning"), _comments("setting")),
    "trainers": (("trainer", "meaning"), _comments("trainer")),
    "protocols": (("protocol", "meaning"), _comments("protocol")),
    "experiments": (("experiment", "meaning", "expected"), _experiments),
}
