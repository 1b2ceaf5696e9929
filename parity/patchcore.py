"""PatchCore beside the official code (clone: ``patchcore-inspection``; needs faiss-cpu and tqdm)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from ader.methods import build
from ader.nets.scoring.neighbors import greedy_coreset, nearest, squared_distances
from parity import SIZE, Difference, Pair, commit, largest

TRAINING = 8  # images behind the bank


def pair(upstreams: Path, batch: int) -> Pair:
    """The bank of the official coreset on both sides; a "training step" is the choice of the coreset."""
    clone = upstreams / "patchcore-inspection"
    upstream = commit("amazon-science/patchcore-inspection", clone)
    sys.path.insert(0, str(clone / "src"))
    code, common, sampler = (importlib.import_module(f"patchcore.{n}") for n in ("patchcore", "common", "sampler"))
    network = torchvision.models.wide_resnet50_2(weights=None)
    ours: Any = build(
        "patchcore", image_score="patch", backbone={"name": "wide_resnet50_2", "pretrained": False}
    ).eval()
    device = torch.device("cpu")
    reference = code.PatchCore(device)
    reference.load(
        backbone=network,
        layers_to_extract_from=["layer2", "layer3"],
        device=device,
        input_shape=(3, SIZE, SIZE),
        pretrain_embed_dimension=1024,
        target_embed_dimension=1024,
        nn_method=common.FaissNN(False, torch.get_num_threads()),
    )
    network.eval()  # loading ran it in training mode, which moved its statistics
    state = network.state_dict()
    ours.backbone.net.load_state_dict({name: state[name] for name in ours.backbone.net.state_dict()})
    train_BCHW, test_BCHW = torch.rand(TRAINING, 3, SIZE, SIZE), torch.rand(batch, 3, SIZE, SIZE)
    normalize = ours.backbone.normalize
    with torch.no_grad():
        feature_ND = torch.from_numpy(np.asarray(reference._embed(normalize(train_BCHW))))
        patch_ND = ours(train_BCHW).flatten(0, 2)
    chooser = sampler.ApproximateGreedyCoresetSampler(0.1, device, dimension_to_project_features_to=1024)

    def choose() -> Any:
        np.random.seed(0)
        return chooser._compute_greedy_coreset_indices(feature_ND)

    def choose_ours() -> Any:
        np.random.seed(0)  # the reference's starting points
        start = torch.from_numpy(np.random.choice(len(patch_ND), 10, replace=False))
        first_N = squared_distances(patch_ND, patch_ND[start]).sqrt().mean(dim=1).square()
        return greedy_coreset(patch_ND, int(len(patch_ND) * 0.1), first_N)

    theirs = choose()
    ours.bank.value = feature_ND[theirs]
    reference.anomaly_scorer.fit([ours.bank.value.numpy()])

    @torch.no_grad()
    def test() -> Any:
        return reference._predict(normalize(test_BCHW))

    @torch.no_grad()
    def test_ours() -> Any:
        return ours.predict(test_BCHW)

    def differences() -> Iterator[Difference]:
        yield largest("patch features", patch_ND, feature_ND)
        chosen = choose_ours()
        lost = 1 - len(np.intersect1d(chosen.numpy(), theirs)) / len(theirs)
        yield Difference(f"coreset, share of {len(theirs)} not shared", lost, 1)
        gaps = [squared_distances(patch_ND, patch_ND[rows]).amin(dim=1).max() for rows in (chosen, theirs)]
        yield largest("coreset, largest squared gap left", *gaps)
        scores, maps = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, np.stack(maps))
        yield largest("image score", score_B, np.stack(scores))
        with torch.no_grad():
            query_QD = ours(test_BCHW).flatten(0, 2)
        exact = torch.cdist(query_QD.double(), ours.bank.value.double()).square().amin(dim=1)
        yield largest("distance, ours to float64", nearest(query_QD, ours.bank.value)[0][:, 0], exact)
        faiss = reference.anomaly_scorer.predict([query_QD.numpy()])[0]
        yield largest("distance, reference to float64", faiss, exact)

    note = "the training step is the coreset of 8 images' patches"
    return Pair(ours, upstream, differences, (choose, choose_ours), (test, test_ours), TRAINING, batch, note)
