"""SegAD against the numbers and definitions of its paper and of its released code."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xgboost
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import kurtosis, skew
from torch import nn

from ader.__main__ import main
from ader.data import load_index
from ader.data.image import BadImageError
from ader.data.index import TEST, Index, Sample
from ader.data.labelmaps import LabelMaps, read_label_map, resized
from ader.methods import build
from ader.methods._base import Batch, FitPass, Method, Prediction, Tags, TrainStage
from ader.methods._finished import Model
from ader.methods.segad import SegAD
from ader.nets.scoring.segments import Segments, segment_statistics
from ader.nets.state.forest import BoostedForest, ForestOptions
from ader.nets.synthesis.blemishes import BlemishOptions, blemished
from ader.nets.synthesis.draws import uniform
from ader.report.seeds import Spread, image_auroc, image_fpr95, image_metric, over_seeds, unseen_defects
from ader.results.record import write
from ader.settings import FOREST, apply
from ader.system.errors import UserError
from ader.testing.subject import Subject, predict
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader, hold_out
from ader.training.trainer import Trainer
from tests.layouts.vad import write_learnable
from tests.support.records import a_record

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

CPU = torch.device("cpu")
TINY = {"name": "test_resnet", "pretrained": False}
LITTLE = {"layers": [1, 2], "embed_dim": 192}


class Given(Method):
    """A detector whose map is one of its image's channels."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def predict(self, image_BCHW):
        return Prediction(image_BCHW[:, self.channel].amax(dim=(1, 2)), image_BCHW[:, self.channel])


def given(detectors: int = 2, **arguments) -> SegAD:
    """A method whose detectors' maps are the image's first channels."""
    method = build("segad", detectors=["rd", "patchcore"][:detectors], backbone=TINY, **arguments)
    method.detectors = nn.ModuleDict({f"{place}": Given(place) for place in range(detectors)})
    return method


def fed(method: SegAD, image_BCHW, label_B, **inputs) -> SegAD:
    """The method after its passes over these images, three at a time."""
    for stage in method.stages():
        torch.manual_seed(0)
        for first in range(0, len(label_B), 3):
            part = slice(first, first + 3)
            own = {name: value[part] for name, value in inputs.items()}
            batch = Batch(image_BCHW[part], torch.arange(len(label_B))[part], label_B[part], inputs=own)
            stage.update(batch)
        stage.finish()
    return method


@pytest.fixture(scope="module")
def toy():
    """Maps with larger values somewhere in the defective images' middle band, and a label map of three bands."""
    generator = torch.Generator().manual_seed(0)
    image_BCHW = torch.rand(60, 3, 16, 18, generator=generator) ** 3
    label_B = (torch.arange(60) % 3 == 0).long()
    image_BCHW[:, :, 8, 5:9] += 0.5 * label_B[:, None, None]
    segment_HW = torch.arange(16)[:, None].expand(16, 18) // 6
    return image_BCHW, label_B, segment_HW


# what the whole costs


def test_parameters_and_macs():
    """The detectors' own, and nothing else (the sheet: 0 added); RD 80.6 M and 28.4 G as ADer's Table 1 has them."""
    with torch.device("meta"):
        method = build("segad", backbone={"name": "", "pretrained": False})
    assert count_parameters(method) == (80_609_600 + 24_862_528, 55_747_072)
    assert count_macs(method, 256, torch.device("meta")) == pytest.approx(28.36e9 + 12.0e9, rel=5e-3)


# statistics


def expected(values: np.ndarray, quantile: float = 0.995) -> list[float]:
    """One segment's, by numpy and SciPy."""
    if not len(values):
        return [0, 0, 0, 0]
    return [np.quantile(values, quantile), skew(values), kurtosis(values), values.mean()]


@pytest.mark.parametrize("quantile", [0.995, 0.5, 0.03, 1.0])
@pytest.mark.parametrize("shared", [False, True])
def test_statistics_are_numpys_and_scipys(quantile, shared):
    generator = torch.Generator().manual_seed(1)
    map_BKHW = torch.rand(4, 3, 23, 31, generator=generator) ** 4 * 50 - 3
    label_BHW = torch.randint(0, 5, (1 if shared else 4, 23, 31), generator=generator)
    label_BHW[-1][label_BHW[-1] == 3] = 1  # an empty segment
    label_BHW[0, 0, 0] = 4
    label_BHW[0, 0, 1:][label_BHW[0, 0, 1:] == 4] = 0
    found = segment_statistics(map_BKHW, Segments.of(label_BHW), quantile)
    assert found.shape == (4, 5, 3, 4)
    for image in range(4):
        for number in range(5):
            inside = (label_BHW[0 if shared else image] == number).numpy()
            for which in range(3):
                values = map_BKHW[image, which].double().numpy()[inside]
                np.testing.assert_allclose(
                    found[image, number, which], expected(values, quantile), rtol=1e-9, atol=1e-9
                )


def test_statistics_by_hand():
    """1, 2, 3, 10: mean 4, deviations -3, -2, -1, 6; m2 = 50/4, m3 = 180/4, m4 = 1394/4; place 0.995 * 3 = 2.985."""
    label_BHW = torch.zeros(1, 1, 4, dtype=torch.long)
    found = segment_statistics(torch.tensor([[[[3.0, 1, 10, 2]]]]), Segments.of(label_BHW), 0.995)[0, 0, 0].tolist()
    assert found == pytest.approx([3 + 0.985 * 7, 45 / 12.5**1.5, 348.5 / 12.5**2 - 3, 4])


def test_constant_single_and_empty_segments_are_defined():
    label_BHW = torch.tensor([[[0, 0, 0, 1, 3]]])
    found = segment_statistics(torch.tensor([[[[7.0, 7.0, 7.000001, 5.0, 2.0]]]]), Segments.of(label_BHW), 0.995)[
        0, :, 0
    ]
    assert found[0].tolist() == pytest.approx([7, 0, 0, 7], abs=1e-5)
    assert found[0, 1:3].tolist() == [0, 0]
    assert found[1].tolist() == [5, 0, 0, 5]
    assert found[2].tolist() == [0, 0, 0, 0]


def test_moments_keep_their_digits_on_a_large_offset():
    values = 1000 + torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    found = segment_statistics(values, Segments.of(torch.zeros(1, 64, 64, dtype=torch.long)), 0.995)[0, 0, 0]
    np.testing.assert_allclose(found, expected(values.double().numpy().ravel()), rtol=1e-9, atol=1e-9)


def test_labels_beyond_the_count_are_in_no_segment():
    label_BHW = torch.tensor([[[0, 1, 5, 1]]])
    found = segment_statistics(torch.tensor([[[[1.0, 2, 9, 4]]]]), Segments.of(label_BHW, 2), 0.5)[0, :, 0]
    assert found[:, 3].tolist() == [1, 3]


# features


@pytest.mark.parametrize("map_maximum", [True, False])
def test_features_are_in_the_released_codes_order(toy, map_maximum):
    """By segment, then detector, then statistic; the maxima of the whole maps at the end."""
    image_BCHW, label_B, segment_HW = toy
    method = given(map_maximum=map_maximum, forest={"trees": 2})
    method.per_image = True
    fed(method, image_BCHW, label_B, segments=segment_HW.expand(60, -1, -1))
    table = method.table.get().numpy()
    assert table.shape == (60, 1 + 4 * 2 * 3 + (2 if map_maximum else 0))
    assert table[:, 0].tolist() == label_B.tolist()
    for image in (0, 7, 59):
        wanted = []
        for number in range(3):
            for channel in range(2):
                wanted += expected(image_BCHW[image, channel][segment_HW == number].double().numpy())
        wanted += [float(image_BCHW[image, channel].max()) for channel in range(2)] if map_maximum else []
        np.testing.assert_allclose(table[image, 1:], wanted, rtol=2e-6, atol=2e-6)


def test_chosen_statistics(toy):
    """``recipe=max``: the maximum of each map in each segment, and nothing else."""
    image_BCHW, label_B, segment_HW = toy
    own = {"statistics": ["quantile"], "quantile": 1.0, "map_maximum": False}
    method = given(**own)
    method.label_1HW = segment_HW[None].to(torch.uint8)
    table = fed(method, image_BCHW, label_B).table.get()
    bands = [image_BCHW[:, :2, band : band + 6].amax(dim=(2, 3)) for band in (0, 6, 12)]
    torch.testing.assert_close(table[:, 1:], torch.cat(bands, dim=1))
    assert predict(method, image_BCHW[:2]).score_B.shape == (2,)
    with pytest.raises(UserError, match=r"method.statistics=\['mean', 'mean'\]: name one or more of quantile"):
        given(statistics=["mean", "mean"])


def test_published_lengths():
    """VAD with 7 segments and 4 detectors: 112 in the paper, 116 with the code's maxima, one more with a classifier."""
    method = given()
    method.detectors = nn.ModuleDict({f"{place}": Given(0) for place in range(4)})
    assert method._width(7) == 116
    method.map_maximum = False
    assert method._width(7) == 112
    method.classifier = Given(0)
    assert method._width(7) == 113


def test_grid_of_segments():
    label_HW = given(segments="2x3", image_size=6).label_1HW[0]
    assert label_HW.tolist() == [[0, 0, 1, 1, 2, 2]] * 3 + [[3, 3, 4, 4, 5, 5]] * 3
    for text in ("0x3", "9x9", "1x7"):
        with pytest.raises(UserError, match=f"method.segments={text}: give rows and columns of 1 to 64 segments"):
            given(segments=text, image_size=6)


def test_segments_that_some_batches_lack_are_empty(toy):
    image_BCHW, label_B, segment_HW = toy
    segment_BHW = segment_HW.expand(60, -1, -1).clone()
    segment_BHW[:3] = 0
    method = given(forest={"trees": 2})
    method.per_image = True
    fed(method, image_BCHW, label_B, segments=segment_BHW)
    table = method.table.get()
    assert table.shape == (60, 1 + 4 * 2 * 3 + 2)
    assert not table[:3, 1 + 8 : 1 + 24].any()
    assert table[3:, 1 + 8 : 1 + 24].any(dim=1).all()
    scores = method.predict(image_BCHW[:3], segments=segment_BHW[:3]).score_B  # of another largest label
    assert scores.isfinite().all()
    with pytest.raises(UserError, match="cannot score images without them"):
        method.predict(image_BCHW[:3])


def test_a_label_map_for_all_images_and_one_for_each_are_the_same(toy, tmp_path):
    image_BCHW, label_B, segment_HW = toy
    image_BCHW = image_BCHW[..., :16]
    Image.fromarray(segment_HW[:, :16].numpy().astype(np.uint8)).save(tmp_path / "bands.png")
    one = fed(given(segments=str(tmp_path / "bands.png"), image_size=16), image_BCHW, label_B)
    other = given(image_size=16)
    other.per_image = True
    labels = segment_HW[:, :16].expand(60, -1, -1)
    fed(other, image_BCHW, label_B, segments=labels)
    assert one.table.get().equal(other.table.get())
    assert one.predict(image_BCHW).score_B.equal(other.predict(image_BCHW, segments=labels).score_B)


# the forest


def test_forest_is_xgboosts_own_classifier(toy):
    """The estimator of the released code, with its arguments, on the same table."""
    image_BCHW, label_B, _ = toy
    method = fed(given(), image_BCHW, label_B)
    table = method.table.get().numpy()
    torch.manual_seed(0)
    seed = int(torch.randint(2**31 - 1, ()))
    theirs = xgboost.XGBClassifier(
        random_state=seed,
        n_estimators=10,
        max_depth=5,
        num_parallel_tree=200,
        learning_rate=0.3,
        objective="binary:logitraw",
        colsample_bynode=0.6,
        colsample_bytree=0.6,
        subsample=0.6,
        reg_alpha=1.0,
        scale_pos_weight=40 / 20,
        n_jobs=1,
    ).fit(table[:, 1:], table[:, 0])
    margins = theirs.predict_proba(table[:, 1:])[:, 1]
    scores = method.predict(image_BCHW).score_B.numpy()
    np.testing.assert_allclose(scores, margins, rtol=0, atol=1e-6)
    assert len(np.unique(scores)) > 30
    assert theirs.get_booster().num_boosted_rounds() * 200 == 2000


def test_options_reach_xgboost():
    assert ForestOptions(balance=False).parameters(3, 30, 10)["scale_pos_weight"] == 1
    told = ForestOptions(2, 7, 4, 0.1, 0.5, 0.7, 0.8, 2.0).parameters(3, 30, 10)
    assert told == {
        "num_parallel_tree": 7,
        "max_depth": 4,
        "learning_rate": 0.1,
        "subsample": 0.5,
        "colsample_bytree": 0.7,
        "colsample_bynode": 0.8,
        "reg_alpha": 2.0,
        "scale_pos_weight": 3.0,
        "objective": "binary:logitraw",
        "seed": 3,
        "nthread": 1,
        "tree_method": "hist",
    }


def test_forest_travels_as_bytes():
    generator = torch.Generator().manual_seed(0)
    feature_NF, label_N = torch.rand(50, 4, generator=generator), torch.arange(50) % 2
    forest = BoostedForest(ForestOptions(rounds=2, trees=5))
    with pytest.raises(RuntimeError, match="before the method was fitted"):
        forest(feature_NF)
    forest.fit(feature_NF, label_N, seed=1)
    first = forest(feature_NF)
    assert forest.model.get().dtype == torch.uint8
    booster = xgboost.Booster()
    booster.load_model(bytearray(forest.model.get().numpy().tobytes()))
    assert booster.num_boosted_rounds() == 2
    other = BoostedForest(ForestOptions(rounds=2, trees=5))
    other.fit(feature_NF, 1 - label_N, seed=1)
    assert not other(feature_NF).equal(first)
    other.load_state_dict(forest.state_dict())  # the one in memory must not be used any more
    assert other(feature_NF).equal(first)


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("rf", {"rounds": 1, "trees": 2000, "rate": 1.0, "colsample_bytree": 0.6}),
        ("bt", {"rounds": 2000, "trees": 1, "rate": 0.3, "colsample_bytree": 1.0}),
        ("paper", {"rounds": 10, "trees": 200, "balance": False}),
    ],
)
def test_recipes(recipe, wanted, capsys):
    assert main(["--cfg", "method=segad", "dataset=demo", f"recipe={recipe}"]) == 0
    printed = capsys.readouterr().out
    for name, value in wanted.items():
        assert f"    {name}: {str(value).lower() if isinstance(value, bool) else value}\n" in printed
    assert ("map_maximum: false" in printed) == (recipe == "paper")


# generated defects


def test_blur_is_a_gaussian_inside_one_segment():
    generator = torch.Generator().manual_seed(0)
    image_BCHW = torch.rand(12, 3, 40, 44, generator=generator)
    label_BHW = (torch.arange(44) // 15)[None, None].expand(1, 40, 44)
    options = BlemishOptions(blurred=1, partial=0, sigma=(2.0, 2.0))
    after = blemished(image_BCHW, label_BHW, torch.arange(12), options)
    seen = set()
    for image in range(12):
        changed = (after[image] != image_BCHW[image]).any(dim=0)
        (number,) = set(label_BHW[0][changed].tolist())
        seen.add(number)
        inside = label_BHW[0] == number
        soft = gaussian_filter(image_BCHW[image].numpy(), sigma=(0, 2, 2), mode="nearest", truncate=3)
        np.testing.assert_allclose(after[image][:, inside], soft[:, inside], atol=1e-6)
        assert after[image][:, ~inside].equal(image_BCHW[image][:, ~inside])
    assert seen == {0, 1, 2}


def test_part_of_a_segment():
    image_BCHW = torch.rand(20, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    label_BHW = (torch.arange(40) // 20)[None, None].expand(1, 40, 40)
    options = BlemishOptions(blurred=1, partial=1, part=(0.2, 0.2))
    after = blemished(image_BCHW, label_BHW, torch.arange(20), options)
    for changed in (after != image_BCHW).any(dim=1):
        rows, columns = (changed.any(dim=way).nonzero()[:, 0] for way in (1, 0))
        assert 1 <= int(rows.max() - rows.min()) + 1 <= 9
        assert len(set((columns // 20).tolist())) == 1  # not beyond its segment
        assert changed.sum() == len(rows) * len(columns)


def test_rectangles_are_thin_or_small_and_gray():
    image_BCHW = torch.rand(60, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    label_BHW = torch.zeros(1, 100, 100, dtype=torch.long)
    for thin, long, short in ((1, (5, 40), (1, 2)), (0, (1, 6), (1, 6))):
        after = blemished(image_BCHW, label_BHW, torch.arange(60), BlemishOptions(blurred=0, thin=thin))
        sides, grays = [], []
        for image, before in zip(after, image_BCHW, strict=True):
            changed = (image != before).any(dim=0)
            rows, columns = (changed.any(dim=way).nonzero()[:, 0] for way in (1, 0))
            sides.append((int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1))
            assert changed.sum() == sides[-1][0] * sides[-1][1]
            (gray,) = set(image[:, changed].flatten().tolist())
            grays.append(gray)
        assert all(long[0] <= max(pair) <= long[1] and short[0] <= min(pair) <= short[1] for pair in sides)
        assert len(set(grays)) == 60
        if thin:
            assert {a > b for a, b in sides} == {True, False}


def test_a_defect_depends_on_the_images_seed_alone():
    image_BCHW = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    label_BHW = torch.randint(0, 3, (6, 32, 32), generator=torch.Generator().manual_seed(1))
    whole = blemished(image_BCHW, label_BHW, torch.arange(6), BlemishOptions())
    for image in range(6):
        part = slice(image, image + 1)
        alone = blemished(image_BCHW[part], label_BHW[part], torch.arange(6)[part], BlemishOptions())
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-6)
    assert not blemished(image_BCHW, label_BHW, torch.arange(6), BlemishOptions(), "1").equal(whole)
    blurred = uniform(torch.arange(6), "blemish//kind") < 0.5
    assert 0 < blurred.sum() < 6


def test_defects_are_generated_only_where_there_are_none(toy):
    image_BCHW, label_B, _ = toy
    normal = torch.zeros_like(label_B)
    options = {"copies": 2, "blurred": 0.0}
    method = fed(given(generated=options, forest={"trees": 5}), image_BCHW, normal)
    table = method.table.get()
    assert table[:, 0].tolist() == [0] * 60 + [1] * 120
    assert not table[60:63, 1:].equal(table[63:66, 1:])
    real = fed(given(generated=options, forest={"trees": 5}), image_BCHW, label_B)
    assert real.table.get()[:, 0].tolist() == label_B.tolist()


# detectors inside


class Watching:
    """Training data that remember which stage saw which images."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.order = loader, loader.order
        self.seen: dict[str, set[str]] = {}
        self.labels: dict[str, bool] = {}

    def train(self, stage, start, stop):
        self.seen[stage.name] = {sample.image for sample in self.loader._training(stage)}
        for batch in self.loader.train(stage, start, stop):
            self.labels[stage.name] = batch.label_B is not None
            yield batch


class Holds(Method):
    """A detector that holds images out, as EfficientAD does."""

    holdout = {"calibration": 0.2}  # noqa: RUF012

    def stages(self):
        for split in ("train", "calibration"):
            yield FitPass(name=split, batch_size=4, split=split, update=lambda batch: None, finish=lambda: None)

    def predict(self, image_BCHW):
        return Prediction(image_BCHW.amax(dim=(1, 2, 3)), image_BCHW[:, 0])


class Judges(Method):
    """A classifier on everything but a share."""

    tags = Tags(maps=False, supervision="image")
    share = 0.8

    def stages(self):
        more = {"update": lambda batch: None, "finish": lambda: None}
        yield FitPass(name="judge", batch_size=4, split=("train", FOREST), share=self.share, **more)

    def predict(self, image_BCHW):
        return Prediction(image_BCHW.mean(dim=(1, 2, 3)))


@pytest.fixture(scope="module")
def vad(tmp_path_factory) -> Path:
    return write_learnable(tmp_path_factory.mktemp("vad"))


def test_what_trains_detectors_and_what_trains_the_forest_never_overlap(vad):
    index, (part,) = apply(load_index("vad", vad), 3, "supervised", {"detector_share": 0.5})
    method = given(forest={"trees": 2}, image_size=32)
    method.detectors = nn.ModuleDict({"a": Holds(), "b": Holds()})
    method.classifier, method.classifier_name = Judges(), "judge"
    assert method.holdout == {"a/calibration": 0.2, "b/calibration": 0.2}
    data = Watching(Loader(hold_out(part.index, method.holdout, 3), 32, CPU, 3, 0, method.tags))
    Trainer(device=CPU, seed=3).fit(method, data)
    train = {sample.image for sample in index if sample.split == "train"}
    forest = {sample.image for sample in index if sample.split == FOREST}
    assert data.seen["forest"] == forest
    assert len(train) == 20
    for name in "ab":  # each trains on all that it does not hold out itself
        assert data.seen[f"{name}/train"] | data.seen[f"{name}/calibration"] == train
        assert not data.seen[f"{name}/train"] & data.seen[f"{name}/calibration"]
        assert len(data.seen[f"{name}/calibration"]) == 4
        assert not data.labels[f"{name}/train"]
    assert data.seen["a/calibration"] != data.seen["b/calibration"]
    assert len(data.seen["judge/judge"]) == 0.8 * len(train | forest)
    assert data.seen["judge/judge"] & forest
    assert data.labels["judge/judge"]
    assert data.labels["forest"]


def test_a_detector_that_asks_for_the_forests_images_is_refused():
    class Peeks(Holds):
        def stages(self):
            yield FitPass(name="peek", batch_size=4, split=FOREST, update=print, finish=print)

    method = given()
    method.detectors = nn.ModuleDict({"a": Peeks()})
    with pytest.raises(AssertionError, match="a asks for what the forest learns from"):
        next(method.stages())


def test_detectors_get_their_arguments():
    method = build(
        "segad",
        detectors=["rd", "patchcore"],
        options={
            "rd": {"epochs": 3, "backbone": {"name": "resnet34"}},
            "patchcore": {"layers": [1, 2], "embed_dim": 64},
        },
        epochs=7,
        backbone=TINY,
        image_size=64,
    )
    recipes = {"rd": {"recipe": "anomalib"}, "patchcore": {"recipe": "anomalib", "coreset": 0.01}}
    paper = build("segad", options=recipes, epochs=7, backbone=TINY)
    rd, patchcore = paper.detectors.values()
    assert (rd.epochs, rd.batch_size, rd.clip, rd.betas, rd.drop_last) == (7, 32, None, (0.5, 0.99), False)
    assert (patchcore.coreset, patchcore.num_neighbors, patchcore.distance) == (0.01, 9, "euclidean")
    assert method.detectors["rd"].epochs == 3
    assert len(method.detectors["rd"].teacher.net.layer1) == 3  # resnet34's
    assert method.detectors["patchcore"].patches.embed_dim == 64
    assert build("segad", detectors=["rd"], epochs=7, backbone=TINY).detectors["rd"].epochs == 7
    stage = next(method.stages())
    assert isinstance(stage, TrainStage)
    assert (stage.name, stage.split, stage.supervision) == ("rd/distil", ("train",), "normal")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"detectors": []}, r"method.detectors=\[\]: name one or more"),
        ({"detectors": ["rd", "rd"]}, "each once"),
        ({"detectors": ["segad"]}, "segad gives no anomaly maps"),
        ({"detectors": ["rdd"]}, "did you mean 'rd'"),
        ({"classifier": "rd"}, "method.classifier=rd learns from no labels"),
        ({"options": {"uniad": {}}}, "method.options.uniad: uniad is none of method.detectors"),
        ({"options": {"rd": {"lrr": 1}}}, "method.options.rd.lrr is not known to RD: did you mean 'lr'"),
        ({"options": {"rd": {"recipe": "none"}}}, "recipe=none does not exist for rd"),
        ({"options": {"rd": {"lr": -1}}}, "method.options.rd.lr=-1 does not fit"),
        ({"runs": {"uniad": "x"}}, "method.runs.uniad: uniad is none of method.detectors"),
        ({"runs": {"rd": "/nowhere"}}, "/nowhere is not a folder"),
        ({"runs": {"rd": "x"}, "options": {"rd": {}}}, "none of method.detectors that is trained in this run"),
        ({"quantile": 1.5}, "method.quantile=1.5 does not fit"),
        ({"forest": {"trees": 0}}, "method.forest"),
        ({"forest": {"tree": 1}}, "method.forest"),
        ({"generated": {"sigma": [0, 1]}}, "method.generated"),
        ({"segments": __file__}, "is no label map"),
    ],
)
def test_bad_arguments_are_explained(arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        build("segad", **{"backbone": TINY, **arguments})
    assert "\n" not in str(caught.value)


# label maps


def test_label_maps_are_read_and_resized(tmp_path):
    label_HW = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(label_HW).save(tmp_path / "a.png")
    palette = Image.fromarray(label_HW)
    palette.putpalette([200, 10, 10] * 256)
    palette.save(tmp_path / "p.png")
    np.save(tmp_path / "b.npy", label_HW.astype(np.float64))
    np.savez(tmp_path / "c.npz", label_HW.astype(np.int64))
    for name in ("a.png", "p.png", "b.npy", "c.npz"):
        assert np.array_equal(read_label_map(tmp_path / name), label_HW)
    assert np.array_equal(resized(label_HW, 2), [[1, 3], [9, 11]])
    assert np.array_equal(resized(label_HW, 3)[:, 0], [0, 4, 8])
    same = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert np.array_equal(resized(same, 4), same)
    assert np.array_equal(resized(same, 8), same.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("a.npy", np.zeros((2, 2, 2), int), "two-dimensional"),
        ("a.npy", np.full((2, 2), 0.5), "has numbers like 0.5"),
        ("a.npy", np.array([[0, 255]]), "labels from 0 to 255: number them 0, 1, ... 63"),
        ("a.npy", np.array([[0, -1]]), "labels from -1"),
        ("a.png", np.zeros((4, 4, 3), np.uint8), "is a color image"),
        ("a.npz", None, "does not exist"),
        ("a.png", b"nothing", "is not an image that Pillow can read"),
        ("a.npy", b"nothing", "cannot be read"),
    ],
)
def test_bad_label_maps_are_named(tmp_path, name, values, match):
    file = tmp_path / name
    if isinstance(values, bytes):
        file.write_bytes(values)
    elif name.endswith("png"):
        Image.fromarray(values).save(file)
    elif values is not None:
        np.save(file, values)
    with pytest.raises(UserError, match=match) as caught:
        read_label_map(file)
    assert str(file) in str(caught.value)


def test_label_maps_that_could_be_read_wrongly(tmp_path):
    """Pages, checksums and orientation as for images; what is no file is not waited for."""
    label_HW = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image, file = Image.fromarray(label_HW), tmp_path / "a.png"
    image.save(file, save_all=True, append_images=[Image.fromarray(label_HW[::-1].copy())])
    with pytest.raises(UserError, match=r"a\.png has 2 pages or frames") as caught:
        read_label_map(file)
    assert not isinstance(caught.value, BadImageError)  # which would pass for the image's own fault
    image.save(file)
    content = file.read_bytes()
    file.write_bytes(content[:-16] + bytes(4) + content[-12:])
    with pytest.raises(UserError, match=r"a\.png is truncated or damaged \(checksum of 'IDAT'"):
        read_label_map(file)
    tag = Image.Exif()
    tag[274] = 3  # by half a turn
    Image.fromarray(label_HW[::-1, ::-1].copy()).save(file, exif=tag)
    assert np.array_equal(read_label_map(file), label_HW)
    for name in ("b.png", "b.npy"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is a FIFO, not a file"):
            read_label_map(tmp_path / name)


def test_every_image_needs_a_map_that_fits(tmp_path):
    for image in ("x/0.png", "x/1.jpg"):
        (tmp_path / "data" / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(tmp_path / "data" / image)
    index = Index("made-up", tmp_path / "data", tuple(Sample(f"x/{n}", "x", "train", 0) for n in ("0.png", "1.jpg")))
    folder = tmp_path / "maps"
    with pytest.raises(UserError, match="maps is not a folder"):
        LabelMaps(folder).check(index, 1)
    (folder / "x").mkdir(parents=True)
    np.save(folder / "x" / "0.npy", np.zeros((4, 6), int))
    with pytest.raises(UserError, match=r"maps/x/1 is missing with any of the endings .png .npy .npz"):
        LabelMaps(folder).check(index, 1)
    np.save(folder / "x" / "1.npy", np.zeros((6, 4), int))
    with pytest.raises(UserError, match=r"1.npy is 4x6 pixels, its image 6x4: give that size, or a square"):
        LabelMaps(folder).check(index, 1)
    np.save(folder / "x" / "1.npy", np.ones((9, 9), int))
    LabelMaps(folder).check(index, 1)
    loader = Loader(index, 8, CPU, 0, 0, Tags(), inputs={"segments": LabelMaps(folder)})
    stage = FitPass(name="p", batch_size=2, update=print, finish=print, inputs=())
    assert "segments" not in next(loader.train(stage, 0, 1)).inputs
    asked = FitPass(name="p", batch_size=2, update=print, finish=print, inputs=("segments",))
    (batch,) = loader.train(asked, 0, 1)
    assert batch.inputs["segments"].tolist() == [[[0] * 8] * 8, [[1] * 8] * 8]


# whole runs


def words(vad: Path, results: Path, *more: str, method: str = "segad", setting: str = "vad_high_shot") -> list[str]:
    own = {
        "segad": ["method.detectors=[patchcore]", "method.forest.trees=20"],
        "patchcore": [f"method.{key}={value}".replace(" ", "") for key, value in LITTLE.items()],
    }
    return [
        "dataset=vad",
        "dataset.check_counts=false",
        f"dataset.root={vad}",
        f"method={method}",
        f"setting={setting}",
        f"paths.results={results}",
        f"paths.cache={results}/cache",
        "image_size=64",
        "trainer.device=cpu",
        "trainer.workers=0",
        "method.backbone.name=test_resnet",
        "method.backbone.pretrained=false",
        *own.get(method, []),
        *more,
    ]


def record_of(results: Path, method: str) -> tuple[Path, dict]:
    (file,) = results.glob(f"*/*/{method}/*/record.json")
    return file.parent, json.loads(file.read_text())


@pytest.fixture(scope="module")
def detector(vad, tmp_path_factory) -> tuple[Path, Path]:
    """A finished PatchCore on the detectors' half, and its results folder."""
    results = tmp_path_factory.mktemp("results")
    assert main(words(vad, results, "seed=1", method="patchcore", setting="vad_one_class")) == 0
    return record_of(results, "patchcore")[0], results


def test_a_finished_detector_in_a_run(vad, detector, capsys):
    folder, results = detector
    taken = f"+method.runs.patchcore={folder}"
    segments = f"method.segments={vad / 'segments.png'}"
    assert main(words(vad, results, "seed=1", taken, segments)) == 0
    run, record = record_of(results, "segad")
    weights = record["models"]["vad"]["network"]["weights"][-1]
    assert weights["source"] == str(folder)
    assert (
        weights["sha256"] == json.loads((folder / "record.json").read_text())["models"]["vad"]["checkpoint"]["sha256"]
    )
    assert record["provenance"]["versions"]["xgboost"] == xgboost.__version__
    assert record["warnings"][-1] == "backbone test_resnet has random weights (not pretrained)"
    stages = record["models"]["vad"]["training"]["stages"]
    assert {name: stage["images"] for name, stage in stages.items()} == {"forest": 40}
    before = (run / "metrics.csv").read_bytes()
    assert main(["eval", str(run), "trainer.test_batch_size=3", "force=true"]) == 0
    assert (run / "metrics.csv").read_bytes() == before
    capsys.readouterr()
    refused = {
        (taken, "seed=2"): "images that this run keeps from detectors",
        (taken, "seed=1", "image_size=32"): "saw images of 64 pixels, this run's have 32",
        (taken, "seed=1", "setting=multi_class"): "the setting sets none apart",
        (f"+method.runs.patchcore={run}", "seed=1"): "is a run of segad: give one of patchcore",
        (f"+method.runs.patchcore={vad}", "seed=1"): "is not a run's folder",
        (taken, "seed=1", "+method.options.patchcore.coreset=0.5"): "trained in this run",
        ("seed=1", f"method.segments={vad}/train"): "is missing with any of the endings",
        ("seed=1", "setting=vad_one_class", "method.generated=null"): "has no defects to learn from",
        ("seed=1", "setting=vad_one_class", "method.classifier=wrn_classifier"): "needs labeled defects",
    }
    for more, message in refused.items():
        assert main(words(vad, results, *more)) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1


def test_runs_of_other_data_and_unknown_images_are_refused(detector, vad):
    folder, _ = detector
    model = Model.at(folder)
    digest = model.trained.record.data_hash
    training = apply(load_index("vad", vad), 1, "supervised", {"detector_share": 0.5})[0]
    training = training.where(lambda sample: sample.split != TEST)
    model.check_data(training, digest)
    with pytest.raises(UserError, match="another dataset than this run's"):
        model.check_data(training, "other")
    few = training.where(lambda sample: sample.split == FOREST)
    with pytest.raises(UserError, match="trained on 20 images that are no training images here"):
        model.check_data(few, digest)
    with pytest.raises(UserError, match=r"is no part of the run in"):
        Model.at(folder / "parts" / "lens")


def test_a_forest_beats_its_detector(vad, detector, tmp_path, capsys):
    """The protocol's script: the forest learns that what the left half shows is harmless."""
    import protocols

    rows = ["patchcore", "max:patchcore"]
    arguments = ["vad", "--rows", *rows, "--seeds", "1", "--columns", "one-class", "high-shot", "--out"]
    more = words(vad, tmp_path, method="patchcore")[-2:]
    own = [f"patchcore:{word}" for word in (*more, "recipe=null", "method.coreset=0.1")]  # 1 % of 20 images is little
    common = [
        word for word in words(vad, tmp_path, method="none") if not word.startswith(("dataset=", "method=", "setting="))
    ]
    protocols.main([*arguments, str(tmp_path), "--", *common, "segad:method.forest.trees=20", *own])
    text = (tmp_path / "protocol.md").read_text()
    assert all(f"| patchcore{more} |" in text for more in ("        ", " + SegAD", " + Max. "))
    table = pd.read_csv(tmp_path / "protocol.csv").set_index(["row", "column", "value"])
    alone = table.loc[("patchcore", "high-shot", "image_auroc"), "mean"]
    for column in ("one-class", "high-shot"):
        assert table.loc[("patchcore + SegAD", column, "image_auroc"), "mean"] > alone + 3
    assert (table["seeds"] == 1).all()
    unseen = pd.read_csv(tmp_path / "unseen.csv")
    assert set(unseen["value"]) == {"seen", "unseen", "recall"}
    chosen = [json.loads(file.read_text()) for file in tmp_path.glob("vad/*/segad/*/record.json")]
    assert len(chosen) == 4
    assert {record["config"]["method"]["segments"] for record in chosen} == {
        str(vad / "segments.png")
    }  # beside the data
    capsys.readouterr()
    protocols.main([*arguments, str(tmp_path), "--", *common, "segad:method.forest.trees=20", *own])  # found again
    assert capsys.readouterr().out.count("This result exists already") == 5
    assert (tmp_path / "protocol.md").read_text() == text


def test_protocols_have_the_papers_detectors(monkeypatch, tmp_path):
    """anomalib's, 200 epochs of RD and 1 % of PatchCore's patches; 'all' names those of them that are here."""
    import protocols

    made = []
    monkeypatch.setattr(protocols, "run", lambda config: made.append(config) or tmp_path)
    vad = protocols.PROTOCOLS["vad"]
    for name in protocols.row_detectors(vad, "max:all"):
        protocols.detector_run(vad, name, 3, [f"dataset.root={tmp_path}", "rd:method.batch_size=2"])
    rd, patchcore = (config.values for config in made)
    assert (rd["method"]["epochs"], rd["method"]["batch_size"], rd["seed"]) == (200, 2, 3)
    assert (rd["method"]["clip"], rd["method"]["lr_decay_at"], rd["method"]["betas"]) == (None, 1.0, [0.5, 0.99])
    assert (patchcore["method"]["coreset"], patchcore["method"]["num_neighbors"]) == (0.01, 9)
    assert protocols.row_title(vad, "max:all") == "rd+patchcore + Max."
    protocols.segad_run(vad, "low-shot", {"rd": tmp_path}, 3, ["recipe=max"], [f"dataset.root={tmp_path}"])
    segad = made[-1].values["method"]
    assert (segad["statistics"], segad["quantile"], segad["map_maximum"]) == (["quantile"], 1.0, False)
    assert segad["segments"] is None
    (tmp_path / "segments").mkdir()
    protocols.segad_run(vad, "low-shot", {"rd": tmp_path}, 3, [], [f"dataset.root={tmp_path}"])
    assert made[-1].values["method"]["segments"] == str(tmp_path / "segments")


def test_the_common_checks_see_a_forest_that_splits():
    """Else agreement of scores would say nothing."""
    subject = Subject.named("segad", batch_size=8, backbone=TINY)  # as the common checks have it
    image_BCHW = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) ** 2
    assert len(predict(subject.fitted, image_BCHW).score_B.unique()) > 2


# over seeds


def finished(folder: Path, seed: int, auroc: dict[str, float], **more) -> Path:
    """A run's folder with what the summaries read."""
    folder.mkdir(parents=True)
    metric = {"size": "input", "map_interpolation": "bilinear", "mask_interpolation": "bilinear"}
    config = {
        "seed": seed,
        "metric": metric,
        "method": {"name": "segad", "runs": {"rd": f"run{seed}"}, "quantile": 0.9, **more},
    }
    write(folder, {}, a_record(seed=seed, config=config))
    table = pd.DataFrame({"image_auroc": auroc, "image_fpr95": 0.5})
    table.to_csv(folder / "metrics.csv", index_label="category")
    return folder


def test_mean_and_deviation_over_seeds(tmp_path):
    """0.8, 0.9 and 0.7: mean 80, sample deviation 10; the mean row's own deviation, not the mean of deviations."""
    values = [(0.8, 0.5), (0.9, 0.4), (0.7, 0.6)]
    runs = [
        finished(tmp_path / f"{seed}", seed, {"a": a, "b": b, "mean": (a + b) / 2})
        for seed, (a, b) in enumerate(values)
    ]
    table = over_seeds(runs, ["image_auroc"])
    assert table["image_auroc"].loc["a"].tolist() == pytest.approx([80, 10, 3])
    assert table["image_auroc"].loc["mean"].tolist() == pytest.approx([65, 0, 3], abs=1e-9)
    assert str(Spread.of([0.8, 0.9, 0.7])) == "80.0 +- 10.0"
    assert str(Spread.of([0.8])) == "80.0"
    assert str(Spread.of([0.8, float("nan")])) == "-"
    other = finished(tmp_path / "other", 9, {"a": 0.1, "b": 0.1, "mean": 0.1}, quantile=0.8)
    again = finished(tmp_path / "again", 0, {"a": 0.1, "b": 0.1, "mean": 0.1})
    for wrong, match in (
        ([*runs, other], r"they differ in method.quantile \(0.8 there, 0.9 here\)"),
        ([*runs, again], "the same seed"),
        ([*runs, tmp_path], "holds no finished run"),
        ([], "no runs are given"),
    ):
        with pytest.raises(UserError, match=match):
            over_seeds(wrong, ["image_auroc"])
    with pytest.raises(UserError, match="'auroc' is no metric"):
        over_seeds(runs, ["auroc"])


def test_unseen_defects_by_hand():
    """Twenty seen defects at 1 to 20 and two unseen at 0.5 and 30; normal images at 0, 0.7, 5.5 and 25."""
    scores = pd.DataFrame(
        {
            "score": [*range(1, 21), 0.5, 30, 0, 0.7, 5.5, 25],
            "label": [1] * 22 + [0] * 4,
            "defect": ["bad"] * 20 + ["new"] * 2 + ["good"] * 4,
            "category": "x",
        }
    )
    found = unseen_defects(scores, ["new"])
    assert found.seen == pytest.approx((20 + 20 + 15 + 0) / 80)
    assert found.unseen == pytest.approx((2 + 1 + 1 + 1) / 8)
    assert (found.recall, found.images) == (0.5, 2)  # the 5 % quantile of all 22 is 1.05
    with pytest.raises(UserError, match="must be some of the kinds of defect, which are bad, new"):
        unseen_defects(scores, ["old"])
    both = pd.concat([scores, scores.assign(category="y", score=-scores["score"])])
    assert image_metric(both, image_auroc) == pytest.approx(0.5)
    assert image_metric(scores, image_fpr95) == pytest.approx(0.5)
    assert np.isnan(image_metric(scores[scores["label"] == 1], image_auroc))
