"""Which keys are text, and what was typed for them.

Hydra's grammar reads ``1.10`` as a number, ``2024_05_01`` as another and refuses a path with a comma. Where a key is
text, or a list of texts, its words stand for themselves: ``run=2024_05_01``, ``dataset.categories=[1.10,on]``,
``dataset.root=/data/a,b``. Only ``null``, quotation marks around the whole and ``${...}`` keep their meaning.
"""

from __future__ import annotations

import ast
import functools
import re
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from ader.config import plugins
from ader.system.errors import UserError


class Text(Enum):
    """How much text a key takes."""

    ONE = "one"
    LIST = "list"
    #: Of a mapping: each of its values is one.
    EACH = "each"


#: A quoted text, whole.
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
#: What stands between the commas of a list.
ITEM = re.compile(rf"\s*(?:(?P<quoted>{QUOTED.pattern})|(?P<bare>[^,\[\]{{}}'\"]*?))\s*(?:,|$)", re.DOTALL)


def of_hint(hint: Any) -> Text | None:
    """How much text a type takes; None where it is none, or not only text."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return of_hint(arguments[0])
    if origin in (types.UnionType, typing.Union):
        found = {of_hint(each) for each in arguments if each is not type(None)}
        return found.pop() if len(found) == 1 else None
    if origin in (list, tuple, Sequence) and arguments:
        return Text.LIST if of_hint(arguments[0]) is Text.ONE else None
    return Text.ONE if hint in (str, Path) else None


def of_arguments(kind: str, name: str) -> dict[str, Text | None]:
    """The same of a plugin's arguments, whose module is read and not imported: torch takes seconds.

    Args:
        kind: ``"methods"``, ``"settings"`` or ``"datasets"``.
        name: the plugin's.

    Returns:
        By argument; empty where there is no such plugin.
    """
    try:
        return dict(_of_source(plugins.file_of(kind, name).read_text(encoding="utf-8"), name))
    except (UserError, OSError, SyntaxError, ValueError, ModuleNotFoundError):
        return {}  # said better where it is needed


@functools.lru_cache(maxsize=64)
def _of_source(source: str, name: str) -> dict[str, Text | None]:
    tree = ast.parse(source)
    return {
        each.arg: _of_annotation(ast.unparse(each.annotation))
        for function in _functions(tree, name.replace("-", "_"))
        for each in (*function.args.args, *function.args.kwonlyargs)
        if each.annotation is not None
    }


def _functions(tree: ast.Module, name: str) -> Iterator[ast.FunctionDef]:
    """The function of that name, and the constructors of classes that predict."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield node
        elif isinstance(node, ast.ClassDef):
            methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
            if {"__init__", "predict"} <= set(methods):
                yield methods["__init__"]


def _of_annotation(source: str) -> Text | None:
    plain = source.removesuffix(" | None")
    if plain in ("str", "Path"):
        return Text.ONE
    if plain == "Mapping[str, str]":
        return Text.EACH
    return Text.LIST if re.fullmatch(r"(list|tuple|Sequence)\[str(, \.\.\.)?\]", plain) else None


def read_one(typed: str) -> str | None:
    """The text that was typed."""
    if typed == "null":
        return None
    return _unquoted(typed) if QUOTED.fullmatch(typed) else typed


def read_list(word: str, typed: str) -> list[str] | str | None:
    """The texts that were typed as ``[a,b]``; one alone needs no brackets.

    Args:
        word: the whole override, for messages.
        typed: its value.

    Raises:
        UserError: commas without brackets, or brackets in brackets.
    """
    if not (typed.startswith("[") and typed.endswith("]")):
        if "," in typed and not QUOTED.fullmatch(typed):
            raise UserError(f"{word}: write several in brackets: '{word.partition('=')[0]}=[{typed}]'")
        return read_one(typed)
    inside, place, items = typed[1:-1].strip(), 0, list[str]()
    while place < len(inside):
        found = ITEM.match(inside, place)
        if found is None:
            raise UserError(f"{word} is no list of names: put names with brackets, braces or commas in quotation marks")
        items.append(_unquoted(found["quoted"]) if found["quoted"] is not None else found["bare"])
        place = found.end()
    return items


def _unquoted(text: str) -> str:
    return re.sub(rf"\\([\\{text[0]}])", r"\1", text[1:-1])
