"""Balanced batches: as many normal as defective images, whatever there is of either."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ader.data.index import Index, Sample
from ader.methods._base import FitPass, Tags, TrainStage
from ader.system import dist
from ader.system.errors import UserError
from ader.training.loader import Loader
from ader.training.order import BatchOrder, BatchSampler


@st.composite
def balanced(draw) -> BatchOrder:
    kinds = [0] * draw(st.integers(1, 25)) + [1] * draw(st.integers(1, 25))
    labels = tuple(draw(st.permutations(kinds)))
    half, seed, drop_last = draw(st.integers(1, 6)), draw(st.integers(0, 9)), draw(st.booleans())
    return BatchOrder(len(labels), 2 * half, seed, "balanced", drop_last, labels)


def steps_of(order: BatchOrder, epochs: int) -> list[list[int]]:
    kept: dict = {}
    return [order.at(step, kept)[1] for step in range(epochs * order.steps_per_epoch)]


@given(balanced())
def test_every_batch_has_as_many_of_either_kind(order):
    for step, positions in enumerate(steps_of(order, 2)):
        labels = [order.labels[position] for position in positions]
        assert labels.count(0) == labels.count(1) > 0
        assert len(positions) == order.count(step) <= order.batch_size
        assert len(positions) == order.batch_size or (step + 1) % order.steps_per_epoch == 0


@given(balanced(), st.integers(0, 2))
def test_an_epoch_sees_the_commoner_kind_once(order, epoch):
    per_kind = Counter(order.labels)
    most = max(per_kind.values())
    steps = steps_of(order, epoch + 1)[epoch * order.steps_per_epoch :]
    for kind, count in per_kind.items():
        seen = Counter(position for batch in steps for position in batch if order.labels[position] == kind)
        if count == most and len(set(per_kind.values())) == 2:
            assert set(seen.values()) == {1}
        if count == most and (not order.drop_last or 2 * most <= order.batch_size):
            assert len(seen) == count
    assert len({order.at(epoch * order.steps_per_epoch + place, {})[0] for place in range(len(steps))}) == 1


@settings(deadline=None)  # thousands of pairs, on a busy machine
@given(balanced())
def test_the_rarer_kind_is_repeated_evenly(order):
    """After any number of steps no image of it was seen more than once oftener than another."""
    per_kind = Counter(order.labels)
    for kind in (0, 1):
        if per_kind[kind] == min(per_kind.values()):
            seen = Counter({place: 0 for place, label in enumerate(order.labels) if label == kind})
            for positions in steps_of(order, 4):
                for position in positions:
                    if order.labels[position] == kind:
                        seen[position] += 1
                        assert max(seen.values()) - min(seen.values()) <= 1


def test_repetitions_are_fresh():
    order = BatchOrder(44, 8, 3, "balanced", False, (0,) * 40 + (1,) * 4)
    defects = [position for batch in steps_of(order, 2) for position in batch if position >= 40]
    rounds = {tuple(defects[start : start + 4]) for start in range(0, 80, 4)}
    assert all(sorted(each) == [40, 41, 42, 43] for each in rounds)
    assert len(rounds) > 5


@given(balanced(), st.integers(0, 60), st.integers(0, 60))
def test_the_order_does_not_depend_on_what_came_before(order, first, second):
    kept: dict = {}
    order.at(first, kept)
    assert order.at(second, kept) == order.at(second, {})


@given(balanced(), st.integers(1, 4), st.booleans())
def test_processes_share_every_step(order, world, together):
    whole = [[(0, position) for position in batch] for batch in steps_of(order, 1)]
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "world", lambda: world)
        for rank in range(world):
            patch.setattr(dist, "rank", lambda rank=rank: rank)
            sampler = BatchSampler(order, 0, len(whole), together)
            parts.append(list(sampler))
            assert len(sampler) == len(parts[-1])
    if together:
        assert [list(chain(*shares)) for shares in zip(*parts, strict=True)] == whole
        labels = [[order.labels[position] for _, position in share] for part in parts for share in part]
        assert all(abs(each.count(0) - each.count(1)) <= 1 for each in labels)
    else:
        assert [key for part in parts for batch in part for key in batch] == list(chain(*whole))


def test_seeds_and_epochs_differ():
    labels = (0, 1) * 20
    orders = [BatchOrder(40, 8, seed, "balanced", False, labels) for seed in (1, 2)]
    assert len({tuple(order.at(step, {})[1]) for order in orders for step in range(10)}) == 20


def stage(**more) -> TrainStage:
    return TrainStage(
        **{"name": "s", "batch_size": 4, "step": lambda batch, optimize: {}, "optimizers": {}, "modules": []} | more
    )


def test_a_stage_asks_for_balance():
    samples = tuple(Sample(f"{n}.png", "a", "train", int(n > 6)) for n in range(10))
    index = Index("made_up", None, samples, ("a",))
    loader = Loader(index, 8, torch.device("cpu"), 0, 0, Tags(supervision="image"))
    order = loader.order(stage(epochs=1, sampler="balanced"))
    assert [samples[position].label for position in order.at(0, {})[1]] == [0, 1, 0, 1]
    assert loader.order(stage(epochs=1)).sampler == "shuffled"
    fit = FitPass(name="f", batch_size=3, update=print, finish=print)
    assert loader.order(fit).at(1, {}) == (0, [3, 4, 5])
    with pytest.raises(UserError, match=r"stage 's' has as many .* only normal ones for it: choose a setting"):
        Loader(index, 8, torch.device("cpu"), 0, 0, Tags()).order(stage(epochs=1, sampler="balanced"))
    with pytest.raises(UserError, match="a batch size of 3: give an even batch_size"):
        stage(epochs=1, sampler="balanced", batch_size=3)
