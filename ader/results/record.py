"""The record of a result, ``record.json``: written last, which makes its folder a result, and read as types."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pandas as pd
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from ader.data.masks import Interpolation
from ader.data.sizes import Size
from ader.results.schema import SCHEMA, ModelRecord, Record, plain
from ader.results.upgrade import OLDEST, upgrade
from ader.system.errors import UserError
from ader.system.files import check_regular, replace_together

FILE = "record.json"


class SizesOf(TypedDict):
    """How maps and masks were compared, in a record's configuration."""

    size: Size
    map_interpolation: Interpolation
    mask_interpolation: Interpolation


#: Columns of a table that name its rows.
ROW_NAMES = ("category", "defect")

RECORD = TypeAdapter(Record)
#: What is read of its configuration.
METRIC = TypeAdapter(dict[str, dict[str, SizesOf]])
MODEL = TypeAdapter(ModelRecord)


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, independent of key order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def rows(frame: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """A table as plain values; undefined is None, never NaN (which is not JSON)."""
    return {
        str(name): {str(column): None if math.isnan(value) else float(value) for column, value in row.items()}
        for name, row in frame.iterrows()
    }


def write(folder: Path, files: Mapping[str, bytes | str], record: Record) -> None:
    """Writes a result: files by name, and ``record.json``, which makes them one. An earlier result is replaced as a
    whole."""
    text = json.dumps(plain(record), indent=2, allow_nan=False)
    replace_together(folder, {**files, FILE: text + "\n"})


def read(folder: Path) -> Record | None:
    """The record in ``folder``, of this or an earlier version of the program, or None when there is none.

    Raises:
        UserError: it is damaged, or of a newer version; the message names the key and the file.
    """
    file = folder / FILE
    check_regular(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: delete it and run again") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): fix that, or delete it and run again") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if type(schema) is not int or schema < OLDEST:
        raise UserError(f"{file} was written by another version of ader: delete it, or give run=NAME")
    if schema > SCHEMA:
        raise UserError(
            f"{file} was written by a newer version of ader (schema {schema}, this one knows {SCHEMA}): update ader, "
            "or give run=NAME"
        )
    try:
        result = RECORD.validate_json(json.dumps(upgrade(found)), strict=True)
        METRIC.validate_python({"config": {"metric": result.config.get("metric")}})
    except RecursionError as error:
        raise UserError(f"{file} is nested too deep to be a record: delete it and run again") from error
    except ValidationError as error:
        raise UserError(f"{file}: {fault(error)}: restore the file, or delete it and run again") from error
    if "method" not in result.choices:
        raise UserError(f"{file}: choices.method is missing: restore the file, or delete it and run again")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def fault(error: ValidationError) -> str:
    """The first thing that is wrong with a record: ``models.all.checkpoint.sha256 is missing``."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the record"
    said = {"missing": "is missing", "unexpected_keyword_argument": "is not known"}
    return f"{key} {said.get(first['type'], 'does not fit: ' + first['msg'].lower())}"


class FieldText(NamedTuple):
    """One line of the record's documentation.

    Attributes:
        key: dotted; ``<name>`` stands for any, as in ``models.<name>.network.params``.
        type: JSON's: ``string``, ``integer or null``, ``list of string``.
        description: what it is.
    """

    key: str
    type: str
    description: str


def fields() -> list[FieldText]:
    """Every field of ``record.json``, in its order, groups before what they hold."""
    schema = RECORD.json_schema()
    return list(_fields(schema, schema["$defs"], ""))


def _fields(node: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> Iterator[FieldText]:
    for name, value in node.get("properties", {}).items():
        key = f"{prefix}{name}"
        yield FieldText(key, _type(value), value["description"])
        yield from _below(value, known, key)


def _below(node: Mapping[str, Any], known: Mapping[str, Any], key: str) -> Iterator[FieldText]:
    """What a group, or each item of a list or a table, holds."""
    for each in node.get("anyOf", [node]):
        if "$ref" in each:
            yield from _fields(known[each["$ref"].rpartition("/")[2]], known, f"{key}.")
        elif isinstance(each.get("additionalProperties"), dict):
            yield from _below(each["additionalProperties"], known, f"{key}.<name>")
        elif "items" in each:
            yield from _below(each["items"], known, f"{key}[]")


def _type(node: Mapping[str, Any]) -> str:
    """In words."""
    if "anyOf" in node:
        return " or ".join(_type(each) for each in node["anyOf"])
    if "items" in node:
        return f"list of {_type(node['items'])}"
    if isinstance(node.get("additionalProperties"), dict):
        return f"object of {_type(node['additionalProperties'])}"
    return str(node.get("type", "object"))


def as_csv(table: pd.DataFrame) -> str:
    """A table whose rows are categories, or pairs of category and defect: fractions in full precision, empty where
    undefined."""
    text: str = table.to_csv(index_label=list(ROW_NAMES[: table.index.nlevels]))
    return text


def read_table(path: Path) -> pd.DataFrame:
    """What ``as_csv`` made.

    Raises:
        UserError: it is missing or damaged.
    """
    check_regular(path)
    try:
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)  # "001" and "NA" are names, too
        names = [name for name in ROW_NAMES if name in texts]
        table: pd.DataFrame = texts.set_index(names).replace("", "nan").astype(float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise UserError(
            f"{path} cannot be read ({what}): ader eval {path.parent} makes a run's tables again"
        ) from error
    return table
