"""Anomaly maps that another program saved: finding the map of every test image, and reading it.

Two sources: a folder with one file per image, or ADEval's pickle of ``{image path: (map, score, mask path)}``. A CSV
of image scores may go with either. Every name is settled before the first map is read.

Values are taken as they are, in float32: never scaled, clipped or resized. float64 and integers above 2**24 are
rounded, so that scores which differ by less than 6e-8 of their size may become ties.

The modules of this package say what a folder, a pickle or a table holds; which image it belongs to is settled here.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ader.data.index import TEST, Index, Sample
from ader.mapfiles.folder import composed, describe_files, find_files
from ader.mapfiles.formats import MapAndScore, read_file
from ader.mapfiles.pickled import PICKLES, find_entries
from ader.mapfiles.scores import read_rows
from ader.system.contents import Contents
from ader.system.errors import UserError, some

__all__ = ["MapSource", "open_maps"]

T = TypeVar("T")


@dataclass(frozen=True)
class MapSource:
    """The maps of all test images of an index.

    Attributes:
        path: the folder or the pickle.
        extra: sorted names of what belongs to no test image: map files in the folder, keys of the pickle.
        facts: see `describe`.
    """

    path: Path
    extra: tuple[str, ...]
    facts: Mapping[str, Any]
    _maps: Mapping[Sample, Callable[[], MapAndScore]] = field(repr=False)
    _scores: Mapping[Sample, float] = field(default_factory=dict, repr=False)

    def read(self, sample: Sample) -> MapAndScore:
        """A test image's map and score; threads may read at the same time.

        Returns:
            float32 (H, W), higher is more anomalous, the caller's own copy, which may hold NaN; and the image's score,
            from the CSV if there is one, else from the file or the pickle, else None: take the map's maximum.

        Raises:
            UserError: the file is damaged, or holds no map of one plane of real numbers.
        """
        array_HW, score = self._maps[sample]()
        return array_HW, self._scores.get(sample, score)

    def describe(self) -> dict[str, Any]:
        """Facts for the record, JSON-able.

        kind, path, number of files, format, checksum and what it covers; and ``mixed``, whether a folder's maps are of
        several kinds (``.npy`` and ``.png``, say), the scales of which may differ.
        """
        return dict(self.facts)


def open_maps(path: Path, index: Index, scores: Path | None = None, contents: Contents | None = None) -> MapSource:
    """Finds the map of every test image of ``index``; decodes none of a folder's.

    Args:
        path: a folder that mirrors the dataset, ``<category>/<defect>/<stem>.<ext>`` (what ``save_maps=true`` writes),
            the image's own path with another extension, or ``<category>/test/<defect>/<stem>.<ext>``; or ADEval's
            pickle. A pickle is never unpickled, see ``ader.mapfiles.pickled``. ``~`` is the home folder.
        index: the dataset; only its test images count.
        scores: a CSV with the columns ``image`` (a path that ends in the image's own) and ``score``; its scores go
            before all others.
        contents: looks into the files of a folder; None: without remembering what was in them.

    Raises:
        UserError: a map or score is missing, two could be meant, one could be meant for two images, or the pickle or
            the CSV is damaged or holds something else.
    """
    path = _expanded(path)
    if path.is_dir():
        files = find_files(path, index)
        names = _one_each(index, files.names, files.extra, path, "map", files.expected)
        maps = {sample: partial(read_file, path / name) for sample, name in names.items()}
        source = MapSource(path, files.extra, describe_files(path, names.values(), contents or Contents()), maps)
    elif not path.exists():
        raise UserError(f"{path} does not exist: give the folder that holds the maps, or ADEval's .pkl")
    elif path.suffix.lower() in PICKLES:
        source = _open_pickle(path, index)
    else:
        raise UserError(f"{path} is neither a folder of maps nor a .pkl: give the folder, even for a single map")
    if scores is None:
        return source
    scores = _expanded(scores)
    rows, digest = read_rows(scores)
    found, extra = _match(((row.image, row) for row in rows), index)
    expected = "add a row for each; image is the image's own path, or a path that ends in it"
    chosen = _one_each(index, found, extra, scores, "score", expected)
    facts = {"path": str(scores), "rows": len(rows), "unused_rows": len(extra), "sha256": digest}
    table = {sample: row.score for sample, row in chosen.items()}
    return replace(source, _scores=table, facts={**source.facts, "scores": facts})


def _expanded(path: Path) -> Path:
    """``~`` and ``~user`` as home folders; of an unknown user as it stands, where ``Path.expanduser`` would raise."""
    return Path(os.path.expanduser(path))


def _open_pickle(path: Path, index: Index) -> MapSource:
    """ADEval's ``dict[str, tuple[ndarray, float, str | None]]``; maps stay in the file until they are read."""
    entries, digest = find_entries(path)
    found, extra = _match(((key, key) for key in entries), index)
    expected = "a key must end in the image's own path, whatever stands before it"
    keys = _one_each(index, found, extra, path, "map", expected)
    facts = {
        "kind": "pickle",
        "path": str(path),
        "files": 1,
        "format": "ADEval, {image path: (map, score, mask path)}",
        "mixed": False,
        "masks": "the dataset's; mask paths in the pickle are ignored",
        "sha256": digest,
        "sha256_of": "the whole file",
    }
    return MapSource(path, tuple(extra), facts, {sample: entries[key] for sample, key in keys.items()})


def _match(named: Iterable[tuple[str, T]], index: Index) -> tuple[dict[Sample, list[T]], list[str]]:
    """Pairs paths of another machine with test images.

    Args:
        named: paths with ``/`` or ``\\``, any prefix allowed, and what they stand for.
        index: the dataset.

    Returns:
        Per test image all that ends in its path (of several images that of the longest path); and the paths that end
        in no test image's, sorted.
    """
    wanted: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for sample in index.split(TEST):
        wanted[_parts(sample.image)].append(sample)
    lengths = sorted({len(parts) for parts in wanted}, reverse=True)
    found: dict[Sample, list[T]] = defaultdict(list)
    others = []
    for text, value in named:
        parts = _parts(text)
        tail = next((parts[-length:] for length in lengths if parts[-length:] in wanted), None)
        if tail is None:
            others.append(text)
        else:
            for sample in wanted[tail]:
                found[sample].append(value)
    return found, sorted(others)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[/\\]", composed(path)) if part not in ("", "."))


def _one_each(
    index: Index, found: Mapping[Sample, Sequence[T]], others: Sequence[str], where: Path, thing: str, expected: str
) -> dict[Sample, T]:
    """The one thing found for each test image.

    Args:
        index: the dataset.
        found: what could be each image's; ``str`` of it names it.
        others: names of what belongs to none.
        where: the folder or file that was searched.
        thing: "map" or "score".
        expected: what is looked for, and how to fix what is missing.

    Raises:
        UserError: there is none, or more than one, or one for two images.
    """
    samples = index.split(TEST).samples
    double = [sample for sample in samples if len(found.get(sample, ())) > 1]
    if double:
        first, second = found[double[0]][:2]
        more = f" (and {len(double) - 1} more images have two)" if len(double) > 1 else ""
        raise UserError(
            f"{where}: two {thing}s for {double[0].image}, {first} and {second}{more}: remove the one not meant"
        )
    missing = [sample.image for sample in samples if not found.get(sample)]
    if len(missing) == len(samples):
        holds = f"it holds {some(others, 3)}" if others else "it holds nothing of the kind"
        raise UserError(f"{where} has no {thing} of any test image of {index.name!r}: {expected}; {holds}")
    if missing:
        count = f"{len(missing)} of {len(samples)} test images"
        raise UserError(f"{where} lacks the {thing} of {count} ({some(missing, 3)}): {expected}")
    owners: dict[T, Sample] = {}
    for sample in samples:
        owner = owners.setdefault(found[sample][0], sample)
        if owner.image != sample.image:
            raise UserError(
                f"{where}: {found[sample][0]} could be the {thing} of {owner.image} and of {sample.image}: "
                "name it by the image's own path, or rename an image"
            )
    return {sample: found[sample][0] for sample in samples}
