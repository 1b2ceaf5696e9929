"""Kills a run at random moments, repeats it until it is done, and compares it with an uninterrupted one.

    python scripts/torture.py --kills 8 -- dataset=demo method=rd trainer.max_steps=40 paths.results=/tmp/torture

Both runs keep their results under the given ``paths.results`` (default: a temporary folder). Exit status 0: the same
weights, bit for bit, and the same tables.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

TABLES = ("metrics.csv", "bounds.csv", "counts.csv")


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="how often to kill (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--term", action="store_true", help="send SIGTERM instead of SIGKILL every second time")
    parser.add_argument("--checkpoint-minutes", type=float, default=0.0, help="default 0: after every step")
    parser.add_argument("overrides", nargs="+", help="a run's command line, after --")
    options = parser.parse_args()
    given = [word.partition("=")[2] for word in options.overrides if word.startswith("paths.results=")]
    root = Path(given[-1] if given else tempfile.mkdtemp(prefix="torture-"))
    words = [word for word in options.overrides if not word.startswith("paths.results=")]
    words.append(f"trainer.checkpoint_minutes={options.checkpoint_minutes}")
    whole, broken = root / "whole", root / "broken"
    for folder in (whole, broken):
        if folder.exists():
            parser.error(f"{folder} exists: give another paths.results=FOLDER")
    whole_seconds = _timed(words, whole)
    start_seconds = _timed(words, whole)  # nothing is left to do: what starting and showing the result take
    print(f"uninterrupted: {whole_seconds:.1f} s, of which starting {start_seconds:.1f} s", flush=True)
    rng, kills, rounds = random.Random(options.seed), 0, 0
    differences: list[str] = []
    while kills < options.kills and not differences:
        rounds += 1
        shutil.rmtree(broken, ignore_errors=True)
        longest = start_seconds + (whole_seconds - start_seconds) * 2 / max(1, options.kills - kills)
        kills += _torture(words, broken, longest, options.kills - kills, rng, options.term)
        _timed(words, broken)
        differences = compare(whole, broken)
    print(
        "\n".join(differences) or f"SAME: weights bit for bit, and tables, after {kills} kills in {rounds} runs; {root}"
    )
    return 1 if differences else 0


def compare(one: Path, other: Path) -> list[str]:
    """What differs between two results folders, a line each."""
    found = []
    for file in TABLES:
        tables = [sorted(folder.rglob(file)) for folder in (one, other)]
        if [path.read_bytes() for path in tables[0]] != [path.read_bytes() for path in tables[1]] or not tables[0]:
            found.append(f"{file} differs")
    checkpoints = [sorted(folder.rglob("checkpoint.pt")) for folder in (one, other)]
    if [path.relative_to(one) for path in checkpoints[0]] != [path.relative_to(other) for path in checkpoints[1]]:
        return [*found, "the checkpoints have other names"]
    for paths in zip(*checkpoints, strict=True):
        states = [torch.load(path, map_location="cpu", weights_only=True)["method"] for path in paths]
        if states[0].keys() != states[1].keys():
            found.append(f"{paths[0].name}: other weights")
            continue
        found += [f"{name} differs" for name in states[0] if not _equal(states[0][name], states[1][name])]
    leftovers = [str(path) for path in other.rglob(".*.tmp")]
    return found + [f"leftover {path}" for path in leftovers]


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and (isinstance(one, torch.Tensor) or one == other)


def _torture(words: Sequence[str], results: Path, longest: float, most: int, rng: random.Random, term: bool) -> int:
    """Kills one run at most ``most`` times, each time after up to ``longest`` seconds; how often it was killed."""
    for number in range(most):
        signal_sent = signal.SIGTERM if term and number % 2 else signal.SIGKILL
        wait = rng.uniform(0, longest)
        process = _start(words, results, quiet=True)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal_sent)
            process.wait()
            print(f"  {signal_sent.name} after {wait:.1f} s", flush=True)
        else:
            print(f"  finished before it could be killed (status {process.returncode})", flush=True)
            return number
    return most


def _timed(words: Sequence[str], results: Path) -> float:
    """Seconds of one run that is left alone."""
    began = time.monotonic()
    if _start(words, results).wait() != 0:
        sys.exit("a run that was left alone did not finish: see above")
    return time.monotonic() - began


def _start(words: Sequence[str], results: Path, quiet: bool = False) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ader", *words, f"paths.results={results}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL if quiet else None)


if __name__ == "__main__":
    sys.exit(main())
