"""Checks that every kind of evaluation must pass, for this package and for others.

A check takes a factory ``make(categories) -> Evaluator`` and raises AssertionError. Use with pytest::

    @pytest.mark.parametrize("check", metric_checks(), ids=lambda check: check.__name__)
    def test_mine(check):
        check(MyEvaluator)

Letters: B images, H rows, W columns.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ader.metrics import IMAGE_METRICS, OBJECT_METRICS, PIXEL_METRICS, SLUGS, Evaluator
from ader.metrics.definitions import PUBLISHED

MakeEvaluator = Callable[[Sequence[str]], Evaluator]
Check = Callable[[MakeEvaluator], None]
Arguments = dict[str, Any]  # of `Evaluator.update`: arrays, or None

CATEGORIES = ("bolt", "nut")
# Integer counts are exact; only the order of adding region weights may show.
TOLERANCE = 1e-12


def toy_batch(images: int = 12, seed: int = 0, size: int = 10) -> Arguments:
    """Arguments of one update: both categories in turn, two of three images defective, scores with ties."""
    rng = np.random.default_rng(seed)
    category_B = np.arange(images) % len(CATEGORIES)
    label_B = (np.arange(images) % 3 > 0).astype(np.int64)
    mask_BHW = (rng.random((images, size, size)) < 0.2) & (label_B[:, None, None] == 1)
    map_BHW = (rng.integers(-20, 20, mask_BHW.shape) / 7 + 1.5 * mask_BHW).astype(np.float32)
    score_B = map_BHW.mean((1, 2)).round(1)
    group_B = np.array([f"object {image // 2 % 5}" for image in range(images)])
    defect_B = np.where(label_B == 1, np.array(["scratch", "dent"])[np.arange(images) % 2], "good")
    pixels = {"map": map_BHW, "mask": mask_BHW}
    return {"category": category_B, "score": score_B, "label": label_B, "group": group_B, "defect": defect_B, **pixels}


def take(batch: Arguments, index: Any) -> Arguments:
    """The images of a batch that ``index`` (slice, mask or positions) picks."""
    return {name: values[index] for name, values in batch.items()}


def _filled(make: MakeEvaluator, *batches: Arguments) -> Evaluator:
    evaluator = make(list(CATEGORIES))
    for batch in batches:
        evaluator.update(**batch)
    return evaluator


def assert_same(one: Evaluator, two: Evaluator) -> None:
    """Both evaluators give the same values, bounds and counts."""
    for name in ("compute", "bounds"):
        mine, theirs = getattr(one, name)(), getattr(two, name)()
        pd.testing.assert_frame_equal(mine, theirs, rtol=0, atol=TOLERANCE, obj=name)
    pd.testing.assert_frame_equal(one.counts(), two.counts(), obj="counts")


def check_frame(make: MakeEvaluator) -> None:
    """The frames have categories and mean as rows and slugs as columns; values and bounds are fractions, and only
    the kinds of published tables leave pixel metrics without a bound."""
    evaluator = _filled(make, toy_batch())
    bounds = evaluator.bounds()
    for frame in (evaluator.compute(), bounds):
        np.testing.assert_array_equal(frame.index, [*CATEGORIES, "mean"])
        np.testing.assert_array_equal(frame.columns, SLUGS)
        values = frame.to_numpy()
        known = ~np.isnan(values)
        assert ((values >= 0) & (values <= 1))[known].all(), f"not fractions:\n{frame}"
        assert known.all() or (frame is bounds and evaluator.metric in PUBLISHED), f"missing:\n{frame}"
    np.testing.assert_array_equal(bounds[[*IMAGE_METRICS, *OBJECT_METRICS]].to_numpy(), 0.0)


def check_compute_twice(make: MakeEvaluator) -> None:
    """Computing changes nothing, and an update after it counts."""
    first, second = toy_batch(seed=1), toy_batch(seed=2)
    evaluator = _filled(make, first)
    pd.testing.assert_frame_equal(evaluator.compute(), evaluator.compute())
    evaluator.update(**second)
    assert_same(evaluator, _filled(make, first, second))


def check_partition_and_order(make: MakeEvaluator) -> None:
    """Any cut into batches and any order of images give the same answer."""
    batch = toy_batch()
    whole = _filled(make, batch)
    order = np.random.default_rng(5).permutation(len(batch["label"]))
    cuts = (order[:1], order[1:1], order[1:8], order[8:])
    assert_same(_filled(make, *(take(batch, cut) for cut in cuts)), whole)


def check_merge(make: MakeEvaluator) -> None:
    """Merging before, between and after updates adds up; what was merged in stays as it was."""
    parts = [toy_batch(seed=seed) for seed in range(4)]
    whole = _filled(make, *parts)
    evaluator, second, last = (_filled(make, part) for part in (parts[0], parts[2], parts[3]))
    evaluator.merge(make(list(CATEGORIES)))
    evaluator.merge(second)
    evaluator.update(**parts[1])
    evaluator.compute()  # what it keeps must not outlive the next merge
    evaluator.merge(last)
    assert_same(evaluator, whole)
    assert_same(second, _filled(make, parts[2]))
    second.update(**parts[0])
    assert_same(evaluator, whole)
    empty = make(list(CATEGORIES))
    empty.merge(whole)
    assert_same(empty, whole)


def check_merge_in_any_order(make: MakeEvaluator) -> None:
    """Merging is associative and commutative."""
    parts = [toy_batch(seed=seed) for seed in range(3)]
    parts[1]["map"] = parts[1]["map"] * 1e-3 + 0.5  # so that the parts need bins of other kinds
    parts[2]["map"] = np.exp(parts[2]["map"] * 3)
    whole = _filled(make, *parts)
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        left = _filled(make, parts[order[0]])
        left.merge(_filled(make, parts[order[1]]))
        left.merge(_filled(make, parts[order[2]]))
        right = _filled(make, parts[order[1]])
        right.merge(_filled(make, parts[order[2]]))
        first = _filled(make, parts[order[0]])
        first.merge(right)
        assert_same(left, whole)
        assert_same(first, whole)


def check_merge_refuses_other_categories(make: MakeEvaluator) -> None:
    """Evaluators of other categories, or the same in another order, do not add up."""
    for names in (["bolt"], ["nut", "bolt"]):
        try:
            make(list(CATEGORIES)).merge(make(names))
        except ValueError:
            continue
        raise AssertionError(f"merging categories {names} into {CATEGORIES} was not refused")


def check_state_dict(make: MakeEvaluator) -> None:
    """A state saved and loaded without unpickling code goes on as the original, sharing nothing."""
    first, second = toy_batch(seed=1), toy_batch(seed=2)
    evaluator = _filled(make, first)
    state = evaluator.state_dict()
    evaluator.update(**second)
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    loaded = Evaluator.from_state_dict(state)
    assert_same(loaded, _filled(make, first))
    loaded.update(**second)
    assert_same(loaded, evaluator)
    assert_same(Evaluator.from_state_dict(state), _filled(make, first))


def check_undefined(make: MakeEvaluator) -> None:
    """Data of one class give NaN with a reason, never a number; the mean leaves that category out."""
    batch = toy_batch()
    normal_bolts = (batch["category"] == 0) & (batch["label"] == 0)
    evaluator = _filled(make, take(batch, normal_bolts | (batch["category"] == 1)))
    frame, bounds = evaluator.compute(), evaluator.bounds()
    assert frame.loc["bolt"].isna().all(), f"one class only, but a value:\n{frame.loc['bolt']}"
    assert bounds.loc["bolt"].isna().all(), f"one class only, but a bound:\n{bounds.loc['bolt']}"
    assert frame.loc["nut"].notna().all(), f"defined, but NaN:\n{frame.loc['nut']}"
    np.testing.assert_array_equal(frame.loc["mean"], frame.loc["nut"])
    assert set(evaluator.undefined()) == {("bolt", slug) for slug in SLUGS}
    np.testing.assert_array_equal(evaluator.support(), 1)


def check_no_maps(make: MakeEvaluator) -> None:
    """Without maps, the image metrics are as with them, and pixel metrics are undefined."""
    batch = toy_batch()
    with_maps = _filled(make, batch).compute()
    frame = _filled(make, batch | {"map": None, "mask": None}).compute()
    of_images = [*IMAGE_METRICS, *OBJECT_METRICS]
    np.testing.assert_array_equal(frame[of_images], with_maps[of_images])
    assert frame[list(PIXEL_METRICS)].isna().all(axis=None), f"no maps, but a value:\n{frame}"


def check_categories_apart(make: MakeEvaluator) -> None:
    """Images of another category change nothing, however extreme their scores are."""
    batch = toy_batch()
    bolts, nuts = (take(batch, batch["category"] == each) for each in (0, 1))
    nuts["map"] = nuts["map"] * 1e6
    alone, together = _filled(make, bolts), _filled(make, nuts, bolts)
    for name in ("compute", "bounds"):
        np.testing.assert_array_equal(getattr(alone, name)().loc["bolt"], getattr(together, name)().loc["bolt"])


def check_groups(make: MakeEvaluator) -> None:
    """The views of an object count as one image with their largest score, defective if any view is."""
    batch = toy_batch()
    views = _filled(make, batch).compute()
    for row, name in enumerate(CATEGORIES):
        mine = take(batch, batch["category"] == row)
        names = list(dict.fromkeys(mine["group"].tolist()))
        of = [mine["group"] == each for each in names]
        objects = {
            "category": [name] * len(names),
            "score": np.array([mine["score"][each].max() for each in of]),
            "label": np.array([mine["label"][each].max() for each in of]),
        }
        alone = _filled(make, objects).compute()
        for of_objects, of_images in zip(OBJECT_METRICS, IMAGE_METRICS, strict=False):
            np.testing.assert_allclose(views[of_objects][name], alone[of_images][name], err_msg=of_objects)
    without = _filled(make, batch | {"group": [None] * len(batch["label"])})
    assert without.compute()[list(OBJECT_METRICS)].isna().all(axis=None), "no groups, but object metrics"


def check_constant_scores(make: MakeEvaluator) -> None:
    """Constant scores know nothing: AUROC 0.5, AP the share of defects, AUPRO the diagonal's, bounds 0."""
    batch = toy_batch()
    batch["score"] = np.full_like(batch["score"], 0.3)
    batch["map"] = np.full_like(batch["map"], 0.3)
    evaluator = _filled(make, batch)
    frame = evaluator.compute()
    for row, name in enumerate(CATEGORIES):
        mine = take(batch, batch["category"] == row)
        expected = {
            "image_auroc": 0.5,
            "pixel_auroc": 0.5,
            "image_ap": mine["label"].mean(),
            "pixel_ap": mine["mask"].mean(),
            "pixel_ioumax": mine["mask"].mean(),
            "pixel_aupro": 0.15,
            "pixel_f1_02_08": 0.0,
        }
        for slug, value in expected.items():
            reason = evaluator.undefined().get((name, slug), "")  # a kind may need a range of scores
            assert not reason or reason.startswith("constant scores"), reason
            if not reason:
                np.testing.assert_allclose(frame[slug][name], value, atol=TOLERANCE, err_msg=slug)
    assert not (evaluator.bounds().to_numpy() > 1e-9).any(), "constant scores hide no order"


CHECKS: tuple[Check, ...] = (
    check_frame,
    check_compute_twice,
    check_partition_and_order,
    check_merge,
    check_merge_in_any_order,
    check_merge_refuses_other_categories,
    check_state_dict,
    check_undefined,
    check_no_maps,
    check_categories_apart,
    check_groups,
    check_constant_scores,
)


def metric_checks() -> list[Check]:
    """All checks, to parametrize a test over."""
    return list(CHECKS)
