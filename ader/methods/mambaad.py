"""MambaAD: state-space models restore a frozen network's features from a bottleneck.

Paper: He et al., "MambaAD: Exploring State Space Models for Multi-class Unsupervised Anomaly Detection", NeurIPS 2024.
Upstream: lewandofskee/MambaAD (no license file), and its reproduction by the same authors in zhangzjn/ADer at 902937a
(no license file): one code. The default recipe is ADer's; ``recipe=official`` differs in the number of epochs.

`python -m parity mambaad` compares with upstream; differences, parameters and operations: `results/bench/methods.md`.

Differences from upstream:
- The selective scan is ours (`nets/scan`); upstream's is a CUDA kernel of mamba-ssm, which is used where it is
  installed. Projections are computed once in the map's order, where upstream copies the map for each direction
  first; the eight skips D x are one product with the sum of the eight D.
- The orders of the scans are no parameters; upstream keeps 39,296 indices as frozen ones. A depthwise 3x3 branch, which
  upstream builds and never uses (12,096 weights), is not there.
- Stochastic depth draws from each image's seed, so that the number of processes changes nothing.
- The map is the sum of three distances; ADer divides it by 9, a constant that no metric sees.
- The learning rate is a function of the progress, with the values of ADer's scheduler.
- As upstream, weight decay takes A and the bias of the steps: the mark that would spare them is read by nothing.

Shapes in names: B images, C channels, H height, W width; of a scan: L pixels, K directions, D inner channels, N states
of a channel, R rank of the steps, M pixels of all images; P blocks with stochastic depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers import trunc_normal_
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from ader.config.ranges import Betas, Depth, LearningRate, Rate, Sigma, Width
from ader.methods._base import (
    Batch,
    Count,
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
from ader.nets.optim.decay import decay_groups
from ader.nets.optim.schedules import step_at
from ader.nets.scan import selective_scan
from ader.nets.scan.orders import Curve, Directions, orders
from ader.nets.scoring.maps import GaussianBlur, cosine_distance_map, full
from ader.nets.synthesis.draws import uniform
from ader.system.errors import UserError

#: Range of the steps of an untrained scan.
SHORTEST, LONGEST = 1e-3, 0.1


class MambaAD(Method):
    """A decoder of locality-enhanced state-space modules restores three levels of a frozen teacher (section 3).

    Args:
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: AdamW's learning rate; ADer's rule for other batch sizes is 0.005 * batch_size / 16.
        betas: AdamW's averaging factors.
        weight_decay: AdamW's, of all weights with more than one dimension.
        lr_decay_at: share of the training after which the learning rate is multiplied by 0.1.
        clip: largest gradient norm; None for no clipping.
        loss_weight: factor of the squared error.
        depths: state-space blocks of the decoder's four stages, from the coarsest; they stand in modules of 3 where
            3 divides their number, else of 2, else of 1.
        states: numbers that a channel carries along a scan.
        curve: along which a scan visits the pixels.
        directions: of the scans: forwards and backwards; also transposed; also turned by 90 degrees.
        drop_path: largest rate of stochastic depth; it falls linearly from the first block to the last.
        sigma: of the Gaussian that smooths the map, in pixels.
        backbone: a network whose feature maps double their channels from level to level, such as resnet34.
    """

    tags: ClassVar[Tags] = Tags(paper="He et al., NeurIPS 2024", reference="zhangzjn/ADer at 902937a")

    def __init__(
        self,
        batch_size: Count = 16,
        epochs: Count = 100,
        lr: LearningRate = 0.005,
        betas: Betas = (0.9, 0.999),
        weight_decay: NonNegative = 1e-4,
        lr_decay_at: Share = 0.8,
        clip: Positive | None = 5.0,
        loss_weight: Positive = 5.0,
        depths: Annotated[tuple[Depth, ...], Field(min_length=4, max_length=4)] = (3, 4, 6, 3),
        states: Width = 16,
        curve: Curve = "hilbert",
        directions: Directions = 8,
        drop_path: Rate = 0.2,
        sigma: Sigma = 4.0,
        backbone: BackboneOptions = BackboneOptions("resnet34.bt_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs = batch_size, epochs
        self.lr, self.betas, self.weight_decay, self.lr_decay_at, self.clip = lr, betas, weight_decay, lr_decay_at, clip
        self.loss_weight, self.curve, self.directions = loss_weight, curve, directions
        self.teacher = Backbone(backbone, layers=(1, 2, 3))
        widths = self.teacher.channels
        if [2 * widths[0], 2 * widths[1]] != widths[1:]:
            raise UserError(
                f"method.backbone.name={backbone.name!r}: mambaad needs feature maps whose channels double from level "
                f"to level, not {widths}: give resnet34 or another ResNet"
            )
        self.bottleneck = HalfFPN(widths)
        self.decoder = Decoder([2 * widths[2], *reversed(widths)], depths, states, directions, drop_path)
        self.blur = GaussianBlur(sigma)
        self._orders: dict[tuple[int, torch.device], Tensor] = {}

    def stages(self) -> Iterator[TrainStage]:
        student = [self.bottleneck, self.decoder]
        groups = decay_groups([weight for part in student for weight in part.parameters()], self.weight_decay)
        yield TrainStage(
            name="restore",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"student": torch.optim.AdamW(groups, lr=self.lr, betas=self.betas)},
            modules=student,
            epochs=self.epochs,
            schedules={"student": step_at(self.lr_decay_at)},
            clip=self.clip,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        teacher, student = self._features(batch.image_BCHW, self.decoder.kept_paths(batch.seed_B))
        loss = restoration_loss(teacher, student, self.loss_weight)
        optimize(loss)
        return {"mse": loss}

    def forward(self, image_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher and student features, from the finest scale to the coarsest.

        Raises:
            UserError: images that are not square, or whose sides do not suit the bottleneck (multiples of 32 pixels) or
                the curve.
        """
        return self._features(image_BCHW, None)

    def _features(self, image_BCHW: Tensor, path_BP: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        height, width = image_BCHW.shape[2:]
        stride = 2 * self.teacher.strides[-1]
        if height != width:
            raise UserError(f"mambaad takes square images, not {height}x{width} pixels")
        if height % stride or height == stride:  # a single embedded pixel has no statistics for its norms
            raise UserError(
                f"image_size={height} does not suit mambaad: give a multiple of {stride}, 2 or more of them"
            )
        teacher = self.teacher(image_BCHW)
        sides = [height // stride * 2**stage for stage in range(4)]
        order_per_stage = [self._order(side, image_BCHW.device) for side in sides]
        return teacher, self.decoder(self.bottleneck(teacher), order_per_stage, path_BP)

    def _order(self, side: int, device: torch.device) -> Tensor:
        key = (side, device)
        if key not in self._orders:
            self._orders[key] = orders(self.curve, side, self.directions).to(device)
        return self._orders[key]

    def predict(self, image_BCHW: Tensor) -> Prediction:
        teacher, student = self(image_BCHW)
        map_BHW = self.blur(cosine_distance_map(teacher, student, image_BCHW.shape[2:]))
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def restoration_loss(teacher: Sequence[Tensor], student: Sequence[Tensor], weight: float) -> Tensor:
    """``weight`` times the sum over scales of the mean squared error (equation 6)."""
    errors = [F.mse_loss(full(s), full(t)) for t, s in zip(teacher, student, strict=True)]
    return weight * torch.stack(errors).sum()


class HalfFPN(nn.Module):
    """Three scales to one map at half the coarsest (section 3.1): downwards fusion, then residual blocks.

    Args:
        channels: of the three levels, from the finest.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.down1, self.down2 = _down(fine, middle), _down(middle, coarse)
        self.lateral2, self.lateral3 = _pointwise(middle), _pointwise(coarse)
        self.fuse = _pointwise(coarse)
        shortcut = nn.Sequential(nn.Conv2d(coarse, 2 * coarse, 1, stride=2, bias=False), nn.BatchNorm2d(2 * coarse))
        first = Bottleneck(coarse, coarse // 2, stride=2, downsample=shortcut)
        self.blocks = nn.Sequential(first, *(Bottleneck(2 * coarse, coarse // 2) for _ in range(2)))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.ones_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Embedding (B, 2 C_3, H_3 / 2, W_3 / 2) of the three feature maps."""
        fine_BCHW, middle_BCHW, coarse_BCHW = features
        fused_BCHW = self.lateral2(middle_BCHW) + self.down1(fine_BCHW)
        fused_BCHW = self.down2(fused_BCHW) + self.lateral3(coarse_BCHW)
        embedding_BCHW: Tensor = self.blocks(self.fuse(fused_BCHW))
        return embedding_BCHW


def _down(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _pointwise(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class Decoder(nn.Module):
    """Four stages, each at twice the resolution and half the channels of the one before (section 3.1).

    Args:
        channels: of the stages, from the coarsest.
        depths: state-space blocks of each.
        states, directions: of the scans.
        drop_path: largest rate of stochastic depth.

    Attributes:
        rates: of stochastic depth, of every block in the order of their pass.
    """

    def __init__(
        self, channels: Sequence[int], depths: Sequence[int], states: int, directions: int, drop_path: float
    ) -> None:
        super().__init__()
        self.expansions = nn.ModuleList(PatchExpand(width) for width in channels[1:])
        self.levels = nn.ModuleList()
        self.rates: list[float] = []
        falling = np.split(np.linspace(drop_path, 0, sum(depths)), np.cumsum(depths)[:-1])
        for width, depth, rates in zip(channels, depths, falling, strict=True):
            size = next(each for each in (3, 2, 1) if depth % each == 0)
            modules = [LSSModule(width, size, states, directions) for _ in range(depth // size)]
            # all blocks of a stage's i-th module have the i-th of its rates, so most of them are never used
            self.rates += [rate for rate in rates[: len(modules)].tolist() for _ in range(size)]
            self.levels.append(nn.ModuleList(modules))
        for part in self.modules():
            if isinstance(part, nn.Linear):
                trunc_normal_(part.weight, std=0.02)

    def kept_paths(self, seed_B: Tensor) -> Tensor:
        """Factors (B, P) of the blocks' branches in training, whose mean is 1: 0 where an image goes without."""
        rate_P = torch.tensor(self.rates)
        return (uniform(seed_B, "mambaad/paths", len(self.rates)).cpu() >= rate_P) / (1 - rate_P)

    def forward(
        self, embedding_BCHW: Tensor, order_per_stage: Sequence[Tensor], path_BP: Tensor | None = None
    ) -> list[Tensor]:
        """Restored features (B, C, H, W) of all stages but the first, from the finest.

        Args:
            embedding_BCHW: the bottleneck's.
            order_per_stage: of the scans, (K, H W) of each stage.
            path_BP: factors of the blocks' branches; None: 1.
        """
        x_BHWC = embedding_BCHW.permute(0, 2, 3, 1)
        if path_BP is not None:
            path_BP = path_BP.to(x_BHWC)
        restored, place = [], 0
        levels: Sequence[Any] = list(self.levels)
        for number, (modules, order_KL) in enumerate(zip(levels, order_per_stage, strict=True)):
            if number:
                x_BHWC = self.expansions[number - 1](x_BHWC)
            for module in modules:
                end = place + len(module.blocks)
                x_BHWC = module(x_BHWC, order_KL, None if path_BP is None else path_BP[:, place:end])
                place = end
            restored.append(x_BHWC.permute(0, 3, 1, 2))
        return restored[:0:-1]


class PatchExpand(nn.Module):
    """Twice the resolution at half the channels: every pixel's vector becomes four.

    Args:
        channels: of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(2 * channels, 4 * channels, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """(B, 2 H, 2 W, C / 2)."""
        batch, height, width, _ = x_BHWC.shape
        parts = self.expand(x_BHWC).view(batch, height, width, 2, 2, -1)
        expanded_BHWC: Tensor = self.norm(parts.transpose(2, 3).reshape(batch, 2 * height, 2 * width, -1))
        return expanded_BHWC


class LSSModule(nn.Module):
    """Locality-enhanced state-space module (section 3.3): state-space blocks in sequence beside two branches of
    depthwise convolutions, side by side and mixed.

    Args:
        channels: of input and output.
        blocks: state-space blocks.
        states, directions: of the scans.
    """

    def __init__(self, channels: int, blocks: int, states: int, directions: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(StateSpaceBlock(channels, states, directions) for _ in range(blocks))
        self.local5, self.local7 = _local(channels, 5), _local(channels, 7)
        self.mix = nn.Conv2d(3 * channels, channels, 1)
        for part in self.modules():  # those of the blocks as well
            if isinstance(part, nn.Conv2d):
                fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels // part.groups
                nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x_BHWC: Tensor, order_KL: Tensor, path_BP: Tensor | None = None) -> Tensor:
        """Same shape."""
        far_BHWC = x_BHWC
        for number, block in enumerate(self.blocks):
            far_BHWC = block(far_BHWC, order_KL, None if path_BP is None else path_BP[:, number])
        x_BCHW = x_BHWC.permute(0, 3, 1, 2)
        parts = [far_BHWC.permute(0, 3, 1, 2), self.local5(x_BCHW), self.local7(x_BCHW)]
        mixed_BCHW: Tensor = self.mix(torch.cat(parts, dim=1)) + x_BCHW
        return mixed_BCHW.permute(0, 2, 3, 1)


def _local(channels: int, kernel: int) -> nn.Sequential:
    """A depthwise convolution between two of pixels, each with its norm."""
    depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    convs = [nn.Conv2d(channels, channels, 1), depthwise, nn.Conv2d(channels, channels, 1)]
    return nn.Sequential(*(layer for conv in convs for layer in _conv_norm_silu(conv)))


def _conv_norm_silu(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.InstanceNorm2d(conv.out_channels), nn.SiLU()]


class StateSpaceBlock(nn.Module):
    """Hybrid state-space block (section 3.2): norm, scans, residual sum with stochastic depth."""

    def __init__(self, channels: int, states: int, directions: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scan = HybridScan(channels, states, directions)

    def forward(self, x_BHWC: Tensor, order_KL: Tensor, path_B: Tensor | None = None) -> Tensor:
        """Same shape; ``path_B``: factors of each image's branch."""
        branch_BHWC: Tensor = self.scan(self.norm(x_BHWC), order_KL)
        if path_B is not None:
            branch_BHWC = branch_BHWC * path_B[:, None, None, None]
        return x_BHWC + branch_BHWC


class HybridScan(nn.Module):
    """Selective scans of one map in several directions, gated (section 3.2; the selective scan is Mamba's).

    Args:
        channels: of input and output; twice as many are scanned.
        states: numbers that each of these carries along.
        directions: of the scans.
    """

    def __init__(self, channels: int, states: int, directions: int) -> None:
        super().__init__()
        inner, rank = 2 * channels, math.ceil(channels / 16)
        self.split = [rank, states, states]
        self.enter = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.select_KCD = nn.Parameter(_uniform(1 / math.sqrt(inner), directions, rank + 2 * states, inner))
        self.step_KDR = nn.Parameter(_uniform(rank**-0.5, directions, inner, rank))
        low, high = math.log(SHORTEST), math.log(LONGEST)
        step_KD = (low + (high - low) * torch.rand(directions, inner)).exp()
        self.step_bias_KD = nn.Parameter(step_KD + torch.log(-torch.expm1(-step_KD)))  # whose softplus is the step
        rate_N = torch.arange(1, states + 1).float().log()
        self.log_decay_KDN = nn.Parameter(rate_N.expand(directions, inner, states).clone())
        self.skip_P = nn.Parameter(torch.ones(directions * inner))  # of one dimension, as upstream: no weight decay
        self.norm = nn.LayerNorm(inner)
        self.leave = nn.Linear(inner, channels, bias=False)

    def forward(self, x_BHWC: Tensor, order_KL: Tensor) -> Tensor:
        """Same shape."""
        batch, height, width, _ = x_BHWC.shape
        x_BHWD, gate_BHWD = self.enter(x_BHWC).chunk(2, dim=-1)
        x_BDHW = F.silu(self.conv(x_BHWD.permute(0, 3, 1, 2)))
        x_BLD = x_BDHW.flatten(2).transpose(1, 2).contiguous()
        y_BHWD = self._scanned(x_BLD, order_KL).view(batch, height, width, -1)
        out_BHWC: Tensor = self.leave(self.norm(y_BHWD) * F.silu(gate_BHWD))
        return out_BHWC

    def _scanned(self, x_BLD: Tensor, order_KL: Tensor) -> Tensor:
        """Sum of all directions, float32."""
        directions, channels = self.step_bias_KD.shape
        chosen_BLKC = F.linear(x_BLD, self.select_KCD.flatten(0, 1)).view(*x_BLD.shape[:2], directions, -1)
        rank_KBLR, input_KBLN, output_KBLN = torch.split(chosen_BLKC.permute(2, 0, 1, 3), self.split, dim=3)
        raw_KMD = full(rank_KBLR.flatten(1, 2) @ self.step_KDR.transpose(1, 2)) + full(self.step_bias_KD)[:, None]
        raw_KBLD = raw_KMD.view(directions, *x_BLD.shape)
        decay_KND = -full(self.log_decay_KDN).exp().transpose(1, 2)
        y_BLD = selective_scan(x_BLD, raw_KBLD, decay_KND, input_KBLN, output_KBLN, order_KL)
        return y_BLD + full(x_BLD) * full(self.skip_P).view(directions, channels).sum(dim=0)


def _uniform(bound: float, *shape: int) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound)
