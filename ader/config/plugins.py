"""Finding methods, datasets and settings by name.

A name is a module: ``rd`` is ``ader/methods/rd.py``; a module whose name starts with an underscore is a helper. A
third-party package adds its own through the entry-point groups ``ader.methods``, ``ader.datasets`` and
``ader.settings`` (name = module), and its YAML files through ``ader.configs``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from ader.config.installed import installed
from ader.system.errors import UserError, suggest


def names(kind: str) -> list[str]:
    """The names of all plugins of a kind, sorted; nothing is imported.

    Args:
        kind: ``"methods"``, ``"datasets"`` or ``"settings"``.
    """
    return sorted(_own(kind) | set(_foreign(kind)))


def load(kind: str, name: str) -> ModuleType:
    """Imports the module of one plugin.

    Raises:
        UserError: there is no such plugin, or a package that it needs is not installed.
    """
    if name in _own(kind):
        path = f"ader.{kind}.{name}"
    elif name in (foreign := _foreign(kind)):
        path = foreign[name].module
    else:
        raise UserError(f"{kind[:-1]} {name!r} does not exist: {suggest(name, names(kind))}")
    try:
        return importlib.import_module(path)
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


def load_function(kind: str, name: str, signature: str) -> Callable[..., Any]:
    """The function of one plugin: the one named like it, with ``_`` for ``-``.

    Args:
        kind, name: the plugin.
        signature: what it should look like after its name, for messages.

    Raises:
        UserError: as for ``load``, or its module lacks the function.
    """
    module, wanted = load(kind, name), name.replace("-", "_")
    function: Callable[..., Any] | None = getattr(module, wanted, None)
    if not callable(function):
        raise UserError(f"{kind[:-1]} {name!r}: {module.__file__} has no function {wanted}{signature}: add one")
    return function


def _own(kind: str) -> set[str]:
    """This package's, found without importing it: ``ader.methods`` would import torch."""
    spec = importlib.util.find_spec("ader")
    folders = spec.submodule_search_locations or [] if spec else []
    modules = pkgutil.iter_modules([f"{folder}/{kind}" for folder in folders])
    return {module.name for module in modules if not module.name.startswith("_")}


def _foreign(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in installed(f"ader.{kind}")}
