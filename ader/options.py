"""Where the configs are and what options they offer; light enough for ``ader --help``."""

from __future__ import annotations

from pathlib import Path

GROUPS = ("dataset", "method", "setting", "trainer", "metric", "experiment")


def config_folder() -> Path:
    """The folder of YAML files: inside the installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def options(group: str) -> list[str]:
    """The options that ``configs/<group>/`` holds, sorted."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
