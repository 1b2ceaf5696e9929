"""COCO-AD: photographs of COCO 2017, in which twenty of its eighty categories are anomalies; four splits.

Paper: Zhang et al., "Learning Feature Inversion for Multi-class Anomaly Detection under General-purpose COCO-AD
Benchmark", arXiv 2404.10760. License: annotations CC BY 4.0, images under their Flickr terms. Images: JPEG, sizes vary,
some gray. Split k takes the k-th twenty categories, in the order of their ids, as anomalies. Every split tests on the
same 4,952 images of val2017 and trains on the images of train2017 without an anomaly; images without any annotation
take no part. The lists and masks are made from COCO's annotations (``ader.datasets.coco_ad.generate``).

::

    <root>/annotations/instances_{train,val}2017.json       from annotations_trainval2017.zip
          /train2017/<12 digits>.jpg   /val2017/<12 digits>.jpg
          /meta_20_<split>.json                             made; in ADer's format, see ``ader.datasets.meta``
          /val2017_mask_ad_20_<split>/<12 digits>.png       made; masks of the anomalous test images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ader.config.options import read_option
from ader.config.ranges import Natural
from ader.data.counts import differing
from ader.data.index import Index
from ader.datasets._preparing import Work
from ader.datasets.meta import read_meta
from ader.system.errors import UserError

SPLITS = (0, 1, 2, 3)


def coco_ad(root: Path, categories: Sequence[str] | None = None, split: Natural = 0) -> Index:
    """Lists one split of COCO-AD.

    Args:
        root: COCO's folder, where ``prepare`` was run.
        categories: ``coco``, the only one, or None.
        split: 0 to 3.

    Raises:
        UserError: the split's list is missing or damaged, or there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"dataset.split={split}: give a number from 0 to 3")
    file = f"meta_20_{split}.json"
    made = f"{file}, which `ader data prepare dataset=coco_ad_{split}` makes"
    index = read_meta("coco_ad", root, categories, file, made)
    others = (f"val2017_mask_ad_20_{other}/*" for other in SPLITS if other != split)
    return replace(index, exceptions=("train2017/*", "val2017/*", *others))


def prepare(root: Path, source: Path, work: Work) -> None:
    """Makes the lists and masks of all four splits, and compares them with the published numbers.

    Args:
        root: where to put them: the folder of ``train2017`` and ``val2017``.
        source: the folder that holds ``annotations``.
        work: surroundings.

    Raises:
        UserError: the annotations are missing or damaged, a package is not installed, or a file cannot be written.
    """
    from ader.datasets.coco_ad.generate import check_digests, generate

    generate(root, source, work)
    for split in SPLITS:
        index = coco_ad(root, split=split)
        counts = read_option("dataset", f"coco_ad_{split}")["counts"]
        for found in [*differing(index, counts), *check_digests(index, split)]:
            work.console.say(f"COCO-AD split {split} is not as published: {found}")
