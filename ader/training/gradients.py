"""Gradients of several processes, summed while the backward pass still goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
import torch.distributed as td
from torch import Tensor, nn

from ader.system import dist

#: Of gradients that are sent together: large enough that latencies do not count, small enough that the first ones
#: leave long before the backward pass ends.
BUCKET_BYTES = 25 * 2**20


class GradientSum:
    """Sums gradients over processes, those of the deepest layers while the backward pass is at shallower ones.

    Gradients travel in buckets: parameters in reverse order, which is roughly the order in which they get their
    gradients. A bucket leaves when it is complete and all before it have left, what is incomplete after the backward
    pass; so every process sends the same buckets in the same order, even where their graphs differ.

    This is what torch's ``DistributedDataParallel`` does, which cannot be used here. It wraps one module, whose
    ``forward`` must be called once before each backward pass. A method's ``step`` calls its modules and their parts in
    any way and as often as it likes, and minimizes several losses, each for some of its optimizers.

    Args:
        weights: parameters of each optimizer. One that takes no gradients when it would be summed is left out.
        bucket_bytes: size from which on a bucket is full.
    """

    def __init__(self, weights: Mapping[str, Sequence[nn.Parameter]], bucket_bytes: int = BUCKET_BYTES) -> None:
        self.weights, self.bucket_bytes = weights, bucket_bytes
        self._plans: dict[tuple[str, ...], _Buckets] = {}
        self._current: _Buckets | None = None

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """Inside the block, a stage, sums begin during backward passes; outside they begin after them."""
        handles = []
        if dist.world() > 1:
            known = {id(weight): weight for own in self.weights.values() for weight in own if weight.requires_grad}
            handles = [
                weight.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
                for weight in known.values()
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def of(self, names: Iterable[str]) -> Iterator[None]:
        """Around a backward pass. Afterwards the gradients of these optimizers, which were None before, are the sums
        over processes; a missing one counts as zero, and stays None where all processes miss it."""
        if dist.world() == 1:
            yield
            return
        chosen = tuple(names)
        if chosen not in self._plans:
            weights = [weight for name in chosen for weight in self.weights[name]]
            self._plans[chosen] = _Buckets(weights, self.bucket_bytes)
        self._current = self._plans[chosen]
        self._current.begin()
        try:
            yield
        finally:
            buckets, self._current = self._current, None
        buckets.finish()

    def _arrived(self, weight: Tensor) -> None:
        if self._current is not None:  # None: a backward pass of the method's own
            self._current.arrived(weight)


class _Buckets:
    """The gradients that one kind of call sums up, in the order in which they are sent.

    Args:
        weights: in the order of the network; those that stand there twice are sent once.
        bucket_bytes: size from which on a bucket is full.
    """

    def __init__(self, weights: Iterable[nn.Parameter], bucket_bytes: int) -> None:
        self.buckets: list[list[nn.Parameter]] = []
        kind, size = None, 0
        for weight in reversed(list({id(weight): weight for weight in weights}.values())):
            if (weight.dtype, weight.device) != kind or size >= bucket_bytes:
                self.buckets.append([])
                kind, size = (weight.dtype, weight.device), 0
            self.buckets[-1].append(weight)
            size += weight.numel() * weight.element_size()
        self.number = {id(weight): number for number, bucket in enumerate(self.buckets) for weight in bucket}
        self.missing: list[int] = []
        self.sent: list[tuple[Tensor, td.Work]] = []

    def begin(self) -> None:
        """Before a backward pass."""
        self.missing = [sum(weight.requires_grad for weight in bucket) for bucket in self.buckets]
        self.sent = []

    def arrived(self, weight: Tensor) -> None:
        """A parameter's gradient is complete; nothing to do if it is none of these."""
        number = self.number.get(id(weight))
        if number is None:
            return
        if number < len(self.sent):
            raise RuntimeError(
                "a gradient came twice in one backward pass, after its sum over processes had begun: use "
                "torch.utils.checkpoint with use_reentrant=False"
            )
        self.missing[number] -= 1
        while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] == 0:
            self._send()

    def finish(self) -> None:
        """After the backward pass: sends the rest, waits for all, and puts the sums in place."""
        while len(self.sent) < len(self.buckets):
            self._send()
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            self._put_back(bucket, flat)
        self.sent = []

    def _send(self) -> None:
        """The next bucket: its gradients one after another, then for each a 1, or a 0 where there is none."""
        bucket = self.buckets[len(self.sent)]
        there = bucket[0].new_ones(len(bucket))
        parts = []
        for place, weight in enumerate(bucket):
            if weight.grad is None:
                there[place] = 0
            parts.append(weight.new_zeros(weight.numel()) if weight.grad is None else weight.grad.reshape(-1))
        flat = torch.cat([*parts, there])
        work = td.all_reduce(flat, async_op=True)
        assert work is not None  # asynchronous
        self.sent.append((flat, work))

    @staticmethod
    def _put_back(bucket: list[nn.Parameter], flat: Tensor) -> None:
        ends = list(accumulate(weight.numel() for weight in bucket))
        parts = flat[: ends[-1]].tensor_split(ends[:-1])
        gradients, sums = [], []
        for place, (weight, part) in enumerate(zip(bucket, parts, strict=True)):
            if weight.grad is not None:
                gradients.append(weight.grad)
                sums.append(part.view_as(weight))
            elif weight.requires_grad and flat[ends[-1] + place] > 0:  # waits for a GPU: only where one is missing
                weight.grad = part.view_as(weight).clone()
        torch._foreach_copy_(gradients, sums)
