"""Sketches of pixels: exact where images are small, near where they are large; and what is drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ader.metrics import evaluate
from ader.report.statistics.drawn import BY_PIXEL, Category, Pixels
from ader.results.pixels import FILE, NORMAL, Sketches, normal_ends, read_sketches
from ader.runs.sketching import at_ranks, at_ranks_by_numpy, restored, sketch, state_of
from ader.system.errors import UserError

SLUGS = tuple(BY_PIXEL)


def images(count, size, seed=0, digits=None):
    """Maps that find defects about half of the time; the first half of the images has some."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), np.uint8)
    for mask in masks[: count // 2]:
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(size - size // 4, size=2)
            mask[y : y + rng.integers(1, size // 4), x : x + rng.integers(1, size // 4)] = 1
    noise = gaussian_filter(rng.normal(size=masks.shape), (0, 1, 1))
    maps = noise / noise.std() + 1.5 * masks * rng.random((count, 1, 1)) + rng.normal(size=(count, 1, 1)) / 4
    return (maps if digits is None else maps.round(digits)).astype(np.float32), masks


def sketches(maps, masks):
    return sketch(torch.from_numpy(maps), torch.from_numpy(masks), [True] * len(maps))


def drawn(made, place_B, slugs=SLUGS, most=100_000):
    """Metrics of one draw of images, the first half of which is defective."""
    half = len(made) // 2
    category = Category(np.zeros(half), np.zeros(len(made) - half), Pixels.of(made, most))
    bad, good = place_B[place_B < half], place_B[place_B >= half] - half
    return {slug: value.item() for slug, value in category.metrics(bad[None], good[None], slugs).items()}


def by_sklearn(maps, masks):
    score, truth = maps.reshape(-1), masks.reshape(-1)
    precision, recall, _ = precision_recall_curve(truth, score)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    return [roc_auc_score(truth, score), average_precision_score(truth, score), f1]


@pytest.mark.parametrize("digits", [None, 1])
def test_metrics_of_drawn_small_images_are_those_of_their_pixels(digits):
    """Of 8 x 8 pixels each has its own block. Regions and IoU by the evaluator, which tests of its own hold."""
    maps, masks = images(10, 8, digits=digits)
    made, rng = sketches(maps, masks), np.random.default_rng(1)
    for _ in range(6):
        place_B = np.concatenate([rng.integers(5, size=5), 5 + rng.integers(5, size=5)])
        found = drawn(made, place_B)
        assert [found[slug] for slug in SLUGS[:3]] == pytest.approx(by_sklearn(maps[place_B], masks[place_B]), abs=1e-6)
        exact = evaluate(maps[place_B], masks[place_B], metric="exact").loc["mean"]
        assert found == pytest.approx(dict(exact[list(SLUGS)]), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_large_images_are_near_those_of_their_pixels(seed):
    maps, masks = images(24, 128, seed)
    place_B = np.arange(len(maps))
    exact = evaluate(maps, masks, metric="exact").loc["mean"]
    assert drawn(sketches(maps, masks), place_B, most=1024) == pytest.approx(dict(exact[list(SLUGS)]), abs=0.0015)


def test_nothing_is_lost_of_counts_and_regions():
    maps, masks = images(8, 64)
    for made, mask in zip(sketches(maps, masks), masks, strict=True):
        assert made.normal_count_K.sum() == (mask == 0).sum()
        assert made.defective_count_L.sum() == mask.sum()
        regions = label(mask, np.ones((3, 3)))[1]
        assert made.defective_weight_L.sum() == pytest.approx(regions, rel=1e-5)
        for value, count in (
            (made.normal_value_K, made.normal_count_K),
            (made.defective_value_L, made.defective_count_L),
        ):
            assert (np.diff(value[count > 0]) <= 0).all()


def test_the_highest_false_alarms_are_kept_one_by_one():
    maps, masks = images(2, 64)
    (made,) = sketches(maps[1:], masks[1:])
    assert made.normal_count_K[:10].tolist() == [1] * 10
    assert np.array_equal(made.normal_value_K[:10], np.sort(maps[1], axis=None)[::-1][:10])


@pytest.mark.parametrize("pixels", [0, 1, 63, 64, 65, 1000, 65536, 10**7])
def test_blocks_cover_all_pixels(pixels):
    ends = normal_ends(pixels)
    assert len(ends) == NORMAL
    assert ends[-1] == pixels
    assert (np.diff(ends) >= 0).all()
    assert np.diff(ends).max() <= max(1, pixels // 32 + 1)


def test_a_device_sorts_as_numpy_does():
    maps, masks = images(4, 16)
    masks[0] = 1  # no normal pixel at all
    rank_BK = np.stack([np.maximum(normal_ends(int((mask == 0).sum())) - 1, 0) for mask in masks])
    given = torch.from_numpy(maps), torch.from_numpy(masks) != 0, rank_BK
    assert np.array_equal(at_ranks(*given)[1:], at_ranks_by_numpy(*given)[1:])


def test_images_whose_defects_are_not_known_have_none():
    maps, masks = images(3, 8)
    made = sketch(torch.from_numpy(maps), torch.from_numpy(masks), [False, True, True])
    assert made[0] is None
    assert made[1] is not None
    assert Pixels.of([None, made[2]]) is None, "there is no defective pixel"


def test_kept_and_read_again(tmp_path):
    maps, masks = images(6, 16)
    kept = Sketches({f"ä/{number}.png": each for number, each in enumerate(sketches(maps, masks))})
    (tmp_path / FILE).write_bytes(kept.content())
    for found in (read_sketches(tmp_path), restored(state_of(kept))):
        assert found.images.keys() == kept.images.keys()
        for name, made in kept.images.items():
            assert all(np.array_equal(one, other) for one, other in zip(made, found.images[name], strict=True))
    assert Sketches.of(Sketches().arrays()) == Sketches() == restored(state_of(Sketches()))


def test_a_damaged_file_is_told(tmp_path):
    assert read_sketches(tmp_path) is None
    maps, masks = images(2, 8)
    content = Sketches(dict(zip("ab", sketches(maps, masks), strict=True))).content()
    for damaged in (content[: len(content) // 2], b"", b"no file of arrays"):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(UserError, match=r"pixels\.npz cannot be read .* ader eval"):
            read_sketches(tmp_path)
    arrays = Sketches(dict(zip("ab", sketches(maps, masks), strict=True))).arrays()
    np.savez(tmp_path / FILE, **{**arrays, "normal_value": arrays["normal_value"][:1]})
    with pytest.raises(UserError, match="expected 2 rows"):
        read_sketches(tmp_path)
