"""The evaluator: common checks over all kinds of evaluation, bad input, counts, undefined values, averages."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ader.metrics import AVERAGES, KINDS, PIXEL_METRICS, SLUGS, Evaluator, evaluate
from ader.metrics.definitions import PUBLISHED
from ader.metrics.layout import LEAST_BINS
from ader.metrics.regions import label_regions
from ader.system.errors import UserError
from ader.testing.metric_checks import CATEGORIES, assert_same, metric_checks, take, toy_batch
from tests.support.published_oracle import published_metrics

MAKERS = {
    "histogram": Evaluator,
    "histogram, coarse": functools.partial(Evaluator, bins=LEAST_BINS),
    "histogram, by defect": functools.partial(Evaluator, by_defect=True),
    "exact": functools.partial(Evaluator, metric="exact"),
    "exact, by defect": functools.partial(Evaluator, metric="exact", by_defect=True),
    "ader": functools.partial(Evaluator, metric="ader"),
    "invad, by defect": functools.partial(Evaluator, metric="invad", by_defect=True),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("check", metric_checks(), ids=lambda check: check.__name__)
def test_common_checks(check, kind):
    check(MAKERS[kind])


def test_common_checks_can_fail():
    """An evaluator whose merge forgets, and one that loses images of a second update, are found out."""

    class Forgetful(Evaluator):
        def merge(self, other):
            pass

    class OnlyFirst(Evaluator):
        def update(self, *args, **kwargs):
            if not self.counts().to_numpy().any():
                super().update(*args, **kwargs)

    failed = {"forgetful": set(), "only first": set()}
    for name, broken in (("forgetful", Forgetful), ("only first", OnlyFirst)):
        for check in metric_checks():
            try:
                check(broken)
            except AssertionError:
                failed[name].add(check.__name__)
    assert failed["forgetful"] == {
        "check_merge",
        "check_merge_in_any_order",
        "check_merge_refuses_other_categories",
    }
    assert {"check_merge", "check_partition_and_order"} <= failed["only first"]


def small_batch(**changes):
    batch = {
        "category": ["bolt", "nut", "bolt"],
        "score": [0.1, 0.2, 0.3],
        "label": [0, 1, 1],
        "map": torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)),
        "mask": torch.zeros(3, 4, 5, dtype=torch.uint8),
    }
    batch["mask"][1, 0, :2] = batch["mask"][1, 3, 3:] = 255
    return batch | changes


def refused(error, match, **changes):
    evaluator = Evaluator(CATEGORIES)
    with pytest.raises(error, match=match):
        evaluator.update(**small_batch(**changes))
    assert not evaluator.counts().to_numpy().any(), "a refused batch must not be counted in part"


def test_nan_is_refused_by_name():
    broken = small_batch()["map"]
    broken[2, 1, 1] = torch.nan
    names = ["x.png", "y.png", "z.png"]
    refused(UserError, "map of image 'z.png' of category 'bolt' is NaN", map=broken, names=names)
    refused(UserError, "map of image number 2 of the batch of category 'bolt'", map=broken)
    score = [0.1, np.nan, 0.3]
    refused(UserError, "score of image 'y.png' of category 'nut' is NaN", score=score, names=names)


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, 255.0, np.nan, np.inf])
def test_floating_masks_of_other_values_are_refused_by_name(value):
    mask = torch.zeros(3, 4, 5)
    mask[2, 1, 1] = value
    refused(UserError, "mask of image 'z' of category 'bolt' has values", mask=mask, names=["x", "y", "z"])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channel", [False, True])
def test_masks_of_any_kind_and_a_channel_are_the_same(dtype, channel):
    """Integers may be 0 and 255; floats are 0 and 1. Arrays, tensors and lists; update and evaluate."""
    batch = toy_batch()
    expected = Evaluator(CATEGORIES)
    expected.update(**batch)
    scale = 255 if np.issubdtype(dtype, np.integer) else 1
    mask, maps = (batch["mask"] * scale).astype(dtype), batch["map"]
    if channel:
        mask, maps = mask[:, None], maps[:, None]
    found = Evaluator(CATEGORIES)
    found.update(**batch | {"mask": torch.from_numpy(mask), "map": torch.from_numpy(maps)})
    assert_same(found, expected)
    names = [CATEGORIES[number] for number in batch["category"]]
    pixels = [*PIXEL_METRICS, "image_auroc"]
    once = evaluate(maps, mask, categories=names)[pixels]
    pd.testing.assert_frame_equal(once, evaluate(list(maps), list(mask), categories=names)[pixels])
    pd.testing.assert_frame_equal(once, evaluate(batch["map"], batch["mask"], categories=names)[pixels])


def test_arrays_are_counted_where_they_are(monkeypatch):
    """Neither cut into images nor put together again: batches are views."""
    batch, seen = toy_batch(images=40), []
    update = Evaluator.update

    def watched(self, category, score, label, map, mask, **others):
        seen.append((map, mask))
        update(self, category, score, label, map, mask, **others)

    monkeypatch.setattr(Evaluator, "update", watched)
    monkeypatch.setattr(torch, "stack", None)
    evaluate(batch["map"], batch["mask"])
    assert [len(map) for map, _ in seen] == [32, 8]
    for pair in seen:
        for part, whole in zip(pair, (batch["map"], batch["mask"]), strict=True):
            assert np.shares_memory(part.numpy(), whole)


def test_defect_in_a_good_image_is_refused_by_name():
    match = "image 'y' of category 'nut' has label 0"
    refused(UserError, match, label=[0, 0, 1], names=["x", "y", "z"])
    unknown = small_batch(label=[0, 0, 1], pixel_truth=[True, False, True])
    Evaluator(CATEGORIES).update(**unknown)


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        (r"score: expected shape \(3,\), got \(2,\)", {"score": [0.1, 0.2]}),
        (r"score: expected dtype .*float32.*, got int64", {"score": [1, 2, 3]}),
        (r"label: expected 0 \(normal\) or 1 \(defective\), got 2", {"label": [0, 1, 2]}),
        (r"label: expected dtype .*, got float64", {"label": [0.0, 1.0, 1.0]}),
        (r"map: expected shape \(3, H, W\), got \(3, 2, 4, 5\)", {"map": torch.zeros(3, 2, 4, 5)}),
        (r"map: expected dtype .*, got uint8", {"map": torch.zeros(3, 4, 5, dtype=torch.uint8)}),
        (r"mask: expected dtype bool.*, got complex64", {"mask": torch.zeros(3, 4, 5, dtype=torch.complex64)}),
        (r"mask: expected the map's shape \(3, 4, 5\), got \(3, 8, 5\)", {"mask": np.zeros((3, 8, 5), bool)}),
        (r"pixel_truth: expected shape \(3,\), got \(1,\)", {"pixel_truth": [True]}),
        (r"names: expected 3 entries, got 1", {"names": ["x"]}),
        (r"category: expected indices 0..1, got 2", {"category": torch.tensor([0, 1, 2])}),
        (r"category: expected indices 0..1, got -1", {"category": [0, -1, 1]}),
        (r"category: expected one entry per image, got the string", {"category": "bolt"}),
        (r"map: expected device cpu, got meta", {"map": torch.zeros(3, 4, 5, device="meta")}),
    ],
)
def test_mismatches_say_expected_and_got(match, changes):
    refused(ValueError, match, **changes)


def test_unknown_names_are_suggested():
    refused(UserError, "category 'bolz' .* did you mean 'bolt'", category=["bolz", "nut", "nut"])
    with pytest.raises(UserError, match="metric=histgram does not exist: did you mean 'histogram'"):
        Evaluator(CATEGORIES, metric="histgram")
    for categories in ([], ["a", "a"], ["mean"], ["chance", "a"], ["Mean"], "bolt"):
        with pytest.raises(UserError):
            Evaluator(categories)
    assert list(Evaluator(["bolt", "Bolt"]).compute().index) == ["bolt", "Bolt", "mean"]
    with pytest.raises(ValueError, match=r"bins: expected at least 16384, got 24"):
        Evaluator(CATEGORIES, bins=24)


@pytest.mark.parametrize("changed", [{"metric": "exact"}, {"bins": LEAST_BINS}, {"by_defect": True}])
def test_merge_refuses_other_settings(changed):
    with pytest.raises(ValueError, match=next(iter(changed))):
        Evaluator(CATEGORIES).merge(Evaluator(CATEGORIES, **changed))


def test_state_of_another_version_is_refused():
    state = Evaluator(CATEGORIES).state_dict()
    with pytest.raises(UserError, match="version 99"):
        Evaluator.from_state_dict(state | {"version": 99})


def test_counts():
    evaluator = Evaluator(CATEGORIES)
    evaluator.update(**small_batch())
    evaluator.update(**small_batch(pixel_truth=[True, False, False]))
    counts = evaluator.counts()
    assert counts.loc["bolt"].to_dict() == {
        "normal": 2,
        "defective": 2,
        "regions": 0,
        "vanished": 1,
        "pixel_images": 3,
        "normal_pixels": 60,
        "defective_pixels": 0,
        "objects": 0,
    }
    assert counts.loc["nut"].to_dict() == {
        "normal": 0,
        "defective": 2,
        "regions": 2,
        "vanished": 0,
        "pixel_images": 1,
        "normal_pixels": 16,
        "defective_pixels": 4,
        "objects": 0,
    }


def test_vanished_defect_counts_as_normal_pixels_but_defective_image():
    batch = toy_batch()
    vanished = {
        "category": [0],
        "score": [5.0],
        "label": [1],
        "map": batch["map"][:1],
        "mask": batch["mask"][:1],
    }
    assert not vanished["mask"].any()
    evaluator, as_normal = Evaluator(CATEGORIES), Evaluator(CATEGORIES)
    for each, label in ((evaluator, [1]), (as_normal, [0])):
        each.update(**batch)
        each.update(**(vanished | {"label": label}))
    frame, normal = evaluator.compute(), as_normal.compute()
    np.testing.assert_array_equal(frame[list(PIXEL_METRICS)], normal[list(PIXEL_METRICS)])
    assert frame["image_auroc"]["bolt"] > normal["image_auroc"]["bolt"]


def test_unknown_pixel_truth_changes_no_pixel_metric():
    batch = toy_batch()
    unknown = {**batch, "map": -100 * batch["map"], "pixel_truth": np.zeros(12, dtype=bool)}
    with_unknown, without = Evaluator(CATEGORIES), Evaluator(CATEGORIES)
    with_unknown.update(**batch)
    with_unknown.update(**unknown)
    without.update(**batch)
    np.testing.assert_array_equal(with_unknown.compute()[list(PIXEL_METRICS)], without.compute()[list(PIXEL_METRICS)])
    assert with_unknown.counts()["defective"].sum() == 2 * without.counts()["defective"].sum()


def test_reasons_for_undefined_values():
    names = ["none", "good", "bad", "mapless", "maskless", "vanished", "infinite"]
    evaluator = Evaluator(names)
    maps, masks = np.ones((2, 3, 3), np.float32), np.zeros((2, 3, 3), bool)
    evaluator.update(["good"] * 2, [0.1, 0.2], [0, 0], maps, masks)
    evaluator.update(["bad"] * 2, [0.1, 0.2], [1, 1], maps, ~masks)
    evaluator.update(["mapless"] * 2, [0.1, 0.2], [0, 1], None, masks)
    evaluator.update(["maskless"] * 2, [0.1, 0.2], [0, 1], maps, masks, pixel_truth=[False, False])
    evaluator.update(["vanished"] * 2, [0.1, 0.2], [0, 1], maps, masks)
    masks[1, 0, 0] = True
    evaluator.update(["infinite"] * 2, [0.1, 0.2], [0, 1], np.where(masks, np.inf, maps), masks)
    reasons = evaluator.undefined()
    expected = {
        ("none", "image_ap"): "no image",
        ("none", "pixel_ap"): "no anomaly map",
        ("good", "image_fpr95"): "no defective image",
        ("good", "pixel_aupro"): "no defective pixel",
        ("bad", "image_auroc"): "no normal image",
        ("bad", "pixel_auroc"): "no normal pixel",
        ("mapless", "pixel_auroc"): "no anomaly map",
        ("maskless", "pixel_auroc"): "no pixel mask",
        ("vanished", "pixel_auroc"): "no defective pixel",
        ("infinite", "pixel_f1_02_08"): "infinite scores: no range to take 0.2 to 0.8 of",
        ("mapless", "mad"): "pixel_auroc is undefined: no anomaly map",
    }
    assert {key: reasons.get(key) for key in expected} == expected
    frame = evaluator.compute()
    missing = {(name, slug) for name in names for slug in SLUGS if np.isnan(frame[slug][name])}
    assert missing == set(reasons)
    assert frame["pixel_auroc"]["infinite"] == 1.0
    assert evaluator.support()["image_auroc"] == 4
    assert evaluator.support()["mad_02_08"] == 0


def test_averages_and_mean_row():
    evaluator = Evaluator(["bolt", "nut", "empty"])
    evaluator.update(**toy_batch())
    frame, bounds = evaluator.compute(), evaluator.bounds()
    for slug, components in AVERAGES.items():
        np.testing.assert_allclose(frame[slug], frame[list(components)].mean(axis=1), atol=1e-12)
        np.testing.assert_allclose(bounds[slug], bounds[list(components)].mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(frame.loc["mean"], frame.loc[["bolt", "nut"]].to_numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(bounds.loc["mean"], bounds.loc[["bolt", "nut"]].to_numpy().mean(0), atol=1e-12)
    assert (evaluator.support() == 2).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_taken_as_float32(dtype):
    batch = toy_batch()
    batch["map"] = torch.as_tensor(batch["map"])
    converted, plain = Evaluator(CATEGORIES), Evaluator(CATEGORIES)
    converted.update(**(batch | {"map": batch["map"].to(dtype)}))
    plain.update(**(batch | {"map": batch["map"].to(dtype).float()}))
    assert_same(converted, plain)


def test_image_scores_keep_float64():
    evaluator = Evaluator(["a"])
    evaluator.update(["a", "a"], [0.5, 0.5 + 1e-12], [0, 1])
    assert evaluator.compute()["image_auroc"]["a"] == 1.0


def test_inputs_are_neither_changed_nor_kept():
    """A caller may reuse its buffers after an update."""
    for kind in ("histogram", "exact"):
        names = ("category", "score", "label", "map", "mask")
        batch = {name: torch.tensor(values) for name, values in toy_batch().items() if name in names}
        batch["score"] = batch["score"].double()
        before = {name: values.clone() for name, values in batch.items()}
        evaluator, reference = (Evaluator(CATEGORIES, metric=kind) for _ in range(2))
        reference.update(**before)
        evaluator.update(**batch)
        for name, values in batch.items():
            assert torch.equal(values, before[name]), name
            values.zero_()
        assert_same(evaluator, reference)


def test_empty_updates():
    evaluator = Evaluator(CATEGORIES)
    evaluator.update([], [], [])
    evaluator.update([], [], [], torch.zeros(0, 4, 4), torch.zeros(0, 4, 4, dtype=torch.bool))
    assert evaluator.compute().isna().all(axis=None)
    evaluator.merge(Evaluator(CATEGORIES))
    assert not evaluator.counts().to_numpy().any()


@pytest.mark.parametrize("kind", KINDS)
def test_breakdown_is_each_defect_against_all_normal_images(kind):
    batch = toy_batch(images=24)
    evaluator = Evaluator(CATEGORIES, metric=kind, by_defect=True)
    evaluator.update(**batch)
    frame = evaluator.breakdown()
    assert {name for name, _ in frame.index} == set(CATEGORIES)
    for (name, defect), row in frame.iterrows():
        mine = (batch["category"] == CATEGORIES.index(name)) & np.isin(batch["defect"], ["good", defect])
        alone = Evaluator(CATEGORIES, metric=kind)
        alone.update(**take(batch, mine))
        np.testing.assert_allclose(row, alone.compute().loc[name], rtol=0, atol=1e-12, equal_nan=True)
    whole = Evaluator(CATEGORIES, metric=kind)
    whole.update(**batch)
    np.testing.assert_allclose(evaluator.compute(), whole.compute(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(evaluator.bounds(), whole.bounds(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_defects_without_a_name_are_a_kind_of_their_own(kind):
    """Their pixels count neither as normal ones of another kind nor twice."""
    batch = toy_batch()
    named, unnamed = (Evaluator(CATEGORIES, metric=kind, by_defect=True) for _ in range(2))
    named.update(**batch)
    unnamed.update(**batch | {"defect": [None if each == "dent" else each for each in batch["defect"]]})
    expected = named.breakdown().rename(index={"dent": "defective"})
    pd.testing.assert_frame_equal(unnamed.breakdown().sort_index(), expected.sort_index(), atol=1e-12)


def test_breakdown_has_to_be_asked_for():
    with pytest.raises(ValueError, match="by_defect=True"):
        Evaluator(CATEGORIES).breakdown()
    assert len(Evaluator(CATEGORIES, by_defect=True).breakdown()) == 0


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_kinds_take_labels_from_masks(kind):
    """A defective image whose mask is empty counts as normal, as in the published tables; an unknown mask does not."""
    batch = toy_batch()
    vanished = {"category": [0], "score": [5.0], "label": [1], "map": batch["map"][:1], "mask": batch["mask"][:1]}
    for truth, normal in ((True, 3), (False, 2)):
        evaluator = Evaluator(CATEGORIES, metric=kind)
        evaluator.update(**batch)
        evaluator.update(**vanished, pixel_truth=[truth])
        assert evaluator.counts()["normal"]["bolt"] == normal
        certified = evaluator.bounds()["image_auroc"] == 0  # not by labels that are not the dataset's
        assert certified.to_dict() == {"bolt": not truth, "nut": True, "mean": not truth}


@pytest.mark.parametrize(
    ("kind", "certified"), [("ader", set()), ("invad", {"pixel_auroc", "pixel_ap"}), ("exact", {*PIXEL_METRICS})]
)
def test_only_what_is_exact_has_bounds(kind, certified):
    """What is computed by other formulas is further from the exact value than 0, and says nothing of how far."""
    evaluator, exact = Evaluator(CATEGORIES, metric=kind), Evaluator(CATEGORIES, metric="exact")
    for each in (evaluator, exact):
        each.update(**toy_batch())
    values, bounds = evaluator.compute(), evaluator.bounds()
    assert values.notna().all(axis=None)
    away = (values - exact.compute()).abs()
    assert (away[list(certified)] <= 1e-12).all(axis=None)
    assert {slug for slug in PIXEL_METRICS if (bounds[slug] == 0).all()} == certified
    assert bounds[sorted(set(PIXEL_METRICS) - certified)].isna().all(axis=None)
    for slug, parts in AVERAGES.items():
        assert bounds[slug].isna().all() == any(bounds[part].isna().any() for part in parts), slug
    if kind != "exact":
        assert away["pixel_aupro"].max() > 1e-3


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_published_formulas_are_used(kind):
    batch = toy_batch()
    evaluator = Evaluator(CATEGORIES, metric=kind)
    evaluator.update(**batch)
    mine = batch["category"] == 1
    maps, masks = batch["map"][mine], batch["mask"][mine]
    weight = np.zeros(maps.size)
    regions = label_regions(masks.astype(np.uint8), masks.any((1, 2)))
    weight[regions.position_M] = regions.weight_M
    expected = published_metrics(kind, maps.ravel(), masks.ravel(), weight)
    for slug, value in expected.items():
        np.testing.assert_allclose(evaluator.compute()[slug]["nut"], value, atol=1e-12, err_msg=slug)


def test_objects():
    """By hand: object x has a defective view, y none; the lone image is an object of its own."""
    evaluator = Evaluator(["a"])
    score, label, group = [0.1, 0.9, 0.5, 0.2, 0.3], [0, 1, 0, 0, 1], ["x", "x", "y", "y", None]
    evaluator.update(["a"] * 5, score, label, group=group)
    frame = evaluator.compute().loc["a"]
    assert frame["object_auroc"] == 0.5  # x 0.9 and the lone 0.3 are defective, y 0.5 is not
    assert frame["object_ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert frame["object_f1max"] == pytest.approx(4 / 5)
    assert evaluator.counts()["objects"]["a"] == 2


def test_sizes_may_differ_between_updates():
    rng = np.random.default_rng(0)
    maps = [rng.random((side, side + 3)).astype(np.float32) for side in (4, 9, 9, 5)]
    masks = [(rng.random(each.shape) < 0.4) * (i % 2) for i, each in enumerate(maps)]
    frame = evaluate(maps, masks, metric="exact").loc["all"]
    truth, score = (np.concatenate([np.ravel(each) for each in values]) for values in (masks, maps))
    assert frame["pixel_auroc"] == pytest.approx(roc_auc_score(truth, score))
