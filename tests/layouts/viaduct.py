"""VIADUCT: folder names in all ways, masks with and without ``_mask``, validation images in one category."""

from __future__ import annotations

from pathlib import Path

from ader.testing.toy import write_mvtec

#: The twelve of ``viaduct_12`` and two more; one is unpacked into a folder of its own.
FOLDERS = (
    *("01_3-pole socket housing", "05_cable_end_sleeve", "06_coaxial_t-adapter", "07_cylinder_screw"),
    *("08_damper_large", "09_Dsub_Connector", "11 ring cable lug", "20-mains-tester", "pcb", "31_retractor"),
    *("32_tack/32_tack", "33_terminal_block_A", "34_threaded_fitting", "35_valve_handle_blue"),
)
VALIDATED = "06_coaxial_t-adapter"


def write(root: Path) -> Path:
    """Writes the dataset into ``root``; returns what ``dataset.root`` is to be."""
    for number, folder in enumerate(FOLDERS):
        options = {"defects": ("scratch", "missing_part"), "suffix": "_mask" if number % 2 else ""}
        write_mvtec(root, (folder,), train=2, good=1, bad=2, size=24, **options)
        for file in sorted((root / folder).rglob("*.png")):
            state = "defect-free" if file.parent.name == "good" else "defect"
            file.rename(file.with_name(f"Image_{state}_{file.stem[:3]}_0{file.stem[3:]}.png"))
    (root / VALIDATED / "val/good").mkdir(parents=True)
    (root / VALIDATED / "train/good/Image_defect-free_001_0.png").rename(
        root / VALIDATED / "val/good/Image_defect-free_007_0.png"
    )
    (root / "06_coaxial_t-adapter.zip").touch()
    return root
