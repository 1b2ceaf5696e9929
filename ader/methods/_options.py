"""Methods by the names of their options: what a config does, without Hydra.

An option is a file ``method/<option>.yaml``: its ``name`` is the method's module, and its other keys are arguments of
the constructor. Several options may name one method, as ``invad`` and ``invad_lite`` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ader.config.options import merged, options, read_option
from ader.methods._base import Method, find_class, recipe_arguments
from ader.system.errors import UserError, suggest


def build(name: str, *, image_size: int = 256, **arguments: Any) -> Method:
    """Makes a method from the name of its option.

    Args:
        name: a method's option, as ``ader list methods`` prints it.
        image_size: pixels; passed on to methods whose layers depend on it.
        **arguments: constructor arguments; those left out have the option's values. Mappings (``backbone``) go over
            the option's key by key.

    Raises:
        UserError: unknown option, unknown argument, or a value of the wrong kind.
    """
    method_class = option_class(name)
    given = merged(option_arguments(name), arguments)
    return method_class(**recipe_arguments(method_class, image_size, given))


def option_class(option: str) -> type[Method]:
    """The class that an option names.

    Raises:
        UserError: there is no such option, no such method, or a package that it needs is missing.
    """
    return find_class(str(_read(option)["name"]))


def option_arguments(option: str, recipe: str | None = None) -> dict[str, Any]:
    """The constructor's arguments that an option states. Those that it takes from elsewhere (``${paths.weights}``) are
    left out, unless the recipe says what stands there: they have the constructor's defaults.

    Args:
        option: as ``ader list methods`` prints it.
        recipe: one of the option's ``recipes``.

    Raises:
        UserError: there is no such option or recipe.
    """
    values = _read(option)
    recipes = values.get("recipes") or {}
    if recipe is not None and recipe not in recipes:
        raise UserError(f"recipe={recipe} does not exist for {option}: {suggest(recipe, recipes)}")
    changes = recipes[recipe] if recipe is not None else {}
    arguments = stated({key: value for key, value in values.items() if key not in ("name", "recipes")}, changes)
    for key, value in changes.items():
        group, *parts = key.split(".")
        if group == "method":
            for part in reversed(parts):
                value = {part: value}
            arguments = merged(arguments, value)
    return arguments


def stated(values: Mapping[str, Any], elsewhere: Mapping[str, Any]) -> dict[str, Any]:
    """A YAML file's values, interpolations (``${trainer.epochs}``) replaced by what ``elsewhere`` has or left out."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found[key] = stated(value, elsewhere)
        elif not (isinstance(value, str) and value.startswith("${")):
            found[key] = value
        elif value[2:-1] in elsewhere:
            found[key] = elsewhere[value[2:-1]]
    return found


def _read(option: str) -> dict[str, Any]:
    if option not in options("method"):
        raise UserError(f"method {option!r} does not exist: {suggest(option, options('method'))}")
    return read_option("method", option)
