"""BTAD, MPDD, MAD-Sim and MAD-Real, which have the layout of MVTec AD; and what holds for all readers of trees."""

from __future__ import annotations

import importlib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from ader.config.compose import compose
from ader.config.options import read_option
from ader.data import load_index
from ader.data.listing import SUFFIXES
from ader.system.errors import UserError
from tests.layouts import btad, mad_real, mad_sim, mpdd

#: The readers of this file, and of test_mvtec_family, test_aebad, test_uni_medical and test_viaduct.
READERS = ("mvtec3d", "mvtec_loco", "mvtec_ad2", "btad", "mpdd", "mad_sim", "mad_real", "uni_medical", "viaduct")
DOMAINS = ("aebad_s", "aebad_v")


def fails(match: str, name: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index(name, root, **options)
    return str(caught.value)


def columns(name: str) -> list[int]:
    """Sums over a YAML's short rows: training, normal test, defective test."""
    return [sum(column) for column in zip(*read_option("dataset", name)["counts"].values(), strict=True)]


@pytest.mark.parametrize("name", [*READERS, *DOMAINS])
def test_every_image_is_used_or_an_exception(name, tmp_path):
    """As ``ader data check`` wants it, on fixtures that hold all that the archives hold."""
    index = load_index(name, importlib.import_module(f"tests.layouts.{name}").write(tmp_path))
    used = {file for sample in index for file in (sample.image, *sample.masks)}
    images = [file for file in index.root.rglob("*") if file.suffix.lower() in SUFFIXES]
    others = {file.relative_to(index.root).as_posix() for file in images} - used
    excepted = {file for file in others if any(fnmatch(file, pattern) for pattern in index.exceptions)}
    assert others == excepted
    assert bool(others) == (name in ("mvtec3d", "mvtec_ad2"))


@pytest.mark.parametrize("name", [*READERS, *DOMAINS])
def test_clutter_and_upper_case_change_nothing(name, tmp_path):
    root = importlib.import_module(f"tests.layouts.{name}").write(tmp_path / "data")
    clean = load_index(name, root)
    for folder in [folder for folder in clean.root.rglob("*") if folder.is_dir()]:
        for clutter in (".DS_Store", "._000.png", "Thumbs.db", "notes.txt"):
            (folder / clutter).touch()
        (folder / "__MACOSX").mkdir()
    assert load_index(name, root).samples == clean.samples
    for file in sorted(clean.root.rglob("*.png")):
        file.rename(file.with_suffix(".PNG"))
    upper = load_index(name, root)
    assert [s.image.lower() for s in upper] == [s.image.lower() for s in clean]
    assert [len(s.masks) for s in upper] == [len(s.masks) for s in clean]


@pytest.mark.parametrize("name", [*READERS, *DOMAINS])
def test_a_missing_root_is_named(name, tmp_path):
    assert str(tmp_path / "gone") in fails("does not exist", name, tmp_path / "gone")
    assert str(tmp_path) in fails("does not hold", name, tmp_path)


@pytest.mark.parametrize("name", ["btad", "mpdd", "mad_sim", "mad_real", "mvtec_ad2", "uni_medical"])
def test_every_defective_image_needs_its_mask(name, tmp_path):
    root = importlib.import_module(f"tests.layouts.{name}").write(tmp_path)
    index = load_index(name, root)
    sample = next(sample for sample in index if sample.label)
    mask = index.path(sample.masks[0])
    mask.rename(mask.with_name("x" + mask.name))
    assert str(mask.with_name("x" + mask.name)) in fails("has no image", name, root)
    mask.with_name("x" + mask.name).unlink()
    message = fails("is defective and has no mask", name, root)
    assert str(index.path(sample.image)) in message
    assert str(mask.parent) in message


def test_btad_samples(tmp_path):
    index = load_index("btad", btad.write(tmp_path))
    assert index.root == tmp_path / "BTech_Dataset_transformed"
    assert index.categories == ("01", "02", "03")
    # 29 and 89 files are written, and one of each removed: numbers have gaps
    assert index.counts() == {"01": (1, 1, 28), "02": (88, 1, 1), "03": (1, 1, 1)}
    defective = [(s.image, s.masks, s.defect) for s in index if s.label]
    assert defective[26:] == [
        ("01/test/ko/0026.bmp", ("01/ground_truth/ko/0026.png",), "ko"),
        ("01/test/ko/0028.bmp", ("01/ground_truth/ko/0028.png",), "ko"),
        ("02/test/ko/0000.png", ("02/ground_truth/ko/0000.png",), "ko"),
        ("03/test/ko/0000.bmp", ("03/ground_truth/ko/0000.bmp",), "ko"),
    ]
    normal = [(s.image, s.split, s.masks, s.defect) for s in index if s.category == "03" and not s.label]
    assert normal == [("03/test/ok/0000.bmp", "test", (), "good"), ("03/train/ok/0000.bmp", "train", (), "good")]


def test_btad_copies_with_png_only(tmp_path):
    root = btad.write(tmp_path)
    expected = load_index("btad", root)
    for file in sorted(tmp_path.rglob("*.bmp")):
        file.rename(file.with_suffix(".png"))
    found = load_index("btad", root)
    assert [Path(s.image).stem for s in found] == [Path(s.image).stem for s in expected]
    assert {Path(name).suffix for s in found for name in (s.image, *s.masks)} == {".png"}


@pytest.mark.parametrize("text", ["[01]", "01", "['01']"])
def test_btad_categories_on_the_command_line(text, tmp_path):
    """Hydra keeps the zero of ``01``; YAML does not (next test)."""
    config = compose(["dataset=btad", "method=rd", f"dataset.categories={text}"]).values["dataset"]
    assert load_index("btad", btad.write(tmp_path), config["categories"]).categories == ("01",)
    assert config["counts"]["01"] == [400, 21, 49]


def test_btad_categories_that_yaml_took_for_numbers(tmp_path):
    root = btad.write(tmp_path)
    message = fails("'1' is not a category of dataset 'btad': did you mean '01'", "btad", root, categories=[1])
    assert "in YAML, quote" in message
    assert "quote" not in fails("'x' is not a category", "btad", root, categories=["x"])


def test_mpdd_samples(tmp_path):
    index = load_index("mpdd", mpdd.write(tmp_path))
    kinds = {name: {s.defect for s in index if s.category == name and s.label} for name in index.categories}
    assert kinds == {
        "bracket_black": {"hole", "scratches"},
        "bracket_brown": {"bend_and_parts_mismatch", "parts_mismatch"},
        "bracket_white": {"defective_painting", "scratches"},
        "connector": {"parts_mismatch"},
        "metal_plate": {"major_rust", "scratches", "total_rust"},
        "tubes": {"anomalous"},
    }
    assert [(s.image, s.label, s.masks) for s in index if s.category == "tubes"] == [
        ("tubes/test/anomalous/000.png", 1, ("tubes/ground_truth/anomalous/000_mask.png",)),
        ("tubes/test/good/000.png", 0, ()),
        ("tubes/train/good/000.png", 0, ()),
        ("tubes/train/good/001.png", 0, ()),
    ]


def test_mad_sim_numbers_are_not_padded(tmp_path):
    index = load_index("mad_sim", mad_sim.write(tmp_path))
    assert index.root == tmp_path / "MAD-Sim"
    assert index.categories[:3] == ("01Gorilla", "02Unicorn", "03Mallard")
    assert len(index.categories) == 20
    burrs = [(s.image, s.masks) for s in index if s.category == "01Gorilla" and s.defect == "Burrs"]
    numbers = ("0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9")  # as texts are sorted
    truth = "01Gorilla/ground_truth/Burrs"
    assert burrs == [(f"01Gorilla/test/Burrs/{n}.png", (f"{truth}/{n}_mask.png",)) for n in numbers]
    assert {s.defect for s in index} == {"good", "Burrs", "Missing", "Stains"}


@pytest.mark.parametrize(("name", "module", "category"), [("mad_sim", mad_sim, "01Gorilla"), ("btad", btad, "02")])
def test_names_that_begin_with_digits_on_the_command_line(name, module, category, tmp_path):
    config = compose([f"dataset={name}", "method=rd", f"dataset.categories=[{category}]"]).values["dataset"]
    assert load_index(name, module.write(tmp_path), config["categories"]).categories == (category,)


def test_mad_real_masks_have_the_stem_of_images_of_any_kind(tmp_path):
    index = load_index("mad_real", mad_real.write(tmp_path))
    assert index.root == tmp_path / "MAD-Real"
    defective = [(s.image, s.masks) for s in index if s.label and s.category in ("Bear", "Bird")]
    assert defective == [
        ("Bear/test/broken/000.png", ("Bear/ground_truth/broken/000.png",)),
        ("Bear/test/stain/000.png", ("Bear/ground_truth/stain/000.png",)),
        ("Bird/test/broken/000.JPG", ("Bird/ground_truth/broken/000.png",)),
        ("Bird/test/stain/000.JPG", ("Bird/ground_truth/stain/000.png",)),
    ]


def test_published_counts():
    assert columns("btad") == [1799, 451, 290]
    assert columns("mpdd") == [888, 176, 282]
    assert columns("uni_medical") == [13339, 2514, 4499]
    assert read_option("dataset", "btad")["counts"]["03"] == [1000, 400, 41]
    assert read_option("dataset", "mpdd")["counts"]["connector"] == [128, 30, 14]
    totals = {name: read_option("dataset", name)["counts"] for name in ("mad_sim", "mad_real", "aebad_s")}
    assert totals == {
        "mad_sim": {"total": [4200, 638, 4951]},
        "mad_real": {"total": [490, 50, 221]},
        "aebad_s": {"total": [521, 490, 1149]},
    }


def test_a_part_of_a_dataset_is_not_held_against_its_total(tmp_path):
    counts = {"total": [20 + 10, 20 + 10, 60 + 30]}  # one of each per category, ten more of the first one
    root = mad_sim.write(tmp_path)
    assert len(load_index("mad_sim", root, counts=counts)) == 150
    assert len(load_index("mad_sim", root, ["20Puppy"], counts=counts)) == 5
    fails("total has 30 train_good .published 31.", "mad_sim", root, counts={"total": [31, 30, 90]})
