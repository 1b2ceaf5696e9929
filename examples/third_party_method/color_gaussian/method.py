"""One Gaussian over the colors of normal images; a pixel's score is how far its color is from the mean.

A baseline without a network: it finds stains and knows no shapes.

Shapes in names: B images, C channels, H height, W width, N pixels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ader.methods import Batch, FitPass, Method, Prediction, Tags
from ader.system import dist


class ColorGaussian(Method):
    """Squared Mahalanobis distance of local mean colors to those of normal images.

    Args:
        batch_size: images per step of the pass; no effect on the result.
        window: side of the square whose mean color is scored, in pixels, odd.
        floor: added to the variances, so that images of one color have a Gaussian, too.
    """

    tags = Tags(paper="", reference="none: an example")
    mean: Tensor
    precision: Tensor

    def __init__(self, batch_size: int = 16, window: int = 5, floor: float = 1e-4) -> None:
        super().__init__()
        self.batch_size, self.window, self.floor = batch_size, window, floor
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("precision", torch.eye(3))

    def stages(self) -> Iterator[FitPass]:
        zero = self.mean.new_zeros((), dtype=torch.float64)
        self._count, self._sum_C, self._squares_CC = zero, zero.repeat(3), zero.repeat(3, 3)
        yield FitPass(name="colors", batch_size=self.batch_size, update=self._add, finish=self._fit)

    def _add(self, batch: Batch) -> None:
        color_NC = self._colors(batch.image_BCHW).permute(0, 2, 3, 1).flatten(0, 2).double()
        self._count = self._count + len(color_NC)
        self._sum_C = self._sum_C + color_NC.sum(dim=0)
        self._squares_CC = self._squares_CC + color_NC.T @ color_NC

    def _fit(self) -> None:
        """Sums of all processes (one may have had no image) become mean and inverse covariance."""
        sums = torch.cat([self._count[None], self._sum_C, self._squares_CC.flatten()])
        count, *_ = total = dist.gather_rows(sums[None]).sum(dim=0)
        mean_C, squares_CC = total[1:4] / count, total[4:].view(3, 3) / count
        covariance_CC = squares_CC - mean_C.outer(mean_C) + self.floor * torch.eye(3, device=total.device)
        self.mean.copy_(mean_C)
        self.precision.copy_(torch.linalg.inv(covariance_CC))

    def _colors(self, image_BCHW: Tensor) -> Tensor:
        """Mean color around each pixel, same shape; at the border of what is inside."""
        return avg_pool2d(image_BCHW, self.window, stride=1, padding=self.window // 2, count_include_pad=False)

    def predict(self, image_BCHW: Tensor) -> Prediction:
        offset_BCHW = self._colors(image_BCHW.float()) - self.mean[:, None, None]
        with torch.autocast(image_BCHW.device.type, enabled=False):  # trainer.precision=bf16 would round products
            map_BHW = torch.einsum("bchw,cd,bdhw->bhw", offset_BCHW, self.precision, offset_BCHW)
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)
