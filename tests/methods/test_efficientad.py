"""EfficientAD against the numbers and definitions of its paper and of nelson1425's reimplementation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.v2 import functional as vision

from ader.config.compose import compose
from ader.data import load_index
from ader.methods import build
from ader.methods._base import Batch, TrainStage
from ader.methods._distillation import Distillation, channel_moments, distillation_views, joined_moments, target_views
from ader.methods.efficientad import EfficientAD, hard_mean, jittered, penalty_view
from ader.nets.backbone import BackboneOptions
from ader.nets.scoring.patches import PatchFeatures
from ader.nets.synthesis.draws import integers, uniform_between
from ader.nets.synthesis.photos import Photos
from ader.system.errors import UserError
from ader.testing import method_checks as checks
from ader.testing.subject import Subject, images, no_network, predict
from ader.testing.toy import write_mvtec
from ader.training.cost import RandomImages, count_macs, count_parameters
from ader.training.loader import Loader, hold_out
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
META = torch.device("meta")
RANDOM = BackboneOptions("teacher_small", pretrained=False)
SMALL = {"width": 4, "features": 6, "autoencoder_width": 4, "teacher": RANDOM}
SHORT = Distillation(steps=40, batch_size=4, image_size=32, lr=1e-2, draws=2)
RESNET = BackboneOptions("test_resnet", pretrained=False)


@pytest.fixture(autouse=True)
def no_weights_folder(monkeypatch):
    monkeypatch.delenv("ADER_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five photographs, two of them in a folder of their own, and a file that is none."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (root / "deeper").mkdir()
    for number in range(5):
        coarse = rng.integers(0, 256, (4, 6, 3), np.uint8)
        image = Image.fromarray(coarse).resize((60, 40), Image.Resampling.BILINEAR)
        image.save(root / ("deeper" if number > 2 else "") / f"{number}.png")
    (root / "labels.txt").write_text("none")
    return str(root)


def make(image_size: int = 64, **arguments) -> EfficientAD:
    torch.manual_seed(0)
    return EfficientAD(image_size=image_size, **{**SMALL, **arguments}).eval()


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("option", "teacher", "student", "plain", "padded"),
    [
        ("efficientad", 2_694_144, 4_267_392, 37.95, 44.0 + 2.6),
        ("efficientad_m", 8_026_624, 11_615_488, 117.71, 141.1 + 2.6),
    ],
)
def test_parameters_and_macs(option, teacher, student, plain, padded):
    for padding, macs, side in ((False, plain, 56), (True, padded, 64)):
        with META:
            method = build(option, padding=padding, teacher={"pretrained": False})
        counts = [count(each) for each in (method.teacher, method.student, method.autoencoder)]
        assert counts == [teacher, student, 1_096_320]
        assert count_parameters(method) == (sum(counts), student + 1_096_320)
        assert count_macs(method, 256, META) / 1e9 == pytest.approx(macs, rel=0.002)
        image_BCHW = torch.empty(1, 3, 256, 256, device=META)
        assert method.teacher(image_BCHW).shape == method.autoencoder(image_BCHW).shape == (1, 384, side, side)
        assert [half.shape for half in method.student(image_BCHW)] == 2 * [(1, 384, side, side)]
        assert method.teacher.net(image_BCHW, padding=True).shape == (1, 384, 64, 64)  # as it is distilled


@pytest.mark.parametrize("size", [64, 128, 512])
@pytest.mark.parametrize("padding", [False, True])
def test_grids_of_other_sizes(size, padding):
    with META:
        method = EfficientAD(image_size=size, padding=padding, **SMALL)
    image_BCHW = torch.empty(1, 3, size, size, device=META)
    side = size // 4 - (0 if padding else 8)
    assert method.teacher(image_BCHW).shape == method.autoencoder(image_BCHW).shape == (1, 6, side, side)


@pytest.mark.parametrize("shape", [(1, 3, 7, 9), (4, 5, 10, 10)])
def test_hard_features(shape):
    """As numpy's quantile; with ties, all values that are equal to it count."""
    rng = np.random.default_rng(0)
    for values in (rng.random(shape) ** 3, rng.integers(0, 3, shape) / 2.0):
        for share in (0.0, 0.9, 0.999):
            error = torch.from_numpy(values).requires_grad_()
            loss = hard_mean(error, share, Batch(image_BCHW=error, seed_B=torch.zeros(1)))
            hard = values >= np.quantile(values, share)
            assert loss.item() == pytest.approx(values[hard].mean(), rel=1e-12)
            loss.backward()
            np.testing.assert_allclose(error.grad.numpy(), hard / hard.sum(), rtol=1e-12)


def test_jitter():
    """Each image as torchvision changes it: brightness, contrast or saturation, by the factor that its seed draws."""
    seed_B, image_BCHW = torch.arange(12), torch.rand(12, 3, 8, 8)
    found_BCHW = jittered(image_BCHW, seed_B, 0.2)
    kinds, factors = integers(seed_B, "jitter/kind", 3), uniform_between(seed_B, "jitter/factor", 0.8, 1.2)
    assert {*kinds.tolist()} == {0, 1, 2}
    change = (vision.adjust_brightness, vision.adjust_contrast, vision.adjust_saturation)
    for image, found, kind, factor in zip(image_BCHW, found_BCHW, kinds, factors, strict=True):
        torch.testing.assert_close(found, change[kind](image, factor.item()), atol=1e-6, rtol=0)
    torch.testing.assert_close(jittered(image_BCHW, seed_B, 0.0), image_BCHW)


def test_moments():
    """Of all pixels of all images, as numpy has them, even where the mean is far from 0."""
    feature = 1000 + np.random.default_rng(0).normal(size=(5, 3, 4, 6)) * [[[1.0]], [[0.01]], [[0.0]]]
    rows = [channel_moments(torch.from_numpy(part)) for part in np.array_split(feature, 2)]
    mean_C, std_C = joined_moments(torch.cat(rows))
    np.testing.assert_allclose(mean_C, feature.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std_C[:2], feature.std(axis=(0, 2, 3))[:2], rtol=1e-6)
    assert std_C[2] == pytest.approx(1e-6)


def test_loss(folder):
    """What a step minimizes, network by network and image by image (equations 1 to 5 of the paper)."""
    method, minimized = make(images=folder, hard_quantile=0.9), []
    photo = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    image_BCHW, seed_B = images(2, 64), torch.arange(2)
    method.feature_mean += 0.1
    method.feature_std *= 0.3
    batch = Batch(image_BCHW=image_BCHW, seed_B=seed_B, extra={"photo": photo})
    logged = method._step(batch, lambda loss, *names: minimized.append(loss.item()))
    image, other, photo = (
        vision.normalize(each, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        for each in (image_BCHW, jittered(image_BCHW, seed_B, 0.2), photo / 255)
    )
    with torch.no_grad():
        taught, taught_other = ((method.teacher.net(each) - 0.1) / 0.3 for each in (image, other))
        error = (taught - method.student(image)[0]) ** 2
        restored = method.autoencoder(other)
        expected = {
            "hard": error[error >= torch.quantile(error, 0.9)].mean().item(),
            "penalty": method.student(photo)[0].square().mean().item(),
            "autoencoder": F.mse_loss(restored, taught_other).item(),
            "student": F.mse_loss(method.student(other)[1], restored).item(),
        }
    assert {name: loss.item() for name, loss in logged.items()} == pytest.approx(expected, rel=1e-5)
    assert minimized == pytest.approx([sum(expected.values())], rel=1e-5)


@pytest.mark.parametrize(("padding", "border"), [(False, "zeros"), (False, "edge"), (True, "edge")])
def test_map(padding, border, monkeypatch):
    """Quantiles become 0 and 0.1, both maps count half, the border is added, and it is the whole that is enlarged."""
    method = make(padding=padding, border=border)
    side = 16 if padding else 8
    error = torch.rand(2, 2, side, side)
    monkeypatch.setattr(EfficientAD, "_errors", lambda self, image_BCHW: error)
    method.quantiles.value_MQ.copy_(torch.tensor([[0.5, 0.75], [0.25, 1.25]]))
    first, second = error.numpy().transpose(1, 0, 2, 3)
    small = 0.05 * ((first - 0.5) / 0.25 + (second - 0.25) / 1.0)
    small = small if padding else np.pad(small, [(0, 0), (4, 4), (4, 4)], "edge" if border == "edge" else "constant")
    score_B, map_BHW = predict(method, images(2, 64))
    places = np.clip((np.arange(64) + 0.5) / 4 - 0.5, 0, 15)
    for number in range(2):
        rows = np.stack([np.interp(places, np.arange(16), row) for row in small[number]])
        expected = np.stack([np.interp(places, np.arange(16), column) for column in rows.T], axis=1)
        np.testing.assert_allclose(map_BHW[number], expected, atol=2e-6)
        assert score_B[number].item() == pytest.approx(expected.max(), abs=2e-6)
    assert map_BHW[:, :12].any() == (padding or border == "edge")
    method.quantiles.value_MQ.copy_(torch.tensor([[2.0, 3.0], [2.0, 3.0]]))  # a quiet category among others
    score_B, _ = predict(method, images(2, 64))
    assert (score_B[0] == score_B[1]) == (border == "zeros")


def test_targets_in_closed_form():
    """Upstream's order: 3x3 patches of each layer pooled to 1024 numbers, both layers stacked, pooled to 384."""
    fine, coarse = torch.rand(1, 64, 4, 4, dtype=torch.float64), torch.rand(1, 128, 2, 2, dtype=torch.float64)
    layers = []
    for feature in (fine, coarse):
        patch = F.unfold(feature, 3, padding=1).transpose(1, 2)  # C * 9 numbers, channel first
        pooled = F.adaptive_avg_pool1d(patch, 96).transpose(1, 2).unflatten(2, feature.shape[2:])
        layers.append(F.interpolate(pooled, size=(4, 4), mode="bilinear").flatten(2).transpose(1, 2))
    expected = F.adaptive_avg_pool1d(torch.cat(layers, dim=2), 36).transpose(1, 2).unflatten(2, (4, 4))
    found = PatchFeatures([64, 128], 36, layer_dim=96)([fine, coarse])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)  # kernels are float32


def test_photographs(folder):
    """Sizes and places of what is drawn; gray ones; the same of the same numbers, and all come up."""
    photos, image = Photos(folder, "method.images"), np.zeros((3, 8, 8), np.uint8)
    assert [*photos.files] == ["0.png", "1.png", "2.png", "deeper/3.png", "deeper/4.png"]
    view = penalty_view(photos, 32, 0.0, image, np.random.default_rng(3))["photo"]
    drawn = [*photos.files.values()][np.random.default_rng(3).integers(5)]
    large = np.asarray(Image.open(drawn).resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(view, large[:, 16:48, 16:48])
    gray = penalty_view(photos, 32, 1.0, image, np.random.default_rng(3))["photo"]
    expected = np.tensordot([0.299, 0.587, 0.114], view.astype(float), 1)
    assert np.abs(gray - expected[None]).max() < 2  # rounded before it is resized
    views = distillation_views(photos, 16, 0.5, image, np.random.default_rng(3))
    assert (views["coarse"].shape, views["fine"].shape) == ((3, 16, 16), (3, 32, 32))
    targets = target_views(photos, 16, 0.0, 40, image, np.random.default_rng(0))["fine"]
    assert targets.shape == (40, 3, 16, 16)
    assert len({one.tobytes() for one in targets}) == 5
    for wrong, message in ((f"{folder}/no", "is not a folder"), (f"{folder}/labels.txt", "is not a folder")):
        with pytest.raises(UserError, match=rf"^method.images='.*' {message}: give a folder of images, or null$"):
            Photos(wrong, "method.images").draw(np.random.default_rng(0))


def distilling(folder, **arguments) -> dict:
    return {**SMALL, "images": folder, "distillation": SHORT, "backbone": RESNET, **arguments}


def test_distillation(folder):
    """A teacher learns the standardized features of another network, twice as large an image's, and then rests."""
    method, losses = make(**distilling(folder, batch_size=2, steps=2)), []
    before = method.teacher.net.convolutions[0].weight.clone()
    scalar = lambda tag, value, step: losses.append(value) if tag == "distill/mse" else None  # noqa: E731
    data = RandomImages(64, 3, CPU, method.tags)
    Trainer(device=CPU, scalar=scalar).fit(method, data)
    assert [*data.stages] == ["targets", "distill", "statistics", "learn", "calibrate", "refine"]
    assert (data.stages["distill"].steps, data.stages["distill"].batch_size) == (40, 4)
    assert losses[-1] < 0.9 * losses[0], losses
    assert not method.teacher.net.convolutions[0].weight.equal(before)
    assert not any(weight.requires_grad for weight in method.teacher.parameters())
    assert method.teacher.target_mean.any()
    assert method.teacher.target_std.std() > 0
    assert not any("layer3" in name for name, _ in method.named_parameters())
    assert method.warnings() == [
        "teacher teacher_small is not the published one: distilled here in 40 steps from test_resnet at random weights "
        "(not pretrained)"
    ]
    teacher, backbone, photos = method.weights()
    assert (teacher["name"], teacher["source"]) == ("teacher_small", "distilled from test_resnet")
    assert (backbone["name"], backbone["source"]) == ("test_resnet", "random")
    assert (photos["name"], photos["source"]) == ("images (5)", folder)


def test_distillation_resumes(folder):
    """Interrupted in the stages that make the teacher (the common checks have the others)."""
    subject = Subject(EfficientAD, distilling(folder, batch_size=2, epochs=1, distillation=replace(SHORT, steps=3)))
    stages = {name: stage for name, stage in subject.training.stages.items() if name in ("targets", "distill")}
    assert len(stages) == 2
    subject.training = subject.training._replace(stages=stages)
    checks.check_resume(subject)


@pytest.mark.parametrize("naming", ["sequence", "anomalib", "safetensors", "run"])
def test_teacher_of_a_file(tmp_path, naming):
    """Layers are numbered as in nelson1425's file, or named as in anomalib's, or a run's; nothing is distilled then."""
    other = make()
    places = {"anomalib": ("conv1", "conv2", "conv3", "conv4")}.get(naming, ("0", "3", "6", "8"))
    state = {}
    for place, layer in zip(places, other.teacher.net.convolutions, strict=True):
        state |= {f"{place}.weight": layer.weight.detach() + 1, f"{place}.bias": layer.bias.detach() - 1}
    if naming == "safetensors":
        save_file(state, tmp_path / "teacher_small.safetensors")
    elif naming == "run":  # a checkpoint: all of a method that has this teacher
        with torch.no_grad():
            for layer in other.teacher.net.convolutions:
                layer.weight += 1
                layer.bias -= 1
        torch.save({"method": other.state_dict(), "stage": 3}, tmp_path / "teacher_small.pth")
        other = make()
    else:
        torch.save(state, tmp_path / "teacher_small.pth")
    given = {**SMALL, "teacher": BackboneOptions("teacher_small", weights=str(tmp_path))}
    with no_network():
        method = EfficientAD(image_size=64, **given)
    for found, layer in zip(method.teacher.net.convolutions, other.teacher.net.convolutions, strict=True):
        assert found.weight.equal(layer.weight + 1)
        assert found.bias.equal(layer.bias - 1)
    of_run = ["teacher teacher_small is not the published one: it is an earlier run's"] if naming == "run" else []
    without = "no penalty on images of another kind (no folder of images, or switched off)"
    assert method.warnings() == [*of_run, without]
    (weights,) = method.weights()
    assert (weights["name"], len(weights["sha256"])) == ("teacher_small", 64)
    assert [*EfficientAD.files(given)["weights"].values()] == [method.teacher.file]
    assert not EfficientAD.backbones({**given, "images": str(tmp_path)})
    with pytest.raises(UserError, match=r"^weights file .* does not hold this teacher") as caught:
        EfficientAD(image_size=64, **{**given, "width": 5})
    assert "\n" not in str(caught.value)
    method.teacher.file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"^weights file .* cannot be read \(\w+\): replace it$"):
        EfficientAD(image_size=64, **given)


def test_files_and_warnings(folder):
    method = make()
    texts = method.warnings()
    assert len(texts) == 2
    assert texts[0].startswith("teacher teacher_small has random weights: there is no file of it, and no folder")
    assert texts[1].startswith("no penalty")
    assert method.weights() == [{"name": "teacher_small", "source": "random", "sha256": None}]
    assert not EfficientAD.files(SMALL)
    assert len(EfficientAD.files({**SMALL, "images": folder})["images"]) == 5
    (backbone,) = EfficientAD.backbones({**SMALL, "images": folder})
    assert backbone.name == "wide_resnet101_2.tv_in1k"
    assert "no penalty" in make(images=folder, penalty=False).warnings()[-1]


def test_recipes():
    """Upstream's batches and steps; its optimizer, schedule, quantiles and hold-out are the default's, too."""
    config = compose(["method=efficientad", "dataset=demo", "recipe=official"])
    assert [config.method.rest[key] for key in ("batch_size", "steps", "border")] == [1, 70_000, "zeros"]
    medium = compose(["method=efficientad_m", "dataset=demo", "recipe=segad"]).method.rest
    assert (medium["network"], medium["width"], medium["padding"], medium["teacher"]["name"]) == (
        *("medium", 256, True),
        "teacher_medium",
    )
    method = make(steps=70_000)
    assert method.holdout == {"calibration": 0.1}
    stages = {stage.name: stage for stage in method.stages()}
    learn = stages["learn"]
    assert isinstance(learn, TrainStage)
    assert learn.steps == 70_000
    assert [learn.schedules["adam"](step / 70_000) for step in (66_499, 66_500)] == [1.0, 0.1]
    (group,) = learn.optimizers["adam"].param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-4, 1e-5, (0.9, 0.999))
    assert method.quantiles.shares == (0.9, 0.995)
    assert method.autoencoder.dropout.p == 0.2
    assert stages["calibrate"].split == stages["refine"].split == "calibration"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 100}, r"^image_size=100 does not suit efficientad: give a multiple of 32, from 64 on$"),
        ({"image_size": 32}, r"^image_size=32 does not suit efficientad"),
        ({"quantiles": (0.9, 0.9)}, r"^method.quantiles=\[0.9, 0.9\]: give the lower one first"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        make(**arguments)
    with pytest.raises(UserError, match=r"^efficientad was built for image_size=64 and cannot take images of 64x96"):
        predict(make(), torch.rand(1, 3, 64, 96))


def test_short_training(tmp_path):
    """The errors fall, of held-out images too (a student that gives zeros has 1); those have the quantiles."""
    root = write_mvtec(tmp_path, ["bottle"], train=10, good=1, bad=1, size=64)
    index = load_index("folder", root, counts=None)
    method, losses = make(width=8, features=8, batch_size=3, epochs=25, lr=5e-3, hard_quantile=0.9), []
    loader = Loader(hold_out(index, dict(method.holdout), 0), 64, CPU, 0, 0, method.tags)
    scalar = lambda tag, value, step: losses.append(value) if tag == "learn/hard" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, loader)
    assert len(losses) == 75
    assert np.mean(losses[-9:]) < 0.75 * np.mean(losses[:9]), losses
    held = next(stage for stage in method.stages() if stage.name == "calibrate")
    with torch.no_grad():
        errors = torch.cat([method._errors(batch.image_BCHW) for batch in loader.train(held, 0, 1)]).numpy()
    assert errors.shape == (1, 2, 8, 8)
    assert errors[:, 0].mean() < 0.7
    for number in range(2):
        expected = np.quantile(errors[:, number].astype(float), (0.9, 0.995))
        np.testing.assert_allclose(method.quantiles.value_MQ[number], expected, rtol=1e-5)
