"""Checks a config's values against the signature of what they are passed to."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from ader.system.errors import UserError, suggest


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
    hints = typing.get_type_hints(function, include_extras=True)
    for name in arguments:
        if name not in parameters:
            raise UserError(f"{prefix}{name} is not known to {target.__name__}: {suggest(name, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"{prefix}{name} has no value: give {prefix}{name}=...")
    return {name: _convert(hints.get(name, Any), value, f"{prefix}{name}") for name, value in arguments.items()}


def _convert(hint: Any, value: Any, where: str) -> Any:
    try:
        adapter = TypeAdapter(hint, config=_config(hint))
    except PydanticSchemaGenerationError:
        return value  # a type only Python code can pass, such as a module
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first, *others = error.errors()
        # the location holds keys and, for unions, the names of the types that were tried; keep the keys
        place = ".".join(str(part) for part in first["loc"] if isinstance(value, Mapping) and part in value)
        tried = [first, *others] if not isinstance(value, Mapping) else [first]  # what each type of a union says
        reasons = "; or ".join(dict.fromkeys(each["msg"].lower() for each in tried))
        raise UserError(f"{where}{'.' + place if place else ''}={first['input']!r} does not fit: {reasons}") from error


def _config(hint: Any) -> ConfigDict | None:
    """None for types that carry their own pydantic settings (dataclasses): pydantic refuses to have both."""
    return None if hasattr(hint, "__dataclass_fields__") else ConfigDict(arbitrary_types_allowed=False)


def without_weights(values: Mapping[str, Any]) -> dict[str, Any]:
    """A method's arguments with ``pretrained`` false everywhere: to measure what it costs, or to load weights that were
    trained elsewhere, no pretrained ones are needed, nor a network."""
    plain = {key: without_weights(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: False if key == "pretrained" else value for key, value in plain.items()}
