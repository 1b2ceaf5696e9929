"""``ader sweep check``: whether a sweep's numbers are worse than expected."""

from __future__ import annotations

import math
from pathlib import Path

from ader.commands._request import Request
from ader.system.errors import UserError


def main(request: Request) -> int:
    """Prints what is worse; status 1 where anything is."""
    request.nothing_composed()
    from ader.config.compose import compose_as
    from ader.config.schema import SweepConfig
    from ader.results.sweeps import ledger
    from ader.sweeps import numbers

    given, request = request.value("tolerance")
    plain = [word for word in request.words if "=" not in word or Path(word).is_file()]
    if len(plain) != 2:
        raise UserError("ader sweep check takes a sweep's name and a table: ader sweep check NAME TABLE.csv")
    tolerance = 0.01 if given is None else _tolerance(given)
    results = compose_as(SweepConfig, [word for word in request.words if word not in plain]).paths.results
    folder, _ = ledger.find(results, plain[0])
    now, expected = numbers.read_metrics(folder / numbers.METRICS), numbers.read_metrics(Path(plain[1]))
    found = numbers.worse(now, expected, tolerance)
    for line in found:
        print(line)
    print(f"{len(found)} worse by more than {100 * tolerance:g} points, of {len(expected)} jobs expected")
    return 1 if found else 0


def _tolerance(typed: str) -> float:
    try:
        value = float(typed)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise UserError(f"tolerance={typed!r} is no fraction: give one from 0, such as 0.01 for one point")
    return value
