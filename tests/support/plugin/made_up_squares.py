"""A third party's dataset: toy images, written on first use."""

from pathlib import Path

from ader.data.index import Index
from ader.datasets._tree import read_tree
from ader.testing.toy import write_mvtec


def squares(root: Path) -> Index:
    """Lists the toy images at ``root``."""
    if not root.exists():
        write_mvtec(root, size=32)
    return read_tree("squares", root)
