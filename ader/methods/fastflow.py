"""FastFlow: two-dimensional normalizing flows on the feature maps of a frozen network.

Paper: Yu et al., "FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows",
arXiv 2111.07677 (2021). There is no official code.
Upstream: gathierry/FastFlow at 2cf1f2f (Apache-2.0), an independent implementation, and the one of
openvinotoolkit/anomalib that is derived from it (Apache-2.0); flows from FrEIA (MIT). The default recipe is anomalib's
Wide ResNet-50 with TorchVision's weights, as papers that compare with FastFlow have it; ``recipe=segad`` trains 200
epochs, as SegAD's tables. ``recipe=official``, ``resnet18``, ``deit`` and ``cait`` are gathierry's four configurations,
for ``setting=single_class``.

`python -m parity fastflow fastflow_anomalib` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- Channels are permuted by index. Both codes store every permutation and its inverse as a matrix (22.0 M of the 91.9 M
  numbers with a Wide ResNet-50) and apply them as 1x1 convolutions (6.4 of 42.6 GMAC).
- Permutations come from torch's generator instead of NumPy's: the same distribution, other draws.
- ``resnet18`` is timm 0.5's there, so TorchVision's; ``wide_resnet50_2`` was, and is, timm's own training
  (``racm_in1k``), which ``recipe=official`` has.
- Transformers run up to the block that is read; their later blocks, class-attention layers and heads are cut.
- The last epoch is reported. gathierry's tables have the best epoch on the test set as well: up to 5 points of a
  category's pixel AUROC more.
- A map saturates at 0 where the latent vectors of all scales are longer than about 14 times their normal length: exp
  has no smaller number. Places beyond that are alike.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

import timm
import torch
from torch import Tensor, nn

from ader.config.ranges import Depth, Layers, LearningRate
from ader.methods._base import (
    Batch,
    Count,
    Method,
    NonNegative,
    Optimize,
    Positive,
    Prediction,
    Tags,
    TrainStage,
)
from ader.nets.backbone import Backbone, BackboneOptions, Pretrained
from ader.nets.flows import Flow, PermutedCoupling
from ader.nets.frozen import Frozen
from ader.nets.scoring.maps import full, upsample
from ader.system.errors import UserError

#: timm's modules of the transformers whose tokens can be read: without windows, at one resolution.
PLAIN_TRANSFORMERS = ("vision_transformer", "deit", "cait")


class FastFlow(Method):
    """One flow of convolutional couplings for each feature map; places of low likelihood are anomalous.

    Args:
        image_size: pixels; decides the sizes of feature maps, which the trained norms depend on.
        batch_size: images per step.
        epochs: sweeps over the training images.
        lr: Adam's learning rate.
        weight_decay: Adam's (L2), of all trained weights.
        flow_steps: couplings of each flow.
        conv3x3_only: every coupling network has 3x3 convolutions; otherwise every second one has 1x1.
        hidden_ratio: width of a coupling network against its input.
        clamp: bound of the log-scale of a coupling.
        layers: timm ``out_indices``: 1, 2 and 3 are a ResNet's layer1, layer2 and layer3; of a transformer, blocks
            counted from 0.
        backbone: any timm network with feature maps, or a plain vision transformer (ViT, DeiT, CaiT).

    Raises:
        UserError: image size and backbone do not go together.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Yu et al., arXiv 2111.07677", reference="gathierry/FastFlow at 2cf1f2f, openvinotoolkit/anomalib"
    )

    def __init__(
        self,
        image_size: Count = 256,
        batch_size: Count = 32,
        epochs: Count = 100,
        lr: LearningRate = 1e-3,
        weight_decay: NonNegative = 1e-5,
        flow_steps: Depth = 8,
        conv3x3_only: bool = False,
        hidden_ratio: Positive = 1.0,
        clamp: Positive = 2.0,
        layers: Layers = (1, 2, 3),
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.epochs = image_size, batch_size, epochs
        self.lr, self.weight_decay = lr, weight_decay
        plain = is_plain_transformer(backbone.name)
        self.backbone = Tokens(backbone, image_size, layers) if plain else Backbone(backbone, layers)
        strides = self.backbone.strides
        if image_size % strides[-1]:
            raise UserError(f"image_size={image_size} does not suit fastflow: give a multiple of {strides[-1]}")
        sizes = list(zip(self.backbone.channels, (image_size // stride for stride in strides), strict=True))
        # A transformer's own norm is part of the frozen network.
        self.norms = nn.ModuleList() if plain else nn.ModuleList(nn.LayerNorm([c, side, side]) for c, side in sizes)
        kernels = [1 if step % 2 and not conv3x3_only else 3 for step in range(flow_steps)]
        self.flows = nn.ModuleList(
            Flow(PermutedCoupling(c, 0, clamp, partial(convolutions, kernel, hidden_ratio)) for kernel in kernels)
            for c, _ in sizes
        )

    def stages(self) -> Iterator[TrainStage]:
        weights = [*self.norms.parameters(), *self.flows.parameters()]
        optimizer = torch.optim.Adam(weights, lr=self.lr, weight_decay=self.weight_decay)
        yield TrainStage(
            name="flow",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"flow": optimizer},
            modules=[self.norms, self.flows],
            epochs=self.epochs,
        )

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        loss = negative_log_likelihood(self(batch.image_BCHW))
        optimize(loss)
        return {"nll": loss}

    def forward(self, image_BCHW: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Latent maps (B, C_k, H_k, W_k) and log-determinants (B,) of each scale, at least float32.

        Raises:
            UserError: images of another size than the method was built for.
        """
        if any(side != self.image_size for side in image_BCHW.shape[2:]):
            given = "x".join(str(side) for side in image_BCHW.shape[2:])
            raise UserError(f"images of {given} pixels do not suit this fastflow: build it with their image_size")
        features = [full(feature_BCHW) for feature_BCHW in self.backbone(image_BCHW)]
        if self.norms:
            features = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
        return [flow(feature) for flow, feature in zip(self.flows, features, strict=True)]

    def predict(self, image_BCHW: Tensor) -> Prediction:
        map_BHW = improbability([latent_BCHW for latent_BCHW, _ in self(image_BCHW)], image_BCHW.shape[2:])
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def negative_log_likelihood(latents: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over scales of the mean over images of |z|^2 / 2 - log |det J|, the constant left out.

    Not divided by the number of dimensions: values of a million are usual.

    Args:
        latents: z (B, C_k, H_k, W_k) and log |det J| (B,) of each scale.
    """
    losses = [(0.5 * latent.square().flatten(1).sum(dim=1) - log_det).mean() for latent, log_det in latents]
    return torch.stack(losses).sum()


def improbability(latents: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Mean over scales of -exp(-|z|^2 / 2C) of every place's latent vector z, interpolated to (H, W); in [-1, 0].

    Args:
        latents: (B, C_k, H_k, W_k) of each scale.
        size: height and width of the result.
    """
    maps = [
        upsample(-torch.exp(-0.5 * latent_BCHW.square().mean(dim=1)), size, align_corners=False)
        for latent_BCHW in latents
    ]
    return torch.stack(maps).mean(dim=0)


def convolutions(kernel: int, hidden_ratio: float, inputs: int, outputs: int) -> nn.Sequential:
    """A coupling network for maps: two convolutions that keep the size, ``hidden_ratio`` times as wide in between."""
    hidden = max(1, int(inputs * hidden_ratio))
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, kernel, padding=kernel // 2),
    )


def is_plain_transformer(name: str) -> bool:
    """Whether timm's network of this name, with or without a tag, is one whose tokens are read as a feature map."""
    base = name.split(".")[0]
    return any(base in timm.list_models(f"{base}*", module=module) for module in PLAIN_TRANSFORMERS)


class Tokens(Frozen):
    """Patch tokens after some blocks of a frozen transformer, under its own last norm, as feature maps.

    Args:
        options: which network.
        image_size: pixels; positions are resampled where the network can do that.
        blocks: whose tokens are read, counted from 0.

    Raises:
        UserError: a size or blocks that the network does not have.

    Attributes:
        channels: of each map.
        strides: input pixels per token, of each map.
    """

    def __init__(self, options: BackboneOptions, image_size: int, blocks: Sequence[int]) -> None:
        super().__init__()
        base = options.name.split(".")[0]
        known = timm.get_pretrained_cfg(options.name)
        if options.pretrained and known is not None and base in timm.list_models(module="cait"):
            native = known.input_size[-1]
            if image_size != native:  # timm does not resample these positions
                raise UserError(f"image_size={image_size} does not suit {options.name}: give {native}")
        self.vit = Pretrained(options, img_size=image_size, num_classes=0)
        net = self.vit.net
        if not hasattr(net.blocks[0], "attn"):  # timm's transformers with branches side by side
            raise UserError(f"method.backbone.name={options.name!r}: fastflow needs a plain vision transformer")
        if blocks[-1] >= len(net.blocks):
            raise UserError(f"method.layers={list(blocks)} must be below the {len(net.blocks)} blocks of {base}")
        self.blocks = list(blocks)
        self.channels = [int(net.embed_dim)] * len(blocks)
        self.strides = [int(net.patch_embed.patch_size[0])] * len(blocks)
        net.prune_intermediate_layers(self.blocks, prune_norm=False, prune_head=True)
        self.requires_grad_(False)
        self.eval()

    @property
    def reads(self) -> tuple[int, ...]:
        """The blocks."""
        return tuple(self.blocks)

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Feature maps (B, C, H / stride, W / stride) of RGB images in [0, 1]."""
        return self.remembered(image_BCHW, self._maps)

    def _maps(self, image_BCHW: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.vit.net.forward_intermediates(
            self.vit.normalize(image_BCHW), indices=self.blocks, norm=True, intermediates_only=True
        )
        return maps
