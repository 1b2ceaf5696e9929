"""The classifier against SegAD's description of it, and its focal loss against the definition."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import expit, log_expit
from sklearn.metrics import roc_auc_score
from torch import nn

from ader.config.compose import compose
from ader.config.options import read_option
from ader.data import Index, load_index
from ader.data.sizes import Sizes
from ader.methods import build
from ader.methods._base import Batch
from ader.methods.wrn_classifier import WRNClassifier, focal_loss
from ader.nets.backbone import BackboneOptions
from ader.settings import apply, check_supervision
from ader.system.errors import UserError
from ader.testing.subject import Subject, images, no_network, predict
from ader.testing.toy import write_mvtec
from ader.training.cost import count_macs, count_parameters
from ader.training.loader import Loader
from ader.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = BackboneOptions("resnet18", pretrained=False)


@pytest.fixture(autouse=True)
def no_weights_folder(monkeypatch):
    monkeypatch.delenv("ADER_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def wide() -> WRNClassifier:
    """The full-size method without memory for its weights."""
    with torch.device("meta"):
        return WRNClassifier(backbone=BackboneOptions("wide_resnet50_2.tv_in1k", pretrained=False))


def test_parameters_and_macs(wide):
    """66,838,338 are published for two outputs, the 14.88 G for 256 x 256 pixels."""
    assert count_parameters(wide) == (66_836_289, 66_836_289)
    assert count_parameters(wide)[0] + 2049 == 66_838_338
    assert count_macs(wide, 256, torch.device("meta")) / 1e9 == pytest.approx(14.88, rel=1e-3)


def test_the_network_is_torchvisions(wide):
    """The same names and shapes; strides in the 3x3 convolutions; an average over all places."""
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        net = torchvision.models.wide_resnet50_2(weights=None)
    shapes = {name: value.shape for name, value in net.state_dict().items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in wide.network.net.state_dict().items()} == shapes
    mine = dict(wide.network.net.named_modules())
    for name, part in net.named_modules():
        if isinstance(part, nn.Conv2d):
            assert (mine[name].stride, mine[name].padding) == (part.stride, part.padding), name
        if isinstance(part, nn.BatchNorm2d):
            assert (mine[name].eps, mine[name].momentum) == (part.eps, part.momentum), name
    assert (wide.head.in_features, wide.head.out_features) == (2048, 1)


def test_recipe():
    method = WRNClassifier(epochs=7, backbone=SMALL)
    (stage,) = method.stages()
    (optimizer,) = stage.optimizers.values()
    assert list(stage.modules) == [method.network, method.head]
    assert (stage.epochs, stage.batch_size, stage.clip, stage.schedules, stage.share) == (7, 4, None, {}, 1.0)
    assert stage.splits == ("train", "forest")
    assert stage.supervision is None  # as the tags say
    assert (method.tags.supervision, method.tags.maps) == ("image", False)
    assert type(optimizer) is torch.optim.SGD
    keys = ("lr", "momentum", "weight_decay", "nesterov", "dampening")
    assert [optimizer.defaults[key] for key in keys] == [0.025, 0.9, 0, False, 0]
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert trained == {id(weight) for weight in method.parameters()}  # all layers
    assert all(weight.requires_grad for weight in method.parameters())
    assert (method.focal_gamma, method.focal_alpha) == (2.0, None)


def test_segads_input_is_a_recipe():
    values = compose(["method=wrn_classifier", "dataset=demo", "setting=labeled", "recipe=segad_input"]).values
    assert values["method"]["share"] == 0.8
    (stage,) = WRNClassifier(share=0.8, weight_decay=0.1, backbone=SMALL).stages()
    assert stage.share == 0.8
    assert stage.optimizers["network"].defaults["weight_decay"] == 0.1


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (0.0, None), (0.5, 0.25), (3.0, 1.0)])
def test_focal_loss_is_its_definition(gamma, alpha):
    """-(1 - p)^gamma log p, in float64, up to logits whose probabilities round to 0 and 1."""
    logit = np.array([0.3, -2.0, 5.0, -40.0, 40.0, -800.0, 800.0, 1.7])
    label = np.array([1, 1, 0, 1, 1, 0, 0, 0])
    towards = np.where(label == 1, logit, -logit)
    loss = expit(-towards) ** gamma * -log_expit(towards)
    if alpha is not None:
        loss = loss * np.where(label == 1, alpha, 1 - alpha)
    got = focal_loss(torch.tensor(logit), torch.tensor(label), gamma, alpha)
    assert got.item() == pytest.approx(loss.mean(), rel=1e-12)


def test_focal_loss_by_hand():
    """Probabilities 0.8 and 0.25 of the true label, gamma 2: 0.04 ln 1.25 and 0.5625 ln 4."""
    logit = torch.tensor([np.log(4.0), np.log(3.0)])  # of "defective": 0.8 and 0.75
    expected = (0.2**2 * np.log(1.25) + 0.75**2 * np.log(4.0)) / 2
    assert focal_loss(logit, torch.tensor([1, 0]), 2.0, None).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradients_stay_finite(gamma):
    """And have the right sign: minimizing raises a defective image's logit."""
    logit_B = torch.tensor([0.5, 0.5, 200.0, -200.0, 200.0, -200.0, 0.0], requires_grad=True)
    label_B = torch.tensor([1, 0, 1, 0, 0, 1, 1])
    loss = focal_loss(logit_B, label_B, gamma, None)
    loss.backward()
    assert loss.isfinite()
    assert logit_B.grad.isfinite().all()
    assert logit_B.grad[0] < 0 < logit_B.grad[1]
    assert logit_B.grad[4] > 0 > logit_B.grad[5]  # hopelessly wrong ones still pull
    step = 1e-6
    for place in (0, 1, 6):
        moved = [torch.tensor(logit_B.tolist(), dtype=torch.float64) for _ in range(2)]
        moved[0][place] -= step
        moved[1][place] += step
        low, high = (focal_loss(each, label_B, gamma, None).item() for each in moved)
        assert logit_B.grad[place].item() == pytest.approx((high - low) / (2 * step), rel=1e-4, abs=1e-9)


def test_a_step_minimizes_the_focal_loss_of_the_logits(monkeypatch):
    method, minimized = WRNClassifier(focal_gamma=1.0, focal_alpha=0.25, backbone=SMALL), []
    logit_B, label_B = torch.tensor([1.0, -1.0, 3.0]), torch.tensor([1, 0, 0])
    monkeypatch.setattr(WRNClassifier, "forward", lambda self, image_BCHW: logit_B)
    batch = Batch(image_BCHW=images(3, 32), seed_B=torch.arange(3), label_B=label_B)
    logged = method._step(batch, lambda loss, *names: minimized.append((loss.item(), names)))
    wrong = 1 / (1 + np.exp([1.0, 1.0, -3.0]))
    expected = (np.array([0.25, 0.75, 0.75]) * wrong * -np.log(1 - wrong)).mean()
    assert minimized == [(pytest.approx(expected, rel=1e-6), ())]
    assert {name: value.item() for name, value in logged.items()} == {"focal": pytest.approx(expected, rel=1e-6)}


def test_scores_are_logits():
    """The average over all places of the last features, through the head."""
    method = Subject.named("wrn_classifier").make().eval()
    image_BCHW = images(3, 64)
    net = method.network.net
    with torch.no_grad():
        feature_BCHW = method.network.normalize(image_BCHW)
        for part in (net.conv1, net.bn1, net.act1, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4):
            feature_BCHW = part(feature_BCHW)
        expected_B = feature_BCHW.mean(dim=(2, 3)) @ method.head.weight[0] + method.head.bias
    score_B, map_BHW = predict(method, image_BCHW)
    torch.testing.assert_close(score_B, expected_B, atol=1e-6, rtol=1e-5)
    assert map_BHW is None


def test_half_precision_makes_no_ties():
    """The head is computed in float32: bfloat16 has 256 values between 1 and 2, float32 8 million."""
    method = Subject.named("wrn_classifier").make().eval()
    nn.init.zeros_(method.head.bias)
    with torch.no_grad(), Trainer(device=CPU, precision="bf16").autocast():
        logit_B = method(images(2, 32))
    assert logit_B.dtype == torch.float32
    assert not logit_B.equal(logit_B.bfloat16().float())


def test_networks_of_one_size_are_refused():
    with pytest.raises(UserError, match=r"^method.backbone.name='test_vit' takes one size of images only: .*convol"):
        WRNClassifier(backbone=BackboneOptions("test_vit", pretrained=False))


@pytest.mark.parametrize(
    "argument", [{"focal_gamma": -1}, {"focal_alpha": 1.5}, {"share": 0}, {"momentum": 1}, {"lr": 0}]
)
def test_values_out_of_range(argument):
    with pytest.raises(UserError, match=rf"^method.{next(iter(argument))}=.* does not fit"):
        build("wrn_classifier", **argument)


def test_weights_from_a_folder(tmp_path):
    """The file has the head of 1000 classes, which is left out; the checksum is the file's."""
    torch.manual_seed(5)
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.resnet18(weights=None).state_dict()
    save_file(state, tmp_path / "resnet18.tv_in1k.safetensors")
    with no_network():
        method = build("wrn_classifier", backbone={"name": "resnet18.tv_in1k", "weights": str(tmp_path)})
    loaded = method.network.net.state_dict()
    assert set(loaded) == set(state) - {"fc.weight", "fc.bias"}
    assert all(value.equal(state[name]) for name, value in loaded.items())
    (weights,) = method.weights()
    assert weights["source"] == str(tmp_path / "resnet18.tv_in1k.safetensors")


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> Index:
    """Two categories of 12 normal training images; of 16 defects each, 8 are training data, 8 test data."""
    root = write_mvtec(tmp_path_factory.mktemp("toys"), train=12, good=8, bad=16, size=48, defects=["hole"])
    index = load_index("folder", root, counts=None)
    trained = lambda s: s.split == "test" and s.label == 1 and int(Path(s.image).stem) < 8  # noqa: E731
    return index.with_samples(replace(s, split="train") if trained(s) else s for s in index)


SETTINGS = {
    "labeled": ({"k": 2}, 12 + 2),  # replaces the training data's own defects
    "supervised": ({}, 12 + 8),
    "vad_high_shot": ({}, 12 + 8),
    "vad_low_shot": ({"shots": 3}, 12 + 3),  # the list is of VAD
    "segad_visa": ({"shots": 4}, 12 + 4),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_trains_on_all_that_a_setting_labels(toys, name):
    """The detectors' normal images, the forest's and the defects, with their labels; or a share of each."""
    changes, expected = SETTINGS[name]
    options = {**read_option("setting", name), **changes}
    _, parts = apply(toys, 0, options.pop("name"), options)
    for part in parts:
        check_supervision("image", part.index)
    assert len(parts) == 2
    for share in (1.0, 0.5):
        (stage,) = WRNClassifier(batch_size=1, epochs=1, share=share, backbone=SMALL).stages()
        loader = Loader(parts[0].index, 32, CPU, 0, 0, WRNClassifier.tags)
        seen = loader.order(stage).images
        assert seen == round(share * 12) + round(share * (expected - 12))
        labels = Counter(int(batch.label_B) for batch in loader.train(stage, 0, seen))
        assert labels == {0: round(share * 12), 1: round(share * (expected - 12))}


def test_one_class_settings_are_refused(toys):
    """Without labeled defects there is nothing to classify."""
    options = read_option("setting", "vad_one_class")
    index, _ = apply(toys, 0, options.pop("name"), options)
    with pytest.raises(UserError, match="the method trains on defective images"):
        check_supervision(WRNClassifier.tags.supervision, index)


def image_auroc(method: WRNClassifier, loader: Loader) -> float:
    scores, labels = [], []
    for samples, image_BCHW, _, _ in loader.test(16, Sizes()):
        scores += predict(method, image_BCHW).score_B.tolist()
        labels += [sample.label for sample in samples]
    return float(roc_auc_score(labels, scores))


def test_short_training(toys):
    """Ten epochs of labeled defects: the loss falls, and unseen images are told apart."""
    index, _ = apply(toys, 0, "supervised", {"models": "all", "detector_share": 0.5})
    torch.manual_seed(0)
    method, losses = WRNClassifier(batch_size=8, epochs=10, backbone=BackboneOptions("test_resnet", False)), []
    loader = Loader(index, 48, CPU, 0, 0, method.tags)
    before = image_auroc(method, loader)
    scalar = lambda tag, value, step: losses.append(value) if tag == "classify/focal" else None  # noqa: E731
    Trainer(device=CPU, scalar=scalar).fit(method, loader)
    assert len(losses) == 50
    after = image_auroc(method, loader)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10]), losses
    assert before < 0.7, before
    assert after > 0.9, after
