"""PatchCore beside anomalib's (clone: ``anomalib``; needs torchvision, kornia, scikit-learn and tqdm)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ader.methods import build
from ader.methods._options import option_arguments
from ader.nets.scoring.neighbors import greedy_coreset, squared_distances
from parity import SIZE, Difference, Pair, commit, import_anomalib, largest

TRAINING = 8  # images behind the bank
COUNT = 80  # of the 8,192 patches


def pair(upstreams: Path, batch: int) -> Pair:
    """The bank of anomalib's coreset on both sides; a "training step" is the choice of the coreset."""
    upstream = commit("openvinotoolkit/anomalib", upstreams / "anomalib")
    code = import_anomalib(upstreams / "anomalib", "patchcore.torch_model")
    backbone = {"name": "wide_resnet50_2", "pretrained": False}
    ours: Any = build("patchcore", **option_arguments("patchcore", "anomalib") | {"backbone": backbone}).eval()
    reference = code.PatchcoreModel(["layer2", "layer3"], "wide_resnet50_2", pre_trained=False, num_neighbors=9)
    reference.feature_extractor.feature_extractor.load_state_dict(ours.backbone.net.state_dict())
    train_BCHW, test_BCHW = torch.rand(TRAINING, 3, SIZE, SIZE), torch.rand(batch, 3, SIZE, SIZE)
    normalize = ours.backbone.normalize
    with torch.no_grad():
        feature_ND = reference.train()(normalize(train_BCHW))
        patch_ND = ours(train_BCHW).flatten(0, 2)
    reference.eval()
    sampler = code.KCenterGreedy(feature_ND, COUNT / len(feature_ND))

    def choose() -> Any:
        torch.manual_seed(0)
        return torch.tensor(sampler.select_coreset_idxs())

    theirs = choose()

    def choose_ours() -> Tensor:
        """In the reference's projection and from its starting point, the draw after the projection's."""
        torch.manual_seed(0)
        sampler.model.fit(patch_ND)
        start = int(torch.randint(len(patch_ND), (1,)))
        point_NP = sampler.features
        return greedy_coreset(point_NP, COUNT, squared_distances(point_NP, point_NP[start : start + 1])[:, 0])

    reference.memory_bank = ours.bank.value = feature_ND[theirs]

    @torch.no_grad()
    def test() -> Any:
        return reference(normalize(test_BCHW))

    @torch.no_grad()
    def test_ours() -> Any:
        return ours.predict(test_BCHW)

    def differences() -> Iterator[Difference]:
        yield largest("patch features", patch_ND, feature_ND)
        chosen = choose_ours()
        lost = len(set(theirs.tolist()) - set(chosen.tolist())) / COUNT
        yield Difference(f"coreset, share of {COUNT} not shared", lost, 1)
        (score_ref, map_ref), (score_B, map_BHW) = test(), test_ours()
        yield largest("map", map_BHW, map_ref[:, 0])
        yield largest("image score", score_B, score_ref)

    note = "the training step is the coreset of 8 images' patches"
    return Pair(ours, upstream, differences, (choose, choose_ours), (test, test_ours), TRAINING, batch, note)
