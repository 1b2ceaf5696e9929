"""Checks of where a method is computed: in several processes, and on a device that is not the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from ader.methods._base import FitPass, Method, Prediction, Stage, TrainStage
from ader.testing.division import GROUPS, in_all_worlds, largest_difference, shrunk
from ader.testing.processes import in_processes
from ader.testing.subject import Subject, images, predict
from ader.training.cost import RandomImages
from ader.training.trainer import Trainer

CUDA = torch.device("cuda")

#: Processes that have not trained a small method after so long wait for each other.
SECONDS = 180.0

#: Of gradients, banks and predictions in float64, relative to the largest value of each tensor.
TOLERANCE = 1e-7


def check_processes(subject: Subject) -> None:
    """1, 2 and 3 processes give the same: gradients of the first update of each optimizer, what passes fit, and
    predictions with the same weights. Processes of one group end with the same state, bit for bit, also where all but
    one have no image of a pass; and none waits for another in vain.

    A step has 5 images, of which processes have different numbers. Batch norms share their statistics
    (``trainer.sync_batchnorm``), without which each process norms with its own; dropout is off. All is computed in
    float64, in which rounding stays below 1e-10 where the depth of a network multiplies that of float32 to several
    percent; so a method computes in the precision of its weights and images.
    """
    small = shrunk(Subject(subject.method_class, subject.arguments, subject.size))  # nothing else goes to the processes
    try:
        found = in_processes(len(GROUPS[0]), SECONDS, in_all_worlds, small)
    except AssertionError as error:
        hints = ["a process may have no image of a pass: ader.nets.state.rows.Rows takes that"]
        if "dtype" in str(error) or "should be the same" in str(error):
            hints.append("images and weights are of float64 here: make tensors in their precision")
        raise AssertionError(f"{error}\n({'; '.join(hints)})") from error
    alone = found[GROUPS[-1][0]]["1"]
    for members in GROUPS[:-1]:
        _assert_alike([found[place][f"{len(members)}"]["digests"] for place in members], "")
        _assert_equal(found[0][f"{len(members)}"], alone, f"{len(members)} processes")
    if "one image" in found[0]:
        _assert_alike([each["one image"] for each in found], " where a pass has one image")


def _assert_alike(digests: Sequence[Mapping[str, str]], where: str) -> None:
    """All processes of a group have the same."""
    for other in digests[1:]:
        moved = [name for name in {*digests[0], *other} if digests[0].get(name) != other.get(name)]
        assert not moved, f"processes end with different {sorted(moved)}{where}: gather what each has seen of a pass"


def _assert_equal(found: Mapping[str, Any], alone: Mapping[str, Any], what: str) -> None:
    """Several processes have what one has."""
    hints = {
        "gradients": "draw from Batch.seed_B, not from torch's stream; divide a sum over images by Batch.share; gather "
        "what a loss takes from the whole batch (ader.system.dist)",
        "state": "gather what each process has seen of a pass",
    }
    for kind, hint in hints.items():
        assert found[kind].keys() == alone[kind].keys(), (
            f"{what} and one have {kind} of different {sorted(found[kind].keys() ^ alone[kind].keys())}"
        )
        share, name = largest_difference(found[kind], alone[kind])
        assert share <= TOLERANCE, f"{kind} of {what} differ from those of one by {share:.2g} at {name}: {hint}"
    assert_near(Prediction(*found["prediction"]), Prediction(*alone["prediction"]), TOLERANCE, f"{what} against one")


def assert_near(one: Prediction, two: Prediction, tolerance: float, what: str) -> None:
    """Largest difference against the largest magnitude, of scores and of maps."""
    for name, a, b in zip(Prediction._fields, one, two, strict=True):
        if a is not None and b is not None:
            share = float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))
            assert share <= tolerance, f"{what}: {name} differs by {share:.2g} of the largest value"


def check_device(subject: Subject) -> None:
    """Predicting and training bring no tensor of the CPU together with those of a GPU.

    Where torch sees a GPU the method is trained and predicts on it. Elsewhere its tensors are torch's fake ones on a
    device ``cuda``: they have shapes, types and a device and no values, and an operation on two devices raises as it
    would on a GPU. That catches tensors made without ``device=``, tensors kept as plain attributes, which ``to`` does
    not move, and results on the CPU. (The device ``meta`` catches less: it takes many mixtures without a word.) It
    does not look behind a place where a value decides what happens next (``item``, ``numpy``, ``nonzero``), nor at
    backward passes, nor at whether a GPU has the operation, its memory and its precision.
    """
    if torch.cuda.is_available():
        method = subject.make()
        Trainer(device=CUDA, max_steps=1).fit(method, RandomImages(subject.size, 1, CUDA, method.tags))
        _check_result(predict(method, images(2, subject.size).to(CUDA)))
        return
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    method = on_fake_gpu(subject.fitted, mode)
    with mode:
        prediction = _as_far_as_seen("predict", lambda: predict(method, images(2, subject.size).to(CUDA)))
        if prediction is not None:
            _check_result(prediction)
        stages = method.stages()
        while stage := _as_far_as_seen("stages", lambda: next(stages, None)):
            _take_one_batch(method, stage, RandomImages(subject.size, 1, CUDA, method.tags))


def on_fake_gpu(method: Method, mode: FakeTensorMode) -> Method:
    """A copy whose parameters and buffers are fake ones on a GPU; tensors that are neither stay what they are."""
    moved: dict[int, Any] = {}
    with mode:
        for buffer in method.buffers():
            moved[id(buffer)] = mode.from_tensor(buffer).to(CUDA)
        for weight in method.parameters():
            fake = mode.from_tensor(weight.detach()).to(CUDA)
            moved[id(weight)] = nn.Parameter(fake, requires_grad=weight.requires_grad)
    return copy.deepcopy(method, moved)


def _take_one_batch(method: Method, stage: Stage, data: RandomImages) -> None:
    """One step of a stage up to its loss, or one batch of a pass."""
    batch = next(data.train(stage, 0, 1))
    method.eval()
    if isinstance(stage, TrainStage):
        train, modules = stage.step, stage.modules
        for module in modules:
            module.train()
        _as_far_as_seen(f"stage {stage.name!r}", lambda: train(batch, _check_loss))
    elif isinstance(stage, FitPass):
        update, finish = stage.update, stage.finish
        with torch.no_grad():
            if _as_far_as_seen(f"stage {stage.name!r}", lambda: update(batch) or True):
                _as_far_as_seen(f"the end of stage {stage.name!r}", finish)


def _check_loss(loss: Tensor, *names: str) -> None:
    """In place of an update: fake tensors have no backward pass without a GPU."""
    assert loss.device.type == CUDA.type, f"a loss of {names or 'all optimizers'} is on {loss.device}, not on the GPU"


def _check_result(prediction: Prediction) -> None:
    for name, value in zip(Prediction._fields, prediction, strict=True):
        assert value is None or value.device.type == CUDA.type, f"{name} is on {value.device}, the images on the GPU"


def _as_far_as_seen(what: str, function: Callable[[], Any]) -> Any:
    """What the function returns; None where it asks for a value that a fake tensor does not have."""
    try:
        return function()
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException):
        return None
    except RuntimeError as error:
        # a generator of random numbers on a GPU is no tensor, and a gradient inside a step asks for the GPU itself:
        # neither can be had without one
        without = ("get CUDA generator", "CUDA driver", "No CUDA GPUs", "hasPrimaryContext")
        if ".numpy() is not supported" in str(error) or any(words in str(error) for words in without):
            return None
        if "different devices" in str(error):
            raise AssertionError(
                f"{what} brings tensors of two devices together ({error}): make new ones on the images' device, and "
                "register those that are kept as buffers"
            ) from error
        raise
