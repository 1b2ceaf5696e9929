"""Settings: what moves where, and that no test image is ever trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from ader.config import plugins
from ader.config.options import options, read_option
from ader.data.index import TEST, Index, Sample
from ader.settings import FOREST, apply, check_moves, check_supervision, cut
from ader.system.errors import UserError


def make(
    train: int = 20,
    bad_train: int = 0,
    good: int = 6,
    bad: int = 8,
    views: int = 1,
    categories: tuple[str, ...] = ("a", "b"),
) -> Index:
    """An index without files; with several views, only every object's first view shows its defect."""
    samples = []
    for category in categories:
        for kind, split, label, count in (
            ("train/good", "train", 0, train),
            ("train/bad", "train", 1, bad_train),
            ("test/good", "test", 0, good),
            ("test/hole", "test", 1, bad),
        ):
            for number in range(count):
                for view in range(views):
                    marked = label if view == 0 else 0
                    image = f"{category}/{kind}/{number:04}_{view}.png"
                    masks = (f"{category}/masks/{kind}/{number:04}_{view}.png",) if marked else ()
                    group = f"{category}/{kind}/{number:04}" if views > 1 else None
                    samples.append(Sample(image, category, split, marked, masks, "hole" if marked else "good", group))
    return Index("made-up", Path("/nowhere"), tuple(samples), categories)


def images(index: Index, split: str, label: int | None = None) -> set[str]:
    return {s.image for s in index if s.split == split and label in (None, s.label)}


def applied(name: str, index: Index, seed: int = 0, **more) -> Index:
    return apply(index, seed, name, more)[0]


def of(index: Index, category: str) -> Index:
    return index.select([category])


EVERY = [
    ("multi_class", {}),
    ("single_class", {}),
    ("few_shot", {"k": 3}),
    ("labeled", {"k": 3}),
    ("semi", {"n": 7}),
    ("noisy", {"ratio": 0.2}),
    ("contamination", {"ratio": 0.1}),
    ("contamination", {"ratio": 0.2, "of": "all", "mode": "add"}),
    ("contamination", {"ratio": 0.2, "mode": "replace"}),
    ("supervised", {}),
    ("supervised", {"shots": 2}),
    ("supervised", {"source": "test", "shots": 2, "detector_share": 0.9}),
    ("supervised", {"shots": 0, "detector_share": 0.5}),
]


@pytest.mark.parametrize(("name", "options"), EVERY)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), views=st.sampled_from([1, 3]), own=st.sampled_from([0, 4]))
def test_no_test_image_is_ever_trained_on(name, options, seed, views, own):
    assume(own or options != {"shots": 2})  # there is nothing to draw from
    before = make(views=views, bad_train=own)
    after, parts = apply(before, seed, name, options)
    for index in (after, *(part.index for part in parts)):
        tested, trained = images(index, TEST), {s.image for s in index if s.split != TEST}
        assert tested
        assert trained
        assert not tested & trained
        assert tested <= images(before, TEST)
        groups = [{s.group for s in index if (s.split == TEST) is wanted and s.group} for wanted in (True, False)]
        assert not groups[0] & groups[1]
    assert {s.image for part in parts for s in part.index if s.split == TEST} == images(after, TEST)
    assert len(after) == len({s.image for s in after})


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_pure_functions_of_the_seed(name, options):
    before = make(bad_train=4)
    first, again = applied(name, before, 7, **options), applied(name, before, 7, **options)
    assert first == again
    others = {applied(name, before, seed, **options).digest() for seed in range(5)}
    fixed = name.endswith("_class") or options == {}
    assert len(others) == (1 if fixed else 5)
    shuffled = replace(before, samples=before.samples[::-1])
    assert set(applied(name, shuffled, 7, **options)) == set(first)


def test_every_setting_is_tested_and_has_a_config():
    settings = {"contamination", "few_shot", "labeled", "multi_class", "noisy", "semi", "single_class", "supervised"}
    assert set(plugins.names("settings")) == settings
    assert {name for name, _ in EVERY} == settings
    assert {read_option("setting", option)["name"] for option in options("setting")} == settings


@pytest.mark.parametrize("option", options("setting"))
def test_configs_fit(option):
    own = read_option("setting", option)
    index = replace(make(train=40, bad_train=12, bad=40), lists={"one": ("a/train/bad/0000_0.png",)})
    assert images(apply(index, 0, own.pop("name"), own)[0], TEST)


def test_labeled_training_defects_are_left_out_unless_asked_for():
    before = make(bad_train=4)
    assert images(applied("multi_class", before), "train") == images(before, "train", 0)
    assert images(applied("supervised", before), "train") == images(before, "train")


def test_published_noise_stays():
    noise = Sample("a/train/good/noise.png", "a", "train", 0, (), "hole")
    before = make()
    before = replace(before, samples=(*before.samples, noise))
    assert noise in applied("multi_class", before).samples


def test_single_class_has_a_model_per_category():
    before = make()
    parts = apply(before, 0, "single_class", {})[1]
    assert [part.name for part in parts] == ["a", "b"]
    assert all(part.index.categories == (part.name,) for part in parts)
    assert [part.name for part in apply(before, 0, "few_shot", {"k": 2, "models": "all"})[1]] == ["all"]
    assert len(apply(before, 0, "few_shot", {"k": 2, "models": "category"})[1]) == 2


def test_few_shot_draws_are_nested():
    before = make()
    drawn = [images(of(applied("few_shot", before, k=k), "a"), "train") for k in (1, 2, 4, 20)]
    assert [len(some) for some in drawn] == [1, 2, 4, 20]
    assert drawn[0] < drawn[1] < drawn[2] < drawn[3]
    with pytest.raises(UserError, match=r"setting.k=21: category 'a' has 20 normal training images"):
        applied("few_shot", before, k=21)


def test_a_draw_does_not_depend_on_other_images():
    small, large = make(), make(categories=("a", "b", "c"))
    assert images(of(applied("few_shot", small, k=3), "a"), "train") == images(
        of(applied("few_shot", large, k=3), "a"), "train"
    )


def test_labeled_moves_defects_with_their_masks():
    before = make()
    after = applied("labeled", before, k=3)
    for category in "ab":
        moved = images(of(after, category), "train", 1)
        assert len(moved) == 3
        assert moved | images(of(after, category), TEST, 1) == images(of(before, category), TEST, 1)
        assert images(of(after, category), TEST, 0) == images(of(before, category), TEST, 0)
    assert all(s.masks for s in after if s.label)
    with pytest.raises(UserError, match=r"choose at most 7 \(one has to stay in the test\)"):
        applied("labeled", before, k=8)
    own = make(bad_train=4)
    assert images(applied("labeled", own, k=3), "train", 1).isdisjoint(images(own, "train", 1))


def test_labeled_moves_whole_objects():
    after = applied("labeled", make(views=3), k=2)
    moved = [s for s in of(after, "a") if s.split == "train" and "test/hole" in s.image]
    assert len(moved) == 6
    assert sum(s.label for s in moved) == 2


@pytest.mark.parametrize(("n", "expected"), [(2, 2), (6, 6), (8, 6)])  # 75 % of 8 defects
def test_semi_is_capped(n, expected):
    after = applied("semi", make(), n=n)
    assert len(images(of(after, "a"), "train", 1)) == expected
    caution = "setting.n=8: at most 75 % of a category's defects move: a 6 instead of 8, b 6 instead of 8"
    assert after.cautions == ((caution,) if n > expected else ())


@pytest.mark.parametrize(
    ("name", "given", "made", "message"),
    [
        ("semi", {"n": 9}, {}, r"setting.n=9: of category 'a', 9 defective .* the test has 8, of which at most 6"),
        ("semi", {"n": 1}, {"bad": 1}, r"the test has 1, of which at most 0 \(75 %\) move: choose less, or name other"),
        ("semi", {"n": 1}, {"bad": 0}, "the test has 0"),
        ("noisy", {"ratio": 0.9}, {}, r"setting.ratio=0.9: of category 'a', 18 defective .* the test has 8"),
        ("noisy", {"ratio": 0.04}, {}, r"setting.ratio=0.04: of the 20 training images of category 'a' that is less"),
        ("contamination", {"ratio": 0.02}, {}, r"setting.ratio=0.02: of the 20 training images .* less than one"),
        ("contamination", {"ratio": 0.6}, {}, r"setting.ratio=0.6: category 'a' has 8 defective .* 12 from: .* most 7"),
        ("contamination", {"ratio": 0.99, "mode": "replace"}, {"bad": 30}, "no normal training image of category 'a'"),
        ("few_shot", {"k": 21}, {}, r"setting.k=21: category 'a' has 20 normal training images: choose at most 20"),
        ("labeled", {"k": 8}, {}, r"setting.k=8: category 'a' has 8 defective images to draw 8 from: choose at most 7"),
        ("labeled", {"k": 1}, {"bad": 0}, r"setting.k=1: category 'a' has 0 .* choose at most 0"),
        ("supervised", {"shots": 5}, {"bad_train": 4}, r"setting.shots=5: category 'a' has 4 .* choose at most 4,"),
        ("supervised", {"source": "test"}, {}, "setting.shots=all would leave no defect in the test"),
        ("supervised", {"source": "test", "shots": 8}, {}, r"setting.shots=8: category 'a' has 8 .* at most 7 \(one"),
    ],
)
def test_impossible_numbers_are_refused_with_what_there_is(name, given, made, message):
    with pytest.raises(UserError, match=message):
        applied(name, make(**made), **given)


def test_supervised_without_labeled_defects_says_so():
    """Of some categories, or of all; what asks for none is as it is meant."""
    some = make(bad_train=4).where(lambda s: s.category == "a" or s.split == TEST or not s.label)
    (caution,) = applied("supervised", some).cautions
    assert caution == "the training data of b has no labeled defects: normal images only"
    assert "of a, b has" in applied("supervised", make()).cautions[0]
    for before, more in ((make(bad_train=4), {}), (make(), {"shots": 0}), (make(bad_train=4), {"shots": 2})):
        assert not applied("supervised", before, **more).cautions


@pytest.mark.parametrize(("name", "options"), [("noisy", {"ratio": 0.2}), ("semi", {"n": 4})])
def test_categories_that_are_tested_only_give_nothing_to_training(name, options):
    before = make().where(lambda s: s.category == "a" or s.split == TEST)
    after = applied(name, before, models="all", **options)
    assert not images(of(after, "b"), "train")
    assert images(of(after, "b"), TEST) == images(of(before, "b"), TEST)
    assert images(of(after, "a"), "train") > images(of(before, "a"), "train")


@pytest.mark.parametrize(("ratio", "expected"), [(0.1, 2), (0.19, 3), (0.4, 6)])  # int(0.19 * 20) = 3; 8, capped
def test_noisy_counts_as_im_iad(ratio, expected):
    after = of(applied("noisy", make(), ratio=ratio), "a")
    noise = [s for s in after if s.split == "train" and s.defect != "good"]
    assert len(noise) == expected
    assert all(s.label == 0 and s.masks == () for s in noise)
    assert len(images(after, TEST, 1)) == 8 - expected
    assert len(images(after, "train")) == 20 + expected


def test_noisy_counts_objects():
    """A share of the objects, whatever number of views each has."""
    after = of(applied("noisy", make(views=3), ratio=0.1), "a")
    assert len({s.group for s in after if s.split == "train"}) == 20 + 2


@pytest.mark.parametrize(
    ("given", "noise", "train"),
    [
        ({"ratio": 0.04}, 4, 104),
        ({"ratio": 0.16}, 16, 116),
        ({"ratio": 0.16, "mode": "replace"}, 16, 100),
        ({"ratio": 0.2, "of": "all"}, 25, 125),  # 25 / 125
        ({"ratio": 0.2, "of": "all", "mode": "replace"}, 20, 100),  # 20 / 100
    ],
)
@pytest.mark.parametrize("own", [0, 30])
def test_contamination(given, noise, train, own):
    before = make(train=100, bad_train=own, bad=40)
    after = of(applied("contamination", before, **given), "a")
    wrong = {s.image for s in after if s.split == "train" and s.defect != "good"}
    assert len(wrong) == noise
    assert len(images(after, "train")) == train
    assert not images(after, "train", 1)
    # the training data's own defects come first, and then the test keeps all
    assert all(("train/bad" in image) == bool(own) for image in wrong)
    assert len(images(after, TEST, 1)) == (40 if own else 40 - noise)


def test_contamination_is_nested():
    before = make(train=100, bad=40)
    sets = [
        {s.image for s in applied("contamination", before, ratio=r) if s.split == "train" and s.defect != "good"}
        for r in (0.04, 0.08, 0.16)
    ]
    assert sets[0] < sets[1] < sets[2]
    with pytest.raises(UserError, match=r"category 'a' has 40 defective images to draw 60 from"):
        applied("contamination", before, ratio=0.6)


def test_vad_protocols():
    """Protocols (c): 1,000 normal images for detectors and forest each; no, 100 or all defects for the forest."""
    before = make(train=2000, bad_train=1000, good=1000, bad=1000, categories=("vad",))
    bad = sorted(images(before, "train", 1))
    lists = {f"low_shot_{number}": tuple(bad[number::10]) for number in range(5)}
    before = replace(before, lists=lists)
    for option, expected in (("vad_one_class", 0), ("vad_low_shot", 100), ("vad_high_shot", 1000)):
        own = read_option("setting", option)
        after, _ = apply(before, 3, own.pop("name"), own)
        assert len(images(after, "train", 0)) == len(images(after, FOREST, 0)) == 1000
        assert not images(after, "train", 1)
        assert len(images(after, FOREST, 1)) == expected
        assert images(after, TEST) == images(before, TEST)
        assert after.tally()["vad"]["test_good"] == after.tally()["vad"]["test_bad"] == 1000
    low = {seed: images(applied("supervised", before, seed, shots="list"), "train", 1) for seed in range(6)}
    assert low[0] == set(lists["low_shot_0"])
    assert low[5] == low[0] != low[1]
    assert images(applied("supervised", before, 3, shots="list", draw=4), "train", 1) == set(lists["low_shot_4"])
    with pytest.raises(UserError, match=r"has 5 lists: give 0 to 4"):
        applied("supervised", before, shots="list", draw=5)
    with pytest.raises(UserError, match="publishes no lists"):
        applied("supervised", make(), shots="list")


def test_segad_on_visa():
    before = make(train=100, bad=100)
    own = read_option("setting", "segad_visa")
    after = of(apply(before, 333, own.pop("name"), own)[0], "a")
    assert len(images(after, "train", 0)) == 90
    assert len(images(after, FOREST, 0)) == len(images(after, FOREST, 1)) == 10
    assert len(images(after, TEST, 1)) == 90


@pytest.mark.parametrize("normal", [70, 94, 101])
def test_segad_draws_as_its_released_code(normal):
    """A tenth of the normal images in the order of their names by scikit-learn's splitter with seed 333; ten defects by
    the run's seed, where the rest is the test."""
    before = make(train=normal, bad=45)
    own = read_option("setting", "segad_visa")
    after = of(apply(before, 576, own.pop("name"), own)[0], "a")
    good, bad = (sorted(images(of(before, "a"), split, label)) for split, label in (("train", 0), (TEST, 1)))
    detectors, forest = train_test_split(good, test_size=0.1, random_state=333)
    learned, tested = train_test_split(bad, test_size=len(bad) - 10, random_state=576)
    assert (images(after, "train"), images(after, FOREST, 0)) == (set(detectors), set(forest))
    assert (images(after, FOREST, 1), images(after, TEST, 1)) == (set(learned), set(tested))


def test_a_fixed_split_seed_keeps_the_detectors_images():
    """VisA's protocol: detectors are trained once; only the defects and the forest differ between seeds."""
    before = make(train=100, bad=100)
    options = {"source": "test", "shots": 10, "detector_share": 0.9}
    fixed = [applied("supervised", before, seed, split_seed=333, **options) for seed in (1, 2)]
    assert images(fixed[0], "train") == images(fixed[1], "train")
    assert images(fixed[0], FOREST, 0) == images(fixed[1], FOREST, 0)
    assert images(fixed[0], FOREST, 1) != images(fixed[1], FOREST, 1)
    free = [applied("supervised", before, seed, **options) for seed in (1, 2, 333)]
    assert images(free[0], "train") != images(free[1], "train")
    assert images(free[2], "train") == images(fixed[0], "train")
    # a detector's own run, in which no defect leaves the test
    alone = applied("supervised", before, 1, split_seed=333, source="test", shots=0, detector_share=0.9)
    assert images(alone, "train") == images(fixed[0], "train")
    assert images(alone, TEST) == images(before, TEST)
    for option, seed in (("segad_visa", 333), ("segad_mvtec", 333), ("vad_one_class", None)):
        assert read_option("setting", option)["split_seed"] == seed


def test_halves_must_not_be_empty():
    with pytest.raises(UserError, match="leaves the detectors or the forest without any"):
        applied("supervised", make(train=3), detector_share=0.99)


def test_unknown_names():
    with pytest.raises(UserError, match="setting 'fewshot' does not exist: did you mean 'few_shot'"):
        apply(make(), 0, "fewshot", {})
    for helper in ("_drawing", "__init__"):
        with pytest.raises(UserError, match=f"setting '{helper}' does not exist"):
            apply(make(), 0, helper, {})
    with pytest.raises(UserError, match=r"setting.kk is not known"):
        apply(make(), 0, "few_shot", {"kk": 1})
    with pytest.raises(UserError, match=r"setting.models='each' does not fit"):
        apply(make(), 0, "few_shot", {"k": 1, "models": "each"})
    with pytest.raises(UserError, match=r"setting.ratio=1.5 does not fit"):
        apply(make(), 0, "noisy", {"ratio": 1.5})
    with pytest.raises(UserError, match=r"setting.models is not known"):
        apply(make(), 0, "multi_class", {"models": "category"})


def test_categories_without_training_images_have_no_model_of_their_own():
    before = make()
    drift = before.where(lambda s: s.category == "a" or s.split == TEST)
    assert [part.name for part in cut(drift, "all")] == ["all"]
    with pytest.raises(UserError, match="no training images of b"):
        cut(drift, "category")
    untested = before.where(lambda s: s.category == "a" or s.split != TEST)
    assert [part.name for part in cut(untested, "category")] == ["a"]


def test_moves_are_checked():
    before = make()
    train = next(s for s in before if s.split == "train")
    for wrong in (
        (*before.samples, before.samples[0]),
        (*before.samples, replace(train, image="elsewhere.png")),
        tuple(replace(s, split=TEST) if s == train else s for s in before),
    ):
        with pytest.raises(AssertionError):
            check_moves(before, replace(before, samples=wrong))


def test_supervision_is_refused_without_defects():
    for name in ("image", "pixel"):
        with pytest.raises(UserError, match="setting=labeled"):
            check_supervision(name, make())
        check_supervision(name, applied("labeled", make(), k=1))
    check_supervision("normal", make())
