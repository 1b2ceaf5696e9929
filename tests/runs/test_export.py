"""Exported models give what their methods give, wherever they can be exported; the others say why."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ader.__main__ import main
from ader.config.options import options
from ader.runs import export as module
from ader.runs.export import KEY, TOLERANCE, export_method
from ader.system.errors import UserError
from ader.system.interrupt import Stopped
from ader.testing.subject import Subject, images, predict
from tests.support.running import Bench

ROOT = Path(__file__).parents[2]

#: Methods that cannot be exported, with what they say. A method that can be is an error here.
REFUSED: dict[str, str] = {}

#: In place of a ResNet-18: what is hard to write as a graph is not in it.
TINY = {"backbone": {"name": "test_resnet", "pretrained": False}}

#: A forest needs more rows than a few steps of two images give.
OTHERS = {
    "segad": {**TINY, "batch_size": 8},
    "patchcore": TINY,
    "uniad": {**TINY, "num_encoder_layers": 1, "num_decoder_layers": 2},  # a second layer takes the first one's
}


def fitted(name):
    subject = Subject.named(name, **OTHERS.get(name, {}))
    return subject.fitted.eval(), subject.size


#: One method for each kind of what is hard to write as a graph: a memory bank, a forest, attention. All methods, in
#: ten times the time: ``python -m benchmarks.exports``, whose table must have every one.
HARD = ("patchcore", "segad", "uniad")


def test_every_method_was_exported():
    lines = (ROOT / "results" / "bench" / "exports.md").read_text().splitlines()
    tried = {line.split("|")[1].strip() for line in lines[2:] if line.startswith("|")}
    assert tried == {*options("method")}, "run python -m benchmarks.exports --markdown results/bench/exports.md"


@pytest.mark.parametrize("name", [*HARD, *(name for name in REFUSED if name not in HARD)])
def test_onnx_gives_what_the_method_gives(name):
    """On other images than the export's own check, in another batch size, by the file alone."""
    method, size = fitted(name)
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            export_method(method, size, "onnx", {})
        return
    made = export_method(method, size, "onnx", {"run": "mine"})
    assert made.batch is None
    assert made.difference <= TOLERANCE
    model = onnx.load_from_string(made.content)
    onnx.checker.check_model(model)
    assert [each.name for each in model.graph.input] == ["image"]
    assert [each.name for each in model.graph.output] == ["score", "map"][: 1 + method.tags.maps]
    about = json.loads({each.key: each.value for each in model.metadata_props}[KEY])
    assert about == {"run": "mine", "outputs": list(made.outputs), "batch": None}
    image_BCHW = images(4, size, seed=99)
    session = onnxruntime.InferenceSession(made.content, providers=["CPUExecutionProvider"])
    given = session.run(["score", "map"][: 1 + method.tags.maps], {"image": image_BCHW.numpy()})
    wanted = [each for each in predict(method, image_BCHW) if each is not None]
    for one, other in zip(given, wanted, strict=True):
        assert one.shape == tuple(other.shape)
        assert np.abs(one - other.numpy()).max() <= TOLERANCE * np.abs(other.numpy()).max()


def test_refused_methods_exist():
    assert set(REFUSED) <= set(options("method"))


@pytest.mark.parametrize("name", ["draem", "patchcore"])
def test_an_exported_program_gives_what_the_method_gives(name):
    method, size = fitted(name)
    made = export_method(method, size, "torch", {"run": "mine"})
    extra = {module.EXTRA: ""}
    program = torch.export.load(io.BytesIO(made.content), extra_files=extra)
    assert json.loads(extra[module.EXTRA])["run"] == "mine"
    image_BCHW = images(5, size, seed=99)
    with torch.no_grad():
        given = program.module()(image_BCHW)
    for one, other in zip(given, [each for each in predict(method, image_BCHW) if each is not None], strict=True):
        assert torch.allclose(one, other, rtol=0, atol=TOLERANCE * float(other.abs().max()))


class Tiny(torch.nn.Module):
    """As much of a method as is exported; ``fault`` is what is wrong with it."""

    def __init__(self, fault=None):
        super().__init__()
        self.fault, self.calls = fault, 0

    def predict(self, image_BCHW):
        from ader.methods import Prediction

        map_BHW = image_BCHW.mean(dim=1)
        if self.fault == "batch":
            map_BHW = map_BHW * len(image_BCHW)
        if self.fault == "python" and map_BHW.mean().item() > 0.5:
            map_BHW = map_BHW + 1
        if self.fault == "drift" and not torch.compiler.is_compiling():
            map_BHW = map_BHW * (1 + 2 * TOLERANCE)
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def test_what_is_wrong_with_a_graph_is_found():
    assert export_method(Tiny(), 16, "torch", {}).batch is None
    assert export_method(Tiny("batch"), 16, "torch", {}).batch == 2
    with pytest.raises(UserError, match=r"^Tiny cannot be exported: Could not guard on data-dependent"):
        export_method(Tiny("python"), 16, "torch", {})
    with pytest.raises(Stopped, match=r"differs from the method by 2\.0e-04 of the largest value"):
        export_method(Tiny("drift"), 16, "torch", {})


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_command(bench, capsys, monkeypatch):
    assert bench.run("method.epochs=1", method="made_up") == 0
    folder = bench.folder()
    before = sorted(path.name for path in folder.iterdir())
    capsys.readouterr()
    for words, message in (
        (["--to", "onx"], "to=onx is not known: choose from onnx, torch"),
        (["--too=onnx"], "--too=onnx is not a flag: did you mean '--to'"),
        (["--to"], "--to needs a value"),
        (["--to", "torch", "out=model.onnx"], "a file of this kind ends with .pt2"),
        (["--to", "torch", "metric=ader"], "ader export takes to, out, category, dataset.root"),
    ):
        assert main(["export", str(folder), *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    assert main(["export", str(folder)]) == 2
    assert "--to onnx needs the package onnxscript: pip install 'ader-bench[export]'" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before
    assert main(["export", str(folder), "--to", "torch"]) == 0
    said = capsys.readouterr().out
    assert "gives score, map" in said
    assert "at most 0.0e+00 of the largest value from the method" in said
    extra = {module.EXTRA: ""}
    torch.export.load(folder / "model.pt2", extra_files=extra)
    about = json.loads(extra[module.EXTRA])
    assert about["image_size"] == 32
    assert (
        about["checkpoint"] == json.loads((folder / "record.json").read_text())["models"]["all"]["checkpoint"]["sha256"]
    )
    assert about["thresholds"].keys() == {"bottle", "cable"}
    assert about["thresholds"]["cable"]["f1max"]["how"].endswith("the test set was looked at")
