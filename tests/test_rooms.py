"""The house keeps its order: no import runs upward between rooms, and none closes a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: From the ground floor up: a room imports its own files and those of rooms before it in this list.
ROOMS = (
    "system",
    "published",
    "config",
    "metrics",
    "data",
    "mapfiles",
    "datasets",
    "obtaining",
    "settings",
    "results",
    "report",
    "nets",
    "methods",
    "training",
    "runs",
    "sweeps",
    "commands",
    "testing",
)


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    files = sorted((root / "ader").rglob("*.py"))
    names = [".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


def imports(name: str, file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The package's own modules that a file imports, wherever in it: at its top, in a function, for types only."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively: write the whole name"
            for each in node.names:
                whole = f"{node.module}.{each.name}"
                target = whole if whole in known else node.module
                if target in known:
                    yield target


def graph(root: Path) -> dict[str, set[str]]:
    """What each module imports."""
    known = modules(root)
    return {name: set(imports(name, file, known)) - {name} for name, file in known.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def upward(uses: Mapping[str, set[str]]) -> list[str]:
    """Imports from a room further up, as ``a -> b``."""
    inside = {name: targets for name, targets in uses.items() if room(name) in ROOMS}
    return [
        f"{name} -> {target}"
        for name, targets in inside.items()
        for target in sorted(targets)
        if room(target) and (room(target) not in ROOMS or ROOMS.index(room(target)) > ROOMS.index(room(name)))
    ]


def circle(uses: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other, in order; none where there is no circle."""
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_is_in_a_room():
    loose = {room(name) for name in modules(ROOT)} - {"", "__main__"} - set(ROOMS)
    assert not loose, f"{sorted(loose)} is in no room: say in ROOMS what it may use"


def test_no_import_runs_upward():
    assert upward(graph(ROOT)) == []


def test_no_import_closes_a_circle():
    assert circle(graph(ROOT)) == []


@pytest.mark.parametrize(
    ("files", "wrong", "circular"),
    [
        ({"system/a.py": "from ader.metrics.b import x", "metrics/b.py": ""}, ["ader.system.a -> ader.metrics.b"], 0),
        ({"data/a.py": "def f():\n    import ader.runs.b", "runs/b.py": ""}, ["ader.data.a -> ader.runs.b"], 0),
        ({"data/a.py": "from ader.data import b", "data/b.py": "from ader.data.a import f"}, [], 3),
        ({"runs/a.py": "from ader.data import b", "data/b.py": "import os"}, [], 0),
    ],
)
def test_faults_are_found(files, wrong, circular, tmp_path):
    for name, text in files.items():
        file = tmp_path / "ader" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    uses = graph(tmp_path)
    assert upward(uses) == wrong
    assert len(circle(uses)) == circular
