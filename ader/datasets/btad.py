"""BTAD, beanTech Anomaly Detection: 3 products.

Paper: Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization", ISIE 2021.
License: not settled, see the dataset's YAML. Layout of MVTec AD with other names::

    BTech_Dataset_transformed/<01, 02 or 03>/train/ok/0000.<bmp or png>
                                            /test/{ok,ko}/0000.<bmp or png>
                                            /ground_truth/ko/0000.<png or bmp>

Images of 01 and 03 are BMP, of 02 PNG; masks have the image's stem and are PNG for 01 and 02, BMP for 03 (prepared
copies have PNG everywhere). Numbers have gaps. The categories are texts: ``"01"`` needs its quotes in a YAML file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.data.index import Index
from ader.datasets._tree import read_tree

CATEGORIES = ("01", "02", "03")


def btad(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists BTAD as unpacked from ``btad.zip``.

    Args:
        root: the folder that holds ``01``, ``02`` and ``03``, or the one that holds ``BTech_Dataset_transformed``.
        categories: those to read; None means all 3. The others need not be on disk.

    Raises:
        UserError: a category, its images or a mask is missing.
    """
    return read_tree("btad", root, categories, known=CATEGORIES)
