"""DiAD: a diffusion-based framework that repaints an image under guidance of its own semantics.

Paper: He et al., "A Diffusion-Based Framework for Multi-Class Anomaly Detection" (DiAD), AAAI 2024.
Upstream: lewandofskee/DiAD at d281300 (Apache-2.0). ADer's tables have the method, its code at 902937a has not. The
default recipe is the official code's in the benchmark's frame: fixed epochs, the last one, no accumulated gradients;
``recipe=official`` accumulates as the official code does and trains as long.

Needs diffusers (``pip install 'ader-bench[diad]'``), which has U-Net, autoencoder, the ControlNet that the
semantic-guided network begins with, and the sampler; and the weights of Stable Diffusion 1.5 (CreativeML Open RAIL-M),
of VGG-16 and of LPIPS (``method.stable_diffusion.pretrained=false method.perceptual.pretrained=false``: without).

`python -m parity diad` compares with upstream at a small size; differences, parameters and operations:
`results/bench/methods.md`.

Differences from upstream:
- Guidance at scale 9 is left out: upstream's conditional and unconditional inputs are equal, so that u + 9 (c - u) = c.
- A score does not depend on chance: a test image's latent is the posterior's mean, where upstream draws from it, and
  the noise is the same for every image, drawn by the run's seed. Training draws from each image's own seed.
- The prompt is always empty: its embedding is a constant, computed once, and the text encoder is not kept.
- Upstream takes the autoencoder from latent diffusion's kl-f8, here it is the one in Stable Diffusion 1.5's file.
- Upstream trains both stages without a limit that its scripts state, validates on test images and keeps the best. Here
  the autoencoder's stage has as many epochs as the diffusion's, unless ``autoencoder_epochs`` says another number.
- The discriminator is not run before it takes part, and judges the reconstruction that the autoencoder has just learned
  from; upstream makes another one for it. ``discriminator_start`` counts batches, upstream's updates.
- The spatial-aware feature fusion does nothing in the released code, which begins its convolutions and those before
  them at zero: neither ever has a gradient (`parity/diad.py` shows it). It does nothing here, either, and the weights
  are frozen; ``learn_fusion=true`` begins at random ones. Six more of the guide's output convolutions go nowhere and
  are frozen, which upstream's optimizer holds without ever changing them.
- How ADer pooled and smoothed this method's maps is not known; both are the official code's.

Shapes in names: B images, C channels, H height, W width; latents have h and w; N tokens, D channels of a prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from pydantic import Field
from torch import Tensor, nn

from ader.config.ranges import Betas, Channels, LearningRate, Natural, Sigma, Window
from ader.methods._autoencoding import Adversary, PerceptualLoss, adaptive_weight, lpips_file
from ader.methods._base import Batch, Count, Method, NonNegative, Optimize, Prediction, Tags, TrainStage
from ader.methods._stable_diffusion import LATENT_CHANNELS, LATENT_SCALE, StableDiffusion, StableDiffusionOptions
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.scoring.maps import GaussianBlur, cosine_distance_map, full, pooled_maximum
from ader.nets.synthesis.draws import integers, normal
from ader.system.errors import UserError

#: Of the forward process.
TIMESTEPS = 1000

#: Of the semantic-guided network's stem at each resolution, from the image's to the latents'.
STEM = (16, 32, 96, 256)


class DiAD(Method):
    """An image is noised almost completely in latent space and denoised under guidance of the image itself; where
    features of input and repaint differ is anomalous (section 3 of the paper).

    Args:
        batch_size: images per step of the diffusion's training.
        epochs: sweeps over the training images of the diffusion's training.
        lr: AdamW's learning rate, for the semantic-guided network and the U-Net's decoder.
        weight_decay: AdamW's.
        autoencoder_batch_size: images per step of the autoencoder's training.
        autoencoder_epochs: sweeps of the autoencoder's training, which comes first; 0: as it was pretrained.
        autoencoder_lr: Adam's learning rate, for autoencoder and discriminator.
        autoencoder_betas: Adam's averaging factors, for both.
        kl_weight: of the latents' divergence from the normal distribution.
        discriminator_weight: of the adversarial loss, over the balance of gradients.
        discriminator_start: batches before the discriminator takes part.
        discriminator_width: channels of its first layer.
        learn_fusion: whether the spatial-aware feature fusion can learn. In the released code it cannot: two layers in
            series begin at zero, so that the gradient of either is zero and stays so.
        recompute: compute activations again in the backward pass rather than keep them, which saves memory.
        steps: of sampling.
        sigma: of the Gaussian that smooths the map, in pixels.
        pool: side of the average pooling before the maximum that is the image score, in pixels.
        pool_rounds: how often it is applied.
        stable_diffusion: the pretrained networks.
        perceptual: VGG-16 for the autoencoder's perceptual loss; without pretrained weights there is none.
        backbone: of the features that are compared, a ResNet of timm; also what normalizes images.
    """

    tags: ClassVar[Tags] = Tags(paper="He et al., AAAI 2024", reference="lewandofskee/DiAD at d281300")

    seed: Tensor

    def __init__(
        self,
        batch_size: Count = 12,
        epochs: Count = 100,
        lr: LearningRate = 1e-5,
        weight_decay: NonNegative = 0.01,
        autoencoder_batch_size: Count = 4,
        autoencoder_epochs: Natural = 100,
        autoencoder_lr: LearningRate = 1.8e-4,
        autoencoder_betas: Betas = (0.5, 0.9),
        kl_weight: NonNegative = 1e-6,
        discriminator_weight: NonNegative = 0.5,
        discriminator_start: Natural = 50_001,
        discriminator_width: Channels = 64,
        learn_fusion: bool = False,
        recompute: bool = True,
        steps: Annotated[int, Field(ge=1, le=TIMESTEPS)] = 10,
        sigma: Sigma = 5.0,
        pool: Window = 8,
        pool_rounds: Count = 8,
        stable_diffusion: StableDiffusionOptions = StableDiffusionOptions(),  # noqa: B008 (frozen)
        perceptual: BackboneOptions = BackboneOptions("vgg16.tv_in1k"),  # noqa: B008
        backbone: BackboneOptions = BackboneOptions("resnet50.a1_in1k"),  # noqa: B008
    ) -> None:
        super().__init__()
        self.batch_size, self.epochs, self.lr, self.weight_decay = batch_size, epochs, lr, weight_decay
        self.autoencoder_batch_size, self.autoencoder_epochs = autoencoder_batch_size, autoencoder_epochs
        self.autoencoder_lr, self.autoencoder_betas = autoencoder_lr, autoencoder_betas
        self.kl_weight, self.discriminator_weight = kl_weight, discriminator_weight
        self.pool, self.pool_rounds, self.stride = pool, pool_rounds, stable_diffusion.stride
        self.features = Backbone(backbone, layers=(1, 2, 3))
        self.generative = StableDiffusion(stable_diffusion)
        self.guide = SemanticGuidedNetwork(self.unet, stable_diffusion.stride, learn_fusion)
        self.perceptual = PerceptualLoss(perceptual)
        self.adversary = Adversary(discriminator_width, discriminator_start)
        self.unet.requires_grad_(False)  # encoder and middle stay: no gradient passes through them either
        for part in self._decoder():
            part.requires_grad_(True)
        for part in (self.unet, self.guide.control) if recompute else ():
            part.enable_gradient_checkpointing()
        self.scheduler = schedule(steps)
        self.blur = GaussianBlur(sigma)
        self.register_buffer("seed", torch.randint(2**62, (1,)))  # of the noise of all test images

    @classmethod
    def backbones(cls, arguments: Mapping[str, Any]) -> list[BackboneOptions]:
        return [each for each in super().backbones(arguments) if each.pretrained]  # VGG-16 is not built without weights

    @classmethod
    def files(cls, arguments: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
        found = super().files(arguments)
        defaults = inspect.signature(cls).parameters
        networks, perceptual = (
            arguments.get(name, defaults[name].default) for name in ("stable_diffusion", "perceptual")
        )
        more = {file.name: file for file in (networks.file(), lpips_file(perceptual)) if file is not None}
        return found | ({"weights": {**found.get("weights", {}), **more}} if more else {})

    @property
    def unet(self) -> Any:
        """Stable Diffusion's; its encoder and middle stay as they are."""
        return self.generative.unet

    @property
    def autoencoder(self) -> Any:
        """Stable Diffusion's."""
        return self.generative.autoencoder

    def _decoder(self) -> list[nn.Module]:
        """What is trained of the U-Net."""
        return [self.unet.up_blocks, self.unet.conv_norm_out, self.unet.conv_out]

    def stages(self) -> Iterator[TrainStage]:
        if self.autoencoder_epochs:
            yield TrainStage(
                name="autoencoder",
                batch_size=self.autoencoder_batch_size,
                step=self._step_autoencoder,
                optimizers={
                    name: torch.optim.Adam(part.parameters(), lr=self.autoencoder_lr, betas=self.autoencoder_betas)
                    for name, part in (("autoencoder", self.autoencoder), ("discriminator", self.adversary))
                },
                modules=[self.autoencoder, self.adversary],
                epochs=self.autoencoder_epochs,
                drop_last=False,
            )
        modules = [self.guide, *self._decoder()]
        weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
        yield TrainStage(
            name="diffusion",
            batch_size=self.batch_size,
            step=self._step_diffusion,
            optimizers={"network": torch.optim.AdamW(weights, lr=self.lr, weight_decay=self.weight_decay)},
            modules=modules,
            epochs=self.epochs,
            drop_last=False,
        )

    def _step_autoencoder(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        image_BCHW = self._normalized(batch.image_BCHW)
        posterior = self.autoencoder.encode(image_BCHW).latent_dist
        latent_BChw = drawn(posterior, batch.seed_B)
        made_BCHW = full(self.autoencoder.decode(latent_BChw).sample)
        perceptual_B = self.perceptual(image_BCHW, made_BCHW)
        l1_B = (image_BCHW - made_BCHW).abs().sum(dim=(1, 2, 3))
        # the perceptual loss stands at every pixel and channel, as upstream's sum has it
        reconstruction = (l1_B + image_BCHW[0].numel() * perceptual_B).mean()
        loss = reconstruction + self.kl_weight * divergence(posterior).mean()
        logged = {"l1": l1_B.mean() / image_BCHW[0].numel(), "perceptual": perceptual_B.mean(), "loss": loss}
        if not self.adversary.takes_part():
            optimize(loss, "autoencoder")
            return logged
        deceived = self.adversary.deceived(made_BCHW)
        last = self.autoencoder.decoder.conv_out.weight
        balance = adaptive_weight(reconstruction, deceived, last, batch.share)
        optimize(loss + self.discriminator_weight * balance * deceived, "autoencoder")
        hinge = self.adversary.hinge(image_BCHW, made_BCHW)
        optimize(hinge, "discriminator")
        return {**logged, "adversarial": deceived, "discriminator": hinge}

    def _step_diffusion(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        image_BCHW = self._normalized(batch.image_BCHW)
        seed_B = batch.seed_B.to(image_BCHW.device)
        with torch.no_grad():
            latent_BChw = LATENT_SCALE * drawn(self.autoencoder.encode(image_BCHW).latent_dist, seed_B)
        noise_BChw = normal(seed_B, "noise", *latent_BChw.shape[1:]).to(latent_BChw.dtype)
        time_B = integers(seed_B, "time", TIMESTEPS)
        noised_BChw = self.scheduler.add_noise(latent_BChw, noise_BChw, time_B)
        loss = F.mse_loss(self.denoise(noised_BChw, time_B, image_BCHW), noise_BChw)
        optimize(loss)
        return {"mse": loss}

    def _normalized(self, image_BCHW: Tensor) -> Tensor:
        """As autoencoder, guide and features take it: by ImageNet's mean and deviation, not to [-1, 1].

        Raises:
            UserError: the image's sides do not suit the networks.
        """
        coarsest = 8 * self.stride
        if any(side % coarsest or side < 2 * coarsest for side in image_BCHW.shape[2:]):
            raise UserError(
                f"image_size={image_BCHW.shape[3]} does not suit diad: give a multiple of {coarsest} from "
                f"{2 * coarsest} on"
            )
        normalized_BCHW: Tensor = self.features.normalize(image_BCHW)
        return normalized_BCHW

    def denoise(self, noised_BChw: Tensor, time_B: Tensor, image_BCHW: Tensor) -> Tensor:
        """The noise in latents, as U-Net and guide predict it.

        Args:
            noised_BChw: latents with noise.
            time_B: how many of the 1000 steps of noise they have.
            image_BCHW: that guides, normalized.
        """
        prompt_BND = self.generative.prompt_ND.expand(len(noised_BChw), -1, -1)
        skips, middle_BChw = self.guide(noised_BChw, time_B, image_BCHW, prompt_BND)
        nothing = [noised_BChw.new_zeros(())] * (3 * len(skips))  # the three finer levels get no guidance
        predicted = self.unet(
            noised_BChw,
            time_B,
            prompt_BND,
            down_block_additional_residuals=(*nothing, *skips),
            mid_block_additional_residual=middle_BChw,
            return_dict=False,
        )
        return full(predicted[0])

    def repaint(self, image_BCHW: Tensor) -> Tensor:
        """What the networks make of normalized images; normalized, too, and not cut to a range.

        The first step takes latents of time 999 for those of time 901, as upstream does: nearly all is noise.
        """
        latent_BChw = LATENT_SCALE * full(self.autoencoder.encode(image_BCHW).latent_dist.mode())
        noise_1Chw = normal(self.seed, "test", LATENT_CHANNELS, *latent_BChw.shape[2:]).to(latent_BChw.dtype)
        last_B = torch.full((len(image_BCHW),), TIMESTEPS - 1, device=image_BCHW.device)
        latent_BChw = self.scheduler.add_noise(latent_BChw, noise_1Chw, last_B)
        for time in self.scheduler.timesteps.tolist():
            noise_BChw = self.denoise(latent_BChw, torch.full_like(last_B, time), image_BCHW)
            latent_BChw = self.scheduler.step(noise_BChw, time, latent_BChw, return_dict=False)[0]
        repaint_BCHW: Tensor = full(self.autoencoder.decode(latent_BChw / LATENT_SCALE).sample)
        return repaint_BCHW

    def predict(self, image_BCHW: Tensor) -> Prediction:
        normalized_BCHW = self._normalized(image_BCHW)
        both = self.features.net(torch.cat([normalized_BCHW, self.repaint(normalized_BCHW)]))
        given, made = zip(*(level.chunk(2) for level in both), strict=True)
        map_BHW = self.blur(cosine_distance_map(given, made, image_BCHW.shape[2:]))
        return Prediction(pooled_score(map_BHW, self.pool, self.pool_rounds), map_BHW)


def schedule(steps: int) -> Any:
    """Stable Diffusion's noise, and ``steps`` of deterministic sampling (DDIM, eta 0) at the times 1, 1 + 1000 /
    ``steps``, ..., from the last on."""
    scheduler = DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="scaled_linear",  # linear in the square root
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def drawn(posterior: Any, seed_B: Tensor) -> Tensor:
    """Latents from the autoencoder's distribution, each by its image's seed; at least float32."""
    mean_BChw = full(posterior.mean)
    noise_BChw = normal(seed_B.to(mean_BChw.device), "posterior", *mean_BChw.shape[1:])
    return mean_BChw + full(posterior.std) * noise_BChw.to(mean_BChw.dtype)


def divergence(posterior: Any) -> Tensor:
    """Kullback-Leibler divergence (B,) of the autoencoder's distribution from the standard normal one, a sum over the
    latent."""
    mean, logvar = full(posterior.mean), full(posterior.logvar)
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))


def pooled_score(map_BHW: Tensor, window: int, rounds: int) -> Tensor:
    """Image scores (B,): the maximum after so many average poolings of stride 1, without padding. A window that has
    become larger than the map is cut to it."""
    for _ in range(rounds - 1):
        map_BHW = F.avg_pool2d(map_BHW, min(window, *map_BHW.shape[1:]), stride=1)
    return pooled_maximum(map_BHW, window)


class SemanticGuidedNetwork(nn.Module):
    """A copy of the U-Net's encoder and middle that sees the image as well (section 3.2), with spatial-aware feature
    fusion (section 3.3).

    Args:
        unet: to copy.
        stride: pixels per latent pixel.
        learn_fusion: whether the fusion's convolutions begin at torch's own random weights, not at zero. At zero they
            never learn, since the convolutions before them begin at zero, too: both are frozen.
    """

    def __init__(self, unet: Any, stride: int, learn_fusion: bool) -> None:
        super().__init__()
        stem = STEM[: stride.bit_length()]
        self.control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=stem)
        self.outputs = unet.config.layers_per_block + 1  # of each level, the first of which has another one's channels
        channels = unet.config.block_out_channels
        fine = [channels[1], *[channels[2]] * (self.outputs - 1)]
        self.fusion = SpatialAwareFusion(fine, channels[3], self.outputs)
        # those of the first two levels go nowhere, those of the third to the fusion alone
        self.control.controlnet_down_blocks[: self.outputs * (2 if learn_fusion else 3)].requires_grad_(False)
        if not learn_fusion:
            for weight in self.fusion.parameters():
                nn.init.zeros_(weight).requires_grad_(False)

    def forward(
        self, noised_BChw: Tensor, time_B: Tensor, image_BCHW: Tensor, prompt_BND: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """What is added to the U-Net: to the skips of its coarsest level, and to its middle."""
        outputs, middle_BChw = self.control(
            noised_BChw, time_B, prompt_BND, controlnet_cond=image_BCHW, return_dict=False
        )
        fine, coarse = outputs[2 * self.outputs : 3 * self.outputs], outputs[3 * self.outputs :]
        return self.fusion(fine, coarse), middle_BChw


class SpatialAwareFusion(nn.Module):
    """Adds features of one resolution to those of the next coarser one.

    Upstream has a branch from each finer feature to each coarser one; here the branches of one finer feature are one
    convolution with all their channels.

    Args:
        fine: channels of each of the finer features.
        coarse: channels of the coarser ones.
        count: of the coarser ones.
    """

    def __init__(self, fine: Sequence[int], coarse: int, count: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, count * coarse, 3, stride=2, padding=1, bias=False) for channels in fine
        )

    def forward(self, fine: Sequence[Tensor], coarse: Sequence[Tensor]) -> list[Tensor]:
        """The coarser features with what the finer ones add."""
        added = [
            F.silu(F.instance_norm(full(branch(feature_BCHW)))).chunk(len(coarse), dim=1)
            for branch, feature_BCHW in zip(self.branches, fine, strict=True)
        ]
        return [F.silu(sum(more, start=own)) for own, *more in zip(coarse, *added, strict=True)]
