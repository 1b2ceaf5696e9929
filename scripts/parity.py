"""Compares methods with their reference implementations: same weights, same input.

The references are not part of this project. Clone them first and say where they are:

    python scripts/parity.py rd        --upstream path/to/ADer                    # zhangzjn/ADer
    python scripts/parity.py rd4ad     --upstream path/to/RD4AD                   # hq-deng/RD4AD
    python scripts/parity.py patchcore --upstream path/to/patchcore-inspection    # needs faiss-cpu, tqdm

Prints the largest absolute difference of features, loss, gradients, map and image score, and times of one training
step and one inference batch as ratios (reference / ours, above 1: ours is faster), taken alternately in this process.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from ader.methods.base import Method, build
from ader.methods.rd import flat_cosine_loss
from ader.nets.neighbours import greedy_coreset, nearest, squared_distances

SIZE = 256
BATCH = 4


def main() -> None:
    """Runs one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=sorted(COMPARISONS))
    parser.add_argument("--upstream", type=Path, required=True, help="folder of the reference's clone")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions")
    options = parser.parse_args()
    if not options.upstream.is_dir():
        parser.error(f"--upstream {options.upstream}: no such folder")
    torch.manual_seed(0)
    COMPARISONS[options.method](options.upstream.resolve(), options.repeats)


def compare_rd(upstream: Path, repeats: int) -> None:
    """ADer's RD: teacher, bottleneck and decoder with mapped weights."""
    sys.path.insert(0, str(upstream))
    stub = types.ModuleType("model")  # upstream's package pulls in every method's dependencies
    stub.MODEL = types.SimpleNamespace(register_module=lambda item: item)  # type: ignore[attr-defined]
    stub.get_model = lambda item: item  # type: ignore[attr-defined]
    stub.__path__ = [str(upstream / "model")]
    sys.modules["model"] = stub
    reference_code = importlib.import_module("model.rd")
    ours: Any = build("rd", backbone={"name": "wide_resnet50_2", "pretrained": False})
    reference = reference_code.RD(ours.teacher.net, reference_code.de_wide_resnet50_2())
    renamed = {
        "bottleneck.down1.0": "mff_oce.conv1",
        "bottleneck.down1.1": "mff_oce.bn1",
        "bottleneck.down1.3": "mff_oce.conv2",
        "bottleneck.down1.4": "mff_oce.bn2",
        "bottleneck.down2.0": "mff_oce.conv3",
        "bottleneck.down2.1": "mff_oce.bn3",
        "bottleneck.blocks": "mff_oce.bn_layer",
        "decoder.stages.0": "net_s.layer1",
        "decoder.stages.1": "net_s.layer2",
        "decoder.stages.2": "net_s.layer3",
    }
    copy_weights(reference, ours, renamed, upsample=True)

    def run_reference(image_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return reference(ours_normalise(ours, image_BCHW))  # type: ignore[no-any-return]

    _compare_distillation(ours, reference, run_reference, repeats)


def compare_rd4ad(upstream: Path, repeats: int) -> None:
    """The official RD4AD: its own ResNet, bottleneck of width 128, decoder."""
    sys.path.insert(0, str(upstream))
    resnet, de_resnet = importlib.import_module("resnet"), importlib.import_module("de_resnet")
    options = {"name": "wide_resnet50_2", "pretrained": False}
    ours: Any = build("rd", bottleneck_width=128, backbone=options)
    encoder, bottleneck = resnet.wide_resnet50_2(pretrained=False)
    decoder = de_resnet.de_wide_resnet50_2(pretrained=False)
    reference = torch.nn.ModuleDict({"encoder": encoder, "bn": bottleneck, "decoder": decoder}).eval()
    encoder.load_state_dict(ours.teacher.net.state_dict(), strict=False)
    renamed = {
        "bottleneck.down1.0": "bn.conv1",
        "bottleneck.down1.1": "bn.bn1",
        "bottleneck.down1.3": "bn.conv2",
        "bottleneck.down1.4": "bn.bn2",
        "bottleneck.down2.0": "bn.conv3",
        "bottleneck.down2.1": "bn.bn3",
        "bottleneck.blocks": "bn.bn_layer",
        "decoder.stages.0": "decoder.layer1",
        "decoder.stages.1": "decoder.layer2",
        "decoder.stages.2": "decoder.layer3",
    }
    copy_weights(reference, ours, renamed, upsample=True)

    def run_reference(image_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        encoder.eval()
        with torch.no_grad():
            teacher = encoder(ours_normalise(ours, image_BCHW))
        return teacher, decoder(bottleneck(teacher))

    _compare_distillation(ours, reference, run_reference, repeats)


def _compare_distillation(
    ours: Any, reference: torch.nn.Module, run_reference: Callable[[Tensor], Any], repeats: int
) -> None:
    image_BCHW = torch.rand(BATCH, 3, SIZE, SIZE)
    ours.eval()
    reference.eval()
    with torch.no_grad():
        (teacher, student), (teacher_ref, student_ref) = ours(image_BCHW), run_reference(image_BCHW)
        show("teacher features", largest(teacher, teacher_ref), scale(teacher_ref))
        show("student features", largest(student, student_ref), scale(student_ref))
        prediction = ours.predict(image_BCHW)
        map_BHW = reference_map(*run_reference(image_BCHW))
    show("map (sum of scales)", float(np.abs(prediction.map_BHW.numpy() - map_BHW).max()), float(map_BHW.max()))
    score_B = map_BHW.reshape(BATCH, -1).max(axis=1)
    show("image score", float(np.abs(prediction.score_B.numpy() - score_B).max()), float(score_B.max()))
    ours.train()
    reference.train()
    for kind in (torch.float32, torch.float64):
        ours.to(kind)
        reference.to(kind)
        _compare_gradients(ours, reference, run_reference, image_BCHW.to(kind), str(kind).removeprefix("torch."))
    ours.float()
    reference.float()
    optimizers = [torch.optim.Adam(p for p in m.parameters() if p.requires_grad) for m in (ours, reference)]
    ratio(
        "training step",
        lambda: _train(optimizers[1], run_reference, image_BCHW),
        lambda: _train(optimizers[0], ours, image_BCHW),
        repeats,
    )
    with torch.no_grad():
        ratio(
            "inference batch",
            lambda: reference_map(*run_reference(image_BCHW)),
            lambda: ours.predict(image_BCHW),
            repeats,
        )


def _compare_gradients(
    ours: Any, reference: torch.nn.Module, run_reference: Callable[[Tensor], Any], image_BCHW: Tensor, kind: str
) -> None:
    """Loss and gradients in training mode; in float64 too, where rounding cannot hide or fake a difference."""
    reference.zero_grad()
    ours.zero_grad()
    teacher, student = run_reference(image_BCHW)
    losses = [
        torch.mean(1 - F.cosine_similarity(t.reshape(BATCH, -1), s.reshape(BATCH, -1)))
        for t, s in zip(teacher, student, strict=True)
    ]
    loss_ref = torch.stack(losses).sum()
    loss_ref.backward()  # type: ignore[no-untyped-call]
    loss = flat_cosine_loss(*ours(image_BCHW))
    loss.backward()  # type: ignore[no-untyped-call]
    show(f"loss ({kind})", float((loss - loss_ref).detach().abs()), float(loss_ref.detach()))
    gradients = sorted(float(p.grad.norm()) for p in ours.parameters() if p.grad is not None)
    gradients_ref = sorted(float(p.grad.norm()) for p in reference.parameters() if p.grad is not None)
    assert len(gradients) == len(gradients_ref)
    difference = float(np.abs(np.array(gradients) - np.array(gradients_ref)).max())
    show(f"gradient norms, sorted ({kind})", difference, gradients_ref[-1])


def _train(optimizer: torch.optim.Optimizer, forward: Callable[[Tensor], Any], image_BCHW: Tensor) -> None:
    teacher, student = forward(image_BCHW)
    loss = sum(
        torch.mean(1 - F.cosine_similarity(t.flatten(1), s.flatten(1))) for t, s in zip(teacher, student, strict=True)
    )
    assert isinstance(loss, Tensor)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def reference_map(teacher: list[Tensor], student: list[Tensor]) -> np.ndarray[Any, Any]:
    """The reference's map, written again from its definition: numpy sums, scipy's filter for each map."""
    total = np.zeros((len(teacher[0]), SIZE, SIZE))
    for t, s in zip(teacher, student, strict=True):
        distance = (1 - F.cosine_similarity(t, s))[:, None]
        total += F.interpolate(distance, size=SIZE, mode="bilinear", align_corners=True)[:, 0].numpy()
    return np.stack([gaussian_filter(each, sigma=4) for each in total])


def compare_patchcore(upstream: Path, repeats: int) -> None:
    """The official PatchCore: features, bank search, maps and image scores with the same bank."""
    sys.path.insert(0, str(upstream / "src"))
    code, common, sampler = (importlib.import_module(f"patchcore.{n}") for n in ("patchcore", "common", "sampler"))
    import torchvision

    network = torchvision.models.wide_resnet50_2(weights=None)
    ours: Any = build("patchcore", image_score="patch", backbone={"name": "wide_resnet50_2", "pretrained": False})
    ours.eval()
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
    ours.backbone.net.load_state_dict(
        {k: v for k, v in network.state_dict().items() if k in ours.backbone.net.state_dict()}
    )
    train_BCHW, test_BCHW = torch.rand(8, 3, SIZE, SIZE), torch.rand(BATCH, 3, SIZE, SIZE)
    with torch.no_grad():
        features = np.asarray(reference._embed(ours_normalise(ours, train_BCHW)))
        patch_ND = ours(train_BCHW).flatten(0, 2)
        show(
            "patch features", float((patch_ND - torch.from_numpy(features)).abs().max()), float(np.abs(features).max())
        )
        chooser = sampler.ApproximateGreedyCoresetSampler(0.1, device, dimension_to_project_features_to=1024)
        np.random.seed(0)
        theirs = chooser._compute_greedy_coreset_indices(torch.from_numpy(features))
        np.random.seed(0)
        start = torch.from_numpy(np.random.choice(len(features), 10, replace=False))
        first_N = squared_distances(patch_ND, patch_ND[start]).sqrt().mean(dim=1).square()
        chosen = greedy_coreset(patch_ND, len(theirs), first_N)
        same = float((chosen.numpy() == theirs).mean())
        overlap = len(np.intersect1d(chosen.numpy(), theirs)) / len(theirs)
        print(f"{'coreset':32} {len(theirs)} choices: {100 * overlap:.2f} % in common, {100 * same:.2f} % in place")
        gaps = [float(squared_distances(patch_ND, patch_ND[rows]).amin(dim=1).max()) for rows in (chosen, theirs)]
        print(f"{'coreset':32} largest squared gap left: {gaps[0]:.5f} ours, {gaps[1]:.5f} reference")
        bank = features[theirs]
        reference.anomaly_scorer.fit([bank])
        ours.bank.value = torch.from_numpy(bank)
        scores, maps = reference._predict(ours_normalise(ours, test_BCHW))
        prediction = ours.predict(test_BCHW)
        show("map", float(np.abs(prediction.map_BHW.numpy() - np.stack(maps)).max()), float(np.stack(maps).max()))
        show("image score", float(np.abs(prediction.score_B.numpy() - np.stack(scores)).max()), float(np.max(scores)))
        query = ours(test_BCHW).flatten(0, 2)
        exact = torch.cdist(query.double(), torch.from_numpy(bank).double()).square().amin(dim=1)
        found = nearest(query, ours.bank.value)[0][:, 0]
        faiss = torch.from_numpy(reference.anomaly_scorer.predict([query.numpy()])[0])
        show("distance, ours to float64", float((found - exact).abs().max()), float(exact.max()))
        show("distance, reference to float64", float((faiss - exact).abs().max()), float(exact.max()))
        ratio("features", lambda: reference._embed(ours_normalise(ours, test_BCHW)), lambda: ours(test_BCHW), repeats)
        ratio(
            "inference batch",
            lambda: reference._predict(ours_normalise(ours, test_BCHW)),
            lambda: ours.predict(test_BCHW),
            repeats,
        )
        few = torch.from_numpy(features)
        ratio(
            "coreset",
            lambda: chooser._compute_greedy_coreset_indices(few),
            lambda: greedy_coreset(patch_ND, len(theirs), first_N),
            1,
        )


def ours_normalise(ours: Any, image_BCHW: Tensor) -> Tensor:
    """What the reference's loader would hand to its network."""
    backbone = ours.teacher if hasattr(ours, "teacher") else ours.backbone
    normalised: Tensor = backbone.normalise(image_BCHW)
    return normalised


def copy_weights(reference: torch.nn.Module, ours: Method, renamed: dict[str, str], upsample: bool) -> None:
    """Copies our weights into the reference; every entry of ours below a renamed prefix must find its place."""
    state = reference.state_dict()
    for name, value in ours.state_dict().items():
        for mine, theirs in renamed.items():
            if name.startswith(mine + "."):
                target = theirs + name[len(mine) :]
                if upsample and target not in state:
                    target = target.replace(".downsample.", ".upsample.")
                assert state[target].shape == value.shape, target
                state[target] = value.clone()
    reference.load_state_dict(state)


def largest(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest absolute difference over several tensors."""
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


def scale(tensors: list[Tensor]) -> float:
    """Largest absolute value."""
    return max(float(t.abs().max()) for t in tensors)


def show(name: str, difference: float, magnitude: float) -> None:
    """One line of the comparison."""
    print(f"{name:32} largest difference {difference:.2e} (values up to {magnitude:.3g})")


def ratio(name: str, reference: Callable[[], Any], ours: Callable[[], Any], repeats: int) -> None:
    """Times both alternately and prints the ratio of the medians."""
    times: list[list[float]] = [[], []]
    for repeat in range(repeats + 1):
        for place, function in enumerate((reference, ours)):
            began = time.perf_counter()
            function()
            if repeat or repeats == 1:
                times[place].append(time.perf_counter() - began)
    theirs, mine = (float(np.median(values)) for values in times)
    print(f"{name:32} reference / ours = {theirs / mine:.2f} ({theirs:.2f} s / {mine:.2f} s)")


COMPARISONS: dict[str, Callable[[Path, int], None]] = {
    "rd": compare_rd,
    "rd4ad": compare_rd4ad,
    "patchcore": compare_patchcore,
}

if __name__ == "__main__":
    main()
