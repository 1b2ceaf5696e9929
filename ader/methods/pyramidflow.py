"""PyramidFlow: an invertible flow over a Laplacian pyramid of features, in which normal images are to be alike.

Paper: Lei et al., "PyramidFlow: High-Resolution Defect Contrastive Localization Using Pyramid Normalizing Flow",
CVPR 2023.
Upstream: gasharper/PyramidFlow at 6977d5a (MIT) and its reproduction in zhangzjn/ADer at 902937a (no license file).
The default recipe is ADer's, but for the sizes, which ``recipe=ader`` and ``recipe=official`` set: images of 1024
pixels, maps and masks of 256. ``recipe=official`` is for ``setting=single_class``, without what the official code
chooses for each category (levels, volume norm, flips and rotations) and the epoch with the best test result.

`python -m parity pyramidflow` compares with ADer's code, which holds the modules of the official one and those of the
package autoFlow that it imports; the official code itself was read, not run. Differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- Activations are computed again in the backward pass, in two parts of each block between which volume norm takes its
  mean, where upstream computes them from the outputs by the inverse flow. No NaN of an inverse can come from that.
- Running means have their final shape from the beginning. Upstream's are 1x1x1x1 before the first step, with which a
  checkpoint does not load strictly.
- Several processes make one's steps: volume norm's means and the differences of images are of all images of the step.
- The template is fitted by a pass at the end, in float64, by batches; upstream sums in float32, image by image, before
  every test.
- Random orthogonal matrices have determinant 1 and come from torch's generator.
- ResNet-18 is cut after its first stage: 157,504 of the 11,689,512 parameters that upstream holds and counts.
- The blur is two one-dimensional ones. The flow computes in float32 whatever the precision of the run.
- Masks come to 256 pixels at once; ADer's are resized to 1024 before.
- Log-determinants are not computed: no loss has them. Tests compare them with Jacobians.

Shapes in names: B images, P pairs of them, C channels, H height, W width; a pyramid is a list of (B, C, H_k, W_k),
finest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ader.config.ranges import Betas, Depth, LearningRate, Rate, Window
from ader.methods._base import (
    Batch,
    Count,
    FitPass,
    Method,
    NonNegative,
    Optimize,
    Positive,
    Prediction,
    Share,
    Tags,
    TrainStage,
)
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.flows import random_rotation
from ader.nets.optim.decay import decay_groups
from ader.nets.optim.schedules import step_at
from ader.nets.scoring.maps import full, full_precision, upsample
from ader.nets.shared_mean import SharedMean
from ader.nets.state.late_tensor import LateTensor
from ader.system import dist
from ader.system.errors import UserError

#: Axes of a volume norm's mean: over images and channels at every place, or over images and places of every channel.
VOLUME_NORMS: Mapping[str, tuple[int, ...]] = {"cvn": (0, 1), "svn": (0, 2, 3)}

#: Of the soft bound of log-scales: atan(x) times this tends to 1 (as upstream rounds 2 / pi).
SOFT_BOUND = 0.636


class PyramidFlow(Method):
    """Latent pyramids of normal images are to be alike; what differs from their mean is an anomaly.

    Args:
        image_size: pixels; decides the sizes of the running means.
        batch_size: images per step, at least 2: all pairs of them are compared.
        epochs: sweeps over the training images.
        lr: Adam's learning rate; ADer's rule for other batch sizes is 2e-4 * batch_size / 2.
        betas: Adam's averaging factors.
        eps: Adam's.
        weight_decay: Adam's (L2).
        decay_vectors: whether weight decay takes the 1x1 convolutions' log-scales, too (official).
        lr_decay_at: share of the training after which the learning rate is multiplied by 0.1; None: never.
        clip: largest gradient norm; None for no clipping.
        levels: of the pyramid.
        stacks: how often the sequence of couplings is repeated.
        kernel_size: of the coupling networks' convolutions, odd.
        volume_norm: ``"cvn"`` subtracts from log-scales their mean over images and channels, ``"svn"`` that over images
            and places.
        momentum: share of a step's mean in the running means.
        clamp: bound of a coupling's log-scale before volume norm.
        checkpointing: activations are computed again in the backward pass instead of kept: the same results from a
            third of the tensors (107 of 332 MiB for 2 images of 512 pixels).
        layer: timm's ``out_indices`` of the features: 1 is a ResNet's layer1.
        backbone: any timm network with feature maps.

    Raises:
        UserError: a batch of one image, an even kernel, or a size without so many levels.
    """

    tags: ClassVar[Tags] = Tags(paper="Lei et al., CVPR 2023", reference="zhangzjn/ADer at 902937a")

    def __init__(
        self,
        image_size: Count = 1024,
        batch_size: Count = 2,
        epochs: Count = 100,
        lr: LearningRate = 2e-4,
        betas: Betas = (0.5, 0.9),
        eps: Positive = 1e-4,
        weight_decay: NonNegative = 1e-5,
        decay_vectors: bool = False,
        lr_decay_at: Share | None = 0.8,
        clip: Positive | None = 5.0,
        levels: Depth = 4,
        stacks: Depth = 4,
        kernel_size: Window = 7,
        volume_norm: Literal["cvn", "svn"] = "cvn",
        momentum: Rate = 0.1,
        clamp: Positive = 2.0,
        checkpointing: bool = True,
        layer: Depth = 1,
        backbone: BackboneOptions = BackboneOptions("resnet18.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.epochs = image_size, batch_size, epochs
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.decay_vectors = weight_decay, decay_vectors
        self.lr_decay_at, self.clip = lr_decay_at, clip
        if batch_size < 2:
            raise UserError(f"method.batch_size={batch_size}: pyramidflow compares images of a batch, give at least 2")
        if kernel_size % 2 == 0:
            raise UserError(f"method.kernel_size={kernel_size} must be odd")
        self.backbone = Backbone(backbone, [layer])
        coarsest = self.backbone.strides[0] * 2 ** (levels - 1)
        if levels < 2 or image_size % coarsest:
            raise UserError(
                f"image_size={image_size} does not suit pyramidflow with method.levels={levels}: give a multiple of "
                f"{coarsest}, and at least 2 levels"
            )
        self.sides = [image_size // self.backbone.strides[0] // 2**level for level in range(levels)]
        self.pyramid = LaplacianPyramid(levels)
        channels = self.backbone.channels[0]
        dims = VOLUME_NORMS[volume_norm]
        self.blocks = nn.ModuleList(
            PyramidCoupling(channels, target, sources, self.sides, kernel_size, dims, momentum, clamp, checkpointing)
            for _ in range(stacks)
            for target, sources in couplings(levels)
        )
        self.template = nn.ModuleList(LateTensor() for _ in range(levels))

    def stages(self) -> Iterator[TrainStage | FitPass]:
        mean = SharedMean()
        self._take_means_by(mean)
        weights: list[Any] = list(self.blocks.parameters())
        if not self.decay_vectors:
            weights = decay_groups(weights, self.weight_decay)
        adam = torch.optim.Adam(weights, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)
        yield TrainStage(
            name="flow",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"flow": adam},
            modules=[self.blocks],
            epochs=self.epochs,
            schedules={} if self.lr_decay_at is None else {"flow": step_at(self.lr_decay_at)},
            clip=self.clip,
        )
        self._take_means_by(None)
        mean.close()
        self._sums: list[Tensor] = []
        self._count = 0
        yield FitPass(name="template", batch_size=self.batch_size, update=self._add, finish=self._finish)

    def _take_means_by(self, mean: SharedMean | None) -> None:
        for block in self.blocks:
            assert isinstance(block, PyramidCoupling)
            block.shared_mean = mean

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        if (batch.total or len(batch.image_BCHW)) < 2:
            raise UserError("pyramidflow compares images with each other: it needs at least 2 training images")
        latents = everyones(self(batch.image_BCHW, batch.share))
        with full_precision(batch.image_BCHW.device):
            loss = spectral_loss(self.pyramid.compose(squared_differences(latents)).mean(dim=1))
        # Each process has the gradients of its own images in a loss that is of all of them.
        optimize(loss / batch.share)
        return {"fft": loss}

    def forward(self, image_BCHW: Tensor, share: float = 1.0) -> list[Tensor]:
        """Latent pyramid, at least float32.

        Args:
            image_BCHW: RGB in [0, 1].
            share: of a training step's images, that these are.

        Raises:
            UserError: images of another size than the method was built for.
        """
        if any(side != self.image_size for side in image_BCHW.shape[2:]):
            given = "x".join(str(side) for side in image_BCHW.shape[2:])
            raise UserError(f"images of {given} pixels do not suit this pyramidflow: build it with their image_size")
        (feature_BCHW,) = self.backbone(image_BCHW)
        with full_precision(image_BCHW.device):
            pyramid: list[Tensor] = self.pyramid.build(full(feature_BCHW))
            for block in self.blocks:
                pyramid = block(pyramid, share)
        return pyramid

    def inverse(self, latents: Sequence[Tensor]) -> Tensor:
        """The features (B, C, H, W) of which the flow makes these latents in evaluation mode."""
        pyramid = list(latents)
        for block in reversed(self.blocks):
            assert isinstance(block, PyramidCoupling)
            pyramid = block.inverse(pyramid)
        return self.pyramid.compose(pyramid)

    def _add(self, batch: Batch) -> None:
        sums = [latent_BCHW.double().sum(dim=0) for latent_BCHW in self(batch.image_BCHW)]
        self._sums = [before + new for before, new in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._count += len(batch.image_BCHW)

    def _finish(self) -> None:
        """The mean latent of each level over all images; a process may have had none."""
        count = sum(dist.gather_objects(self._count))
        device, dtype = self.backbone.normalize.mean.device, next(self.blocks.parameters()).dtype
        channels = self.backbone.channels[0]
        for level, side in enumerate(self.sides):
            empty = torch.zeros(channels, side, side, dtype=torch.float64, device=device)
            total_CHW = dist.gather_rows((self._sums[level] if self._sums else empty)[None]).sum(dim=0)
            held = self.template[level]
            assert isinstance(held, LateTensor)
            held.value = (total_CHW / count).to(dtype)
        self._sums = []

    def predict(self, image_BCHW: Tensor) -> Prediction:
        latents = self(image_BCHW)
        with full_precision(image_BCHW.device):
            distances = [
                (latent - held.get()).abs()  # type: ignore[operator]
                for latent, held in zip(latents, self.template, strict=True)
            ]
            map_BHW = self.pyramid.compose(distances).mean(dim=1)
        # Every number of the map stands for a square of pixels: at its own size it comes out again as it is.
        return Prediction(map_BHW.amax(dim=(1, 2)), upsample(map_BHW, image_BCHW.shape[2:], False, mode="nearest"))


def couplings(levels: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """One stack's couplings in their order: the level that is transformed, and those that say how (figure 3)."""
    for first in (0, 1):
        if first:
            yield 0, (1,)
        for start in range(first, levels, 2):
            if start + 2 < levels:
                yield start + 1, (start, start + 2)
            elif start + 1 < levels:
                yield start + 1, (start,)


def everyones(latents: Sequence[Tensor]) -> list[Tensor]:
    """The latents of all processes' images; gradients are of this process's own."""
    if dist.world() == 1:
        return list(latents)
    counts = dist.gather_objects(len(latents[0]))
    first = sum(counts[: dist.rank()])
    gathered = []
    for latent in latents:
        rows = dist.gather_rows(latent.detach(), counts)
        gathered.append(torch.cat([rows[:first], latent, rows[first + len(latent) :]]))
    return gathered


def squared_differences(pyramid: Sequence[Tensor]) -> list[Tensor]:
    """(z_i - z_j)^2 of all pairs i < j of images: (P, C, H_k, W_k) of each level."""
    one_P, other_P = torch.triu_indices(len(pyramid[0]), len(pyramid[0]), 1, device=pyramid[0].device)
    return [(latent[one_P] - latent[other_P]).square() for latent in pyramid]


def spectral_loss(map_PHW: Tensor) -> Tensor:
    """Mean magnitude of the two-dimensional Fourier transform, over its whole plane.

    Half of the plane mirrors the other, and counts twice.
    """
    magnitude_PHW = torch.fft.rfft2(map_PHW).abs()
    alone = [0] if map_PHW.shape[2] % 2 else [0, -1]  # columns without a mirror image
    total: Tensor = 2 * magnitude_PHW.sum() - magnitude_PHW[:, :, alone[:1] if map_PHW.shape[2] < 2 else alone].sum()
    return total / map_PHW.numel()


class LaplacianPyramid(nn.Module):
    """Differences between a map and its coarser version, enlarged; the last level is the coarsest version itself.

    Coarser: a binomial blur (1 4 6 4 1 in each direction, zeros around), then the maximum of 2x2. Enlarged: repeated
    pixels, then the same blur.

    Args:
        levels: of the pyramid.
    """

    kernel: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("kernel", torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16, persistent=False)

    def build(self, map_BCHW: Tensor) -> list[Tensor]:
        """The pyramid of maps whose sides can be halved ``levels`` - 1 times."""
        pyramid = []
        for _ in range(self.levels - 1):
            coarse_BCHW = F.max_pool2d(self._blur(map_BCHW), 2)
            pyramid.append(map_BCHW - self._enlarge(coarse_BCHW, map_BCHW))
            map_BCHW = coarse_BCHW
        return [*pyramid, map_BCHW]

    def compose(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The maps of a pyramid: linear in it, and the inverse of ``build``."""
        map_BCHW = pyramid[-1]
        for level_BCHW in reversed(pyramid[:-1]):
            map_BCHW = self._enlarge(map_BCHW, level_BCHW) + level_BCHW
        return map_BCHW

    def _enlarge(self, map_BCHW: Tensor, like: Tensor) -> Tensor:
        return self._blur(resized(map_BCHW, like))

    def _blur(self, map_BCHW: Tensor) -> Tensor:
        channels = map_BCHW.shape[1]
        down = self.kernel.to(map_BCHW.dtype).view(1, 1, 5, 1).expand(channels, -1, -1, -1)
        blurred_BCHW = F.conv2d(map_BCHW, down, padding=(2, 0), groups=channels)
        return F.conv2d(blurred_BCHW, down.transpose(2, 3), padding=(0, 2), groups=channels)


class PyramidCoupling(nn.Module):
    """Scales and shifts one level of a pyramid as its neighbors say, then mixes its channels (figure 3).

    Neighbors come to the size of the level; a finer one alone has the network run at its own size, and the coefficients
    come to the level's.

    Args:
        channels: C.
        target: the level.
        sources: its neighbors: the two around it, or one.
        sides: of all levels.
        kernel_size: of both convolutions.
        dims: axes of the volume norm.
        momentum: of its running mean.
        clamp: bound of the log-scale.
        checkpointing: compute activations again in the backward pass.

    Attributes:
        shared_mean: how a training step takes a mean over all its images.
    """

    running_mean: Tensor

    def __init__(
        self,
        channels: int,
        target: int,
        sources: Sequence[int],
        sides: Sequence[int],
        kernel_size: int,
        dims: Sequence[int],
        momentum: float,
        clamp: float,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.target, self.sources, self.dims = target, tuple(sources), tuple(dims)
        self.momentum, self.clamp, self.checkpointing = momentum, clamp, checkpointing
        self.late = self.sources == (target - 1,)
        padding = kernel_size // 2
        self.net = nn.Sequential(
            nn.Conv2d(len(sources) * channels, 2 * channels, kernel_size, padding=padding, bias=False),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(2 * channels, 2 * channels, kernel_size, padding=padding, bias=False),
        )
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        self.mixing = UnitVolumeConv(channels)
        side = sides[sources[0] if self.late else target]
        shape = [1 if dim in dims else size for dim, size in enumerate((1, channels, side, side))]
        self.register_buffer("running_mean", torch.zeros(shape))
        self.shared_mean: SharedMean | None = None

    def forward(self, pyramid: Sequence[Tensor], share: float = 1.0) -> list[Tensor]:
        """The pyramid with its level transformed. In training mode volume norm takes the step's mean.

        Args:
            pyramid: all levels.
            share: of the step's images, that these are.
        """
        log_scale, shift = self._again(
            self._coefficients, *(pyramid[level] for level in self.sources), pyramid[self.target]
        )
        if self.training:
            mean = (self.shared_mean or SharedMean())(log_scale, self.dims, share)
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
        else:
            mean = self.running_mean
        level = self._again(self._transform, pyramid[self.target], log_scale, mean, shift)
        return [level if number == self.target else other for number, other in enumerate(pyramid)]

    def inverse(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """What ``forward`` makes this pyramid of, in evaluation mode."""
        level = pyramid[self.target]
        log_scale, shift = self._coefficients(*(pyramid[source] for source in self.sources), level)
        log_scale, shift = resized(log_scale - self.running_mean, level), resized(shift, level)
        level = (self.mixing.inverse(level) - shift) * torch.exp(-log_scale)
        return [level if number == self.target else other for number, other in enumerate(pyramid)]

    def _coefficients(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scales before volume norm, and shifts. The last map is the level itself, of which the size is taken."""
        *neighbors, level = maps
        inputs = neighbors if self.late else [resized(each, level) for each in neighbors]
        raw, shift = self.net(torch.cat(inputs, dim=1)).chunk(2, dim=1)
        return self.clamp * SOFT_BOUND * torch.atan(raw / self.clamp), shift

    def _transform(self, level: Tensor, log_scale: Tensor, mean: Tensor, shift: Tensor) -> Tensor:
        scale = resized(torch.exp(log_scale - mean), level)
        mixed: Tensor = self.mixing(torch.addcmul(resized(shift, level), scale, level))
        return mixed

    def _again(self, function: Any, *maps: Tensor) -> Any:
        """A part whose activations are not kept; it neither draws nor changes anything, so that it can run twice."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(function, *maps, use_reentrant=False, preserve_rng_state=False)
        return function(*maps)


class UnitVolumeConv(nn.Module):
    """An invertible 1x1 convolution whose determinant is 1 or -1: P (L + I) (U + diag(sign * exp(s - mean s))).

    P is a fixed permutation, L and U are strictly triangular. It begins as a random rotation.

    Args:
        channels: C.
    """

    permutation_CC: Tensor
    sign_C: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        permutation_CC, lower_CC, upper_CC = torch.linalg.lu(random_rotation(channels).double())
        diagonal_C = upper_CC.diagonal()
        self.register_buffer("permutation_CC", permutation_CC.float())
        self.register_buffer("sign_C", diagonal_C.sign().float())
        self.lower_CC = nn.Parameter(lower_CC.tril(-1).float())
        self.upper_CC = nn.Parameter(upper_CC.triu(1).float())
        self.log_scale_C = nn.Parameter(diagonal_C.abs().log().float())

    def weight(self) -> Tensor:
        """The matrix (C, C)."""
        one_CC = torch.diag(torch.ones_like(self.sign_C))
        diagonal_C = self.sign_C * torch.exp(self.log_scale_C - self.log_scale_C.mean())
        return self.permutation_CC @ (self.lower_CC.tril(-1) + one_CC) @ (self.upper_CC.triu(1) + diagonal_C.diag())

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Mixed channels, same shape."""
        return F.conv2d(map_BCHW, self.weight()[:, :, None, None])

    def inverse(self, map_BCHW: Tensor) -> Tensor:
        """What ``forward`` maps to this."""
        inverse_CC = torch.linalg.inv(self.weight().double()).to(map_BCHW.dtype)
        return F.conv2d(map_BCHW, inverse_CC[:, :, None, None])


def resized(map_BCHW: Tensor, like: Tensor) -> Tensor:
    """At the size of another map, by repeating or leaving out pixels."""
    if map_BCHW.shape[2:] == like.shape[2:]:
        return map_BCHW
    return F.interpolate(map_BCHW, size=like.shape[2:], mode="nearest")
