"""The command line: bad input is one clear line, the right status, and nothing half done."""

from __future__ import annotations

import fcntl
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ader import __version__
from ader.__main__ import command_names, main
from ader.config.options import options
from tests.support.running import PLUGIN, Bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


BAD = [
    (("dataset.root=/nope",), "dataset.root: /nope does not exist"),
    (("methd=rd",), "there is no key 'methd': did you mean 'method'"),
    (("method=rdd",), "method=rdd does not exist: did you mean 'rd'"),
    (("dataset=mvtek",), "dataset=mvtek does not exist: did you mean 'mvtec'"),
    (("method.ls=1",), "there is no key 'method.ls': did you mean 'method.lr'"),
    (("trainer.worker=1",), "did you mean 'trainer.workers'"),
    (("+method.foo=1",), "method.foo is not known to MadeUp: choose from: batch_size"),
    (("+foo=1",), "there is no key foo"),
    (("trainer.epochs=abc",), "trainer.epochs='abc' does not fit"),
    (("trainer.epochs=0",), "trainer.epochs=0 does not fit"),
    (
        ("trainer.precision=fp8",),
        "trainer.precision='fp8' does not fit: input should be 'fp32', 'torch', 'tf32' or 'bf16'",
    ),
    (("method.lr=x",), "method.lr='x' does not fit"),
    (("seed=-1",), "error: seed=-1 does not fit"),
    (("seed=1,2",), "names several values"),
    (("image_size=7",), "error: image_size=7 does not fit"),
    (("trainer.device=cuda:99",), "trainer.device=cuda:99 is not there"),
    (("trainer.device=tpu",), "trainer.device='tpu' does not fit"),
    (("trainer.device=cuda:",), "trainer.device='cuda:' does not fit"),
    (("run=a/b",), "run='a/b' is not a folder name"),
    (("run=..",), "run='..' is not a folder name"),
    (("dataset.categories=[botle]",), "did you mean 'bottle'"),
    (("metric.name=foo",), "metric=foo does not exist"),
    (("paths.results=/dev/null/x",), "cannot be written (Not a directory): give paths.results"),
    (("method=broken",), "method=broken does not exist"),
    (("method.name=broken",), "needs the package 'no_such_package', which is not installed: pip install"),
    (("setting.name=fewshot",), "setting 'fewshot' does not exist: did you mean 'few_shot'"),
    (("setting.name=nameless",), "made_up_squares.py has no function nameless(index, seed) -> Index: add one"),
    (("setting=every_othr",), "setting=every_othr does not exist: did you mean 'every_other'"),
    (("setting=every_other", "setting.step=0"), "setting.step=0 does not fit"),
    (("setting=every_other", "setting.models=each"), "setting.models='each' does not fit"),
    (("dataset=_visa",), "dataset=_visa does not exist: did you mean 'visa'"),
    (("dataset",), "'dataset' is not an override: write key=value"),
    (("--confg-dir=x",), "is not a flag: did you mean '--config-dir'"),
    (("--config-dir=/nope",), "--config-dir /nope: no such folder"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input(bench, capsys, words, message):
    assert bench.run(*words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("ader: error: ")
    assert captured.err.count("\n") == 1
    assert not (bench.root / "results").exists()


def test_nothing_but_a_command_or_key(capsys):
    assert main(["docter"]) == 2
    assert "did you mean 'doctor'" in capsys.readouterr().err
    assert main(["dataset=demo"]) == 2
    assert "method is not given: add method=NAME" in capsys.readouterr().err


def _truncate(root: Path) -> None:
    file = root / "bottle" / "train" / "good" / "000.png"
    file.write_bytes(file.read_bytes()[:200])


def _shrink(root: Path) -> None:
    from PIL import Image

    file = root / "bottle" / "ground_truth" / "hole" / "000_mask.png"
    Image.open(file).resize((20, 20)).save(file)


def _empty(root: Path) -> None:
    for file in (root / "bottle" / "train" / "good").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "bottle/train/good/000.png is truncated"),
        (_shrink, "is 20x20 pixels but its image"),
        (_empty, "category 'bottle' has no training images"),
    ],
)
def test_bad_data(bench, capsys, damage, message):
    damage(bench.data)
    assert bench.run() == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (bench.root / "results").exists()


def test_bad_input_leaves_other_runs_alone(bench):
    assert bench.run() == 0
    _truncate(bench.data)
    assert bench.run("seed=1") == 2
    assert bench.folder()  # exactly one


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loss", "loss 'restore' of MadeUp, stage 'second' is not finite at step 0: lower the learning rate"),
        ("score", "MadeUp.predict gave NaN for bottle/test/good/000.png"),
        ("bug", "RuntimeError: a mistake (traceback in "),
    ],
)
def test_faults_of_the_method_are_status_1(bench, capsys, fault, message):
    assert bench.run(f"method.fault={fault}") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(bench.root.rglob("record.json"))
    log = (bench.folder() / "run.log").read_text()
    assert ("Traceback (most recent call last)" in log) == (fault == "bug")
    assert message.split(" (")[0] in log


def test_an_exception_before_there_is_a_log_shows_its_traceback(bench, capsys, monkeypatch):
    import ader.runs.plan

    monkeypatch.setattr(ader.runs.plan, "read_index", lambda *_: 1 / 0)
    assert bench.run() == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.splitlines()[-1] == "ader: unexpected ZeroDivisionError: division by zero"


def test_two_runs_at_once(bench, capsys):
    assert bench.run() == 0
    with (bench.folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert bench.run() == bench.run("force=true") == 2
    assert capsys.readouterr().err.count("another run is at work in") == 2
    assert (bench.folder() / "record.json").exists()
    assert bench.run() == 0


def test_a_folder_of_another_configuration(bench, capsys):
    assert bench.run("run=mine") == 0
    before = (bench.folder() / "config.yaml").read_bytes()
    assert bench.run("run=mine", "seed=7", "trainer.epochs=1") == 2
    error = capsys.readouterr().err
    assert "holds a run with other values of method.epochs (2 there, 1 here), seed (42 there, 7 here)" in error
    assert "give run=NAME to keep both, or force=true to replace it" in error
    assert (bench.folder() / "config.yaml").read_bytes() == before
    assert bench.run("run=mine", "seed=7", "trainer.epochs=1", "force=true") == 0


def test_a_damaged_owner_or_record(bench, capsys):
    assert bench.run() == 0
    record, owner = bench.folder() / "record.json", bench.folder() / "config.yaml"
    good = record.read_text()
    record.write_text(good[:100])
    assert bench.run() == 2
    assert "record.json is not valid JSON: delete it and run again" in capsys.readouterr().err
    record.write_text(good)
    owner.write_text("[1, 2")
    assert bench.run() == 2
    assert "is not a run's configuration" in capsys.readouterr().err
    assert bench.run("force=true") == 0


def test_a_path_with_odd_letters(bench):
    odd = bench.root / "Prüfung 1:2"
    shutil.copytree(bench.data, odd)
    assert bench.run(f"dataset.root={odd}") == 0


def test_methods_and_datasets_of_another_package(bench, capsys):
    words = [f"dataset.root={bench.root / 'squares'}", f"paths.results={bench.root / 'results'}", "image_size=32"]
    words += ["trainer.epochs=1", "trainer.workers=0", "trainer.device=cpu"]
    assert main(["dataset=squares", "method=made_up", *words]) == 0
    assert bench.folder().parts[-4:-1] == ("squares", "multi_class", "made_up")
    capsys.readouterr()
    assert main(["list", "methods"]) == main(["list", "datasets"]) == 0
    out = capsys.readouterr().out
    assert "made_up" in out
    assert "no_such_package" in out
    assert "squares" in out


@pytest.mark.parametrize(("option", "trained"), [("every_other", [0, 2, 4, 1, 3]), ("every_third", [0, 3, 1, 4])])
def test_a_setting_of_another_package(bench, capsys, option, trained):
    """Of two categories with five training images each; the second option has the first as its base."""
    assert bench.run(f"setting={option}") == 0
    assert bench.folder().parts[-3] == option
    table = pd.read_csv(bench.folder() / "training.csv")
    assert [int(Path(image).stem) for image in table["image"]] == trained
    assert set(table["label"]) == {0}
    capsys.readouterr()
    assert main(["list", "settings"]) == 0
    assert "Every third training image." in capsys.readouterr().out


def test_a_setting_that_leaks_is_stopped(bench, capsys):
    assert bench.run("setting=every_other", "setting.leak=true") == 1
    assert "a setting uses an image twice" in capsys.readouterr().err
    assert not list(bench.root.rglob("record.json"))


def test_a_config_folder_of_ones_own(bench, capsys):
    folder = bench.root / "my configs, and more"
    (folder / "method").mkdir(parents=True)
    (folder / "method" / "mine.yaml").write_text("name: made_up\nlr: 0.5\nepochs: 1\n")
    assert bench.run(f"--config-dir={folder}", "method=mine") == 0
    assert bench.folder().parent.name == "mine"
    assert bench.run("--config-dir", str(folder), "method=min") == 2
    assert "did you mean 'mine'" in capsys.readouterr().err
    assert bench.run("--config-dir", str(folder), "method=mine", "method.lf=1") == 2
    assert "did you mean 'method.lr'" in capsys.readouterr().err


def test_the_composed_configuration(bench, capsys):
    assert main(["--cfg", *bench.words("method.lr=0.25")]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["method"]["lr"] == 0.25
    assert values["method"]["epochs"] == 2
    assert "hydra" not in values
    assert not (bench.root / "results").exists()


def test_the_working_directory_is_left_alone(bench, monkeypatch):
    here = bench.root / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert bench.run() == 0
    assert Path.cwd() == here
    assert not list(here.iterdir())


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    for words in ([], ["--help"], ["-h"], ["help"], ["dataset=demo", "--help"], ["help", "list"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "ader dataset=NAME method=NAME" in out
        shown = re.search(r"^  method= (.*?)^  setting= ", out, re.MULTILINE | re.DOTALL)
        assert shown is not None
        assert [name.strip() for name in shown[1].split(",")] == list(options("method"))


def test_help_imports_nothing_heavy():
    heavy = "torch hydra timm omegaconf pandas numpy rich pydantic"
    code = (
        "import sys; from ader.__main__ import main; [main(w) for w in (['--help'], ['eval', '-h'], ['score', '-h'])]; "
        f"print('HEAVY', [name for name in '{heavy}'.split() if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(PLUGIN)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "HEAVY []" in result.stdout
    assert "made_up" in result.stdout


@pytest.mark.parametrize("name", command_names())
def test_a_commands_own_help(capsys, name):
    command = importlib.import_module(f"ader.commands.{name}")
    assert command.SUMMARY.startswith(f"ader {name} ")
    assert main(["help"]) == 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in command.SUMMARY.strip().splitlines())
    for words in ([name, "--help"], [name, "x", "-h"]):
        assert main(words) == 0
        assert capsys.readouterr().out == command.USAGE
    assert command.USAGE.splitlines()[0].split()[:2] == ["ader", name]


def test_the_composed_configuration_of_every_command(bench, capsys):
    """Printed, and nothing is done; where nothing is composed, that is said."""
    assert bench.run() == 0
    folder, maps = bench.folder(), bench.root / "maps"
    record, words = (folder / "record.json").read_bytes(), [f"dataset.root={bench.data}", "dataset=folder"]
    capsys.readouterr()
    for command, key in (
        (["eval", str(folder), "metric=exact"], "seed"),
        (["score", str(maps), *words], "scores"),
        (["profile", "method=rd"], "seed"),
        (["data", "check", *words], "report"),
        (["data", "prepare", *words], "source"),
    ):
        assert main([*command, "--cfg"]) == 0, command
        values = yaml.safe_load(capsys.readouterr().out)
        assert key in values
        assert "dataset" in values
    assert (folder / "record.json").read_bytes() == record
    for command in (["list", "methods"], ["doctor"], ["data", "clear"]):
        assert main([*command, "--cfg"]) == 2
        assert f"ader {' '.join(command[:1])}" in (error := capsys.readouterr().err)
        assert "composes no configuration: leave --cfg out" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--info"], "see --cfg"),
        (["-cn", "x"], "-cn: "),
        (["--config-path=x"], "give --config-dir DIR"),
        (["--shell-completion"], "no completion"),
        (["--experimental-rerun=x"], "resumes a run"),
        (["--package", "x"], "leave it out"),
        (["--resolve"], "--resolve goes with --cfg"),
        (["--cfg", "hydra"], "--cfg hydra"),
        (["--config-dir="], "needs a folder"),
    ],
)
def test_flags_of_hydra(capsys, words, message):
    assert main(["dataset=demo", "method=rd", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("flags", [["--cfg"], ["--cfg", "job"], ["--cfg=job"], ["-c", "job", "--resolve"]])
def test_cfg_as_hydra_writes_it(capsys, flags):
    assert main([*flags, "dataset=demo", "method=rd", "run=2024_05_01"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["run"] == "2024_05_01"


def test_a_methods_own_help(capsys, tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: rd\nlr: 0.25\n")
    for words in (["method=rd", "--help"], ["list", "methods", "rd"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in ("method.bottleneck_width", "method.backbone.name", "recipe=small", "0.005"))
    folder = ["--config-dir", str(tmp_path)]
    assert main(["method=mine", "--help", *folder]) == main(["list", "methods", "mine", *folder]) == 0
    assert "0.25" in capsys.readouterr().out
    assert main(["list", "methods", *folder]) == main(["--help", *folder]) == 0
    assert "mine" in capsys.readouterr().out
    assert main(["list", "methods", "mine"]) == main(["doctor", *folder]) == 2


@pytest.mark.parametrize("kind", ["methods", "datasets", "metrics", "settings", "trainers", "experiments"])
def test_lists(capsys, kind):
    assert main(["list", kind]) == 0
    wanted = {"methods": "patchcore", "datasets": "mvtec", "metrics": "pixel_aupro", "settings": "multi_class"}
    assert wanted.get(kind, "") in capsys.readouterr().out


def test_doctor(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ADER_RESULTS", str(tmp_path / "results"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out
    assert "dataset mvtec" in out
    assert main(["doctor", "x"]) == 2


def test_a_reader_that_leaves():
    started = time.monotonic()
    command = f"{sys.executable} -m ader list metrics | head -c 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in result.stderr
    assert time.monotonic() - started < 60
