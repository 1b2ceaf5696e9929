"""Evaluates maps that another program made: ``ader score``. The whole flow, top to bottom."""

from __future__ import annotations

import math
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

from ader.config.schema import ScoreConfig, decoders
from ader.data import Index, Sample
from ader.data.index import TEST
from ader.data.reading import read_index
from ader.data.sizes import Sizes
from ader.mapfiles import MapSource, open_maps
from ader.report.result import show
from ader.results import schema
from ader.results.identity import check_name, contents_of, identify
from ader.results.outputs import Outputs
from ader.results.schema import ReadingCost
from ader.runs.facts import announce, write_result
from ader.runs.observe import observe
from ader.runs.plan import Plan
from ader.runs.session import Session, working_on
from ader.system.device import resolve_device
from ader.system.errors import UserError, some
from ader.system.interrupt import Interrupt
from ader.system.parallel import ahead, threads

#: Images that go to the evaluator together.
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class ScorePlan(Plan):
    """An evaluation of maps that are on disk.

    Attributes:
        source: reads them.
    """

    config: ScoreConfig
    source: MapSource


class Scored(NamedTuple):
    """What the evaluator needs of one image; ``mask_HW`` is at the evaluation size."""

    sample: Sample
    score: float
    given: bool
    map_HW: Tensor
    mask_HW: Tensor | None


def score(config: ScoreConfig, maps: Path) -> Path:
    """Evaluates the maps of a dataset's test images, or reports their finished result.

    Args:
        config: the configuration.
        maps: see ``ader.mapfiles.open_maps``.

    Returns:
        The folder with the results, ``<results>/<dataset>/maps/<name>/<run>``.

    Raises:
        UserError: bad input; nothing was half written.
        Stopped: a signal came, or something unexpected happened (the log has the traceback).
    """
    with Interrupt().listening() as interrupt, interrupt.during("while looking for maps"):
        plan = make_plan(config, maps)
        with working_on(plan, interrupt, config.force) as session:
            if session.finished:
                session.say_finished()
            else:
                announce(session, *described(plan.source))
                session.look_at_masks(config.paths.cache, decoders(config.workers))
                reading = add_all(session)
                write_result(session, source=recorded(plan.source, reading))
            show(plan.folder, session.console)
    return plan.folder


def make_plan(config: ScoreConfig, maps: Path) -> ScorePlan:
    """Reads the dataset, finds a map for every test image, and knows the maps by their content.

    Raises:
        UserError: bad input.
    """
    device = resolve_device(config.device, key="device")
    maps = Path(os.path.abspath(maps))
    name = check_name("name", config.name or (maps.stem if maps.is_file() else maps.name))
    choices = {**config.composition.choices, "setting": "maps", "method": name}
    config = replace(config, composition=replace(config.composition, choices=choices))
    index = read_index(config.dataset, config.composition.choices["dataset"])
    source = open_maps(maps, index, None if config.scores is None else Path(config.scores), contents_of(config))
    facts = source.describe()
    content = {"maps": facts["sha256"], "scores": facts["scores"]["sha256"] if "scores" in facts else "none"}
    outputs = Outputs(by_defect=config.metric.by_defect)
    return ScorePlan(
        config=config,
        index=index,
        id=identify(config, index, **content),
        device=device,
        outputs=outputs,
        demanded=outputs,
        source=source,
    )


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


def add_all(session: Session[ScorePlan]) -> ReadingCost:
    """Reads all maps and masks and gives them to the evaluator; what that cost."""
    plan, samples = session.plan, session.plan.index.split(TEST).samples
    sizes, workers = session.sizes, max(1, decoders(plan.config.workers))
    evaluator, scores = session.new_evaluator(), dict[str, float]()
    sketches = session.sketches if session.sketched else None
    began, seconds, maxima = time.perf_counter(), 0.0, 0
    with (
        session.interrupt.during("while evaluating"),
        threads(workers, "score") as pool,
        session.console.track("evaluate", len(samples), "images") as track,
    ):
        read = ahead(pool, lambda sample: read_one(plan.index, plan.source, sizes, sample), samples, workers + BATCH)
        while batch := list(islice(read, BATCH)):
            middle = time.perf_counter()
            maps = [image.map_HW.to(plan.device) for image in batch]
            masks = [image.mask_HW.to(plan.device) for image in batch if image.mask_HW is not None]
            score_B = torch.tensor([image.score for image in batch], dtype=torch.float64)
            observe(evaluator, sizes, [image.sample for image in batch], score_B, maps, masks or None, sketches)
            scores.update((image.sample.image, image.score) for image in batch)
            maxima += sum(not image.given for image in batch)
            seconds += time.perf_counter() - middle
            for _ in batch:
                track.advance()
            session.interrupt.check()
    reading = time.perf_counter() - began - seconds
    session.add(evaluator, scores)
    return ReadingCost(images=len(samples), seconds=reading, evaluate_seconds=seconds, scores_from_maps=maxima)


def read_one(index: Index, source: MapSource, sizes: Sizes, sample: Sample) -> Scored:
    """One image's map and mask; its score is the map's maximum unless one was given."""
    map_HW, given = source.read(sample)
    # NaN in a part of the map is left to the evaluator, which says that it is the map's
    score = float(np.fmax.reduce(map_HW, axis=None)) if given is None else given
    if given is None and math.isnan(score):  # a score of its own would be to blame
        raise UserError(f"the map of image {sample.image!r} of category {sample.category!r} is NaN: save numbers")
    height, width = map_HW.shape
    mask_HW = torch.from_numpy(sizes.mask(index, sample, (height, width))) if index.has_masks else None
    return Scored(sample, score, given is not None, torch.from_numpy(map_HW), mask_HW)
