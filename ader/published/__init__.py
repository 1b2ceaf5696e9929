"""Published numbers of five papers, as they were printed: every row says of which paper and table it is.

The files are long tables, one value a row: ``source``, ``table``, ``dataset``, ``split``, ``setting``, ``epochs``,
``method``, ``category``, ``metric``, ``value`` (and ``std``) in percent, ``note``, which says what is doubtful.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ader.system.errors import UserError, suggest

if TYPE_CHECKING:
    import pandas as pd

#: The papers, with what they are called.
SOURCES = {
    "ader": "ADer",
    "invad": "InvAD",
    "segad": "SegAD",
    "beyond_academic": "Beyond Academic Benchmarks",
    "im_iad": "IM-IAD",
}

#: Columns of numbers; all others are text.
NUMBERS = ("value", "std")


def names() -> list[str]:
    """The tables that there are: those of ``SOURCES`` with their results, and tables of costs, ablations and counts."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.csv"))


@lru_cache
def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    if name not in names():
        raise UserError(f"there are no published numbers {name!r}: {suggest(name, names())}")
    table = pd.read_csv(Path(__file__).with_name(f"{name}.csv"), dtype=str, keep_default_na=False)
    return table.assign(**{column: pd.to_numeric(table[column]) for column in NUMBERS if column in table})


def read(name: str) -> pd.DataFrame:
    """One table: text, empty where nothing stands, and numbers, NaN where nothing stands.

    Args:
        name: of ``names()``.

    Raises:
        UserError: there is none.
    """
    return _read(name).copy()
