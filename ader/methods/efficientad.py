"""EfficientAD: a student imitates a small distilled teacher, and an autoencoder whose errors it also learns.

Paper: Batzner, Heckler and König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies",
WACV 2024 (arXiv 2303.14535). The authors published no code.
Upstream: nelson1425/EfficientAD at fcab514 (Apache-2.0), a reimplementation whose teachers are published, and
openvinotoolkit/anomalib at 161bb36 (Apache-2.0). ``efficientad`` is the paper's S, ``efficientad_m`` its M. The
default recipe is upstream's in the benchmark's frame: epochs, batches of 8, one model of all categories.
``recipe=official`` has upstream's batches of one image and 70,000 steps (add ``setting=single_class``),
``recipe=segad`` what SegAD's paper says of its own: padded convolutions (with ``efficientad_m``).

Preparation: the published ``teacher_small.pth`` and ``teacher_medium.pth`` go into the folder of weights. Without such
a file, and with ``images``, a folder of photographs in ImageNet's place, the teacher is distilled in two stages before
all else (``_distillation.py``); a run's checkpoint under that name is a file of its teacher for other runs. With
neither it keeps random weights. Without ``images`` there is no penalty. Log, record and table say so.

`python -m parity efficientad efficientad_m` compares with upstream: features are equal to the bit, other differences
are below 1e-4 of the largest value. All differences, parameters and operations: `results/bench/methods.md`.

Differences from upstream:
- Default batches are larger than one image: the hard features are then those of all images of the step (and of all
  processes). The quantile's place is exact; ``torch.quantile`` rounds it to float32, and refuses 2^24 values.
- Student and teacher see all images of a step at once, and of the student's last layer each image gets the half that
  a loss reads. Same losses and gradients; upstream has three passes of whole students.
- Colors are changed in the evaluated image, as tensors; upstream changes the file's own pixels before it resizes them.
- Quantiles of maps are those of all pixels, in two passes over the images held out and fixed memory
  (``nets/state/quantiles.py``). Held out are 10 % of each category's images, which the run's seed draws; a data set's
  own validation images, which upstream takes where there are some, are not asked for.
- By default the border of maps repeats their edge. Upstream fills it with zeros (``border=zeros``, as
  ``recipe=official`` has it), the level of the 90 % quantile. In a model of all categories that is the quantile of all
  of them: maps of a quiet category are below it everywhere, and with zeros all its images would have the same score.
- anomalib takes the quantiles after the map's border was filled with zeros and everything was enlarged; upstream
  before, as here. anomalib's rate never decays, as its schedule steps once an epoch.
- What the teacher gives for training images can be remembered (``trainer.cache_features``), not for the changed ones.
- Under bf16 the student and the autoencoder train in it; the teacher, and all that is evaluated, stay in float32.
- Other sizes than 256: the autoencoder's grids are anomalib's; below 256 pixels its 8x8 bottleneck is as small as its
  input, where both codes fail.
- A distilled teacher's batches have at most as many photographs as there are training images, of which each calls for
  one; the targets' mean and deviation are of ``distillation.draws`` for each, upstream's of 10,000.

Shapes in names: B images, K photographs, C channels, H height, W width, M maps (student, autoencoder), Q quantiles, N
values.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ader.config.ranges import Channels, LearningRate, Many, Rate
from ader.data.image import planes
from ader.methods._base import (
    Array,
    Batch,
    Count,
    FitPass,
    Method,
    NonNegative,
    Optimize,
    Prediction,
    Probability,
    Share,
    Stage,
    Tags,
    TrainStage,
)
from ader.methods._distillation import Distillation, Teacher, channel_moments, joined_moments, pixels, standardized
from ader.methods._pdn import Autoencoder, Patches, Student
from ader.nets.backbone import BackboneOptions
from ader.nets.optim.schedules import step_at
from ader.nets.scoring.maps import full, full_precision, upsample
from ader.nets.state.quantiles import StreamedQuantiles
from ader.nets.state.rows import Rows
from ader.nets.synthesis.draws import integers, uniform_between
from ader.nets.synthesis.photos import Photos
from ader.system import dist
from ader.system.errors import UserError

#: The split of the images that maps are normalized by.
CALIBRATION = "calibration"


class EfficientAD(Method):
    """A student restores a teacher's features on normal images; an autoencoder does, and the student restores its own.

    Args:
        image_size: pixels; a multiple of 32, from 64 on.
        batch_size: images per step.
        epochs: sweeps over the training images.
        steps: training steps in place of epochs.
        lr: Adam's learning rate.
        weight_decay: Adam's.
        lr_decay_at: share of the training after which the learning rate is multiplied by 0.1.
        network: the patch description network, S or M of the paper.
        width: channels of its first layer; the others have twice as many.
        features: channels of the teacher's output; even.
        padding: whether its convolutions are padded. Without, maps are 8 pixels narrower than a quarter of the image,
            and are filled up.
        border: with what: their outermost pixels (``edge``), or zeros (upstream), the level of ``quantiles[0]``, which
            are then the image score where a whole map is below that level.
        autoencoder_width: channels of the autoencoder; even.
        dropout: of the autoencoder.
        hard_quantile: features with errors from this quantile on train the student.
        jitter: brightness, contrast or saturation of the autoencoder's images changes by up to this share.
        quantiles: of held-out maps, which normalization takes to 0 and 0.1.
        calibration_share: of each category's normal images, which are held out for them.
        images: folder of photographs for the penalty and for a teacher that no file has; None: there are none.
        penalty: whether the student is to give zeros on photographs.
        penalty_grayscale: probability that one of those loses its colors.
        teacher: the file ``<name>.pth`` or ``<name>.safetensors`` in the folder of weights, if there is one.
            ``pretrained`` False does not look for it.
        distillation: how the teacher is made otherwise.
        backbone: whose features it then learns.

    Raises:
        UserError: a size that does not suit, or a file that does not hold this teacher.
    """

    feature_mean: Tensor
    feature_std: Tensor
    tags: ClassVar[Tags] = Tags(
        paper="Batzner et al., WACV 2024",
        reference="nelson1425/EfficientAD at fcab514, openvinotoolkit/anomalib at 161bb36",
    )

    def __init__(
        self,
        image_size: Count = 256,
        batch_size: Count = 8,
        epochs: Count = 100,
        steps: Many | None = None,
        lr: LearningRate = 1e-4,
        weight_decay: NonNegative = 1e-5,
        lr_decay_at: Share = 0.95,
        network: Literal["small", "medium"] = "small",
        width: Channels = 128,
        features: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 384,
        padding: bool = False,
        border: Literal["edge", "zeros"] = "edge",
        autoencoder_width: Annotated[int, Field(ge=2, le=512, multiple_of=2)] = 64,
        dropout: Rate = 0.2,
        hard_quantile: Rate = 0.999,
        jitter: Rate = 0.2,
        quantiles: tuple[Rate, Share] = (0.9, 0.995),
        calibration_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1,
        images: str | None = None,
        penalty: bool = True,
        penalty_grayscale: Probability = 0.3,
        teacher: BackboneOptions = BackboneOptions("teacher_small"),  # noqa: B008 (frozen)
        distillation: Distillation = Distillation(),  # noqa: B008 (frozen)
        backbone: BackboneOptions = BackboneOptions("wide_resnet101_2.tv_in1k"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        if image_size % 32 or image_size < 64:
            raise UserError(f"image_size={image_size} does not suit efficientad: give a multiple of 32, from 64 on")
        if quantiles[0] >= quantiles[1]:
            raise UserError(f"method.quantiles={list(quantiles)}: give the lower one first, and not twice the same")
        self.image_size, self.batch_size, self.epochs, self.steps = image_size, batch_size, epochs, steps
        self.lr, self.weight_decay, self.lr_decay_at = lr, weight_decay, lr_decay_at
        self.padding, self.border, self.hard_quantile, self.jitter = padding, border, hard_quantile, jitter
        self.calibration_share, self.penalty_grayscale = calibration_share, penalty_grayscale
        self.photos = Photos(images, "method.images") if images else None
        self.penalty = penalty and self.photos is not None
        patches = Patches(network, width, features, padding)
        self.teacher = Teacher(patches, teacher, distillation, backbone, self.photos)
        self.student = Student(network, width, 2 * features, padding)
        self.autoencoder = Autoencoder(image_size, autoencoder_width, features, patches.grid(image_size), dropout)
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_std", torch.ones(features))
        self.quantiles = StreamedQuantiles(2, quantiles)
        self.rows = Rows()

    @classmethod
    def backbones(cls, arguments: Mapping[str, Any]) -> list[BackboneOptions]:
        """That of a teacher which has to be distilled."""
        given = {**_defaults(cls), **arguments}
        return [given["backbone"]] if given["images"] and given["teacher"].local_file() is None else []

    @classmethod
    def files(cls, arguments: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
        """The teacher's weights or else its backbone's, and the photographs."""
        given, found = {**_defaults(cls), **arguments}, super().files(arguments)
        if (file := given["teacher"].local_file()) is not None:
            found["weights"] = {file.name: file}
        if given["images"] and (given["penalty"] or file is None):
            found["images"] = dict(Photos(given["images"], "method.images").files)
        return found

    def warnings(self) -> list[str]:
        without = "no penalty on images of another kind (no folder of images, or switched off)"
        return [*super().warnings(), *([] if self.penalty else [without])]

    def weights(self) -> list[dict[str, Any]]:
        read = self.photos is not None and (self.penalty or self.teacher.distilled)
        photos = [self.photos.provenance()] if self.photos is not None and read else []
        return [*super().weights(), *self.teacher.weights(), *photos]

    @property
    def holdout(self) -> Mapping[str, float]:
        return {CALIBRATION: self.calibration_share}

    def stages(self) -> Iterator[Stage]:
        yield from self.teacher.stages()
        self.rows.clear()
        yield FitPass(name="statistics", batch_size=self.batch_size, update=self._collect, finish=self._conclude)
        trained = [self.student, self.autoencoder]
        weights = [weight for part in trained for weight in part.parameters()]
        yield TrainStage(
            name="learn",
            batch_size=self.batch_size,
            step=self._step,
            optimizers={"adam": torch.optim.Adam(weights, lr=self.lr, weight_decay=self.weight_decay)},
            modules=trained,
            epochs=None if self.steps else self.epochs,
            steps=self.steps,
            schedules={"adam": step_at(self.lr_decay_at)},
            augment=partial(penalty_view, self.photos, self.image_size, self.penalty_grayscale)
            if self.photos and self.penalty
            else None,
        )
        common: dict[str, Any] = {"batch_size": self.batch_size, "split": CALIBRATION}
        self.quantiles.begin()
        yield FitPass(name="calibrate", update=self._counting(1), finish=self.quantiles.conclude_upper, **common)
        self.quantiles.begin()
        yield FitPass(name="refine", update=self._counting(2), finish=self.quantiles.conclude_lower, **common)

    def _collect(self, batch: Batch) -> None:
        self.rows.add(channel_moments(self.teacher(batch.image_BCHW)))

    def _conclude(self) -> None:
        mean_C, std_C = joined_moments(self.rows.gathered())
        self.feature_mean.copy_(mean_C)
        self.feature_std.copy_(std_C)
        self.rows.clear()

    def _step(self, batch: Batch, optimize: Optimize) -> Mapping[str, Tensor]:
        """Hard features, penalty, and the two losses of the autoencoder (sections 3.2 and 3.3 of the paper)."""
        image_BCHW, count = batch.image_BCHW, len(batch.image_BCHW)
        other_BCHW = jittered(image_BCHW, batch.seed_B, self.jitter)
        seen = [image_BCHW, *([pixels(batch, "photo")] if self.penalty else [])]
        teacher_BCHW, teacher_other_BCHW = self._described(image_BCHW), self._described(other_BCHW)
        other_BCHW = self.teacher.normalized(other_BCHW)
        student_BCHW, own_BCHW = self.student(self.teacher.normalized(torch.cat(seen)), other_BCHW)
        student_BCHW, own_BCHW = full(student_BCHW), full(own_BCHW)
        restored_BCHW = full(self.autoencoder(other_BCHW))
        error_BCHW = (teacher_BCHW - student_BCHW[:count]).square()
        losses = {
            "hard": hard_mean(error_BCHW, self.hard_quantile, batch),
            "autoencoder": (teacher_other_BCHW - restored_BCHW).square().mean(),
            "student": (restored_BCHW - own_BCHW).square().mean(),
        }
        if self.penalty:
            losses["penalty"] = student_BCHW[count:].square().mean()
        optimize(torch.stack(list(losses.values())).sum())
        return losses

    def _counting(self, number: int) -> Any:
        """Takes a batch's maps in the first or second pass."""
        count = self.quantiles.count_upper if number == 1 else self.quantiles.count_lower
        return lambda batch: count(self._errors(batch.image_BCHW).flatten(2).transpose(0, 1).flatten(1))

    def _described(self, image_BCHW: Tensor) -> Tensor:
        """The teacher's features, of mean 0 and deviation 1 in each channel over the training images."""
        return standardized(self.teacher(image_BCHW), self.feature_mean, self.feature_std)

    def _errors(self, image_BCHW: Tensor) -> Tensor:
        """Mean squared errors (B, 2, H, W): of the student, and of the autoencoder against the student.

        In float32 under autocast, too: they are divided by the spread of what two networks differ by, which can be a
        hundredth of the values; in training only the teacher is.
        """
        if image_BCHW.shape[2:] != (self.image_size, self.image_size):
            height, width = image_BCHW.shape[2:]
            raise UserError(
                f"efficientad was built for image_size={self.image_size} and cannot take images of {height}x{width} "
                "pixels"
            )
        normalized_BCHW = self.teacher.normalized(image_BCHW)
        with full_precision(image_BCHW.device):
            student_BCHW, own_BCHW = self.student(normalized_BCHW)
            pairs = (self._described(image_BCHW), student_BCHW), (self.autoencoder(normalized_BCHW), own_BCHW)
            return torch.stack([(one - other).square().mean(dim=1) for one, other in pairs], dim=1)

    def predict(self, image_BCHW: Tensor) -> Prediction:
        low_M11, high_M11 = self.quantiles.value_MQ[:, :, None, None].unbind(1)
        range_M11 = (high_M11 - low_M11).clamp(min=torch.finfo(torch.float32).tiny)
        map_BHW = (0.1 * (self._errors(image_BCHW) - low_M11) / range_M11).mean(dim=1)
        if not self.padding:
            width = (self.image_size // 4 - map_BHW.shape[1]) // 2
            map_BHW = F.pad(map_BHW, [width] * 4, mode="replicate" if self.border == "edge" else "constant")
        map_BHW = upsample(map_BHW, image_BCHW.shape[2:], align_corners=False)
        return Prediction(map_BHW.amax(dim=(1, 2)), map_BHW)


def hard_mean(error_BCHW: Tensor, share: float, batch: Batch) -> Tensor:
    """Mean of the errors that are at least their ``share`` quantile, both over all images of the step (equation 1).

    Every process sends the errors that may be above the quantile, 0.1 % of them with the paper's; what comes out is for
    a mean over processes weighted by their shares.
    """
    error_N = error_BCHW.flatten()
    total = len(error_N) // len(error_BCHW) * (batch.total or len(error_BCHW))
    place = share * (total - 1)
    rank = int(place)
    most = total - rank  # of the values from that rank on, the highest
    own = error_N.detach().topk(min(most, len(error_N)), sorted=False).values
    highest = dist.gather_rows(own).topk(most).values
    limit = torch.lerp(highest[-1], highest[max(0, most - 2)], place - rank)
    hard_N = error_N >= limit
    count = dist.gather_rows(hard_N.sum()[None], [1] * dist.world()).sum()
    return torch.where(hard_N, error_N, 0.0).sum() / count / batch.share


def jittered(image_BCHW: Tensor, seed_B: Tensor, strength: float) -> Tensor:
    """Brightness, contrast or saturation of each image, one of them, times 1 - ``strength`` to 1 + ``strength``."""
    kind_B111 = integers(seed_B, "jitter/kind", 3, 1, 1, 1).to(image_BCHW.device, non_blocking=True)
    factor_B111 = uniform_between(seed_B, "jitter/factor", 1 - strength, 1 + strength, 1, 1, 1).to(image_BCHW)
    red, green, blue = image_BCHW[:, :1], image_BCHW[:, 1:2], image_BCHW[:, 2:]
    gray_B1HW = 0.2989 * red + 0.587 * green + 0.114 * blue  # as torchvision
    average_B111 = gray_B1HW.mean(dim=(2, 3), keepdim=True)
    from_B1HW = torch.where(kind_B111 == 1, average_B111, gray_B1HW * (kind_B111 == 2))
    return torch.lerp(from_B1HW, image_BCHW, factor_B111).clamp(0, 1)


def penalty_view(
    photos: Photos, size: int, grayscale: float, image: Array, rng: np.random.Generator
) -> dict[str, Array]:
    """The middle quarter of a photograph of twice the size."""
    start = size // 2
    photo = planes(photos.draw(rng, grayscale), 2 * size)
    return {"photo": photo[:, start : start + size, start : start + size]}


def _defaults(method_class: type[Method]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(method_class).parameters.items()}
