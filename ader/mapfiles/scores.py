"""The CSV of image scores, with the columns ``image`` and ``score``: its rows, checked one by one."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ader.system.errors import UserError
from ader.system.files import check_regular


class Row(NamedTuple):
    """A line of the CSV."""

    line: int
    image: str
    score: float

    def __str__(self) -> str:
        return f"line {self.line} ({self.image!r})"


def read_rows(path: Path) -> tuple[list[Row], str]:
    """All rows, and the file's SHA-256.

    Raises:
        UserError: a row is too long, too short or no number, or the file is no such CSV.
    """
    check_regular(path)
    try:
        content = path.read_bytes()
        rows = list(_rows(path, io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"scores: {path} cannot be read ({what}): give a CSV in UTF-8") from error
    return rows, hashlib.sha256(content).hexdigest()


def _rows(path: Path, file: Iterable[str]) -> Iterator[Row]:
    reader = csv.DictReader(file, strict=True)
    header = reader.fieldnames or []
    if not {"image", "score"} <= set(header):
        wrong = ": put commas between them" if len(header) == 1 and re.search(r"[;\t|]", header[0]) else ""
        begins = ",".join(header)[:100]
        raise UserError(f"{path} must begin with the header image,score; it begins with {begins!r}{wrong}")
    for row in reader:
        image, text = row["image"], row["score"]
        if None in row or text is None:
            raise UserError(
                f"{path}, line {reader.line_num} has another number of fields than the header: quote commas in names"
            )
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if math.isnan(score):
            raise UserError(f"{path}, line {reader.line_num} ({image!r}): the score {text[:40]!r} is not a number")
        yield Row(reader.line_num, image, score)
