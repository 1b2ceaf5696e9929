"""Compares methods with their reference implementations: same weights, same input.

    python -m parity rd vitad --upstreams FOLDER        # FOLDER holds clones: ADer, RD4AD, ...
    python -m parity --upstreams FOLDER                 # all of them, each in a process of its own

Prints the largest absolute difference of features, loss, gradients, map and image score. ``parity/`` has a
file for each comparison, which says what it needs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from parity import load, names


def main() -> int:
    """Runs the comparisons; 1 if one could not be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(names())}; default: all")
    parser.add_argument("--upstreams", type=Path, required=True, help="folder of the references' clones")
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"there is no comparison {', '.join(unknown)}: choose from {', '.join(names())}")
    if not options.upstreams.is_dir():
        parser.error(f"--upstreams {options.upstreams}: no such folder")
    if len(options.names) == 1:
        compare(options.names[0], options.upstreams.resolve(), options.batch)
        return 0
    more = ["--upstreams", str(options.upstreams), "--batch", str(options.batch)]
    codes = [
        subprocess.run([sys.executable, "-m", "parity", name, *more]).returncode for name in options.names or names()
    ]
    return int(any(codes))


def compare(name: str, upstreams: Path, batch: int) -> None:
    """Makes one comparison in this process."""
    pair = load(name, upstreams, batch)
    print(f"{name} and {pair.upstream}", flush=True)
    for difference in pair.differences():
        print(f"  {difference.line()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
