"""``ader export``: a trained model as an ONNX file, or as PyTorch's exported program."""

from __future__ import annotations

from pathlib import Path

from ader.commands._request import Request
from ader.commands._trained import opened

SUMMARY = "ader export RUN --to onnx|torch [out=FILE]  a trained model for other programs, checked against the method"

#: Flags with a value, which may also be given as ``key=value``.
FLAGS = ("to", "out")

USAGE = """\
ader export RUN --to onnx|torch [out=FILE] [category=NAME]

Writes the model of a finished run as a file for other programs: ONNX (opset of torch.onnx), or PyTorch's exported
program (.pt2, torch.export.load). RUN is its results folder.

The graph takes image, (B, 3, H, W), RGB in [0, 1] at the run's image size, and gives score (B,) and, of
methods with maps, map (B, H, W). Its metadata (JSON under the key "ader") say which run it is of, how images are
prepared, and which thresholds are known: the test set's F1-max, and those of normal images once ader predict
has found them. Before the file appears, its runtime must give what the method gives on random images, to 1e-4
of the largest value.

  --to onnx|torch, to=onnx|torch
  --out FILE, out=FILE  default: model.onnx or model.pt2 beside the checkpoint
  category=NAME         which model, where the run has one for each category
  --config-dir DIR      if the run had one and it was moved
  --cfg                 print the run's configuration
"""

OWN = ("to", "out", "category")


def main(request: Request) -> int:
    """Exports, and says how near file and method are."""
    path, rest = request.take("the run's folder is not given: ader export RUN --to onnx|torch")
    to, rest = rest.option("to", ("onnx", "torch"))
    out, rest = rest.value("out")
    category, rest = rest.value("category")
    predictor = opened(path, rest, OWN)
    if predictor is None:
        return 0
    from ader.runs.export import export_run
    from ader.system.console import Console

    console = Console()
    with console.keeping_errors():
        file = Path(out).expanduser() if out else None
        written, made = export_run(predictor, "onnx" if to == "onnx" else "torch", file, category)
        for warning in predictor.trained.record.warnings:
            console.say(f"CAUTION  {warning}")
        batch = "any number of images" if made.batch is None else f"batches of {made.batch} images, no other"
        console.say(f"takes    image ({batch}), {predictor.image_size} pixels; gives {', '.join(made.outputs)}")
        console.say(f"checked  on random images: at most {made.difference:.1e} of the largest value from the method")
        console.say(f"written  {written} ({len(made.content) / 2**20:.1f} MiB)")
    return 0
