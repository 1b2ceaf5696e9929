"""Checks of where a method is computed: in several processes, and on a device that is not the CPU."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
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
from ader.testing.processes import in_processes
from ader.testing.subject import CPU, Subject, images, predict, snapshot
from ader.training.cost import RandomImages
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer

CUDA = torch.device("cuda")

#: Two processes that have not trained a small method after so long wait for each other.
SECONDS = 120.0


def check_processes(subject: Subject) -> None:
    """Two processes train and predict without waiting for each other in vain, and end with the same state, bit for
    bit; so they do where one of them has no image of a pass.

    A method that fits in passes alone predicts what it does in one process, within 1e-4 of the largest value, as in
    ``check_batch_independent`` and for the same reason: each process has smaller batches. A method that descends
    gradients promises that only where its loss is a mean over images, without batch statistics and draws; hence no
    comparison there.
    """
    arguments = dict(subject.arguments)
    if "batch_size" in arguments:
        arguments["batch_size"] = 4  # two images for each process: one has no batch statistics, no partner to mix with
    plain = Subject(subject.method_class, arguments, subject.size)  # nothing else is sent to the processes
    try:
        first, second = in_processes(2, SECONDS, train_twice, plain)
    except AssertionError as error:
        hint = "one of the two has no image of a pass in the second training: ader.nets.state.rows.Rows takes that"
        raise AssertionError(f"{error}\n({hint})") from error
    for case in ("shared", "one image"):
        other = second[case]
        moved = [name for name, digest in first[case].items() if other[name] != digest]
        assert not moved, f"processes end with different {moved} ({case}): gather what each has seen of a pass"
    if first["passes only"]:
        alone = predict(plain.fitted, images(3, subject.size))
        assert_near(Prediction(*first["prediction"]), alone, 1e-4, "two processes")


def train_twice(subject: Subject) -> dict[str, Any]:
    """In one process of several: a training in which they share all images, and one whose passes have a single image.

    Returns:
        For either a digest of each tensor, by name; of the first the prediction of three images, and whether all
        stages are passes.
    """
    method, data = subject.make(), subject.data()
    Trainer(device=CPU, max_steps=1).fit(method, data)
    alone, passes = method, [stage for stage in data.stages.values() if isinstance(stage, FitPass)]
    if passes:
        alone = subject.make()
        Trainer(device=CPU, max_steps=1).fit(alone, OneImage(subject.size, 1, CPU, method.tags))
        predict(alone, images(1, subject.size))
    return {
        "shared": digests(method),
        "one image": digests(alone),
        "prediction": list(predict(method, images(3, subject.size))),
        "passes only": len(passes) == len(data.stages),
    }


class OneImage(RandomImages):
    """A pass has one image: all processes but one have none."""

    def order(self, stage: Stage) -> BatchOrder:
        order = super().order(stage)
        return replace(order, images=1) if isinstance(stage, FitPass) else order


def digests(method: Method) -> dict[str, str]:
    """SHA-256 of all tensors, by name."""
    state = {name: value.contiguous().reshape(-1).view(torch.uint8) for name, value in snapshot(method).items()}
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}


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
        if ".numpy() is not supported" in str(error):
            return None
        if "different devices" in str(error):
            raise AssertionError(
                f"{what} brings tensors of two devices together ({error}): make new ones on the images' device, and "
                "register those that are kept as buffers"
            ) from error
        raise
