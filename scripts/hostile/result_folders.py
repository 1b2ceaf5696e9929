"""Results that were damaged, edited, moved, or replaced by something else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.hostile.replay import Answer, Case, Prepare
from scripts.hostile.world import FINISHED, RUN, World

KIND = "result_folders"

#: Dotted keys of the record, and values that are not theirs; ``...`` removes the key.
EDITS: tuple[tuple[str, Any], ...] = (
    ("schema", ...),
    ("schema", "x"),
    ("schema", 99),
    ("schema", None),
    ("schema", -1),
    ("config", ...),
    ("config", []),
    ("config", 5),
    ("config", {"a": "b"}),
    ("config.metric", None),
    ("config.dataset", "x"),
    ("config.trainer", []),
    ("choices", ...),
    ("choices", ["a"]),
    ("choices.method", 5),
    ("models", ...),
    ("models", []),
    ("models", 5),
    ("models", {"x": {}}),
    ("rows", ...),
    ("rows", "x"),
    ("rows", {"bolt": 5}),
    ("provenance", ...),
    ("provenance", []),
    ("provenance.time", 5),
    ("provenance.versions", "x"),
    ("warnings", ...),
    ("warnings", "x"),
    ("warnings", [5]),
    ("undefined", 5),
    ("images", "many"),
    ("metric", 5),
    ("metric", "no_such"),
    ("maps", "x"),
    ("by_defect", []),
    ("source", 5),
    ("evaluated_from", "x"),
    ("nothing_known", 5),
)
#: Files of the result: each is replaced by each of ``THINGS``.
FILES = (
    "record.json",
    "metrics.csv",
    "bounds.csv",
    "counts.csv",
    "scores.csv",
    "config.yaml",
    "checkpoint.pt",
    "run.log",
    "tb",
)

SHOW = RUN
AGAIN = (*RUN, "force=true")
EVAL = ("eval", FINISHED, "metric=exact", "run=again", "trainer.device=cpu")


def _damage(change: Callable[[Path], object]) -> Prepare:
    return lambda world: change(world.finished)


def _text(name: str, content: str | bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def _cut(name: str, share: float) -> Callable[[Path], object]:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return cut


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        _remove(folder / name)
        make(folder / name)

    return replace


THINGS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a full folder": lambda path: (path / "x" / "y").mkdir(parents=True),
    "a FIFO": lambda path: os.mkfifo(path),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "an empty file": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 40),
}
TEXTS: dict[str, str | bytes] = {
    "a list": "[]",
    "a number": "5",
    "null": "null",
    "a word": '"x"',
    "deep": "[" * 100000 + "]" * 100000,
    "deep mapping": '{"schema":' * 5000 + "3" + "}" * 5000,
    "two": "{}{}",
    "NaN": '{"schema": NaN}',
    "not UTF-8": b'{"schema": "\xff"}',
    "surrogate": '{"schema": "\\ud800"}',
    "huge number": '{"schema": ' + "9" * 10000 + "}",
    "empty object": "{}",
}


def cases() -> Iterator[Case]:
    """The finished run is damaged; then the same command, ``force=true``, or ``ader eval``."""
    for key, value in EDITS:
        name = f"record: {key} = {'removed' if value is ... else json.dumps(value)}"
        for verb, words in (("show", SHOW), ("eval", EVAL)):
            yield Case(KIND, f"{name}, {verb}", words, "either", prepare=_edited(key, value))
    for name, content in TEXTS.items():
        yield Case(KIND, f"record: {name}, show", SHOW, says="record", prepare=_damage(_text("record.json", content)))
        yield Case(KIND, f"record: {name}, eval", EVAL, says="record", prepare=_damage(_text("record.json", content)))
    for file in FILES:
        for thing, make in THINGS.items():
            yield Case(KIND, f"{file}: {thing}, show", SHOW, "either", prepare=_damage(_replace(file, make)))
            yield Case(KIND, f"{file}: {thing}, force", AGAIN, "either", prepare=_damage(_replace(file, make)))
        if file not in ("tb", "run.log"):
            yield Case(KIND, f"{file}: half of it, show", SHOW, "either", prepare=_damage(_cut(file, 0.5)))
            yield Case(KIND, f"{file}: half of it, eval", EVAL, "either", prepare=_damage(_cut(file, 0.5)))
    for thing, make in THINGS.items():
        yield Case(
            KIND,
            f"checkpoint.pt: {thing}, eval",
            EVAL,
            says="checkpoint",
            prepare=_damage(_replace("checkpoint.pt", make)),
        )
    for name, content in (
        ("[a", "config.yaml"),
        ("fingerprint: 5\n", "config.yaml"),
        ("a: 1\n", "config.yaml"),
        ("- a\n", "config.yaml"),
    ):
        yield Case(KIND, f"config.yaml: {name!r}", SHOW, says="config.yaml", prepare=_damage(_text(content, name)))
    yield Case(KIND, "malicious checkpoint", EVAL, says="checkpoint", prepare=_damage(_pickled))
    yield Case(KIND, "run of other values", (*RUN, "seed=7"), says="run=", prepare=None)
    yield Case(KIND, "unfinished, a checkpoint of noise", SHOW, "either", prepare=_damage(_unfinished))
    refused: Answer = "refused" if os.geteuid() else "done"  # nothing is forbidden to root
    says = "results" if os.geteuid() else ""
    yield Case(KIND, "results that cannot be written", (*RUN[:-1], "run=new"), refused, says, prepare=_read_only)
    yield Case(KIND, "results that are a file", (*RUN, "paths.results=own/bolt/train/good/000.png"), says="results")
    yield Case(KIND, "run's folder is a file", (*RUN[:-1], "run=new"), says="new", prepare=_file_for_folder)
    yield Case(KIND, "as it was, eval", EVAL, "done", prepare=None)
    yield Case(KIND, "no results at all, eval", ("eval", "results"), says="results")


def _edited(key: str, value: Any) -> Prepare:
    def edit(world: World) -> None:
        try:
            world.edit("record.json", {key: value})
        except (KeyError, TypeError):  # this record has no such key
            world.edit("record.json", {key.replace(".", "_"): 5})

    return edit


def _pickled(folder: Path) -> None:
    (folder / "checkpoint.pt").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")


def _unfinished(folder: Path) -> None:
    (folder / "record.json").unlink()
    (folder / "checkpoint.pt").write_bytes(b"noise" * 1000)


def _read_only(world: World) -> None:
    place = world.finished.parent
    place.chmod(0o500)


def _file_for_folder(world: World) -> None:
    (world.finished.parent / "new").write_text("x")
