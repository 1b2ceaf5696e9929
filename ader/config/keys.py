"""What a key of the configuration is: every one says so where it is declared.

A group of the configuration is a frozen dataclass whose fields are its keys::

    @group
    @dataclass(frozen=True)
    class TrainerOptions:
        epochs: Annotated[Count, Key(RECIPE, "sweeps over the training images")]
        device: Annotated[str, Key(MACHINE, "auto, cpu, cuda or cuda:1", at_eval=True)]

What decides a result's folder, what ``ader eval`` may change and what a dataset's reader is given all follow from these
marks; a key without one fails when the module is imported.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

C = TypeVar("C")

#: The field of a group that takes the keys which it does not name.
REST = "rest"


class Role(Enum):
    """What a key decides."""

    #: The numbers of a result: two runs that differ in it have folders of their own.
    RECIPE = "recipe"
    #: Where and how a result is computed, and what else is kept of it.
    MACHINE = "machine"
    #: Nothing: what a file says of the thing that it describes.
    STATEMENT = "statement"


RECIPE, MACHINE, STATEMENT = Role.RECIPE, Role.MACHINE, Role.STATEMENT


@dataclass(frozen=True)
class Key:
    """The mark of a key.

    Attributes:
        role: what it decides.
        doc: one line for the documentation.
        at_eval: a stored model may be evaluated again with another value.
        reader: of a dataset: is given to the function that reads it.
    """

    role: Role
    doc: str
    at_eval: bool = False
    reader: bool = False


@dataclass(frozen=True)
class Declared:
    """A key as the documentation shows it.

    Attributes:
        name: dotted; ``method.*`` stands for all that a method's constructor takes.
        type: its values, in words.
        role: what it decides, in a word.
        doc: what it is.
        at_eval: whether ``ader eval`` may change it.
    """

    name: str
    type: str
    role: str
    doc: str
    at_eval: bool


def group(cls: type[C]) -> type[C]:
    """Class decorator: every field is a marked key, or a group itself.

    Raises:
        TypeError: a field is neither.
    """
    own, skipped = typing.get_type_hints(cls, include_extras=True), getattr(cls, "NOT_KEYS", ())
    hints = {each.name: own[each.name] for each in fields(cls) if each.name not in skipped}  # type: ignore[arg-type]
    for name, hint in hints.items():
        if not (is_group(hint) or mark_of(hint)):
            raise TypeError(f"{cls.__name__}.{name} has no mark: write {name}: Annotated[..., Key(RECIPE, '...')]")
    cls.__ader_keys__ = hints  # type: ignore[attr-defined]
    return cls


def is_group(hint: Any) -> bool:
    """Whether a type is one of those that ``group`` has seen."""
    return inspect.isclass(hint) and "__ader_keys__" in vars(hint)


def mark_of(hint: Any) -> Key | None:
    """The mark in ``Annotated[..., Key(...)]``."""
    return next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Key)), None)


def marks(cls: type[Any]) -> dict[str, Key]:
    """A group's own keys with their marks; ``rest`` stands for those that it does not name."""
    return {name: mark for name, hint in hints_of(cls).items() if (mark := mark_of(hint))}


def find(cls: type[Any], key: str) -> Key | None:
    """The mark that holds for a dotted key below ``cls``; None where no field takes it."""
    return mark_of(hint_of(cls, key))


def hint_of(cls: type[Any], key: str) -> Any:
    """The type of a dotted key below ``cls``, with its mark; that of ``rest`` where no field has its name, or None."""
    hints = hints_of(cls)
    first, _, below = key.partition(".")
    hint = hints.get(first, hints.get(REST))
    if is_group(hint):
        assert hint is not None
        return hint_of(hint, below)
    return hint


def changeable(cls: type[Any], key: str) -> bool:
    """Whether a stored model may be evaluated again with another value of a key, or another option of a group."""
    hint = hints_of(cls).get(key)
    if is_group(hint):
        assert hint is not None
        return all(mark.at_eval for mark in marks(hint).values())
    mark = find(cls, key)
    return mark is not None and mark.at_eval


def all_changeable(cls: type[Any]) -> list[str]:
    """Those keys, dotted; a group of nothing else stands for itself."""
    names: dict[str, None] = {}
    for key in declared(cls):
        first = key.name.partition(".")[0]
        if key.at_eval:
            names[first if changeable(cls, first) else key.name] = None
    return list(names)


def declared(cls: type[Any], prefix: str = "") -> Iterator[Declared]:
    """All keys below ``cls``, in the order of the fields."""
    for name, hint in hints_of(cls).items():
        if is_group(hint):
            yield from declared(hint, f"{prefix}{name}.")
        elif mark := mark_of(hint):
            shown = f"{prefix}*" if name == REST else f"{prefix}{name}"
            yield Declared(shown, "" if name == REST else words(hint), mark.role.value, mark.doc, mark.at_eval)


def words(hint: Any) -> str:
    """A type as a user would say it: ``integer from 1``, ``bilinear | nearest``, ``text or null``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [
            f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}"
            for each in arguments[1:]
            for item in getattr(each, "metadata", [each])
            for field, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below"))
            if (value := getattr(item, field, None)) is not None
        ]
        return " ".join([words(arguments[0]), *limits])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(words(each) for each in arguments)
    if origin in (list, tuple, Sequence):
        return f"list of {words(arguments[0])}"
    if (inspect.isclass(origin) and issubclass(origin, Mapping)) or is_dataclass(hint):
        return "mapping"
    simple = {int: "integer", float: "number", str: "text", bool: "true | false", type(None): "null", Path: "folder"}
    return simple.get(hint, str(hint))


def hints_of(cls: type[Any]) -> Mapping[str, Any]:
    """The types of a group's keys, by name, with their marks."""
    hints: Mapping[str, Any] = vars(cls)["__ader_keys__"]
    return hints
