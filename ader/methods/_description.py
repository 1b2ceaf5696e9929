"""What a method's arguments are: their types from the constructor, values from its option, meanings from docstrings."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from ader.config.keys import words
from ader.config.options import comments, read_option
from ader.methods._base import Method, find_class


@dataclass(frozen=True)
class Argument:
    """One argument.

    Attributes:
        key: dotted, as it is typed: ``method.backbone.name``.
        values: what it may be, in words.
        default: the option's value.
        meaning: a sentence.
    """

    key: str
    values: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Description:
    """One option of the group ``method``.

    Attributes:
        method_class: that it names.
        arguments: in the order of its file.
        recipes: what each changes, by name and dotted key.
    """

    method_class: type[Method]
    arguments: tuple[Argument, ...]
    recipes: Mapping[str, Mapping[str, Any]]


def describe(option: str, config_dir: Path | None = None) -> Description:
    """Imports the method, which takes seconds.

    Args:
        option: as ``ader list methods`` prints it.
        config_dir: a folder with further options, vetted.

    Raises:
        UserError: there is no such option or method, or a package that it needs is missing.
    """
    values = read_option("method", option, config_dir=config_dir)
    method_class = find_class(str(values.pop("name")))
    recipes = values.pop("recipes", None) or {}
    said = comments("method", option, config_dir)
    return Description(method_class, tuple(_arguments(method_class, values, said, "method.")), recipes)


def _arguments(
    target: type[Any], values: Mapping[str, Any], said: Mapping[str, str], prefix: str
) -> Iterator[Argument]:
    """The constructor's arguments; those of options inside it follow with dotted keys."""
    function = target if is_dataclass(target) else target.__init__
    hints = typing.get_type_hints(function, include_extras=True)
    meant = documented(target)
    for name, value in values.items():
        hint = hints.get(name)
        inside = [each for each in (hint, *typing.get_args(hint)) if is_dataclass(each) and isinstance(each, type)]
        if inside and isinstance(value, Mapping):
            yield from _arguments(inside[0], value, {}, f"{prefix}{name}.")
        else:
            yield Argument(f"{prefix}{name}", words(hint), value, meant.get(name) or said.get(name, ""))


def documented(target: type[Any]) -> dict[str, str]:
    """Name -> text of the ``Args:`` or ``Attributes:`` of a class's docstring."""
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(target.__doc__ or "").splitlines():
        entry = re.match(r" {4}(\w[\w, ]*): (.*)", line)
        if not line.startswith(" "):
            inside = line in ("Args:", "Attributes:") or (inside and not line)
        elif inside and entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif inside:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
