"""Reference implementations beside our methods: same weights, same input.

Each module here is one comparison; its ``pair(upstreams, batch)`` builds our method and the reference with our weights
copied into it. ``python -m parity`` prints how far apart they are, ``benchmarks/methods.py`` times them. The
references are not part of this project: ``upstreams`` is a folder of clones, each under its repository's name
(``ADer``, ``ml-destseg`` ...), and a module says at its top which it needs and what else must be installed.

One process builds one pair: references bring packages with names like ``model`` and ``utils``.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from ader.methods._base import Batch, Method, Stage, TrainStage
from ader.training.optimization import Optimization

#: Images are (SIZE, SIZE) pixels.
SIZE = 256

NOTHING: Mapping[str, str] = types.MappingProxyType({})

#: Runs something once: a training step, an inference batch.
Run = Callable[[], object]


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of one quantity, and the largest absolute value of the reference's."""

    what: str
    largest: float
    scale: float

    def line(self) -> str:
        """For reading."""
        return f"{self.what:36} largest difference {self.largest:.2e} (values up to {self.scale:.3g})"


@dataclass(frozen=True)
class Pair:
    """Our method beside its reference.

    Attributes:
        ours: our method.
        upstream: the reference's repository and commit, as ``commit`` gives it.
        differences: compares features, loss, gradients, map and image score; a generator function.
        train: one training step on the same batch, of the reference and of ours; None: there is no training.
        test: one inference batch on the same images, from RGB to maps and image scores, of the reference and of ours.
        train_images, test_images: in these batches.
        note: what a reader of the times must know.
        full: our method at its full size on the meta device, where the comparison is of a smaller one: its parameters
            and multiply-accumulates are counted.
    """

    ours: Method
    upstream: str
    differences: Callable[[], Iterable[Difference]]
    train: tuple[Run, Run] | None
    test: tuple[Run, Run]
    train_images: int
    test_images: int
    note: str = ""
    full: Method | None = None


@dataclass(frozen=True)
class Published:
    """What ADer Table 1 prints of a method's costs at 256x256 pixels: ``PUBLISHED`` of the method's module here.

    Attributes:
        params: millions of parameters.
        macs: billions of multiply-accumulates, as fvcore counts them.
        why: why our counts differ, where they do; the method's tests show it.
    """

    params: float
    macs: float
    why: str = ""


def published(name: str) -> Published | None:
    """What is printed of the costs of a method; None: nothing, or there is no comparison of this name."""
    if name not in names():
        return None
    found: Published | None = getattr(importlib.import_module(f"parity.{name}"), "PUBLISHED", None)
    return found


def load(name: str, upstreams: Path, batch: int) -> Pair:
    """The comparison called ``name``."""
    torch.manual_seed(0)
    pair: Pair = importlib.import_module(f"parity.{name}").pair(upstreams, batch)
    return pair


def names() -> list[str]:
    """All comparisons."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("__"))


def commit(repository: str, clone: Path) -> str:
    """``zhangzjn/ADer at 902937a``.

    Raises:
        SystemExit: there is no such clone.
    """
    if not clone.is_dir():
        raise SystemExit(f"{clone} is missing: clone https://github.com/{repository} there")
    words = ["git", "-C", str(clone), "rev-parse", "--short=7", "HEAD"]
    return f"{repository} at {subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()}"


def import_ader(clone: Path, module: str) -> Any:
    """A module of ADer's package ``model``, without the package's own imports, which need every method's packages."""
    sys.path.insert(0, str(clone))
    stub = types.ModuleType("model")
    stub.MODEL = types.SimpleNamespace(register_module=lambda item: item)  # type: ignore[attr-defined]
    stub.get_model = lambda item: item  # type: ignore[attr-defined]
    stub.__path__ = [str(clone / "model")]
    sys.modules["model"] = stub
    return importlib.import_module(f"model.{module}")


def import_anomalib(clone: Path, module: str) -> Any:
    """A module of anomalib's image models, with its building blocks and without the rest of the package, which needs
    its training framework."""
    source = clone / "src" / "anomalib"
    for name in ("", ".models", ".models.components", ".models.image"):
        _bare_package(f"anomalib{name}", source.joinpath(*name.split(".")[1:]))
    for name in ("sampling", "filters", "feature_extractors", "base", "dimensionality_reduction", "stats"):
        _bare_package(f"anomalib.models.components.{name}", source / "models" / "components" / name)
    for name in ("cfa", "padim", "patchcore", "reverse_distillation", "stfpm"):
        _bare_package(f"anomalib.models.image.{name}", source / "models" / "image" / name)
    sys.modules["anomalib.data"] = types.SimpleNamespace(InferenceBatch=_InferenceBatch)  # type: ignore[assignment]
    components: Any = sys.modules["anomalib.models.components"]
    for file, item in (
        ("dimensionality_reduction.random_projection", "SparseRandomProjection"),
        ("sampling.k_center_greedy", "KCenterGreedy"),
        ("filters.blur", "GaussianBlur2d"),
        ("feature_extractors.timm", "TimmFeatureExtractor"),
        ("feature_extractors.utils", "dryrun_find_featuremap_dims"),
        ("base.dynamic_buffer", "DynamicBufferMixin"),
        ("stats.multi_variate_gaussian", "MultiVariateGaussian"),
    ):
        folder = sys.modules[f"anomalib.models.components.{file.split('.')[0]}"]
        found = getattr(importlib.import_module(f"anomalib.models.components.{file}"), item)
        setattr(folder, item, found)
        setattr(components, item, found)
    return importlib.import_module(f"anomalib.models.image.{module}")


class _InferenceBatch(NamedTuple):
    """Of anomalib's type of this name what its models fill."""

    pred_score: Tensor
    anomaly_map: Tensor


def _bare_package(name: str, folder: Path) -> None:
    """A package whose modules can be imported and whose own ``__init__`` is not run."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def training_step(method: Method, image_BCHW: Tensor, stage: int = 0, **more: Any) -> Run:
    """What the trainer does for one batch: the stage's step with its optimizers and clipping.

    Args:
        method: ours.
        image_BCHW: RGB in [0, 1].
        stage: number of the stage; it must be a descent.
        **more: further fields of ``Batch``, such as ``label_B``.
    """
    chosen: Stage | None = None
    stages = method.stages()
    for _ in range(stage + 1):
        chosen = next(stages)
    assert isinstance(chosen, TrainStage)
    descent = chosen
    optimize = Optimization(descent, image_BCHW.device)
    batch = Batch(image_BCHW=image_BCHW, seed_B=torch.arange(len(image_BCHW)), **more)
    method.eval()
    for module in descent.modules:
        module.train()
    return lambda: descent.step(batch, optimize)


def largest(what: str, ours: Any, reference: Any) -> Difference:
    """Compares tensors, arrays, numbers, or sequences of them."""
    pairs = list(zip(_tensors(ours), _tensors(reference), strict=True))
    for one, other in pairs:
        assert one.shape == other.shape, f"{what}: shapes {tuple(one.shape)} and {tuple(other.shape)}"
    difference = max(float((one - other).abs().max()) for one, other in pairs)
    return Difference(what, difference, max(float(other.abs().max()) for _, other in pairs))


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return [torch.as_tensor(values).detach().cpu().double()]


def gradients(what: str, ours: Sequence[nn.Parameter], reference: Sequence[nn.Parameter]) -> Difference:
    """Compares gradients of parameters, paired by position."""
    pairs = [(a.grad, b.grad) for a, b in zip(ours, reference, strict=True)]
    kept = [(a, b) for a, b in pairs if a is not None and b is not None]
    assert len(kept) == sum(a is not None or b is not None for a, b in pairs), "one has gradients, the other has not"
    return largest(what, [a for a, _ in kept], [b for _, b in kept])


def copy_weights(
    ours: nn.Module, reference: nn.Module, renamed: Mapping[str, str], inner: Mapping[str, str] = NOTHING
) -> None:
    """Copies our weights into the reference.

    Args:
        ours, reference: whole networks.
        renamed: prefixes of our names and of the reference's. Every entry of ours below such a prefix must find a
            place of its shape.
        inner: parts of names and of the reference's, tried where a name alone finds no place.
    """
    state = reference.state_dict()
    for name, target in _targets(ours.state_dict(), state, renamed, inner):
        assert state[target].shape == ours.state_dict()[name].shape, f"{name} and {target}"
        state[target] = ours.state_dict()[name].clone()
    reference.load_state_dict(state)


def paired_parameters(
    ours: nn.Module, reference: nn.Module, renamed: Mapping[str, str], inner: Mapping[str, str] = NOTHING
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Our parameters below the renamed prefixes and the reference's, in the same order."""
    mine, theirs = dict(ours.named_parameters()), dict(reference.named_parameters())
    names = list(_targets(mine, theirs, renamed, inner))
    return [mine[name] for name, _ in names], [theirs[target] for _, target in names]


def _targets(
    ours: Iterable[str], reference: Mapping[str, Any], renamed: Mapping[str, str], inner: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for name in ours:
        for mine, theirs in renamed.items():
            if name.startswith(f"{mine}."):
                target = theirs + name[len(mine) :]
                for part, other in inner.items() if target not in reference else ():
                    target = target.replace(part, other)
                assert target in reference, f"{name} has no place: {target}"
                yield name, target


def smoothed(map_BHW: Any, sigma: float = 4.0) -> np.ndarray[Any, Any]:
    """The references' Gaussian: scipy's, image by image."""
    return np.stack([gaussian_filter(np.asarray(each), sigma=sigma) for each in map_BHW])
