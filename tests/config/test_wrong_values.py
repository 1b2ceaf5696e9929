"""Every key of every group takes a right value or says in one line what is wrong: nothing ends in a traceback, and no
number is infinite, without bounds, or a truth value in disguise."""

from __future__ import annotations

import inspect
import math
import random
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ader.config import plugins
from ader.config.compose import compose, composition
from ader.config.keys import REST, hints_of, is_group, words
from ader.config.options import options, read_option
from ader.config.schema import DataConfig, RunConfig, ScoreConfig, SweepConfig
from ader.config.validate import typed, validated
from ader.data.index import Index
from ader.data.load import find_reader
from ader.methods import _options
from ader.methods._base import find_class
from ader.system.device import resolve_device
from ader.system.errors import UserError

DEEP: Any = []
for _ in range(2000):
    DEEP = [DEEP]

#: What no number is.
NO_NUMBERS = [True, False, math.inf, -math.inf, math.nan, 2**70, -(2**70), 10**5000, 1e30, -1e30, "x", ""]
WRONG = [
    *NO_NUMBERS,
    *(None, -1, 0, 0.5, 3, "é\u202e", "a" * 5000, "/" + "a/" * 3000, "\0", "~nobody_of_this_name/x", "${x}", "on"),
    *([], {}, [[]], [1, 2, 3], ["a"], ["a", 2.5], {"a": 1}, {"a": {"b": [1, 2]}}, {"a": [1, 2, 3]}, {1: 2}, DEEP),
]


#: An option of each reader.
READERS = list({str(read_option("dataset", option)["name"]): option for option in options("dataset")}.values())


def attempt(check: Callable[[], object]) -> str | None:
    """What a check says in one line; None where it is content. Anything else that is raised fails the test."""
    try:
        check()
    except UserError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 1500
        return message
    return None


def try_all(key: str, hint: Any, check: Callable[[Any], object]) -> None:
    """Gives every wrong value to a key, alone and as the members of a list."""
    kind = words(hint)
    for value in WRONG:
        said = attempt(lambda value=value: check(value))
        assert said is None or key.split(".")[-1] in said, f"{key}={value!r}: {said}"
        if re.match(r"(integer|number)", kind) and any(value is each for each in NO_NUMBERS):
            assert said, f"{key}={value!r} passes for {kind}"
    for value in NO_NUMBERS if re.match(r"list of (integer|number)", kind) else ():
        for length in (1, 2, 3):
            assert attempt(lambda value=value, length=length: check([value] * length)), f"{key} takes {value!r}"


def below(hint: Any) -> type[Any] | None:
    """The dataclass in a type, such as a backbone's options."""
    inside = [hint, *typing.get_args(hint)]
    return next((each for each in inside if inspect.isclass(each) and hasattr(each, "__dataclass_fields__")), None)


def groups(config: type[Any]) -> Iterator[tuple[str, type[Any]]]:
    yield "", config
    yield from ((name, hint) for name, hint in hints_of(config).items() if is_group(hint))


#: What must be chosen, where that is not a dataset alone.
WORDS = {RunConfig: ["dataset=demo", "method=rd"], SweepConfig: []}


@pytest.fixture(scope="module")
def composed() -> Mapping[type[Any], Mapping[str, Any]]:
    return {
        config: composition(config, WORDS.get(config, ["dataset=demo"])).values
        for config in (RunConfig, ScoreConfig, DataConfig, SweepConfig)
    }


@pytest.mark.parametrize("config", [RunConfig, ScoreConfig, DataConfig, SweepConfig])
def test_every_key_of_the_schema(composed, config):
    for group, cls in groups(config):
        if config is not RunConfig and group:
            continue  # groups are the same
        values = composed[config][group] if group else composed[config]
        for name, hint in hints_of(cls).items():
            if name == REST:
                continue
            if is_group(hint):
                for value in (5, None, "x", [1], math.inf):
                    assert attempt(lambda value=value, name=name: typed(config, {**composed[config], name: value}))
                continue
            one = {key: value for key, value in hints_of(cls).items() if key == name}
            checker = type(cls.__name__, (), {"__ader_keys__": one, "__dataclass_fields__": {}})
            checker.__dataclass_fields__ = {name: cls.__dataclass_fields__[name]}
            checker.__init__ = lambda self, **given: None
            assert attempt(lambda c=checker, v=values, n=name: typed(c, {n: v[n]} if n in v else {})) is None
            try_all(name, hint, lambda value, c=checker, n=name, g=group: typed(c, {n: value}, g))


@pytest.mark.parametrize("option", options("method"))
def test_every_argument_of_a_method(option):
    method_class = find_class(str(read_option("method", option)["name"]))
    given = _options.option_arguments(option)
    hints = typing.get_type_hints(method_class.__init__, include_extras=True)
    for name in inspect.signature(method_class).parameters:
        assert name not in given or validated(method_class, {name: given[name]}, "method")
        try_all(name, hints[name], lambda value, n=name: validated(method_class, {n: value}, "method"))
        if inside := below(hints[name]):
            whole = given.get(name) or {}
            for key, hint in typing.get_type_hints(inside, include_extras=True).items():
                try_all(
                    key, hint, lambda v, k=key, n=name, w=whole: validated(method_class, {n: {**w, k: v}}, "method")
                )


@pytest.mark.parametrize("option", options("setting"))
def test_every_option_of_a_setting(option):
    values = {key: value for key, value in read_option("setting", option).items() if key not in ("models", "defaults")}
    function = plugins.load_function("settings", values.pop("name"), "")
    given = {"index": Index("made up", Path(), ()), "seed": 0, **values}
    hints = typing.get_type_hints(function, include_extras=True)
    for name in values:
        try_all(name, hints[name], lambda value, n=name: validated(function, {**given, n: value}, "setting"))


@pytest.mark.parametrize("option", READERS)
def test_every_argument_of_a_reader(option):
    values = read_option("dataset", option)
    reader = find_reader(str(values["name"]))
    hints = typing.get_type_hints(reader, include_extras=True)
    given = {name: values[name] for name in inspect.signature(reader).parameters if name in values}
    given["root"] = Path()
    for name in given.keys() - {"root", "categories"}:
        try_all(name, hints[name], lambda value, n=name: validated(reader, {**given, n: value}, "dataset"))


def written(value: Any) -> str:
    """A value as it may be typed."""
    return (
        "1" + 5000 * "0"
        if value == NO_NUMBERS[7]
        else str(value).replace("'", "").replace("None", "null").replace(" ", "")
    )


def test_typed_words():
    """Wrong values on the command line: a sample that is always the same."""
    draw = random.Random(12)
    plain = composition(RunConfig, ["dataset=demo", "method=rd"]).values
    keys = [*plain, *(f"{group}.{key}" for group, below in plain.items() if isinstance(below, dict) for key in below)]
    values = [written(value) for value in WRONG if value is not DEEP]
    prefixes = ["", "", "", "+", "++", "~"]
    for _ in range(12):
        word = f"{draw.choice(prefixes)}{draw.choice(keys)}={draw.choice(values)}"
        attempt(lambda word=word: compose(["dataset=demo", "method=rd", word]))


@pytest.mark.parametrize("name", ["cuda:²", "cuda:٣", "", "cuda", "cpu:0", "cuda:-1", "cuda:" + "9" * 4000, "\0"])
def test_devices(name, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert attempt(lambda: resolve_device(name))
