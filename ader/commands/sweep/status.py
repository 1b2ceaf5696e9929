"""``ader sweep status``: what became of a sweep's jobs."""

from __future__ import annotations

from ader.commands._request import Request
from ader.system.errors import UserError


def main(request: Request) -> int:
    """Prints a line for each sweep, or for each job of one; status 1 where a job of that one has failed."""
    request.nothing_composed()
    from ader.config.compose import compose_as
    from ader.config.schema import SweepConfig
    from ader.results.sweeps import ledger
    from ader.sweeps.board import headline, life, status_text

    names = [word for word in request.words if "=" not in word]
    results = compose_as(SweepConfig, [word for word in request.words if "=" in word]).paths.results
    known = ledger.names(results)
    if len(names) > 1:
        raise UserError(f"ader sweep status takes one name, got {' '.join(names)}")
    if not known:
        raise UserError(f"there is no sweep in {results / ledger.FOLDER}: ader -m runs one, or give paths.results=DIR")
    if not names and len(known) > 1:
        for name in known:
            _, sweep = ledger.find(results, name)
            print(f"{headline(sweep)}\n  {life(sweep)}")
        return 0
    folder, sweep = ledger.find(results, names[0] if names else known[0])
    print(status_text(sweep))
    print(f"\n{folder}")
    return 1 if sweep.tally["failed"] else 0
