"""What a method says of itself, read without importing it: torch takes seconds, which ``ader list`` has not."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ader.config import plugins
from ader.system.errors import UserError

#: The labels that training sees: none (normal images only), image labels, or pixel masks as well.
Supervision = Literal["normal", "image", "pixel"]


@dataclass(frozen=True)
class Tags:
    """What a method is, for the runner's checks and for tables.

    Attributes:
        maps: whether it localizes.
        supervision: the labels it trains with: none (``"normal"``), image labels, or pixel masks.
        paper: short citation, for ``ader list methods``.
        reference: what the method was compared with, as repositories with commits, or ``"none: why"``. ``parity/`` has
            the comparison.
    """

    maps: bool = True
    supervision: Supervision = "normal"
    paper: str = ""
    reference: str = ""


def read_tags(name: str) -> Tags:
    """The tags in a method's file.

    Args:
        name: of the module.

    Raises:
        UserError: there is no such method, or a package that it imports is not installed.
    """
    file = plugins.file_of("methods", name)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for package in _imported(tree):
        if importlib.util.find_spec(package) is None:
            raise UserError(plugins.missing("methods", name, package))
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(target=ast.Name("tags"), value=ast.Call() as call):
                return _tags(call, file)
            case ast.Assign(targets=[ast.Name("tags")], value=ast.Call() as call):
                return _tags(call, file)
    return Tags()


def _imported(tree: ast.Module) -> Iterator[str]:
    """Packages that the module imports when it is imported itself, at its top."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _tags(call: ast.Call, file: Path) -> Tags:
    try:
        return Tags(**{str(each.arg): ast.literal_eval(each.value) for each in call.keywords})
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}:{call.lineno}: write tags = Tags(name=value, ...) with plain values") from error
