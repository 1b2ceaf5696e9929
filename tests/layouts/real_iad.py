"""Real-IAD: views of objects under OK and NG, all that matters in JSONs, which lie one level deeper than expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ader.datasets.real_iad import CATEGORIES
from tests.layouts.visa import blot, photo

TIME = "20231021130235"


def write(root: Path) -> Path:
    """Four objects of each category, at one resolution, with the JSONs of all views, one view and two noise ratios."""
    for place, category in enumerate(CATEGORIES):
        views = (1, 2, 3, 4, 5) if category == "audiojack" else (1, 4)
        gap = "__" if place % 2 == 0 else "_"  # in the names of defective objects of some categories
        normal = _views(category, "OK/S0001", f"{category}_0001_OK", views)
        tested = _views(category, "OK/S0002", f"{category}_0002_OK", views)
        bent = _views(category, "NG/BX/S0001", f"{category}{gap}0001_NG_BX", views, "BX")
        pitted = _views(category, "NG/AK/S0001", f"{category}{gap}0001_NG_AK", views, "AK")
        for entry in (*normal, *tested, *bent, *pitted):
            photo(root / "realiad_1024" / category / entry["image_path"], 20, 20)
            if entry["mask_path"]:
                blot(root / "realiad_1024" / category / entry["mask_path"], 20, 20)
        test = [*pitted, *bent, *tested]
        _write(root, "realiad_jsons", category, normal, test)
        _write(
            root, "realiad_jsons_sv", category, normal[:1], [entry for entry in test if "_C1_" in entry["image_path"]]
        )
        _write(root, "realiad_jsons_fuiad_0.0", category, normal, [*bent, *tested])
        _write(root, "realiad_jsons_fuiad_0.1", category, [*normal, *pitted], [*bent, *tested])
    return root


def _views(category: str, folder: str, stem: str, views: tuple[int, ...], kind: str = "OK") -> list[dict[str, Any]]:
    """The entries of one object. A defect is not visible in view 2 and 4."""
    entries = []
    for view in views:
        shown = kind if view % 2 else "OK"
        path = f"{folder}/{stem}_C{view}_{int(TIME) + view}"
        mask = None if shown == "OK" else f"{path}.png"
        entries.append({"category": category, "anomaly_class": shown, "image_path": f"{path}.jpg", "mask_path": mask})
    return entries


def _write(root: Path, folder: str, category: str, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
    content = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, "train": train, "test": test}
    file = root / "realiad_jsons" / folder / f"{category}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
