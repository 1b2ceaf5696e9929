"""What the page knows of a results tree: plain values, a pure function of its runs and of the files in their folders.

Two parts: ``Overview`` is what the first look needs (a line per run), ``details`` what one sees of a single run; the
page reads the second only when it is asked for. Names are data, and stand as `clean` leaves them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from ader.metrics import METRICS
from ader.report.collection import Run
from ader.report.page.curves import read_curves
from ader.report.page.figures import NONE, Figures
from ader.report.page.pictures import Pictures, shown_gallery
from ader.report.result_tables import roots
from ader.report.where import as_text
from ader.results.identity import recipe_but_seed
from ader.results.record import digest, read_table
from ader.results.schema import MapSource, ModelRecord, Record, plain
from ader.system.errors import UserError
from ader.system.text import clean

#: Metrics that are shown unless others are chosen: ADer's seven, their mean, and IoU-max.
CHOSEN = (*(each.slug for each in METRICS if each.table == "main"), "pixel_ioumax")

SLUGS = tuple(each.slug for each in METRICS)

#: What a run's path says, and other keys that the leaderboard shows or is searched for.
PLACE = ("dataset", "setting", "method", "run")
KEYS = ("seed", "epochs", "backbone", "profile", "recipe", "trainer")


@dataclass
class Shared:
    """Values that many runs have in common, each kept once.

    Attributes:
        texts: and the places where they are.
        environments: code, versions and machine.
    """

    texts: dict[str, int] = field(default_factory=dict)
    environments: dict[str, int] = field(default_factory=dict)

    def text(self, text: str) -> int:
        """The place of a text."""
        return self.texts.setdefault(clean(text), len(self.texts))

    def environment(self, values: Mapping[str, Any]) -> int:
        """The place of an environment."""
        return self.environments.setdefault(json.dumps(values), len(self.environments))


def overview(runs: Sequence[Run]) -> dict[str, Any]:
    """A line per run, and what its numbers may be compared with.

    Returns:
        ``metrics``: slug, heading, group, description, ``higher`` (is better), ``chosen`` (is shown at first).
        ``boards``: sets of results that are comparable, in words. ``runs``: each with ``id``, ``state``, ``reason``,
        `PLACE`, `KEYS`, and if it is finished ``board``, ``group`` (runs that differ in nothing but their seed),
        ``cautions``, ``mean`` (by metric, null where undefined), ``why`` (the gaps) and ``cost``.
    """
    boards: dict[tuple[str, ...], int] = {}
    groups = _Groups()
    lines = [_line(run, name, boards, groups) for run, name in zip(runs, _names(runs), strict=True)]
    return {
        "metrics": [
            {
                "slug": each.slug,
                "heading": each.column[1],
                "group": each.column[0],
                "description": each.description,
                "higher": each.higher_is_better,
                "chosen": each.slug in CHOSEN,
            }
            for each in METRICS
        ],
        "boards": [{"dataset": key[0], "setting": key[1], "note": key[2]} for key in boards],
        "runs": lines,
    }


def details(runs: Sequence[Run], pictures: Pictures, figures: Figures = NONE) -> dict[str, Any]:
    """What one sees of a single run.

    Args:
        runs: all, as for ``overview``.
        pictures: takes up those of galleries.
        figures: those of single runs among them.

    Returns:
        ``runs``, in that order, null where one is not finished: ``rows`` (categories, then ``mean``), ``values`` and
        ``bounds`` by row and metric, ``gaps`` (row, metric and place of the reason), ``why`` (reasons and their
        categories), ``config`` (places of keys and values in turn), ``environment`` (its place), provenance, models,
        curves and gallery (`read_curves`, `shown_gallery`). ``texts`` and ``environments``: what the places are of.
    """
    shared = Shared()
    found = [
        {**_detail(run, shared, pictures), "figures": [each._asdict() for each in figures.of_run.get(run.place, [])]}
        if run.record
        else None
        for run in runs
    ]
    environments = [json.loads(text) for text in shared.environments]
    return {"runs": found, "texts": list(shared.texts), "environments": environments}


def embedded(values: Mapping[str, Any]) -> str:
    r"""JSON that may stand in a ``<script>``: nothing but ASCII, and no ``<``, ``>`` or ``&``, whatever names hold."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _names(runs: Sequence[Run]) -> list[str]:
    """Of each run one that no other has, although they are shown cleaned."""
    found: dict[str, None] = {}
    for run in runs:
        plain_name = clean("/".join(run.place)).replace("\n", "\\n")
        names = chain([plain_name], (f"{plain_name}~{number}" for number in count(2)))
        found[next(name for name in names if name not in found)] = None
    return list(found)


def _line(run: Run, name: str, boards: dict[tuple[str, ...], int], groups: _Groups) -> dict[str, Any]:
    place = dict(zip(PLACE, run.place, strict=False))  # a damaged tree may be less deep
    line: dict[str, Any] = {"id": name, "state": run.state, **{key: clean(place.get(key, "")) for key in PLACE}}
    for key in KEYS:
        if (value := run.keys.get(key)) is not None:
            line[key] = value if isinstance(value, (int, float)) else clean(str(value))
    if run.record is None:
        return {**line, "reason": clean(run.reason)}
    board = _board(run, run.record)
    return {
        **line,
        "board": boards.setdefault(board, len(boards)),
        "group": groups.number(run, run.record, board),
        "cautions": [clean(each) for each in run.record.warnings],
        "categories": len(run.categories),
        "mean": [_number(run.value("mean", slug)) for slug in SLUGS],
        "why": {slug: clean(why) for slug in SLUGS if (why := run.missing("mean", slug))},
        "cost": _cost(run.record),
    }


def _board(run: Run, record: Record) -> tuple[str, ...]:
    """What must be equal for numbers to be comparable: dataset, setting and how metrics are computed, in words for the
    page; then all that stands behind these words."""
    metric, config = record.config["metric"], record.config
    size = metric["size"]
    at = f"{config['image_size']} px" if size == "input" and "image_size" in config else f"{size} size"
    at = f"{size} px" if isinstance(size, int) else at
    categories = run.categories
    note = f"metric={record.metric} at {at}, {len(categories)} {'category' if len(categories) == 1 else 'categories'}"
    behind = {
        "data": record.data_hash,
        "categories": categories,
        "setting": config.get("setting"),
        "metric": {key: value for key, value in metric.items() if key not in ("name", "by_defect")},
    }
    place = [clean(part) for part in (*run.place, "", "")[:2]]
    setting = "maps" if record.source is not None else place[1]
    return place[0], setting, note, digest(behind)


class _Groups:
    """Numbers of groups: runs that differ in nothing but their seed. A second one of the same seed, which would count
    twice in a mean, is in a group of its own."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, int], int] = {}
        self.seeds: Counter[tuple[str, int | None]] = Counter()

    def number(self, run: Run, record: Record, board: tuple[str, ...]) -> int:
        """Of a run's group, from 0 in the order of appearance."""
        own = {key: as_text(value) for key, value in recipe_but_seed(record.config).items()}
        name = digest({"board": board, "method": run.place[2:3], "recipe": own})
        before = self.seeds[name, record.seed]
        self.seeds[name, record.seed] += 1
        return self.numbers.setdefault((name, before), len(self.numbers))


def _cost(record: Record) -> dict[str, float | int | None]:
    """Of one network (the largest, where categories have their own); times are over all models, memory is the most."""
    models = list(record.models.values())
    if not models:
        return {}
    seconds = sum(each.prediction.seconds for each in models)
    return {
        "models": len(models),
        "params": max(each.network.params for each in models),
        "trainable": max(each.network.trainable_params for each in models),
        "macs": max(each.network.macs for each in models),
        "train_seconds": sum(stage.seconds for each in models for stage in each.training.stages.values()),
        "test_rate": sum(each.prediction.images for each in models) / max(seconds, 1e-9),
        "train_bytes": max(each.training.memory_bytes for each in models),
        "test_bytes": max(each.prediction.memory_bytes for each in models),
    }


def _detail(run: Run, shared: Shared, pictures: Pictures) -> dict[str, Any]:
    record = run.record
    assert record is not None
    rows = [*run.categories, "mean"]
    made = record.provenance
    environment = {
        "commit": plain(made.commit) if made.commit else None,
        "versions": made.versions,
        "hardware": plain(made.hardware),
    }
    return {
        "rows": [clean(name) for name in rows],
        "values": [[_number(run.value(name, slug)) for slug in SLUGS] for name in rows],
        "bounds": _bounds(run, rows),
        "gaps": [
            [row, number, shared.text(run.missing(name, slug))]
            for row, name in enumerate(rows)
            for number, slug in enumerate(SLUGS)
            if run.missing(name, slug)
        ],
        "why": [[clean(why), [clean(name) for name in where]] for why, where in roots(record.undefined).items()],
        "config": [shared.text(text) for pair in _config(record) for text in pair],
        "environment": shared.environment(_cleaned(environment)),
        **_cleaned(
            {
                "time": made.time,
                "command": list(made.command),
                "config_hash": record.config_hash,
                "data_root": record.data_root,
                "data_hash": record.data_hash,
                "index_hash": record.index_hash,
                "images": record.images,
                "masks": plain(record.masks) if record.masks else None,
                "source": _source(record.source),
                "evaluated_from": plain(record.evaluated_from) if record.evaluated_from else None,
                "models": [_model(name, each) for name, each in record.models.items()],
            }
        ),
        "curves": {clean(name): each for name, each in read_curves(run.folder).items()},
        "gallery": _cleaned(shown_gallery(run.folder, pictures)),
    }


def _bounds(run: Run, rows: Sequence[str]) -> list[list[float | None]] | None:
    """How far exact values may be, rounded up to two digits; None where that is not known."""
    try:
        table = read_table(run.folder / "bounds.csv")
    except UserError:
        return None
    columns = [slug if slug in table else None for slug in SLUGS]
    known = {str(name): values for name, values in table.to_dict("index").items()}
    return [
        [_up(float(known.get(name, {}).get(slug, math.nan))) if slug else None for slug in columns] for name in rows
    ]


def _up(value: float) -> float | None:
    """A bound that stays one."""
    if math.isnan(value) or math.isinf(value):
        return None
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.3g}")


def _config(record: Record) -> Iterator[tuple[str, str]]:
    """The whole configuration, dotted, and the chosen options of its groups."""
    for group, option in record.choices.items():
        yield f"{group} (option)", option

    def flat(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
        for key, value in values.items():
            if isinstance(value, Mapping) and value:
                yield from flat(value, f"{above}{key}.")
            else:
                yield f"{above}{key}", as_text(value)

    yield from flat(record.config, "")


def _model(name: str, model: ModelRecord) -> dict[str, Any]:
    return {"name": name, **plain(model)}


def _source(source: MapSource | None) -> dict[str, Any] | None:
    return plain(source) if source is not None else None


def _cleaned(value: Any) -> Any:
    """With every text in it as it may be shown."""
    if isinstance(value, Mapping):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return clean(value) if isinstance(value, str) else value


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
