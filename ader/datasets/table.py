"""A table of your own images: a CSV or Parquet file with a row for each.

::

    image,category,split,label,mask,defect,group
    a/001.png,bolt,train,0,,,
    b/007.png,bolt,test,1,truth/007a.png;truth/007b.png,scratch,part 7

The first four columns are required; the order of the columns does not matter. Paths are relative to the root. Nothing
is guessed from a value: ``001`` and ``NA`` are names like any other.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ader.data.index import TEST, Index, Sample
from ader.datasets._locating import checked_path, find_root, is_normal
from ader.datasets.folder import folder_name
from ader.datasets.meta import SPLITS, listed_index
from ader.system.errors import UserError, suggest

REQUIRED = ("image", "category", "split", "label")
OPTIONAL = ("mask", "defect", "group")

#: Where a row stands, in words, and its values.
Row = tuple[str, Mapping[str, str]]


def table(root: Path, categories: Sequence[str] | None = None, file: str = "index.csv") -> Index:
    """Lists the images that a CSV or Parquet table names, a row each, and no others.

    ===========  =====================================================================================
    column       value
    ===========  =====================================================================================
    image        path of the image
    category     a name
    split        ``train``, ``test`` or ``validation``
    label        ``0`` for normal, ``1`` for defective
    mask         optional: paths of masks, ``;`` between them; their union marks the defect
    defect       optional: the kind of defect, ``bad`` where empty. In training data, a name beside label 0 is a wrong
                 label, made on purpose
    group        optional: the object, where several images show views of one
    ===========  =====================================================================================

    Args:
        root: the folder that paths are relative to. Its name becomes part of the index's name.
        categories: those to read; None means all.
        file: the table, relative to ``root``: ``.csv`` (UTF-8, commas) or ``.parquet`` (needs pyarrow).

    Returns:
        Categories in the order in which they come first, in each samples sorted by path. ``has_masks`` is False when
        no defective image has a mask.

    Raises:
        UserError: the file is missing or damaged, a column is missing or unknown, or a value is not as above; the
            message names the row.
    """
    name = folder_name(root, "table")
    root = find_root(root, lambda folder: (folder / file).is_file(), file)
    path = root / file
    reader = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"dataset.file: {path} is neither a .csv nor a .parquet: save the table as one of them")
    return listed_index(name, root, categories, file, [_sample(row, where) for where, row in reader(path)])


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        _check_columns(path, reader.fieldnames or [])
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(f"{where} has another number of fields than the header: quote commas in names")
            yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): give a CSV in UTF-8") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise UserError(f"{path} needs the package pyarrow: pip install pyarrow, or save the table as CSV") from error
    except Exception as error:  # each engine raises its own
        raise UserError(f"{path} cannot be read ({error}): save the table again") from error
    _check_columns(path, [str(column) for column in frame.columns])
    texts = frame.astype(object).where(frame.notna(), "").map(str)
    for number, row in enumerate(texts.to_dict("records"), start=1):
        yield f"{path}, row {number}", {str(column): value for column, value in row.items()}


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    known = (*REQUIRED, *OPTIONAL)
    for column in REQUIRED:
        if column not in columns:
            header = ",".join(columns)[:100]
            raise UserError(f"{path} has no column {column!r}; its columns are {header!r}: {_remedy(column, columns)}")
    for column in columns:
        if column not in known:  # a misspelt "mask" must not cost the masks
            raise UserError(f"{path} has an unknown column {column!r}: {suggest(column, known)} Or remove it")
        if list(columns).count(column) > 1:
            raise UserError(f"{path} has two columns {column!r}: remove one")


def _remedy(column: str, columns: Sequence[str]) -> str:
    """What is likely wrong with a header that lacks a column."""
    if len(columns) == 1 and re.search(r"[;\t| ]", columns[0]):
        return "put commas between them"
    known = (*REQUIRED, *OPTIONAL)
    spelled = [name for name in columns if name not in known and name.strip().lower() in known]
    if spelled:
        return f"write {spelled[0].strip().lower()!r} for {spelled[0]!r}"
    near = difflib.get_close_matches(column, [name for name in columns if name not in known], n=1)
    return f"rename {near[0]!r}, or add it" if near else "add it"


def _sample(row: Mapping[str, str], where: str) -> Sample:
    label, split, category = row["label"], row["split"], row["category"]
    if label not in ("0", "1"):
        raise UserError(f"{where}: label {label!r} is neither 0 (normal) nor 1 (defective)")
    if split not in SPLITS:
        raise UserError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
    if not category:
        raise UserError(f"{where} has no category: name one")
    defect = row.get("defect") or ("bad" if label == "1" else "good")
    if label == "1" and is_normal(defect):
        raise UserError(f"{where} has label 1 (defective) and defect {defect!r}: fix one of them")
    if label == "0" and is_normal(defect):
        defect = "good"
    if label == "0" and split == TEST and defect != "good":
        raise UserError(f"{where} has label 0 (normal) and defect {defect!r}: fix one of them")
    masks = tuple(checked_path(mask.strip(), where) for mask in row.get("mask", "").split(";") if mask.strip())
    return Sample(
        checked_path(row["image"], where), category, split, int(label), masks, defect, row.get("group") or None
    )
