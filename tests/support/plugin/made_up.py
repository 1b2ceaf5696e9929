"""A third party's method for tests: several stages, every source of randomness, and faults on request."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ader.methods._base import Batch, FitPass, Method, Optimize, Prediction, Stage, TrainStage
from ader.nets.state.late_tensor import LateTensor
from ader.nets.state.rows import Rows

#: Called with the place that is reached; a test puts a signal or an exception here.
hook: Callable[[str], None] = lambda place: None  # noqa: E731


def _view(image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    return {"view": (image / 255 + rng.normal(0, 0.1, image.shape)).astype(np.float32)}


class MadeUp(Method):
    """Statistics, a network, a bank, another network.

    Args:
        batch_size, epochs, lr: as usual.
        fault: ``"loss"``: the third step's loss is NaN; ``"score"``: so are scores; ``"bug"``: an exception.
    """

    def __init__(self, batch_size: int = 4, epochs: int = 2, lr: float = 0.01, fault: str | None = None) -> None:
        super().__init__()
        self.batch_size, self.epochs, self.lr, self.fault = batch_size, epochs, lr, fault
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.ReLU())
        self.second = nn.Conv2d(4, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(3))
        self.bank = LateTensor()
        self.rows = Rows()
        self._offset = 0.0

    def stages(self) -> Iterator[Stage]:
        self.rows.clear()
        statistics = {"batch_size": 3, "update": self._collect, "finish": self._average}
        yield FitPass(name="statistics", sampler="shuffled", **statistics)
        optimizers = {
            "net": torch.optim.Adam(self.first.parameters(), lr=self.lr),
            "scale": torch.optim.SGD([self.scale], lr=self.lr, momentum=0.9),
        }
        yield self._descent("first", self._step_first, optimizers, [self.first])
        hook("between")
        with torch.no_grad():
            self.scale.mul_(1 + 0.1 * torch.rand(4) + random.random() + np.random.rand())
        self._offset = random.random()  # not in the state dict: drawn again, and alike, by a resumed run
        self.rows.clear()
        yield FitPass(name="bank", batch_size=4, update=self._collect, finish=self._keep)
        chosen = {"head": torch.optim.AdamW(self.second.parameters(), lr=self.lr)}
        yield self._descent("second", self._step_second, chosen, [self.second])

    def _descent(self, name: str, step, optimizers, modules) -> TrainStage:
        return TrainStage(
            name=name,
            batch_size=self.batch_size,
            step=step,
            optimizers=optimizers,
            modules=modules,
            epochs=self.epochs,
            schedules={key: lambda progress: 1 - progress / 2 for key in optimizers},
            augment=_view,
            clip=1.0,
        )

    def _collect(self, batch: Batch) -> None:
        hook("collect")
        noise = torch.rand(3) + random.random() + np.random.rand()
        self.rows.add(batch.image_BCHW.mean(dim=(2, 3)) + 0.01 * noise)

    def _average(self) -> None:
        hook("average")
        self.mean.copy_(self.rows.gathered().mean(dim=0))

    def _keep(self) -> None:
        hook("keep")
        rows = self.rows.gathered()
        self.bank.value = rows[torch.randperm(len(rows))[:3]]

    def _noise(self) -> float:
        return 0.1 * (float(torch.rand(())) + random.random() + np.random.rand())

    def _step_first(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        hook("first")
        feature = self.first(batch.extra["view"] - self.mean[:, None, None]) * self.scale[:, None, None]
        loss = (feature - self._noise()).square().mean()
        optimize(loss, "net")
        pull = (self.scale - self._noise()).square().sum()
        optimize(pull, "scale")
        return {"fit": loss, "pull": pull}

    def _step_second(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        hook("second")
        if self.fault == "bug":
            raise RuntimeError("a mistake\nof two lines")
        loss = (self._restore(batch.image_BCHW) - batch.extra["view"] - self._offset - self._noise()).square().mean()
        optimize(loss)
        return {"restore": loss * torch.nan if self.fault == "loss" else loss}

    def _restore(self, image_BCHW: Tensor) -> Tensor:
        return self.second(self.first(image_BCHW) * self.scale[:, None, None])

    def predict(self, image_BCHW: Tensor) -> Prediction:
        hook("predict")
        near_B = torch.cdist(image_BCHW.mean(dim=(2, 3)), self.bank.get()).amin(dim=1)
        map_BHW = (self._restore(image_BCHW) - image_BCHW).abs().mean(dim=1) + near_B[:, None, None]
        if self.fault == "score":
            map_BHW = map_BHW * torch.nan
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self._restore(image_BCHW)
