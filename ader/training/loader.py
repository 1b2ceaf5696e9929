"""From samples to batches: decoding in workers, images uint8 until they are on the device.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ader.data.image import U8, load_image
from ader.data.image_cache import CachedImages
from ader.data.index import TEST, Index, Sample
from ader.data.masks import MaskRule
from ader.data.sizes import Sizes
from ader.data.sources import Source
from ader.methods._base import Augment, Batch, Stage, Tags, TrainStage, supervision_of
from ader.system.errors import UserError, some
from ader.system.randomness import derive_seed
from ader.training.order import BatchOrder, BatchSampler, test_batches
from ader.training.workers import in_workers

Keys = list[tuple[int, int]]  # epoch and position


class TestBatch(NamedTuple):
    """Test images on the device.

    Attributes:
        samples: what they are.
        image_BCHW: RGB in [0, 1], float32.
        mask_BHW: uint8 0/1; a list of (H, W) where the masks' sizes differ, None for a dataset without any.
        inputs: what the method declares besides, by name.
    """

    samples: list[Sample]
    image_BCHW: Tensor
    mask_BHW: Tensor | list[Tensor] | None
    inputs: Mapping[str, Tensor]


class _Images:
    """Makes whole batches: uint8 images (B, 3, H, W), and what else is asked for."""

    def __init__(
        self,
        index: Index,
        samples: Sequence[Sample],
        size: int,
        truth: str,
        seed: int,
        augment: Augment | None,
        sizes: Sizes,
        cached: CachedImages | None,
        inputs: Mapping[str, Source],
    ) -> None:
        self.index, self.samples, self.size, self.sizes = index, samples, size, sizes
        self.truth, self.seed, self.augment, self.cached, self.inputs = truth, seed, augment, cached, inputs

    @property
    def copied(self) -> bool:
        """Whether a batch costs a copy of memory, and nothing that would be worth another process."""
        return self.cached is not None and self.augment is None and self.truth != "pixel" and not self.inputs

    def batch(self, keys: Keys) -> dict[str, Any]:
        """The images at (epoch, position), as arrays."""
        chosen = [self.samples[position] for _, position in keys]
        seeds = [derive_seed(self.seed, epoch, sample.image) for (epoch, _), sample in zip(keys, chosen, strict=True)]
        image_BCHW = self._decoded(chosen) if self.cached is None else self.cached.take([s.image for s in chosen])
        batch: dict[str, Any] = {
            "image": image_BCHW,
            "seed": np.array(seeds),
            "position": [position for _, position in keys],
        }
        if self.truth in ("image", "pixel"):
            batch["label"] = np.array([sample.label for sample in chosen])
        if self.truth == "pixel":
            size = (self.size, self.size)
            batch["mask"] = [self.sizes.mask(self.index, sample, size) for sample in chosen]
            if len({mask.shape for mask in batch["mask"]}) == 1:
                batch["mask"] = np.stack(batch["mask"])
        if self.augment is not None:
            extras = [
                self.augment(image, np.random.default_rng(seed)) for image, seed in zip(image_BCHW, seeds, strict=True)
            ]
            batch["extra"] = {name: np.stack([extra[name] for extra in extras]) for name in extras[0]}
        batch["inputs"] = {
            name: np.stack(
                [
                    source.read(sample, self.size, np.random.default_rng(derive_seed(name, seed)))
                    for sample, seed in zip(chosen, seeds, strict=True)
                ]
            )
            for name, source in self.inputs.items()
        }
        return batch

    def _decoded(self, samples: Sequence[Sample]) -> U8:
        bits = self.index.bits
        return np.stack([load_image(self.index.path(sample.image), self.size, bits=bits) for sample in samples])


def _drawn(samples: Sequence[Sample], share: float, seed: int) -> tuple[Sample, ...]:
    """A share of each category's normal and of its defective images, at least one; smaller shares are nested."""
    kinds: dict[tuple[str, int], list[str]] = {}
    for sample in samples:
        kinds.setdefault((sample.category, sample.label), []).append(sample.image)
    kept: set[str] = set()
    for images in kinds.values():
        images.sort(key=lambda image: derive_seed(seed, "share", image))
        kept.update(images[: max(1, round(share * len(images)))])
    return tuple(sample for sample in samples if sample.image in kept)


def _tensors(value: Any, pinned: bool) -> Any:
    """Arrays become tensors, in dictionaries and lists, too."""
    if isinstance(value, dict):
        return {name: _tensors(each, pinned) for name, each in value.items()}
    if isinstance(value, list):
        return [_tensors(each, pinned) for each in value]
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(value)
    return tensor.pin_memory() if pinned else tensor


class Loader:
    """Batches of one index, for training stages and for evaluation.

    Args:
        index: all samples, of all splits.
        size: images are resized to (size, size).
        device: where batches go.
        seed: of the run.
        workers: decoding processes; 0 decodes in this one.
        tags: of the method, which decide the labels it may see.
        cached: all images, decoded; None decodes them for every batch.
        inputs: what the method declares besides the images' pixels, by name.
        mask_rule: which levels of training masks are defective.
    """

    def __init__(
        self,
        index: Index,
        size: int,
        device: torch.device,
        seed: int,
        workers: int,
        tags: Tags,
        cached: CachedImages | None = None,
        inputs: Mapping[str, Source] | None = None,
        mask_rule: MaskRule = "any",
    ) -> None:
        self.index, self.size, self.device = index, size, device
        self.seed, self.workers, self.tags, self.cached = seed, workers, tags, cached
        self.inputs, self.sizes = inputs or {}, Sizes(mask_rule=mask_rule)

    def order(self, stage: Stage) -> BatchOrder:
        """The order in which ``stage`` sees its split.

        Raises:
            UserError: the split holds no image, or none of one kind where the stage wants as many of either.
        """
        labels = tuple(sample.label for sample in self._training(stage))
        if stage.sampler == "balanced" and len(set(labels)) < 2:
            raise UserError(
                f"stage {stage.name!r} has as many normal as defective images in a batch, and dataset "
                f"{self.index.name!r} has only {'defective' if labels[0] else 'normal'} ones for it: choose a setting "
                "with some of both"
            )
        return BatchOrder(
            images=len(labels),
            batch_size=stage.batch_size,
            seed=derive_seed(self.seed, stage.name),
            sampler=stage.sampler,
            drop_last=isinstance(stage, TrainStage) and stage.drop_last,
            labels=labels,
        )

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        """Steps ``start`` to ``stop`` of a training stage."""
        truth, samples = supervision_of(stage, self.tags), self._training(stage)
        inputs = {name: self.inputs[name] for name in (self.inputs if stage.inputs is None else stage.inputs)}
        images = _Images(
            self.index, samples, self.size, truth, self.seed, stage.augment, self.sizes, self.cached, inputs
        )
        steps = BatchSampler(self.order(stage), start, stop, together=isinstance(stage, TrainStage))
        for item in self._iterate(images, steps):
            yield Batch(
                image_BCHW=self._image(item["image"]),
                seed_B=item["seed"],
                label_B=self._move(item.get("label")),
                mask_BHW=self._move(item.get("mask")),
                extra={name: value.to(self.device) for name, value in item.get("extra", {}).items()},
                inputs={name: value.to(self.device) for name, value in item["inputs"].items()},
            )

    def test(self, batch_size: int, sizes: Sizes) -> Iterator[TestBatch]:
        """This process's test images; masks at the sizes that ``sizes`` says.

        Batches are those of a single process, so that the same weights give the same bits on any number of processes.
        """
        samples = self.index.split(TEST).samples
        batches = [
            [(0, position) for position in range(len(samples))[number * batch_size :][:batch_size]]
            for number in test_batches(len(samples), batch_size)
        ]
        truth = "pixel" if self.index.has_masks else "normal"
        images = _Images(self.index, samples, self.size, truth, self.seed, None, sizes, self.cached, self.inputs)
        for item in self._iterate(images, batches):
            masks = item.get("mask")
            yield TestBatch(
                samples=[samples[position] for position in item["position"]],
                image_BCHW=self._image(item["image"]),
                mask_BHW=self._move(masks),
                inputs={name: value.to(self.device) for name, value in item["inputs"].items()},
            )

    def _training(self, stage: Stage) -> tuple[Sample, ...]:
        if TEST in stage.splits:
            raise ValueError(f"stage {stage.name!r} asks for the test split: a method never sees test data")
        samples = tuple(sample for sample in self.index if sample.split in stage.splits)
        if supervision_of(stage, self.tags) == "normal":
            samples = tuple(sample for sample in samples if sample.label == 0)
        if stage.share < 1:
            samples = _drawn(samples, stage.share, self.seed)
        if not samples:
            splits = " or ".join(map(repr, stage.splits))
            raise UserError(
                f"stage {stage.name!r} needs images of split {splits}, and dataset {self.index.name!r} has "
                "none that the method may see: choose another setting"
            )
        return samples

    def _iterate(self, images: _Images, batches: BatchSampler | list[Keys]) -> Iterator[dict[str, Any]]:
        workers = 0 if images.copied else min(self.workers, len(batches))
        made = in_workers(images.batch, batches, workers) if workers else map(images.batch, batches)
        return (_tensors(batch, pinned=self.device.type == "cuda") for batch in made)

    def _image(self, image: Tensor) -> Tensor:
        return image.to(self.device, non_blocking=True).float().div_(255)

    def _move(self, values: Any) -> Any:
        """A tensor, or each of a list; None stays."""
        if isinstance(values, list):
            return [self._move(each) for each in values]
        return None if values is None else values.to(self.device, non_blocking=True)


def hold_out(index: Index, shares: dict[str, float], seed: int) -> Index:
    """Moves shares of each category's normal training images to splits of their own.

    Args:
        index: any index; the split ``train`` is divided.
        shares: split name to share in (0, 1).
        seed: decides which images; each split has at least one image of each category.

    Raises:
        UserError: a category has too few normal training images.
    """
    moved: dict[str, str] = {}
    for category in index.categories:
        images = [s.image for s in index if s.category == category and s.split == "train" and s.label == 0]
        generator = torch.Generator().manual_seed(derive_seed(seed, "hold-out", category))
        order = torch.randperm(len(images), generator=generator).tolist()
        for name, share in shares.items():
            count = max(1, round(share * len(images)))
            moved.update({images[order.pop()]: name for _ in range(min(count, len(order)))})
        if shares and not order:
            raise UserError(
                f"category {category!r} has {len(images)} normal training images, too few to set apart "
                f"{some(shares)}: choose another setting"
            )
    samples = tuple(replace(sample, split=moved.get(sample.image, sample.split)) for sample in index)
    return replace(index, samples=samples)
