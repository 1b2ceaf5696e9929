"""Images per second of training in two processes beside one: how much of the second processor is of use.

    python -m benchmarks.parallel --json results/bench/parallel.json --markdown results/bench/parallel.md
    cd FOLDER; PYTHONPATH=OTHER python -m benchmarks.parallel --label other ...    # another version of the package

(``FOLDER`` holds nothing but a link to ``benchmarks/``, ``OTHER`` that version's ``ader/``.) Methods under their recipe
``small`` learn from the demo data, decoded before, on a CPU with one thread a process. Three ways take turns: one
process; two that share every batch (gloo); and two that know nothing of each other and take half a batch each. The last
is what this machine has to give to two processes: what the second falls short of it is the price of sharing. Training
has taken a step before it is timed; a pass is timed as a whole, PatchCore's coreset with it. The largest of several
rates counts, since others may use the machine. Seconds of the processor per image do not count what others take, nor
time in which a process waits.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ader.config.options import options as options_of
from ader.data import Index, load_index
from ader.data.image_cache import CachedImages, cache_images
from ader.methods._base import Method, TrainStage, recipe_arguments
from ader.methods._options import option_arguments, option_class
from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Column, Row, Table
from ader.results.provenance import provenance
from ader.results.schema import plain
from ader.system import dist
from ader.system.randomness import seed_all
from ader.testing.processes import in_processes
from ader.training.cost import count_parameters
from ader.training.loader import Loader
from ader.training.trainer import Trainer
from benchmarks._common import loads, read_json, write_json

SIZE = 128  # pixels, as in the recipes
SECONDS = 1800.0  # after which processes are taken to wait for each other
CPU = torch.device("cpu")
METHODS = ("rd", "invad_lite", "simplenet", "patchcore")

COLUMNS = (
    Column("version"),
    Column("method"),
    *(Column(heading, kind="number", digits=1) for heading in ("trained (M)", "one (images/s)")),
    *(
        Column(heading, kind="number", digits=2)
        for heading in ("two, sharing (x)", "two, apart (x)", "efficiency", "of what there is", "by processor time")
    ),
)


def main() -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="METHOD", default=list(METHODS), help=f"default: {METHODS}")
    parser.add_argument("--steps", type=int, default=9, help="of training that are timed (default 9: an epoch of rd)")
    parser.add_argument("--repeats", type=int, default=3, help="of all ways (default 3)")
    parser.add_argument("--label", default="now", help="of these figures; those of other labels in the file are kept")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(options_of("method"))):
        parser.error(f"there is no method {', '.join(unknown)}: choose from {', '.join(options_of('method'))}")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        index = load_index("demo", Path(folder) / "demo").split("train")
        cached = cache_images({s.image: index.path(s.image) for s in index}, SIZE, Path(folder) / "cache", workers=1)
        for name in options.names:
            rows[name] = measured(name, index, cached, options)
    figures = read_json(options.json) if options.json else {}
    runs = {**figures.get("runs", {}), options.label: {"load": os.getloadavg()[2], "rows": rows}}
    text = markdown(runs)
    print(text)
    if options.json:
        write_json(options.json, {"runs": runs, "repeats": options.repeats, **plain(provenance())})
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    return 0


def measured(name: str, index: Index, cached: CachedImages, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one method."""
    arguments = option_arguments(name, "small")
    batch, steps = int(arguments["batch_size"]), options.steps

    def work(world: int, share: int) -> list[dict[str, float]]:
        given = {**arguments, "batch_size": batch // share}
        return in_processes(world, SECONDS, train, name, given, index, cached, steps)

    def apart() -> list[dict[str, float]]:
        with ThreadPoolExecutor(2) as pool:
            return [share for (share,) in pool.map(lambda _: work(1, 2), range(2))]

    ways: dict[str, Callable[[], list[dict[str, float]]]] = {
        "one": lambda: work(1, 1),
        "sharing": lambda: work(2, 1),
        "apart": apart,
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    costs: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, run in ways.items():
            shares = run()
            images = sum(share["images"] for share in shares)
            images = images / len(shares) if way == "sharing" else images  # each counts those of both
            rates[way].append(images / max(share["seconds"] for share in shares))
            costs[way].append(max(share["processor_seconds"] for share in shares) / images)
            print(f"{name}, {way}: {rates[way][-1]:.1f} images/s", file=sys.stderr)
    row: dict[str, Any] = {"trained": count_parameters(make(name, arguments))[1], "batch_size": batch, "steps": steps}
    for way in ways:
        row[way] = {"images_per_second": max(rates[way]), "processor_seconds_per_image": min(costs[way])}
    return row


def make(name: str, arguments: Mapping[str, Any]) -> Method:
    """A new method."""
    seed_all(0)
    method_class = option_class(name)
    return method_class(**recipe_arguments(method_class, SIZE, dict(arguments)))


def train(name: str, arguments: Mapping[str, Any], index: Index, cached: CachedImages, steps: int) -> dict[str, float]:
    """In one process: the images that all of its group have trained on, and the seconds that took."""
    loader = Loader(index, SIZE, CPU, 0, 0, option_class(name).tags, cached)
    method = make(name, arguments)
    if isinstance(next(iter(method.stages())), TrainStage):  # a pass has no steps that could be left out
        Trainer(device=CPU, max_steps=1).fit(make(name, arguments), loader)
    dist.barrier()
    began = time.process_time()
    state = Trainer(device=CPU, max_steps=steps).fit(method, loader)
    return {
        "images": sum(state.images.values()),
        "seconds": sum(state.seconds.values()),
        "processor_seconds": time.process_time() - began,
    }


def markdown(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, with what one must know to read it."""
    table = Table(
        COLUMNS, tuple(line(label, name, each) for label, run in runs.items() for name, each in run["rows"].items())
    )
    lines = [
        "# Training in two processes beside one",
        "",
        f"Made by `benchmarks/parallel.py`: `recipe=small` on the demo data at {SIZE}x{SIZE}, CPU, one thread a "
        "process, gloo. **two, sharing**: images per second of two processes that share every batch over those of one. "
        "**two, apart**: of two that know nothing of each other, with half a batch each: what this machine has to "
        "give. **efficiency**: sharing / 2. **of what there is**: sharing / apart. **by processor time**: seconds of "
        "the processor that an image takes in one process, over twice those that it takes in the busier of two: "
        "efficiency without waiting and without what others take of the machine.",
        "",
        pipe_table(table).rstrip(),
        "",
        *loads(runs),
        "",
    ]
    return "\n".join(lines)


def line(label: str, name: str, each: Mapping[str, Any]) -> Row:
    """One line of the table."""
    one, sharing, apart = (each[way]["images_per_second"] for way in ("one", "sharing", "apart"))
    alone, shared = (each[way]["processor_seconds_per_image"] for way in ("one", "sharing"))
    ratios = (sharing / one, apart / one, sharing / one / 2, sharing / apart, alone / shared / 2)
    return Row.of(label, name, each["trained"] / 1e6, one, *ratios)


if __name__ == "__main__":
    sys.exit(main())
