"""A trained model as a file that other programs run: ONNX, or PyTorch's own exported program. ``ader export``.

The graph takes ``image``, (B, 3, H, W), RGB in [0, 1] at the run's image size, and gives ``score`` (B,) and, of methods
with maps, ``map`` (B, H, W), both float32. What a pretrained network wants besides (mean and deviation of ImageNet) is
inside. The file says in its metadata, as JSON under the key ``ader``, which run it is of, how images get to that size,
and which thresholds are known.

What is written was checked: the file's own runtime gives what the method gives, on random images, in every batch size
that is tried, to ``TOLERANCE`` of the largest value.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ader.methods._base import Method
from ader.runs.predictor import Predictor, needs_more
from ader.runs.thresholds import kept_levels, test_set_threshold
from ader.system.errors import UserError
from ader.system.files import write_atomic
from ader.system.interrupt import Stopped
from ader.system.version import VERSION

#: Kinds of files, with their endings.
Format = Literal["onnx", "torch"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}

#: Largest difference from the method, as a share of the largest value.
TOLERANCE = 1e-4
#: Batch sizes of the check; of a graph with a fixed batch the first alone.
BATCHES = (2, 1, 3)
#: Where metadata are.
KEY, EXTRA = "ader", "ader.json"

F32 = npt.NDArray[np.float32]
#: Runs a file: images (B, 3, H, W) to what it gives, in order.
Runtime = Callable[[F32], Sequence[F32]]


@dataclass(frozen=True)
class Exported:
    """A model as a file.

    Attributes:
        content: of the file.
        outputs: names, in order: ``score``, and ``map`` of methods with maps.
        batch: images that it takes at once; None: any number.
        difference: the largest between file and method, as a share of the largest value, over all outputs.
    """

    content: bytes
    outputs: tuple[str, ...]
    batch: int | None
    difference: float


class Graph(nn.Module):
    """What is exported: a method's prediction as plain tensors."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Scores (B,), and maps (B, H, W) where there are some."""
        score_B, map_BHW = self.method.predict(image)
        return (score_B.float(),) if map_BHW is None else (score_B.float(), map_BHW.float())


def export_run(predictor: Predictor, to: Format, out: Path | None, category: str | None) -> tuple[Path, Exported]:
    """Writes a run's model as a file, after it was checked.

    Args:
        predictor: the run's models.
        to: the kind of file.
        out: the file; None: ``model.onnx`` or ``model.pt2`` beside the checkpoint.
        category: which model, where there is one for each category.

    Raises:
        UserError: the method cannot be exported, with the reason, or a package is missing; nothing was written.
        Stopped: the file gives something else than the method; nothing was written.
    """
    if predictor.inputs:
        raise UserError(needs_more(predictor))
    if out is None:
        out = predictor.trained.checkpoint(predictor.model_name(category)).with_name(f"model{ENDINGS[to]}")
    if out.suffix != ENDINGS[to]:
        raise UserError(f"out={out}: a file of this kind ends with {ENDINGS[to]}: rename it")
    config = predictor.config  # a graph is of float32, and is made where its weights lie
    trainer = replace(config.trainer, device="cpu", precision="fp32", channels_last=False)
    local = Predictor(predictor.trained, replace(config, trainer=trainer))
    exported = export_method(local.method(category), local.image_size, to, facts(local, category))
    write_atomic(out, exported.content)
    return out, exported


def facts(predictor: Predictor, category: str | None) -> dict[str, Any]:
    """What the file says of itself."""
    name, size = predictor.model_name(category), predictor.image_size
    categories = (category,) if predictor.per_category and category else predictor.categories
    thresholds: dict[str, dict[str, Any]] = {each: {} for each in categories}
    for each, known in thresholds.items():
        with suppress(UserError):  # a test set without defects has none
            known["f1max"] = asdict(test_set_threshold(predictor, each))
        if levels := kept_levels(predictor, each):
            known["normal"] = asdict(levels.image_threshold())
            if levels.pixel is not None:
                known["normal_pixel"] = asdict(levels.pixel_threshold())
    return {
        "made_by": f"ader {VERSION}",
        "run": predictor.trained.record.title,
        "method": predictor.config.method.name,
        "checkpoint": predictor.trained.record.models[name].checkpoint.sha256,
        "warnings": list(predictor.trained.record.warnings),
        "image_size": size,
        "preprocessing": (
            f"decode to 8-bit RGB, upright; resize to {size}x{size} (Pillow, bilinear with antialiasing, aspect ratio "
            "not kept); divide by 255; channels first. No mean or deviation: they are in the graph"
        ),
        "thresholds": thresholds,
    }


def export_method(method: Method, size: int, to: Format, about: dict[str, Any]) -> Exported:
    """A trained method as the content of a file, checked.

    Args:
        method: on the CPU, float32.
        size: pixels of the images.
        to: the kind of file.
        about: for the metadata.

    Raises:
        UserError: it cannot be exported; the message says why.
        Stopped: the file gives something else than the method.
    """
    if to == "onnx":
        _needed("onnx"), _needed("onnxscript"), _needed("onnxruntime")
    graph = Graph(method).eval()
    with torch.no_grad():
        # a first pass, with which methods make what they keep for a size: traced, that would be part of the graph
        outputs = ("score", "map")[: len(graph(random_images(BATCHES[0], size)))]
    program, batch = _program(graph, size)
    about = {**about, "outputs": outputs, "batch": batch}
    content, runtime = (_as_onnx if to == "onnx" else _as_torch)(program, outputs, about)
    difference = max(_difference(graph, runtime, count, size) for count in (BATCHES if batch is None else [batch]))
    if not difference <= TOLERANCE:  # NaN is not
        raise Stopped(
            f"the exported {type(method).__name__} differs from the method by {difference:.1e} of the largest value on "
            f"random images, more than {TOLERANCE:.0e}: nothing was written"
        )
    return Exported(content, outputs, batch, difference)


def _program(graph: Graph, size: int) -> tuple[torch.export.ExportedProgram, int | None]:
    """The traced graph, for any number of images where that can be, and else the number that it is for."""
    image_BCHW = random_images(BATCHES[0], size)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad(), _quiet():
        try:
            return torch.export.export(graph, (image_BCHW,), dynamic_shapes=({0: batch},)), None
        except UserError:
            raise
        except Exception as error:  # tracing ends with anything
            any_number = error
        try:
            return torch.export.export(graph, (image_BCHW,)), BATCHES[0]
        except Exception as error:
            raise UserError(
                f"{type(graph.method).__name__} cannot be exported: {_first_line(error)}: use ader predict or ader.load"
            ) from any_number


def _as_onnx(
    program: torch.export.ExportedProgram, outputs: Sequence[str], about: dict[str, Any]
) -> tuple[bytes, Runtime]:
    """The file's content and its runtime, ONNX Runtime on the CPU."""
    runtime = _needed("onnxruntime")
    try:
        with _quiet():
            made = torch.onnx.export(
                program, (), dynamo=True, verbose=False, input_names=["image"], output_names=list(outputs)
            )
        assert made is not None
        model = made.model_proto
        entry = model.metadata_props.add()
        entry.key, entry.value = KEY, json.dumps(about)
        content: bytes = model.SerializeToString()
    except Exception as error:  # an operation that ONNX lacks; more than 2 GiB
        raise UserError(f"ONNX cannot hold the model: {_first_line(error)}: give --to torch") from error
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return content, lambda image_BCHW: session.run(list(outputs), {"image": image_BCHW})


def _as_torch(
    program: torch.export.ExportedProgram, outputs: Sequence[str], about: dict[str, Any]
) -> tuple[bytes, Runtime]:
    """The file's content and its runtime, the program read back."""
    stream = io.BytesIO()
    try:
        with _quiet():
            torch.export.save(program, stream, extra_files={EXTRA: json.dumps(about)})
            content = stream.getvalue()
            module = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:  # saving and reading end with anything, too
        raise UserError(f"torch.export cannot hold the model: {_first_line(error)}: give --to onnx") from error

    def run(image_BCHW: F32) -> Sequence[F32]:
        with torch.no_grad():
            return [each.numpy() for each in module(torch.from_numpy(image_BCHW))]

    return content, run


def _difference(graph: Graph, runtime: Runtime, count: int, size: int) -> float:
    """The largest difference on random images, as a share of the largest value of that output."""
    image_BCHW = random_images(count, size, seed=count)
    with torch.no_grad():
        expected = [each.numpy() for each in graph(image_BCHW)]
    pairs = zip(runtime(image_BCHW.numpy()), expected, strict=True)
    shares = [np.abs(given - wanted).max() / max(np.abs(wanted).max(), 1e-30) for given, wanted in pairs]
    return float(np.max(shares))  # NaN if one is


def random_images(count: int, size: int, seed: int = 7) -> Tensor:
    """Random images (B, 3, H, W) in [0, 1], coarse and fine structure both."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = torch.rand(count, 3, size, size, generator=generator)
    return (nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") + fine) / 2


def _needed(package: str) -> Any:
    """A package that is not needed for anything else.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"--to onnx needs the package {package}: pip install 'ader-bench[export]'") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".!:")[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what tracing says of itself: every exported model has pages of it."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
