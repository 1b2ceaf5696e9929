"""No result is stale: whatever file is changed, however little, the same command does not show the old numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ader.__main__ import main
from ader.data import load_index
from ader.data.labelmaps import LabelMaps
from ader.methods._options import option_class
from ader.nets.backbone import BackboneOptions
from ader.nets.synthesis.textures import Textures
from ader.results import folder as workspace
from ader.results.identity import content
from ader.system import contents as module
from ader.system.contents import Contents, file_key
from ader.system.errors import UserError
from ader.system.files import WriteError, write_atomic
from ader.testing.toy import write_mvtec
from tests.support.commands import Command
from tests.support.running import PLUGIN, Bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def in_the_middle(file: Path, place: float = 0.3) -> None:
    """Changes one byte between the blocks that a glimpse would see, keeping size and modification time."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def white(file: Path) -> None:
    """An image or a mask with other pixels."""
    with Image.open(file) as image:
        Image.new(image.mode, image.size, "white").save(file)


@pytest.mark.parametrize("kind", ["ground_truth", "test"])
def test_a_corrected_file_is_not_shown_the_old_result(bench, capsys, kind):
    """Of a dataset that has a name for ever, as published ones have."""
    assert bench.run("+dataset.label=mine") == 0
    file = next(bench.data.glob(f"bottle/{kind}/*/000*"))
    capsys.readouterr()
    assert bench.run("+dataset.label=mine") == 0
    assert "This result exists already" in capsys.readouterr().out
    white(file)
    assert bench.run("+dataset.label=mine") == 2
    said = capsys.readouterr().err
    name = file.relative_to(bench.data).as_posix()
    assert f"holds a run with other data: images or masks changed since (1 file, e.g. {name})" in said
    assert main(["eval", str(bench.folder())]) == 2
    assert f"images or masks changed since (1 file, e.g. {name})" in capsys.readouterr().err
    assert bench.run("+dataset.label=mine", "force=true") == 0


def test_an_interrupted_run_does_not_go_on_with_other_data(bench, capsys):
    bench.hook("second", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert bench.run("+dataset.label=mine") == 1
    bench.unhook()
    white(next(bench.data.glob("cable/ground_truth/*/*")))
    capsys.readouterr()
    assert bench.run("+dataset.label=mine") == 2
    assert "images or masks changed since" in capsys.readouterr().err


def test_another_content_of_ones_own_folder_is_another_dataset(tmp_path):
    root = write_mvtec(tmp_path / "toy", extension="bmp", size=128)
    index, contents = load_index("folder", root), Contents(tmp_path / "cache")
    before = content(index, contents)
    assert content(index, contents) == before
    in_the_middle(next(root.rglob("train/*/*.bmp")))
    assert content(index, contents) != before


def test_only_what_changed_is_read_again(tmp_path, monkeypatch):
    files = [tmp_path / f"{number}.bin" for number in range(5)]
    for file in files:
        file.write_bytes(os.urandom(50_000))
    read, original = [], module.sha256
    monkeypatch.setattr(module, "sha256", lambda file: read.append(file) or original(file))
    first = Contents(tmp_path / "cache").of(files)
    assert sorted(read) == files
    assert Contents(tmp_path / "cache").of(files) == first
    assert len(read) == 5
    in_the_middle(files[3])
    second = Contents(tmp_path / "cache").of(files)
    assert read[5:] == [files[3]]
    assert [file for file in files if first[file] != second[file]] == [files[3]]
    store = tmp_path / "cache/contents/known.txt"
    store.write_bytes(b"\xff" + store.read_bytes()[:-70])  # half a line at its end, and an odd byte
    assert Contents(tmp_path / "cache").of(files) == second
    store.unlink()
    store.mkdir()  # cannot be written
    assert Contents(tmp_path / "cache").of(files) == second
    assert Contents(tmp_path / "no" / "cache").of([tmp_path, tmp_path / "missing"]) == {
        tmp_path: None,
        tmp_path / "missing": None,
    }


def test_two_changes_within_a_tick_have_two_keys(tmp_path):
    file = tmp_path / "x"
    for number in range(5):
        file.write_bytes(bytes([number]))
        one = file_key(file)
        file.write_bytes(bytes([number + 1]))
        assert file_key(file) != one


def test_textures_weights_and_label_maps_count(tmp_path):
    pictures = tmp_path / "dtd" / "banded"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (99, 99, 3), np.uint8)).save(pictures / f"{number}.bmp")
    arguments = {"textures": str(tmp_path / "dtd")}
    found = option_class("draem").files(arguments)["textures"]
    assert list(found) == ["banded/0.bmp", "banded/1.bmp", "banded/2.bmp"]
    before = Contents().mark(found)
    assert Textures(arguments["textures"], 32).provenance["sha256"] == before
    in_the_middle(pictures / "1.bmp")
    assert Contents().mark(found) != before

    (tmp_path / "resnet18.tv_in1k.pth").write_bytes(b"weights")
    backbone = BackboneOptions("resnet18.tv_in1k", weights=str(tmp_path))
    weights = {"weights": {"resnet18.tv_in1k.pth": tmp_path / "resnet18.tv_in1k.pth"}}
    assert option_class("draem").files({}) == {}
    for name in ("rd", "segad"):
        assert option_class(name).files({"backbone": backbone}) == weights

    root = write_mvtec(tmp_path / "toy", train=2, good=1, bad=1, size=32)
    index = load_index("folder", root)
    for sample in list(index)[:3]:
        file = (tmp_path / "labels" / sample.image).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32)).save(file)
    assert sorted(LabelMaps(tmp_path / "labels").files(index)) == sorted(sample.image for sample in list(index)[:3])


def claimed(folder: Path, **mine: object) -> str:
    """What a claim says to a folder of other files."""
    fingerprint = {"lr": 1, "index": "i", "data": "d", "contents": {"weights": "w", "textures": "t"}}
    workspace.claim(folder, {}, fingerprint)
    with pytest.raises(UserError) as caught:
        workspace.claim(folder, {}, {**fingerprint, **mine})
    return str(caught.value)


def test_a_claim_says_what_changed(tmp_path):
    assert "weights changed since" in claimed(tmp_path, contents={"weights": "other", "textures": "t"})
    assert "textures changed since" in claimed(tmp_path, contents={"textures": "other"})
    assert "images or masks changed since" in claimed(tmp_path, data="other")
    assert "the list of images and masks, or their labels, changed since" in claimed(tmp_path, data="e", index="j")
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.yaml").write_text("fingerprint: {lr: 1, data: i}")
    with pytest.raises(UserError, match="of an earlier version of ader"):
        workspace.claim(old, {}, {"lr": 1, "index": "i", "data": "d", "contents": {}})


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_disk_without_locks(tmp_path, monkeypatch, code):
    import errno

    number = getattr(errno, code)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with workspace.exclusive(tmp_path / "run") as hold:
        assert "no locks on the disk of" in hold.notes[0]


def test_a_folder_that_another_start_is_using_is_left(tmp_path, monkeypatch):
    """Two starts at the same instant: the one that gives up must not fail at the other's files."""

    def busy(folder: Path) -> None:
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr("shutil.rmtree", busy)
    with pytest.raises(UserError, match="bad"), workspace.exclusive(tmp_path / "a" / "b"):
        raise UserError("bad")


def test_long_names_are_written(tmp_path):
    name = "ä" * 120 + "x" * 11 + ".npy"
    assert len(name.encode()) == 255
    write_atomic(tmp_path / name, b"map")
    assert (tmp_path / name).read_bytes() == b"map"


def test_text_that_is_no_unicode_is_written(tmp_path):
    write_atomic(tmp_path / "x", "a\udce4")
    assert (tmp_path / "x").read_bytes() == b"a\\udce4"


def _limit_files(size):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_named(bench, monkeypatch):
    """At the checkpoint, whose writer hides the reason; and everything that is smaller fits."""
    words = bench.words("paths.cache=" + str(bench.root / "c"), "dataset.cache=off")
    environment = {**os.environ, "PYTHONPATH": f"{PLUGIN}{os.pathsep}{os.getcwd()}", "OMP_NUM_THREADS": "1"}
    environment |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = Command(words, bench.root, before=_limit_files, arguments=(6000,)).wait()
    assert done.status == 2, done.error
    assert done.error.count("\n") == 1
    assert "checkpoint.pt cannot be written (File too large" in done.error
    assert "MiB are free there" in done.error
    whole = subprocess.run(
        [sys.executable, "-m", "ader", *words], env=environment, capture_output=True, check=True, timeout=120
    )
    assert b"\\u2500" in whole.stdout or b"-----" in whole.stdout
    assert whole.stderr == b""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_unicode_are_refused(bench, capsys):
    odd = next(bench.data.rglob("train/good/*"))
    odd.rename(os.fsdecode(os.fsencode(odd.with_name("x")) + b"\xe4" + os.fsencode(odd.suffix)))
    assert bench.run() == 2
    assert "has a name that is not UTF-8: rename it" in capsys.readouterr().err
    assert main(["list", "x\udce4"]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_stamps_and_reports_are_not_worth_an_error(tmp_path, monkeypatch):
    from ader.data import check

    index = load_index("folder", write_mvtec(tmp_path / "toy", train=2, good=1, bad=1, size=32))
    cache = tmp_path / "cache"
    cache.write_text("a file where the folder should be")
    check.check_files(index, cache, workers=1)
    next((tmp_path / "toy").rglob("train/*/*")).write_bytes(b"no image")
    with pytest.raises(UserError, match="no full list"):
        check.check_files(index, cache, workers=1)


def test_stamps_leave_nothing_behind(tmp_path):
    from ader.data import check

    index = load_index("folder", write_mvtec(tmp_path / "toy", train=2, good=1, bad=1, size=32))
    left = tmp_path / "cache" / "checked" / ".x.json.abc.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (time.time() - 7200,) * 2)
    check.check_files(index, tmp_path / "cache", workers=1)
    assert [path.suffix for path in left.parent.iterdir()] == [".json"]


def test_a_write_error_says_which_file(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(WriteError) as caught:
        write_atomic(tmp_path / "a" / "b.txt", "text")
    assert caught.value.advice.startswith(f"{tmp_path / 'a' / 'b.txt'} cannot be written (")
