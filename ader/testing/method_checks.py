"""Checks that every method must pass, for this package and for others.

A check takes a ``Subject`` (a method class with arguments that make it small) and raises AssertionError. Every YAML
file in ``configs/method/`` is a subject; a method of another package is checked like this::

    @pytest.mark.parametrize("check", method_checks(), ids=lambda check: check.__name__)
    def test_mine(check):
        check(Subject.named("mine"))

The recipe ``small`` of the YAML file says what makes a method small (a ResNet-18 at random weights, narrow layers); the
checks take two images per step and one epoch on top of it.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import io
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ader.config.compose import compose
from ader.config.options import config_folder, option_file, options, read_option
from ader.config.validate import validated
from ader.data.index import TEST
from ader.methods._base import Method, Prediction, Stage, TrainStage, find_class, recipe_arguments
from ader.methods._options import stated
from ader.system.errors import UserError
from ader.system.interrupt import Interrupt, Stopped
from ader.testing.features import check_cached_features
from ader.testing.placement import assert_near, check_device, check_processes
from ader.testing.subject import CPU, STEPS, Subject, Watched, changed, images, no_network, predict, same, snapshot
from ader.training.cost import RandomImages, count_macs
from ader.training.trainer import Trainer

Check = Callable[[Subject], None]

#: Checks that a method fails for a known reason: {"method": {"check_x": "why"}}.
EXPECTED_FAILURES: Mapping[str, Mapping[str, str]] = {}


def _yaml(config: Path) -> dict[str, Any]:
    """An option's values: those of the file and, where it is one of the program's, of the options it is based on."""
    if config.stem in options(config.parent.name) and config.samefile(option_file(config.parent.name, config.stem)):
        return read_option(config.parent.name, config.stem)
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert isinstance(values, dict), f"{config} is not a mapping"
    return values


def check_yaml(subject: Subject) -> None:
    """The YAML file gives every constructor argument; the values of the option that has the method's own name are the
    constructor's defaults."""
    if subject.config is None:
        return
    values = _yaml(subject.config)
    module, recipes = values.pop("name"), values.pop("recipes", {})
    parameters = dict(inspect.signature(subject.method_class).parameters)
    size = parameters.pop("image_size", None)
    assert size is None or "image_size" not in values, "image_size is the benchmark's: leave it out of the YAML"
    converted = validated(subject.method_class, stated(values, {}), where="method")
    if module == subject.config.stem:  # another option of the method says only what differs, and differs
        assert set(values) == set(parameters), f"YAML and constructor disagree on {set(values) ^ set(parameters)}"
        others = {key: (value, parameters[key].default) for key, value in converted.items()}
        others = {key: pair for key, pair in others.items() if pair[0] != pair[1]}
        assert not others, f"YAML and constructor differ (YAML, default): {others}"
    for name in recipes:
        config = compose(
            [f"method={subject.config.stem}", "dataset=demo", f"recipe={name}"], _elsewhere(subject.config)
        )
        recipe_arguments(subject.method_class, config.image_size, config.method.rest)


def _elsewhere(config: Path) -> str | None:
    """The folder to search for a config that is not one of this package's."""
    folder = config.parents[1]
    return None if folder.samefile(config_folder()) else str(folder)


def check_builds_offline(subject: Subject) -> None:
    """The full-size method of the YAML file builds without network when no weights are wanted, and says so."""
    if subject.config is None:
        return
    config = compose([f"method={subject.config.stem}", "dataset=demo"], _elsewhere(subject.config))
    values, method_class = dict(config.method.rest), find_class(config.method.name)
    for value in values.values():
        if isinstance(value, dict) and "pretrained" in value:
            value["pretrained"] = False
    arguments = recipe_arguments(method_class, config.image_size, values)
    with no_network():
        try:
            with torch.device("meta"):  # which takes no time for random weights
                method = method_class(**copy.deepcopy(arguments))
        except (NotImplementedError, RuntimeError):  # one that looks at values
            method = method_class(**arguments)
    assert type(method) is subject.method_class
    random = [value["name"] for value in values.values() if isinstance(value, dict) and "pretrained" in value]
    silent = [backbone for backbone in random if not any(backbone in text for text in method.warnings())]
    assert not silent, f"random weights of {silent} are not among the warnings"


def check_arguments_not_mutated(subject: Subject) -> None:
    """Building, training and predicting leave the constructor's arguments as they were."""
    arguments = recipe_arguments(subject.method_class, subject.size, dict(subject.arguments))
    before = copy.deepcopy(arguments)
    method = subject.method_class(**arguments)
    Trainer(device=CPU, max_steps=1).fit(method, RandomImages(subject.size, 1, CPU, method.tags))
    predict(method, images(1, subject.size))
    assert arguments == before, f"constructor arguments became {arguments}, were {before}"


def check_stages(subject: Subject) -> None:
    """Stages have unique names (the trainer refuses others), a batch size, and never see test data."""
    method, stages, *_ = subject.training
    shares = method.holdout
    assert not {"train", TEST} & set(shares), f"holdout {shares} names a split that exists"
    assert all(share > 0 for share in shares.values()), f"holdout {shares} must be positive"
    assert sum(shares.values()) < 1, f"holdout {shares} leaves nothing to train on"
    parts = {id(part) for part in method.modules()}
    known = {id(weight) for weight in method.parameters()}
    for stage in stages.values():
        assert stage.batch_size >= 1, f"stage {stage.name!r}: batch size {stage.batch_size}"
        assert 0 < stage.share <= 1, f"stage {stage.name!r}: share {stage.share}"
        levels = ["normal", "image", "pixel"]
        asked = levels.index(stage.supervision or "normal")
        assert asked <= levels.index(method.tags.supervision), f"stage {stage.name!r} asks for more than the tags say"
        assert TEST not in stage.splits, f"stage {stage.name!r} asks for the test split"
        if isinstance(stage, TrainStage):
            assert stage.optimizers, f"stage {stage.name!r} has no optimizer"
            assert all(id(part) in parts for part in stage.modules), f"stage {stage.name!r}: modules of others"
            assert {id(weight) for weight in _optimized(stage)} <= known, f"stage {stage.name!r}: parameters of others"


def check_training_finite(subject: Subject) -> None:
    """A few steps log finite losses and leave finite parameters and buffers; every descent logs something."""
    method, stages, logged, mode = subject.training
    for stage in stages.values():
        own = {"lr_" + name for name in stage.optimizers} | {"epoch"} if isinstance(stage, TrainStage) else set()
        losses = [tag for tag in logged if tag.startswith(f"{stage.name}/") and tag.split("/", 1)[1] not in own]
        assert losses or not isinstance(stage, TrainStage), f"stage {stage.name!r} logs no loss"
    bad = [name for name, value in snapshot(method).items() if value.is_floating_point() and not value.isfinite().all()]
    assert not bad, f"not finite after {STEPS} steps: {bad}"
    assert not mode, "the trainer must leave the method in evaluation mode"


def check_what_trains(subject: Subject) -> None:
    """A descent changes every parameter that its optimizers hold and no other; buffers only within its modules.
    A pass changes no parameter."""
    method = subject.make()
    before: dict[str, Tensor] = {}

    def tell(event: str, stage: Stage, number: int) -> None:
        if event == "begin":
            before.update(snapshot(method))
        elif event == "end":
            moved = set(changed(before, {**before, **snapshot(method)}))
            _check_changes(method, stage, moved)

    Trainer(device=CPU, max_steps=STEPS).fit(method, Watched(subject.data(), tell))


def _check_changes(method: Method, stage: Stage, moved: set[str]) -> None:
    weights = {name: id(weight) for name, weight in method.named_parameters()}
    trained = {id(weight) for weight in _optimized(stage)} if isinstance(stage, TrainStage) else set()
    loose = [name for name in moved & set(weights) if weights[name] not in trained]
    assert not loose, f"stage {stage.name!r} changes parameters that no optimizer holds: {loose}"
    if isinstance(stage, TrainStage):
        still = [name for name, key in weights.items() if key in trained and name not in moved]
        assert not still, f"stage {stage.name!r} never changes parameters of its optimizers: {still}"
        own = {id(value) for module in stage.modules for value in module.buffers()}
        other = [name for name, value in method.named_buffers() if name in moved and id(value) not in own]
        assert not other, f"stage {stage.name!r} changes buffers outside its modules: {other}"


def _optimized(stage: TrainStage) -> list[Tensor]:
    groups = [group for optimizer in stage.optimizers.values() for group in optimizer.param_groups]
    return [weight for group in groups for weight in group["params"]]


def check_same_seed(subject: Subject) -> None:
    """The same seed gives the same trained method and the same predictions, bit for bit."""
    again = subject.fit()
    moved = changed(snapshot(subject.fitted), snapshot(again))
    assert not moved, f"two runs of one seed differ in {moved}"
    image_BCHW = images(3, subject.size)
    assert same(predict(subject.fitted, image_BCHW), predict(again, image_BCHW)), "predictions of one seed differ"


def check_prediction(subject: Subject) -> None:
    """Scores (B,) and maps (B, H, W) at the input's size, float32 and finite; maps exactly where the tags say so."""
    for count, size in ((1, subject.size), (3, subject.size)):
        _check_shapes(subject.fitted, images(count, size))
    if "image_size" not in inspect.signature(subject.method_class).parameters:
        with suppress(UserError):  # a method may refuse a size, in words
            _check_shapes(subject.fitted, images(2, subject.size * 3 // 2))


def _check_shapes(method: Method, image_BCHW: Tensor) -> None:
    score_B, map_BHW = predict(method, image_BCHW)
    count, _, height, width = image_BCHW.shape
    assert score_B.shape == (count,), f"scores have shape {tuple(score_B.shape)}, expected ({count},)"
    assert score_B.dtype == torch.float32, f"scores are {score_B.dtype}, expected float32"
    assert score_B.isfinite().all(), f"scores are not finite: {score_B}"
    assert (map_BHW is not None) == method.tags.maps, f"tags.maps={method.tags.maps}, but the map is {map_BHW}"
    if map_BHW is not None:
        expected = (count, height, width)
        assert map_BHW.shape == expected, f"maps have shape {tuple(map_BHW.shape)}, expected {expected}"
        assert map_BHW.dtype == torch.float32, f"maps are {map_BHW.dtype}, expected float32"
        assert map_BHW.isfinite().all(), "maps are not finite"


def check_batch_independent(subject: Subject) -> None:
    """An image's prediction does not depend on the others in its batch, nor on its place.

    Not bit for bit: kernels are chosen by shape and add in another order, which costs some 1e-6 of the largest value
    per layer of a network. 1e-4 leaves room for that and for the cancellation in a distance; batch statistics or a
    normalization over the batch move values by several percent.
    """
    image_BCHW = images(4, subject.size)
    whole = predict(subject.fitted, image_BCHW)
    order = [2, 0, 3, 1]
    assert_near(predict(subject.fitted, image_BCHW[order]), _pick(whole, order), 1e-4, "another order of images")
    for place in range(4):
        alone = predict(subject.fitted, image_BCHW[place : place + 1])
        assert_near(alone, _pick(whole, [place]), 1e-4, "an image alone")


def _pick(prediction: Prediction, places: Sequence[int]) -> Prediction:
    map_BHW = prediction.map_BHW
    return Prediction(prediction.score_B[list(places)], None if map_BHW is None else map_BHW[list(places)])


def check_predict_changes_nothing(subject: Subject) -> None:
    """Predicting leaves parameters, buffers, modes and the random stream alone, and repeats bit for bit."""
    method, image_BCHW = subject.fitted, images(2, subject.size)
    method.eval()
    before, stream = snapshot(method), torch.get_rng_state()
    first = predict(method, image_BCHW)
    moved = changed(before, snapshot(method))
    assert not moved, f"predict changes {moved}"
    assert torch.get_rng_state().equal(stream), "predict draws from the global random stream"
    assert not any(part.training for part in method.modules()), "predict leaves evaluation mode"
    assert same(first, predict(method, image_BCHW)), "predicting again gives something else"
    assert image_BCHW.equal(images(2, subject.size)), "predict writes into its input"


def check_checkpoint(subject: Subject) -> None:
    """State saved, loaded without unpickling code and put into a new method gives the same predictions."""
    stream = io.BytesIO()
    torch.save(subject.fitted.state_dict(), stream)
    stream.seek(0)
    other = subject.make(seed=1)
    other.load_state_dict(torch.load(stream, weights_only=True))
    image_BCHW = images(3, subject.size)
    first, second = predict(subject.fitted, image_BCHW), predict(other, image_BCHW)
    assert same(first, second), "a method loaded from its state dict predicts something else"


def check_bfloat16(subject: Subject) -> None:
    """Predictions under bfloat16 autocast are float32 and near those in float32.

    bfloat16 keeps 8 bits: 0.4 % per operation, about 1 % of the largest value after a network's tens of layers,
    twice that in a squared distance. 2 % tells this from sums over pixels or channels that are kept in bfloat16.
    """
    image_BCHW = images(2, subject.size)
    exact = predict(subject.fitted, image_BCHW)
    with Trainer(device=CPU, precision="bf16").autocast():
        _check_shapes(subject.fitted, image_BCHW)
        rough = predict(subject.fitted, image_BCHW)
    assert_near(rough, exact, 0.02, "bfloat16")


def check_resume(subject: Subject) -> None:
    """Training interrupted in any stage and resumed ends bit for bit where uninterrupted training ends."""
    straight = snapshot(subject.fitted)
    for name in subject.training.stages:
        with tempfile.TemporaryDirectory() as folder:
            resumed = _interrupted_and_resumed(subject, name, Path(folder) / "checkpoint.pt")
        moved = changed(straight, snapshot(resumed))
        assert not moved, f"interrupted in stage {name!r} and resumed, these differ: {moved}"


def _interrupted_and_resumed(subject: Subject, name: str, checkpoint: Path) -> Method:
    interrupt = Interrupt()

    def tell(event: str, stage: Stage, number: int) -> None:
        if event == "step" and stage.name == name and number == 1:
            interrupt.name = "SIGTERM"  # seen by the trainer at the end of the next step

    options: dict[str, Any] = {"max_steps": STEPS, "checkpoint": checkpoint}
    try:
        Trainer(device=CPU, interrupt=interrupt, **options).fit(subject.make(), Watched(subject.data(), tell))
    except Stopped:
        method = subject.make()
        Trainer(device=CPU, **options).fit(method, subject.data())
        return method
    raise AssertionError(f"stage {name!r} was not interrupted")


def check_no_names(subject: Subject) -> None:
    """No string in the method's code, docstrings aside, names a dataset or a category: nothing may depend on them."""
    source = ast.parse(Path(inspect.getfile(subject.method_class)).read_text())
    documentation = {id(node.value) for node in ast.walk(source) if isinstance(node, ast.Expr)}
    strings = [
        node.value
        for node in ast.walk(source)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    ]
    words = {word for text in strings for word in re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)*", text.lower())}
    assert not words & published_names(), f"the method's code names {sorted(words & published_names())}"


#: Categories whose names are words that code may use: ``padding="same"``, a normal "background".
ORDINARY = frozenset({"same", "view", "background", "illumination", "switch", "tape", "can"})


@functools.cache
def published_names() -> frozenset[str]:
    """Published datasets (those whose YAML states counts) and their categories."""
    names: set[str] = set()
    for option in options("dataset"):
        values = read_option("dataset", option)
        if values.get("counts"):
            names |= {option, *map(str, values["about"]["categories"] or ())}
    return frozenset(name.lower() for name in names if not name.isdigit()) - ORDINARY


def check_macs(subject: Subject) -> None:
    """The network pass is one whose multiply-accumulates can be counted."""
    assert count_macs(subject.fitted, subject.size, CPU) > 0, "forward has no multiply-accumulates to count"


CHECKS: tuple[Check, ...] = (
    check_yaml,
    check_builds_offline,
    check_arguments_not_mutated,
    check_stages,
    check_training_finite,
    check_what_trains,
    check_same_seed,
    check_prediction,
    check_batch_independent,
    check_predict_changes_nothing,
    check_checkpoint,
    check_bfloat16,
    check_resume,
    check_no_names,
    check_macs,
    check_processes,
    check_device,
    check_cached_features,
)


def method_checks() -> list[Check]:
    """All checks, to parametrize a test over."""
    return list(CHECKS)
