"""PaDiM against NumPy's covariances, its fact sheet's counts and the reference's choice of channels."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from torch.utils.flop_counter import FlopCounterMode

from ader.config.compose import compose
from ader.methods import padim
from ader.methods._base import recipe_arguments
from ader.methods.padim import LowerTriangles, Moments, PaDiM
from ader.nets.backbone import BackboneOptions
from ader.system import dist
from ader.system.errors import UserError
from ader.testing.processes import in_processes
from ader.testing.subject import Subject, images, predict
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
SMALL = BackboneOptions("resnet18", pretrained=False)


def on_meta(name: str = "resnet18.tv_in1k", **arguments) -> PaDiM:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return PaDiM(backbone=BackboneOptions(name, pretrained=False), **arguments)


def fitted(steps: int = 3, batch_size: int = 2, **arguments) -> PaDiM:
    """To ``steps * batch_size`` images of 64 pixels."""
    method = Subject.named("padim", batch_size=batch_size, **arguments).make()
    Trainer(device=CPU).fit(method, RandomImages(64, steps, CPU, method.tags))
    return method


def training_vectors(method: PaDiM, count: int = 6) -> np.ndarray:
    """(N, P, D) of the images that ``fitted`` saw, taken at once."""
    stage = next(method.stages())
    batches = RandomImages(64, count // stage.batch_size, CPU, method.tags).train(stage, 0, count // stage.batch_size)
    with torch.no_grad():
        return torch.cat([method(batch.image_BCHW) for batch in batches]).flatten(1, 2).double().numpy()


@pytest.mark.parametrize(
    ("name", "dim", "params", "macs", "distance_macs"),
    [
        ("resnet18.tv_in1k", 100, 2_782_784, 1.83e9, 4096 * 100**2),
        ("wide_resnet50_2.tv_in1k", 550, 24_862_528, 12.00e9, 4096 * 550**2),
    ],
)
def test_counts(name, dim, params, macs, distance_macs):
    method = on_meta(name, embed_dim=dim)
    assert count_parameters(method) == (params, 0)
    assert count_macs(method, 256, META) == pytest.approx(macs, rel=5e-3)
    method.mean.value = torch.empty(64, 64, dim, device="meta")
    method.whitening.value = torch.empty(4096, dim, dim, device="meta")
    vector_BHWD = torch.empty(1, 64, 64, dim, device="meta")
    method.forward = lambda image_BCHW: vector_BHWD
    method.blur = torch.nn.Identity()
    with FlopCounterMode(display=False) as counter:
        assert method.predict(torch.empty(1, 3, 256, 256, device="meta")).map_BHW.shape == (1, 256, 256)
    assert counter.get_total_flops() // 2 == distance_macs


def test_channels_are_the_references():
    random.seed(1024)
    drawn = torch.tensor(random.sample(range(448), 100)).sort().values
    kept = [each.get() for each in PaDiM(backbone=SMALL).channels]
    assert torch.cat([kept[0], 64 + kept[1], 192 + kept[2]]).equal(drawn)


def test_channels_of_the_runs_seed_are_state():
    """They come back with it, however many there are of each layer; all channels are all of them, in order."""
    options = {"channel_seed": None, "embed_dim": 20}
    first, other = (Subject.named("padim", **options).make(seed) for seed in (0, 1))
    mine, before = ([each.get().tolist() for each in method.channels] for method in (first, other))
    assert mine != before
    other.load_state_dict(first.state_dict())
    assert [each.get().tolist() for each in other.channels] == mine
    assert [each.get().tolist() for each in PaDiM(embed_dim=None, backbone=SMALL).channels] == [
        list(range(count)) for count in (64, 128, 256)
    ]
    with pytest.raises(UserError, match="embed_dim=449 is more than the 448 channels"):
        PaDiM(embed_dim=449, backbone=SMALL)


def test_vectors_are_repeated_pixels():
    """Of the finest grid's pixel (y, x) the coarser layers' at (y // 2, x // 2) and (y // 4, x // 4)."""
    method = Subject.named("padim", embed_dim=None).make().eval()
    with torch.no_grad():
        vector_HWD = method(images(1, 64))[0]
        fine, middle, coarse = (feature[0] for feature in method.backbone(images(1, 64)))
    for y, x in ((0, 0), (5, 2), (15, 13)):
        expected = torch.cat([fine[:, y, x], middle[:, y // 2, x // 2], coarse[:, y // 4, x // 4]])
        torch.testing.assert_close(vector_HWD[y, x], expected, rtol=0, atol=0)


@pytest.mark.parametrize("batches", [[7], [1, 1, 1, 1, 1, 1, 1], [3, 4], [1, 5, 1]])
@pytest.mark.parametrize("block", [2**25, 4 * 3**2])
def test_moments_are_numpys(batches, block, monkeypatch):
    """Far from the origin, where sums of squares lose everything: 1e6 with a spread of 1."""
    monkeypatch.setattr(padim, "BLOCK", block)
    vector_PND = torch.randn(10, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e6
    moments = Moments()
    for part_PBD in vector_PND.split(batches, dim=1):
        moments.add(part_PBD, 2)
    moments.merge(CPU)
    assert len(moments.scatter) == (1 if block > 1000 else 3)
    for place, (vector_ND, scatter_DD) in enumerate(zip(vector_PND, torch.cat(moments.scatter), strict=True)):
        np.testing.assert_allclose(moments.mean_PD[place].numpy(), vector_ND.mean(dim=0).numpy(), rtol=1e-15)
        np.testing.assert_allclose(scatter_DD.numpy() / 6, np.cov(vector_ND.numpy(), rowvar=False), rtol=1e-8)


#: Images of each of two processes.
OWN = ((5, 0), (5, 2), (0, 1))


def test_moments_of_processes_are_those_of_all_images():
    """One may have none; each ends with all, bit for bit the same."""
    first, second = in_processes(2, 60.0, _moments_of_two)
    for own, moments, same in zip(OWN, first, second, strict=True):
        vector_PND = torch.cat([_vectors(rank, count) for rank, count in enumerate(own)], dim=1)
        count, mean_PD, scatter_PDD = moments
        assert count == sum(own)
        torch.testing.assert_close(mean_PD, vector_PND.mean(dim=1), rtol=1e-14, atol=0)
        offset_PND = vector_PND - vector_PND.mean(dim=1, keepdim=True)
        torch.testing.assert_close(scatter_PDD, offset_PND.mT @ offset_PND, rtol=1e-8, atol=1e-8)
        assert (same[0], same[1].equal(mean_PD), same[2].equal(scatter_PDD)) == (count, True, True)


def _vectors(rank: int, count: int) -> torch.Tensor:
    return 1000 + torch.randn(4, count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))


def _moments_of_two():
    found = []
    for own in OWN:
        moments = Moments()
        if own[dist.rank()]:
            moments.add(_vectors(dist.rank(), own[dist.rank()]), 2)
        moments.merge(CPU)
        found.append([moments.count, moments.mean_PD, torch.cat(moments.scatter)])
    return found


@pytest.mark.parametrize("dim", [40, 4])
def test_map_is_the_mahalanobis_distance(dim):
    """Fewer images than dimensions, and more: SciPy's distance with NumPy's inverse covariance of all images at once,
    bilinear, smoothed by SciPy."""
    method = fitted(embed_dim=dim)
    train_NPD = training_vectors(method)
    test_BCHW = images(2, 64)
    with torch.no_grad():
        test_BPD = method(test_BCHW).flatten(1, 2).double().numpy()
    distance_PB = []
    for place in range(train_NPD.shape[1]):
        covariance = np.cov(train_NPD[:, place], rowvar=False) + 0.01 * np.eye(dim)
        center, inverse = train_NPD[:, place].mean(axis=0), np.linalg.inv(covariance)
        distance_PB.append([mahalanobis(vector, center, inverse) for vector in test_BPD[:, place]])
    patch_B1HW = torch.tensor(distance_PB).T.reshape(2, 1, 16, 16)
    map_BHW = torch.nn.functional.interpolate(patch_B1HW, size=(64, 64), mode="bilinear")[:, 0].numpy()
    expected = np.stack([gaussian_filter(each, 4.0) for each in map_BHW])
    found = predict(method, test_BCHW)
    np.testing.assert_allclose(found.map_BHW.numpy(), expected, rtol=2e-5)
    np.testing.assert_allclose(found.score_B.numpy(), expected.max(axis=(1, 2)), rtol=2e-5)


def test_a_single_image_is_the_center():
    """Its own map is 0, and others' are Euclidean distances over the root of the regularization."""
    method = fitted(steps=1, batch_size=1, regularization=0.04)
    stage = next(method.stages())
    only_1CHW = next(RandomImages(64, 1, CPU, method.tags).train(stage, 0, 1)).image_BCHW
    assert predict(method, only_1CHW).map_BHW.max().item() == 0
    dim = method.mean.get().shape[2]
    torch.testing.assert_close(method.whitening.get(), (5 * torch.eye(dim)).expand(256, dim, dim))


def test_batch_size_has_no_effect():
    one, other = fitted(steps=3, batch_size=2), fitted(steps=1, batch_size=6)
    torch.testing.assert_close(one.whitening.get(), other.whitening.get(), rtol=1e-4, atol=1e-4)


def test_nothing_of_an_interrupted_pass_stays():
    method = Subject.named("padim").make()
    stage = next(method.stages())
    with torch.no_grad():
        stage.update(next(RandomImages(64, 1, CPU, method.tags).train(stage, 0, 1)))
    Trainer(device=CPU).fit(method, RandomImages(64, 3, CPU, method.tags))
    assert method.whitening.get().equal(fitted().whitening.get())
    assert not method.moments.scatter, "the scatter is not freed"


def test_state_has_half_of_each_factor():
    method = fitted()
    state = method.state_dict()["whitening._extra_state"]
    assert state.shape == (256, 40 * 41 // 2)
    assert state.dtype == torch.float32
    again = LowerTriangles()
    again.set_extra_state(state)
    assert again.get().equal(method.whitening.get())


def test_other_sizes_are_refused():
    with pytest.raises(UserError, match=r"for each of 16 x 16 positions, and images of 96 x 96 pixels have 24 x 24"):
        predict(fitted(), images(1, 96))


def test_recipes():
    def arguments(recipe: str):
        config = compose(["method=padim", "dataset=demo", f"recipe={recipe}"])
        return config.image_size, recipe_arguments(PaDiM, config.image_size, config.method.rest)

    size, paper = arguments("paper")
    assert (size, paper["embed_dim"], paper["backbone"].name) == (224, 550, "wide_resnet50_2.tv_in1k")
    size, anomalib = arguments("anomalib")
    assert (size, anomalib["embed_dim"], anomalib["channel_seed"], anomalib["border"]) == (256, 100, None, "mirror")
    assert anomalib["regularization"] == pytest.approx(0.01 + 1e-5)
