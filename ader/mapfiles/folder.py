"""A folder of maps: where the file of each test image may lie, what lies there, and facts for the record."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ader.data.index import TEST, Index, Sample
from ader.data.listing import CLUTTER
from ader.mapfiles.formats import READERS, unreadable
from ader.system.contents import Contents
from ader.system.errors import UserError
from ader.system.files import check_regular


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        names: every file that could be a test image's map; none, one or more.
        extra: sorted names of the map files that belong to no test image.
        expected: the file names that the first image without a map could have.
    """

    names: dict[Sample, list[str]]
    extra: tuple[str, ...]
    expected: str


def saved_names(index: Index) -> dict[str, str]:
    """Where ``save_maps=true`` writes the map of each test image, without extension, by the image's name.

    ``<category>/<defect>/<stem>``, or the image's own path where others of its kind have the same stem.
    """
    samples = index.split(TEST).samples
    short = {s.image: f"{s.category}/{s.defect}/{PurePosixPath(s.image).stem}" for s in samples}
    shared = Counter(short.values())
    own = {sample.image: str(PurePosixPath(sample.image).with_suffix("")) for sample in samples}
    taken = set(own.values())
    return {
        image: own[image] if shared[name] > 1 or (name in taken and own[image] != name) else name
        for image, name in short.items()
    }


def find_files(folder: Path, index: Index) -> Found:
    """Lists the map files of a folder and the test images that they may belong to; opens none."""
    samples = index.split(TEST).samples
    own = {_own(sample): sample.image for sample in samples}
    layouts: dict[Sample, list[str]] = {}
    for sample in samples:
        name = f"{sample.defect}/{PurePosixPath(sample.image).stem}"
        usual = (composed(f"{sample.category}/{name}"), composed(f"{sample.category}/test/{name}"))
        # not where another image's own path is
        others = [stem for stem in usual if own.get(stem, sample.image) == sample.image]
        layouts[sample] = list(dict.fromkeys([_own(sample), *others]))
    deepest = max((stem.count("/") for stems in layouts.values() for stem in stems), default=0)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in _map_files(folder, deepest + 2):  # deeper than needed, to name what a wrong folder holds
        by_stem[composed(str(PurePosixPath(name).with_suffix("")))].append(name)
    found = {}
    for sample, stems in layouts.items():
        candidates = [name for stem in stems for name in by_stem.get(stem, [])]
        # maps may lie beside the images, and an image is no map of itself
        image = os.path.realpath(index.path(sample.image))
        found[sample] = [name for name in candidates if os.path.realpath(folder / name) != image]
    taken = {name for names in found.values() for name in names}
    extra = tuple(sorted(name for names in by_stem.values() for name in names if name not in taken))
    lacking = next((sample for sample in found if not found[sample]), None)
    if lacking is None:
        return Found(found, extra, "")
    expected = (
        f"looked there for {' or '.join(layouts[lacking])} with one of {' '.join(sorted(READERS))}: "
        "put the maps there, or name only the categories that have some in dataset.categories"
    )
    return Found(found, extra, expected)


def describe_files(folder: Path, names: Iterable[str], contents: Contents) -> dict[str, Any]:
    """Facts for the record about the map files ``names`` of a folder; ``contents`` looks into them.

    Raises:
        UserError: one of them cannot be read.
    """
    files = set(names)
    for name in sorted(files):
        check_regular(folder / name)
        try:
            (folder / name).open("rb").close()
        except OSError as error:
            raise unreadable(folder / name, error) from error
    endings = Counter(Path(name).suffix.lower() for name in files)
    return {
        "kind": "folder",
        "path": str(folder),
        "files": len(files),
        "format": dict(sorted(endings.items())),
        # .tif and .tiff, which one function reads, are one kind; scores of two kinds may be on two scales
        "mixed": len({READERS[ending] for ending in endings}) > 1,
        "sha256": contents.mark({composed(name): folder / name for name in files}),
        "sha256_of": "names and contents of the map files",
    }


def _own(sample: Sample) -> str:
    """The image's path without its extension."""
    return composed(str(PurePosixPath(sample.image).with_suffix("")))


def _map_files(folder: Path, deepest: int, prefix: str = "") -> Iterator[str]:
    """POSIX paths of the map files below ``folder``, at most ``deepest`` folders deep (links may run in circles)."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): change its permissions") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in CLUTTER:
            continue
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # a link to itself
            raise UserError(f"{folder / entry.name} cannot be read ({error.strerror}): remove or mend it") from error
        if is_folder:
            if deepest > 0:
                yield from _map_files(folder / entry.name, deepest - 1, f"{prefix}{entry.name}/")
        elif Path(entry.name).suffix.lower() in READERS:
            yield prefix + entry.name


def composed(text: str) -> str:
    """Accents composed, as the datasets' stems are: some file systems store them decomposed."""
    return unicodedata.normalize("NFC", text)
