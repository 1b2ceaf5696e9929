"""Gradients over processes: sums in buckets, batch norms with shared statistics, and what one process gives."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import nn

from ader.methods._base import TrainStage
from ader.nets.shared_norms import norms_synchronized, synchronized
from ader.system import dist
from ader.testing.processes import in_processes
from ader.training import gradients
from ader.training.optimization import Optimization
from ader.training.order import shard

CPU = torch.device("cpu")
IMAGES = 7


def networks() -> nn.ModuleDict:
    """Two networks, and a parameter that nothing uses; float64."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    two = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, affine=False, momentum=None), nn.Linear(5, 2))
    return nn.ModuleDict({"one": one, "two": two, "unused": nn.Linear(2, 2)}).double()


def trained(sync: bool, accumulate: int, bucket_bytes: int) -> dict[str, torch.Tensor]:
    """Weights, buffers and the unused parameter's gradient after two steps, each of them two losses of two optimizers;
    the ranks' graphs differ: a branch of the second network is used by the first process only."""
    gradients.BUCKET_BYTES = bucket_bytes
    net = networks()
    branch = nn.Linear(3, 1).double()
    nn.init.ones_(branch.weight)
    optimizers = {
        "one": torch.optim.SGD([*net["one"].parameters(), *net["unused"].parameters()], lr=0.1, weight_decay=0.1),
        "two": torch.optim.SGD([*branch.parameters(), *net["two"].parameters()], lr=0.1, momentum=0.9),
    }
    modules = [net, branch]
    stage = TrainStage(name="s", batch_size=IMAGES, step=print, optimizers=optimizers, modules=modules, steps=2)
    optimization = Optimization(stage, CPU, accumulate=accumulate)
    value = torch.randn(IMAGES, 4, generator=torch.Generator().manual_seed(1)).double()
    own = list(shard(IMAGES, dist.rank(), dist.world()))
    optimization.share = len(own) / IMAGES
    with optimization.gradients.overlapped(), synchronized([net]) if sync else nullcontext():
        for _ in range(2):
            hidden = net["one"](value[own])
            first = branch(hidden)[:, 0] if own[0] == 0 else hidden.new_zeros(len(own))
            optimization((net["two"](hidden).square().mean(dim=1) + first * (torch.tensor(own) == 0)).mean())
            optimization(net["one"](value[own]).square().mean(), "one")
    assert not net["one"][0].weight._post_accumulate_grad_hooks
    assert not norms_synchronized()
    optimization.finish()
    assert net["unused"].weight.grad is None
    return {**net.state_dict(), **branch.state_dict(prefix="branch.")}


def several() -> list[dict[str, torch.Tensor]]:
    return [trained(True, accumulate, size) for accumulate, size in ((1, 1), (1, 100), (3, 2**20))]


def test_any_number_of_processes_trains_as_one():
    """Uneven shares, buckets of one parameter, of some and of all; running statistics alike."""
    alone = several()
    for world in (2, 3):
        for found in in_processes(world, 60, several):
            for one, other in zip(alone, found, strict=True):
                for name, value in one.items():
                    torch.testing.assert_close(other[name], value, rtol=1e-10, atol=1e-12, msg=f"{name} of {world}")


def test_norms_of_one_process_stay_as_they_are():
    assert all(map(torch.equal, trained(True, 1, 1).values(), trained(False, 1, 1).values()))


def sent() -> list[int]:
    """When the buckets of a chain of layers leave: the number of layers whose gradients were there at each."""
    net = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(4)))
    buckets, order = gradients.GradientSum({"all": list(net.parameters())}, bucket_bytes=1), []
    send = gradients._Buckets._send

    def watched(self):
        order.append(sum(weight.grad is not None for weight in net.parameters()))
        send(self)

    gradients._Buckets._send = watched
    with buckets.overlapped(), buckets.of(["all"]):
        net(torch.ones(1, 8)).sum().backward()
    return [torch.tensor(order)]


def test_buckets_leave_while_the_backward_pass_goes_on():
    assert [found[0].tolist() for found in in_processes(2, 60, sent)] == [[1, 2, 3, 4]] * 2


def normalized() -> dict[str, torch.Tensor]:
    """Outputs and gradients of a norm over maps, with small variance beside a large mean; with timm's activation."""
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    norm = BatchNormAct2d(3)
    plain, value = copy.deepcopy(norm), 1000 + 0.1 * torch.randn(5, 3, 4, 4)
    expected = plain.double()(value.double()).float()
    own = list(shard(5, dist.rank(), dist.world()))
    with synchronized([norm]):
        output = norm(value[own])
    return {
        "off": (output - expected[own]).abs().max(),
        "variance": (norm.running_var - plain.running_var).abs().max(),
        "steps": norm.num_batches_tracked,
    }


def test_norms_with_an_activation_and_a_large_mean():
    for found in in_processes(2, 60, normalized):
        assert found["off"] < 5e-3  # 1000 in float32 is known to 6e-5, which is 6e-4 of the deviation of 0.1
        assert found["variance"] < 1e-6
        assert found["steps"] == 1
