"""YAML of one's own, through ``--config-dir``: files that are damaged, strange or malicious."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

from scripts.hostile.replay import Case, Prepare
from scripts.hostile.world import RUN, World

KIND = "option_files"
OWN = ("dataset=own", *RUN[3:-1], "--config-dir", "options")

GOOD = "defaults:\n  - _own_images\nname: folder\nroot: own\nabout:\n  title: Own images\n"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

#: Texts of ``dataset/own.yaml`` that are no YAML, or none that is to be read: the refusal names the file.
UNREADABLE: dict[str, str | bytes] = {
    "unclosed bracket": GOOD + "categories: [a, b\n",
    "unclosed quote": GOOD + "label: 'a\n",
    "tab for a blank": "name: folder\n\troot: own\n",
    "wrong depth": "name: folder\n   root: own\n  x: 1\n",
    "duplicate key": GOOD + "name: table\n",
    "duplicate key below": GOOD + "counts:\n  bolt: [4, 2, 2]\n  bolt: [4, 2, 2]\n",
    "latin-1": (GOOD + "label: caf\u00e9\n").encode("latin-1"),
    "utf-16": GOOD.encode("utf-16"),
    "binary": bytes(range(256)) * 4,
    "NUL": GOOD.encode() + b"label: a\0b\n",
    "python object": GOOD + "label: !!python/object:os.system {}\n",
    "python object applied": GOOD + "label: !!python/object/apply:os.system ['touch pwned']\n",
    "python name": GOOD + "label: !!python/name:os.system\n",
    "unknown tag": GOOD + "label: !nothing x\n",
    "a list": "- name: folder\n- root: own\n",
    "a word": "folder\n",
    "a number": "5\n",
    "two documents": GOOD + "---\n" + GOOD,
    "laughs": GOOD + LAUGHS,
    "laughs by merging": GOOD
    + "m0: &m0 {a: 1}\n"
    + "".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}], k{n}: *m{n - 1}}}\n" for n in range(1, 25)),
    "anchor of itself": GOOD + "about: &a [*a]\n",
    "unknown anchor": GOOD + "label: *nothing\n",
    "deep": GOOD + "label: " + "[" * 3000 + "]" * 3000 + "\n",
    "deep mapping": GOOD + "counts: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n",
    "long": GOOD + "label: " + "x" * (8 << 20) + "\n",
}
#: Texts that say something impossible.
WRONG: dict[str, str | bytes] = {
    "defaults in a circle": "defaults:\n  - own\nname: folder\n",
    "defaults through another": "defaults:\n  - other\nname: folder\n",
    "defaults that are missing": "defaults:\n  - no_such_base\nname: folder\n",
    "defaults as a word": "defaults: _own_images\nname: folder\n",
    "defaults as a number": "defaults: 5\nname: folder\n",
    "defaults of mappings": "defaults:\n  - {a: {b: c}}\nname: folder\n",
    "defaults null": "defaults:\n  - null\nname: folder\n",
    "number as a key": GOOD + "5: x\n",
    "list as a key": GOOD + "? [a, b]\n: x\n",
    "null as a key": GOOD + "null: x\n",
    "truth value as a key": GOOD + "true: x\n",
    "date as a value": GOOD + "label: 2024-05-01\nrun: 2024-05-01\n",
    "set": GOOD + "about: !!set {a, b}\n",
    "bytes": GOOD + "about: !!binary aGVsbG8=\n",
    "interpolation in a circle": GOOD + "label: ${dataset.root}\nroot: ${dataset.label}\n",
    "interpolation to nothing": GOOD + "label: ${nothing.here}\n",
    "unknown resolver": GOOD + "label: ${nothing:1}\n",
    "half an interpolation": GOOD + "label: ${\n",
    "unknown key": GOOD + "rooot: own\n",
    "wrong kind": GOOD + "root: [own]\n",
    "name of another module": GOOD.replace("name: folder", "name: os"),
    "name of a path": GOOD.replace("name: folder", "name: ../folder"),
    "name missing": "root: own\n",
    "package": "# @package nothing.here\n" + GOOD,
    "package global": "# @package _global_\n" + GOOD,
    "escape codes": GOOD + 'label: "\\e]0;x\\a"\n',
    "escape code in a key": GOOD + '"\\e[2Jx": 1\n',
    "right to left": GOOD + 'label: "\\u202Ex/y"\n',
    "empty": "",
    "comment": "# nothing\n",
    "missing value": "name: folder\nroot: ???\n",
}
DONE: dict[str, str | bytes] = {
    "good": GOOD,
    "without bases": "name: folder\nroot: own\n",
    "byte-order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "line ends of Windows": GOOD.replace("\n", "\r\n"),
    "anchors": GOOD.replace("title: Own images", "title: &t Own images") + "label: *t\n",
}


def cases() -> Iterator[Case]:
    """Texts of an option, and other things in its place."""
    for name, text in UNREADABLE.items():
        yield Case(KIND, name, OWN, says="own.yaml", prepare=_writing(text))
    for name, text in WRONG.items():
        yield Case(KIND, name, OWN, prepare=_writing(text))
    for name, text in DONE.items():
        yield Case(KIND, name, OWN, answer="done", prepare=_writing(text))
    for name, make in PLACES.items():
        yield Case(KIND, name, OWN, prepare=make)
    for group, text in (
        ("method", "name: rd\nnothing: 5\n"),
        ("method", "name: no_such\n"),
        ("method", "- rd\n"),
        ("trainer", "epochs: many\n"),
        ("trainer", "epochs: 5\n"),
        ("metric", "name: no_such\n"),
        ("setting", "name: no_such\n"),
        ("experiment", "# @package _global_\ndefaults:\n  - override /trainer: no_such\n"),
        ("experiment", "# @package _global_\nnothing: 5\n"),
        ("experiment", "# @package _global_\ntrainer: 5\n"),
        ("experiment", "seed: [\n"),
    ):
        words = (*RUN[:-1], f"{group}=mine", "--config-dir", "options")
        yield Case(KIND, f"{group}: {text!r}"[:70], words, prepare=_writing(text, group, "mine"))
    yield Case(
        KIND, "an empty folder", (*RUN[:-1], "dataset=nothing_here", "--config-dir", "options"), says="nothing_here"
    )
    yield Case(
        KIND,
        "list with a damaged option",
        ("list", "methods", "--config-dir", "options"),
        "either",
        prepare=_writing("a: [", "method", "mine"),
    )
    yield Case(
        KIND,
        "help with a damaged option",
        ("--help", "--config-dir", "options"),
        "either",
        prepare=_writing("a: [", "method", "mine"),
    )


def _writing(text: str | bytes, group: str = "dataset", name: str = "own") -> Prepare:
    def write(world: World) -> None:
        world.option(group, name, text)
        if b"other" in (text.encode() if isinstance(text, str) else text):
            world.option(group, "other", f"defaults:\n  - {name}\n")

    return write


def _fifo(world: World) -> None:
    file = world.option("dataset", "own", "")
    file.unlink()
    os.mkfifo(file)


def _folder(world: World) -> None:
    file = world.option("dataset", "own", "")
    file.unlink()
    file.mkdir()


def _socket(world: World) -> None:
    file = world.option("dataset", "own", "")
    file.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(file.relative_to(world.folder)))


def _link(target: str) -> Callable[[World], None]:
    def link(world: World) -> None:
        file = world.option("dataset", "own", "")
        file.unlink()
        file.symlink_to(target)

    return link


def _group_is_a_file(world: World) -> None:
    (world.folder / "options" / "dataset").write_text(GOOD)


def _gone(world: World) -> None:
    (world.folder / "options").rmdir()


PLACES: dict[str, Prepare] = {
    "a FIFO": _fifo,
    "a folder": _folder,
    "a socket": _socket,
    "a link to nothing": _link("nowhere.yaml"),
    "a link to itself": _link("own.yaml"),
    "a link to a device": _link("/dev/zero"),
    "a group that is a file": _group_is_a_file,
    "a folder that is gone": _gone,
}
