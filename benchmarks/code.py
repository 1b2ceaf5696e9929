"""Measures how the code is cut: lengths, docstrings, comments, hops, repetition, and what one reads to follow a run.

    python -m benchmarks.code
    python -m benchmarks.code --repo ../before . --json FILE          # two checkouts side by side
    python -m benchmarks.code --reading ader.__main__ ader.runs.run   # the modules that show the flow

What is counted, over the package's Python files of more than one line:

- **function lines**: from ``def`` to the last line, docstring included; methods and nested functions, too. p90 is the
  smallest value that nine of ten do not exceed.
- **docstrings, comments**: lines of docstrings, and lines with nothing but a comment, as shares of all lines.
- **private functions with one caller**: functions whose name has one leading underscore and stands in one other place:
  once in their own file outside their own body, or in one import of another file. As a share of all functions. Names
  are not resolved: two methods of one name in a file share their callers.
- **repeated lines** of ``methods/`` and of the YAML files in ``configs/``: lines in a run of at least five that stands
  at another place, too, in the same order and but for indentation. Blank lines, comments, docstrings and imports are
  left out first. As a share of what is left.
- **reading length**: lines of the modules given with --reading.
"""

from __future__ import annotations

import argparse
import ast
import io
import math
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ader.report.renderers import markdown
from ader.report.tables import Table
from benchmarks._common import write_json

RUN = 5  # lines of a repetition

SHARES = {
    "docstrings": "docstrings, of all lines",
    "docstrings_methods": "docstrings in methods/",
    "comments": "lines that are comments",
    "one_caller": "private functions with one caller, of all functions",
    "repeated_methods": "repeated lines of methods/",
    "repeated_configs": "repeated lines of configs/",
}

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """A Python file, read.

    Attributes:
        text: of the whole file.
        tree: of its syntax.
    """

    text: str
    tree: ast.Module

    @property
    def lines(self) -> list[str]:
        """Without line ends."""
        return self.text.splitlines()

    @property
    def functions(self) -> list[Function]:
        """All, at any depth."""
        return [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table, a column for each repository; returns the exit status."""
    options = parse(arguments)
    measured = [measure(repo, options.package, options.reading) for repo in options.repo]
    columns = [dict(shown(figures)) for figures in measured]
    heading = ["", *(figures["repo"] for figures in measured)]
    lines = [[label, *(column[label] for column in columns)] for label in columns[0]]
    print(markdown(Table.of_figures(heading, lines)), end="")
    if options.json:
        write_json(options.json, {"package": options.package, "reading": options.reading, "repos": measured})
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.code", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--repo", type=Path, nargs="+", default=[here], metavar="DIR", help="default: this one")
    parser.add_argument("--package", default="ader", metavar="NAME", help="folder of the package (default ader)")
    parser.add_argument(
        "--reading", nargs="+", default=[], metavar="MODULE", help="for the reading length: a.b or a/b.py"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    for repo in options.repo:
        if not any((repo / options.package).rglob("*.py")):
            parser.error(f"--repo {repo}: no Python files in {options.package}/")
        for module in options.reading:
            if not module_file(repo, module).is_file():
                parser.error(f"--reading {module}: {module_file(repo, module)} does not exist")
    return options


def module_file(repo: Path, module: str) -> Path:
    """The file of a module, given by its name or its path; of a package, its ``__init__.py``."""
    if module.endswith(".py"):
        return repo / module
    stem = repo.joinpath(*module.split("."))
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")


def measure(repo: Path, package: str, reading: Iterable[str]) -> dict[str, Any]:
    """All figures of a repository; shares are fractions, None where there is nothing to count."""
    sources, methods = (read(repo / folder) for folder in (package, f"{package}/methods"))
    configs = [file.read_text(encoding="utf-8") for file in sorted((repo / "configs").rglob("*.yaml"))]
    functions = [function for source in sources for function in source.functions]
    return {
        "repo": repo.resolve().name,
        "functions": len(functions),
        "function_lines": spread([len(statement_lines(function)) for function in functions]),
        "files": len(sources),
        "file_lines": spread([len(source.lines) for source in sources]),
        "docstrings": share_of_lines(sources, docstring_lines),
        "docstrings_methods": share_of_lines(methods, docstring_lines),
        "comments": share_of_lines(sources, comment_lines),
        "one_caller": sum(one_caller(sources)) / max(len(functions), 1),
        "repeated_methods": repeated([code_lines(source) for source in methods]),
        "repeated_configs": repeated([yaml_lines(text) for text in configs]),
        "reading_lines": sum(
            len(module_file(repo, module).read_text(encoding="utf-8").splitlines()) for module in reading
        ),
    }


def read(folder: Path) -> list[Source]:
    """The Python files in a folder that are more than a line, in order of their paths; none of a missing folder."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.rglob("*.py"))]
    return [Source(text, ast.parse(text)) for text in texts if len(text.splitlines()) > 1]


def spread(values: Sequence[int]) -> dict[str, float] | None:
    """Median, p90 (nearest rank) and largest."""
    if not values:
        return None
    ranked = sorted(values)
    return {"median": statistics.median(ranked), "p90": ranked[math.ceil(0.9 * len(ranked)) - 1], "max": ranked[-1]}


def share_of_lines(sources: Sequence[Source], count: Callable[[Source], Iterable[int]]) -> float | None:
    """How much of all lines are those whose numbers ``count`` tells."""
    total = sum(len(source.lines) for source in sources)
    return sum(len(set(count(source))) for source in sources) / total if total else None


def docstring_lines(source: Source) -> Iterator[int]:
    """Numbers of the lines of all docstrings."""
    for node in ast.walk(source.tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS))
            and ast.get_docstring(node, clean=False) is not None
        ):
            yield from statement_lines(node.body[0])


def comment_lines(source: Source) -> Iterator[int]:
    """Numbers of the lines with a comment and nothing else."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            yield token.start[0]


def import_lines(source: Source) -> Iterator[int]:
    """Numbers of the lines of all imports."""
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from statement_lines(node)


def statement_lines(node: ast.stmt) -> range:
    """Numbers of a statement's lines; decorators are not among them."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def one_caller(sources: Sequence[Source]) -> Iterator[bool]:
    """For each private function, whether its name stands in one other place."""
    imports = Counter(
        alias.name
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )
    for source in sources:
        uses = Counter(names(source.tree))
        for function in source.functions:
            name = function.name
            if name.startswith("_") and not name.startswith("__"):
                inside = sum(each == name for each in names(function))
                yield uses[name] - inside + imports[name] == 1


def names(tree: ast.AST) -> Iterator[str]:
    """All names and attributes that are used."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def code_lines(source: Source) -> list[str]:
    """What repetition is counted in: stripped lines without blank ones, comments, docstrings and imports."""
    left_out = {*docstring_lines(source), *comment_lines(source), *import_lines(source)}
    return [line.strip() for number, line in enumerate(source.lines, 1) if line.strip() and number not in left_out]


def yaml_lines(text: str) -> list[str]:
    """The same of a YAML file."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def repeated(files: Sequence[Sequence[str]]) -> float | None:
    """Share of the lines that stand in a run of RUN lines which is there at another place, too."""
    runs = Counter(tuple(lines[start : start + RUN]) for lines in files for start in range(len(lines) - RUN + 1))
    again = 0
    for lines in files:
        starts = [at for at in range(len(lines) - RUN + 1) if runs[tuple(lines[at : at + RUN])] > 1]
        again += len({at + step for at in starts for step in range(RUN)})
    total = sum(map(len, files))
    return again / total if total else None


def shown(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Labels and cells of a column."""
    yield "functions / files", f"{figures['functions']:,} / {figures['files']:,}"
    for key in ("function_lines", "file_lines"):
        values = figures[key] or {}
        yield (
            f"{key.replace('_', ' ')} median / p90 / max",
            " / ".join(f"{value:g}" for value in values.values()) or "-",
        )
    for key, label in SHARES.items():
        yield label, "-" if figures[key] is None else f"{figures[key]:.1%}"
    yield "reading length, lines", f"{figures['reading_lines']:,}" if figures["reading_lines"] else "-"


if __name__ == "__main__":
    sys.exit(main())
