"""SimpleNet: a discriminator between adapted patch features and the same features with noise.

Paper: Liu et al., "SimpleNet: A Simple Network for Image Anomaly Detection and Localization", CVPR 2023.
Upstream: DonaldRR/SimpleNet at 351a2b8 (MIT) and its reproduction in zhangzjn/ADer at 902937a (no license file).
The default recipe is ADer's without its faults (the first two differences below); ``recipe=ader`` has them back, as
they were in force when the published numbers were made, and seed 0, which ADer's configuration has for this method
alone (ours draws other numbers from it). ``recipe=official`` with ``setting=single_class`` is the
authors' ``run.sh`` (the paper itself says batches of 4).

`python -m parity simplenet simplenet_official` compares with upstream; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- ADer configures a learning rate of a tenth for the last fifth of the training, but attaches it to an optimizer that
  is not in use, so both rates stay as they are; here both fall. ``lr_decay_at=1`` keeps them.
- Both codes ask for the number of channels with an image of ones, while the backbone is still in training mode: the
  running statistics of its batch norms move a tenth of the way to those of that image. Here they stay as pretrained;
  ``probe_size`` repeats it.
- Patch features come from their closed form (``nets/scoring/patches.py``); upstream unfolds 9 copies and pools them.
- One backward pass for both optimizers, where ADer has two: the gradients are the same.
- The noise is drawn on the device, by the images' own seeds: another draw than upstream's, of the same distribution.
- Under bf16 only the backbone runs in half precision: rounding an adapted feature to 8 bits is not small beside a
  noise of 0.015.
- The official code crops a center of 288 from 329 pixels and keeps the epoch that is best on the test set; here images
  are never cropped and the last epoch counts.
- The smoothed maps are made in one batch, and only maps: upstream interpolates all features to the image's size as
  well, on the host, and drops them. ADer's test loop as released hands this function an argument that it cannot take.

The training is unstable: ADer reports an image AUROC of 95.4 after 100 epochs on its first data set and 79.2 after 300.
The logged shares of real and fake outputs beyond the margin show where it stands. ``noise_std`` suits the magnitude of
the features of ``tv_in1k``; other weights need another.

Shapes in names: B images, C channels, H height, W width, N patches (B * H * W), D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.config.ranges import Betas, Layers, LearningRate, Sigma, Width, Window
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
from ader.nets.scoring.maps import GaussianBlur, full, full_precision, upsample
from ader.nets.scoring.patches import PatchFeatures, probe_in_training_mode
from ader.nets.synthesis.draws import normal_one_by_one


class SimpleNet(Method):
    """A linear adaptor moves frozen patch features to the data's domain; a small discriminator tells them from copies
    with Gaussian noise, and its negated output is the anomaly score (section 3 of the paper).

    Args:
        batch_size: images per step.
        epochs: sweeps over the training images.
        drop_last: leave out the incomplete batch at an epoch's end.
        adaptor_lr: learning rate of the adaptor's AdamW.
        adaptor_weight_decay: of the same.
        discriminator_lr: learning rate of the discriminator's Adam.
        discriminator_weight_decay: of the same, added to the gradient.
        decay_norms_and_biases: whether weight decay takes the batch norm and biases, too.
        betas: averaging factors of both.
        lr_decay_at: share of the training after which both learning rates are multiplied by 0.1; 1 keeps them.
        clip: largest gradient norm, of the adaptor and of the discriminator each; None for no clipping.
        noise_std: standard deviation of the noise on each adapted feature; it has to suit the features' magnitude,
            hence the backbone's weights.
        margin: of the hinge loss; real patches should score above it, fake ones below its negative.
        embed_dim: dimensions of a patch feature, before and after the adaptor.
        hidden_dim: width of the discriminator.
        layers: timm ``out_indices`` of the backbone, finest first: 2 and 3 are a ResNet's layer2 and layer3.
        image_score: ``"map"``, the maximum of the smoothed map (ADer), or ``"patch"``, the largest patch score
            (official).
        sigma: of the Gaussian that smooths the map, in pixels.
        probe_size: pixels of the image of ones that goes through the backbone in training mode before all else, as
            upstream's codes have it by mistake (``probe_in_training_mode``); None leaves the pretrained batch
            statistics as they are.
        backbone: any timm network with feature maps.
    """

    tags: ClassVar[Tags] = Tags(
        paper="Liu et al., CVPR 2023", reference="zhangzjn/ADer at 902937a, DonaldRR/SimpleNet at 351a2b8"
    )

    def __init__(
        self,
        batch_size: Count = 32,
        epochs: Count = 100,
        drop_last: bool = True,
        adaptor_lr: LearningRate = 1e-4,
        adaptor_weight_decay: NonNegative = 1e-2,
        discriminator_lr: LearningRate = 2e-4,
        discriminator_weight_decay: NonNegative = 1e-5,
        decay_norms_and_biases: bool = False,
        betas: Betas = (0.9, 0.999),
        lr_decay_at: Share = 0.8,
        clip: Positive | None = 5.0,
        noise_std: Positive = 0.015,
        margin: Positive = 0.5,
        embed_dim: Width = 1536,
        hidden_dim: Width = 1024,
        layers: Layers = (2, 3),
        image_score: Literal["map", "patch"] = "map",
        sigma: Sigma = 4.0,
        probe_size: Window | None = None,
        backbone: BackboneOptions = BackboneOptions("wide_resnet50_2.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs, self.drop_last = batch_size, epochs, drop_last
        self.adaptor_lr, self.adaptor_weight_decay = adaptor_lr, adaptor_weight_decay
        self.discriminator_lr, self.discriminator_weight_decay = discriminator_lr, discriminator_weight_decay
        self.decay_norms_and_biases, self.betas = decay_norms_and_biases, betas
        self.lr_decay_at, self.clip = lr_decay_at, clip
        self.noise_std, self.margin, self.image_score = noise_std, margin, image_score
        self.backbone = Backbone(backbone, layers)
        if probe_size is not None:
            probe_in_training_mode(self.backbone, probe_size)
        self.patches = PatchFeatures(self.backbone.channels, embed_dim)
        self.adaptor = _linear(embed_dim, embed_dim)
        self.discriminator = nn.Sequential(
            _linear(embed_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.LeakyReLU(0.2),
            _linear(hidden_dim, 1, bias=False),
        )
        self.blur = GaussianBlur(sigma)

    def stages(self) -> Iterator[TrainStage]:
        adaptor = self._groups(self.adaptor, self.adaptor_weight_decay)
        discriminator = self._groups(self.discriminator, self.discriminator_weight_decay)
        schedule = step_at(self.lr_decay_at)
        yield TrainStage(
            name="discriminate",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={
                "adaptor": torch.optim.AdamW(adaptor, lr=self.adaptor_lr, betas=self.betas),
                "discriminator": torch.optim.Adam(discriminator, lr=self.discriminator_lr, betas=self.betas),
            },
            modules=[self.adaptor, self.discriminator],
            epochs=self.epochs,
            schedules={"adaptor": schedule, "discriminator": schedule},
            clip=self.clip,
            drop_last=self.drop_last,
        )

    def _groups(self, module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The module's parameters: biases and the batch norm decay only if wanted."""
        return decay_groups(module.parameters(), weight_decay, weight_decay if self.decay_norms_and_biases else 0.0)

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        real_N, fake_N = self(batch.image_BCHW, batch.seed_B)
        loss = hinge_loss(real_N, fake_N, self.margin)
        optimize(loss)  # both optimizers: the adaptor's input is frozen, so one backward pass serves them
        real_share = (real_N.detach() >= self.margin).float().mean()
        fake_share = (fake_N.detach() <= -self.margin).float().mean()
        return {"hinge": loss, "real_above_margin": real_share, "fake_below_margin": fake_share}

    def forward(self, image_BCHW: Tensor, seed_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Discriminator outputs (N,) of the real patches and of their noisy copies: the pass of a training step.

        Both go through the discriminator together and share its batch statistics.

        Args:
            image_BCHW: RGB in [0, 1].
            seed_B: of each image's noise; None: it comes from torch's stream.
        """
        patch_BHWD = self._patches(image_BCHW)
        if seed_B is None:
            noise_BHWD = torch.randn_like(patch_BHWD)
        else:
            noise_BHWD = normal_one_by_one(seed_B, "simplenet/noise", *patch_BHWD.shape[1:], device=patch_BHWD.device)
        with full_precision(image_BCHW.device):
            real_ND = self.adaptor(patch_BHWD.flatten(0, 2))
            fake_ND = torch.add(real_ND, noise_BHWD.flatten(0, 2), alpha=self.noise_std)
            output_N = self.discriminator(torch.cat([real_ND, fake_ND]))[:, 0]
        real_N, fake_N = output_N.chunk(2)
        return real_N, fake_N

    def _patches(self, image_BCHW: Tensor) -> Tensor:
        """Frozen patch features (B, H, W, D). Only the backbone may run in half precision: rounded to 8 bits,
        features differ by a fraction of the noise that the discriminator is to see, and its outputs would tie."""
        features = [full(feature_BCHW) for feature_BCHW in self.backbone(image_BCHW)]
        with full_precision(image_BCHW.device):
            patch_BHWD: Tensor = self.patches(features).permute(0, 2, 3, 1)
        return patch_BHWD

    def predict(self, image_BCHW: Tensor) -> Prediction:
        patch_BHWD = self._patches(image_BCHW)
        with full_precision(image_BCHW.device):
            output_N = self.discriminator(self.adaptor(patch_BHWD.flatten(0, 2)))
        patch_BHW = -output_N.view(patch_BHWD.shape[:3])
        map_BHW = self.blur(upsample(patch_BHW, image_BCHW.shape[2:], align_corners=False))
        scored_BHW = map_BHW if self.image_score == "map" else patch_BHW
        return Prediction(scored_BHW.amax(dim=(1, 2)), map_BHW)


def hinge_loss(real_N: Tensor, fake_N: Tensor, margin: float) -> Tensor:
    """Truncated l1 loss (section 3.5): nothing for real outputs above the margin and fake ones below its negative."""
    return F.relu(margin - real_N).mean() + F.relu(margin + fake_N).mean()


def _linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    return layer
