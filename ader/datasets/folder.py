"""Your own images: any folder in MVTec layout (see ``ader.datasets._tree``), masks optional."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ader.data.index import Index
from ader.datasets._masks import own_masks_by_name
from ader.datasets._tree import Tree, read_tree


def folder(root: Path, categories: Sequence[str] | None = None) -> Index:
    """Lists every category found under ``root``, in alphabetical order.

    Names vary: ``good``, ``ok``, ``normal`` and ``nominal``, in any case, hold normal images; masks lie in the
    category's ``ground_truth``, ``masks``, ``gt`` or ``labels``, and are paired by what remains of both names without
    such words.
    Folders with neither ``train`` nor ``test`` are ignored. A defective image without a mask is left out of
    pixel metrics; when none has one, ``Index.has_masks`` is False.

    Args:
        root: the folder that holds one folder per category. Its name becomes part of the index's name.
        categories: those to read; None means all.

    Raises:
        UserError: there is no category, one is empty, two folders of one part hold normal images, masks lie among
            images, or masks and images cannot be paired by name.
    """
    return read_tree(folder_name(root), root, categories, tree=Tree(masks=False, pair=own_masks_by_name, own=True))


def folder_name(root: Path, kind: str = "folder") -> str:
    """``kind`` and the root's own name, reduced to what is safe in a path on every system."""
    safe = re.sub(r"[^\w.-]+", "-", os.path.basename(os.path.abspath(root))).strip("-.")
    return f"{kind}-{safe or 'root'}"
