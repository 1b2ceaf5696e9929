"""The histogram state: the same whatever the order and partition of the data, and whichever kernels count."""

import dataclasses
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from ader.metrics import evaluate, histogram
from ader.metrics.checks import UpdateChecker
from ader.metrics.histogram import Content, HistogramState
from ader.metrics.kernels import load
from ader.metrics.keys import float_bits
from ader.metrics.layout import LEAST_BINS, STAY, Layout
from ader.metrics.regions import label_regions
from ader.testing.metric_checks import toy_batch
from ader.testing.processes import in_processes

ROOT = Path(__file__).parents[2]
ROWS = 3
KINDS = {
    "gaussian": lambda x: x,
    "tiny": lambda x: x**9 * 1e-9,
    "huge": lambda x: np.exp(9 * x),
    "near 1": lambda x: 1 - ndtr(-3 * x),
    "levels": lambda x: np.round(x * 4) / 4,
    "around 100": lambda x: x + 100,
    "outlier": lambda x: np.where(x == x.max(), 1e30, x / 9),
    "infinite": lambda x: np.where(np.abs(x) > 2, np.copysign(np.inf, x), x),
}


def images(kind, seed, count=4, side=24):
    """What `HistogramState.add` takes of a batch."""
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(KINDS[kind](rng.normal(size=(count, side, side))).astype(np.float32))
    label = rng.integers(0, 2, count)
    masks = torch.from_numpy((rng.random(maps.shape) < 0.2) & (label == 1)[:, None, None])
    return rng.integers(0, ROWS, count), maps, masks, label


def add(state, batch):
    rows, maps, masks, label = batch
    checked = UpdateChecker(["a", "b", "c"], torch.device("cpu")).check(rows, np.zeros(len(rows)), label, maps, masks)
    pixels = checked.pixels
    regions = label_regions(pixels.mask_BHW.numpy(), pixels.scan.marked_B.numpy())
    position_M, weight_M = torch.from_numpy(regions.position_M), torch.from_numpy(regions.weight_M)
    state.add(torch.from_numpy(rows), pixels.map_BHW, position_M, weight_M, pixels.scan)


def filled(batches, **options):
    state = HistogramState(ROWS, **options)
    for batch in batches:
        add(state, batch)
    return state


def assert_same_content(one, two):
    mine, theirs = one.content(), two.content()
    for each in dataclasses.fields(Content):  # to the last bit, sums of weights included
        np.testing.assert_array_equal(getattr(mine, each.name), getattr(theirs, each.name), err_msg=each.name)


def cut(batch, where):
    return tuple(part[:where] for part in batch), tuple(part[where:] for part in batch)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    bins=st.sampled_from([LEAST_BINS, 1 << 16]),
    data=st.data(),
)
def test_any_order_and_partition_give_the_same_bins(kinds, seed, bins, data):
    """Coarse budgets, so that pages change their bins at different times in different orders."""
    batches = [images(kind, seed + i) for i, kind in enumerate(kinds)]
    whole = filled(batches, bins=bins)
    pieces = [piece for batch in batches for piece in cut(batch, data.draw(st.integers(0, 4))) if len(piece[0])]
    shuffled = data.draw(st.permutations(pieces))
    assert_same_content(filled(shuffled, bins=bins), whole)
    split = data.draw(st.integers(0, len(shuffled)))
    left, right = filled(shuffled[:split], bins=bins), filled(shuffled[split:], bins=bins)
    before = left.content()
    right.merge(left, range(ROWS))
    assert_same_content(right, whole)
    np.testing.assert_array_equal(left.content().bits_K, before.bits_K)
    loaded = HistogramState(ROWS, bins=bins)
    loaded.load_state_dict(right.state_dict())
    assert_same_content(loaded, whole)
    add(loaded, batches[0])
    assert_same_content(loaded, filled([*batches, batches[0]], bins=bins))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(KINDS)), other=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**31))
def test_other_rows_change_nothing(kind, other, seed):
    rows, *rest = images(kind, seed)
    _, *stranger = images(other, seed + 1)
    mine, theirs = (np.zeros_like(rows), *rest), (np.ones_like(rows), *stranger)
    alone, together = filled([mine], bins=LEAST_BINS), filled([theirs, mine], bins=LEAST_BINS)
    for name in ("low_K", "high_K", "normal_K", "defective_K", "weight_K"):
        np.testing.assert_array_equal(getattr(alone.bins([0]), name), getattr(together.bins([0]), name))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_counts_are_those_of_the_scores(kind):
    """Against a search of every score in the bins' edges, normal and defective apart."""
    rows, maps, masks, label = images(kind, 3, count=6)
    state = filled([(np.zeros_like(rows), maps, masks, label)], bins=LEAST_BINS)
    bins = state.bins([0])
    for mask, counts in ((~masks, bins.normal_K), (masks, bins.defective_K)):
        which = np.searchsorted(-bins.low_K, -maps[mask].numpy().astype(np.float64))
        np.testing.assert_array_equal(np.bincount(which, minlength=len(counts)), counts)
    regions = label_regions(masks.numpy().astype(np.uint8), masks.numpy().any((1, 2)))
    assert bins.weight_K.sum() == pytest.approx(regions.count_B.sum())


def check_kernels(name, kind, side, count=4):
    """Compiled kernels do what those of torch do."""
    batches = [images(kind, seed, count, side) for seed in range(2)]
    reference, compiled = load("torch"), load(name)
    for _, maps, masks, _ in batches:
        flat = maps.flatten(1), masks.flatten(1).view(torch.uint8)
        for mine, theirs in zip(compiled.scan(*flat), reference.scan(*flat), strict=True):
            assert torch.equal(mine, theirs)
    assert_same_content(filled(batches, bins=LEAST_BINS, use=compiled), filled(batches, bins=LEAST_BINS, use=reference))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_compiled_kernels_agree_with_torch(kind):
    check_kernels("numba", kind, 24)


def test_triton_kernels_agree_in_the_interpreter():
    """Triton reads the variable when it is imported, which torch does, hence a fresh process."""
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    code = (
        "from tests.metrics.test_histogram import KINDS, check_kernels\n"
        "for kind in sorted(KINDS): check_kernels('triton', kind, 8, count=2)\n"
        "from triton import knobs; print(knobs.runtime.interpret)"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.stdout == "True\n", found.stdout + found.stderr


def evaluated(variables):
    """Whether numba was used, and a table of numbers, in full."""
    os.environ.update(variables)
    batch = toy_batch()
    table = evaluate(batch["map"], batch["mask"], batch["score"], batch["label"])
    return ["numba" in sys.modules, table.to_json(double_precision=15)]


def test_without_compilers():
    """ADER_KERNELS=torch gives the same values."""
    ((plain, slow),), ((fast, quick),) = (
        in_processes(1, 60, evaluated, more) for more in ({"ADER_KERNELS": "torch"}, {})
    )
    assert (plain, fast) == (False, True)
    assert slow == quick


def test_counts_beyond_32_bits(monkeypatch):
    """With a modulus of 2,048 instead of 2^32, so that it is passed at once."""
    batches = [images("levels", seed) for seed in range(8)]
    expected = filled(batches)
    monkeypatch.setattr(histogram, "ROUND", 2**11)
    state = filled(
        [piece for batch in batches for where in range(4) for piece in [tuple(p[where : where + 1] for p in batch)]]
    )
    assert state._carry
    assert_same_content(state, expected)
    merged = HistogramState(ROWS)
    merged.merge(state, range(ROWS))
    assert_same_content(merged, expected)


def test_rows_can_be_added():
    rows, *rest = images("gaussian", 0)
    state = HistogramState(1)
    state.extend(2)
    add(state, (rows, *rest))
    assert_same_content(state, filled([(rows, *rest)]))


def test_several_rows_together_have_the_bins_of_one():
    """Rows of different resolution, joined, are what one row would be that had counted all."""
    rows = np.zeros(4, np.int64)
    one, two = images("near 1", 0), images("huge", 1, side=48)
    apart = filled([(rows + 2, *one[1:]), (rows, *two[1:])], bins=LEAST_BINS).bins([0, 2])
    whole = filled([(rows, *one[1:]), (rows, *two[1:])], bins=LEAST_BINS).bins([0])
    for name in ("low_K", "high_K", "normal_K", "defective_K", "weight_K"):
        np.testing.assert_array_equal(getattr(apart, name), getattr(whole, name), err_msg=name)


def test_layout_keeps_nothing_twice():
    """Places given out are disjoint, and known chunks need no room again."""
    layout = Layout(1, LEAST_BINS)
    rng = np.random.default_rng(0)
    key = float_bits((np.exp(rng.normal(size=5000) * 9) * rng.choice([-1, 1], 5000)).astype(np.float32))
    for part in np.split(key, 10):
        layout.admit(np.zeros(len(part), np.int64), part)
    _, _, place, _ = layout.blocks(np.array([0])).bins()
    assert len(np.unique(place)) == len(place)
    assert place.max() < layout.size
    assert layout.admit(np.zeros(len(key), np.int64), key) is STAY
    assert (layout.place(np.zeros(len(key), np.int64), key) >= 0).all()
