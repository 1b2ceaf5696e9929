"""The readers of MVTec layout, the demo set, ``load_index`` and the common dataset checks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ader.data import Index, counts, load_index
from ader.data.load import join_splits
from ader.datasets import demo as demo_module
from ader.datasets.demo import CATEGORIES, Options, render
from ader.datasets.folder import folder, folder_name
from ader.datasets.mvtec import CATEGORIES as MVTEC
from ader.system.errors import UserError
from ader.testing import dataset_checks
from ader.testing.dataset_checks import check_dataset
from ader.testing.toy import write_mvtec

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
REAL = Path(__file__).resolve().parents[3] / "shared" / "data/industrial3"
SMALL = {"size": 32, "train": 1, "test_good": 1, "per_defect": 1}


@pytest.fixture
def root(tmp_path) -> Path:
    return write_mvtec(tmp_path / "set")


def fails(match: str, root: Path, name: str = "folder", **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_index(name, root, **options)
    return str(caught.value)


def test_samples_of_the_layout(root):
    index = folder(root)
    assert index.name == "folder-set"
    assert index.categories == ("bottle", "cable")
    assert index.counts() == {"bottle": (4, 2, 2), "cable": (4, 2, 2)}
    bottle = [(s.image, s.split, s.label, s.masks, s.defect) for s in index if s.category == "bottle"]
    truth = "bottle/ground_truth"
    assert bottle == [
        ("bottle/test/good/000.png", "test", 0, (), "good"),
        ("bottle/test/good/001.png", "test", 0, (), "good"),
        ("bottle/test/hole/000.png", "test", 1, (f"{truth}/hole/000_mask.png",), "hole"),
        ("bottle/test/scratch/000.png", "test", 1, (f"{truth}/scratch/000_mask.png",), "scratch"),
        *((f"bottle/train/good/{number:03}.png", "train", 0, (), "good") for number in range(4)),
    ]


@pytest.mark.parametrize("options", [{}, {"suffix": ""}, {"extension": "JPG"}, {"masks": False}])
def test_checks_pass_on_toy_data(tmp_path, options):
    root = write_mvtec(tmp_path / "set", **options)
    check_dataset(lambda: load_index("folder", root))
    assert load_index("folder", root).has_masks is options.get("masks", True)


def test_clutter_is_skipped(root):
    clean = folder(root)
    (root / ".DS_Store").touch()
    (root / "__MACOSX" / "train" / "good").mkdir(parents=True)
    (root / ".cache" / "test").mkdir(parents=True)
    (root / "docs").mkdir()
    (root / "readme.txt").touch()
    (root / "bottle" / "license.txt").touch()
    for part in ("train/good", "test/good", "test/hole", "ground_truth/hole"):
        for name in ("._000.png", ".hidden.png", "Thumbs.db", "notes.txt", "000.json"):
            (root / "bottle" / part / name).touch()
    assert folder(root).samples == clean.samples


@pytest.mark.parametrize("extension", ["PNG", "jpg", "Jpeg", "bmp", "tif", "TIFF", "webp"])
def test_extensions_in_any_case(tmp_path, extension):
    root = write_mvtec(tmp_path, ("only",), extension=extension)
    assert folder(root).counts() == {"only": (4, 2, 2)}


def test_ok_and_good_mean_normal(root):
    for part in ("train", "test"):
        (root / "cable" / part / "good").rename(root / "cable" / part / "ok")
    index = folder(root)
    assert index.counts()["cable"] == (4, 2, 2)
    assert {s.defect for s in index if not s.label} == {"good"}


def test_masks_are_paired_by_name(tmp_path):
    root = write_mvtec(tmp_path, ("only",), bad=0)
    for name in ("10.png", "2.bmp", "é.png", "plain.png"):
        (root / "only/test/dent").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / "only/test/dent" / name)
    (root / "only/ground_truth/dent").mkdir(parents=True)
    for name in ("2_mask.png", "10_mask.png", "e\u0301.png"):  # the accent decomposed, as macOS stores it
        Image.new("L", (8, 8), 1).save(root / "only/ground_truth/dent" / name)
    found = {Path(s.image).name: Path(s.masks[0]).name if s.masks else None for s in folder(root) if s.label}
    assert found == {"10.png": "10_mask.png", "2.bmp": "2_mask.png", "é.png": "e\u0301.png", "plain.png": None}


def test_masks_of_normal_images_are_kept(root):
    (root / "bottle/ground_truth/good").mkdir()
    Image.new("L", (48, 48)).save(root / "bottle/ground_truth/good/000_mask.png")
    masked = [s for s in folder(root) if s.masks and not s.label]
    assert [s.image for s in masked] == ["bottle/test/good/000.png"]
    check_dataset(lambda: folder(root))


def test_sorting_does_not_depend_on_the_file_system(root, monkeypatch):
    expected = folder(root).samples
    original = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(original(self))))
    assert folder(root).samples == expected


def test_pairing_errors_name_the_file(root):
    truth, images = root / "bottle/ground_truth/hole", root / "bottle/test/hole"
    shutil.copy(truth / "000_mask.png", truth / "000.png")
    assert str(images / "000.png") in fails("two masks", root)
    (truth / "000.png").rename(truth / "007_mask.png")
    assert str(truth / "007_mask.png") in fails("has no image 007", root)
    (truth / "007_mask.png").unlink()
    shutil.copy(images / "000.png", images / "000.bmp")
    assert "000.bmp" in fails("have the same stem", root)
    (images / "000.bmp").unlink()
    images.rename(root / "bottle/test/hole2")
    assert str(truth) in fails("masks without images", root)


def test_mvtec_needs_every_mask(tmp_path):
    root = write_mvtec(tmp_path, ("bottle",))
    assert load_index("mvtec", root, ["bottle"]).counts() == {"bottle": (4, 2, 2)}
    (root / "bottle/ground_truth/hole/000_mask.png").unlink()
    assert str(root / "bottle/test/hole/000.png") in fails("has no mask", root, "mvtec", categories=["bottle"])
    assert load_index("folder", root).has_masks  # optional there: the other one remains


def test_mvtec_order_and_missing_categories(tmp_path):
    assert len(MVTEC) == len(set(MVTEC)) == 15
    root = write_mvtec(tmp_path / "mvtec", MVTEC, train=1, good=1, bad=1, size=8)
    index = load_index("mvtec", root, ["zipper", "carpet"])
    assert index.categories == ("carpet", "zipper")
    assert load_index("mvtec", root).categories == MVTEC
    shutil.rmtree(root / "pill")
    message = fails("lacks 1 of 15 categories", root, "mvtec")
    assert "(pill)" in message
    assert str(root) in message
    fails("did you mean 'carpet'", root, "mvtec", categories=["carpets"])


def test_folders_that_are_missing_or_empty(root, tmp_path):
    fails("does not exist", tmp_path / "gone")
    (tmp_path / "file").touch()
    fails("is a file, not a folder", tmp_path / "file")
    (tmp_path / "nothing").mkdir()
    assert str(tmp_path / "nothing") in fails("holds no category", tmp_path / "nothing")
    shutil.rmtree(root / "bottle/train/good")
    fails("'bottle' has no training images", root)
    shutil.rmtree(root / "bottle/train")
    assert str(root / "bottle/train") in fails("does not exist", root)
    (root / "bottle/train").touch()
    fails("is a file where a folder is expected", root)
    assert load_index("folder", root, "cable").categories == ("cable",)
    shutil.rmtree(root / "cable/ground_truth")
    for part in (root / "cable/test").iterdir():
        shutil.rmtree(part)
    fails("'cable' has no test images", root, categories=["cable"])


def test_misplaced_files_are_errors_and_not_skipped(root):
    image = root / "bottle/train/good/000.png"
    shutil.copy(image, root / "bottle/test/stray.png")
    fails("images beside its folders .stray.png.", root)
    (root / "bottle/test/stray.png").unlink()
    (root / "bottle/test/hole/rgb").mkdir()
    fails("holds folders .rgb. where images are expected", root)
    (root / "bottle/test/hole/rgb").rmdir()
    (root / "bottle/train/bad").mkdir()
    fails("training images are normal", root)
    (root / "bottle/train/bad").rmdir()
    shutil.rmtree(root / "bottle/test/good")
    (root / "bottle/test/good").touch()
    fails("good is a file where a folder is expected", root)


def test_a_root_one_level_too_high_says_which_to_use(root):
    message = fails("one folder deeper", root.parent)
    hint = re.search(r"dataset\.root=(\S+)", message)
    assert hint
    assert Path(hint[1]) == root


@pytest.mark.parametrize("name", ["folder", "mvtec"])
def test_a_root_one_level_too_low_says_which_to_use(root, name):
    message = fails("is one category", root / "bottle", name)
    assert f"dataset.root={root} " in message
    assert "dataset.categories=[bottle]" in message


def test_archives_with_one_more_level_are_read(root):
    index = load_index("mvtec", root.parent, categories=["cable"])
    assert index.root == root
    shutil.copytree(root, root.parent / "copy")
    fails("several copies", root.parent, "mvtec", categories=["cable"])


def test_folder_names_are_safe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder_name(Path("my data/Teile (neu)")) == "folder-Teile-neu"
    assert folder_name(Path(".")) == f"folder-{tmp_path.name}"
    assert folder_name(Path("x/..")) == f"folder-{tmp_path.name}"
    assert folder_name(Path("/")) == "folder-root"
    assert folder_name(Path("a/...")) == "folder-root"


def test_load_index_finds_roots(root, monkeypatch):
    expected = load_index("folder", root)
    assert expected.root == root
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("HOME", str(root.parent))
    assert load_index("folder", "set") == expected
    assert load_index("folder", "~/set") == expected
    fails("dataset.root is empty", "")


def test_load_index_refuses_what_it_does_not_know(root):
    fails("dataset 'fodler' does not exist: did you mean 'folder'", root, "fodler")
    fails("did you mean 'per_defect'", root, "demo", per_defct=3)
    fails("dataset.size='big' does not fit", root, "demo", size="big")
    fails("did you mean 'cable'", root, categories=["cables"])
    fails("dataset.categories is empty", root, categories=[])


@pytest.mark.parametrize("name", ["chance", "mean", "Mean"])
def test_categories_are_not_called_like_other_rows_of_a_table(root, name):
    """The printed row would be the one of random scores, not the category's."""
    (root / "bottle").rename(root / name)
    fails(rf"has a category '{name}', which is a row of every table: rename it", root)
    assert load_index("folder", root, categories=["cable"]).categories == ("cable",)


def test_an_index_is_one_line(root):
    index = load_index("folder", root)
    assert repr(index) == f"Index({index.name!r}, {len(index)} samples of 2 categories, root={str(root)!r})"


def test_load_index_checks_counts(root):
    right = {"bottle": [4, 2, 2], "cable": [4, 2, 2]}
    assert len(load_index("folder", root, counts=right)) == 16
    wrong = fails(r"cable has 2 test_bad \(published 3\)", root, counts={**right, "cable": [4, 2, 3]})
    assert "check_counts=false" in wrong
    assert "bottle" not in wrong
    assert len(load_index("folder", root, ["bottle"], counts={**right, "cable": [9, 9, 9]})) == 8


def test_counts_by_split_and_label(root):
    row = {"train_good": 4, "test_good": 2, "test_bad": 2}
    assert len(load_index("folder", root, counts={"cable": row})) == 16
    assert len(load_index("folder", root, counts={"cable": {**row, "test_bad": [3, 2]}})) == 16
    fails(r"2 test_bad \(published 3 or 4\)", root, counts={"cable": {**row, "test_bad": [3, 4]}})
    fails(r"0 train_bad \(published 5\)", root, counts={"cable": {**row, "train_bad": 5}})
    del row["test_good"]  # what is not stated must not be there
    fails(r"2 test_good \(published 0\)", root, counts={"cable": row})


def test_totals_hold_for_whole_datasets(root):
    total = {"total": {"train_good": 8, "test_good": 4, "test_bad": 4}}
    assert len(load_index("folder", root, counts=total)) == 16
    fails(r"total has 8 train_good \(published 9\)", root, counts={"total": {**total["total"], "train_good": 9}})
    assert len(load_index("folder", root, ["cable"], counts=total)) == 8


def test_splits_join_the_training_data(root):
    samples = tuple(replace(s, split="validation") if s.image.endswith("003.png") else s for s in folder(root))
    index = replace(folder(root), samples=samples)
    assert join_splits(index, ["train"]) is index
    joined = join_splits(index, ["train", "validation"])
    assert joined.samples == folder(root).samples
    assert join_splits(index, ["validation"]).tally()["cable"]["train_good"] == 4
    for name in ("test", "val"):
        with pytest.raises(UserError, match=f"'{name}' is not a training split"):
            join_splits(index, ["train", name])


def test_published_images_are_counted_once():
    rows = {"a": [1, 2, 3], "b": {"train_good": [10, 99], "validation_good": 20}}
    assert counts.images(rows) == 36
    assert counts.images({**rows, "total": {"train_good": 7}}) == 7


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the shared real images")
def test_real_images():
    index = load_index("folder", REAL)
    assert index.counts() == {"leather": (4, 2, 5), "magnetic_tile": (180, 36, 70), "pcb": (100, 20, 30)}
    check_dataset(lambda: load_index("folder", REAL), images=2)


@pytest.fixture(scope="module")
def demo_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data" / "demo"
    load_index("demo", root, **SMALL)
    return root


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_demo_passes_the_checks(demo_root):
    check_dataset(lambda: load_index("demo", demo_root, **SMALL))
    index = load_index("demo", demo_root, **SMALL)
    assert index.name == "demo"
    assert index.categories == CATEGORIES
    for category, (train, good, bad) in index.counts().items():
        kinds = {sample.defect for sample in index if sample.category == category and sample.label}
        assert (train, good, bad) == (1, 1, len(kinds))
        assert len(kinds) >= 3
    assert os.listdir(demo_root.parent) == ["demo"]  # no temporary folder is left
    assert load_index("demo", demo_root, ["wood"], **SMALL).categories == ("wood",)


def test_demo_is_the_same_in_another_process(demo_root, tmp_path):
    code = f"from ader.data import load_index; load_index('demo', {str(tmp_path / 'again')!r}, **{SMALL})"
    environment = {**os.environ, "PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=CONFIGS.parents[1])
    assert digests(tmp_path / "again") == digests(demo_root)


def test_demo_images_depend_on_nothing_but_their_key(demo_root):
    """An image of the set equals one rendered alone; other keys give other images."""
    options = Options(0, 32, 1, 1, 1)
    keys = [("wood", "train", "good", 0), ("wood", "test", "good", 0), ("wood", "train", "good", 1)]
    images = [render(options, *key)[0] for key in keys]
    images.append(render(replace(options, seed=1), *keys[0])[0])
    stored = np.asarray(Image.open(demo_root / "wood/train/good/000.png"))
    assert (stored == images[0]).all()
    assert all((a != b).mean() > 0.5 for i, a in enumerate(images) for b in images[:i])


@pytest.mark.parametrize("category", CATEGORIES)
def test_demo_masks_are_where_the_defect_is(category):
    for defect in demo_module.SCENES[category].faults:
        image, normal, mask = render(Options(0, 128, 1, 1, 1), category, "test", defect, 0)
        inside = mask == 255
        assert set(np.unique(mask)) == {0, 255}
        assert 8 < inside.sum() < 0.4 * mask.size, defect
        differs = (image != normal).any(axis=2)
        assert not differs[~inside].any(), defect
        assert differs[inside].mean() > 0.5, defect
        contrast = abs(image.astype(int) - normal)[inside].mean()
        assert contrast > 5, defect  # of 255: visible


def test_demo_never_touches_other_folders(demo_root, tmp_path):
    before = digests(demo_root)
    message = fails("made with other options .seed=0, size=32", demo_root, "demo", **{**SMALL, "size": 48})
    assert "size=48" in message
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").touch()
    fails("is not a demo set", tmp_path / "mine", "demo", **SMALL)
    (tmp_path / "file").touch()
    fails("is not a demo set", tmp_path / "file", "demo", **SMALL)
    assert os.listdir(tmp_path / "mine") == ["photo.png"]
    assert digests(demo_root) == before


def test_damaged_demo_sets_are_refused(demo_root, tmp_path):
    shutil.copytree(demo_root, tmp_path / "demo")
    (tmp_path / "demo/wood/train/good/000.png").rename(tmp_path / "demo/wood/test/good/001.png")
    fails("wood.*has no training images", tmp_path / "demo", "demo", **SMALL)
    (tmp_path / "demo/wood/train/good/000.png").write_bytes(b"x")
    fails("lacks images of wood", tmp_path / "demo", "demo", **SMALL)
    (tmp_path / "demo/demo.json").write_text("{")
    fails("cannot be read", tmp_path / "demo", "demo", **SMALL)


def test_an_interrupted_demo_is_never_read(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_module, "_publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_index("demo", tmp_path / "demo", **SMALL)
    assert os.listdir(tmp_path) == []


def test_two_processes_generate_the_same_demo(demo_root, tmp_path, monkeypatch):
    """The slower one finds the other's set in place, drops its own and reads that one."""
    write = demo_module._write

    def overtaken(temporary: Path, options: Options) -> None:
        write(temporary, options)
        shutil.copytree(demo_root, tmp_path / "demo")

    monkeypatch.setattr(demo_module, "_write", overtaken)
    index = load_index("demo", tmp_path / "demo", **SMALL)
    assert len(index) == 6 * 2 + 21
    assert os.listdir(tmp_path) == ["demo"]
    assert digests(tmp_path / "demo") == digests(demo_root)


def test_demo_fills_an_empty_folder_with_shareable_permissions(tmp_path):
    (tmp_path / "demo").mkdir()
    load_index("demo", tmp_path / "demo", **SMALL)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "demo").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize(
    ("option", "value"),
    [("size", 16), ("size", 4096), ("train", 0), ("test_good", -1), ("per_defect", -1), ("seed", -1)],
)
def test_demo_options_have_limits(tmp_path, option, value):
    fails(f"dataset.{option}={value}", tmp_path / "demo", "demo", **{**SMALL, option: value})
    fails("both 0", tmp_path / "demo", "demo", **{**SMALL, "test_good": 0, "per_defect": 0})
    assert not (tmp_path / "demo").exists()


def test_toy_data_are_reproducible(tmp_path):
    first, second, other = (write_mvtec(tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert digests(first) == digests(second) != digests(other)


def broken(index: Index) -> dict[str, Index]:
    """For each check, an index that it must refuse."""
    samples = index.samples
    bad = next(i for i, sample in enumerate(samples) if sample.label)
    train = next(i for i, sample in enumerate(samples) if sample.split == "train")

    def changed(place: int, **values) -> Index:
        return replace(index, samples=(*samples[:place], replace(samples[place], **values), *samples[place + 1 :]))

    (index.root / "link.png").symlink_to(index.path(samples[0].image))
    return {
        "no training images": index.split("test"),
        "samples begin in the order": replace(index, categories=index.categories[::-1]),
        "not together": replace(index, samples=(*samples[1:], samples[0])),
        "images that occur twice": changed(train, image=samples[0].image),
        "masks of two images": replace(
            index, samples=tuple(replace(s, masks=samples[bad].masks) if s.label else s for s in samples)
        ),
        "also training images": changed(train, image="link.png"),
        "do not exist": changed(train, image="gone.png"),
        "not relative POSIX": changed(train, image=str(index.path(samples[train].image))),
        "labels against": changed(bad, defect="good"),
        "labels other than": changed(bad, label=2),
        "mask that marks a defect": changed(bad, label=0, defect="good"),
        "declares none": replace(index, has_masks=False),
        "defective training images": changed(train, label=1, defect="dent"),
    }


def test_every_check_can_fail(root):
    index = folder(root)
    for reason, wrong in broken(index).items():
        with pytest.raises(AssertionError, match=reason):
            check_dataset(lambda wrong=wrong: wrong)
    turns = iter([index, replace(index, samples=index.samples[::-1])])
    with pytest.raises(AssertionError, match="reading twice"):
        check_dataset(lambda: next(turns))
    Image.new("L", (47, 48), 255).save(root / "bottle/ground_truth/hole/000_mask.png")
    with pytest.raises(AssertionError, match="its image"):
        check_dataset(lambda: folder(root))


def test_labeled_training_data_may_be_declared(root):
    index = folder(root)
    moved = tuple(replace(s, split="train") if s.defect == "hole" else s for s in index)
    labeled = replace(index, samples=moved)
    check_dataset(lambda: labeled, labeled_train=True)
    with pytest.raises(AssertionError, match="defective training images"):
        dataset_checks.check_train_is_normal(labeled)


def test_published_mvtec_counts():
    stated = yaml.safe_load((CONFIGS / "mvtec.yaml").read_text())["counts"]
    assert tuple(stated) == MVTEC
    assert [sum(column) for column in zip(*stated.values(), strict=True)] == [3629, 467, 1258]


def test_readers_do_not_import_torch():
    code = "import sys, ader.data, ader.datasets.demo, ader.data.check; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CONFIGS.parents[1])
    assert result.stdout.strip() == "False"


def test_demo_marker_records_the_options(demo_root):
    marker = json.loads((demo_root / "demo.json").read_text())
    assert {key: marker[key] for key in SMALL} == SMALL
    assert marker["seed"] == 0
