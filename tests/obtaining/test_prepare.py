"""``ader data prepare``: archives, downloads, conversions, and what is said of the result."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ader.__main__ import main
from ader.config.options import read_option
from ader.data import Index
from ader.datasets._preparing import Work
from ader.datasets._tree import read_tree
from ader.obtaining import prepare as module
from ader.obtaining.prepare import Preparation, prepare
from ader.system.console import Console
from ader.system.errors import UserError
from ader.testing.toy import write_mvtec

KNOWN = ("bottle", "cable")


def zipped(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return file


@pytest.fixture
def archive(tmp_path) -> Path:
    return zipped(write_mvtec(tmp_path / "made", KNOWN).parent / "made", tmp_path / "toy.zip")


@pytest.fixture
def task(tmp_path) -> Preparation:
    root = tmp_path / "data" / "toy"

    def read(folder: Path) -> Index:
        return read_tree("toy", folder, known=KNOWN)

    return Preparation(
        option="toy",
        root=root,
        read=read,
        convert=None,
        about={"get": "ask nicely", "homepage": "https://example.org/toy", "archives": []},
        counts={"bottle": [4, 2, 2], "cable": [4, 2, 2]},
        downloads=tmp_path / "data" / "archives",
        work=Work(Console(), lambda: None, 2),
    )


def known(task: Preparation, *archives: dict[str, object]) -> Preparation:
    return replace(task, about={**task.about, "archives": list(archives)})


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_archive_is_unpacked_and_counted(task, archive, capsys):
    prepare(task, archive)
    said = capsys.readouterr().out
    assert "toy.zip: no checksum of it is known" in said
    assert "2 categories, 16 images" in said
    assert "all numbers of images are as published" in said
    prepare(task, None)
    assert "nothing to do" in capsys.readouterr().out


def test_other_numbers_are_said(task, archive, capsys):
    more = replace(task, counts={"bottle": [4, 2, 2], "cable": [5, 2, 2]})
    with pytest.raises(UserError, match=r"not as published \(cable has 4 train_good .*check_counts=false"):
        prepare(more, archive)
    said = capsys.readouterr().out
    assert "not as published: cable has 4 train_good (published 5)" in said
    assert "all numbers" not in said


def test_a_known_archive_is_verified(task, archive, capsys):
    right, wrong = {"file": "toy.zip", "sha256": sha256(archive)}, {"file": "toy.zip", "md5": "0" * 32}
    with pytest.raises(UserError, match="download it again"):
        prepare(known(task, wrong), archive)
    assert not task.root.exists()
    prepare(known(task, wrong, right), archive)  # published twice under one name
    assert "no checksum" not in capsys.readouterr().out
    assert len(task.read(task.root)) == 16


def test_a_folder_of_archives(task, tmp_path):
    made = write_mvtec(tmp_path / "made", KNOWN)
    for name in KNOWN:
        (tmp_path / "parts" / name).mkdir(parents=True)
        shutil.move(made / name, tmp_path / "parts" / name / name)
        zipped(tmp_path / "parts" / name, tmp_path / f"{name}.zip")
    (tmp_path / "archives" / "readme").mkdir(parents=True)
    for name in KNOWN:
        shutil.move(tmp_path / f"{name}.zip", tmp_path / "archives")
    prepare(task, tmp_path / "archives")
    assert len(task.read(task.root)) == 16
    with pytest.raises(UserError, match="exists"):
        prepare(task, tmp_path / "archives")
    assert len(task.read(task.root)) == 16


def test_without_anything_it_says_where_to_get_it(task, tmp_path):
    with pytest.raises(UserError) as caught:
        prepare(known(task, {"file": "toy.tar.xz", "sha256": "0" * 64}), None)
    message = str(caught.value)
    for part in (str(task.root), "ask nicely", "https://example.org/toy", "dataset=toy source=toy.tar.xz"):
        assert part in message
    with pytest.raises(UserError, match="does not exist: name an archive or a folder"):
        prepare(task, tmp_path / "nowhere")


def test_a_folder_that_is_laid_out_already(task, tmp_path):
    """It is not said to be prepared or checked in a circle, but where to have it."""
    made = write_mvtec(tmp_path / "made", KNOWN)
    with pytest.raises(UserError, match=f"nothing to prepare: give dataset.root={made} .*or move the folder to"):
        prepare(task, made)
    prepare(replace(task, root=made), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no archive .* and no unpacked dataset 'toy'"):
        prepare(task, tmp_path / "empty")


def test_half_a_dataset_is_not_complete(task, tmp_path):
    write_mvtec(task.root, KNOWN[:1])
    with pytest.raises(UserError, match=r"lacks 1 of 2 categories \(cable\): unpack the whole archive"):
        prepare(known(task, {"file": "toy.zip", "sha256": "0" * 64}), None)


def test_some_categories_have_no_sums(task):
    write_mvtec(task.root, KNOWN[:1])
    task = replace(task, read=lambda folder: read_tree("toy", folder, KNOWN[:1], known=KNOWN))
    some = replace(task, counts={"total": [8, 4, 4]})
    prepare(replace(some, whole=False), None)
    with pytest.raises(UserError, match="total has 4 train_good"):
        prepare(some, None)


def test_sizes_are_said_before_a_download(task, capsys, monkeypatch):
    def no_network(url: str, *_, **__) -> None:
        raise UserError(f"{url} cannot be reached")

    monkeypatch.setattr(module, "download", no_network)
    with pytest.raises(UserError, match="cannot be reached"):
        prepare(replace(task, about=read_option("dataset", "coco_ad_0")["about"]), None)
    assert "downloading train2017.zip, val2017.zip, annotations_trainval2017.zip, 20.4 GB" in capsys.readouterr().out


def test_a_run_says_how_to_get_a_published_dataset(tmp_path, capsys):
    """The command, and what it needs; for images of one's own, where they are looked for."""
    paths = [f"paths.data={tmp_path / 'data'}", f"paths.results={tmp_path / 'results'}"]
    assert main(["dataset=mvtec", "method=rd", *paths]) == 2
    said = capsys.readouterr().err
    assert "ader data prepare dataset=mvtec source=mvtec_anomaly_detection.tar.xz" in said
    assert "https://www.mvtec.com" in said
    assert main(["data", "check", "dataset=coco_ad_1", *paths[:1]]) == 2
    assert "`ader data prepare dataset=coco_ad_1` downloads it (train2017.zip" in capsys.readouterr().err
    assert main(["dataset=folder", f"dataset.root={tmp_path / 'mine'}", "method=rd", *paths]) == 2
    said = capsys.readouterr().err
    assert "does not exist: put" in said
    assert "data prepare" not in said


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_downloads_what_has_a_public_address(task, archive, server, tmp_path, capsys):
    shutil.move(archive, tmp_path / "served")
    entry = {"file": "toy.zip", "url": f"{server}/toy.zip", "sha256": sha256(tmp_path / "served" / "toy.zip")}
    prepare(known(task, entry), None)
    assert len(task.read(task.root)) == 16
    assert "downloading toy.zip" in capsys.readouterr().out
    assert (task.downloads / "toy.zip").exists()


def test_downloads_only_what_the_root_lacks(task, server, tmp_path):
    made = write_mvtec(tmp_path / "made", KNOWN)
    entries = []
    for name in KNOWN:
        (tmp_path / name).mkdir()
        shutil.copytree(made / name, tmp_path / name / name)
        file = zipped(tmp_path / name, tmp_path / "served" / f"{name}.zip")
        entries.append({"file": file.name, "url": f"{server}/{file.name}", "sha256": sha256(file), "holds": name})
    shutil.copytree(made / "bottle", task.root / "bottle")
    (tmp_path / "served" / "bottle.zip").unlink()  # not asked for
    task = replace(known(task, *entries), read=lambda folder: read_tree("toy", folder, KNOWN, known=KNOWN))
    prepare(task, None)
    assert len(task.read(task.root)) == 16


def test_a_wrong_download_leaves_nothing(task, archive, server, tmp_path):
    shutil.move(archive, tmp_path / "served")
    with pytest.raises(UserError, match=r"toy\.zip"):
        prepare(known(task, {"file": "toy.zip", "url": f"{server}/toy.zip", "sha256": "0" * 64}), None)
    assert not task.root.exists()
    assert not (task.downloads / "toy.zip").exists()


def test_datasets_with_a_conversion_of_their_own(task, archive, tmp_path):
    """After unpacking, where the reader cannot read it yet; from another folder; not when all is there."""
    calls = []

    def convert(root: Path, source: Path, work: Work) -> None:
        calls.append((root, source))
        for folder in list(source.glob("raw_*")):
            shutil.copytree(folder, root / folder.name.removeprefix("raw_"))

    task = replace(task, convert=convert)
    raw = tmp_path / "raw"
    made = write_mvtec(tmp_path / "made", KNOWN)
    for name in KNOWN:
        shutil.copytree(made / name, raw / f"raw_{name}")
    prepare(task, zipped(raw, tmp_path / "raw.zip"))
    assert calls == [(task.root, task.root)]
    assert len(task.read(task.root)) == 16
    prepare(task, None)
    assert len(calls) == 1
    other = replace(task, root=tmp_path / "other")
    prepare(other, raw)
    assert calls[1:] == [(tmp_path / "other", raw)]


# --- whole commands, on the fixtures of the real layouts


@pytest.mark.parametrize("option", ["btad", "visa_2cls_highshot", "cifar10_uni", "vad", "mvtec_loco"])
def test_from_an_archive_to_a_checked_dataset(option, tmp_path, capsys, monkeypatch):
    def no_network(url: str, *_, **__) -> None:
        raise UserError(f"{url} cannot be reached")

    monkeypatch.setattr(module, "download", no_network)
    reader = read_option("dataset", option)["name"]
    layout = importlib.import_module(f"tests.layouts.{reader}")
    getattr(layout, "write_archive", layout.write)(tmp_path / "made")
    archive = zipped(tmp_path / "made", tmp_path / "my own name.zip")
    command = [f"dataset={option}", f"paths.data={tmp_path / 'data'}", f"paths.cache={tmp_path / 'cache'}"]
    assert main(["data", "prepare", *command]) == 2
    assert f"ader data prepare dataset={option} source=" in capsys.readouterr().err
    assert main(["data", "prepare", *command, f"source={archive}"]) == 2  # the imitation is smaller than the dataset
    said = capsys.readouterr()
    assert "my own name.zip: no checksum of it is known" in said.out
    assert "not as published" in said.out
    assert "dataset.check_counts=false" in said.err
    assert main(["data", "prepare", *command]) == 2
    assert main(["data", "prepare", *command, "dataset.check_counts=false"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["data", "check", *command, "dataset.check_counts=false"]) == 0


def test_coco_ad_from_its_annotations(tmp_path, capsys):
    made = importlib.import_module("tests.layouts.coco_ad").write(tmp_path / "data" / "coco")
    for file in made.glob("meta_20_*.json"):
        file.unlink()
    for _ in range(2):
        command = ["dataset=coco_ad_2", f"paths.data={tmp_path / 'data'}", "dataset.check_counts=false"]
        assert main(["data", "prepare", *command]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert len(list(made.glob("meta_20_*.json"))) == 4
