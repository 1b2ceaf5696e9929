"""Checks a config's values: against its schema, and against the signature of what they are passed to."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from ader.config.keys import REST, hints_of, is_group
from ader.system.errors import UserError, suggest

C = TypeVar("C")

#: Every number of a configuration is finite.
CONFIG = ConfigDict(arbitrary_types_allowed=False, allow_inf_nan=False)

#: Characters of a value in a message.
LONGEST = 120


def typed(cls: type[C], values: Mapping[str, Any], where: str = "", **given: Any) -> C:
    """A group of the schema, and the groups in it, from plain values.

    Args:
        cls: a class that ``ader.config.keys.group`` has marked.
        values: as YAML and the command line give them.
        where: the group, for messages; empty for a whole config.
        **given: fields that are no keys.

    Raises:
        UserError: an unknown or missing key, or a value of the wrong kind.
    """
    hints, prefix = hints_of(cls), f"{where}." if where else ""
    rest = {str(name): value for name, value in values.items() if name not in hints or name == REST}
    if rest and REST not in hints:
        name = next(iter(rest))
        raise UserError(f"there is no key {prefix}{name}: {suggest(name, hints)}")
    read: dict[str, Any] = {REST: rest} if REST in hints else {}
    for each in fields(cls):  # type: ignore[arg-type]
        if each.name not in hints or each.name == REST:
            continue
        if each.name not in values:
            if each.default is MISSING and each.default_factory is MISSING:
                raise UserError(f"{prefix}{each.name} has no value: give {prefix}{each.name}=...")
            continue
        value, place = values[each.name], f"{prefix}{each.name}"
        if not is_group(hints[each.name]):
            read[each.name] = _convert(hints[each.name], value, place)
        elif isinstance(value, Mapping):
            read[each.name] = typed(hints[each.name], value, place)
        else:
            raise UserError(f"{place}={_short(value)} is not a group of keys: choose one of its options")
    return cls(**given, **read)


def validated(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments converted to the types that ``target`` declares.

    Args:
        target: a function or class.
        arguments: its keyword arguments, as read from YAML or the command line.
        where: the config group, for messages (``"method"`` gives ``method.lr=...``); may be empty.

    Raises:
        UserError: an unknown or missing name, or a value of the wrong kind.
    """
    function = target.__init__ if inspect.isclass(target) else target
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    prefix = f"{where}." if where else ""
    hints = _hints(function)
    for name in arguments:
        if name not in parameters:
            raise UserError(f"{prefix}{name} is not known to {target.__name__}: {suggest(name, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"{prefix}{name} has no value: give {prefix}{name}=...")
    return {name: _convert(hints.get(name, Any), value, f"{prefix}{name}") for name, value in arguments.items()}


@functools.lru_cache(maxsize=256)
def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    return typing.get_type_hints(function, include_extras=True)


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """What reads a type's values; None for a type that only Python code can pass, such as a module."""
    # pydantic refuses a setting for types that carry their own (dataclasses)
    config = None if hasattr(hint, "__dataclass_fields__") else CONFIG
    try:
        return TypeAdapter(hint, config=config)
    except PydanticSchemaGenerationError:
        return None


#: It takes milliseconds to make one, and a configuration has a hundred keys.
_kept_adapter = functools.lru_cache(maxsize=1024)(_adapter)


def _convert(hint: Any, value: Any, where: str) -> Any:
    try:
        hash(hint)
    except TypeError:  # what a plugin's author annotates it with
        adapter = _adapter(hint)
    else:
        adapter = _kept_adapter(hint)
    if adapter is None:
        return value
    try:
        converted = adapter.validate_python(value)
    except ValidationError as error:
        raise UserError(_reason(error, value, where)) from error
    except RecursionError as error:
        raise UserError(f"{where}={_short(value)} does not fit: it is nested too deeply") from error
    if switch := _switched(value, converted, where):
        raise UserError(f"{switch} does not fit: a number is wanted")
    return converted


def _reason(error: ValidationError, value: Any, where: str) -> str:
    first, *others = error.errors(include_url=False)
    # the location holds keys and, for unions, the names of the types that were tried; keep the keys
    place = ".".join(str(part) for part in first["loc"] if isinstance(value, Mapping) and part in value)
    tried = [first, *others] if not isinstance(value, Mapping) else [first]  # what each type of a union says
    reasons = "; or ".join(dict.fromkeys(each["msg"].lower().removeprefix("value error, ") for each in tried))
    if any(
        each["type"] == "string_type" and not isinstance(each["input"], (Mapping, list, type(None)))
        for each in tried[:1]
    ):
        reasons += "; in a YAML file a name such as 1.10, 010 or on stands in quotation marks"
    return f"{where}{'.' + place if place else ''}={_short(first['input'])} does not fit: {reasons}"


def _switched(value: Any, converted: Any, where: str) -> str | None:
    """Where pydantic took true for 1, or false for 0; which no one means who writes ``epochs=true``."""
    if isinstance(value, bool):
        return None if isinstance(converted, (bool, str)) else f"{where}={value!r}"
    if isinstance(value, Mapping):
        below = converted if isinstance(converted, Mapping) else getattr(converted, "__dict__", {})
        return next(filter(None, (_switched(value[key], below.get(key), f"{where}.{key}") for key in value)), None)
    if isinstance(value, (list, tuple)) and isinstance(converted, (list, tuple)):
        pairs = zip(value, converted, strict=False)
        return next(filter(None, (_switched(before, after, where) for before, after in pairs)), None)
    return None


def _short(value: Any) -> str:
    """A value as messages show it."""
    if value is None:
        return "null"
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer of too many digits
        return "..."
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def without_weights(values: Mapping[str, Any]) -> dict[str, Any]:
    """A method's arguments with ``pretrained`` false everywhere: to measure what it costs, or to load weights that were
    trained elsewhere, no pretrained ones are needed, nor a network."""
    plain = {key: without_weights(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: False if key == "pretrained" else value for key, value in plain.items()}
