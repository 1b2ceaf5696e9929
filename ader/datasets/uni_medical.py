"""Uni-Medical: slices of brain MRI, liver CT and retinal OCT.

Paper: Zhang et al., "Exploring Plain ViT Reconstruction for Multi-class Unsupervised Anomaly Detection" (ViTAD),
arXiv 2312.07495; made from BMAD (Bao et al., CVPR Workshops 2024). License: not established; its sources
have their own. Layout of MVTec AD::

    <brain, liver or retinal>/train/good/*.png
                             /test/<good or other>/*.png
                             /ground_truth/<other>/*.png

Brain masks hold several gray values; all above 0 count. ADer pairs masks with images by their sorted positions. Here
they are paired by name, and by position only in a folder where no mask has an image's name.

``prepare`` makes this layout from BMAD's, of which there are several variants::

    <Brain, Liver or Retina_RESC>[/<one more>]/train/good[/img]/*.png
                                              /valid                          (not part of Uni-Medical)
                                              /test/{good,Ungood}/img/*.png
                                              /test/Ungood/{label,anomaly_mask}/*.png
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ader.data.index import Index
from ader.data.listing import AGAIN, folders, image_files, stem_of
from ader.datasets._locating import NORMAL
from ader.datasets._masks import masks_by_name
from ader.datasets._preparing import Work, copy
from ader.datasets._tree import Tree, read_tree
from ader.system.errors import UserError, some

#: What BMAD's folder for a category has in its name, lower-cased. Its other folder of retinas is OCT2017.
BMAD = {"brain": "brain", "liver": "liver", "retinal": "resc|retinal"}
CATEGORIES = tuple(BMAD)

log = logging.getLogger(__name__)


def uni_medical(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists Uni-Medical: slices of brain, liver and retina, a category each, with masks.

    Args:
        root: the folder that holds ``brain``, ``liver`` and ``retinal``.
        categories: those to read; None means all 3. The others need not be on disk.

    Raises:
        UserError: a category, its images or a mask is missing, or masks cannot be paired with images.
    """
    return read_tree("uni_medical", root, categories, known=CATEGORIES, tree=Tree(pair=_by_name_or_position))


def _by_name_or_position(images: Sequence[Path], truth: Path) -> Mapping[Path, Sequence[Path]]:
    masks = image_files(truth) if truth.exists() else []
    stems = {stem_of(image) for image in images}
    if not masks or any({stem_of(mask), stem_of(mask).removesuffix("_mask")} & stems for mask in masks):
        return masks_by_name(images, truth)
    if len(masks) != len(images):
        raise UserError(
            f"{truth} holds {len(masks)} masks for {len(images)} images, and none has an image's name: {AGAIN}"
        )
    log.warning("%s: no mask has an image's name, so they are paired by their sorted positions", truth)
    return {image: (mask,) for image, mask in zip(images, masks, strict=True)}


def prepare(root: Path, source: Path, work: Work) -> None:
    """Copies from BMAD what Uni-Medical consists of; files that are there already are left as they are.

    Args:
        root: where Uni-Medical is to be.
        source: the folder that holds BMAD's folders, or the one folder in it that does. Where it lacks a category that
            ``root`` has, that one is taken to be prepared.
        work: surroundings.

    Raises:
        UserError: neither has a category, or a file cannot be copied.
    """
    found = {}
    # copies of BMAD differ in the number of folders above and below a category's
    deep = [folder for top in (source, *folders(source)) for folder in folders(top)]
    for category, pattern in BMAD.items():
        named = [folder for folder in deep if re.search(pattern, folder.name.lower())]
        places = (place for folder in named for place in (folder, *folders(folder)))
        found[category] = next((place for place in places if (place / "test" / "good" / "img").is_dir()), None)
    missing = [category for category, place in found.items() if place is None and not (root / category).is_dir()]
    if missing:
        raise UserError(
            f"{source} holds no folder of BMAD with test/good/img in it for {some(missing)}, and {root} has none "
            "prepared: unpack bmad.zip, and give its folder as source=..."
        )
    copies: list[tuple[Path, Path]] = []
    for place, target in ((place, root / category) for category, place in found.items() if place):
        if target.exists() and target.samefile(place):  # "Brain" and "brain" are one folder on some file systems
            raise UserError(f"{place} is BMAD's, and Uni-Medical's are to be made there: move it, and give source=...")
        copies += _folder(place / "train" / "good", ("img", ""), target / "train" / "good")
        for part in folders(place / "test"):
            copies += _folder(part, ("img",), target / "test" / part.name)
            if part.name not in NORMAL:
                copies += _folder(part, ("label", "anomaly_mask"), target / "ground_truth" / part.name)
    with work.console.track("copying", len(copies), "files") as track:
        for original, made in copies:
            work.check()
            copy(original, made, shutil.copy2)
            track.advance()


def _folder(folder: Path, names: Sequence[str], target: Path) -> Iterator[tuple[Path, Path]]:
    """The files of the first of some folders in ``folder`` that is there, and where they go."""
    for place in (folder / name for name in names):
        if place.is_dir():
            for file in image_files(place):
                yield file, target / file.name
            return
    raise UserError(f"{folder} holds no {' or '.join(filter(None, names))}: {AGAIN}")
