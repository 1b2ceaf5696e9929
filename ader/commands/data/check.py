"""``ader data check``: what is on disk of a dataset, before anything is run on it."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ader.commands._request import Request
from ader.config.schema import DataConfig, decoders
from ader.data.audit import CHECKS, VANISHING, Audit, Size
from ader.data.audit import audit as look_at_all
from ader.data.census import census
from ader.data.check import by
from ader.data.index import Index
from ader.data.mask_rule import settle
from ader.data.reading import read_published
from ader.report.renderers import rich_table
from ader.report.tables import Column, Row, Table
from ader.results.identity import check_name
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.files import write_atomic
from ader.system.interrupt import Interrupt

#: Paths that the table shows of each check.
SHOWN = 3


def check(request: Request) -> int:
    """Prints what a dataset holds and what is wrong with it.

    Raises:
        UserError: something is wrong; the message counts it and names the report.
        Stopped: a signal came; the report is the one that was there before.
    """
    config = request.compose(DataConfig)
    if config is None:
        return 0
    with (
        Interrupt("nothing was written").listening() as interrupt,
        interrupt.during("while checking files"),
        Console() as console,
    ):
        audit, report = _look(config, console, interrupt.check)
        interrupt.check()
        with _writing(report):
            write_atomic(report, audit.as_csv())
        for table in (_categories(audit), _checks(audit)):
            console.rich.print(rich_table(table, gap=2))
            console.say("")
        if audit.findings:
            console.say(f"report   {report}")
    if wrong := audit.wrong():
        many = "1 thing is wrong" if wrong.total() == 1 else f"{wrong.total()} things are wrong"
        each = ", ".join(f"{check} {number}" for check, number in wrong.items())
        raise UserError(f"dataset {audit.index.name!r} at {audit.index.root}: {many} ({each}): see {report}")
    return 0


def _look(config: DataConfig, console: Console, interrupted: Callable[[], None]) -> tuple[Audit, Path]:
    """The audit of the configured dataset, and where it is to be written."""
    dataset = config.dataset
    if config.source is not None:
        raise UserError("source is a key of ader data prepare: to check another folder, give dataset.root=DIR")
    index = read_published(dataset, config.composition.choices["dataset"])
    report = _report_file(config, index)
    console.say(f"dataset  {index.name}\n         {index.root}\nimages   {census(index)}\n")
    workers = decoders(config.workers)
    rule = settle(index, "auto", index.name == dataset.name, config.paths.cache, workers, interrupted).rule
    with console.track("check files", len(index), "images") as track:

        def step() -> None:
            track.advance()
            interrupted()

        found = look_at_all(
            index,
            dataset.counts if dataset.check_counts else None,
            whole=dataset.categories is None,
            image_size=config.image_size,
            workers=workers,
            mask_rule=rule,
            step=step,
        )
    return found, report


def _report_file(config: DataConfig, index: Index) -> Path:
    """Where the report goes; that it can be written there is tried now and not after hours."""
    label = config.dataset.label
    name = index.name if label is None else check_name("dataset.label", label)
    default = config.paths.cache / "reports" / f"data_{name}.csv"
    path = Path(os.path.abspath(Path(config.report or default).expanduser()))
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


def _categories(audit: Audit) -> Table:
    """A row of numbers for each category, and their sums."""
    numbers = audit.numbers()
    total = sum(numbers.values(), Counter[str]())
    # training first, then its other parts by name
    order = {"train": 0, "training defects": 2, "test good": 3, "test defects": 4, "masks": 5}
    headings = sorted(total, key=lambda heading: (order.get(heading, 1), heading))
    words = [heading.rpartition(" ") for heading in headings]  # "test good" and "test defects" share "test"
    columns = [Column("category"), *(Column(last, first, "count") for first, _, last in words), Column("image sizes")]
    rows = [
        Row.of(name, *(counts[heading] for heading in headings), _range(audit.sizes[name]))
        for name, counts in numbers.items()
    ]
    if len(numbers) > 1:
        sizes = {size for found in audit.sizes.values() for size in found}
        rows.append(Row.of("all", *(total[heading] for heading in headings), _range(sizes), section=True))
    return Table(tuple(columns), tuple(rows))


def _range(sizes: Collection[Size]) -> str:
    """``WxH``, or the smallest and the largest by the number of pixels."""
    ends = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return " to ".join(dict.fromkeys(by(size) for size in (*ends[:1], *ends[-1:]))) or "-"


def _checks(audit: Audit) -> Table:
    """A row for each check: its verdict, and the first few files."""
    size = by((audit.image_size, audit.image_size))
    rows = []
    for name, verdict in CHECKS.items():
        found = audit.found(name)
        many = f"note {len(found)}" if verdict == "note" else str(len(found))
        none = "-" if name in audit.skipped else "ok"
        shown = [finding.path or finding.detail for finding in found[:SHOWN]]
        rest = [f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
        label = f"{name} at {size}" if name == VANISHING else name
        rows.append(Row.of(label, many if found else none, "\n".join([*shown, *rest])))
    return Table(tuple(map(Column, ("check", "verdict", "files"))), tuple(rows))
