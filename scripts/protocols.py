"""SegAD's protocols: all runs over all seeds, and their table.

    python scripts/protocols.py vad --rows rd patchcore all max:all -- dataset.root=DIR
    python scripts/protocols.py visa --rows rd -- segad:method.segments=DIR
    python scripts/protocols.py mvtec --rows rd --seeds 333 576 -- rd:method.lr=0.001
    python scripts/protocols.py folder --rows patchcore -- dataset.root=my/images segad:setting.shots=10

Detectors are anomalib's, as in the paper (``recipe=anomalib``; PatchCore with 1 % of its patches). A row names
detectors: ``rd``, ``rd+patchcore``, or ``all``, which are these two ("All AD" there has FastFlow and EfficientAD,
too). ``max:`` before them is the ablation with the maximum of each segment. Segments are those of the
folder or file ``segments`` (``.png``, ``.npy``, ``.npz``) in the dataset's folder where it has one, or
``segad:method.segments=...``; without any there is one for the whole image.

Every detector is trained once for each division of the normal images (VAD: each seed; others: once), and its
run is used by SegAD in all columns. A row of the table is a detector by itself or SegAD on one or several of them; both
are evaluated on the same images. Runs that are finished are found again, so an interrupted protocol goes on where it
was. Words after ``--`` are overrides of every run, those that begin with ``rd:`` or ``segad:`` of that method's runs
only. Published are five seeds for VAD, whose numbers are not known (0 to 4 are taken), and ten for VisA and MVTec AD.

Writes protocol.csv and protocol.md, and for VAD the analysis of defects that training lacks as unseen.csv and
unseen.md, into ``--out``. Values are percent: mean +- sample standard deviation (divisor S - 1) over S seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ader.config.compose import compose
from ader.report.renderers import csv, markdown
from ader.report.seeds import IMAGE_METRICS, Spread, image_metric, read_scores, unseen_defects
from ader.report.tables import Column, Row, Table
from ader.runs.run import run
from ader.system.errors import UserError

#: Of the released code, for VisA; MVTec AD has ten as well.
TEN = (333, 576, 725, 823, 831, 902, 226, 598, 874, 589)

TITLES = {"image_auroc": "AUROC", "image_fpr95": "FPR@95TPR"}
UNSEEN_TITLES = {"seen": "AUROC seen", "unseen": "AUROC unseen", "recall": "recall unseen"}


@dataclass(frozen=True)
class Protocol:
    """What is run.

    Attributes:
        dataset: its option.
        columns: title to setting.
        seeds: of the runs.
        detector_seed: of the detectors' runs; None: every seed has its own detectors.
        detectors: of the paper's row "All AD", those that are here.
        unseen: kinds of defect that training lacks.
    """

    dataset: str
    columns: Mapping[str, str]
    seeds: tuple[int, ...]
    detector_seed: int | None = None
    detectors: tuple[str, ...] = ("rd",)
    unseen: tuple[str, ...] = ()


PROTOCOLS = {
    "vad": Protocol(
        "vad",
        {"one-class": "vad_one_class", "low-shot": "vad_low_shot", "high-shot": "vad_high_shot"},
        (0, 1, 2, 3, 4),
        detectors=("rd", "patchcore"),
        unseen=("bad_unseen_defects",),
    ),
    "visa": Protocol("visa", {"VisA": "segad_visa"}, TEN, detector_seed=TEN[0]),
    "folder": Protocol(
        "folder", {"labeled": "segad_mvtec"}, (0, 1, 2, 3, 4), detector_seed=0, detectors=("rd", "patchcore")
    ),
    "mvtec": Protocol("mvtec", {"MVTec AD": "segad_mvtec"}, TEN, detector_seed=TEN[0]),
}

#: Before a row's detectors: the ablation with each segment's maximum.
MAXIMUM = "max:"

#: How the paper's detectors are made.
DETECTORS: Mapping[str, Sequence[str]] = {
    "rd": ["recipe=anomalib"],
    "patchcore": ["recipe=anomalib", "method.coreset=0.01"],
}

#: A row's scores of the test images of each column and seed.
Scores = dict[tuple[str, str, int], pd.DataFrame]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a protocol and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=sorted(PROTOCOLS))
    parser.add_argument(
        "--rows", nargs="+", required=True, help="detectors that SegAD has: rd, rd+patchcore, all, max:rd"
    )
    parser.add_argument("--columns", nargs="+", help="some of the protocol's columns")
    parser.add_argument("--seeds", nargs="+", type=int, help="others than the protocol's")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the tables")
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    options, words = parser.parse_args(given[:end]), given[end + 1 :]
    protocol = PROTOCOLS[options.protocol]
    columns = options.columns or list(protocol.columns)
    unknown = [name for name in columns if name not in protocol.columns]
    if unknown:
        parser.error(f"--columns {unknown[0]}: choose from {', '.join(protocol.columns)}")
    try:
        scores = collect(protocol, options.rows, columns, options.seeds or protocol.seeds, words)
        options.out.mkdir(parents=True, exist_ok=True)
        publish(summary(scores), TITLES, options.out / "protocol")
        if protocol.unseen:
            publish(unseen_summary(scores, protocol.unseen), UNSEEN_TITLES, options.out / "unseen")
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def collect(
    protocol: Protocol, rows: Sequence[str], columns: Sequence[str], seeds: Sequence[int], words: Sequence[str]
) -> Scores:
    """Makes all runs, or finds them: detectors first, then SegAD on them."""
    members = {row: row_detectors(protocol, row) for row in rows}
    names = list(dict.fromkeys(name for row in rows for name in members[row]))
    scores: Scores = {}
    for seed in seeds:
        detectors = {name: detector_run(protocol, name, seed, words) for name in names}
        alone = {name: read_scores(folder) for name, folder in detectors.items()}
        for column in columns:
            for row in rows:
                chosen = {name: detectors[name] for name in members[row]}
                recipe = ["recipe=max"] if row.startswith(MAXIMUM) else []
                folder = segad_run(protocol, column, chosen, seed, recipe, words)
                scores[row_title(protocol, row), column, seed] = read_scores(folder)
            tested = scores[row_title(protocol, rows[0]), column, seed].index
            for name in names:
                scores[name, column, seed] = alone[name].loc[tested]  # defects of the forest are no test images
    return scores


def row_detectors(protocol: Protocol, row: str) -> list[str]:
    """The detectors that a row's word names."""
    word = row.removeprefix(MAXIMUM)
    return list(protocol.detectors) if word == "all" else word.split("+")


def row_title(protocol: Protocol, row: str) -> str:
    """What a row of SegAD is called in the table."""
    return f"{'+'.join(row_detectors(protocol, row))} + {'Max.' if row.startswith(MAXIMUM) else 'SegAD'}"


def detector_run(protocol: Protocol, name: str, seed: int, words: Sequence[str]) -> Path:
    """A detector's run on its share of the normal images; all defects stay in its test."""
    setting = next(iter(protocol.columns.values()))
    own = seed if protocol.detector_seed is None else protocol.detector_seed
    chosen = [f"setting={setting}", "setting.shots=0", f"seed={own}", *DETECTORS.get(name, ())]
    return make(protocol, name, chosen, words)


def segad_run(
    protocol: Protocol,
    column: str,
    detectors: Mapping[str, Path],
    seed: int,
    recipe: Sequence[str],
    words: Sequence[str],
) -> Path:
    """SegAD's run on finished detectors."""
    own = [f"setting={protocol.columns[column]}", f"seed={seed}", f"method.detectors=[{','.join(detectors)}]"]
    own += [f"+method.runs.{name}={folder.resolve()}" for name, folder in detectors.items()]
    return make(protocol, "segad", [*own, *recipe, *segments_beside(protocol, words)], words)


def segments_beside(protocol: Protocol, words: Iterable[str]) -> list[str]:
    """The override that takes the label maps which lie in the dataset's folder; nothing where there are none."""
    config = compose([f"dataset={protocol.dataset}", "method=segad", *words_for("segad", words)])
    root = Path(config.dataset.root).expanduser()
    found = [path for ending in ("", ".png", ".npy", ".npz") if (path := root / f"segments{ending}").exists()]
    return [f"method.segments={path.resolve()}" for path in found[:1]]


def make(protocol: Protocol, method: str, own: Sequence[str], words: Iterable[str]) -> Path:
    """One run's folder, when it is finished."""
    return run(compose([f"dataset={protocol.dataset}", f"method={method}", *own, *words_for(method, words)]))


def words_for(method: str, words: Iterable[str]) -> list[str]:
    """The overrides that are for this method's runs: those without a method's name before a colon, and its own."""
    split = [(word.split("=")[0].rpartition(":")[0], word) for word in words]
    return [word[len(name) + 1 if name else 0 :] for name, word in split if name in ("", method)]


def summary(scores: Scores) -> dict[tuple[str, str, str], Spread]:
    """(row, column, metric) -> mean and deviation over seeds."""
    return _spreads(scores, {slug: partial(image_metric, metric=metric) for slug, metric in IMAGE_METRICS.items()})


def unseen_summary(scores: Scores, kinds: Sequence[str]) -> dict[tuple[str, str, str], Spread]:
    """The same of the three numbers on unseen defects."""

    def value(table: pd.DataFrame, name: str) -> float:
        return float(getattr(unseen_defects(table, kinds), name))

    return _spreads(scores, {name: partial(value, name=name) for name in UNSEEN_TITLES})


def _spreads(
    scores: Scores, values: Mapping[str, Callable[[pd.DataFrame], float]]
) -> dict[tuple[str, str, str], Spread]:
    found: dict[tuple[str, str, str], list[float]] = {}
    for (row, column, _), table in scores.items():
        for name, value in values.items():
            found.setdefault((row, column, name), []).append(value(table))
    return {key: Spread.of(fractions) for key, fractions in found.items()}


def publish(spreads: Mapping[tuple[str, str, str], Spread], titles: Mapping[str, str], path: Path) -> None:
    """Writes ``<path>.csv`` and ``<path>.md``, and prints the latter."""
    columns = [*map(Column, ("row", "column", "value")), *(Column(name, kind="number") for name in Spread._fields)]
    flat = Table(tuple(columns), tuple(Row.of(*key, *spread) for key, spread in spreads.items()))
    path.with_suffix(".csv").write_text(csv(flat), encoding="utf-8")
    text = markdown(table(spreads, titles))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {path}.csv and {path}.md")


def table(spreads: Mapping[tuple[str, str, str], Spread], titles: Mapping[str, str]) -> Table:
    """Detectors alone first, then with SegAD."""
    columns = list(dict.fromkeys(column for _, column, _ in spreads))
    rows = sorted(dict.fromkeys(name for name, _, _ in spreads), key=lambda name: " + " in name)
    seeds = max(spread.seeds for spread in spreads.values())
    over = "1 seed" if seeds == 1 else f"{seeds} seeds"
    heads = [Column(title, column, "number") for column in columns for title in titles.values()]
    lines = [
        Row.of(name, *(spreads[name, column, value].cell() for column in columns for value in titles)) for name in rows
    ]
    return Table((Column(f"percent, {over}"), *heads), tuple(lines))


if __name__ == "__main__":
    main()
