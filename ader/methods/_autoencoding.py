"""What a latent diffusion model's autoencoder is trained with: perceptual loss, discriminator and their balance.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021 (equations 6 and 7), in the form of
latent diffusion (Rombach et al., CVPR 2022, appendix G): a sum over pixels, and a slight pull of the latents towards
the standard normal distribution.

Shapes in names: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.methods._stable_diffusion import read
from ader.nets.backbone import Backbone, BackboneOptions
from ader.nets.scoring.maps import full
from ader.system import dist
from ader.system.errors import UserError

#: The name of the file with the weights of LPIPS's channels, without its ending.
LPIPS = "lpips_vgg"

LPIPS_ADDRESS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth"

#: What LPIPS subtracts from and divides images in [-1, 1] by; upstream gives it images normalized already.
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class PerceptualLoss(nn.Module):
    """LPIPS, version 0.1 (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
    2018, equation 1): distances of VGG-16's features of unit length, weighted by learned channel weights.

    Without pretrained weights there is no such loss, it is 0, and results say so.

    Args:
        options: VGG-16 in timm. The channels' weights (BSD-2-Clause) lie in the same folder, as ``lpips_vgg.pth``.

    Raises:
        UserError: weights are missing.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        self.vgg: Backbone | None = None
        self.warning: str | None = None
        file = lpips_file(options)
        if file is None:
            self.warning = f"the autoencoder is trained without perceptual loss ({options.name} is not pretrained)"
            return
        self.vgg = Backbone(options, layers=(0, 1, 2, 3, 4))
        weights = channel_weights(file, self.vgg.channels)
        for number, weight_C in enumerate(weights):
            self.register_buffer(f"weight{number}", weight_C.view(1, -1, 1, 1))
        for name, values in (("shift", LPIPS_SHIFT), ("scale", LPIPS_SCALE)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, one_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        """Distances (B,); the first image takes no gradient."""
        if self.vgg is None:
            return one_BCHW.new_zeros(len(one_BCHW))
        with torch.no_grad():
            first = self._features(one_BCHW)
        distances = [
            (getattr(self, f"weight{number}") * (_unit(a) - _unit(b)).square()).sum(dim=1).mean(dim=(1, 2))
            for number, (a, b) in enumerate(zip(first, self._features(other_BCHW), strict=True))
        ]
        return torch.stack(distances).sum(dim=0)

    def _features(self, image_BCHW: Tensor) -> list[Tensor]:
        assert self.vgg is not None
        features: list[Tensor] = self.vgg.net((image_BCHW - self.shift) / self.scale)  # gradients pass, unlike in vgg
        return features


def _unit(feature_BCHW: Tensor) -> Tensor:
    return F.normalize(full(feature_BCHW), dim=1, eps=1e-10)


def lpips_file(options: BackboneOptions) -> Path | None:
    """The file with LPIPS's weights of channels; None where none are wanted.

    Raises:
        UserError: it is missing.
    """
    if not options.pretrained:
        return None
    folder = options.folder()
    found = [folder / f"{LPIPS}{ending}" for ending in (".safetensors", ".pth")] if folder else []
    file = next((file for file in found if file.is_file()), None)
    if file is None:
        raise UserError(
            f"weights {LPIPS!r} (LPIPS 0.1, BSD-2-Clause license, 7 kB) are not in the weights folder "
            f"({folder or 'none given'}): give `curl -L --create-dirs -o {(folder or Path('weights')).absolute()}/"
            f"{LPIPS}.pth {LPIPS_ADDRESS}` (paths.weights, ADER_WEIGHTS), or set method.perceptual.pretrained=false "
            "to go without perceptual loss"
        )
    return file


def channel_weights(file: Path, channels: Sequence[int]) -> list[Tensor]:
    """LPIPS's weights of each layer's channels.

    Raises:
        UserError: the file does not hold them.
    """
    state = read(file)
    weights = [state.get(f"lin{number}.model.1.weight", torch.empty(0)).flatten() for number in range(len(channels))]
    if [len(weight) for weight in weights] != list(channels):
        raise UserError(f"weights file {file} does not hold LPIPS's five layers for VGG-16: replace it")
    return weights


class PatchDiscriminator(nn.Sequential):
    """Judges overlapping patches of 70 pixels (Isola et al., "Image-to-Image Translation with Conditional Adversarial
    Networks", CVPR 2017, appendix 6.1.2), with batch norm.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for inputs, outputs, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers += [
                nn.Conv2d(inputs * width, outputs * width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs * width),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv2d(8 * width, 1, 4, padding=1))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)


class Adversary(nn.Module):
    """The discriminator, and how many batches were trained on.

    Args:
        width: of the discriminator.
        start: batches before it takes part.
    """

    batches: Tensor

    def __init__(self, width: int, start: int) -> None:
        super().__init__()
        self.start = start
        self.discriminator = PatchDiscriminator(width)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def takes_part(self) -> bool:
        """Whether it judges this batch; counts it."""
        self.batches += 1
        return self.start == 0 or int(self.batches) > self.start

    def deceived(self, image_BCHW: Tensor) -> Tensor:
        """The autoencoder's adversarial loss."""
        return -full(self.discriminator(image_BCHW)).mean()

    def hinge(self, real_BCHW: Tensor, made_BCHW: Tensor) -> Tensor:
        """The discriminator's loss; the autoencoder gets no gradient of it."""
        real = (1 - full(self.discriminator(real_BCHW))).relu().mean()
        made = (1 + full(self.discriminator(made_BCHW.detach()))).relu().mean()
        return (real + made) / 2


def gradient_norm(loss: Tensor, weight: Tensor, share: float) -> Tensor:
    """Of a loss at one weight, over all processes' images.

    Args:
        loss: a mean over this process's images.
        weight: of the last layer.
        share: of the step's images that this process has. It scales the loss and not the gradient, which crosses
            processes where batch norms share their statistics.
    """
    (gradient,) = torch.autograd.grad(loss * share, weight, retain_graph=True)
    norm: Tensor = torch.linalg.vector_norm(dist.gather_rows(gradient[None]).sum(dim=0))
    return norm


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, weight: Tensor, share: float) -> Tensor:
    """Ratio of two losses' gradients at the last layer (equation 7 of Esser et al.), at most 10,000."""
    ratio = gradient_norm(reconstruction, weight, share) / (gradient_norm(adversarial, weight, share) + 1e-4)
    return ratio.clamp(max=1e4).detach()
