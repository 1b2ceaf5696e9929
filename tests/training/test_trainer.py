"""What the trainer promises beyond resuming (test_resume.py) and whole runs (test_run.py)."""

import os
import signal
import time

import pytest
import torch
from torch import nn

from ader.methods._base import Method, Prediction, TrainStage
from ader.system.console import Console
from ader.system.errors import UserError
from ader.system.interrupt import Interrupt, Stopped
from ader.training.cost import RandomImages
from ader.training.order import BatchOrder
from ader.training.trainer import Trainer

CPU = torch.device("cpu")


class TwoUpdates(Method):
    """Minimizes the same loss twice per batch and keeps both values."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.seen = []

    def stages(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.5)
        yield TrainStage(
            name="train", batch_size=2, step=self.step, optimizers={"net": optimizer}, modules=[self.net], steps=1
        )

    def step(self, batch, optimize):
        losses = []
        for _ in range(2):
            loss = self.net(batch.image_BCHW.mean(dim=(2, 3))).float().square().mean()
            optimize(loss)
            losses.append(loss.detach())
        self.seen = [float(loss) for loss in losses]
        return {"loss": losses[-1]}

    def predict(self, image_BCHW):
        score_B = self.net(image_BCHW.mean(dim=(2, 3)))[:, 0]
        return Prediction(score_B, score_B[:, None, None].expand(-1, *image_BCHW.shape[2:]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_second_update_of_a_step_sees_the_first(precision):
    """Autocast keeps weights it has converted; a second forward pass in one step must not use the old ones."""
    torch.manual_seed(0)
    method, device = TwoUpdates(), torch.device("cpu")
    Trainer(device=device, precision=precision).fit(method, RandomImages(32, 1, device, method.tags))
    first, second = method.seen
    assert second < 0.9 * first


class Line(Method):
    """Learns one number by plain gradient descent: the loss is (w - mean of the batch)^2 / 2, its gradient w - mean."""

    def __init__(self, steps=4, names=("w",), clip=None):
        super().__init__()
        self.steps, self.clip = steps, clip
        self.lines = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in names})
        for line in self.lines.values():
            nn.init.constant_(line.weight, 2.0)
        self.conv = nn.Conv2d(3, 4, 3)  # frozen, for the memory layout
        self.seen = []

    def stages(self):
        yield TrainStage(
            name="learn",
            batch_size=2,
            step=self.step,
            optimizers={n: torch.optim.SGD(line.parameters(), lr=0.5) for n, line in self.lines.items()},
            modules=[self.lines],
            steps=self.steps,
            clip=self.clip,
        )

    def step(self, batch, optimize):
        mean = batch.image_BCHW.mean()
        self.seen.append((float(mean), batch.image_BCHW.is_contiguous(memory_format=torch.channels_last)))
        losses = {}
        for name, line in self.lines.items():  # the loss of one reaches the others, as a generator's would
            others = sum(other.weight.sum() for key, other in self.lines.items() if key != name)
            losses[name] = (line(torch.ones(1)) - mean).square().sum() / 2 + 3 * others
            optimize(losses[name], name)
        return losses

    def predict(self, image_BCHW):
        score_B = self.lines["w"].weight * image_BCHW.mean(dim=(1, 2, 3))
        return Prediction(score_B[0], None)


def learned(method=None, steps=4, checkpoint=None, interrupt=None, **options):
    method = method or Line(steps)
    trainer = Trainer(
        device=CPU, checkpoint=checkpoint, checkpoint_seconds=0.0, interrupt=interrupt or Interrupt(), **options
    )
    trainer.fit(method, RandomImages(8, steps, CPU, method.tags))
    return method


def weight(method, name="w"):
    return method.lines[name].weight.item()


def test_all_options_are_off_by_default():
    """By hand: w <- w - (w - mean) / 2 at every batch."""
    method, expected = learned(), 2.0
    for mean, _ in method.seen:
        expected -= 0.5 * (expected - mean)
    assert weight(method) == pytest.approx(expected, abs=1e-6)
    assert not any(last for _, last in method.seen)


def test_the_moving_average_is_what_training_ends_with():
    method, expected, average = learned(ema=0.7), 2.0, 2.0
    for mean, _ in method.seen:
        expected -= 0.5 * (expected - mean)
        average = 0.7 * average + 0.3 * expected
    assert weight(method) == pytest.approx(average, abs=1e-6)
    assert weight(learned(ema=0.0)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("steps", "updates"), [(6, [3, 3]), (7, [3, 3, 1]), (2, [2])])
def test_gradients_of_several_batches_make_one_update(steps, updates):
    """The mean over the batches of one update; what is left at the end makes a smaller one."""
    method, expected = learned(steps=steps, accumulate=3), 2.0
    means = iter([mean for mean, _ in method.seen])
    for batches in updates:
        expected -= 0.5 * (expected - sum(next(means) for _ in range(batches)) / batches)
    assert weight(method) == pytest.approx(expected, abs=1e-6)


def test_accumulated_gradients_of_one_network_are_not_anothers():
    """A loss of one optimizer has gradients for the other's weights: they are dropped, as without accumulation."""
    alone, both = learned(Line(6), 6, accumulate=2), learned(Line(6, ("w", "v")), 6, accumulate=2)
    assert weight(both) == weight(both, "v") == pytest.approx(weight(alone), abs=1e-6)


def test_the_norm_of_an_accumulated_gradient_is_clipped_once():
    """The first update's mean gradient is about 1.5 and becomes 0.1."""
    method = learned(Line(2, clip=0.1), 2, accumulate=2)
    assert weight(method) == pytest.approx(2 - 0.5 * 0.1, abs=1e-5)


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"accumulate": 3}, {"ema": 0.9, "accumulate": 2}])
@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_averages_and_sums_survive_an_interruption(options, stop, tmp_path):
    whole = learned(steps=7, **options)
    interrupt = Interrupt()
    first = Line(7)
    step = first.step

    def interrupted(batch, optimize):
        if len(first.seen) == stop - 1:
            interrupt.name = "SIGTERM"
        return step(batch, optimize)

    first.step = interrupted
    with pytest.raises(Stopped):
        learned(first, 7, tmp_path / "c.pt", interrupt, **options)
    again = learned(Line(7), 7, tmp_path / "c.pt", **options)
    assert len(again.seen) == 7 - stop
    assert weight(again) == weight(whole)


class Waiting:
    """Data whose batch ``late`` never comes, and what happens then."""

    def __init__(self, late, happens):
        self.data, self.late, self.happens = RandomImages(8, 7, CPU, Line.tags), late, happens

    def order(self, stage):
        return self.data.order(stage)

    def train(self, stage, start, stop):
        for number, batch in enumerate(self.data.train(stage, start, stop), start):
            if number == self.late:
                self.happens()
                time.sleep(30)
            yield batch


def _dies():
    raise Stopped("a worker was killed")


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize(
    ("happens", "text"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "stopped by SIGTERM at step {} of 7 .* checkpoint written: run"),
        (lambda: os.kill(os.getpid(), signal.SIGHUP), "stopped by SIGHUP at step {} of 7 .* checkpoint written: run"),
        (_dies, "a worker was killed"),
    ],
)
def test_a_signal_and_a_death_while_a_batch_is_waited_for(late, happens, text, tmp_path):
    """Answered at once, and what was trained is kept."""
    trainer = Trainer(device=CPU, checkpoint=tmp_path / "c.pt", interrupt=Interrupt(), ema=0.9)
    began = time.monotonic()
    with trainer.interrupt.listening(), pytest.raises(Stopped, match=text.format(late)):
        trainer.fit(Line(7), Waiting(late, happens))
    assert time.monotonic() - began < 20
    again = learned(Line(7), 7, tmp_path / "c.pt", ema=0.9)
    assert len(again.seen) == 7 - late
    assert weight(again) == weight(learned(steps=7, ema=0.9))


def test_a_run_that_was_started_to_ignore_a_signal_goes_on_ignoring_it():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interrupt().listening() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.name is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_averaged_weights_are_what_a_finished_training_restores(tmp_path):
    method = learned(ema=0.7, checkpoint=tmp_path / "c.pt")
    other = Line()
    Trainer(device=CPU, checkpoint=tmp_path / "c.pt").restore(other)
    assert weight(other) == weight(method) != weight(learned())


def test_channels_last():
    method = learned(channels_last=True)
    assert all(last for _, last in method.seen)
    assert method.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert weight(method) == pytest.approx(weight(learned()), abs=1e-6)


def test_compiled_modules_are_called_while_they_train(monkeypatch):
    """With dynamo's own backend: what is compiled is the same, and no C++ compiler is needed."""
    compile_, called = torch.compile, []

    def record(function, **options):
        called.append(getattr(function, "__self__", None))
        return compile_(function, backend="eager")

    monkeypatch.setattr(torch, "compile", record)
    method = learned(Line(4, ("w", "v")), compile=True)
    assert called[1:] == [method.lines["w"], method.lines["v"]]  # after the trial; a ModuleDict is not called itself
    assert all(line._compiled_call_impl is None for line in method.lines.values())
    assert weight(method) == pytest.approx(weight(learned(Line(4, ("w", "v")))), abs=1e-6)
    assert method.state_dict().keys() == Line(4, ("w", "v")).state_dict().keys()


def test_compiling_where_it_cannot_be_had(monkeypatch):
    def fail(function, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(UserError, match=r"trainer.compile=true: .*cannot compile for cpu .*install a C\+\+ compiler"):
        learned(compile=True)
    learned()


class Narrow(Method):
    """Two batch norms, the second of a map of ``pixels`` by ``pixels``."""

    def __init__(self, pixels=1, batch_size=4, drop_last=True):
        super().__init__()
        self.batch_size, self.drop_last = batch_size, drop_last
        self.net = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(pixels), nn.BatchNorm2d(3))

    def stages(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        more = {"epochs": 2, "batch_size": self.batch_size, "drop_last": self.drop_last, "modules": [self.net]}
        yield TrainStage(name="train", step=self.step, optimizers={"net": optimizer}, **more)

    def step(self, batch, optimize):
        loss = self.net(batch.image_BCHW).square().mean()
        optimize(loss)
        return {"loss": loss}

    def predict(self, image_BCHW):
        return Prediction(self.net(image_BCHW).amax(dim=(1, 2, 3)))


class Few(RandomImages):
    """So many images of 32 pixels."""

    def __init__(self, count):
        super().__init__(32, 1, CPU, Narrow.tags)
        self.count = count

    def order(self, stage):
        return BatchOrder(self.count, stage.batch_size, 0, "sequential", stage.drop_last)


@pytest.mark.parametrize(
    ("images", "arguments", "fits"),
    [
        (1, {}, False),
        (1, {"pixels": 2}, True),
        (3, {"batch_size": 1}, False),
        (5, {"drop_last": False}, False),  # the last batch of an epoch is of one image: said before the first step
        (5, {"drop_last": True}, True),
        (2, {}, True),
        (9, {"drop_last": False, "pixels": 2}, True),
    ],
)
def test_batch_norms_of_one_value_are_refused_before_training(images, arguments, fits):
    """A batch of one image whose map has one pixel; torch itself tells whether it would have failed."""
    method = Narrow(**arguments)
    before = [value.clone() for value in method.parameters()]
    if fits:
        Trainer(device=CPU).fit(method, Few(images))
        return
    with pytest.raises(
        UserError, match=r"stage 'train' has a batch of 1 image, .* give more training images"
    ) as caught:
        Trainer(device=CPU).fit(method, Few(images))
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, method.parameters(), before))


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_batch_larger_than_the_data_says_so_and_trains(drop_last, capsys):
    """Two images and batches of four: a step in each epoch, of both of them."""
    for images, said in ((2, True), (4, False)):
        state = Trainer(device=CPU, console=Console()).fit(Narrow(drop_last=drop_last), Few(images))
        assert (state.steps_before, state.images) == (2, {"train": 2 * images})
        told = "train: a batch of 4 is more than the training images (2): each step has all of them"
        printed = capsys.readouterr()
        assert (told in printed.out + printed.err) == said
