"""``ader data``: what is on disk of a dataset, before anything is run on it."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ader.commands.prepare import clear, prepare
from ader.errors import UserError, suggest

if TYPE_CHECKING:  # imported where they are needed: help must answer at once
    from rich.table import Table

    from ader.config import Composed
    from ader.console import Console
    from ader.data.audit import Audit, DataOptions, Size
    from ader.data.index import Index

USAGE = """\
ader data check dataset=NAME [key=value ...]
ader data prepare dataset=NAME [source=ARCHIVE_OR_FOLDER] [key=value ...]
ader data clear [paths.cache=DIR]

check decodes every image and mask of a dataset and says what is wrong with it: numbers of images other than
published, missing, unreadable and extra files, masks of another size than their image or that mark
nothing or a normal image, defects without mask, test images that training has too (the same pixels,
whatever the file is called), equal images with different labels or categories. Noted, but not wrong:
other equal images, and defects that vanish at the image size.

  dataset.root=DIR  dataset.categories=[a,b]  dataset.check_counts=false  paths.data=DIR
  image_size=256                at which defects may vanish
  report=FILE.csv               every finding (columns verdict, check, path, detail); else in paths.cache
  workers=N                     threads
  --config-dir DIR              a folder with options of your own
  --cfg                         print the composed configuration

prepare puts a dataset where it is read from: it verifies and unpacks archives (source: one, or a folder
of them), downloads those that have a public address and checksum, converts what has to be converted
(COCO-AD, CIFAR; VisA and BMAD from another folder), and compares the numbers of images with the
published ones. Without a source it takes what lies at dataset.root, or says where to get the dataset.

clear deletes the images that runs have kept decoded (dataset.cache); they are made again when needed.

exit status: 0 done, and nothing is wrong (notes are allowed); 2 something is
"""

#: Paths that the table shows of each check.
SHOWN = 3


def main(arguments: Sequence[str]) -> int:
    """Runs one of the data commands on the words after it."""
    name = arguments[0] if arguments else ""
    if name not in ACTIONS:
        raise UserError(f"{' '.join(['ader data', *arguments[:1]])}: {suggest(name, ACTIONS)} (ader data --help)")
    return ACTIONS[name](arguments[1:])


def check(arguments: Sequence[str]) -> int:
    """Prints what a dataset holds and what is wrong with it.

    Raises:
        UserError: something is wrong; the message counts it and names the report.
        Stopped: a signal came; the report is the one that was there before.
    """
    composed = read_configuration(arguments)
    if composed is None:
        return 0
    from ader.console import Console
    from ader.interrupt import Interrupt

    with Interrupt().listening() as interrupt, Console() as console:
        interrupt.activity, interrupt.advice = "while checking files", "nothing was written"
        audit, report = _look(composed, console, interrupt.check)
        interrupt.check()
        with _writing(report):
            _write(report, audit.as_csv())
        _show(console, audit, report)
    _judge(audit, report)
    return 0


def read_configuration(arguments: Sequence[str]) -> Composed | None:
    """The configuration that the words compose; None when it was only to be printed.

    Raises:
        UserError: anything wrong with the words.
    """
    from ader.config import compose, take_flags

    flags, words = take_flags(arguments)
    composed = compose(words, flags.config_dir, root="data")
    if not flags.cfg:
        return composed
    print(composed.as_yaml(), end="")
    return None


def _look(composed: Composed, console: Console, interrupted: Callable[[], None]) -> tuple[Audit, Path]:
    """The audit of the configured dataset, and where it is to be written."""
    from ader.data.audit import audit
    from ader.job import decoders
    from ader.report.run import census

    options, dataset = data_options(composed), composed.values["dataset"]
    if options.source is not None:
        raise UserError("source is a key of ader data prepare: to check another folder, give dataset.root=DIR")
    index = _read(composed)
    report = _report_file(composed, options, index)
    console.say(f"dataset  {index.name}\n         {index.root}\nimages   {census(index)}\n")
    with console.track("check files", len(index), "images") as track:

        def step() -> None:
            track.advance()
            interrupted()

        found = audit(
            index,
            dataset.get("counts") if dataset["check_counts"] else None,
            whole=dataset.get("categories") is None,
            image_size=options.image_size,
            workers=decoders(options.workers),
            step=step,
        )
    return found, report


def data_options(composed: Composed) -> DataOptions:
    """The top-level keys, checked."""
    from ader.arguments import validated
    from ader.data.audit import DataOptions

    given = {key: value for key, value in composed.values.items() if key not in composed.choices}
    return DataOptions(**validated(DataOptions, given, where=""))


def _read(composed: Composed) -> Index:
    """The samples as the reader lists them: neither counted nor with joined splits."""
    from ader.data.load import load_index
    from ader.task import NOT_READERS

    left_out = {*NOT_READERS, "counts", "check_counts", "train_on"}
    options = {key: value for key, value in composed.values["dataset"].items() if key not in left_out}
    return load_index(options.pop("name"), options.pop("root"), train_on=(), **options)


def _report_file(composed: Composed, options: DataOptions, index: Index) -> Path:
    """Where the report goes; that it can be written there is tried now and not after hours."""
    from ader.runname import check_name

    label = composed.values["dataset"].get("label")
    name = index.name if label is None else check_name("dataset.label", label)
    default = Path(composed.values["paths"]["cache"]) / "reports" / f"data_{name}.csv"
    path = Path(os.path.abspath(Path(options.report or default).expanduser()))
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
    return path


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says what to do where the report cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"report {path} cannot be written ({error.strerror}): give report=FILE.csv") from error


def _write(path: Path, content: bytes) -> None:
    from ader.files import write_atomic

    write_atomic(path, content)


def _show(console: Console, audit: Audit, report: Path) -> None:
    """The tables, and where everything is."""
    for table in (_categories(audit), _checks(audit)):
        console.rich.print(table)
        console.say("")
    if audit.findings:
        console.say(f"report   {report}")


def _categories(audit: Audit) -> Table:
    """A row of numbers for each category, and their sums."""
    numbers = audit.numbers()
    total = sum(numbers.values(), Counter[str]())
    headings = sorted(total, key=_place)
    table = _table("category", *(heading.replace(" ", "\n") for heading in headings), "image sizes")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for name, row in numbers.items():
        _add(table, name, *(str(row[heading]) for heading in headings), _range(audit.sizes[name]))
    if len(numbers) > 1:
        table.add_section()
        sizes = {size for found in audit.sizes.values() for size in found}
        _add(table, "all", *(str(total[heading]) for heading in headings), _range(sizes))
    return table


def _place(heading: str) -> tuple[int, str]:
    """Training first, then its other parts by name."""
    order = {"train": 0, "training defects": 2, "test good": 3, "test defects": 4, "masks": 5}
    return order.get(heading, 1), heading


def _range(sizes: Collection[Size]) -> str:
    """``WxH``, or the smallest and the largest by the number of pixels."""
    from ader.data.check import by

    ends = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return " to ".join(dict.fromkeys(by(size) for size in (*ends[:1], *ends[-1:]))) or "-"


def _checks(audit: Audit) -> Table:
    """A row for each check: its verdict, and the first few files."""
    from ader.data.audit import CHECKS, VANISHING
    from ader.data.check import by

    size = by((audit.image_size, audit.image_size))
    table = _table("check", "verdict", "files")
    for name, verdict in CHECKS.items():
        found = audit.found(name)
        many = f"note {len(found)}" if verdict == "note" else str(len(found))
        none = "-" if name in audit.skipped else "ok"
        shown = [finding.path or finding.detail for finding in found[:SHOWN]]
        rest = [f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
        label = f"{name} at {size}" if name == VANISHING else name
        _add(table, label, many if found else none, "\n".join([*shown, *rest]))
    return table


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    """Adds a row of names as they are: rich would read brackets and colons in them as markup."""
    from rich.text import Text

    table.add_row(*(Text(cell.encode(errors="backslashreplace").decode()) for cell in cells))


def _judge(audit: Audit, report: Path) -> None:
    """Ends in an error where anything is wrong."""
    wrong = audit.wrong()
    if not wrong:
        return
    many = "1 thing is wrong" if wrong.total() == 1 else f"{wrong.total()} things are wrong"
    each = ", ".join(f"{check} {number}" for check, number in wrong.items())
    raise UserError(f"dataset {audit.index.name!r} at {audit.index.root}: {many} ({each}): see {report}")


#: What follows ``ader data``: functions of the remaining words that return the exit status.
ACTIONS: dict[str, Callable[[Sequence[str]], int]] = {"check": check, "prepare": prepare, "clear": clear}
