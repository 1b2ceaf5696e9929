"""Order, shards, labels, random streams and hold-out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ader.data import load_index
from ader.data.image_cache import cache_images
from ader.data.index import Index, Sample
from ader.data.labelmaps import LabelMaps
from ader.data.sizes import Sizes
from ader.methods._base import Batch, FitPass, Tags, TrainStage
from ader.system import dist
from ader.system.errors import UserError
from ader.testing.toy import write_mvtec
from ader.training import loader as module
from ader.training.loader import Loader, hold_out
from ader.training.order import BatchOrder, BatchSampler, shard


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return load_index("folder", write_mvtec(tmp_path_factory.mktemp("toy"), train=5, good=2, bad=2, size=16))


def _descent(**more):
    more = {"name": "d", "batch_size": 4, "epochs": 1, **more}
    return TrainStage(step=lambda batch, optimize: {}, optimizers={}, modules=[], **more)


def _pass(**more):
    return FitPass(**{"name": "p", "batch_size": 4, "update": print, "finish": print, **more})


def _loader(index, workers=0, seed=1, tags=None):
    return Loader(index, 16, torch.device("cpu"), seed, workers, tags or Tags())


def _noise(image, rng):
    return {"noise": rng.normal(size=3)}


@given(st.integers(0, 500), st.integers(1, 40))
def test_test_shards_are_exact(count, world):
    parts = [list(shard(count, rank, world)) for rank in range(world)]
    assert list(chain(*parts)) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


plain = st.sampled_from(["shuffled", "sequential"])
orders = st.builds(BatchOrder, st.integers(1, 30), st.integers(1, 12), st.integers(0, 9), plain, st.booleans())


@given(orders, st.integers(0, 3))
def test_every_image_once_per_epoch(order, epoch):
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    seen = [order.at(step, {}) for step in steps]
    assert {number for number, _ in seen} == {epoch}
    assert [len(positions) for _, positions in seen] == [order.count(step) for step in steps]
    counted = Counter(position for _, positions in seen for position in positions)
    assert set(counted.values()) == {1}
    if not order.drop_last or order.images < order.batch_size:
        assert len(counted) == order.images
    else:
        assert len(counted) == order.images // order.batch_size * order.batch_size


@given(orders, st.integers(0, 50), st.integers(0, 50))
def test_the_order_does_not_depend_on_what_came_before(order, first, second):
    kept: dict = {}
    order.at(first, kept)
    assert order.at(second, kept) == order.at(second, {})


@given(orders, st.integers(1, 5), st.booleans())
def test_processes_share_the_steps(order, world, together):
    steps = range(order.steps_per_epoch)
    whole = [[(0, position) for position in order.at(step, {})[1]] for step in steps]
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "world", lambda: world)
        for rank in range(world):
            patch.setattr(dist, "rank", lambda rank=rank: rank)
            mine = BatchSampler(order, 0, len(steps), together)
            parts.append(list(mine))
            assert len(mine) == len(parts[-1])
    if together:
        assert [list(chain(*share)) for share in zip(*parts, strict=True)] == whole
    else:  # one process after another: the order of a single one
        assert [key for part in parts for batch in part for key in batch] == list(chain(*whole))
        assert all(batch for part in parts for batch in part)


def test_shuffling_depends_on_seed_epoch_and_stage(index):
    def first_epoch(seed, name, step=0):
        return _loader(index, seed=seed).order(_descent(name=name)).at(step, {})[1]

    assert first_epoch(1, "d") == first_epoch(1, "d")
    assert len({tuple(first_epoch(*case)) for case in [(1, "d"), (2, "d"), (1, "e"), (1, "d", 2)]}) == 4


def _batches(loader, stage, start=0, stop=6):
    return list(loader.train(stage, start, stop))


def _same(one, other):
    assert torch.equal(one.image_BCHW, other.image_BCHW)
    assert torch.equal(one.seed_B, other.seed_B)
    assert one.extra.keys() == other.extra.keys()
    assert all(torch.equal(one.extra[name], other.extra[name]) for name in one.extra)


def test_workers_change_nothing(index):
    stage = _descent(augment=_noise)
    for pair in zip(_batches(_loader(index), stage), _batches(_loader(index, 2), stage), strict=True):
        _same(*pair)


def test_starting_in_the_middle_gives_the_same_batches(index):
    stage = _descent(augment=_noise)
    whole = _batches(_loader(index), stage)
    for pair in zip(whole[3:], _batches(_loader(index), stage, start=3), strict=True):
        _same(*pair)


def test_loading_draws_nothing_from_the_runs_own_stream(index):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _batches(_loader(index, 2), _descent(augment=_noise))
    assert torch.equal(before, torch.get_rng_state())


def test_the_augments_stream_depends_on_seed_epoch_and_image_only(index):
    def draws(loader, stage, start, stop):
        pairs = (
            (image.sum().item(), tuple(noise.tolist()))
            for batch in loader.train(stage, start, stop)
            for image, noise in zip(batch.image_BCHW, batch.extra["noise"], strict=True)
        )
        return dict(pairs)

    first = draws(_loader(index), _descent(augment=_noise, drop_last=False), 0, 3)
    assert draws(_loader(index), _descent(augment=_noise, drop_last=False, batch_size=2, name="x"), 0, 5) == first
    assert len(first) == 10
    second = draws(_loader(index), _descent(augment=_noise, drop_last=False), 3, 6)
    assert first.keys() == second.keys()
    other = draws(_loader(index, seed=2), _descent(augment=_noise, drop_last=False), 0, 3)
    assert not {*first.values()} & ({*second.values()} | {*other.values()})


def test_fewer_images_than_a_batch(index):
    (batch,) = _batches(_loader(index), _descent(batch_size=64), 0, 1)
    assert len(batch.image_BCHW) == 10
    assert 0 <= batch.image_BCHW.min() < batch.image_BCHW.max() <= 1


@pytest.mark.parametrize(("supervision", "label", "mask"), [("normal", 0, 0), ("image", 1, 0), ("pixel", 1, 1)])
def test_labels_and_masks_only_as_the_tags_allow(index, supervision, label, mask):
    moved = tuple(Sample(s.image, s.category, "train", s.label, s.masks, s.defect) if s.label else s for s in index)
    given = Index(index.name, index.root, moved, index.categories)
    loader = _loader(given, tags=Tags(supervision=supervision))
    batches = _batches(loader, _descent(drop_last=False), 0, 4)
    assert all((batch.label_B is not None) == bool(label) for batch in batches)
    assert all((batch.mask_BHW is not None) == bool(mask) for batch in batches)
    if label:
        assert sum(int(batch.label_B.sum()) for batch in batches) == 4
    if mask:
        assert all(torch.equal(b.mask_BHW.flatten(1).any(1).long(), b.label_B) for b in batches)


def test_no_stage_sees_the_test_split(index):
    for stage in (_descent(split="test"), _pass(split="test")):
        with pytest.raises(ValueError, match="never sees test data"):
            _batches(_loader(index), stage)


def test_a_split_without_images_is_named(index):
    with pytest.raises(UserError, match="needs images of split 'calibration'"):
        _loader(index).order(_pass(split="calibration"))


def test_test_images_come_once_with_their_masks(index):
    seen = []
    for samples, image_BCHW, mask_BHW, _ in _loader(index, 2).test(3, Sizes()):
        assert image_BCHW.shape == (len(samples), 3, 16, 16)
        assert [bool(mask.any()) for mask in mask_BHW] == [bool(sample.label) for sample in samples]
        seen += samples
    assert seen == list(index.split("test"))


@pytest.mark.parametrize(("size", "world"), [(3, 2), (3, 3), (2, 3), (5, 3)])
def test_processes_take_whole_batches_of_a_single_one(index, monkeypatch, size, world):
    """Other batches would give other sums, and so other scores in the last bits."""
    whole = [batch.samples for batch in _loader(index).test(size, Sizes())]
    monkeypatch.setattr(dist, "world", lambda: world)
    parts = []
    for rank in range(world):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        parts.append([batch.samples for batch in _loader(index).test(size, Sizes())])
    assert [samples for part in parts for samples in part] == whole
    counts = [len(part) for part in parts]
    assert max(counts) - min(counts) <= 1
    assert counts[0] == max(counts)  # its progress is what the user sees


@pytest.mark.parametrize("workers", [0, 2])
def test_label_maps_go_with_their_images(index, tmp_path, workers):
    """To the stages that ask for them, and to the test; each image has its own number."""
    numbers = {sample.image: number for number, sample in enumerate(index)}
    for image, number in numbers.items():
        file = (tmp_path / image).with_suffix(".npy")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.full((5, 5), number))
    loader = Loader(index, 16, torch.device("cpu"), 1, workers, Tags(), inputs={"parts": LabelMaps(tmp_path)})
    images = {image: _loader(index)._image(_whole(index, image)) for image in numbers}
    seen = []
    for batch in loader.train(_descent(inputs=("parts",), drop_last=False), 0, 3):
        assert batch.inputs["parts"].shape == (len(batch.image_BCHW), 16, 16)
        assert batch.inputs["parts"].dtype == torch.int64
        for image, part in zip(batch.image_BCHW, batch.inputs["parts"], strict=True):
            (name,) = [name for name, number in numbers.items() if number == int(part[0, 0])]
            assert torch.equal(images[name], image)
            seen.append(name)
    assert sorted(seen) == sorted(sample.image for sample in index.split("train"))
    for asked, had in (((), set()), (("parts",), {"parts"}), (None, {"parts"})):
        batch = next(loader.train(_descent(augment=_noise, inputs=asked), 0, 1))
        assert (batch.extra.keys(), batch.inputs.keys()) == ({"noise"}, had)
    for batch in loader.test(3, Sizes()):
        assert batch.inputs["parts"][:, 0, 0].tolist() == [numbers[s.image] for s in batch.samples]
    assert all(batch.inputs == {} for batch in _loader(index).test(3, Sizes()))


def _whole(index, image):
    return torch.from_numpy(module.load_image(index.path(image), 16))


def test_hold_out(index):
    shares = {"calibration": 0.2, "tuning": 0.4}
    held = hold_out(index, shares, seed=3)
    assert held == hold_out(index, shares, seed=3)
    assert held != hold_out(index, shares, seed=4)
    assert [s.image for s in held] == [s.image for s in index]
    counts = Counter((s.category, s.split) for s in held)
    for category in index.categories:
        splits = [counts[category, name] for name in ("train", "calibration", "tuning", "test")]
        assert splits == [2, 1, 2, 4]
    assert hold_out(index, {}, 3) == index
    with pytest.raises(UserError, match="too few to set apart"):
        hold_out(index, {"a": 0.6, "b": 0.6}, 3)


def test_images_are_plain_numbers(index):
    batch = next(iter(_loader(index).train(_pass(), 0, 1)))
    assert batch.image_BCHW.dtype == torch.float32
    assert batch.seed_B.dtype == torch.int64
    assert np.isfinite(batch.image_BCHW.numpy()).all()


@pytest.fixture(scope="module")
def cached(index, tmp_path_factory):
    files = {sample.image: index.path(sample.image) for sample in index}
    return cache_images(files, 16, tmp_path_factory.mktemp("cache"), workers=2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, _noise])
@pytest.mark.parametrize("supervision", ["normal", "pixel"])
def test_the_cache_changes_nothing_but_the_time(index, cached, workers, augment, supervision):
    stage, batches = _descent(augment=augment, epochs=2), []
    for kept in (None, cached):
        loader = Loader(index, 16, torch.device("cpu"), 1, workers, Tags(supervision=supervision), kept)
        batches.append(list(loader.train(stage, 0, 2 * loader.order(stage).steps_per_epoch)))
        tested = list(loader.test(3, Sizes()))
        batches[-1] += [Batch(image, torch.zeros(0), mask_BHW=masks) for _, image, masks, _ in tested]
    assert len(batches[0]) == len(batches[1]) > 4
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.image_BCHW, other.image_BCHW)
        assert torch.equal(one.seed_B, other.seed_B)
        assert one.extra.keys() == other.extra.keys()
        assert all(torch.equal(value, other.extra[name]) for name, value in one.extra.items())
        for pair in ((one.mask_BHW, other.mask_BHW), (one.label_B, other.label_B)):
            assert (pair[0] is None and pair[1] is None) or torch.equal(*pair)


def test_cached_images_are_copied_in_this_process(index, cached, monkeypatch):
    """Nothing is decoded, and no process is started for a copy of memory."""
    monkeypatch.setattr(module, "load_image", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(module, "in_workers", lambda *_: pytest.fail("a worker was started"))
    loader = Loader(index, 16, torch.device("cpu"), 1, 2, Tags(), cached)
    assert len(list(loader.train(_pass(), 0, 3))) == 3


def test_the_device_receives_bytes(index, cached, monkeypatch):
    moved = []
    original = Loader._image
    monkeypatch.setattr(Loader, "_image", lambda self, image: moved.append(image.dtype) or original(self, image))
    for kept in (None, cached):
        loader = Loader(index, 16, torch.device("cpu"), 1, 0, Tags(), kept)
        assert next(iter(loader.train(_descent(), 0, 1))).image_BCHW.dtype == torch.float32
    assert moved == [torch.uint8] * 2


def test_labeled_defects_are_hidden_from_methods_that_learn_from_normal_images(index):
    moved = tuple(replace(s, split="train") if s.label else s for s in index)
    labeled = replace(index, samples=moved)
    count = sum(sample.label for sample in moved)
    for supervision, expected in (("normal", 10), ("image", 10 + count), ("pixel", 10 + count)):
        assert _loader(labeled, tags=Tags(supervision=supervision)).order(_descent()).images == expected
