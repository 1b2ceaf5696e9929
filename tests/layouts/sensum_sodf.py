"""SensumSODF: no split, more than the 150 normal images that are drawn for testing, and pickled lists of folds."""

from __future__ import annotations

import pickle
from pathlib import Path

from tests.layouts.visa import blot, photo

GOOD = {"capsule": 153, "softgel": 156}
BAD = {"capsule": 4, "softgel": 6}


def write(root: Path) -> Path:
    """Two categories; softgel has no list of all defects under its plain name. The last normal image is in no list."""
    for category in GOOD:
        for number in range(GOOD[category]):
            photo(root / category / "negative" / "data" / f"{number:03}.png", 16, 16)
        for number in range(BAD[category]):
            photo(root / category / "positive" / "data" / f"{number:03}.png", 16, 16)
            blot(root / category / "positive" / "annotation" / f"{number:03}.png", 16, 16)
        for fold in range(3):
            _write_fold(root / "sensum_splits" / category / str(fold), category, fold)
    (root / "capsule" / "positive" / "data" / "Thumbs.db").touch()
    return root


def _write_fold(folder: Path, category: str, fold: int) -> None:
    """Every third number, from the fold's, is for testing."""
    for sign, count in (("neg", GOOD[category] - 1), ("pos", BAD[category])):
        for split in ("train", "test"):
            chosen = [number for number in range(count) if (number % 3 == fold) == (split == "test")]
            weak = sign == "pos" and split == "train"
            _write_list(folder / split / f"{sign}{'_100' if weak and category == 'softgel' else ''}.pckl", chosen, True)
            if weak:
                _write_list(folder / split / "pos_0.pckl", chosen, False)


def _write_list(file: Path, numbers: list[int], masked: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps([(number, masked) for number in numbers]))
