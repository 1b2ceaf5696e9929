"""YAML files that users bring with ``--config-dir``, read and judged before Hydra sees them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ader.config.options import GROUPS, read_option
from ader.system.errors import UserError

#: Bytes of a file; values of a file once its aliases are written out; levels of nesting.
LARGEST, VALUES, DEEPEST = 1 << 20, 100_000, 50
#: Files, and folders to look for them in.
MANY = 2000

TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
#: Kinds of value that a configuration has; OmegaConf reads a date as text.
PLAIN = {
    TEXT,
    MERGE,
    *(f"tag:yaml.org,2002:{kind}" for kind in ["null", "bool", "int", "float", "seq", "map", "timestamp"]),
}


def vetted(config_dir: str) -> Path:
    """The folder, absolute, whose every YAML file can be read.

    Raises:
        UserError: there is no such folder, or one of its files is no YAML file of options; the message says which and
            where.
    """
    try:
        folder = Path(os.path.realpath(Path(config_dir).expanduser()))
        is_folder = folder.is_dir()
    except (RuntimeError, ValueError, OSError):  # no such user, a NUL character, a name that is too long
        is_folder = False
    if not is_folder:
        raise UserError(f"--config-dir {config_dir}: no such folder")
    for file in _files(folder):
        read_yaml(file)
    return folder


def _files(folder: Path) -> Iterator[Path]:
    """What Hydra may take for a file of options."""
    seen = 0

    def refuse(error: OSError) -> None:
        raise UserError(f"--config-dir {folder}: {error.filename} cannot be read ({error.strerror})")

    for place, names, files in os.walk(folder, onerror=refuse):
        names[:] = [name for name in names if not name.startswith(".")]
        found = [Path(place, name) for name in sorted([*names, *files]) if name.endswith(".yaml")]
        seen += len(found) + 1
        if seen > MANY:
            raise UserError(f"--config-dir {folder}: more than {MANY} files and folders: give one with options only")
        yield from found


def read_yaml(file: Path) -> dict[str, Any]:
    """The values of a file of options.

    Raises:
        UserError: it is no regular file of at most 1 MiB in UTF-8, no YAML, no mapping, has a key twice, a tag, or
            aliases that multiply.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file} is no file: put a YAML file there, or remove it")
        if status.st_size > LARGEST:
            raise UserError(f"{file} has {status.st_size:,} bytes: a file of options has at most {LARGEST:,}")
        content = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}: it is not UTF-8: save it as UTF-8") from error
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            return {}
        _check(file, node)
        values: dict[str, Any] = loader.construct_document(node)
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise UserError(f"{place}: not valid YAML ({error.problem or error.context})") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise UserError(f"{file}: not valid YAML ({str(error).splitlines()[0]})") from error
    except (RecursionError, ValueError) as error:  # brackets in brackets; 9999-99-99 is no date
        raise UserError(f"{file}: not valid YAML ({error})") from error
    _check_defaults(file, values.get("defaults", []))
    return values


def _check_defaults(file: Path, entries: object) -> None:
    """Refuses what Hydra ends with a traceback over."""
    if not isinstance(entries, list) or not all(map(_is_default, entries)):
        raise UserError(f"{file}: defaults is a list of names and of single group: option, such as [_self_, base]")


def _is_default(entry: object) -> bool:
    if not isinstance(entry, dict):
        return isinstance(entry, str)
    option = next(iter(entry.values()), None)
    chosen = option if isinstance(option, list) else [option]
    return len(entry) == 1 and all(name is None or isinstance(name, str) for name in chosen)


class _Loader(yaml.SafeLoader):
    """PyYAML's; a class of its own, so that nobody's constructors are in it."""


def _check(file: Path, root: yaml.Node) -> None:
    """Refuses what Hydra would choke on or expand for minutes."""

    def refuse(node: yaml.Node, reason: str) -> None:
        raise UserError(f"{file}:{node.start_mark.line + 1}: {reason}")

    if not isinstance(root, yaml.MappingNode):
        refuse(root, "a file of options is key: value, line by line, not a list or a single value")

    def check_keys(keys: Sequence[yaml.Node]) -> None:
        seen = set[str]()
        for key in keys:
            if key.tag not in (TEXT, MERGE):
                refuse(key, "a key that is no plain text: put it in quotation marks")
            if key.value in seen:
                refuse(key, f"the key {key.value!r} stands there twice: remove one")
            seen.add(key.value)

    sizes: dict[int, int] = {}  # of nodes that were seen, aliases written out

    def size(node: yaml.Node, above: tuple[int, ...]) -> int:
        if id(node) in above:
            refuse(node, "an alias stands inside of what it names")
        if len(above) > DEEPEST:
            refuse(node, f"it is nested more than {DEEPEST} deep")
        if node.tag not in PLAIN:
            refuse(node, f"the tag {node.tag} is not allowed: write plain values")
        if id(node) not in sizes:
            if isinstance(node, yaml.MappingNode):
                check_keys([key for key, _ in node.value])
            sizes[id(node)] = 1 + sum(size(child, (*above, id(node))) for child in _children(node))
            if sizes[id(node)] > VALUES:
                refuse(node, f"with its aliases written out it has more than {VALUES:,} values")
        return sizes[id(node)]

    size(root, ())


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)


def circle(folder: Path) -> str | None:
    """What is said of files in ``folder`` whose defaults lead back to them; None where none are found."""
    for group in GROUPS:
        for file in sorted((folder / group).glob("*.yaml")):
            try:
                read_option(group, file.stem, config_dir=folder)
            except UserError as error:
                if "circle" in str(error):
                    return str(error)
    return None
