"""``ader diff``: what differs between two runs."""

from __future__ import annotations

from ader.commands._request import Request
from ader.system.errors import UserError

SUMMARY = "ader diff RUN_A RUN_B          what differs in config, code, data, weights, warnings and numbers"

USAGE = """\
ader diff RUN_A RUN_B [metric=SLUG,...] [most=N] [format=terminal|markdown|csv]

What differs between two runs: configuration, code and versions, data, weights, warnings, and numbers per category
and metric, largest first. RUN_A and RUN_B are results folders. Of a run that is not finished only the configuration is
compared. Exit status 0, whether anything differs or not.

  metric=image_auroc,mad        these metrics, or all; else ADer's seven, their mean and IoU-max (ader list metrics)
  most=20|N|all                 numbers that are shown; csv has all
  format=csv                    one table, numbers as fractions in full precision
"""


def main(request: Request) -> int:
    """Prints what differs, part by part."""
    request.nothing_composed()
    form, request = request.option("format", ("terminal", "markdown", "csv"))
    metric, request = request.value("metric")
    most, request = request.value("most")
    needed = "two runs' folders are needed: ader diff RUN_A RUN_B"
    first, request = request.take(needed)
    second, request = request.take(needed)
    if request.words:
        raise UserError(f"ader diff takes two runs, metric=, most= and format=, got {request.words[0]} as well")
    from ader.report import differences, renderers
    from ader.system.text import clean

    one, other = differences.open_side(first), differences.open_side(second)
    found = differences.changes(one, other, _metrics(metric))
    if form == "csv":
        print(renderers.csv(differences.one_table(found)), end="")
        return 0
    render = renderers.terminal if form == "terminal" else renderers.markdown
    above = [f"A  {one.folder}", f"B  {other.folder}", "", *differences.remarks(one, other, found)]
    tables = [render(table).rstrip("\n") for table in differences.part_tables(found, _most(most, form))]
    break_ = "\n" if form == "terminal" else "  \n"
    print("\n\n".join([break_.join(clean(line) for line in above), *tables]))
    return 0


def _metrics(text: str | None) -> tuple[str, ...]:
    """Slugs.

    Raises:
        UserError: there is no such metric.
    """
    from ader.metrics import SLUGS
    from ader.metrics.definitions import find_metric
    from ader.report.differences import CHOSEN

    if text is None or text == "all":
        return SLUGS if text else CHOSEN
    return tuple(find_metric(slug.strip()).slug for slug in text.strip("[]").split(","))


def _most(text: str | None, form: str) -> int | None:
    """How many numbers are shown; None for all.

    Raises:
        UserError: that is no number.
    """
    if text is None:
        return 20 if form == "terminal" else None
    if text == "all":
        return None
    if not text.isdecimal() or not text.isascii() or int(text) == 0:
        raise UserError(f"most={text} is neither a number above 0 nor all: most=20")
    return int(text)
