"""Composes a configuration with Hydra, and explains what is wrong with a command line.

Outside this module a configuration is a typed ``Config`` of the schema; no other code sees Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ader.config.options import config_folder
from ader.config.schema import Composition, Config, RunConfig
from ader.config.validate import typed
from ader.system.errors import UserError, suggest

MISSING = "???"

C = TypeVar("C", bound=Config)


def compose(overrides: Sequence[str], config_dir: str | None = None) -> RunConfig:
    """The configuration of a run: ``configs/run.yaml`` with command-line overrides, typed and checked.

    Args:
        overrides: Hydra's ``group=option`` and ``key=value``.
        config_dir: a folder with further options, searched as well.

    Raises:
        UserError: anything wrong with the overrides; the message names near choices.
    """
    return compose_as(RunConfig, overrides, config_dir)


def compose_as(config_class: type[C], overrides: Sequence[str], config_dir: str | None = None) -> C:
    """As ``compose``, for any config of the schema."""
    return of(config_class, composition(config_class.ROOT, overrides, config_dir))


def of(config_class: type[C], composed: Composition) -> C:
    """The typed config of plain values."""
    return typed(config_class, composed.values, composition=composed)


def changed(config: C, values: Mapping[str, Any]) -> C:
    """The same config with other values, by dotted key: what a command settles itself, not an override."""
    composed = OmegaConf.create(dict(config.composition.values))
    _apply(composed, values)
    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    return of(type(config), replace(config.composition, values={str(key): value for key, value in plain.items()}))


def composition(root: str, overrides: Sequence[str], config_dir: str | None = None) -> Composition:
    """What Hydra composes of ``configs/<root>.yaml``, as plain values: known keys, values not yet checked.

    Raises:
        UserError: anything wrong with the overrides; the message names near choices.
    """
    search = [f"pkg://{point.module}" for point in entry_points(group="ader.configs")]
    if config_dir is not None:
        folder = Path(config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise UserError(f"--config-dir {config_dir}: no such folder")
        search.append(f"file://{folder}")
        config_dir = str(folder)
    quoted = ",".join('"' + place.replace("\\", "\\\\").replace('"', '\\"') + '"' for place in search)
    extra = [f"hydra.searchpath=[{quoted}]"] if search else []
    given_words, overrides = tuple(overrides), [_quoted(text) for text in overrides]
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        parsed = _parse(overrides)
        _check_options(parsed, extra, root)
        config = _compose(overrides, overrides, extra, root)
        choices = _choices(config)
        recipe = _recipe(config)
        given = {key_of(text) for text in overrides} - {*choices}
        _apply(
            config, {key: recipe[key] for key in recipe if not any(f"{key}.".startswith(f"{word}.") for word in given)}
        )
        # a trainer is known by its values: another one with the default's values is the same recipe; so is a protocol
        chosen = [f"{group}={choices[group]}" for group in choices if group not in ("trainer", "protocol")]
        base = _compose(chosen, overrides, extra, root)
        _apply(base, recipe)
        for key in ("seed", "trainer.epochs"):
            if OmegaConf.select(base, key) is not None:
                OmegaConf.update(base, key, OmegaConf.select(config, key))  # and what is interpolated from them
    values, defaults = _plain(config, strict=True), _plain(base, strict=False)
    return Composition(values, defaults, choices, given_words, config_dir)


def _recipe(config: DictConfig) -> dict[str, Any]:
    """The values of the recipe that ``recipe=NAME`` chooses among those of the method's file, by dotted key."""
    name = config.get("recipe")
    if name is None:
        return {}
    recipes: Any = OmegaConf.to_container(config.method.get("recipes") or OmegaConf.create({}), resolve=False)
    if name not in recipes:
        method, protocol = (config.hydra.runtime.choices.get(group) for group in ("method", "protocol"))
        asked = "" if protocol is None else f" (protocol={protocol} is for the methods of its tables)"
        raise UserError(
            f"recipe={name} does not exist for {method}: {suggest(str(name), recipes)}{asked}"
            if recipes
            else f"recipe={name}: method {method} has only its default recipe{asked}"
        )
    return {str(key): value for key, value in recipes[name].items()}


def _apply(config: DictConfig, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        OmegaConf.update(config, key, value, merge=False)


def key_of(override: str) -> str:
    """The key or group that an override names."""
    return override.partition("=")[0].lstrip("+~")


def _quoted(text: str) -> str:
    """An override whose value Hydra's grammar would refuse for its letters alone (a path with an umlaut), quoted.

    So is a path that exists: this program's own folders have commas in their names.
    """
    key, equals, value = text.partition("=")
    if equals and not re.search(r"""['"$\\]""", value) and "/" in value and Path(value).expanduser().exists():
        return f'{key}="{value}"'
    if equals and not re.search(r"""[\[\]{}(),'"$\\]""", value):
        try:
            OverridesParser.create().parse_override(text)
        except HydraException:
            return f'{key}="{value}"'
    return text


def _parse(overrides: Sequence[str]) -> list[Override]:
    parsed = []
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise UserError(f"{text!r} is not an override: write key=value, such as method=rd (ader --help)")
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise UserError(
                f"override {text!r} cannot be read ({_first_line(error)}): quote it, as in 'key=\"value\"'"
            ) from error
        if override.is_sweep_override():
            raise UserError(f"override {text!r} names several values: one run takes one")
        parsed.append(override)
    return parsed


def _check_options(parsed: Sequence[Override], extra: Sequence[str], root: str) -> None:
    """Names near options for a misspelt group choice, and near groups for a misspelt group."""
    groups = _groups(root)
    top = {*groups, *_read(root), "hydra"} - {"defaults"}
    for override in parsed:
        key, value = override.key_or_group, override.value()
        if key.split(".")[0] not in top and not override.is_add():
            raise UserError(f"{override.input_line}: there is no key {key!r}: {suggest(key, top)}")
        if key in groups and isinstance(value, str):
            options = _options(key, extra)
            if value not in options:
                raise UserError(f"{key}={value} does not exist: {suggest(value, options)}")


def _read(root: str) -> dict[str, Any]:
    """The file that everything is composed into."""
    values: dict[str, Any] = yaml.safe_load((config_folder() / f"{root}.yaml").read_text(encoding="utf-8"))
    return values


def _groups(root: str) -> dict[str, str | None]:
    """The groups that ``<root>.yaml`` composes, and their default options."""
    return {group: option for item in _read(root)["defaults"] if item != "_self_" for group, option in item.items()}


def _options(group: str, extra: Sequence[str]) -> list[str]:
    """The options of a group in all folders, those that ``extra`` names included; ``_name.yaml`` is none."""
    loader = GlobalHydra.instance().config_loader()
    found = loader.get_group_options(group, ObjectType.CONFIG, config_name="run", overrides=list(extra))
    return [name for name in found if not name.startswith("_")]


def _compose(overrides: Sequence[str], typed: Sequence[str], extra: Sequence[str], root: str) -> DictConfig:
    try:
        config: DictConfig = hydra_compose(root, overrides=[*overrides, *extra], return_hydra_config=True)
        return config
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, typed, extra, root)) from error
    except RecursionError as error:  # which file began it, Hydra does not say
        raise UserError("the defaults of the chosen YAML files lead in a circle: remove one of them") from error


def _explain(error: Exception, typed: Sequence[str], extra: Sequence[str], root: str) -> str:
    """One line for what Hydra and OmegaConf say in several."""
    text = " ".join(filter(None, (str(error), str(error.__cause__ or ""))))
    group = re.search(r"You must specify '([\w/]+)'", text)
    if group:
        options = re.findall(r"^\t([^\s_]\S*)$", text, flags=re.M)
        return f"{group[1]} is not given: add {group[1]}=NAME; {suggest('', options)}"
    for override in typed:
        key = key_of(override)
        if f"'{key}'" in text or f"override {override}" in text:
            return f"{override}: there is no key {key!r}: {suggest(key, _keys(typed, override, extra, root))}"
    return f"the configuration does not compose: {_first_line(error)}"


def _keys(typed: Sequence[str], without: str, extra: Sequence[str], root: str) -> list[str]:
    """All keys that an override may name, given the group choices typed."""
    groups = _groups(root)
    chosen = [text for text in typed if text != without and text.partition("=")[0] in groups]
    named = {text.partition("=")[0] for text in chosen}
    if "experiment" not in named:
        missing = [group for group, option in groups.items() if option == MISSING and group not in named]
        chosen += [f"{group}={_options(group, extra)[0]}" for group in missing]
    try:
        config = hydra_compose(root, overrides=[*chosen, *extra])
    except (HydraException, OmegaConfBaseException):
        return sorted(groups)
    return sorted({*groups, *_flat(OmegaConf.to_container(config))})


def _flat(values: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield f"{prefix}{key}"
            yield from _flat(value, f"{prefix}{key}.")


def _choices(config: DictConfig) -> dict[str, str]:
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(choices, dict)
    return {
        str(group): str(option)
        for group, option in choices.items()
        if option is not None and not str(group).startswith("hydra/") and group != "experiment"
    }


def _plain(config: DictConfig, strict: bool) -> dict[str, Any]:
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if "recipes" in (own.get("method") or ()):  # what could have been chosen is not part of what was
        OmegaConf.set_struct(own, False)
        del own.method["recipes"]
    try:
        values = OmegaConf.to_container(own, resolve=True, throw_on_missing=strict)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise UserError(f"{key} is not given: add {key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration does not resolve: {_first_line(error)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _first_line(error: Exception) -> str:
    for text in (str(error), str(error.__cause__ or "")):
        if text.strip():
            return text.strip().splitlines()[0]
    return type(error).__name__
