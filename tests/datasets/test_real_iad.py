"""Real-IAD: labels, paths and views from its JSONs, wherever these lie."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from ader.config.options import read_option
from ader.data import load_index
from ader.datasets.real_iad import CATEGORIES
from ader.system.errors import UserError
from tests.layouts import real_iad as layout

NAMES = "audiojack bottle_cap button_battery end_cap eraser fire_hood mint mounts pcb phone_battery plastic_nut "
NAMES += "plastic_plug porcelain_doll regulator rolled_strip_base sim_card_set switch tape terminalblock toothbrush "
NAMES += "toy toy_brick transistor1 u_block usb usb_adaptor vcpill wooden_beads woodstick zipper"

OK, NG = "audiojack/OK/S0001/audiojack_0001_OK", "audiojack/NG/BX/S0001/audiojack__0001_NG_BX"


@pytest.fixture
def root(tmp_path) -> Path:
    return layout.write(tmp_path / "Real-IAD")


@pytest.fixture
def one(tmp_path) -> Path:
    """A root with one category, in ADer's layout, and a JSON to spoil."""
    (tmp_path / "one" / "pcb").mkdir(parents=True)
    return tmp_path / "one"


def fails(match: str, root: Path, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index("real_iad", root, **options)
    return str(caught.value)


def spoil(root: Path, *entries, **meta) -> None:
    train = [entry("OK/S0009/pcb_0009_OK_C1_2023.jpg", meta.get("normal_class", "OK"))]
    content = {"meta": {"prefix": "pcb/", "normal_class": "OK", **meta}, "train": train, "test": list(entries)}
    (root / "pcb.json").write_text(json.dumps(content))


def entry(image: object = "OK/S0001/pcb_0001_OK_C1_2023.jpg", kind: object = "OK", mask: object = None) -> dict:
    return {"category": "pcb", "anomaly_class": kind, "image_path": image, "mask_path": mask}


def test_labels_are_not_taken_from_paths(root):
    index = load_index("real_iad", root, ["audiojack"])
    assert index.root == root / "realiad_1024"
    shown = [(s.image, s.split, s.label, s.masks, s.defect, s.group) for s in index if s.image.startswith((OK, NG))]
    times = [str(20231021130235 + view) for view in range(6)]
    assert shown == [
        *(  # view 2 and 4 do not show the defect
            (f"{NG}_C{v}_{times[v]}.jpg", "test", 1, (f"{NG}_C{v}_{times[v]}.png",), "BX", NG)
            if v % 2
            else (f"{NG}_C{v}_{times[v]}.jpg", "test", 0, (), "good", NG)
            for v in range(1, 6)
        ),
        *((f"{OK}_C{v}_{times[v]}.jpg", "train", 0, (), "good", OK) for v in range(1, 6)),
    ]
    assert index.tally() == {"audiojack": {"train_good": 5, "test_good": 5 + 2 + 2, "test_bad": 3 + 3}}


def test_views_of_one_object_share_a_group_and_others_do_not(root):
    index = load_index("real_iad", root)
    sizes = {}
    for sample in index:
        sizes.setdefault(sample.group, []).append(sample.category)
    assert len(sizes) == 4 * 30
    assert {len(group) for group in sizes.values() if group[0] == "audiojack"} == {5}
    assert {len(group) for group in sizes.values() if group[0] != "audiojack"} == {2}
    # numbers repeat: only the folder or the kind tells objects apart
    assert {"pcb/NG/BX/S0001/pcb__0001_NG_BX", "pcb/NG/AK/S0001/pcb__0001_NG_AK"} <= set(sizes)


def test_the_objects_name_may_look_like_a_view(one):
    path = "OK/S0001/a_C1_b_0001_OK_C2_2023.jpg"
    spoil(one, entry(path))
    assert [s.group for s in load_index("real_iad", one, ["pcb"]).split("test")] == ["pcb/OK/S0001/a_C1_b_0001_OK"]


def test_single_view(root):
    index = load_index("real_iad", root, ["audiojack", "zipper"], split="single_view")
    assert set(index.tally()) == {"audiojack", "zipper"}
    assert all(row == {"train_good": 1, "test_good": 1, "test_bad": 2} for row in index.tally().values())
    assert all("_C1_" in sample.image for sample in index)
    assert {sample.group for sample in index} == {None}
    assert index.exceptions == ("*_C[2-5]_*",)


def test_noise_is_trained_on_as_normal(root):
    index = load_index("real_iad", root, ["audiojack"], split="fuiad_0.1")
    noise = [s for s in index if s.split == "train" and "/NG/" in s.image]
    assert [(s.label, s.defect, s.masks) for s in noise] == [
        *((0, "AK", ()), (0, "good", ()), (0, "AK", ()), (0, "good", ()), (0, "AK", ())),
    ]
    assert index.tally() == {"audiojack": {"train_good": 10, "test_good": 5 + 2, "test_bad": 3}}
    assert index.exceptions == ("*/NG/*.png",)  # their masks
    clean = load_index("real_iad", root, ["audiojack"], split="fuiad_0.0")
    assert {s.defect for s in clean if s.split == "train"} == {"good"}
    assert "realiad_jsons_fuiad_0.4" in fails("there is no", root, split="fuiad_0.4")


def test_categories_in_the_papers_order(root):
    assert load_index("real_iad", root).categories == CATEGORIES == tuple(NAMES.split())
    assert load_index("real_iad", root, ["usb", "mint"]).categories == ("mint", "usb")


def test_jsons_are_found_one_level_higher_and_beside_the_images(root):
    expected = load_index("real_iad", root)
    for name in ("realiad_jsons_sv", "realiad_jsons_fuiad_0.1"):
        single = load_index("real_iad", root, split=name.removeprefix("realiad_jsons_").replace("sv", "single_view"))
        shutil.move(root / "realiad_jsons" / name, root / name)
        assert load_index("real_iad", root, split="single_view" if "sv" in name else "fuiad_0.1") == single
    shutil.move(root / "realiad_jsons", root / "nested")
    shutil.move(root / "nested" / "realiad_jsons", root / "realiad_jsons")
    assert load_index("real_iad", root) == expected
    for file in (root / "realiad_jsons").iterdir():
        shutil.move(file, root / "realiad_1024")
    assert load_index("real_iad", root) == expected
    for file in (root / "realiad_1024").glob("*.json"):
        shutil.move(file, root)
    assert load_index("real_iad", root) == expected


def test_aders_layout(root):
    """Categories and JSONs in one folder; it cannot be told that they are of another split than all views."""
    expected = load_index("real_iad", root)
    shutil.move(root / "realiad_1024", root.parent / "ader")
    for file in (root / "realiad_jsons" / "realiad_jsons").iterdir():
        shutil.copy(file, root.parent / "ader")
    shutil.rmtree(root)
    for place in (root.parent / "ader", root.parent):
        index = load_index("real_iad", place)
        assert (index.root, index.samples) == (root.parent / "ader", expected.samples)
    message = fails("there is no", root.parent / "ader", split="single_view")
    assert str(root.parent / "ader" / "realiad_jsons_sv") in message


def test_resolution_names_the_folder(root):
    (root / "realiad_1024").rename(root / "realiad_raw")
    assert load_index("real_iad", root, resolution="raw").root == root / "realiad_raw"
    for place in (root, root / "realiad_raw"):
        assert "realiad_512/audiojack" in fails("does not hold", place, resolution=512)
    fails("resolution='big' does not fit", root, resolution="big")
    fails("split='sv' does not fit", root, split="sv")


def test_missing_categories(root):
    shutil.rmtree(root / "realiad_1024" / "tape")
    assert "(tape)" in fails("lacks 1 of 30 categories", root)
    file = root / "realiad_jsons" / "realiad_jsons" / "pcb.json"
    file.unlink()
    assert str(file) in fails("does not exist", root, categories=["pcb"])
    assert len(load_index("real_iad", root, ["usb"])) == 8


def test_images_are_not_looked_for(root):
    for image in (root / "realiad_1024" / "usb").rglob("*.jpg"):
        image.rename(image.with_suffix(".jpeg"))  # the JSON says .jpg: nothing is guessed
    assert {Path(s.image).suffix for s in load_index("real_iad", root, ["usb"])} == {".jpg"}


def test_defects_without_mask_have_no_pixel_truth(one):
    spoil(one, entry("NG/AK/a_C1_1.jpg", "AK"), entry("NG/AK/b_C1_1.jpg", "AK", "NG/AK/b_C1_1.png"))
    samples = load_index("real_iad", one, ["pcb"]).split("test")
    assert [(s.label, s.masks) for s in samples] == [(1, ()), (1, ("pcb/NG/AK/b_C1_1.png",))]


def test_the_normal_class_and_the_prefix_come_from_the_file(one):
    spoil(one, entry("a_C1_1.jpg", "fine"), entry("b_C1_1.jpg", "OK", "b.png"), normal_class="fine", prefix="pcb/new")
    samples = load_index("real_iad", one, ["pcb"]).split("test")
    assert [(s.image, s.label, s.masks, s.defect) for s in samples] == [
        ("pcb/new/a_C1_1.jpg", 0, (), "good"),
        ("pcb/new/b_C1_1.jpg", 1, ("pcb/new/b.png",), "OK"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [entry(image=None), entry(kind=3), entry(mask=["a.png"]), {"image_path": "a.jpg", "anomaly_class": "OK"}, "a.jpg"],
)
def test_bad_entries_are_named(one, wrong):
    spoil(one, entry(), wrong)
    assert str(one / "pcb.json") in fails(r"entry 1 of 'test' \(from 0\), lacks", one, categories=["pcb"])


@pytest.mark.parametrize(
    "wrong", [entry("/OK/a_C1_1.jpg"), entry("../b/a_C1_1.jpg"), entry(kind="AK", mask="../a.png")]
)
def test_paths_that_lead_elsewhere_are_errors(one, wrong):
    spoil(one, entry(), wrong)
    assert str(one / "pcb.json") in fails("entry 1 of 'test': .* is no path below", one, categories=["pcb"])


def test_bad_jsons_are_named(one):
    (one / "pcb.json").write_text('{"meta": ')
    assert str(one / "pcb.json") in fails("cannot be read", one, categories=["pcb"])
    for content in ([], {"meta": {"prefix": "pcb/"}, "train": [], "test": []}, {"meta": {}, "train": [], "test": []}):
        (one / "pcb.json").write_text(json.dumps(content))
        fails("lacks meta.prefix, meta.normal_class, train or test", one, categories=["pcb"])


def test_the_whole_dataset_is_read_in_seconds(tmp_path):
    """151,050 entries; it takes about a second."""
    for category in CATEGORIES:
        (tmp_path / category).mkdir()
        stems = [f"OK/S{number:04}/{category}_{number:04}_OK" for number in range(1007)]
        entries = [entry(f"{stem}_C{view}_20231021130235.jpg") for stem in stems for view in range(1, 6)]
        content = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, "train": entries[:1000]}
        (tmp_path / f"{category}.json").write_text(json.dumps({**content, "test": entries[1000:]}))
    start = time.perf_counter()
    index = load_index("real_iad", tmp_path)
    assert time.perf_counter() - start < 20
    assert len(index) == 151_050


def test_published_counts():
    counts = read_option("dataset", "real_iad")["counts"]
    assert counts == {"total": {"train_good": 36_465, "test_good": 63_256, "test_bad": 51_329}}
    assert sum(counts["total"].values()) == 151_050
    top = ["pcb", "phone_battery", "plastic_nut", "plastic_plug", "porcelain_doll", "terminalblock", "usb", "woodstick"]
    config = read_option("dataset", "real_iad_top8")
    assert config["categories"] == config["about"]["categories"] == top
    assert config["split"] == read_option("dataset", "real_iad_single_view")["split"] == "single_view"
    assert read_option("dataset", "real_iad_fuiad")["split"] == "fuiad_0.1"
