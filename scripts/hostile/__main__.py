"""The command line of the replay."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from scripts import hostile
from scripts.hostile import replay, world
from scripts.hostile.replay import Case, Judged, Running

KINDS = ("command_line", "option_files", "result_folders", "names", "image_files", "map_files", "archives")


def main(arguments: Sequence[str] | None = None) -> int:
    """Replays the cases that are asked for; 0 if all were answered as they should be."""
    parser = argparse.ArgumentParser(description=hostile.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose kind and name have this in it")
    parser.add_argument("--every", type=int, default=1, help="only every N-th of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at the same time (default: the cores)")
    parser.add_argument("--show", action="store_true", help="print every answer, not only the wrong ones")
    parser.add_argument("--json", type=Path, help="write the counts")
    options = parser.parse_args(arguments)
    chosen = [case for case in cases() if options.only in f"{case.kind}/{case.name}"][:: options.every]
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="hostile-template-") as folder:
        template = prepare(Path(folder) / "w")
        judged = list(_all(chosen, template, options.jobs, options.show))
    counts = {kind: Counter(not each.problems for each in judged if each.case.kind == kind) for kind in KINDS}
    for kind, count in counts.items():
        if count.total():
            print(f"{kind:<16}{count[True]:>5} of {count.total():>4} answered as they should be")
    right = sum(not each.problems for each in judged)
    print(f"{'all':<16}{right:>5} of {len(judged):>4}")
    if options.json:
        rows = {kind: {"right": count[True], "of": count.total()} for kind, count in counts.items()}
        wrong = sorted(f"{each.case.kind}/{each.case.name}" for each in judged if each.problems)
        options.json.write_text(json.dumps({"kinds": rows, "wrong": wrong}, indent=1) + "\n")
    return 0 if right == len(judged) else 1


def cases() -> list[Case]:
    """All of them.

    Raises:
        ValueError: two of a kind have the same name.
    """
    found = [case for kind in KINDS for case in importlib.import_module(f"scripts.hostile.{kind}").cases()]
    twice = [name for name, count in Counter((case.kind, case.name) for case in found).items() if count > 1]
    if twice:
        raise ValueError(f"cases of the same name: {twice[:5]}")
    return found


def prepare(folder: Path) -> Path:
    """The folder that each case gets a copy of; its run is made in a process like theirs, which also compiles."""
    here = world.make(folder)
    import timm  # noqa: F401  children find everything imported

    for words in (world.RUN, (*world.SCORE, "run=finished")):
        child = os.fork()
        if child == 0:
            replay.answer(Case("world", "finished", words), here, folder.parent / "out", folder.parent / "err")
        if os.waitpid(child, 0)[1]:
            sys.exit((folder.parent / "err").read_text())
    return folder


def _all(chosen: Iterable[Case], template: Path, jobs: int, show: bool) -> Iterator[Judged]:
    """Some at the same time, printed as they end."""
    waiting, running = iter(chosen), list[Running]()
    while True:
        running += [Running(case, template) for case in islice(waiting, jobs - len(running))]
        if not running:
            return
        for each in list(running):
            judged = each.look()
            if judged is None:
                continue
            running.remove(each)
            if judged.problems or show:
                _print(judged)
            yield judged
        time.sleep(0.01)


def _print(judged: Judged) -> None:
    case, verdict = judged.case, "WRONG" if judged.problems else "right"
    print(f"{verdict}  {case.kind}/{case.name}  {judged.seconds:.1f} s  {'; '.join(judged.problems)}")
    print(f"       ader {' '.join(case.words)!r:.300}")
    print("".join(f"       | {line!a:.300}\n" for line in judged.errors.splitlines()[-4:]), end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
