"""ViTAD: a plain vision transformer restores the features of another.

Paper: Zhang et al., "Exploring Plain ViT Reconstruction for Multi-class Unsupervised Anomaly Detection",
arXiv 2312.07495 (2023).
Upstream: zhangzjn/ADer at 902937a (no license file), of the same authors. The default recipe is ADer's and the
paper's.

`python -m parity vitad` compares with upstream; differences, parameters and operations: `results/bench/methods.md`.

Differences from upstream:
- Weights that no pass uses are not there (above); blocks behind the last one that is read are not computed.
- Features stay sequences of tokens: upstream copies each into a map of channels first, for the same cosines.
- The three distances are averaged on the grid of tokens and interpolated once; upstream interpolates each, which is
  the same as interpolation is linear. ADer divides their sum by 9, a constant that no metric sees; here it is the mean.
- The learning rate is a function of the progress, with the values of ADer's scheduler.

Shapes in names: B images, C channels, H height, W width, L tokens (patches of the image, row by row).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

import timm
import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ader.config.ranges import Betas, Depth, LearningRate, Sigma, Window
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
from ader.nets.backbone import BackboneOptions, Pretrained
from ader.nets.frozen import Frozen
from ader.nets.optim.decay import decay_groups
from ader.nets.optim.schedules import step_at
from ader.nets.scoring.maps import GaussianBlur, flat_cosine_loss, full, pooled_maximum, upsample
from ader.system.errors import UserError


class ViTAD(Method):
    """A decoder of transformer blocks restores tokens that a frozen transformer had on the way to its last ones.

    Args:
        image_size: pixels; the teacher's positional embedding is resampled to its grid.
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: AdamW's learning rate; ADer's rule for other batch sizes is 1e-4 * batch_size / 8.
        betas: AdamW's averaging factors.
        weight_decay: AdamW's, of all weights but biases and norms.
        lr_decay_at: share of the training after which the learning rate is multiplied by 0.1.
        clip: largest gradient norm; None for no clipping.
        teacher_blocks: the teacher's blocks whose tokens are restored, counted from 1.
        neck_blocks: those whose tokens are fused into the decoder's input.
        decoder_blocks: the decoder's blocks that restore them, in reverse: its last one the teacher's first. The
            decoder ends with the last of them.
        score_window: side of the square of pixels whose largest mean is the image score.
        sigma: of the Gaussian that smooths the map, in pixels.
        backbone: a plain vision transformer of timm.
    """

    tags: ClassVar[Tags] = Tags(paper="Zhang et al., arXiv 2312.07495", reference="zhangzjn/ADer at 902937a")

    def __init__(
        self,
        image_size: Count = 256,
        batch_size: Count = 8,
        epochs: Count = 100,
        lr: LearningRate = 1e-4,
        betas: Betas = (0.9, 0.999),
        weight_decay: NonNegative = 1e-4,
        lr_decay_at: Share = 0.8,
        clip: Positive | None = 5.0,
        teacher_blocks: tuple[Depth, ...] = (3, 6, 9),
        neck_blocks: tuple[Depth, ...] = (12,),
        decoder_blocks: tuple[Depth, ...] = (3, 6, 9),
        score_window: Window = 16,
        sigma: Sigma = 4.0,
        backbone: BackboneOptions = BackboneOptions("vit_small_patch16_224.dino"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs = batch_size, epochs
        self.lr, self.betas, self.weight_decay, self.lr_decay_at, self.clip = lr, betas, weight_decay, lr_decay_at, clip
        self.score_window = score_window
        if len(teacher_blocks) != len(decoder_blocks):
            raise UserError(
                f"method.decoder_blocks={list(decoder_blocks)} must be as many as "
                f"method.teacher_blocks={list(teacher_blocks)}: they restore each other's tokens"
            )
        self.teacher = Teacher(backbone, image_size, teacher_blocks, neck_blocks)
        self.fusion = nn.Linear(len(neck_blocks) * self.teacher.width, self.teacher.width)
        height, width = self.teacher.grid
        self.decoder = Decoder(height * width, self.teacher.width, self.teacher.heads, decoder_blocks)
        self.blur = GaussianBlur(sigma)

    def stages(self) -> Iterator[TrainStage]:
        groups = decay_groups([*self.fusion.parameters(), *self.decoder.parameters()], self.weight_decay)
        yield TrainStage(
            name="restore",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"student": torch.optim.AdamW(groups, lr=self.lr, betas=self.betas)},
            modules=[self.fusion, self.decoder],
            epochs=self.epochs,
            schedules={"student": step_at(self.lr_decay_at)},
            clip=self.clip,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        loss = flat_cosine_loss(*self(batch.image_BCHW))
        optimize(loss)
        return {"cos": loss}

    def forward(self, image_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's tokens (B, L, C) of each of its blocks, and the decoder's for them."""
        teacher, neck_BLC = self.teacher(image_BCHW)
        return teacher, self.decoder(self.fusion(neck_BLC))

    def predict(self, image_BCHW: Tensor) -> Prediction:
        distance_BL = token_distance(*self(image_BCHW))
        distance_BHW = distance_BL.view(-1, *self.teacher.grid)
        map_BHW = self.blur(upsample(distance_BHW, image_BCHW.shape[2:], align_corners=True))
        return Prediction(pooled_maximum(map_BHW, self.score_window), map_BHW)


def token_distance(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """1 - cos of each token (B, L), averaged over the pairs of features."""
    distances = [1 - F.cosine_similarity(full(t), full(s), dim=2) for t, s in zip(teacher, student, strict=True)]
    return torch.stack(distances).mean(dim=0)


class Teacher(Frozen):
    """A frozen vision transformer's tokens after some of its blocks, before its last norm.

    Args:
        options: which network.
        image_size: pixels.
        restored: blocks whose tokens are given, counted from 1.
        neck: blocks whose tokens are given side by side.

    Raises:
        UserError: not a vision transformer, or blocks or a size that it does not have.

    Attributes:
        grid: patches down and across.
        width: channels of a token.
        heads: of its attention.
    """

    def __init__(self, options: BackboneOptions, image_size: int, restored: Sequence[int], neck: Sequence[int]) -> None:
        super().__init__()
        refusal = f"method.backbone.name={options.name!r}: vitad needs a plain vision transformer, such as vit_..."
        base = options.name.split(".")[0]
        if timm.is_model(base) and base not in timm.list_models(module="vision_transformer"):
            raise UserError(refusal)  # a name that timm does not know is refused where networks are built
        self.vit = Pretrained(options, img_size=image_size, num_classes=0)
        net = self.vit.net
        if not hasattr(net.blocks[0], "attn"):  # timm's transformers with branches side by side
            raise UserError(refusal)
        for key, blocks in (("teacher_blocks", restored), ("neck_blocks", neck)):
            if not blocks or list(blocks) != sorted(set(blocks)) or blocks[-1] > len(net.blocks):
                raise UserError(
                    f"method.{key}={list(blocks)} must be rising numbers of {options.name}'s {len(net.blocks)} blocks"
                )
        self.size: tuple[int, int] = net.patch_embed.img_size
        if any(side % patch for side, patch in zip(self.size, net.patch_embed.patch_size, strict=True)):
            raise UserError(
                f"image_size={image_size} does not suit vitad: give a multiple of {net.patch_embed.patch_size[0]}"
            )
        self.grid: tuple[int, int] = net.patch_embed.grid_size
        self.width: int = net.embed_dim
        self.heads: int = net.blocks[0].attn.num_heads
        self.restored, self.neck = tuple(restored), tuple(neck)
        net.prune_intermediate_layers(self._places, prune_norm=True)
        self.requires_grad_(False)
        self.eval()

    @property
    def _places(self) -> list[int]:
        """The blocks that are read, counted from 0 as timm does."""
        return [block - 1 for block in sorted({*self.restored, *self.neck})]

    @property
    def reads(self) -> tuple[int, ...]:
        """The blocks."""
        return tuple(self._places)

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Tokens (B, L, C) of each block that is restored, and those of the neck (B, L, C * blocks).

        Raises:
            UserError: images are of another size than the network was built for.
        """
        if tuple(image_BCHW.shape[2:]) != self.size:
            sides = "x".join(str(side) for side in image_BCHW.shape[2:])
            raise UserError(f"vitad was built for image_size={self.size[0]} and cannot take images of {sides} pixels")
        tokens = self.remembered(image_BCHW, self._tokens)
        after = dict(zip((place + 1 for place in self._places), tokens, strict=True))
        return [after[block] for block in self.restored], torch.cat([after[block] for block in self.neck], dim=2)

    def _tokens(self, image_BCHW: Tensor) -> list[Tensor]:
        tokens: list[Tensor] = self.vit.net.forward_intermediates(
            self.vit.normalize(image_BCHW), indices=self._places, output_fmt="NLC", intermediates_only=True
        )
        return tokens


class Decoder(nn.Module):
    """Standard transformer blocks over the patches' tokens: no class token, a position of its own, no last norm.

    Args:
        tokens: patches of an image.
        width: channels of a token.
        heads: of the attention.
        restoring: blocks whose tokens are given, counted from 1.
    """

    def __init__(self, tokens: int, width: int, heads: int, restoring: Sequence[int]) -> None:
        super().__init__()
        if list(restoring) != sorted(set(restoring)):
            raise UserError(f"method.decoder_blocks={list(restoring)} must be rising numbers")
        self.restoring = tuple(restoring)
        self.position_1LC = nn.Parameter(torch.empty(1, tokens, width))
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm) for _ in range(restoring[-1])
        )
        for part in self.modules():  # as timm does it for vision transformers; norms keep torch's ones and zeros
            if isinstance(part, nn.Linear):
                trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        trunc_normal_(self.position_1LC, std=0.02)

    def forward(self, token_BLC: Tensor) -> list[Tensor]:
        """Restored tokens (B, L, C), the deepest block's first."""
        restored = []
        token_BLC = token_BLC + self.position_1LC
        for number, block in enumerate(self.blocks, 1):
            token_BLC = block(token_BLC)
            if number in self.restoring:
                restored.append(token_BLC)
        return restored[::-1]
