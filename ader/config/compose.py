"""Composes a configuration with Hydra, and explains what is wrong with a command line.

Outside this module a configuration is plain dictionaries; no other code sees Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

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
from ader.system.errors import UserError, suggest

MISSING = "???"


@dataclass(frozen=True)
class Composed:
    """A composed configuration.

    Attributes:
        values: all groups, interpolations resolved.
        defaults: the same choices without any value overridden (and without the experiment), but with the default
            trainer's values for these epochs and this seed.
        choices: the option taken in each group.
        overrides, config_dir: what it was composed from.
    """

    values: dict[str, Any]
    defaults: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...] = ()
    config_dir: str | None = None

    def as_yaml(self) -> str:
        """The configuration as YAML, as ``--cfg`` prints it."""
        return OmegaConf.to_yaml(OmegaConf.create(self.values))


@dataclass(frozen=True)
class Flags:
    """What a command line says besides overrides."""

    cfg: bool = False
    config_dir: str | None = None


def take_flags(words: Sequence[str]) -> tuple[Flags, list[str]]:
    """Separates ``--cfg`` and ``--config-dir DIR`` from the overrides.

    Raises:
        UserError: an unknown flag, or a folder is missing.
    """
    cfg, config_dir, overrides = False, None, []
    rest = iter(words)
    for word in rest:
        if word == "--cfg":
            cfg = True
        elif word.startswith("--config-dir"):
            config_dir = word.partition("=")[2] or next(rest, None)
            if not config_dir:
                raise UserError("--config-dir needs a folder: --config-dir DIR")
        elif word in ("-m", "--multirun"):
            raise UserError(f"{word}: this version has no sweeps yet: give one command per run")
        elif word.startswith("-"):
            raise UserError(f"{word} is not a flag: {suggest(word, ['--cfg', '--config-dir', '--help', '--version'])}")
        else:
            overrides.append(word)
    return Flags(cfg, config_dir), overrides


def compose(overrides: Sequence[str], config_dir: str | None = None, root: str = "run") -> Composed:
    """Composes ``configs/<root>.yaml`` with command-line overrides.

    Args:
        overrides: Hydra's ``group=option`` and ``key=value``.
        config_dir: a folder with further options, searched as well.
        root: what is composed: ``"run"`` or ``"score"``.

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
    typed, overrides = tuple(overrides), [_quoted(text) for text in overrides]
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        parsed = _parse(overrides)
        _check_options(parsed, extra, root)
        config = _compose(overrides, overrides, extra, root)
        choices = _choices(config)
        recipe = _recipe(config)
        given = {key_of(text) for text in overrides} - {*choices}
        _apply(config, {key: recipe[key] for key in recipe if not any(_holds(typed, key) for typed in given)})
        # a trainer is known by its values: another one with the default's values is the same recipe
        chosen = [f"{group}={choices[group]}" for group in choices if group != "trainer"]
        base = _compose(chosen, overrides, extra, root)
        _apply(base, recipe)
        for key in ("seed", "trainer.epochs"):
            if OmegaConf.select(base, key) is not None:
                OmegaConf.update(base, key, OmegaConf.select(config, key))  # and what is interpolated from them
    return Composed(_plain(config, strict=True), _plain(base, strict=False), choices, typed, config_dir)


def _recipe(config: DictConfig) -> dict[str, Any]:
    """The values of the recipe that ``recipe=NAME`` chooses among those of the method's file, by dotted key."""
    name = config.get("recipe")
    if name is None:
        return {}
    recipes: Any = OmegaConf.to_container(config.method.get("recipes") or OmegaConf.create({}), resolve=False)
    if name not in recipes:
        method = config.method.name
        raise UserError(
            f"recipe={name} does not exist for {method}: {suggest(str(name), recipes)}"
            if recipes
            else f"recipe={name}: method {method} has only its default recipe"
        )
    return {str(key): value for key, value in recipes[name].items()}


def _apply(config: DictConfig, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        OmegaConf.update(config, key, value, merge=False)


def _holds(typed: str, key: str) -> bool:
    """Whether an override of ``typed`` decides the value of ``key``."""
    return key == typed or key.startswith(f"{typed}.")


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
    """The options of a group in all folders, those that ``extra`` names included; a ``_name.yaml`` is only a base."""
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
