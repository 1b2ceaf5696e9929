"""From samples to batches: decoding in workers, uint8 until the device, an order that is a pure function of the seed.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ader.data.image import U8, load_image
from ader.data.image_cache import CachedImages
from ader.data.index import TEST, Index, Sample
from ader.data.labelmaps import find_label_map, read_label_map, resized
from ader.data.sizes import Sizes
from ader.methods._base import Array, Augment, Batch, FitPass, Stage, Tags, TrainStage, supervision_of
from ader.system import dist
from ader.system.errors import UserError, some
from ader.system.randomness import derive_seed


@dataclass(frozen=True)
class BatchOrder:
    """Which images each step of a stage sees: a pure function, so that a run resumes at any step.

    Attributes:
        images: how many there are.
        batch_size: images per step, over all processes.
        seed: of the run and the stage together.
        shuffle: a new permutation for each epoch.
        drop_last: leave out the incomplete batch at an epoch's end, unless it is the only one.
    """

    images: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool

    @property
    def steps_per_epoch(self) -> int:
        whole = self.images // self.batch_size
        return max(1, whole if self.drop_last else math.ceil(self.images / self.batch_size))

    def count(self, step: int) -> int:
        """Images of one step, over all processes."""
        start = step % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, self.images - start)

    def at(self, step: int, permutations: dict[int, list[int]]) -> tuple[int, list[int]]:
        """Epoch and image positions of one step; ``permutations`` keeps the current epoch's between calls."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in permutations:
            permutations.clear()
            permutations[epoch] = self._permutation(epoch)
        start = place * self.batch_size
        return epoch, permutations[epoch][start : start + self.batch_size]

    def _permutation(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.images))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order: list[int] = torch.randperm(self.images, generator=generator).tolist()
        return order


def shard(count: int, rank: int, world: int) -> range:
    """The positions that process ``rank`` of ``world`` evaluates: contiguous, every position exactly once."""
    return range(count * rank // world, count * (rank + 1) // world)


def pass_batches(order: BatchOrder, steps: int) -> int:
    """How many batches this process makes of its share of a pass over ``steps`` steps."""
    images = len(shard(min(steps * order.batch_size, order.images), dist.rank(), dist.world()))
    return math.ceil(images / math.ceil(order.batch_size / dist.world()))


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position) for steps ``start`` to ``stop``; this process's share of each.

    In a descent the processes share every step. In a pass each takes a contiguous share of all images, so that what
    they collect is, one after another, in the order of a single process.
    """

    def __init__(self, order: BatchOrder, start: int, stop: int, together: bool) -> None:
        self.order, self.start, self.stop, self.together = order, start, stop, together

    def __len__(self) -> int:
        steps = max(0, self.stop - self.start)
        return steps if self.together else pass_batches(self.order, steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        permutations: dict[int, list[int]] = {}
        steps = (self.order.at(step, permutations) for step in range(self.start, self.stop))
        batches = ([(epoch, position) for position in positions] for epoch, positions in steps)
        if self.together or dist.world() == 1:
            yield from (_share(batch) for batch in batches)
        else:
            mine = _share([key for batch in batches for key in batch])
            size = math.ceil(self.order.batch_size / dist.world())
            yield from (mine[place : place + size] for place in range(0, len(mine), size))


def _share(keys: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [keys[place] for place in shard(len(keys), dist.rank(), dist.world())]


class _Images(Dataset[dict[str, Any]]):
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
    ) -> None:
        self.index, self.samples, self.size, self.sizes = index, samples, size, sizes
        self.truth, self.seed, self.augment, self.cached = truth, seed, augment, cached

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def copied(self) -> bool:
        """Whether a batch costs a copy of memory, and nothing that would be worth another process."""
        return self.cached is not None and self.augment is None and self.truth != "pixel"

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        chosen = [self.samples[position] for _, position in keys]
        seeds = [derive_seed(self.seed, epoch, sample.image) for (epoch, _), sample in zip(keys, chosen, strict=True)]
        image_BCHW = self._decoded(chosen) if self.cached is None else self.cached.take([s.image for s in chosen])
        batch: dict[str, Any] = {
            "image": torch.from_numpy(image_BCHW),
            "seed": torch.tensor(seeds),
            "position": [position for _, position in keys],
        }
        if self.truth in ("image", "pixel"):
            batch["label"] = torch.tensor([sample.label for sample in chosen])
        if self.truth == "pixel":
            size = (self.size, self.size)
            batch["mask"] = [torch.from_numpy(self.sizes.mask(self.index, sample, size)) for sample in chosen]
            if len({mask.shape for mask in batch["mask"]}) == 1:
                batch["mask"] = torch.stack(batch["mask"])
        if self.augment is not None:
            batch["extra"] = self._augmented(self.augment, image_BCHW, seeds)
        return batch

    def _decoded(self, samples: Sequence[Sample]) -> U8:
        return np.stack([load_image(self.index.path(sample.image), self.size) for sample in samples])

    def _augmented(self, augment: Augment, image_BCHW: U8, seeds: Sequence[int]) -> dict[str, Tensor]:
        extras = [augment(image, np.random.default_rng(seed)) for image, seed in zip(image_BCHW, seeds, strict=True)]
        names = list(extras[0])
        return {name: torch.stack([_tensor(extra[name]) for extra in extras]) for name in names}


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


def _as_it_is(batch: Any) -> Any:
    return batch


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _shield(worker: int) -> None:
    """Leaves signals to the main process: workers must go on while it finishes its step and saves.

    A terminal or a job scheduler signals all processes of a run; only SIGTERM from the parent ends a worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        sent = signal.sigtimedwait({signal.SIGTERM}, 5)
        if sent is not None and sent.si_pid == parent:
            break
    os._exit(0)


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
        label_maps: the folders that the method asks for, by name.
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
        label_maps: Mapping[str, Path] | None = None,
    ) -> None:
        self.index, self.size, self.device = index, size, device
        self.seed, self.workers, self.tags, self.cached = seed, workers, tags, cached
        self.label_maps = label_maps or {}

    def order(self, stage: Stage) -> BatchOrder:
        """The order in which ``stage`` sees its split.

        Raises:
            UserError: the split holds no image.
        """
        images = len(self._training(stage))
        shuffle = stage.shuffle if isinstance(stage, FitPass) else True
        drop_last = isinstance(stage, TrainStage) and stage.drop_last
        return BatchOrder(images, stage.batch_size, derive_seed(self.seed, stage.name), shuffle, drop_last)

    def train(self, stage: Stage, start: int, stop: int) -> Iterator[Batch]:
        """Steps ``start`` to ``stop`` of a training stage."""
        truth, samples = supervision_of(stage, self.tags), self._training(stage)
        images = _Images(self.index, samples, self.size, truth, self.seed, stage.augment, Sizes(), self.cached)
        steps = BatchSampler(self.order(stage), start, stop, together=isinstance(stage, TrainStage))
        for item in self._iterate(images, steps):
            extra = {name: value.to(self.device) for name, value in item.get("extra", {}).items()}
            if stage.label_maps:
                found = self.read_label_maps([samples[position] for position in item["position"]])
                extra |= {name: found[name] for name in stage.label_maps if name in found}
            yield Batch(
                image_BCHW=self._image(item["image"]),
                seed_B=item["seed"],
                label_B=self._move(item.get("label")),
                mask_BHW=self._move(item.get("mask")),
                extra=extra,
            )

    def read_label_maps(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """The samples' maps, (B, H, W) int64 at the images' size, by name; none unless the method asks for some."""
        found: dict[str, Tensor] = {}
        for name, folder in self.label_maps.items():
            maps = [resized(read_label_map(find_label_map(folder, s.image)), self.size) for s in samples]
            found[name] = torch.from_numpy(np.stack(maps)).to(self.device).long()
        return found

    def test(
        self, batch_size: int, sizes: Sizes
    ) -> Iterator[tuple[list[Sample], Tensor, Tensor | list[Tensor] | None]]:
        """This process's test images, each once.

        Yields:
            Samples, image_BCHW on the device, and the masks there (uint8 0/1): mask_BHW, a list of (H, W) where their
            sizes differ, None for a dataset without any.
        """
        samples = self.index.split(TEST).samples
        positions = shard(len(samples), dist.rank(), dist.world())
        batches = [[(0, p) for p in positions[i : i + batch_size]] for i in range(0, len(positions), batch_size)]
        truth = "pixel" if self.index.has_masks else "normal"
        images = _Images(self.index, samples, self.size, truth, self.seed, None, sizes, self.cached)
        for item in self._iterate(images, batches):
            chosen = [samples[position] for position in item["position"]]
            masks = item.get("mask")
            if isinstance(masks, list):
                yield chosen, self._image(item["image"]), [mask.to(self.device, non_blocking=True) for mask in masks]
            else:
                yield chosen, self._image(item["image"]), self._move(masks)

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

    def _iterate(self, images: _Images, batches: Any) -> Iterator[dict[str, Any]]:
        workers = 0 if images.copied else min(self.workers, max(1, len(batches)))
        loader: DataLoader[dict[str, Any]] = DataLoader(
            images,
            batch_sampler=batches,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(self.seed),  # else it draws from the run's own random stream
            worker_init_fn=_shield,
            collate_fn=_as_it_is,  # whole batches are made at once
        )
        return iter(loader)

    def _image(self, image: Tensor) -> Tensor:
        return image.to(self.device, non_blocking=True).float().div_(255)

    def _move(self, values: Tensor | None) -> Tensor | None:
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
