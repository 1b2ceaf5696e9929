"""UniAD: one transformer, with neighbor-masked attention and a query in every layer, restores features of all classes.

Paper: You et al., "A Unified Model for Multi-class Anomaly Detection", NeurIPS 2022.
Upstream: zhiyuanyou/UniAD at a5b9d9d (Apache-2.0) and its reproduction in zhangzjn/ADer at 902937a (no license file).
The default recipe is ADer's; ``recipe=official`` is the official code's for one GPU (1000 epochs, 224x224 pixels, 7x7
neighbors, gradient norms of at most 0.1, weight decay of all parameters).

`python -m parity uniad uniad_official` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- The stages of stride 32 are cut (``nets.backbone``): no effect on the features that are used.
- Attention is fused, batch first; the queries of a decoder layer are the same for all images and are projected once;
  the mask is made once, the jitter drawn on the device by the images' own seeds. Both codes build the mask again for
  each batch, on the CPU.
- Resizing goes to the token grid's exact size, as theirs does where a side is a multiple of 16, which is required.
- The window does not follow the image's size: ADer's configuration gives 2 * (image_size // 64) + 1, so 9 at 256.
- ADer steps the learning rate through timm's scheduler, per iteration; here it is a function of the progress, with
  the same values. The official code decays one epoch late (after 801 of 1000), keeps the incomplete last batch and
  reports the epoch with the best test result; here the decay is at 0.8 and the last epoch is reported.
- The official EfficientNet is another port of the same training, and fixes its paddings for images of 380 pixels: at
  224 and 256 its two coarser maps are those of an image moved by 4 pixels. Here they are timm's, as in ADer.
- The official results for 8 GPUs (96.7 / 96.8 on MVTec AD) come from 8 images on each: ``method.batch_size=64``.

Shapes in names: B images, C channels, H height, W width, G side of the token grid, N = G x G tokens, D width of the
transformer, K heads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.config.ranges import Betas, Depth, Layers, LearningRate, Rate, Width, Window
from ader.methods._base import (
    Batch,
    Count,
    Method,
    NonNegative,
    Optimize,
    Positive,
    Prediction,
    Probability,
    Share,
    Tags,
    TrainStage,
)
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.optim.decay import decay_groups
from ader.nets.optim.schedules import step_at
from ader.nets.scoring.maps import full, pooled_maximum, upsample
from ader.nets.synthesis.draws import normal_one_by_one, uniform
from ader.system.errors import UserError

#: The three attentions of the network, in its order.
Attending = Literal["encoder", "decoder_memory", "decoder_previous"]


class UniAD(Method):
    """A transformer restores the features of a frozen network from jittered ones; what it cannot restore is anomalous.

    Args:
        image_size: pixels; decides the token grid, and with it the shapes of queries and positions.
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: AdamW's learning rate.
        betas: AdamW's averaging factors.
        weight_decay: AdamW's.
        decay_norms_and_biases: whether weight decay takes norms and biases, too (official), or matrices only (ADer).
        lr_decay_at: share of the training after which the learning rate is multiplied by 0.1.
        clip: largest gradient norm; None for no clipping.
        jitter_scale: noise on a feature vector of C channels is normal with standard deviation scale * norm / C.
        jitter_probability: of a training batch to get the noise.
        neighbor_size: side of the square of tokens, around each one, that it may not attend to; odd. ADer's
            configuration gives 2 * (image_size // 64) + 1.
        masked: the attentions with that rule.
        embed_dim: of the transformer.
        num_heads: of each attention.
        dim_feedforward: hidden width of the token-wise networks.
        num_encoder_layers, num_decoder_layers: their numbers.
        dropout: rate within the transformer.
        layers: timm ``out_indices`` of the backbone; all are resized to the token grid and concatenated.
        stride: input pixels per token.
        score_window: the image score is the map's largest mean over a square of so many pixels.
        backbone: any timm network with feature maps.

    Raises:
        UserError: image size, window, width and heads do not go together.
    """

    tags: ClassVar[Tags] = Tags(
        paper="You et al., NeurIPS 2022", reference="zhangzjn/ADer at 902937a, zhiyuanyou/UniAD at a5b9d9d"
    )

    def __init__(
        self,
        image_size: Count = 256,
        batch_size: Count = 8,
        epochs: Count = 100,
        lr: LearningRate = 1e-4,
        betas: Betas = (0.9, 0.999),
        weight_decay: NonNegative = 1e-4,
        decay_norms_and_biases: bool = False,
        lr_decay_at: Share = 0.8,
        clip: Positive | None = 5.0,
        jitter_scale: NonNegative = 20.0,
        jitter_probability: Probability = 1.0,
        neighbor_size: Window = 9,
        masked: tuple[Attending, ...] = ("encoder", "decoder_memory", "decoder_previous"),
        embed_dim: Width = 256,
        num_heads: Depth = 8,
        dim_feedforward: Width = 1024,
        num_encoder_layers: Depth = 4,
        num_decoder_layers: Depth = 4,
        dropout: Rate = 0.1,
        layers: Layers = (0, 1, 2, 3),
        stride: Window = 16,
        score_window: Window = 16,
        backbone: BackboneOptions = BackboneOptions("tf_efficientnet_b4.aa_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.epochs = image_size, batch_size, epochs
        self.lr, self.betas = lr, betas
        self.weight_decay, self.decay_norms_and_biases = weight_decay, decay_norms_and_biases
        self.lr_decay_at, self.clip, self.score_window = lr_decay_at, clip, score_window
        self.grid = _grid(image_size, stride, neighbor_size if masked else None)
        if embed_dim % num_heads or embed_dim % 2:
            raise UserError(
                f"method.embed_dim={embed_dim} does not suit uniad: give an even multiple of "
                f"method.num_heads={num_heads}"
            )
        self.backbone = Backbone(backbone, layers)
        self.jitter = FeatureJitter(jitter_scale, jitter_probability)
        self.transformer = Transformer(
            sum(self.backbone.channels),
            self.grid,
            window=neighbor_size,
            masked=masked,
            width=embed_dim,
            heads=num_heads,
            feedforward=dim_feedforward,
            depths=(num_encoder_layers, num_decoder_layers),
            dropout=dropout,
        )

    def stages(self) -> Iterator[TrainStage]:
        weights: list[Any] = list(self.transformer.parameters())
        if not self.decay_norms_and_biases:
            weights = decay_groups(weights, self.weight_decay)
        optimizer = torch.optim.AdamW(weights, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        yield TrainStage(
            name="restore",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"transformer": optimizer},
            modules=[self.transformer],
            epochs=self.epochs,
            schedules={"transformer": step_at(self.lr_decay_at)},
            clip=self.clip,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        aligned_BNC, restored_BNC = self(batch.image_BCHW, batch)
        loss = F.mse_loss(restored_BNC, aligned_BNC)
        optimize(loss)
        return {"mse": loss}

    def forward(self, image_BCHW: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        """The tokens of the frozen network, and the transformer's restoration of them; float32.

        Args:
            image_BCHW: RGB in [0, 1].
            batch: of a training step, whose seeds decide the jitter; None: the tokens are not jittered.

        Raises:
            UserError: images of another size than the method was built for.
        """
        if any(side != self.image_size for side in image_BCHW.shape[2:]):
            given = "x".join(str(side) for side in image_BCHW.shape[2:])
            raise UserError(f"images of {given} pixels do not suit this uniad: build it with their image_size")
        aligned_BNC = align(self.backbone(image_BCHW), self.grid)
        restored_BNC = self.transformer(aligned_BNC if batch is None else self.jitter(aligned_BNC, batch))
        return aligned_BNC, full(restored_BNC)

    def predict(self, image_BCHW: Tensor) -> Prediction:
        aligned_BNC, restored_BNC = self(image_BCHW)
        error_BN = torch.linalg.vector_norm(restored_BNC - aligned_BNC, dim=2)
        error_BGG = error_BN.view(-1, self.grid, self.grid)
        map_BHW = upsample(error_BGG, image_BCHW.shape[2:], align_corners=True)
        return Prediction(pooled_maximum(map_BHW, self.score_window), map_BHW)


def _grid(image_size: int, stride: int, window: int | None) -> int:
    """Side of the token grid.

    Raises:
        UserError: it is not a whole number, or the window hides all of it from some token.
    """
    grid, rest = divmod(image_size, stride)
    if rest or not grid:
        raise UserError(f"image_size={image_size} does not suit uniad: give a multiple of method.stride={stride}")
    if window is None:
        return grid
    if window % 2 == 0:
        raise UserError(f"method.neighbor_size={window} has no center: give an odd number")
    if window // 2 >= grid // 2:  # the token at grid // 2 is the one nearest to all borders
        raise UserError(
            f"method.neighbor_size={window} hides all {grid}x{grid} tokens of image_size={image_size} from the one at "
            "their center: give a smaller one, larger images, or 'method.masked=[]'"
        )
    return grid


def align(features: Sequence[Tensor], grid: int) -> Tensor:
    """Tokens (B, N, C) of feature maps (B, C_k, H_k, W_k), in float32: each resized to (G, G), then concatenated."""
    resized = [
        F.interpolate(full(feature_BCHW), size=(grid, grid), mode="bilinear", align_corners=True)
        for feature_BCHW in features
    ]
    token_BNC: Tensor = torch.cat(resized, dim=1).flatten(2).transpose(1, 2)
    return token_BNC


def beyond_neighbors(grid: int, window: int) -> Tensor:
    """(N, N), True where the token of a row may attend to that of a column: not within its own square window."""
    place_G = torch.arange(grid)
    near_GG = (place_G[:, None] - place_G).abs() <= window // 2
    near_GGGG = near_GG[:, None, :, None] & near_GG[None, :, None, :]  # row, column of one; row, column of the other
    return ~near_GGGG.reshape(grid * grid, grid * grid)


class FeatureJitter(nn.Module):
    """Feature jittering (section 3.2 of the paper): noise in proportion to each token's norm.

    Args:
        scale: of the noise, against norm / C (not the root of C: so do both codes).
        probability: of a batch to get it.
    """

    def __init__(self, scale: float, probability: float) -> None:
        super().__init__()
        self.scale, self.probability = scale, probability

    def forward(self, token_BNC: Tensor, batch: Batch) -> Tensor:
        """Same shape."""
        # drawn on the CPU: nothing waits for the device
        if uniform(torch.tensor([batch.step_seed]), "uniad/jitter") >= self.probability:
            return token_BNC
        norm_BN1 = torch.linalg.vector_norm(token_BNC, dim=2, keepdim=True)
        noise_BNC = normal_one_by_one(batch.seed_B, "uniad/noise", *token_BNC.shape[1:], device=token_BNC.device)
        jittered_BNC: Tensor = token_BNC + noise_BNC * norm_BN1 * (self.scale / token_BNC.shape[2])
        return jittered_BNC


class Transformer(nn.Module):
    """Encoder and layer-wise query decoder (section 3.2), between projections from and to the features.

    Args:
        channels: of the features.
        grid: side of the token grid.
        window: side of the square of neighbors that a token may not attend to.
        masked: the attentions with that rule.
        width, heads, feedforward, dropout: of each layer.
        depths: layers of the encoder and of the decoder.
    """

    allowed_NN: Tensor

    def __init__(
        self,
        channels: int,
        grid: int,
        *,
        window: int,
        masked: Sequence[Attending],
        width: int,
        heads: int,
        feedforward: int,
        depths: tuple[int, int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.masked = frozenset(masked)
        self.register_buffer("allowed_NN", beyond_neighbors(grid, window), persistent=False)
        self.input, self.output = nn.Linear(channels, width), nn.Linear(width, channels)
        self.position = Position(grid, width)
        encoder = EncoderLayer(width, heads, feedforward, dropout)
        decoder = DecoderLayer(grid * grid, width, heads, feedforward, dropout)
        self.encoder, self.decoder = (
            nn.ModuleList(copy.deepcopy(layer) for _ in range(depth))
            for layer, depth in zip((encoder, decoder), depths, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        # What is no linear layer (queries, the attentions' input weights) stays as it was before the layers were
        # copied, so that all layers start with the same: as in both codes.
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, token_BNC: Tensor) -> Tensor:
        """Same shape."""
        encoder, memory, previous = (self.allowed_NN if name in self.masked else None for name in get_args(Attending))
        place_ND = self.position()
        memory_BND = self.input(token_BNC)
        for layer in self.encoder:
            memory_BND = layer(memory_BND, place_ND, encoder)
        restored_BND = memory_BND
        for layer in self.decoder:
            restored_BND = layer(restored_BND, memory_BND, place_ND, memory, previous)
        restored_BNC: Tensor = self.output(self.norm(restored_BND))
        return restored_BNC


class Position(nn.Module):
    """Learned position of each token: a vector of its column, then one of its row."""

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        self.column_GD = nn.Parameter(torch.rand(grid, width // 2))
        self.row_GD = nn.Parameter(torch.rand(grid, width // 2))

    def forward(self) -> Tensor:
        """(N, D)."""
        grid = len(self.row_GD)
        column_GGD, row_GGD = self.column_GD.expand(grid, -1, -1), self.row_GD[:, None].expand(-1, grid, -1)
        return torch.cat([column_GGD, row_GGD], dim=2).flatten(0, 1)


class EncoderLayer(nn.Module):
    """Self-attention and a token-wise network, each followed by its residual sum and a normalization."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feedforward = _feedforward(width, feedforward, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, token_BND: Tensor, place_ND: Tensor, allowed_NN: Tensor | None) -> Tensor:
        """Same shape as ``token_BND``; positions mark queries and keys, not values."""
        placed_BND = token_BND + place_ND
        attended_BND = self.attention(placed_BND, placed_BND, token_BND, allowed_NN)
        token_BND = self.norms[0](token_BND + self.dropout(attended_BND))
        output_BND: Tensor = self.norms[1](token_BND + self.dropout(self.feedforward(token_BND)))
        return output_BND


class DecoderLayer(nn.Module):
    """Its own learned queries attend to the encoder's output, then to the previous layer's; then a token-wise network.

    The previous layer's output is no residual: a shortcut past the queries would let anomalies through.
    """

    def __init__(self, tokens: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.query_ND = nn.Parameter(torch.randn(tokens, width))
        self.to_memory = Attention(width, heads, dropout)
        self.to_previous = Attention(width, heads, dropout)
        self.feedforward = _feedforward(width, feedforward, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        previous_BND: Tensor,
        memory_BND: Tensor,
        place_ND: Tensor,
        allowed_memory_NN: Tensor | None,
        allowed_previous_NN: Tensor | None,
    ) -> Tensor:
        """Same shape as ``previous_BND``."""
        query_1ND = (self.query_ND + place_ND)[None]  # the same for all images: projected once
        attended_BND = self.to_memory(query_1ND, memory_BND + place_ND, memory_BND, allowed_memory_NN)
        token_BND = self.norms[0](self.query_ND + self.dropout(attended_BND))
        attended_BND = self.to_previous(
            token_BND + place_ND, previous_BND + place_ND, previous_BND, allowed_previous_NN
        )
        token_BND = self.norms[1](token_BND + self.dropout(attended_BND))
        output_BND: Tensor = self.norms[2](token_BND + self.dropout(self.feedforward(token_BND)))
        return output_BND


class Attention(nn.Module):
    """Multi-head attention.

    Args:
        width: of queries, keys, values and output.
        heads: the width is divided among them.
        dropout: rate of the attention's weights.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.input_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.input_bias = nn.Parameter(torch.zeros(3 * width))
        self.output = nn.Linear(width, width)

    def forward(self, query_BND: Tensor, key_BND: Tensor, value_BND: Tensor, allowed_NN: Tensor | None) -> Tensor:
        """(B, N, D); ``query_BND`` may have one image for all. Without ``allowed_NN`` all tokens see each other."""
        inputs = zip((query_BND, key_BND, value_BND), self.input_weight.chunk(3), self.input_bias.chunk(3), strict=True)
        projected = (F.linear(*each) for each in inputs)
        query_BKND, key_BKND, value_BKND = (
            token_BND.view(*token_BND.shape[:2], self.heads, -1).transpose(1, 2) for token_BND in projected
        )
        attended_BKND = F.scaled_dot_product_attention(
            query_BKND.expand(key_BND.shape[0], -1, -1, -1),  # len() would fix an exported batch
            key_BKND,
            value_BKND,
            attn_mask=allowed_NN,
            dropout_p=self.dropout if self.training else 0.0,
        )
        output_BND: Tensor = self.output(attended_BKND.transpose(1, 2).flatten(2))
        return output_BND


def _feedforward(width: int, inner: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width))
