"""Which images each step sees, in one process or several: pure functions, so that a run resumes at any step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ader.methods._base import Sampling
from ader.system import dist
from ader.system.randomness import derive_seed


@dataclass(frozen=True)
class BatchOrder:
    """Which images each step of a stage sees, as a function of the step alone.

    ``"sequential"`` keeps the images' own order and ``"shuffled"`` draws a permutation for each epoch.

    ``"balanced"`` alternates normal and defective images, so that every batch, the incomplete one at an epoch's end
    too, has as many of either kind. An epoch sees each image of the commoner kind once. The rarer kind is repeated:
    its images come in one fresh permutation after another, which run on from epoch to epoch, so that at any step of
    the training no image of it was seen more than once oftener than another.

    Attributes:
        images: how many there are.
        batch_size: images per step, over all processes; even where they are balanced.
        seed: of the run and the stage together.
        sampler: how they are ordered.
        drop_last: leave out the incomplete batch at an epoch's end, unless it is the only one.
        labels: of the images, 0 normal or 1 defective, both among them; read by ``"balanced"`` alone.
    """

    images: int
    batch_size: int
    seed: int
    sampler: Sampling = "shuffled"
    drop_last: bool = False
    labels: Sequence[int] = ()

    @cached_property
    def kinds(self) -> tuple[list[int], list[int]]:
        """Positions of the normal and of the defective images."""
        normal, defective = ([place for place, own in enumerate(self.labels) if own == kind] for kind in (0, 1))
        return normal, defective

    @property
    def images_per_epoch(self) -> int:
        """What an epoch has to offer, before an incomplete batch is left out; repeated images count again."""
        return 2 * max(map(len, self.kinds)) if self.sampler == "balanced" else self.images

    @property
    def steps_per_epoch(self) -> int:
        whole = self.images_per_epoch / self.batch_size
        return max(1, math.floor(whole) if self.drop_last else math.ceil(whole))

    def count(self, step: int) -> int:
        """Images of one step, over all processes."""
        start = step % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, self.images_per_epoch - start)

    def at(self, step: int, epochs: dict[int, list[int]]) -> tuple[int, list[int]]:
        """Epoch and image positions of one step; ``epochs`` keeps the current epoch's order between calls."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in epochs:
            epochs.clear()
            if self.sampler == "balanced":
                epochs[epoch] = self._balanced(epoch)
            elif self.sampler == "shuffled":
                epochs[epoch] = permutation(self.images, self.seed, epoch)
            else:
                epochs[epoch] = list(range(self.images))
        start = place * self.batch_size
        return epoch, epochs[epoch][start : start + self.batch_size]

    def _balanced(self, epoch: int) -> list[int]:
        """Normal and defective images in turn: n0 d0 n1 d1 ..., as many as the epoch's steps take."""
        pairs = min(self.steps_per_epoch * self.batch_size, self.images_per_epoch) // 2
        rarer = min(map(len, self.kinds))
        drawn: list[list[int]] = []
        for name, kind in zip(("normal", "defective"), self.kinds, strict=True):
            if len(kind) > rarer:  # each once in this epoch
                drawn.append([kind[place] for place in permutation(len(kind), self.seed, name, epoch)[:pairs]])
            else:  # an endless row of permutations, of which this epoch takes its part
                first, last = divmod(epoch * pairs, rarer)[0], -(-(epoch + 1) * pairs // rarer)
                row = [place for turn in range(first, last) for place in permutation(rarer, self.seed, name, turn)]
                skip = epoch * pairs - first * rarer
                drawn.append([kind[place] for place in row[skip : skip + pairs]])
        return [position for pair in zip(*drawn, strict=True) for position in pair]


def permutation(count: int, seed: int, *names: str | int) -> list[int]:
    """A random order of ``count`` things; other names give another one."""
    generator = torch.Generator().manual_seed(derive_seed(seed, *names))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def shard(count: int, rank: int, world: int) -> range:
    """The positions that process ``rank`` of ``world`` takes: contiguous, every position exactly once."""
    return range(count * rank // world, count * (rank + 1) // world)


def pass_images(order: BatchOrder, steps: int) -> int:
    """How many images all processes together see in a pass over ``steps`` steps."""
    return min(steps * order.batch_size, order.images_per_epoch)


def pass_batches(order: BatchOrder, steps: int) -> int:
    """How many batches this process makes of its share of a pass over ``steps`` steps; 0 where it has no image."""
    images = len(shard(pass_images(order, steps), dist.rank(), dist.world()))
    return math.ceil(images / math.ceil(order.batch_size / dist.world()))


def test_batches(images: int, batch_size: int) -> range:
    """The numbers of the test batches that this process takes: whole ones, contiguous; the last ones may have none."""
    batches, rank, world = math.ceil(images / batch_size), dist.rank(), dist.world()
    return range(-(-batches * rank // world), -(-batches * (rank + 1) // world))


class BatchSampler:
    """Batches of (epoch, position) for steps ``start`` to ``stop``; this process's share of each.

    When training by gradient descent the processes share every step. In a pass each takes a contiguous share of all
    images, so that what they collect is, one after another, in the order of a single process.

    Args:
        order: of the stage.
        start, stop: its steps.
        together: whether the processes share every step.
    """

    def __init__(self, order: BatchOrder, start: int, stop: int, together: bool) -> None:
        self.order, self.start, self.stop, self.together = order, start, stop, together

    def __len__(self) -> int:
        steps = max(0, self.stop - self.start)
        return steps if self.together else pass_batches(self.order, steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epochs: dict[int, list[int]] = {}
        steps = (self.order.at(step, epochs) for step in range(self.start, self.stop))
        batches = ([(epoch, position) for position in positions] for epoch, positions in steps)
        if self.together or dist.world() == 1:
            yield from (own_share(batch) for batch in batches)
        else:
            mine = own_share([key for batch in batches for key in batch])
            size = math.ceil(self.order.batch_size / dist.world())
            yield from (mine[place : place + size] for place in range(0, len(mine), size))


def own_share(keys: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of ``keys`` that this process takes."""
    return [keys[place] for place in shard(len(keys), dist.rank(), dist.world())]
