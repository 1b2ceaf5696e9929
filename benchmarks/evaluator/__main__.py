"""Times the evaluator beside everything else that computes these metrics: same arrays, one run, plain numbers.

    python -m benchmarks.evaluator                                    # MVTec AD's size: 1,725 maps of 256x256
    python -m benchmarks.evaluator --scale 1 2 4 --json FILE --markdown
    python -m benchmarks.evaluator --images 60 --only ader adeval-1000 copy-fresh       # a trial

ADEval 1.1.0 breaks on NumPy 2.4 and newer (np.trapz), so competitors get an environment of their own:

    python3.11 -m venv .venv-bench
    .venv-bench/bin/pip install -e . "numpy<2.4" torch==2.12.1 torchvision==0.27.1 adeval==1.1.0 torchmetrics \\
        scikit-image scikit-learn
    .venv-bench/bin/python -m benchmarks.evaluator

What is missing there is reported as not installed. Each competitor runs in a process of its own, which makes the data
again from the seed (not timed), runs a small part twice (the difference of the two is the one-off time: JIT
compilation and the like), then takes the best of --repeats. Before every repetition the same arrays are copied, into
fresh memory and into memory already there; ratios to the copy are to the one in the same process, because a shared
machine's speed drifts. A competitor that would take longer than --limit seconds runs on as many whole categories as
fit, or on a part of one, and its time is extrapolated linearly and marked "~". Memory is the peak of the resident set
above what was there before (arrays excluded; ">" marks a subset); on CUDA, of the allocator.

Errors are the largest difference of pixel AUROC, AP and AUPRO to the exact values over the categories, on what ran;
exact is the evaluator with metric="exact", itself checked on one category with scikit-learn and another AUPRO. Exit
status 1: that check failed, or a certified bound did not hold.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import write_json
from benchmarks.evaluator.comparing import compare, sound
from benchmarks.evaluator.competitors import COMPETITORS
from benchmarks.evaluator.data import DISTRIBUTIONS
from benchmarks.evaluator.measuring import Spec, answer
from benchmarks.evaluator.tables import markdown_table, terminal_table

PROGRAM = "python -m benchmarks.evaluator"
PACKAGES = ("numpy", "torch", "numba", "ADEval", "opencv-python", "scikit-learn", "torchmetrics", "scikit-image")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit status."""
    options = parse(arguments)
    if options.worker:
        print(json.dumps(answer(Spec(**json.loads(options.worker)))))
        return 0
    report = {
        "command": " ".join([PROGRAM, *(sys.argv[1:] if arguments is None else arguments)]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "worker")},
        "machine": machine(),
    }
    sizes: list[dict[str, Any]] = []
    for scale in options.scale:
        shared = {name: getattr(options, name) for name in Spec.__dataclass_fields__ if name not in ("row", "images")}
        specs = [Spec(row=row, images=scale * options.images, **shared) for row in options.only]
        sizes.append(compare(specs, scale))
        print(f"\n{scale}x: {specs[0].images:,} maps of {options.size}x{options.size}, {options.distribution}")
        print(terminal_table(sizes[-1]), flush=True)
        if options.json:
            write_json(options.json, report | {"sizes": sizes})
    if options.markdown:
        print(f"\n{markdown_table(sizes)}")
    return int(not all(sound(size) for size in sizes))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with the rows to run in ``only``."""
    parser = argparse.ArgumentParser(PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1725, help="images at scale 1 (default 1725)")
    parser.add_argument("--categories", type=int, default=15, help="default 15")
    parser.add_argument("--scale", type=int, nargs="+", default=[1], help="multiples of --images (default 1)")
    parser.add_argument("--distribution", choices=DISTRIBUTIONS, default="smooth", help="of scores (default smooth)")
    parser.add_argument("--size", type=int, default=256, help="maps are SIZE x SIZE (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the data (default 0)")
    parser.add_argument("--batch", type=int, default=32, help="images per update (default 32)")
    parser.add_argument("--repeats", type=int, default=3, help="the best one counts (default 3)")
    parser.add_argument("--limit", type=float, default=120, help="seconds per competitor and size (default 120)")
    parser.add_argument("--threads", type=int, help="per competitor (default: each library's own choice)")
    parser.add_argument(
        "--only", nargs="+", choices=list(COMPETITORS), metavar="ROW", help=f"of {', '.join(COMPETITORS)}"
    )
    parser.add_argument("--torch-only", action="store_true", help="also the evaluator without compiled kernels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, after each size")
    parser.add_argument("--markdown", action="store_true", help="also print the documentation's table")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.images < 2 * options.categories:
        parser.error(f"--images {options.images}: at least two for each of {options.categories} categories")
    if options.only is None:
        cuda = not options.worker and importlib.import_module("torch").cuda.is_available()
        options.only = [row for row, each in COMPETITORS.items() if (cuda or not each.cuda) and row != "ader-torch"]
    if options.torch_only and "ader-torch" not in options.only:
        options.only.insert(options.only.index("ader") + 1 if "ader" in options.only else 0, "ader-torch")
    return options


def machine() -> dict[str, Any]:
    """Hardware, versions of what is compared, and the code's state."""
    from ader.results.provenance import hardware, installed  # here: a worker shall hold nothing but its competitor

    known, versions = hardware(), {package: installed(package) for package in PACKAGES}
    git = ["git", "-C", str(Path(__file__).parents[2])]
    commit, changed = (
        subprocess.run([*git, *words], capture_output=True, text=True, check=False).stdout.rstrip()
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "benchmarks", "ader"))
    )
    return {
        "cpu": known.cpu,
        "cores": known.cores,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": next(iter(known.gpus), None),
        "system": known.platform,
        "versions": {"python": platform.python_version()} | {name: found for name, found in versions.items() if found},
        "commit": commit,
        "changed": changed.splitlines(),
    }


if __name__ == "__main__":
    sys.exit(main())
