"""Loggers: what they are told arrives, a resumed run goes on in its place, and none of them ends a run."""

from __future__ import annotations

import csv
import json
import math
import struct
from importlib.machinery import ModuleSpec

import pytest

import ader.training.loggers as loggers
from ader.config.compose import compose
from ader.config.schema import CsvOptions, LoggerOptions, MlflowOptions, WandbOptions
from ader.results import record
from ader.results.gallery import read_gallery
from ader.system.errors import UserError
from ader.system.interrupt import Stopped
from ader.training.loggers import LoggedRun, Logger, Loggers, check_packages
from ader.training.loggers.csv_logger import CsvLogger
from ader.training.loggers.mlflow_logger import allowed
from tests.support.running import Bench, terminate


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    bench = Bench(tmp_path, monkeypatch)
    bench.with_gallery = True
    return bench


@pytest.fixture
def logged(tmp_path):
    return LoggedRun(tmp_path, tmp_path, "toy / multi_class / made_up / e2-s42", {"seed": 1})


def rows_of(folder):
    with (folder / "scalars.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def curves(folder):
    """Steps and values by model and tag."""
    found = {}
    for row in rows_of(folder):
        found.setdefault((row["model"], row["tag"]), []).append((int(row["step"]), float(row["value"])))
    return found


def tensorboard(folder):
    """The same of TensorBoard's files, read by TensorBoard; its floats have 32 bits."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def test_csv_has_what_tensorboard_has(bench):
    assert bench.run("logger=csv") == 0
    mine, theirs = curves(bench.folder()), tensorboard(bench.folder() / "tb")
    assert {tag for _, tag in mine} == set(theirs) != set()
    assert {model for model, _ in mine} == {""}
    for tag, points in theirs.items():
        assert [step for step, _ in mine["", tag]] == [step for step, _ in points]
        assert [value for _, value in mine["", tag]] == pytest.approx([value for _, value in points], rel=1e-6)


def test_a_resumed_run_has_the_curves_of_one_that_was_not_stopped(bench):
    words = ("logger=csv", "setting=single_class")
    assert bench.run(*words, results="whole") == 0
    bench.hook("second", 1, terminate)  # in the midst of the second stage of the first category
    assert bench.run(*words) == 1
    bench.unhook()
    stopped = rows_of(bench.folder())
    assert stopped
    assert {row["model"] for row in stopped} == {"bottle"}
    assert bench.run(*words) == 0
    assert curves(bench.folder()) == curves(bench.folder("whole"))


def test_csv_cuts_what_comes_again_and_what_is_half_there(logged):
    first = CsvLogger(logged)
    first.start()
    for step in range(1, 6):
        first.add("fit/loss", step / 10, step, "a,b")
    first.add("fit/loss", math.nan, 1, "c")
    first.close(False)
    with (logged.folder / "scalars.csv").open("a") as file:
        file.write('"a,b",6,fit')  # a process was killed while it wrote
    second = CsvLogger(logged)
    second.start()
    second.add("fit/loss", 0.9, 4, "a,b")
    second.close(True)
    found = curves(logged.folder)
    assert found["a,b", "fit/loss"] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.9)]
    assert [step for step, _ in found["c", "fit/loss"]] == [1]


def test_loggers_decide_nothing(bench):
    """The same run, wherever it is logged: its name, its numbers, and that it is finished."""
    assert bench.run() == 0
    folder, made = bench.folder(), record.read(bench.folder())
    assert bench.run("logger=csv") == 0
    assert bench.folder() == folder
    assert record.read(folder).provenance == made.provenance  # was shown, not made again
    assert bench.run("logger=csv", "force=true") == 0
    assert record.read(folder).rows == made.rows
    assert record.read(folder).config_hash == made.config_hash


def test_several_at_once():
    words = ["dataset=demo", "method=rd", "logger=[csv,wandb]", "logger.wandb.mode=offline"]
    assert compose(words).logger == LoggerOptions(csv=CsvOptions(), wandb=WandbOptions(mode="offline"))
    assert compose(words[:2]).logger == LoggerOptions()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("logger=wandbx", "did you mean 'wandb'"),
        ("logger=[csv,wandbx]", "did you mean 'wandb'"),
        ("logger=csv,wandb", "'logger=[csv,wandb]'"),
        ("+logger.csv.path=x", "logger.csv"),
        ("method=[rd,invad]", "ader -m runs each"),
    ],
)
def test_wrong_words(word, message):
    with pytest.raises(UserError) as raised:
        compose(["dataset=demo", "method=rd", word])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", [None, ModuleSpec("wandb", None)], ids=["nothing", "a folder of that name"])
def test_a_missing_package_is_said_before_training(bench, monkeypatch, capsys, missing):
    monkeypatch.setattr(loggers, "find_spec", lambda name: missing)
    bench.hook("first", 1, lambda: pytest.fail("training began"))
    assert bench.run("logger=wandb") == 2
    error = capsys.readouterr().err
    assert "logger=wandb needs the package wandb: pip install 'ader-bench[wandb]'" in error
    assert len(error.strip().splitlines()) == 1
    assert not (bench.root / "results").exists()


def test_csv_needs_no_package(monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    check_packages(LoggerOptions(csv=CsvOptions()))
    with pytest.raises(UserError, match="mlflow"):
        check_packages(LoggerOptions(mlflow=MlflowOptions()))


class Faulty(Logger):
    """Fails at one of its methods, as far as it gets there."""

    def __init__(self, place, error=None):
        self.place, self.error, self.calls = place, error or RuntimeError("the server\nis away"), []

    def _at(self, place):
        self.calls.append(place)
        if place == self.place:
            raise self.error

    def start(self):
        self._at("start")

    def add(self, tag, value, step, model=""):
        self._at("add")

    def result(self, rows, gallery):
        self._at("result")

    def close(self, done):
        self._at("close")


@pytest.mark.parametrize("place", ["add", "result", "close"])
def test_one_that_fails_warns_once_and_the_run_goes_on(bench, monkeypatch, capsys, place):
    faulty = Faulty(place)
    monkeypatch.setattr("ader.training.loggers.csv_logger.make", lambda options, run: faulty)
    assert bench.run("logger=csv") == 0
    out = capsys.readouterr().out
    assert out.count("WARNING  no more logging to csv (RuntimeError: the server); the run goes on without it") == 1
    assert (bench.folder() / "record.json").exists()
    assert faulty.calls.count(place) == 1
    assert faulty.calls[-1] == place  # and nothing after it


def test_one_that_cannot_begin_is_refused(bench, monkeypatch, capsys):
    monkeypatch.setattr("ader.training.loggers.csv_logger.make", lambda options, run: Faulty("start"))
    bench.hook("first", 1, lambda: pytest.fail("training began"))
    assert bench.run("logger=csv") == 2
    assert "logger=csv cannot begin (RuntimeError: the server): fix that, or leave it out" in capsys.readouterr().err


def test_a_signal_is_no_fault_of_a_logger(logged, monkeypatch):
    stopping = Faulty("add", Stopped("SIGTERM"))
    monkeypatch.setattr("ader.training.loggers.csv_logger.make", lambda options, run: stopping)
    active = Loggers()
    active.start(LoggerOptions(csv=CsvOptions()), logged, pytest.fail)
    with pytest.raises(Stopped):
        active.add("fit/loss", 1.0, 1)


def test_names_are_kept_and_damaged_ones_forgotten(logged):
    assert logged.name_in("wandb") is None
    logged.keep_name("wandb", "a")
    logged.keep_name("mlflow", "b")
    assert (logged.name_in("wandb"), logged.name_in("mlflow")) == ("a", "b")
    for text in ("{", "[1]", '{"wandb": 3}', "\xff"):
        (logged.folder / "loggers.json").write_bytes(text.encode("latin-1"))
        assert logged.name_in("wandb") is None


# --- Those of others, off-line


def messages(content):
    """Those of a file of wandb's: LevelDB's format of logs, blocks of 32 KiB with parts of records, behind 7 bytes."""
    place, whole = 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if (room := -place % 2**15) and room < 7:  # a part's head is never divided
            place += room
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def scanned(folder):
    """What wandb's own files of a run hold: every value of the history by key, and the summary's last ones."""
    from wandb.proto.wandb_internal_pb2 import Record

    history, summary = {}, {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for message in map(Record.FromString, messages(file.read_bytes())):
            for item in message.history.item:
                history.setdefault("/".join(item.nested_key) or item.key, []).append(json.loads(item.value_json))
            for item in message.summary.update:
                summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return history, summary


def test_wandb_off_line(bench, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    bench.hook("second", 2, terminate)
    words = ("logger=[csv,wandb]", "logger.wandb.project=p")
    assert bench.run(*words) == 1
    bench.unhook()
    assert bench.run(*words) == 0
    folder = bench.folder()
    name = json.loads((folder / "loggers.json").read_text())["wandb"]
    runs = [path.name for path in (folder / "wandb").glob("offline-run-*")]
    assert len(runs) == 2  # two parts of one run
    assert all(run.endswith(f"-{name}") for run in runs)
    history, summary = scanned(folder)
    for (_, tag), points in curves(folder).items():
        assert set(history[tag]) >= {value for _, value in points}
    steps = {step for points in curves(folder).values() for step, _ in points}
    assert set(history["step"]) == steps
    made = record.read(folder)
    assert summary["mean/image_auroc"] == made.rows["mean"]["image_auroc"]
    assert history["metrics/nrows"] == [len(made.rows)]
    table = json.loads(next(folder.glob("wandb/offline*/files/media/table/*.json")).read_text())
    assert [row[0] for row in table["data"]] == list(made.rows)
    shown = [entry for entry in read_gallery(folder).entries if entry.category == "cable"]
    assert history["gallery/cable/count"] == [len(shown)]
    assert history["gallery/cable/captions"][0][0].startswith(f"{shown[0].why}: good, {shown[0].image}")
    pictures = {path.read_bytes() for path in folder.glob("wandb/offline*/files/media/images/gallery/cable*")}
    assert pictures == {(folder / "gallery" / entry.file).read_bytes() for entry in shown}
    assert "wandb" not in capsys.readouterr().err


def test_mlflow_in_a_folder(bench):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    bench.hook("second", 2, terminate)
    words = ("logger=[csv,mlflow]", "logger.mlflow.experiment=e")
    assert bench.run(*words) == 1
    bench.unhook()
    client = MlflowClient(tracking_uri=f"file://{bench.root}/results/mlruns")
    experiment = client.get_experiment_by_name("e").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["KILLED"]
    assert bench.run(*words) == 0
    (run,) = client.search_runs([experiment])  # the same one
    assert run.info.status == "FINISHED"
    assert run.data.params["trainer.epochs"] == "2"
    made = record.read(bench.folder())
    defined = {f"{name}/{slug}": value for name, row in made.rows.items() for slug, value in row.items()}
    for key, value in defined.items():
        if value is not None:
            assert run.data.metrics[key] == pytest.approx(value)
    for (_, tag), points in curves(bench.folder()).items():
        history = {(each.step, each.value) for each in client.get_metric_history(run.info.run_id, tag)}
        assert history >= set(points)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"metrics.csv", "bounds.csv", "record.json", "gallery"}
    pictures = client.list_artifacts(run.info.run_id, "gallery")
    assert len(pictures) == len(list((bench.folder() / "gallery").iterdir()))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fit/loss", "fit/loss"),
        ("a.b/x", "a_b/x"),
        ("../x", "__/x"),
        ("ü<b>/loss:1", "ü_b_/loss_1"),
        ("//x", "_/_/x"),
        ("mvtec 3d/lr-net", "mvtec 3d/lr-net"),
    ],
)
def test_names_that_mlflow_takes(name, expected):
    assert allowed(name) == expected
    pytest.importorskip("mlflow")
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(allowed(name))
