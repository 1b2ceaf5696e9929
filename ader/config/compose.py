"""Composes a configuration with Hydra, and explains what is wrong with a command line.

Outside this module a configuration is a typed ``Config`` of the schema; no other code sees Hydra.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ader.config import text
from ader.config.foreign import circle, read_yaml, vetted
from ader.config.installed import installed
from ader.config.keys import declared, hint_of
from ader.config.options import config_folder
from ader.config.overrides import Word, is_named, key_of, read
from ader.config.schema import Composition, Config, RunConfig
from ader.config.validate import typed
from ader.system.errors import UserError, suggest

__all__ = ["changed", "compose", "compose_as", "composition", "key_of", "of"]

MISSING = "???"

#: What the groups name whose other keys are arguments: a kind of plugin.
PLUGINS = {"method": "methods", "setting": "settings", "dataset": "datasets"}

#: Groups of which several options may be chosen, such as ``logger=[csv,wandb]``; no choice is known of them.
SEVERAL = ("logger",)

#: What files state and no one types.
STATED = ("method.recipes.", "dataset.about.", "dataset.counts.")

C = TypeVar("C", bound=Config)

#: Compositions without overridden values, by the options that were chosen.
Known = dict[tuple[str, ...], DictConfig]

#: Those of this process, by what else they depend on: installed files, which stay as they are while it lives.
_INSTALLED: dict[tuple[str, ...], Known] = {}

#: The options of groups, likewise.
_OPTIONS: dict[tuple[str, ...], list[str]] = {}


def compose(overrides: Sequence[str], config_dir: str | None = None, known: Known | None = None) -> RunConfig:
    """The configuration of a run: ``configs/run.yaml`` with command-line overrides, typed and checked.

    Args:
        overrides: Hydra's ``group=option`` and ``key=value``.
        config_dir: a folder with further options, searched as well.
        known: of earlier compositions, for many in a row; empty at first.

    Raises:
        UserError: anything wrong with the overrides; the message names near choices.
    """
    return of(RunConfig, composition(RunConfig, overrides, config_dir, known))


def compose_as(config_class: type[C], overrides: Sequence[str], config_dir: str | None = None) -> C:
    """As ``compose``, for any config of the schema."""
    return of(config_class, composition(config_class, overrides, config_dir))


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


def composition(
    config_class: type[Config], overrides: Sequence[str], config_dir: str | None = None, known: Known | None = None
) -> Composition:
    """What Hydra composes of ``configs/<root>.yaml``, as plain values: known keys, values not yet checked.

    Raises:
        UserError: anything wrong with the overrides; the message names near choices.
    """
    words, folder = read(overrides), None if config_dir is None else vetted(config_dir)
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            return _Composer(config_class, words, folder, known).compose(tuple(overrides))
    except RecursionError as error:
        raise UserError("the overrides are nested too deeply: put such values into a YAML file") from error


class _Composer:
    """One command line on its way through Hydra, which is initialized.

    Args:
        config_class: what is composed.
        words: the command line.
        folder: with further options.
        known: what was composed before without any value overridden; what this process has of installed files
            by default.
    """

    def __init__(
        self, config_class: type[Config], words: Sequence[Word], folder: Path | None, known: Known | None
    ) -> None:
        self.config_class, self.folder = config_class, folder
        search = [f"pkg://{point.module}" for point in installed("ader.configs")]
        search += [] if folder is None else [f"file://{folder}"]
        quoted = ",".join(map(_quoted, search))
        self.extra = [f"hydra.searchpath=[{quoted}]"] if search else []
        self.searched = None if folder else (str(config_folder()), *search)
        if known is None:
            known = _INSTALLED.setdefault((config_class.ROOT, *self.searched), {}) if self.searched else {}
        self.known = known
        self.root = read_yaml(config_folder() / f"{config_class.ROOT}.yaml")
        #: The groups that are composed, and their default options.
        self.groups: dict[str, str | None] = {
            group: option for item in self.root["defaults"] if item != "_self_" for group, option in item.items()
        }
        #: An experiment or a protocol that is none is not chosen.
        none = {group for group, option in self.groups.items() if option is None}
        self.words = [word for word in words if not (word.key in none and word.typed == "null")]
        self.choosing = [word for word in self.words if word.key in self.groups]
        self.setting = [word for word in self.words if word.key not in self.groups]

    def compose(self, overrides: tuple[str, ...]) -> Composition:
        """The plain values; ``overrides`` are kept with them."""
        self._check()
        config = self._composed()
        choices = _choices(config)
        # a trainer is known by its values: another one with the default's values is the same recipe; so is a protocol
        base = self._base({group: choices[group] for group in choices if group not in ("trainer", "protocol")})
        self._set_texts(config, base)
        recipe = _recipe(config)
        given = {word.key for word in self.words} - {*choices}
        _apply(
            config, {key: recipe[key] for key in recipe if not any(f"{key}.".startswith(f"{word}.") for word in given)}
        )
        _apply(base, recipe)
        values = _plain(config, strict=True)
        for key in ("seed", "trainer.epochs"):
            if OmegaConf.select(base, key) is not None:
                OmegaConf.update(base, key, OmegaConf.select(config, key))  # and what is interpolated from them
        return Composition(
            values, _plain(base, strict=False), choices, overrides, None if self.folder is None else str(self.folder)
        )

    def _composed(self) -> DictConfig:
        """The words' options, with the words' values, which Hydra sets after it has composed the options."""
        words = {True: list[str](), False: list[str]()}
        for word in self.words:
            words[word.key in self.groups].append(self._for_hydra(word))
        if any(re.match(r"[^=]*[/@]|[+~]*hydra\b", word) for word in words[False]):  # groups of others
            return self._hydra(words[True] + words[False])
        config = self._options_alone(tuple(words[True]))
        loader = GlobalHydra.instance().config_loader()
        try:
            values = OverridesParser.create(config_loader=loader).parse_overrides(words[False])
            loader.validate_sweep_overrides_legal(values, run_mode=RunMode.RUN, from_shell=False)
            loader._apply_overrides_to_config(values, config)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(self._explain(error)) from error
        return config

    def _base(self, choices: Mapping[str, str]) -> DictConfig:
        """These options, without any value overridden."""
        return self._options_alone(tuple(f"{group}={_quoted(option)}" for group, option in choices.items()))

    def _options_alone(self, words: tuple[str, ...]) -> DictConfig:
        """What Hydra composes of options."""
        if words not in self.known:
            self.known[words] = self._hydra(words)
        return copy.deepcopy(self.known[words])

    def _for_hydra(self, word: Word) -> str:
        if word.key in self.groups:
            options = _several(word)
            listed = None if options is None else f"[{','.join(map(_quoted, options))}]"
            return f"{word.key}={listed or _quoted(word.typed or '')}"
        return word.for_hydra(self.config_class)

    def _check(self) -> None:
        """Names near options for a misspelt choice of a group, and near keys for one that is none."""
        for word in self.choosing:
            self._check_choice(word)
        top = {*self.groups, *self.root} - {"defaults"}
        for word in self.setting:
            if word.key.split(".")[0] not in top and word.prefix not in ("+", "++"):
                raise UserError(f"{word.word}: there is no key {word.key!r}: {self._near(word)}")

    def _check_choice(self, word: Word) -> None:
        group, option = word.key, word.typed
        if word.prefix == "~" or option is None:
            raise UserError(f"{word.word}: the group {group} cannot be left out: choose {group}=NAME")
        if word.prefix:
            raise UserError(f"{word.word}: the group {group} is there already: leave the {word.prefix} out")
        several = _several(word)
        if several is None and (option[:1] in ("[", "{") or "," in option):
            if group in SEVERAL:
                raise UserError(f"{word.word}: write several in brackets: '{group}=[{option.strip('[]{}')}]'")
            raise UserError(f"{word.word}: {group} takes the name of one option: ader -m runs each of several")
        options = self._options(group)
        for each in several or [option]:
            if each not in options:
                raise UserError(f"{group}={each} does not exist: {suggest(each, options)}")

    def _set_texts(self, config: DictConfig, base: DictConfig) -> None:
        """Sets the keys that are text to what was typed, where Hydra has read a number or nothing.

        Raises:
            UserError: a word that Hydra could not read is no text, or a group of keys is given one value.
        """
        for word in self.setting:
            if word.prefix == "~" or word.typed is None:
                continue
            match self._text(word, config, base):
                case text.Text.ONE:
                    self._set(config, word, text.read_one(word.typed))
                case text.Text.LIST:
                    self._set(config, word, text.read_list(word.word, word.typed))
                case _ if word.fault:
                    raise UserError(f"override {word.word[:200]!r}: {word.fault}")
                case _:
                    self._check_group(word, base)

    def _set(self, config: DictConfig, word: Word, value: str | list[str] | None) -> None:
        try:
            _apply(config, {word.key: value})
        except OmegaConfBaseException as error:
            raise UserError(f"{word.word}: {_first_line(error)}: correct what stands in ${{...}}") from error

    def _text(self, word: Word, config: DictConfig, base: DictConfig) -> text.Text | None:
        if is_named(self.config_class, word.key):
            return text.of_hint(hint_of(self.config_class, word.key))
        group, _, rest = word.key.partition(".")
        if group not in PLUGINS or group not in self.groups:
            return None
        argument, _, below = rest.partition(".")
        known = text.of_arguments(PLUGINS[group], str(_select(config, f"{group}.name")))
        if not below and argument in known:
            return known[argument]
        if known.get(argument) is text.Text.EACH or isinstance(_select(base, word.key), str):
            return text.Text.ONE
        return None

    def _check_group(self, word: Word, base: DictConfig) -> None:
        there = _select(base, word.key)
        if not isinstance(there, DictConfig) or word.value is None or isinstance(word.value, dict):
            return
        if not is_named(self.config_class, word.key):
            keys = [str(key) for key in there]
            first = "name" if "name" in keys else next(iter(keys), "KEY")
            raise UserError(
                f"{word.word}: {word.key} is a group of keys ({', '.join(keys)}): did you mean "
                f"{word.key}.{first}={word.typed}?"
            )

    def _options(self, group: str) -> list[str]:
        """The options of a group in all folders; ``_name.yaml`` is none."""
        key = self.searched and (*self.searched, group)
        if key in _OPTIONS:
            return _OPTIONS[key]
        loader = GlobalHydra.instance().config_loader()
        found = loader.get_group_options(group, ObjectType.CONFIG, config_name="run", overrides=list(self.extra))
        names = [name for name in found if not name.startswith("_")]
        if key is not None:
            _OPTIONS[key] = names
        return names

    def _hydra(self, overrides: Sequence[str]) -> DictConfig:
        try:
            words = [*overrides, *self.extra]
            config: DictConfig = hydra_compose(self.config_class.ROOT, overrides=words, return_hydra_config=True)
            return config
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(self._explain(error)) from error
        except RecursionError as error:
            found = None if self.folder is None else circle(self.folder)
            raise UserError(
                found or "the defaults of the chosen YAML files lead in a circle: remove one of them"
            ) from error

    def _explain(self, error: Exception) -> str:
        """One line for what Hydra and OmegaConf say in several."""
        said = " ".join(filter(None, (str(error), str(error.__cause__ or ""))))
        group = re.search(r"You must specify '([\w/]+)'", said)
        if group:
            options = re.findall(r"^\t([^\s_]\S*)$", said, flags=re.M)
            return f"{group[1]} is not given: add {group[1]}=NAME; {suggest('', options)}"
        for word in self.words:
            if f"'{word.key}'" in said or f"override {self._for_hydra(word)}" in said:
                if "already at" in said:
                    return f"{word.word}: {word.key} has a value already: leave the {word.prefix} out"
                return f"{word.word}: there is no key {word.key!r}: {self._near(word)}"
        return f"the configuration does not compose: {_first_line(error)}"

    def _near(self, word: Word) -> str:
        """A clause naming the keys that someone may have meant: ``epochs=10`` is ``trainer.epochs=10``."""
        keys = self._keys(word)
        if "." in word.key:
            return suggest(word.key, keys)
        whole: dict[str, list[str]] = {}
        for key in keys:
            whole.setdefault(key.rpartition(".")[2], []).append(key)
        given = "" if word.typed is None else f"={word.typed}"
        if named := whole.get(word.key):
            return f"did you mean {' or '.join(f'{key}{given}' for key in sorted(named, key=_first_of_trainer)[:3])}?"
        near = difflib.get_close_matches(word.key, whole, n=3, cutoff=0.6)
        if not near:
            return suggest("", [*self.groups, *self.root.keys() - {"defaults"}])
        found = [key for name in near for key in sorted(whole[name], key=_first_of_trainer)]
        return f"did you mean {' or '.join(map(repr, found[:3]))}?"

    def _keys(self, without: Word) -> list[str]:
        """All keys that an override may name, given the other choices."""
        others = [word for word in self.choosing if word is not without]
        chosen, named = [self._for_hydra(word) for word in others], {word.key for word in others}
        if "experiment" not in named:
            missing = [group for group, option in self.groups.items() if option == MISSING and group not in named]
            chosen += [f"{group}={self._options(group)[0]}" for group in missing]
        try:
            config = hydra_compose(self.config_class.ROOT, overrides=[*chosen, *self.extra])
        except (HydraException, OmegaConfBaseException):
            return sorted(self.groups)
        schema = [key.name for key in declared(self.config_class) if not key.name.endswith("*")]
        keys = {*self.groups, *_flat(OmegaConf.to_container(config)), *schema}
        return sorted(key for key in keys if not key.startswith(STATED))


def _first_of_trainer(key: str) -> tuple[bool, int, str]:
    """Sorts keys of the same last name: a trainer's are what others take their values from."""
    return not key.startswith("trainer."), key.count("."), key


def _several(word: Word) -> list[str] | None:
    """The options of a group that were typed as ``[a,b]``; None where it was one, or the group takes one."""
    found = re.fullmatch(r"\[\s*([\w-]+(?:\s*,\s*[\w-]+)*)\s*\]", word.typed or "")
    if word.key not in SEVERAL or found is None:
        return None
    return list(dict.fromkeys(re.split(r"\s*,\s*", found[1])))


def _quoted(value: str) -> str:
    """A text as Hydra's grammar reads it back."""
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), value) + '"'


def _select(config: DictConfig, key: str) -> Any:
    return OmegaConf.select(config, key, default=None, throw_on_resolution_failure=False)


def _recipe(config: DictConfig) -> dict[str, Any]:
    """The values of the recipe that ``recipe=NAME`` chooses among those of the method's file, by dotted key."""
    name = config.get("recipe")
    if name is None:
        return {}
    stated = config.method.get("recipes") or {}
    recipes: Any = OmegaConf.to_container(stated, resolve=False) if isinstance(stated, DictConfig) else stated
    if not isinstance(recipes, dict):
        raise UserError(f"method.recipes={recipes!r} is not a group of recipes: write recipes: {{NAME: ...}}")
    if name not in recipes:
        method, protocol = (config.hydra.runtime.choices.get(group) for group in ("method", "protocol"))
        asked = "" if protocol is None else f" (protocol={protocol} is for the methods of its tables)"
        raise UserError(
            f"recipe={name} does not exist for {method}: {suggest(str(name), recipes)}{asked}"
            if recipes
            else f"recipe={name}: method {method} has only its default recipe{asked}"
        )
    if not isinstance(recipes[name], dict):
        raise UserError(f"method.recipes.{name}={recipes[name]!r} is not a group of keys: write trainer.epochs: 10 ...")
    return {str(key): value for key, value in recipes[name].items()}


def _apply(config: DictConfig, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        OmegaConf.update(config, key, value, merge=False)


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
        if option is not None and not str(group).startswith("hydra/") and group not in ("experiment", *SEVERAL)
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
        place = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise UserError(
            f"{place}the value does not resolve ({_first_line(error)}): correct what stands in ${{...}}"
        ) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _first_line(error: Exception) -> str:
    for said in (str(error), str(error.__cause__ or "")):
        if said.strip():
            return said.strip().splitlines()[0]
    return type(error).__name__
