"""``ader eval``: a stored model evaluated again, as a run would have, without training."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from PIL import Image

from ader.__main__ import main
from tests.support.running import Bench, terminate

TABLES = ("metrics.csv", "bounds.csv", "counts.csv", "scores.csv", "pixels.npz")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def done(bench):
    """A finished run; training again would stop."""
    assert bench.run() == 0
    bench.hook("first", 1, terminate)
    return bench


def record(folder):
    return json.loads((folder / "record.json").read_text())


def tables(folder):
    return [(folder / name).read_bytes() for name in TABLES]


def content(folder):
    """All files but the log."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}


def other(bench, folder, results="results"):
    """The results folder beside ``folder``."""
    (found,) = {path.parent for path in (bench.root / results).rglob("config.yaml")} - {folder}
    return found


def printed(out):
    """The table and what is said of it, without times."""
    lines = out[out.index("─ image ─") :].splitlines()
    return [line for line in lines if not line.startswith(("training", "reading", "written"))]


def test_the_same_again(bench, capsys):
    assert bench.run() == 0
    folder = bench.folder()
    before, files = record(folder), tables(folder)
    stamp = (folder / "checkpoint.pt").stat().st_mtime_ns
    table = printed(capsys.readouterr().out)
    bench.hook("collect", 1, terminate)
    assert main(["eval", str(folder)]) == 0
    captured = capsys.readouterr()
    assert printed(captured.out) == table
    assert captured.err == ""
    assert "training done before" in captured.out
    assert tables(folder) == files
    assert (folder / "checkpoint.pt").stat().st_mtime_ns == stamp
    after = record(folder)
    assert after["rows"] == before["rows"]
    assert after["evaluated_from"] == {"run": "."} | {key: before["provenance"][key] for key in ("time", "commit")}
    assert "evaluated_from" not in before
    for key in ("training", "checkpoint", "network"):
        assert after["models"]["all"][key] == before["models"]["all"][key]
    assert main(["eval", str(folder)]) == 0
    assert record(folder)["evaluated_from"] == after["evaluated_from"]
    bench.unhook()
    assert bench.run() == 0
    assert "This result exists already" in capsys.readouterr().out


def test_the_memory_layout_is_the_one_asked_for(done, monkeypatch):
    """The model is placed as a run would place it; weights and images in another layout are another result."""
    import ader.runs.evaluate_again as module

    layouts, trainer = [], module.Trainer
    monkeypatch.setattr(module, "Trainer", lambda **given: layouts.append(given["channels_last"]) or trainer(**given))
    folder = done.folder()
    assert main(["eval", str(folder)]) == main(["eval", str(folder), "trainer.channels_last=true"]) == 0
    assert layouts == [False, True]
    assert "channels_last" in other(done, folder).name


@pytest.mark.parametrize("words", [("metric=ader",), ("metric=exact", "metric.size=original"), ("metric.size=64",)])
def test_other_metrics_are_those_of_a_run(done, words):
    folder = done.folder()
    files = tables(folder)
    assert main(["eval", str(folder), *words]) == 0
    assert tables(folder) == files
    found = other(done, folder)
    done.unhook()
    assert done.run(*words, results="direct") == 0
    direct = done.folder("direct")
    assert found.name == direct.name
    assert tables(found) == tables(direct)
    mine, theirs = record(found), record(direct)
    assert mine["config_hash"] == theirs["config_hash"]
    assert mine["metric"] == theirs["metric"]
    assert found.joinpath(mine["evaluated_from"]["run"]).resolve() == folder.resolve()
    checkpoint = mine["models"]["all"]["checkpoint"]
    assert found.joinpath(checkpoint["file"]).resolve() == (folder / "checkpoint.pt").resolve()
    assert checkpoint["sha256"] == record(folder)["models"]["all"]["checkpoint"]["sha256"]
    assert not (found / "checkpoint.pt").exists()


def test_an_evaluation_leads_to_its_model(done, capsys):
    folder = done.folder()
    assert main(["eval", str(folder), "metric=exact"]) == 0
    exact = other(done, folder)
    files = tables(exact)
    assert main(["eval", str(exact)]) == 0
    assert tables(exact) == files
    assert main(["eval", str(exact), "metric=histogram", "metric.by_defect=true"]) == 0
    assert (folder / "defects.csv").exists()
    assert (folder / "checkpoint.pt").exists()
    assert main(["eval", str(exact), "force=true"]) == 0
    assert tables(exact) == files
    capsys.readouterr()
    assert done.run("metric=exact") == 0
    assert "This result exists already" in capsys.readouterr().out
    assert done.run("metric=exact", "save_maps=true") == 2
    error = capsys.readouterr().err
    assert f"holds an evaluation of the model in {folder}: give ader eval with that folder" in error
    assert tables(exact) == files
    done.unhook()
    assert done.run("metric=exact", "force=true") == 0
    assert "evaluated_from" not in record(exact)
    assert (exact / "checkpoint.pt").exists()


def test_maps_and_defects_are_added_and_kept(done):
    folder = done.folder()
    files = tables(folder)
    assert main(["eval", str(folder), "save_maps=true", "metric.by_defect=true"]) == 0
    assert tables(folder) == files
    assert len(list(folder.glob("maps/*/*/*.npy"))) == 8
    assert main(["eval", str(folder), "trainer.test_batch_size=3"]) == 0
    assert (record(folder)["maps"], record(folder)["by_defect"]) == (True, True)
    assert main(["eval", str(folder), "metric=exact"]) == 0
    assert not list(other(done, folder).glob("maps"))


def test_one_model_per_category(bench):
    assert bench.run("setting=single_class") == 0
    folder = bench.folder()
    files = tables(folder)
    bench.hook("first", 1, terminate)
    assert main(["eval", str(folder)]) == 0
    assert tables(folder) == files
    assert main(["eval", str(folder), "metric=exact"]) == 0
    models = record(other(bench, folder))["models"]
    assert {name: model["checkpoint"]["file"] for name, model in models.items()} == {
        name: f"../{folder.name}/parts/{name}/checkpoint.pt" for name in ("bottle", "cable")
    }


def test_bf16_has_a_folder_of_its_own(done):
    assert main(["eval", str(done.folder()), "trainer.precision=bf16"]) == 0
    assert len(list(done.root.rglob("record.json"))) == 2


def test_from_anywhere_after_a_move(done, monkeypatch):
    results = done.root / "results"
    moved = done.root / "some where" / "else"
    folder = moved / done.folder().relative_to(results)
    files = tables(done.folder())
    shutil.copytree(results, moved)
    shutil.rmtree(results)
    monkeypatch.chdir(folder)
    assert main(["eval", "."]) == main(["eval", ".", "metric=exact"]) == 0
    assert tables(folder) == files
    assert other(done, folder, "some where").parent == folder.parent
    assert not results.exists()
    assert main(["eval", ".", f"paths.results={results}"]) == 0
    assert tables(done.folder()) == files


def test_moved_data(done):
    folder = done.folder()
    moved = done.data.parent / "moved" / done.data.name
    moved.parent.mkdir()
    done.data.rename(moved)
    assert main(["eval", str(folder), f"dataset.root={moved}"]) == 0
    assert record(folder)["data_root"] == str(moved)
    assert main(["eval", str(folder)]) == 0


def test_an_interruption_leaves_the_old_result(bench, capsys):
    assert bench.run("metric.by_defect=true") == 0
    folder = bench.folder()
    before = content(folder)
    capsys.readouterr()
    bench.hook("predict", 1, terminate)
    assert main(["eval", str(folder), "trainer.test_batch_size=3"]) == 1
    assert "stopped by SIGTERM while predicting" in capsys.readouterr().err
    bench.unhook()
    assert content(folder) == before

    def fail():
        raise OSError("disk gone")

    bench.hook("predict", 2, fail)
    assert main(["eval", str(folder), "trainer.test_batch_size=3"]) == 1
    bench.unhook()
    assert content(folder) == before
    assert main(["eval", str(folder)]) == 0


def test_a_signal_while_the_tables_are_written_waits(done, monkeypatch):
    from ader.results import record as records

    replace = records.replace_together

    def signaled(folder, contents):
        terminate()
        replace(folder, contents)

    monkeypatch.setattr(records, "replace_together", signaled)
    stamp = (done.folder() / "record.json").stat().st_mtime_ns
    assert main(["eval", str(done.folder())]) == 0
    assert (done.folder() / "record.json").stat().st_mtime_ns > stamp


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.lr=0.5", "method.lr=0.5 needs a new run: an evaluation may change only paths, dataset.root"),
        ("seed=1", "seed=1 needs a new run"),
        ("method=patchcore", "method=patchcore needs a new run"),
        ("trainer=e300", "trainer=e300 needs a new run"),
        ("trainer.epochs=3", "trainer.epochs=3 needs a new run"),
        ("image_size=64", "image_size=64 needs a new run"),
        ("dataset.categories=[cable]", "needs a new run"),
        ("~method.lr", "~method.lr needs a new run"),
        ("metrc=ader", "metrc=ader: there is no key 'metrc': did you mean 'metric'"),
        ("metric=adr", "metric=adr does not exist: did you mean 'ader'"),
        ("metric.sise=3", "did you mean 'metric.size'"),
        ("foo", "foo: there is no key 'foo': choose from: dataset.cache"),
        ("metric.size=foo", "metric.size='foo' does not fit"),
        ("trainer.device=tpu", "trainer.device='tpu' does not fit"),
        ("dataset.root=/nope", "dataset.root: /nope does not exist"),
        ("paths.results=/dev/null/x", "cannot be written"),
        ("--confg-dir=x", "is not a flag"),
    ],
)
def test_bad_overrides(bench, capsys, word, message):
    assert bench.run() == 0
    folder = bench.folder()
    before = content(folder)
    capsys.readouterr()
    assert main(["eval", str(folder), word]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert content(bench.folder()) == before


def refused(capsys, folder, message, *words):
    capsys.readouterr()
    assert main(["eval", str(folder), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_not_a_run(bench, capsys, tmp_path):
    assert main(["eval"]) == 2
    assert "the run's folder is not given" in capsys.readouterr().err
    refused(capsys, tmp_path / "nope", "is not a folder: give a run's")
    refused(capsys, tmp_path, "is not a run's folder: it has no record.json")
    bench.hook("second", 1, terminate)
    assert bench.run() == 1
    refused(capsys, bench.folder(), "holds an unfinished run: give its own command again")


def test_the_checkpoint_must_be_the_runs(done, capsys):
    folder = done.folder()
    file = folder / "checkpoint.pt"
    good = file.read_bytes()
    for damage, message in (
        (file.unlink, "checkpoint.pt is missing: put it back, or train again"),
        (lambda: file.write_bytes(good[:1000]), "is not the checkpoint that the record knows"),
    ):
        damage()
        files = tables(folder)
        refused(capsys, folder, message)
        refused(capsys, folder, message, "metric=exact")
        assert tables(folder) == files
        assert len(list(done.root.rglob("config.yaml"))) == 1
    file.write_bytes(good)
    assert main(["eval", str(folder)]) == 0


def test_an_unfinished_checkpoint_is_not_trained(done, capsys):
    """Even if the record says that it is the right one."""
    from ader.system.files import sha256

    folder = done.folder()
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["progress"]["finished"] = False
    torch.save(state, folder / "checkpoint.pt")
    known = record(folder)
    known["models"]["all"]["checkpoint"]["sha256"] = sha256(folder / "checkpoint.pt")
    (folder / "record.json").write_text(json.dumps(known))
    refused(capsys, folder, "is not of a finished training")


def test_changed_data(done, capsys):
    image = next(done.data.glob("cable/test/hole/*.png"))
    good = image.read_bytes()
    Image.new("RGB", (40, 40), "red").save(image)
    refused(capsys, done.folder(), "is not what")
    image.write_bytes(good)
    assert main(["eval", str(done.folder())]) == 0
    shutil.copy(image, image.with_name("000x.png"))
    changed = (
        "the list of images and masks, or their labels, changed since: undo that, set dataset.root, or train again"
    )
    refused(capsys, done.folder(), changed)


def test_changed_configs(bench, capsys):
    folder = bench.root / "mine"
    (folder / "method").mkdir(parents=True)
    file = folder / "method" / "mine.yaml"
    file.write_text("name: made_up\nlr: 0.5\nepochs: 1\n")
    assert bench.run(f"--config-dir={folder}", "method=mine") == 0
    assert main(["eval", str(bench.folder())]) == 0
    file.write_text("name: made_up\nlr: 0.25\nepochs: 1\n")
    refused(capsys, bench.folder(), "was trained: method.lr (0.5 there, 0.25 here): undo that, or train again")
    moved = folder.rename(bench.root / "moved")
    refused(capsys, bench.folder(), "no such folder")
    (moved / "method" / "mine.yaml").write_text("name: made_up\nlr: 0.5\nepochs: 1\n")
    assert main(["eval", str(bench.folder()), f"--config-dir={moved}"]) == 0


def test_a_named_run_needs_another_name(bench, capsys):
    assert bench.run("run=mine") == 0
    folder = bench.folder()
    files = tables(folder)
    for words in (("metric=exact",), ("metric=exact", "force=true")):
        refused(capsys, folder, "keeps the run's own result, this one has other values of metric.name", *words)
    assert tables(folder) == files
    assert main(["eval", str(folder)]) == 0
    assert main(["eval", str(folder), "metric=exact", "run=exact"]) == 0
    refused(capsys, folder, "metric.name (exact there, ader here)", "metric=ader", "run=exact")
    assert main(["eval", str(folder), "metric=ader", "run=exact", "force=true"]) == 0
    assert (folder / "checkpoint.pt").exists()


def test_a_training_is_never_replaced(bench, capsys):
    assert bench.run() == bench.run("metric=exact") == 0
    exact = next(path for path in bench.root.rglob("record.json") if "metric=exact" in str(path)).parent
    folder = other(bench, exact)
    files = tables(exact)
    for words in (("metric=exact",), ("metric=exact", "force=true")):
        refused(capsys, folder, "holds a training of its own: evaluate that one, or give run=NAME", *words)
    assert tables(exact) == files
    assert (exact / "checkpoint.pt").exists()
    assert bench.run("run=twin") == 0
    twin = next(path for path in bench.root.rglob("twin"))
    assert main(["eval", str(folder), "metric=ader", "run=shared"]) == 0
    refused(capsys, twin, "holds an evaluation of another run", "metric=ader", "run=shared")
    assert main(["eval", str(twin), "metric=ader", "run=shared", "force=true"]) == 0
    assert record(folder.parent / "shared")["evaluated_from"]["run"] == "../twin"


def test_a_run_of_an_older_version(done, capsys):
    known = record(done.folder())
    (done.folder() / "record.json").write_text(json.dumps({**known, "schema": 1}))
    refused(capsys, done.folder(), "was written by another version of ader")


def test_the_lock_is_respected(done, capsys):
    import fcntl

    with (done.folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(capsys, done.folder(), "another run is at work in")


def test_help_and_cfg(done, capsys):
    assert main(["eval", "--help"]) == 0
    assert capsys.readouterr().out.startswith("ader eval RUN [key=value ...]")
    assert main(["eval", "--cfg", str(done.folder()), "metric=ader"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["metric"]["name"] == "ader"
    assert values["method"]["name"] == "made_up"
    assert len(list(done.root.rglob("config.yaml"))) == 1
