"""The scripts that compare methods with their references and run them all, on a pair whose figures are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import parity
import parity.__main__ as program
from ader.__main__ import main
from ader.config.options import options
from ader.methods._base import Method, Prediction
from ader.methods._options import option_class
from benchmarks import methods as bench_methods
from benchmarks import short_runs

CLOCK = [0.0]


class Net(Method):
    """A frozen convolution of 28 parameters, and a trained one of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 1, 3, padding=1).requires_grad_(False)
        self.head = nn.Conv2d(1, 2, 1, bias=False)

    def predict(self, image_BCHW):
        map_BHW = self.head(self.frozen(image_BCHW)).sum(dim=1)
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def pair(train: bool = True) -> parity.Pair:
    def differences():
        yield parity.largest("map", torch.tensor([1.0, 2.0]), np.array([1.0, 4.0]))
        yield parity.largest("gradients (float32)", [torch.ones(2)], [torch.ones(2) * 2])
        yield parity.largest("gradients (float64)", torch.zeros(1), torch.zeros(1))

    runs = (lambda: CLOCK.append(CLOCK[-1] + 3), lambda: CLOCK.append(CLOCK[-1] + 2))
    upstream = "someone/thing at 1234567"
    return parity.Pair(Net(), upstream, differences, runs if train else None, runs, 4, 4, "a note")


def test_every_method_has_a_comparison_or_says_why_not():
    classes = {option_class(option) for option in options("method")}
    compared = {method.__module__.rpartition(".")[2]: method.tags.reference for method in classes}
    for name, reference in compared.items():
        assert reference, f"{name}: say in Tags(reference=...) what it was compared with, or 'none: why'"
        assert (name in parity.names()) != reference.startswith("none: "), f"{name}: parity/ and {reference!r} disagree"


def test_published_counts_are_those_of_methods():
    """ADer Table 1 has sixteen of them; where ours differ by more than its rounding, the reason is given."""
    found = {name: parity.published(name) for name in options("method")}
    assert {name: (of.params, of.macs, bool(of.why)) for name, of in found.items() if of} == {
        "rd": (80.6, 28.4, False),
        "draem": (97.4, 198.0, False),
        "simplenet": (72.8, 17.715, True),
        "cflow": (237.0, 28.7, True),
        "vitad": (39.0, 9.7, True),
        "invad": (95.6, 45.4, False),
        "invad_lite": (17.1, 9.3, False),
        "uniad": (24.5, 3.4, True),
        "destseg": (35.2, 30.7, True),
        "cfa": (38.6, 55.3, True),
        "pyramidflow": (34.3, 962.0, True),
        "mambaad": (25.7, 8.3, False),
        "diad": (1331.0, 451.5, True),
        "rdpp": (96.1, 37.5, False),
        "realnet": (591.0, 115.0, False),
    }


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time passes in the pair's runs alone."""
    monkeypatch.setattr(bench_methods.time, "perf_counter", lambda: CLOCK[-1])


def test_figures(monkeypatch):
    monkeypatch.setattr(bench_methods, "load", lambda name, upstreams, batch: pair())
    row = bench_methods.measure("net", Path(), 4, 2)
    assert (row["params"], row["trained"]) == (30, 2)
    assert row["macs"] == 256 * 256 * (27 + 2)
    assert row["differences"][0] == {"what": "map", "largest": 2.0, "scale": 4.0}
    for phase in ("train", "test"):
        assert (row[phase]["reference_seconds"], row[phase]["seconds"], row[phase]["ratio"]) == (3, 2, 1.5)
    assert bench_methods.relative(row, "map") == 0.5
    assert bench_methods.relative(row, "gradients (float64)") is None  # nothing to divide by
    assert bench_methods.relative(row, "gradients", without="float64") == 0.5
    table = bench_methods.markdown({"rd": row}, {"batch": 4, "threads": 1, "repeats": 2})
    (line,) = (text for text in table.splitlines() if text.startswith("| rd"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:5] == ["rd", "0.00 (80.6)", "0.00", "0.00 (28.4)", "5e-01"]
    assert cells[-1] == "someone/thing at 1234567"
    assert "- `rd`, comparison: a note" in table


def test_without_training(monkeypatch):
    monkeypatch.setattr(bench_methods, "load", lambda name, upstreams, batch: pair(train=False))
    row = bench_methods.measure("net", Path(), 4, 1)
    assert "train" not in row
    assert bench_methods.cells("net", row)[8].empty


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory need Linux")
def test_peak_memory():
    """What a run holds at once counts, what it frees before does not."""

    def run():
        for _ in range(3):
            held = np.ones(2**23)  # 64 MiB, every page touched
            del held

    assert bench_methods.peak(run) == pytest.approx(64 * 2**20, rel=0.15)
    assert bench_methods.peak(lambda: None) < 8 * 2**20


def test_rows_of_others_are_kept(monkeypatch, tmp_path, capsys):
    file = tmp_path / "methods.json"
    file.write_text(json.dumps({"methods": {"rd": {"old": 1}, "vitad": {"old": 2}}}))
    row = {"params": 1, "macs": 1, "trained": 1, "differences": [], "note": "", "upstream": "x"}
    monkeypatch.setattr(bench_methods, "measured_apart", lambda name, chosen: row if name == "vitad" else None)
    words = ["bench_methods.py", "vitad", "--upstreams", str(tmp_path), "--json", str(file)]
    monkeypatch.setattr(sys, "argv", words)
    assert bench_methods.main() == 0
    assert json.loads(file.read_text())["methods"] == {"rd": {"old": 1}, "vitad": row}
    monkeypatch.setattr(sys, "argv", [words[0], "uniad", *words[2:]])
    assert bench_methods.main() == 1
    assert "left out (clone missing, or failed; see above): uniad" in capsys.readouterr().err


@pytest.mark.parametrize("script", [bench_methods, program])
def test_wrong_words(script, monkeypatch, tmp_path, capsys):
    for words, message in (
        (["nothing", "--upstreams", str(tmp_path)], "there is no comparison nothing"),
        (["rd", "--upstreams", str(tmp_path / "no")], "no such folder"),
    ):
        monkeypatch.setattr(sys, "argv", ["script", *words])
        with pytest.raises(SystemExit) as error:
            script.main()
        assert error.value.code == 2
        assert message in capsys.readouterr().err


def test_a_missing_clone_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"clone https://github\.com/some/body there"):
        parity.commit("some/body", tmp_path / "body")


def test_weights_are_copied_by_name():
    ours, other = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(1, 1)}), nn.ModuleDict({"x": nn.Linear(2, 3)})
    parity.copy_weights(ours, other, {"a": "x"})
    assert other["x"].weight.equal(ours["a"].weight)
    mine, theirs = parity.paired_parameters(ours, other, {"a": "x"})
    assert mine == list(ours["a"].parameters())
    assert theirs == list(other["x"].parameters())
    with pytest.raises(AssertionError, match="has no place"):
        parity.copy_weights(ours, other, {"a": "x", "b": "y"})


def run_here(command):
    """Ends as ``python -m ader`` does, without its start."""
    assert command[:3] == [sys.executable, "-m", "ader"]
    return SimpleNamespace(returncode=main(command[3:]))


def test_short_runs(tmp_path, monkeypatch, capsys):
    """A whole short run on toy images, its table in Markdown, and a failure that is told."""
    from ader.testing.toy import write_mvtec

    root = write_mvtec(tmp_path / "toy", train=5, good=2, bad=2, size=40)
    monkeypatch.setenv("ADER_CACHE", str(tmp_path / "cache"))
    command = short_runs.command
    wrong = lambda name, choice: [*command(name, choice), *(["no.such=1"] if name == "rd" else [])]  # noqa: E731
    monkeypatch.setattr(short_runs, "command", wrong)
    monkeypatch.setattr(short_runs, "subprocess", SimpleNamespace(run=run_here))
    table = tmp_path / "table.md"
    table.write_text("# Before\n\n## vitad\n\nits table\n\n## patchcore\n\nan older one\n")
    where = ["--root", str(root), "--results", str(tmp_path / "results"), "--size", "64", "--markdown", str(table)]
    monkeypatch.setattr(sys, "argv", ["short_runs.py", "patchcore", "rd", *where])
    assert short_runs.main() == 1
    assert "failed: rd" in capsys.readouterr().err
    lines = table.read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## patchcore", "## vitad"]
    assert "its table" in lines
    assert "an older one" not in lines
    head = next(line for line in lines if line.startswith("| category"))
    assert "pixel AUROC" in head
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ") and "---" not in line]
    assert rows[-1] == "mean"
    assert len(rows) == len(list(root.iterdir())) + 2
