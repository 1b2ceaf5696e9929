"""Where the configs are and what options they offer; light enough for ``ader --help``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

GROUPS = ("dataset", "method", "setting", "trainer", "metric", "experiment")


def config_folder() -> Path:
    """The folder of YAML files: inside the installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_folders() -> list[Path]:
    """This package's folder of YAML files, and those of installed packages that bring their own."""
    found = [config_folder()]
    for point in entry_points(group="ader.configs"):
        spec = find_spec(point.module)
        found += [Path(folder) for folder in (spec.submodule_search_locations or [] if spec else [])]
    return found


def option_file(group: str, name: str) -> Path:
    """The YAML file of one option."""
    return next(file for folder in config_folders() if (file := folder / group / f"{name}.yaml").is_file())


def read_option(group: str, name: str) -> dict[str, Any]:
    """What that file says, on top of the options of the group that its ``defaults`` name; interpolations as they
    stand."""
    own: dict[str, Any] = yaml.safe_load(option_file(group, name).read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for base in own.pop("defaults", ()):
        values = merged(values, read_option(group, base))
    return merged(values, own)


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``: mappings key by key, all else as a whole."""
    values = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
        values[key] = merged(values[key], value) if both else value
    return values


def options(group: str) -> list[str]:
    """The options that ``<group>/`` holds in any of the folders, sorted."""
    return sorted({path.stem for folder in config_folders() for path in (folder / group).glob("*.yaml")})
