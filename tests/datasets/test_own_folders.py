"""Images of a user's own: what folders and masks are called outside of published datasets is understood or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from ader.__main__ import main
from ader.data import load_index
from ader.system.errors import UserError
from ader.testing.toy import write_mvtec

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
HOLE = ("pcb/test/hole/000.png", ("pcb/ground_truth/hole/000_mask.png",))


@pytest.fixture
def root(tmp_path) -> Path:
    return write_mvtec(tmp_path / "set", ("pcb",))


def move(root: Path, source: str, target: str) -> None:
    (root / "pcb" / target).parent.mkdir(parents=True, exist_ok=True)
    (root / "pcb" / source).rename(root / "pcb" / target)


def holes(root: Path) -> dict[str, tuple[str, ...]]:
    """Images and masks of one kind of defect."""
    return {s.image: s.masks for s in load_index("folder", root) if s.defect.casefold() == "hole"}


def refused(root: Path, *words: str, name: str = "folder", **options) -> str:
    with pytest.raises(UserError) as caught:
        load_index(name, root, **options)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    return message


@pytest.mark.parametrize("word", ["Good", "GOOD", "ok", "OK", "normal", "Normal", "nominal", "Good "])
@pytest.mark.parametrize("part", ["train", "test"])
def test_words_for_normal_images(root, part, word):
    expected = load_index("folder", root).tally()
    move(root, f"{part}/good", f"{part}/{word}")
    index = load_index("folder", root)
    assert index.tally() == expected == {"pcb": {"train_good": 4, "test_good": 2, "test_bad": 2}}
    assert {sample.defect for sample in index} == {"good", "hole", "scratch"}


@pytest.mark.parametrize("place", ["test/hole", "test/good/000.png"])
def test_a_return_in_a_name_is_refused(root, place):
    """It ends a line of CSV: tables with it could not be read back."""
    name = Path(place).name
    if name == "hole":
        move(root, "ground_truth/hole", "ground_truth/a\rb")
    move(root, place, f"{Path(place).parent}/{'a' + chr(13) + 'b' + Path(place).suffix}")
    refused(root, r"a\rb", "rename it")


@pytest.mark.parametrize("word", ["GOOD", "normal", "ok"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_two_folders_of_normal_images_are_doubtful(root, part, word):
    shutil.copytree(root / "pcb" / part / "good", root / "pcb" / part / word)
    refused(root, str(root / "pcb" / part), "'good'", repr(word), "keep one")


def test_published_datasets_keep_their_own_words(tmp_path):
    root = write_mvtec(tmp_path, ("bottle",))
    (root / "bottle/test/good").rename(root / "bottle/test/normal")
    assert "has no mask" in refused(root, str(root / "bottle/test/normal"), name="mvtec", categories=["bottle"])


@pytest.mark.parametrize("name", ["Ground_truth", "GROUND-TRUTH", "ground truth", "gt", "masks", "Mask", "labels"])
def test_folders_of_masks(root, name):
    move(root, "ground_truth", name)
    assert holes(root) == {HOLE[0]: (f"pcb/{name}/hole/000_mask.png",)}


def test_a_folder_of_masks_holds_images(root):
    (root / "pcb/labels").mkdir()
    (root / "pcb/labels/000.txt").touch()
    assert holes(root) == dict([HOLE])
    shutil.copytree(root / "pcb/ground_truth", root / "pcb/gt")
    refused(root, f"{root / 'pcb'} has several folders of masks (ground_truth, gt)")


@pytest.mark.parametrize(
    "name", ["000.png", "000_Mask.PNG", "000_gt.png", "000-label.bmp", "mask_000.png", "000.seg.png"]
)
def test_names_of_masks(root, name):
    mask = root / "pcb/ground_truth/hole/000_mask.png"
    Image.open(mask).save(mask.with_name(name))
    if name != mask.name:
        mask.unlink()
    assert holes(root) == {HOLE[0]: (f"pcb/ground_truth/hole/{name}",)}


def test_images_and_masks_in_another_case(root):
    move(root, "test/hole/000.png", "test/hole/IMG_7A.png")
    move(root, "ground_truth/hole/000_mask.png", "ground_truth/Hole/7a_GT.png")
    (root / "pcb/ground_truth/hole").rmdir()
    assert holes(root) == {"pcb/test/hole/IMG_7A.png": ("pcb/ground_truth/Hole/7a_GT.png",)}


def test_masks_that_fit_none_or_several(root):
    move(root, "ground_truth/hole/000_mask.png", "ground_truth/hole/003_gt.png")
    refused(root, "003_gt.png has no image 003.*")
    move(root, "ground_truth/hole/003_gt.png", "ground_truth/hole/000_gt.png")
    shutil.copy(root / "pcb/test/hole/000.png", root / "pcb/test/hole/img_000.png")
    refused(root, "fits several images (000.png, img_000.png)")
    move(root, "ground_truth/hole/000_gt.png", "ground_truth/hole/img_000_mask.png")
    assert holes(root)["pcb/test/hole/img_000.png"] == ("pcb/ground_truth/hole/img_000_mask.png",)


def test_a_published_name_is_asked_for(tmp_path):
    root = write_mvtec(tmp_path, ("bottle",), suffix="_gt")
    refused(root, "000_gt.png", "rename it 000_mask.png", name="mvtec", categories=["bottle"])


@pytest.mark.parametrize("name", ["000_mask.png", "000_Mask.bmp", "000_gt.png", "mask_000.png", "000.label.png"])
def test_masks_among_images_are_no_images(root, name):
    place = root / "pcb/test/hole"
    Image.open(root / "pcb/ground_truth/hole/000_mask.png").save(place / name)
    to = root / "pcb/ground_truth/hole"
    refused(root, f"{place} holds masks among its images (1, such as {name} of 000.png): move them to {to}")
    (place / name).rename(root / "pcb/train/good" / name)
    refused(root, str(root / "pcb/train/good"), "remove them, training images are normal")


def test_what_only_sounds_like_a_mask_is_an_image(root):
    """A name with such a word, but of no other image; and a defect of a mask of solder, or of a label."""
    for name in ("000.png", "001.png"):
        move(root, f"test/good/{name}", f"test/good/mask_{name}")
    move(root, "test/hole", "test/solder_mask")
    move(root, "ground_truth/hole", "ground_truth/solder_mask")
    move(root, "test/scratch", "test/label")
    move(root, "ground_truth/scratch", "ground_truth/label")
    index = load_index("folder", root)
    assert index.counts() == {"pcb": (4, 2, 2)}
    assert {sample.defect: len(sample.masks) for sample in index} == {"good": 0, "solder_mask": 1, "label": 1}


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (
            "ground_truth/hole",
            "test/hole/masks",
            ["holds a folder of masks (masks): move them to", "ground_truth/hole"],
        ),
        ("ground_truth/hole", "test/masks", ["'masks', named as a folder of masks", "rename what is a defect"]),
        ("ground_truth", "test/ground_truth", ["'ground_truth', named as a folder of masks"]),
        ("ground_truth/hole/000_mask.png", "ground_truth/000_mask.png", ["masks beside its folders", "<defect>"]),
        ("test/hole/000.png", "test/000.png", ["images beside its folders", "test/good, or those of defects to"]),
        ("train/good/000.png", "train/000.png", ["images beside its folders", "move them to", "train/good"]),
    ],
)
def test_hints_say_where_files_belong(root, source, target, words):
    move(root, source, target)
    assert "ground_truth/good" not in refused(root, *words)


def test_masks_without_a_folder_for_the_only_defect(tmp_path):
    root = write_mvtec(tmp_path, ("pcb",), defects=("dent",), bad=1)
    move(root, "ground_truth/dent/000_mask.png", "ground_truth/000_mask.png")
    refused(root, f"move them to {root / 'pcb/ground_truth/dent'}, named as the folder of their images")


@pytest.mark.skipif(not CASES.exists(), reason="no shared data")
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("02/capital", None),
        ("02/normal", None),
        ("02/both", "'GOOD' and 'good', which all say that images are normal"),
        ("09/beside", "test/defect holds masks among its images (4, such as 000_mask.png of 000.png): move them to"),
        ("09/flat", "pcb/ground_truth/defect, named as the folder of their images"),
        ("09/gt", None),
        ("09/maskdir", None),
    ],
)
def test_cases(case, said):
    if said:
        refused(CASES / case, said)
        return
    found, right = (load_index("folder", CASES / name) for name in (case, "02/right"))
    assert found.tally() == right.tally() == {"pcb": {"train_good": 4, "test_good": 4, "test_bad": 4}}
    assert [len(s.masks) for s in found if s.label] == [1, 1, 1, 1]


def test_one_line_and_status_2(root, tmp_path, capsys):
    shutil.copy(root / "pcb/ground_truth/hole/000_mask.png", root / "pcb/test/hole/000_mask.png")
    words = ["dataset=folder", f"dataset.root={root}", f"paths.results={tmp_path / 'results'}"]
    for command in ([*words, "method=rd"], ["data", "check", *words[:2]], ["score", str(root), *words]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "holds masks among its images" in error
    assert not (tmp_path / "results").exists()
