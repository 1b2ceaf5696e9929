"""ADer's ``meta.json``: any dataset whose images are listed in one.

::

    <root>/meta.json    {"train": {"<category>": [entry, ...], ...}, "test": {...}, "validation": {...}}
    entry               {"img_path": "bottle/test/hole/000.png", "mask_path": "bottle/ground_truth/hole/000_mask.png",
                         "cls_name": "bottle", "specie_name": "hole", "anomaly": 1}

Paths are relative to the root. ``mask_path`` is empty for normal images, ``validation`` may be missing. The files that
ADer's scripts wrote have entries in the order of the file system, and double slashes in some paths.
"""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.datasets._locating import checked_path, choose_categories, find_root, is_normal
from ader.datasets.folder import folder_name
from ader.system.errors import UserError, some

SPLITS = (TRAIN, TEST, "validation")
TEXTS = ("img_path", "mask_path", "cls_name", "specie_name")


def meta(root: Path, categories: Sequence[str] | None = None, file: str = "meta.json") -> Index:
    """Lists the images that a ``meta.json`` in the format of ADer's scripts names, and no others.

    Args:
        root: the folder that paths are relative to. Its name becomes part of the index's name.
        categories: those to read; None means all.
        file: the list, relative to ``root``.

    Returns:
        Categories in the order of the file's keys, in each samples sorted by path. A defect without a name is
        ``"bad"``. ``has_masks`` is False when no defective image has a mask.

    Raises:
        UserError: the file is missing or damaged, or an entry is not as above; the message names the entry.
    """
    return read_meta(folder_name(root, "meta"), root, categories, file)


def read_meta(name: str, root: Path, categories: Sequence[str] | None, file: str, expected: str = "") -> Index:
    """Reads a list in this format.

    Args:
        name: the index's.
        root: the folder that holds the list, or the folder that holds this one alone.
        categories: those to read; None means all.
        file: the list, relative to ``root``.
        expected: the list in a clause, for the message when it is missing.

    Raises:
        UserError: as for ``meta``.
    """
    root = find_root(root, lambda folder: (folder / file).is_file(), expected or file)
    path = root / file
    content = _load(path)
    samples: list[Sample] = []
    for split in SPLITS:
        for category, entries in _object(content.get(split, {}), f"{path}, {split!r}").items():
            where = f"{path}, {split!r}, category {category!r}"
            if not isinstance(entries, list):
                raise UserError(f"{where} is not a list of images: fix it")
            numbered = enumerate(entries, start=1)
            samples += [_sample(entry, split, category, f"{where}, entry {number}") for number, entry in numbered]
    return listed_index(name, root, categories, file, samples)


def listed_index(
    name: str, root: Path, categories: Sequence[str] | None, file: str, samples: Sequence[Sample]
) -> Index:
    """The index of what a list holds: categories in the order in which they come first, in each samples by path.

    Raises:
        UserError: there is no image, one is listed twice, or a category or defect cannot name a folder.
    """
    if not samples:
        raise UserError(f"{root / file} lists no image: add some")
    repeated = [image for image, count in Counter(sample.image for sample in samples).items() if count > 1]
    if repeated:
        raise UserError(f"{root / file} lists {some(repeated, 3)} more than once: remove the others")
    names = {text for sample in samples for text in (sample.category, sample.defect)}
    odd = sorted(text for text in names if text in ("", ".", "..") or {"/", "\\", "\0"} & {*text})
    if odd:  # results are kept in folders of these names
        raise UserError(f"{root / file} has {odd[0]!r} as a category or defect: give a name without slashes")
    on_disk = list(dict.fromkeys(sample.category for sample in samples))
    wanted = choose_categories(name, root, categories, on_disk)
    chosen = sorted(
        (sample for sample in samples if sample.category in wanted),
        key=lambda sample: (wanted.index(sample.category), sample.image),
    )
    has_masks = any(sample.masks for sample in chosen if sample.label)
    if not has_masks:  # those of normal images alone are no pixel truth
        chosen = [replace(sample, masks=()) for sample in chosen]
    # the list itself may lie among the images
    return Index(name, root, tuple(chosen), wanted, has_masks, exceptions=(glob.escape(file),))


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}): make or copy it again") from error
    content = _object(content, str(file))
    missing = [repr(split) for split in (TRAIN, TEST) if split not in content]
    if missing:
        raise UserError(f"{file} lacks {' and '.join(missing)}: it must map both to the images of each category")
    unknown = [repr(key) for key in content if key not in SPLITS]
    if unknown:
        raise UserError(f"{file} holds {some(unknown, 3)}, which is not a split: there are {', '.join(SPLITS)}")
    return content


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is not an object with a key for each split or category: fix it")
    return value


def _sample(entry: object, split: str, category: str, where: str) -> Sample:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not an object: fix it")
    wrong = [key for key in TEXTS if not isinstance(entry.get(key), str)]
    if wrong:
        raise UserError(f"{where} has no text as {some(wrong)}: fix it")
    if entry["cls_name"] != category:
        raise UserError(f"{where} has cls_name {entry['cls_name']!r}: move it to that category, or fix the name")
    label = entry.get("anomaly")
    if type(label) is not int or label not in (0, 1):
        raise UserError(f"{where} has anomaly {label!r}: give 0 for normal or 1 for defective")
    defect = entry["specie_name"]
    named = defect if defect and not is_normal(defect) else "bad"
    masks = (checked_path(entry["mask_path"], where),) if entry["mask_path"] else ()
    return Sample(checked_path(entry["img_path"], where), category, split, label, masks, named if label else "good")
