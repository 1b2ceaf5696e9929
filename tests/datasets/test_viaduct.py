"""VIADUCT."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ader.config.compose import compose
from ader.config.options import read_option
from ader.data import load_index
from ader.datasets.viaduct import category_name
from ader.system.errors import UserError
from tests.layouts import viaduct as layout


def fails(match: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index("viaduct", root, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("05_cable_end_sleeve", "cable_end_sleeve"),
        ("06_coaxial_t-adapter", "coaxial_t_adapter"),
        ("06-coaxial t_adapter", "coaxial_t_adapter"),
        ("11 ring cable lug", "ring_cable_lug"),
        ("11 - Ring Cable Lug", "ring_cable_lug"),
        ("33_terminal_block_A", "terminal_block_a"),
        ("01_3-pole socket housing", "3_pole_socket_housing"),
        ("1 3_pole_socket_housing", "3_pole_socket_housing"),
        ("3_pole_socket_housing", "3_pole_socket_housing"),  # the 3 is part of the name
        ("pcb", "pcb"),
    ],
)
def test_names_of_categories(folder, name):
    assert category_name(folder) == name


def test_samples(tmp_path):
    index = load_index("viaduct", layout.write(tmp_path))
    assert index.categories == (
        *("3_pole_socket_housing", "cable_end_sleeve", "coaxial_t_adapter", "cylinder_screw", "damper_large"),
        *("dsub_connector", "mains_tester", "pcb", "retractor", "ring_cable_lug", "tack", "terminal_block_a"),
        *("threaded_fitting", "valve_handle_blue"),
    )
    rows = [(s.image, s.split, s.label, s.masks, s.defect) for s in index if s.category == "coaxial_t_adapter"]
    place, name = "06_coaxial_t-adapter", "Image_{}_000_0{}.png"
    bad, good = name.format("defect", ""), name.format("defect-free", "")
    assert rows == [
        (f"{place}/test/good/{good}", "test", 0, (), "good"),
        (f"{place}/test/missing_part/{bad}", "test", 1, (f"{place}/ground_truth/missing_part/{bad}",), "missing_part"),
        (f"{place}/test/scratch/{bad}", "test", 1, (f"{place}/ground_truth/scratch/{bad}",), "scratch"),
        (f"{place}/train/good/{good}", "train", 0, (), "good"),
        (f"{place}/val/good/Image_defect-free_007_0.png", "validation", 0, (), "good"),
    ]
    masks = {s.masks for s in index if s.category == "ring_cable_lug" and s.defect == "scratch"}
    assert masks == {("11 ring cable lug/ground_truth/scratch/Image_defect_000_0.png",)}
    suffixed = {s.masks for s in index if s.category == "cable_end_sleeve" and s.defect == "scratch"}
    assert suffixed == {("05_cable_end_sleeve/ground_truth/scratch/Image_defect_000_0_mask.png",)}
    assert {s.image.rsplit("/", 3)[0] for s in index if s.category == "tack"} == {"32_tack/32_tack"}
    assert [s.category for s in index if s.split == "validation"] == ["coaxial_t_adapter"]


def test_the_twelve(tmp_path):
    config = compose(["dataset=viaduct_12", "method=rd"]).values["dataset"]
    assert config["categories"] == read_option("dataset", "viaduct_12")["about"]["categories"]
    index = load_index("viaduct", layout.write(tmp_path), config["categories"])
    assert len(index.categories) == 12
    assert set(load_index("viaduct", tmp_path).categories) - set(index.categories) == {
        "cable_end_sleeve",
        "coaxial_t_adapter",
    }
    shutil.rmtree(tmp_path / "pcb")
    fails("'pcb' is not a category in", tmp_path, categories=config["categories"])


def test_one_more_folder_level(tmp_path):
    root = layout.write(tmp_path / "VIADUCT")
    assert load_index("viaduct", tmp_path) == load_index("viaduct", root)


def test_a_single_category_in_a_folder_of_its_own(tmp_path):
    layout.write(tmp_path / "all")
    (tmp_path / "data/VIADUCT").mkdir(parents=True)
    (tmp_path / "all/pcb").rename(tmp_path / "data/VIADUCT/17_pcb")
    index = load_index("viaduct", tmp_path / "data")
    assert index.categories == ("pcb",)
    assert index.samples[0].image.startswith("VIADUCT/17_pcb/test/good/")


def test_errors(tmp_path):
    root = layout.write(tmp_path)
    assert "'ring_cable_lug'" in fails("did you mean", root, categories=["11 ring cable lug"])
    mask = root / "05_cable_end_sleeve/ground_truth/scratch/Image_defect_000_0_mask.png"
    mask.unlink()
    assert str(mask.parent) in fails("is defective and has no mask", root)
    shutil.copytree(root / "pcb", root / "17 PCB")
    message = fails("are both pcb: remove one", root)
    assert "17 PCB and pcb" in message
