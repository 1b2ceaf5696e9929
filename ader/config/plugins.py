"""Finding methods and datasets by name.

A name is a module: ``rd`` is ``ader/methods/rd.py``. A third-party package adds its own through the entry-point
groups ``ader.methods`` and ``ader.datasets`` (name = module), and its YAML files through ``ader.configs``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from ader.system.errors import UserError, suggest


def names(kind: str) -> list[str]:
    """The names of all plugins of a kind (``"methods"`` or ``"datasets"``), sorted; nothing is imported."""
    return sorted(_own(kind) | set(_foreign(kind)))


def load(kind: str, name: str) -> ModuleType:
    """Imports the module of one plugin.

    Raises:
        UserError: there is no such plugin, or a package that it needs is not installed.
    """
    foreign = _foreign(kind)
    if name not in _own(kind) and name not in foreign:
        raise UserError(f"{kind[:-1]} {name!r} does not exist: {suggest(name, names(kind))}")
    try:
        if name in _own(kind):
            return importlib.import_module(f"ader.{kind}.{name}")
        module: ModuleType = importlib.import_module(foreign[name].module)
        return module
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "ader":
            raise
        raise UserError(missing(kind, name, error.name)) from error


def missing(kind: str, name: str, package: str) -> str:
    """What is said of a plugin whose package is not there."""
    return f"{kind[:-1]} {name!r} needs the package {package!r}, which is not installed: pip install {package}"


def file_of(kind: str, name: str) -> Path:
    """The source of one plugin's module, which is not imported.

    Raises:
        UserError: there is no such plugin.
    """
    foreign = _foreign(kind)
    if name not in _own(kind) and name not in foreign:
        raise UserError(f"{kind[:-1]} {name!r} does not exist: {suggest(name, names(kind))}")
    if name in _own(kind):
        return Path(__file__).parents[1] / kind / f"{name}.py"
    spec = importlib.util.find_spec(foreign[name].module)
    if spec is None or spec.origin is None:
        raise UserError(f"{kind[:-1]} {name!r} is to be {foreign[name].module}, which is no module: install it again")
    return Path(spec.origin)


def _own(kind: str) -> set[str]:
    package = importlib.import_module(f"ader.{kind}").__path__ if kind != "methods" else _methods_path()
    return {info.name for info in pkgutil.iter_modules(package) if not info.name.startswith("_")}


def _methods_path() -> list[str]:
    """The folder of ``ader.methods`` without importing it (its ``__init__`` imports torch)."""
    spec = importlib.util.find_spec("ader")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return [f"{folder}/methods" for folder in spec.submodule_search_locations]


def _foreign(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"ader.{kind}")}
