"""Every method of ``configs/method/`` passes the common checks, and the checks can fail."""

from __future__ import annotations

import functools
import importlib
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ader.config.options import options
from ader.config.plugins import names
from ader.methods import build
from ader.methods._base import FitPass, Method, Prediction, Tags, TrainStage, find_class
from ader.methods._options import option_class
from ader.nets.state.late_tensor import LateTensor
from ader.nets.state.rows import Rows
from ader.nets.synthesis.draws import uniform
from ader.system import dist
from ader.system.errors import UserError
from ader.testing import method_checks as checks
from ader.testing import placement
from ader.testing.method_checks import EXPECTED_FAILURES, method_checks
from ader.testing.processes import in_processes
from ader.testing.subject import Subject, images, predict

#: In place of the small recipes' ResNet-18: what a method does is the same around the smallest network of that kind.
TINY = {"backbone": {"name": "test_resnet", "pretrained": False}}

OTHERS = {
    "diad": {**TINY, "steps": 1},  # its networks are deep, and a second step of sampling is as the first
    "mambaad": {"backbone": {"name": "resnet10t", "pretrained": False}},  # its channels double from level to level
    "realnet": {"backbone": {"name": "resnet10t", "pretrained": False}},  # it keeps multiples of 64 channels
    "segad": {**TINY, "batch_size": 8},  # a forest needs more rows than a few steps of two images give
}


@functools.cache
def subject(name: str) -> Subject:
    recipe = Subject.named(name)
    residual = recipe.arguments.get("backbone", {}).get("name") == "resnet18"
    return Subject.named(name, **OTHERS.get(name, TINY)) if residual else recipe


def every_check():
    for name in options("method"):
        for check in method_checks():
            why = EXPECTED_FAILURES.get(name, {}).get(check.__name__)
            marks = [pytest.mark.xfail(strict=True, reason=why)] if why else []
            yield pytest.param(name, check, id=f"{name}-{check.__name__}", marks=marks)


@pytest.mark.parametrize(("name", "check"), list(every_check()))
def test_common_checks(name, check):
    check(subject(name))


def test_every_method_has_a_yaml():
    modules = {option: option_class(option).__module__ for option in options("method")}
    without = {find_class(name).__module__ for name in names("methods")} - set(modules.values())
    assert not without, f"{without} have no file in configs/method"
    assert set(EXPECTED_FAILURES) <= set(options("method"))


class Tiny(Method):
    """A frozen and a trained convolution, and a mean that a pass fits: passes every check."""

    tags = Tags(supervision="pixel")

    def __init__(self, widths: tuple[int, ...] = (4,), lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.teacher = nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1), nn.BatchNorm2d(widths[0]))
        self.teacher.requires_grad_(False)
        self.student = nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]))
        self.mean = LateTensor()
        self.rows = Rows()

    def stages(self):
        optimizers = {"all": torch.optim.Adam(self.student.parameters(), self.lr)}
        yield TrainStage(
            name="learn",
            batch_size=2,
            step=self._step,
            optimizers=optimizers,
            modules=[self.student],
            steps=5,
            augment=lambda image, rng: {"noise": rng.random((1, *image.shape[1:]), np.float32)},
        )
        self.rows.clear()
        yield FitPass(name="fit", batch_size=2, update=self._collect, finish=self._finish)

    def _step(self, batch, optimize):
        assert batch.label_B.device == batch.image_BCHW.device
        strength_B111 = uniform(batch.seed_B, "strength", 1, 1, 1).to(batch.image_BCHW.device)
        image_BCHW = batch.image_BCHW + 0.1 * batch.extra["noise"] * strength_B111 * batch.mask_BHW[:, None]
        loss = self._gap(image_BCHW).mean()
        optimize(loss)
        return {"gap": loss}

    def _collect(self, batch):
        self.rows.add(self._gap(batch.image_BCHW).mean(dim=(1, 2)))

    def _finish(self):
        self.mean.value = self.rows.gathered().mean()

    def _gap(self, image_BCHW):
        return (self.teacher(image_BCHW) - self.student(image_BCHW)).square().float().mean(dim=1)

    def predict(self, image_BCHW):
        map_BHW = self._gap(image_BCHW) / self.mean.get()
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def failing(method_class, only=None, **arguments) -> set[str]:
    """The names of the checks that a method fails, of all or of some."""
    tested, failed = Subject(method_class, arguments, size=16), set()
    for check in method_checks():
        if only is not None and check.__name__ not in only:
            continue
        try:
            check(tested)
        except Exception:
            failed.add(check.__name__)
    return failed


def test_a_good_method_passes():
    assert failing(Tiny) == set()


class DrawsItsOwn(Tiny):
    """Training draws from a stream that nobody seeds."""

    generator = torch.Generator()

    def _step(self, batch, optimize):
        noise = torch.rand(batch.image_BCHW.shape, generator=self.generator)
        return super()._step(replace(batch, image_BCHW=noise), optimize)


class TrainsTheTeacher(Tiny):
    def stages(self):
        for stage in super().stages():
            yield replace(stage, modules=[self.student, self.teacher]) if isinstance(stage, TrainStage) else stage

    def _step(self, batch, optimize):
        self.teacher[0].bias.data += 0.01
        return super()._step(batch, optimize)


class WakesTheTeacher(Tiny):
    """Batch statistics of the frozen part move, as after a bare ``train()``."""

    def _step(self, batch, optimize):
        self.teacher.train()
        return super()._step(batch, optimize)


class HasAnIdleParameter(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.student.unused = nn.Conv2d(1, 1, 1)
        self.student.forward = lambda image_BCHW: self.student[1](self.student[0](image_BCHW))


class LosesItsMean(Tiny):
    """What was fitted is not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = SimpleNamespace(value=None)
        self.mean.get = lambda: self.mean.value


class LooksAround(Tiny):
    """Normalizes over the batch."""

    def predict(self, image_BCHW):
        score_B, map_BHW = super().predict(image_BCHW)
        return Prediction(score_B, map_BHW / map_BHW.amax())


class Remembers(Tiny):
    def predict(self, image_BCHW):
        self.teacher[1].running_mean += 0.01
        return super().predict(image_BCHW)


class DrawsInPredict(Tiny):
    def predict(self, image_BCHW):
        score_B, map_BHW = super().predict(image_BCHW)
        return Prediction(score_B, map_BHW + 1e-7 * torch.rand(()))


class HalfPrecision(Tiny):
    def _gap(self, image_BCHW):
        return (
            super()._gap(image_BCHW).to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        )


class SmallMap(Tiny):
    def predict(self, image_BCHW):
        score_B, map_BHW = super().predict(image_BCHW)
        return Prediction(score_B, map_BHW[:, ::2, ::2])


class Diverges(Tiny):
    def _step(self, batch, optimize):
        super()._step(batch, optimize)
        return {"gap": torch.tensor(torch.nan)}


class SeesTest(Tiny):
    def stages(self):
        for stage in super().stages():
            yield replace(stage, split="test")


class Mutates(Tiny):
    def __init__(self, widths: list[int]) -> None:
        super().__init__(tuple(widths))
        widths.append(1)


class CountsOutsideItsState(Tiny):
    """What it learns depends on a number that no checkpoint holds."""

    taken = 0

    def _step(self, batch, optimize):
        self.taken += 1
        return super()._step(replace(batch, image_BCHW=batch.image_BCHW / self.taken), optimize)


class MakesATensorOfItsOwn(Tiny):
    """On the CPU, wherever the images are."""

    def predict(self, image_BCHW):
        score_B, map_BHW = super().predict(image_BCHW)
        return Prediction(score_B, map_BHW * torch.ones(image_BCHW.shape[2:]))


class KeepsALooseTensor(Tiny):
    """No buffer: it stays where it is when the method moves."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.ones(4, 1, 1)

    def _gap(self, image_BCHW):
        return (self.gain * (self.teacher(image_BCHW) - self.student(image_BCHW))).square().mean(dim=1)


class ScoresOnTheHost(Tiny):
    def predict(self, image_BCHW):
        score_B, map_BHW = super().predict(image_BCHW)
        return Prediction(score_B.cpu(), map_BHW)


class DiesWithoutImages(Tiny):
    """A list of rows, as one writes it for one process: nothing to join where a process has no image."""

    def stages(self):
        self.list = []
        yield from super().stages()

    def _collect(self, batch):
        self.list.append(self._gap(batch.image_BCHW).mean(dim=(1, 2)))

    def _finish(self):
        self.mean.value = dist.gather_rows(torch.cat(self.list)).mean()


class KeepsItsOwnShare(DiesWithoutImages):
    """Each process fits what it has seen itself."""

    def _finish(self):
        self.mean.value = torch.cat([torch.ones(1), *self.list]).mean()


class SumsOverImages(Tiny):
    """A loss that grows with the batch, as if there were one process."""

    def _step(self, batch, optimize):
        return super()._step(batch, lambda loss: optimize(loss * len(batch.image_BCHW)))


class DrawsForItself(Tiny):
    """From torch's stream, which each process has its own of."""

    def _step(self, batch, optimize):
        image_BCHW = batch.image_BCHW + 0.01 * torch.rand_like(batch.image_BCHW)
        return super()._step(replace(batch, image_BCHW=image_BCHW), optimize)


class WeighsByItsOwnCount(Tiny):
    """A mean over the defective pixels of a process's own images."""

    def _step(self, batch, optimize):
        mask_BHW = batch.mask_BHW
        loss = (self._gap(batch.image_BCHW) * mask_BHW).sum() / mask_BHW.sum().clamp(min=1)
        optimize(loss)
        return {"gap": loss}


class WaitsForTheOther(Tiny):
    """One process asks the others for something in every batch of a pass, and one has no batch."""

    def _collect(self, batch):
        dist.gather_objects(len(batch.image_BCHW))
        super()._collect(batch)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (DrawsItsOwn, {"check_same_seed", "check_resume"}),
        (TrainsTheTeacher, {"check_what_trains"}),
        (WakesTheTeacher, {"check_what_trains"}),
        (HasAnIdleParameter, {"check_what_trains"}),
        (LosesItsMean, {"check_checkpoint"}),
        (LooksAround, {"check_batch_independent"}),
        (Remembers, {"check_predict_changes_nothing"}),
        (DrawsInPredict, {"check_predict_changes_nothing"}),
        (HalfPrecision, {"check_bfloat16"}),
        (SmallMap, {"check_prediction"}),
        (Diverges, {"check_training_finite"}),
        (SeesTest, {"check_stages"}),
        (CountsOutsideItsState, {"check_resume"}),
        (MakesATensorOfItsOwn, {"check_device"}),
        (KeepsALooseTensor, {"check_device"}),
        (ScoresOnTheHost, {"check_device"}),
        (DiesWithoutImages, {"check_processes"}),
        (KeepsItsOwnShare, {"check_processes"}),
        (SumsOverImages, {"check_processes"}),
        (DrawsForItself, {"check_processes"}),
        (WeighsByItsOwnCount, {"check_processes"}),
    ],
)
def test_checks_can_fail(broken, expected):
    failed = failing(broken, only=expected)
    assert expected <= failed, f"not found: {expected - failed}; found {failed}"


def test_processes_say_what_is_wrong():
    with pytest.raises(AssertionError, match=r"(?s)process \d of 3 failed.*expected a non-empty list"):
        placement.check_processes(Subject(DiesWithoutImages, size=16))
    with pytest.raises(AssertionError, match=r"processes end with different \['mean.*gather what each has seen"):
        placement.check_processes(Subject(KeepsItsOwnShare, size=16))
    with pytest.raises(AssertionError, match=r"gradients of 3 processes differ from those of one by .* Batch.share"):
        placement.check_processes(Subject(SumsOverImages, size=16))


def test_processes_that_wait_for_each_other_come_to_an_end(monkeypatch):
    monkeypatch.setattr(placement, "SECONDS", 20.0)
    with pytest.raises(AssertionError, match=r"a call that others never make|failed"):
        placement.check_processes(Subject(WaitsForTheOther, size=16))
    with pytest.raises(AssertionError, match=r"process \[1\] of 2 not done after 3 s"):
        in_processes(2, 3, _wait_in_one)


def _wait_in_one():
    while dist.rank():
        time.sleep(0.1)


def test_mutated_arguments_are_found():
    assert "check_arguments_not_mutated" in failing(Mutates, {"check_arguments_not_mutated"}, widths=[4])


def test_names_of_datasets_are_found(tmp_path, monkeypatch):
    code = "from ader.methods._base import Method\n\nclass Peeks(Method):\n    {}\n"
    monkeypatch.syspath_prepend(tmp_path)
    name = sorted(checks.published_names())[0]
    cases = (
        (f"only = 'the {name.title()}'", True),
        (f"only = f'{name}/{{1}}'", True),
        (f"'{name}'; only = '{name}s'", False),
    )
    for number, (body, found) in enumerate(cases):
        (tmp_path / f"peeks{number}.py").write_text(code.format(body))
        peeks = Subject(importlib.import_module(f"peeks{number}").Peeks)
        with pytest.raises(AssertionError, match=name) if found else nullcontext():
            checks.check_no_names(peeks)


def test_yaml_must_agree_with_the_constructor(tmp_path):
    file = tmp_path / "method" / "tiny.yaml"
    file.parent.mkdir()
    other = "name: other\nlr: 0.02\n"  # another option of a method says what differs
    for text in ("name: tiny\nwidths: [4]\nlr: 0.01\n", other):
        file.write_text(text)
        checks.check_yaml(Subject(Tiny, config=file))
    for text, match in (
        (f"{other}width: [4]\n", "width is not known"),
        ("name: tiny\nwidths: [4]\n", "disagree on {'lr'}"),
        ("name: tiny\nwidths: [4]\nlr: 0.02\n", "differ"),
    ):
        file.write_text(text)
        with pytest.raises((AssertionError, UserError), match=match):
            checks.check_yaml(Subject(Tiny, config=file))


def test_network_is_refused_while_building():
    with pytest.raises(AssertionError, match="network"), checks.no_network():
        torch.hub.load_state_dict_from_url("https://localhost:1/none.pth", model_dir="/nonexistent")


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("rdd", {}, "did you mean 'rd'"),
        ("rd", {"widht": 1}, "method.widht is not known"),
        ("rd", {"lr": -1.0}, r"method.lr=-1.0 does not fit"),
        ("rd", {"batch_size": 0}, r"method.batch_size=0 does not fit"),
        ("rd", {"backbone": {"name": "vit_tiny_patch16_224", "pretrained": False}}, "a convolutional network"),
        ("patchcore", {"coreset": 0.0}, "method.coreset=0.0 does not fit"),
        ("patchcore", {"coreset": 1.5}, "method.coreset=1.5 does not fit"),
        ("patchcore", {"embed_dim": 1023}, "multiple of the 2 layers"),
        ("patchcore", {"layers": []}, "does not fit"),
        ("patchcore", {"layers": [7]}, "no feature maps"),
        ("patchcore", {"image_score": "mean"}, "method.image_score='mean' does not fit"),
        ("patchcore", {"backbone": {"name": "resnet18", "weight": "x"}}, "method.backbone"),
    ],
)
def test_bad_arguments_are_explained(name, arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        build(name, **{"backbone": {"name": "resnet18", "pretrained": False}, **arguments})
    assert "\n" not in str(caught.value)


def test_rd_refuses_sizes_it_cannot_restore():
    method = subject("rd").make()
    with pytest.raises(UserError, match="image_size=80 does not suit rd: give a multiple of 32"):
        predict(method, images(1, 80))


def test_unfitted_prediction_is_refused():
    with pytest.raises(RuntimeError, match="before the method was fitted"):
        predict(subject("patchcore").make(), images(1, 64))


def test_find_class_needs_exactly_one(monkeypatch):
    module = SimpleNamespace(__name__="two")
    monkeypatch.setattr("ader.config.plugins.load", lambda kind, name: module)
    with pytest.raises(ImportError, match="exactly one Method class"):
        find_class("two")
