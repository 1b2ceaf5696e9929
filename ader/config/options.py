"""Where the configs are and what options they offer; light enough for ``ader --help``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ader.config.installed import installed
from ader.system.errors import UserError, suggest

GROUPS = ("dataset", "method", "setting", "trainer", "metric", "protocol", "experiment", "launcher", "logger")


def config_folder() -> Path:
    """The folder of YAML files: inside the installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_folders(config_dir: Path | None = None) -> list[Path]:
    """This package's folder of YAML files, those of installed packages that bring their own, and ``--config-dir``."""
    found = [config_folder()]
    for point in installed("ader.configs"):
        spec = find_spec(point.module)
        found += [Path(folder) for folder in (spec.submodule_search_locations or [] if spec else [])]
    return found if config_dir is None else [*found, config_dir]


def option_file(group: str, name: str, config_dir: Path | None = None) -> Path:
    """The YAML file of one option or base; this package's own folder comes first, as it does for Hydra.

    Raises:
        UserError: no folder has it.
    """
    for folder in config_folders(config_dir):
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return file
    raise UserError(f"no config folder has {group}/{name}.yaml: {suggest(name, _stems(group, config_dir))}")


def read_option(group: str, name: str, above: tuple[str, ...] = (), config_dir: Path | None = None) -> dict[str, Any]:
    """What composes under ``<group>=<name>``, without Hydra: the values of its file over those of its bases.

    Bases are the entries of the file's ``defaults`` that name other files of the group, in this package's folder or
    another's. Choices of other groups, as experiments make them, are not followed.

    Args:
        group, name: of the option, or of a base.
        above: the files whose bases led here, from the option down.
        config_dir: a folder of the user's own, whose files have been vetted.

    Returns:
        Interpolations and ``???`` as they stand.

    Raises:
        UserError: there is no such file, a base is missing, or a file is a base of its own.
    """
    try:
        file = option_file(group, name, config_dir)
    except UserError as error:
        if not above:
            raise
        raise UserError(f"{option_file(group, above[-1], config_dir)}, in its defaults: {error}") from error
    if name in above:
        circle = " -> ".join((*above[above.index(name) :], name))
        raise UserError(f"{file}: the defaults lead in a circle, {circle}: remove one of them")
    own: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    entries = own.pop("defaults", [])
    values: dict[str, Any] = {}
    # bases after _self_ win over the file's own values; without it the file's own win over all
    for entry in entries if "_self_" in entries else [*entries, "_self_"]:
        if entry == "_self_":
            values = merged(values, own)
        elif isinstance(entry, str):
            values = merged(values, read_option(group, entry, (*above, name), config_dir))
    return values


def comments(group: str, name: str, config_dir: Path | None = None) -> dict[str, str]:
    """The comment beside each top-level key of an option's file, those of its bases included.

    Raises:
        UserError: there is no such file.
    """
    content = option_file(group, name, config_dir).read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for base in (yaml.safe_load(content) or {}).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found |= comments(group, base, config_dir)
    return found | dict(re.findall(r"^(\w+):[^#\n]*# (.*)$", content, re.MULTILINE))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base`` as OmegaConf does it: mappings key by key; lists and single values replace."""
    values = dict(base)
    for key, value in over.items():
        below = values.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merged(below, value)
        values[key] = value
    return values


def options(group: str, config_dir: Path | None = None) -> list[str]:
    """The options that ``<group>/`` holds in any of the folders, sorted; ``_name.yaml`` is a base and no option."""
    return [name for name in _stems(group, config_dir) if not name.startswith("_")]


def _stems(group: str, config_dir: Path | None = None) -> list[str]:
    """The names of a group's files, sorted, bases included."""
    return sorted({file.stem for folder in config_folders(config_dir) for file in (folder / group).glob("*.yaml")})
