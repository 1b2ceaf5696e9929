"""Seconds of a training step with frozen networks' features read from disk, beside computing them.

    python -m benchmarks.features --json results/bench/features.json --markdown results/bench/features.md

Each method under its default recipe, its networks at full size with random weights, on a few images of noise, on a CPU.
One batch is an epoch. Two trainings take turns, one that computes (``trainer.cache_features=off``) and one that reads
what an earlier run has written (``on``); of either the first step is left out and the fastest of the others counts,
since others may use the machine. Rows come from the system's memory here, as they do on a machine that has room for
them; a disk that has to be asked adds its own time: the bytes of an image are in the table. Methods whose frozen
networks are never given a training image as it is, or see each once, have nothing to gain and are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ader.config.options import options as options_of
from ader.config.validate import without_weights
from ader.methods._base import Batch, Method, Stage, TrainStage, recipe_arguments
from ader.methods._options import option_arguments, option_class
from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Column, Row, Table
from ader.results.provenance import provenance
from ader.results.schema import plain
from ader.system.console import Console
from ader.system.randomness import seed_all
from ader.training.cost import RandomImages
from ader.training.features import FeatureCache
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer
from benchmarks._common import write_json

CPU = torch.device("cpu")
METHODS = (
    "cfa", "cflow", "destseg", "fastflow", "invad", "invad_lite", "mambaad", "pyramidflow", "rd", "simplenet", "stpm",
    "uniad", "vitad",
)  # fmt: skip

COLUMNS = (
    Column("method"),
    *(Column(heading, kind="number", digits=2) for heading in ("computed (s)", "read (s)", "speed-up (x)")),
    Column("disk (MiB/image)", kind="number", digits=2),
)


class OneBatch(RandomImages):
    """One batch, in another order in every epoch; keeps when each step began and ended.

    Args:
        size: of images in pixels.
        method_class: whose labels are needed.

    Attributes:
        seconds: of each step, the first one left out, in which features are looked at or written.
    """

    def __init__(self, size: int, method_class: type[Method]) -> None:
        super().__init__(size, 1, CPU, method_class.tags)
        self.seconds: list[float] = []

    def order(self, stage: Stage) -> BatchOrder:
        return replace(super().order(stage), sampler="shuffled")

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        for place, batch in enumerate(super().train(stage, start, stop)):
            began = time.perf_counter()
            yield batch
            if place and isinstance(stage, TrainStage):
                self.seconds.append(time.perf_counter() - began)


def main() -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="METHOD", default=list(METHODS), help=f"default: {METHODS}")
    parser.add_argument("--size", type=int, default=256, help="of images, in pixels (default 256)")
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    parser.add_argument("--steps", type=int, default=4, help="of each training, the first is not timed (default 4)")
    parser.add_argument("--repeats", type=int, default=2, help="of both trainings (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--recipe", help="in place of the default one")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(options_of("method"))):
        parser.error(f"there is no method {', '.join(unknown)}: choose from {', '.join(options_of('method'))}")
    if options.steps < 2:
        parser.error("--steps must be at least 2: the first is not timed")
    torch.set_num_threads(options.threads)
    rows = {}
    for name in options.names:
        row = measured(name, options)
        print(f"{name}: {row or 'is given no image twice'}", file=sys.stderr)
        if row:
            rows[name] = row
    about = {name: getattr(options, name) for name in ("size", "batch", "threads", "steps", "repeats", "recipe")}
    text = markdown(rows, about)
    print(text)
    if options.json:
        write_json(options.json, {"methods": rows, **about, **plain(provenance())})
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    return 0


def measured(name: str, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one method; none where nothing was read, or there are no training steps."""
    method_class = option_class(name)
    arguments = without_weights(option_arguments(name, options.recipe))
    arguments = recipe_arguments(method_class, options.size, {**arguments, "batch_size": options.batch})

    def seconds(cache: FeatureCache | None, steps: int) -> float:
        seed_all(0)
        data = OneBatch(options.size, method_class)
        Trainer(device=CPU, max_steps=steps, features=cache).fit(method_class(**arguments), data)
        return min(data.seconds, default=0.0)

    with tempfile.TemporaryDirectory() as folder:

        def read() -> FeatureCache:
            return FeatureCache(Path(folder), "on", Console(quiet=True))

        first = read()
        seconds(first, 1)  # writes the rows
        served = read()
        pairs = [(seconds(None, options.steps), seconds(served, options.steps)) for _ in range(options.repeats)]
        bytes_per_image = sum(rows.row_bytes for rows in first.rows.values() if rows is not None)
    computing, reading = (min(times) for times in zip(*pairs, strict=True))
    if not served.served or not reading:
        return {}
    return {"computed": computing, "read": reading, "served": served.served, "row_bytes": bytes_per_image}


def markdown(rows: Mapping[str, Mapping[str, float]], about: Mapping[str, Any]) -> str:
    """The table, with what one must know to read it."""
    lines = [
        Row.of(name, each["computed"], each["read"], each["computed"] / each["read"], each["row_bytes"] / 2**20)
        for name, each in rows.items()
    ]
    recipe = f"recipe={about['recipe']}" if about["recipe"] else "the default recipe"
    return "\n".join([
        "# Features of frozen networks, read and computed",
        "",
        f"Made by `benchmarks/features.py`: seconds of a training step under {recipe}, {about['batch']} images of "
        f"{about['size']}x{about['size']}, CPU, {about['threads']} thread(s), random weights, fastest of "
        f"{about['repeats']} x {about['steps'] - 1} steps. **read**: with `trainer.cache_features` and rows of an "
        "earlier run, from the system's memory. What the method itself computes is in both.",
        "",
        pipe_table(Table(COLUMNS, tuple(lines))).rstrip(),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
