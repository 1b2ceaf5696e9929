"""PatchCore against brute force and against the definitions of its authors' code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from ader.methods._options import option_arguments
from ader.methods.patchcore import PatchCore, projected_dim
from ader.nets.backbone import BackboneOptions
from ader.nets.scoring.patches import PatchFeatures
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
TRAINED = 6  # images: three steps of two


def features_by_definition(features: Sequence[torch.Tensor], dimensions: int) -> torch.Tensor:
    """Patch features (B, D, H, W) as in the authors' code: unfold 3x3 patches, bring them to the finest grid, pool
    every patch of every layer to ``dimensions`` numbers, then all layers together to ``dimensions``."""
    height, width = features[0].shape[2:]
    pooled = []
    for feature_BCHW in features:
        count, channels, *size = feature_BCHW.shape
        patch_BFHW = F.unfold(feature_BCHW, 3, padding=1).view(count, channels * 9, *size)
        patch_BFHW = F.interpolate(patch_BFHW, (height, width), mode="bilinear", align_corners=False)
        pooled.append(F.adaptive_avg_pool1d(patch_BFHW.permute(0, 2, 3, 1).flatten(0, 2)[:, None], dimensions))
    stacked = torch.stack([layer[:, 0] for layer in pooled], dim=1).flatten(1)
    patch_ND = F.adaptive_avg_pool1d(stacked[:, None], dimensions)[:, 0]
    return patch_ND.view(-1, height, width, dimensions).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("channels", "dimensions"),
    [
        ((512, 1024), 1024),
        ((512, 1024), 1536),
        ((128, 256), 1024),
        ((64, 128), 1024),
        ((512, 1024), 384),
        ((128, 256), 384),
        ((64, 128), 384),
        ((64, 128, 256), 384),
        ((256, 512, 1024), 384),
        ((24, 40), 64),
        ((256,), 100),
    ],
)
def test_patch_features_are_their_definition(channels, dimensions):
    generator = torch.Generator().manual_seed(0)
    sizes = [(8, 6), (4, 3), (2, 2)][: len(channels)]
    features = [torch.randn(2, c, *size, generator=generator) for c, size in zip(channels, sizes, strict=True)]
    patch_BDHW = PatchFeatures(channels, dimensions)(features)
    torch.testing.assert_close(patch_BDHW, features_by_definition(features, dimensions), atol=2e-6, rtol=1e-5)


def test_cost_at_full_size():
    with torch.device("meta"):
        method = PatchCore(backbone=BackboneOptions("wide_resnet50_2.tv_in1k", pretrained=False))
    assert count_parameters(method) == (24_862_528, 0)
    assert count_macs(method, 256, torch.device("meta")) == pytest.approx(12.00e9, rel=1e-3)
    assert (method.backbone.channels, method.backbone.strides) == ([512, 1024], [8, 16])


def fitted(**arguments) -> PatchCore:
    return Subject.named("patchcore", embed_dim=64, **arguments).fit()


def patches(method: PatchCore, image_BCHW: torch.Tensor) -> np.ndarray:
    method.eval()
    with torch.no_grad():
        return method(image_BCHW).flatten(0, 2).double().numpy()


def training_images() -> torch.Tensor:
    data = RandomImages(64, 3, CPU, PatchCore.tags)
    (stage,) = Subject.named("patchcore").make().stages()
    return torch.cat([batch.image_BCHW for batch in data.train(stage, 0, 3)])


@pytest.mark.parametrize("image_score", ["map", "patch"])
def test_whole_bank_is_brute_force(image_score):
    """With all patches in the bank, from images to maps: nearest squared distances, interpolated and smoothed."""
    method = fitted(coreset=1, image_score=image_score)
    bank_MD = patches(method, training_images())
    np.testing.assert_array_equal(method.bank.get().double().numpy(), bank_MD)
    image_BCHW = images(2, 64)
    distance_QM = cdist(patches(method, image_BCHW), bank_MD, "sqeuclidean")
    patch_BHW = torch.from_numpy(distance_QM.min(axis=1)).view(2, 8, 8)
    map_BHW = F.interpolate(patch_BHW[:, None], size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    map_BHW = method.blur(map_BHW)
    expected_B = (map_BHW if image_score == "map" else patch_BHW).amax(dim=(1, 2)).float()
    found = predict(method, image_BCHW)
    torch.testing.assert_close(found.map_BHW, map_BHW, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.score_B, expected_B, rtol=1e-4, atol=0)


@pytest.mark.parametrize("neighbors", [1, 3, 9, 500])
def test_anomalibs_recipe_by_brute_force(neighbors):
    """All channels, plain distances, pixels repeated into a mirrored blur; neighbors of the nearest bank item weight
    the image score by equation 7 of the paper, never the map. A bank smaller than their number gives all it has."""
    recipe = option_arguments("patchcore", "anomalib") | {"num_neighbors": neighbors, "coreset": 1.0}
    del recipe["backbone"], recipe["batch_size"]
    method = Subject.named("patchcore", **recipe).fit()
    bank_MD = patches(method, training_images())
    image_BCHW = images(2, 64)
    query_QD = patches(method, image_BCHW)
    distance_QM = cdist(query_QD, bank_MD)
    nearest_Q = distance_QM.min(axis=1)
    expected_B = []
    for image in range(2):
        place = image * 64 + int(nearest_Q[image * 64 : image * 64 + 64].argmax())
        item = int(distance_QM[place].argmin())
        crowd = np.argsort(cdist(bank_MD[item : item + 1], bank_MD)[0], kind="stable")[:neighbors]
        assert crowd[0] == item
        weights = np.exp(cdist(query_QD[place : place + 1], bank_MD[crowd])[0])
        weight = 1.0 if neighbors == 1 else 1 - weights[0] / weights.sum()
        expected_B.append(weight * nearest_Q[place])
    repeated_BHW = nearest_Q.reshape(2, 8, 8).repeat(8, axis=1).repeat(8, axis=2)
    map_BHW = np.stack([gaussian_filter(each, sigma=4, mode="mirror") for each in repeated_BHW])
    found = predict(method, image_BCHW)
    np.testing.assert_allclose(found.score_B, expected_B, rtol=1e-4)
    np.testing.assert_allclose(found.map_BHW, map_BHW, rtol=1e-4)


def test_anomalibs_patch_features():
    """The mean of each channel's 3x3 neighborhood, zeros beyond the edge counted; the coarse layer interpolated."""
    fine, coarse = torch.rand(2, 5, 6, 6), torch.rand(2, 3, 3, 3)
    found = PatchFeatures([5, 3], None)([fine, coarse])
    pooled = [F.avg_pool2d(each, 3, stride=1, padding=1) for each in (fine, coarse)]
    expected = torch.cat([pooled[0], F.interpolate(pooled[1], size=(6, 6), mode="bilinear")], dim=1)
    torch.testing.assert_close(found, expected)


def test_projected_dimensions_are_scikit_learns():
    for points in (2, 1024, 1_024_000):
        assert projected_dim(points) == int(johnson_lindenstrauss_min_dim(points, eps=0.9))


def test_a_weight_belongs_to_a_patch_score():
    with pytest.raises(
        UserError, match=r"num_neighbors=9 weights the largest patch score: set method.image_score=patch"
    ):
        Subject.named("patchcore", num_neighbors=9).make()


def test_training_images_are_normal():
    """A patch in the bank is its own neighbor, at distance 0 exactly."""
    method = fitted(coreset=1)
    assert predict(method, training_images()).map_BHW.max().item() == 0


@pytest.mark.parametrize("coreset", [0.001, 0.1, 0.45, 0.5])
def test_coreset_size_and_content(coreset):
    method = fitted(coreset=coreset)
    total = TRAINED * 8 * 8
    bank_MD = method.bank.get()
    assert bank_MD.shape == (max(1, int(total * coreset)), 64)
    every_ND = patches(method, training_images())
    distance_MN = cdist(bank_MD.double().numpy(), every_ND)
    assert (distance_MN.min(axis=1) == 0).all(), "a bank item is no patch of the training images"
    assert len(bank_MD.unique(dim=0)) == len(bank_MD)


def test_coreset_covers_better_than_chance():
    """The farthest training patch is nearer to a greedy bank than to a random one of the same size."""
    every_ND = patches(fitted(coreset=0.1), training_images())
    bank_MD = fitted(coreset=0.1).bank.get().double().numpy()
    random_MD = every_ND[np.random.default_rng(0).permutation(len(every_ND))[: len(bank_MD)]]
    assert cdist(every_ND, bank_MD).min(axis=1).max() < cdist(every_ND, random_MD).min(axis=1).max()


def test_coreset_is_chosen_from_random_starts_in_a_random_projection(monkeypatch):
    """The first choice has the largest mean distance to the starting points, in the projection."""
    seen = {}

    def record(point_ND, count, first_N):
        seen.update(points=point_ND, count=count, gaps=first_N)
        return torch.arange(count)

    monkeypatch.setattr("ader.methods.patchcore.greedy_coreset", record)
    method = Subject.named("patchcore", coreset=0.1, embed_dim=64, projection_dim=16, num_starting_points=4).make()
    patch_ND = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    for part_ND in patch_ND.split([20, 0, 30]):
        method.rows.add(part_ND)
    torch.manual_seed(5)
    method._reduce()
    assert method.bank.get().equal(patch_ND[:5])
    torch.manual_seed(5)
    weight = torch.nn.Linear(64, 16, bias=False).weight.detach()
    start = torch.randperm(50)[:4]
    points = (patch_ND @ weight.T).double().numpy()
    np.testing.assert_allclose(seen["points"].numpy(), points, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(seen["gaps"].numpy(), cdist(points, points[start]).mean(1) ** 2, rtol=1e-3)


def test_passes_forget_what_an_interrupted_one_collected():
    method = Subject.named("patchcore", coreset=1, embed_dim=64).make()
    data = RandomImages(64, 3, CPU, method.tags)
    (stage,) = method.stages()
    with torch.no_grad():
        stage.update(next(data.train(stage, 0, 1)))
    Trainer(device=CPU).fit(method, data)
    assert len(method.bank.get()) == TRAINED * 64


def test_upstreams_probe():
    """One image of ones in training mode moves the first running mean by a tenth of what the stem gives for it."""
    options = BackboneOptions("resnet18", pretrained=False)
    torch.manual_seed(0)
    plain = PatchCore(backbone=options).backbone.net
    torch.manual_seed(0)
    probed = PatchCore(backbone=options, probe_size=96).backbone.net
    expected = 0.9 * plain.bn1.running_mean + 0.1 * plain.conv1(torch.ones(1, 3, 96, 96)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(probed.bn1.running_mean, expected.detach())
    assert not any(part.training for part in probed.modules())
