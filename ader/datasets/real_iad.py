"""Real-IAD: 30 categories of objects, each object photographed from five sides.

Paper: Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial Anomaly
Detection", CVPR 2024. License: CC BY-NC-SA 4.0, gated download. Images: JPEG, 256, 512 or 1024 pixels a
side, or larger (raw).

::

    <root>/realiad_1024/audiojack/OK/S0001/audiojack_0001_OK_C1_20231021130235.jpg ... C5
                                 /NG/BX/S0001/audiojack__0001_NG_BX_C1_20231023111538.jpg  and .png, its mask
          /realiad_jsons/audiojack.json              (all views; also in realiad_jsons/realiad_jsons)
          /realiad_jsons_sv/audiojack.json           (the view from above)
          /realiad_jsons_fuiad_0.1/audiojack.json    (defects in the training data, as noise; also 0.0, 0.2, 0.4)

or, as ADer has it, ``<root>/audiojack/...`` and ``<root>/audiojack.json``. All paths and labels come from the JSONs:
names are not regular, and a view of a defective object in which no defect is visible is labeled normal although it
lies under ``NG``. Defects: AK pit, BX deformation, CH abrasion, HS scratch, PS damage, QS missing parts, YW foreign
objects, ZW contamination.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from ader.data.index import TEST, TRAIN, Index, Sample
from ader.data.listing import AGAIN
from ader.datasets._locating import checked_path, choose_categories, find_root
from ader.system.errors import UserError
from ader.system.files import check_regular

CATEGORIES = (
    *("audiojack", "bottle_cap", "button_battery", "end_cap", "eraser", "fire_hood", "mint", "mounts", "pcb"),
    *("phone_battery", "plastic_nut", "plastic_plug", "porcelain_doll", "regulator", "rolled_strip_base"),
    *("sim_card_set", "switch", "tape", "terminalblock", "toothbrush", "toy", "toy_brick", "transistor1"),
    *("u_block", "usb", "usb_adaptor", "vcpill", "wooden_beads", "woodstick", "zipper"),
)
JSONS = "realiad_jsons"
SUFFIXES = {"all_views": "", "single_view": "_sv"}
#: Files that a split does not use: other views; by default (noise in training) masks of defects that count as normal.
LEFT_OUT = {"all_views": (), "single_view": ("*_C[2-5]_*",)}

Split = Literal["all_views", "single_view", "fuiad_0.0", "fuiad_0.1", "fuiad_0.2", "fuiad_0.4"]
Resolution = Literal[256, 512, 1024, "raw"]


def real_iad(
    root: Path,
    categories: Sequence[str] | None = None,
    split: Split = "all_views",
    resolution: Resolution = 1024,
) -> Index:
    """Lists Real-IAD as its JSONs say; whether the images exist is left to the check of files.

    Args:
        root: the folder that holds ``realiad_<resolution>``, or the categories themselves.
        categories: those to read; None means all 30. The others need not be on disk.
        split: ``"all_views"``: training is normal only, and the views of one object share ``group``.
            ``"single_view"``: the same with one image per object. ``"fuiad_<ratio>"``: training with defects as noise,
            label 0 and the defect's name.
        resolution: which folder of images; where categories lie in the root itself it means nothing.

    Raises:
        UserError: images or JSONs are missing, or a JSON is not as expected.
    """
    expected = f"realiad_{resolution}/audiojack or audiojack"
    root = find_root(root, lambda folder: bool(_image_folders(folder, resolution)), expected)
    images = _image_folders(root, resolution)[0]
    wanted = choose_categories("real_iad", images, categories, _on_disk(images), CATEGORIES)
    name = JSONS + SUFFIXES.get(split, f"_{split}")
    # JSONs beside the images can only be told to be of all views
    places = [root / JSONS / name, root / name, *([images, root] if split == "all_views" else [])]
    there = (place for place in places if any((place / f"{category}.json").is_file() for category in CATEGORIES))
    jsons = next(there, None)
    if jsons is None:
        looked = " and ".join(dict.fromkeys(str(place / "<category>.json") for place in places))
        raise UserError(f"dataset 'real_iad': there is no {looked}: unpack {JSONS}.zip there")
    several_views = split != "single_view"
    samples = [s for name in wanted for s in _read_category(jsons / f"{name}.json", name, several_views)]
    return Index("real_iad", images, tuple(samples), wanted, exceptions=LEFT_OUT.get(split, ("*/NG/*.png",)))


def _on_disk(folder: Path) -> list[str]:
    return [name for name in CATEGORIES if (folder / name).is_dir()]


def _image_folders(root: Path, resolution: Resolution) -> list[Path]:
    """The folders with categories in them; never one that is named for another resolution."""
    name = f"realiad_{resolution}"
    others = {f"realiad_{other}" for other in get_args(Resolution)} - {name}
    own = [] if root.name in others else [root]
    return [folder for folder in (root / name, *own) if _on_disk(folder)]


def _read_category(file: Path, category: str, several_views: bool) -> list[Sample]:
    """The samples of one JSON, sorted by path."""
    prefix, normal, entries = _load(file)
    samples = []
    for split, number, entry in entries:
        match entry:
            case {"anomaly_class": str() as kind, "image_path": str() as image, "mask_path": str() | None as mask}:
                where = f"{file}, entry {number} of {split!r}"
                path, defect = checked_path(posixpath.join(prefix, image), where), "good" if kind == normal else kind
                label = int(kind != normal and split == TEST)  # a defect in the training data is noise
                masks = (checked_path(posixpath.join(prefix, mask), where),) if label and mask else ()
                # the path up to the view, because the stem alone is not unique
                group = re.sub(r"_C\d+_[^_/]*$", "", path) if several_views else None
                samples.append(Sample(path, category, split, label, masks, defect, group))
            case _:
                what = "anomaly_class, image_path or mask_path"
                raise UserError(f"{file}, entry {number} of {split!r} (from 0), lacks {what}: {AGAIN}")
    return sorted(samples, key=lambda sample: sample.image)


def _load(file: Path) -> tuple[str, str, list[tuple[str, int, object]]]:
    """The prefix of a JSON's paths, its normal class, and its entries: split, number and what it says."""
    check_regular(file)
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist: unpack {JSONS}.zip again") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): unpack {JSONS}.zip again") from error
    match content:
        case {
            "meta": {"prefix": str() as prefix, "normal_class": str() as normal},
            "train": list() as train,
            "test": list() as test,
        }:
            parts = ((TRAIN, train), (TEST, test))
            return (
                prefix,
                normal,
                [(split, number, entry) for split, part in parts for number, entry in enumerate(part)],
            )
        case _:
            raise UserError(f"{file} lacks meta.prefix, meta.normal_class, train or test: {AGAIN}")
