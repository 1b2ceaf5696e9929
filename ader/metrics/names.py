"""The names of all metrics, in the order of the tables. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ader.system.errors import UserError, suggest

PROFILES = ("histogram", "exact", "ader")


@dataclass(frozen=True)
class Metric:
    """What a table needs to know about one metric.

    ``slug`` is the column name, ``heading`` the short form for printed tables; ``components`` are the slugs
    that an average is the mean of, empty for the others. Values are fractions in [0, 1].
    """

    slug: str
    heading: str
    group: Literal["image", "object", "pixel", "average"]
    description: str
    higher_is_better: bool = True
    components: tuple[str, ...] = ()


_IMAGE = (
    Metric("image_auroc", "I-AUROC", "image", "area under the ROC curve of the image scores, ties as half"),
    Metric("image_ap", "I-AP", "image", "average precision of the image scores, step-wise"),
    Metric("image_f1max", "I-F1max", "image", "largest F1 of the image scores over all thresholds"),
    Metric(
        "image_fpr95",
        "I-FPR95",
        "image",
        "share of good images at or above the 5 % quantile of the defective scores (lower is better)",
        higher_is_better=False,
    ),
    Metric("image_pg2", "I-PG2", "image", "share of good images below the 2 % quantile of defective scores"),
    Metric("image_pb2", "I-PB2", "image", "share of defective images above the 98 % quantile of good scores"),
)

_OBJECT = (
    Metric("object_auroc", "O-AUROC", "object", "image_auroc over objects: the largest score of an object's views"),
    Metric("object_ap", "O-AP", "object", "image_ap over objects"),
    Metric("object_f1max", "O-F1max", "object", "image_f1max over objects"),
)

_PIXEL = (
    Metric("pixel_auroc", "P-AUROC", "pixel", "area under the ROC curve of all pixels, ties as half"),
    Metric("pixel_ap", "P-AP", "pixel", "average precision of all pixels, step-wise"),
    Metric("pixel_f1max", "P-F1max", "pixel", "largest F1 of all pixels over all thresholds"),
    Metric(
        "pixel_aupro",
        "P-AUPRO",
        "pixel",
        "area under the per-region overlap up to FPR 0.3",
    ),
    Metric("pixel_ioumax", "P-IoUmax", "pixel", "largest intersection over union over all thresholds"),
    Metric("pixel_f1_02_08", "P-F1 .2-.8", "pixel", "mean F1 at 0.2, 0.3, ... 0.8 of the score range"),
    Metric(
        "pixel_acc_02_08",
        "P-Acc .2-.8",
        "pixel",
        "mean recall at 0.2, 0.3, ... 0.8 of the score range",
    ),
    Metric(
        "pixel_iou_02_08",
        "P-IoU .2-.8",
        "pixel",
        "mean IoU at 0.2, 0.3, ... 0.8 of the score range",
    ),
)

_IMAGE_3 = ("image_auroc", "image_ap", "image_f1max")
_PIXEL_3 = ("pixel_auroc", "pixel_ap", "pixel_f1max")
_AVERAGE = (
    Metric(
        "mad",
        "mAD",
        "average",
        "mean of image and pixel AUROC, AP and F1max, and of AUPRO",
        components=(*_IMAGE_3, *_PIXEL_3, "pixel_aupro"),
    ),
    Metric("mad_image", "mAD-I", "average", "mean of image AUROC, AP and F1max", components=_IMAGE_3),
    Metric("mad_pixel", "mAD-P", "average", "mean of pixel AUROC, AP and F1max", components=_PIXEL_3),
    Metric(
        "mad_02_08",
        "mAD .2-.8",
        "average",
        "mean of F1, recall and IoU at 0.2, 0.3, ... 0.8 of the score range",
        components=("pixel_f1_02_08", "pixel_acc_02_08", "pixel_iou_02_08"),
    ),
)

METRICS: tuple[Metric, ...] = (*_IMAGE, *_OBJECT, *_PIXEL, *_AVERAGE)
SLUGS: tuple[str, ...] = tuple(each.slug for each in METRICS)
IMAGE_METRICS: tuple[str, ...] = tuple(each.slug for each in _IMAGE)
OBJECT_METRICS: tuple[str, ...] = tuple(each.slug for each in _OBJECT)
PIXEL_METRICS: tuple[str, ...] = tuple(each.slug for each in _PIXEL)
AVERAGES: dict[str, tuple[str, ...]] = {each.slug: each.components for each in _AVERAGE}


def metric(slug: str) -> Metric:
    """The metric of that slug.

    Raises:
        UserError: there is none; the message names the near ones.
    """
    for each in METRICS:
        if each.slug == slug:
            return each
    raise UserError(f"metric {slug!r} does not exist: {suggest(slug, SLUGS)}")


def check_profile(profile: str) -> str:
    """Returns ``profile`` if there is one of that name.

    Raises:
        UserError: there is none; the message names the near ones.
    """
    if profile not in PROFILES:
        raise UserError(f"metric profile {profile!r} does not exist: {suggest(profile, PROFILES)}")
    return profile
