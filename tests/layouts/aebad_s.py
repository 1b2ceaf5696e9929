"""AeBAD-S: conditions one level below the defects; beside it AeBAD-V; two more folder levels."""

from __future__ import annotations

from pathlib import Path

from ader.testing.toy import write_mvtec

DEFECTS = ("ablation", "breakdown", "fracture", "groove")


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    place = root / "AeBAD" / "AeBAD_S"
    for domain in ("same", "background", "illumination", "view"):
        write_mvtec(root, (domain,), train=2, good=1, bad=4, size=24, defects=DEFECTS, suffix="")
        for file in sorted((root / domain).rglob("*.png")):
            part, kind, name = file.relative_to(root / domain).parts
            if (part, domain) != ("train", "same"):
                target = place / part / kind / domain / f"IMG_{name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
            file.unlink()
        for folder in sorted((root / domain).rglob("*"), reverse=True):
            folder.rmdir()
        (root / domain).rmdir()
    (root / "AeBAD/AeBAD_V/test/video1/good").mkdir(parents=True)
    return root
