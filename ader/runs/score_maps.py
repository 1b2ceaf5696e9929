"""Evaluates maps that another program made: ``ader score``. The whole flow, top to bottom."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ader.config.compose import Composed
from ader.config.validate import validated
from ader.data import Index, Sample
from ader.data.index import TEST
from ader.data.reading import read_index
from ader.data.sizes import Sizes
from ader.mapfiles import MapSource, open_maps
from ader.report.result import show
from ader.results import schema
from ader.results.identity import check_name, locate
from ader.results.schema import ReadingCost
from ader.runs import facts as telling
from ader.runs.job import Workers, decoders
from ader.runs.observe import observe
from ader.runs.task import Extras, Task, at_work, metric_options
from ader.system.device import resolve_device
from ader.system.errors import some
from ader.system.interrupt import Interrupt
from ader.system.parallel import ahead, threads

#: Images that go to the evaluator together.
BATCH = 16


@dataclass(frozen=True)
class ScoreOptions:
    """The configuration's own keys."""

    name: str | None
    scores: str | None
    device: str
    workers: Workers
    run: str | None
    force: bool


class Scored(NamedTuple):
    """What the evaluator needs of one image; ``mask_HW`` is at the evaluation size."""

    sample: Sample
    score: float
    given: bool
    map_HW: Tensor
    mask_HW: Tensor | None


def score(composed: Composed, maps: Path) -> Path:
    """Evaluates the maps of a dataset's test images, or reports their finished result.

    Args:
        composed: ``configs/score.yaml`` with its overrides.
        maps: see ``ader.mapfiles.open_maps``.

    Returns:
        The folder with the results, ``<results>/<dataset>/maps/<name>/<run>``.

    Raises:
        UserError: bad input; nothing was half written.
        Stopped: a signal came, or something unexpected happened (the log has the traceback).
    """
    with Interrupt().listening() as interrupt:
        interrupt.activity = "while looking for maps"
        options = score_options(composed)
        task, source = prepare(composed, options, maps, interrupt)
        with at_work(task, options.force):
            if task.finished:
                task.console.say(f"This result exists already (force=true runs it again): {task.folder}\n")
            else:
                telling.announce(task, *described(source))
                reading = add_all(task, source, max(1, decoders(options.workers)))
                interrupt.activity = "while writing the tables"
                telling.write(task, recorded(source, reading))
            show(task.folder, task.console)
    return task.folder


def prepare(composed: Composed, options: ScoreOptions, maps: Path, interrupt: Interrupt) -> tuple[Task, MapSource]:
    """Everything that can be known and checked before anything is written."""
    metric, device = metric_options(composed), resolve_device(options.device, key="device")
    maps = Path(os.path.abspath(maps))
    own = maps.stem if maps.is_file() else maps.name
    name = check_name("name", own if options.name is None else options.name)
    composed = replace(composed, choices={**composed.choices, "setting": "maps", "method": name})
    index = read_index(composed.values["dataset"])
    source = open_maps(maps, index, None if options.scores is None else Path(options.scores))
    facts = source.describe()
    content = {"maps": facts["sha256"]} | ({"scores": facts["scores"]["sha256"]} if "scores" in facts else {})
    task = Task(
        composed=composed,
        metric=metric,
        device=device,
        index=index,
        place=locate(composed, index, **content),
        interrupt=interrupt,
        extras=Extras(by_defect=metric.by_defect),
    )
    return task, source


def described(source: MapSource) -> Iterator[str]:
    """Lines that say where the maps are from."""
    facts = source.describe()
    yield f"maps     {facts['path']}"
    if "scores" in facts:
        yield f"scores   {facts['scores']['path']}"
    if source.extra:
        yield f"         {len(source.extra)} maps belong to no test image ({some(source.extra, 3)})"


def recorded(source: MapSource, reading: ReadingCost) -> schema.MapSource:
    """What the record says of the maps."""
    facts = source.describe()
    scores = schema.ScoreFile(**facts.pop("scores")) if "scores" in facts else None
    return schema.MapSource(**facts, scores=scores, reading=reading)


def add_all(task: Task, source: MapSource, workers: int) -> ReadingCost:
    """Reads all maps and masks and gives them to the evaluator; what that cost."""
    task.interrupt.activity = "while evaluating"
    samples = task.index.split(TEST).samples
    sizes, evaluator, scores = task.metric.sizes, task.new_evaluator(), dict[str, float]()
    began, seconds, maxima = time.perf_counter(), 0.0, 0
    with threads(workers, "score") as pool, task.console.track("evaluate", len(samples), "images") as track:
        read = ahead(pool, lambda sample: read_one(task.index, source, sizes, sample), samples, workers + BATCH)
        while batch := list(islice(read, BATCH)):
            middle = time.perf_counter()
            maps = [image.map_HW.to(task.device) for image in batch]
            masks = [image.mask_HW.to(task.device) for image in batch if image.mask_HW is not None]
            score_B = torch.tensor([image.score for image in batch], dtype=torch.float64)
            observe(evaluator, sizes, [image.sample for image in batch], score_B, maps, masks or None)
            scores.update((image.sample.image, image.score) for image in batch)
            maxima += sum(not image.given for image in batch)
            seconds += time.perf_counter() - middle
            for _ in batch:
                track.advance()
            task.interrupt.check()
    reading = time.perf_counter() - began - seconds
    task.add(evaluator, scores)
    return ReadingCost(images=len(samples), seconds=reading, evaluate_seconds=seconds, scores_from_maps=maxima)


def read_one(index: Index, source: MapSource, sizes: Sizes, sample: Sample) -> Scored:
    """One image's map and mask; its score is the map's maximum unless one was given."""
    map_HW, given = source.read(sample)
    # NaN in a part of the map is left to the evaluator, which says that it is the map's
    score = float(np.fmax.reduce(map_HW, axis=None)) if given is None else given
    height, width = map_HW.shape
    mask_HW = torch.from_numpy(sizes.mask(index, sample, (height, width))) if index.has_masks else None
    return Scored(sample, score, given is not None, torch.from_numpy(map_HW), mask_HW)


def score_options(composed: Composed) -> ScoreOptions:
    """The top-level keys, checked."""
    given = {key: value for key, value in composed.values.items() if key not in composed.choices}
    for key in ("name", "run"):
        if given.get(key) is not None:
            given[key] = check_name(key, given[key])  # run=12 is a name, too
    return ScoreOptions(**validated(ScoreOptions, given, where=""))
