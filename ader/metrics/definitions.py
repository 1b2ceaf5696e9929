"""Every metric, once: what it is called, how it is computed, what chance reaches, where it stands in the tables.

To add a metric, add an entry to `METRICS`: the evaluator, all kinds of evaluation, the row ``chance``, the printed
tables and ``ader list metrics`` follow. Imports nothing heavy.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from ader.system.errors import UserError, suggest

if TYPE_CHECKING:
    from ader.metrics.curves import Bins, Certified
    from ader.metrics.published import PublishedCounts

Group = Literal["image", "object", "pixel", "average"]

#: The kinds of evaluation: what ``metric=`` may be, see `Evaluator`.
KINDS = ("histogram", "exact", "ader", "invad")

#: The kinds that are those of published tables, each with whose definitions they are.
PUBLISHED = {"ader": "ADer", "invad": "InvAD"}

#: Of a metric whose published definition is its own.
SAME: Final = "same"

#: Rows of tables that are no categories, so that no category can be called so.
RESERVED = ("mean", "chance")


@dataclass(frozen=True)
class Deferred:
    """A function of this package, imported when it is first called.

    So an entry names the code that computes it, and listing the entries imports neither NumPy nor SciPy nor torch.

    Args:
        name: ``module:function``, below ``ader.metrics``.
    """

    name: str

    def __call__(self, *arguments: Any) -> Any:
        return pkgutil.resolve_name(f"ader.metrics.{self.name}")(*arguments)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric; values are fractions in [0, 1].

    Args:
        slug: column of `Evaluator.compute` and of ``metrics.csv``.
        group: what is counted: images, objects (views of one thing), pixels; or an average of other metrics.
        description: one line, for ``ader list metrics``.
        table: the printed table that has it.
        column: heading there: one that spans its neighbors, and its own, of 6 characters at most.
        value: from counts of images, objects or pixels, both kinds present, to a value with its certified range;
            NaN where ``why_nan`` holds. None for an average.
        by_score: ``value`` asks where scores lie, not only for their order. Others get fewer bins to look at.
        why_nan: why ``value`` may be NaN.
        published: a pixel metric as published tables have it, by the kind of evaluation (`PUBLISHED`): a function of
            their counts, or `SAME`. A kind that is missing does not define it. Image and object metrics are the same
            in all kinds.
        chance: what random scores reach in expectation: a number, or a function of the share of defective images or
            pixels; None where it is unknown, for averages the mean of their components'.
        per_defect: a column of the table with a row per kind of defect.
        higher_is_better: False where 0 is the best value.
        components: slugs of which an average is the mean; empty for the others.

    Raises:
        ValueError: neither or both of ``value`` and ``components`` are given, or ``published`` has an unknown kind.
    """

    slug: str
    group: Group
    description: str
    table: Literal["main", "more", "object"]
    column: tuple[str, str]
    value: Callable[[Bins], Certified] | None = None
    by_score: bool = False
    why_nan: str = "not defined for these scores"
    published: Mapping[str, Callable[[PublishedCounts], float] | Literal["same"]] = field(default_factory=dict)
    chance: float | Callable[[float], float] | None = None
    per_defect: bool = False
    higher_is_better: bool = True
    components: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.components):
            raise ValueError(f"{self.slug}: expected a value or components to take the mean of, and not both")
        if unknown := sorted(set(self.published) - set(PUBLISHED)):
            raise ValueError(f"{self.slug}: published as {unknown[0]!r}: {suggest(unknown[0], PUBLISHED)}")

    @property
    def heading(self) -> str:
        """Where it stands alone: both of the table's, such as ``pixel AUROC``."""
        return " ".join(filter(None, self.column))


def prevalence(share: float) -> float:
    """Precision of random scores at any threshold, and IoU of calling everything defective: the share itself."""
    return share


def f1_of_all(share: float) -> float:
    """F1 of calling everything defective, the best that random scores can do."""
    return 2 * share / (1 + share)


def _in_both(name: str) -> dict[str, Callable[[PublishedCounts], float]]:
    """A function that both kinds of published tables use."""
    return dict.fromkeys(PUBLISHED, Deferred(name))


_NO_RANGE = "infinite scores: no range to take 0.2 to 0.8 of"
_IMAGE_3 = ("image_auroc", "image_ap", "image_f1max")
_PIXEL_3 = ("pixel_auroc", "pixel_ap", "pixel_f1max")

#: All metrics, in the order of the tables.
METRICS: tuple[Metric, ...] = (
    Metric(
        slug="image_auroc",
        group="image",
        description="area under the ROC curve of the image scores, ties as half",
        table="main",
        column=("image", "AUROC"),
        value=Deferred("curves:auroc"),
        chance=0.5,
        per_defect=True,
    ),
    Metric(
        slug="image_ap",
        group="image",
        description="average precision of the image scores, step-wise",
        table="main",
        column=("image", "AP"),
        value=Deferred("curves:average_precision"),
        chance=prevalence,
    ),
    Metric(
        slug="image_f1max",
        group="image",
        description="largest F1 of the image scores over all thresholds",
        table="main",
        column=("image", "F1max"),
        value=Deferred("curves:f1_max"),
        chance=f1_of_all,
    ),
    Metric(
        slug="image_fpr95",
        group="image",
        description="share of good images at or above the 5 % quantile of the defective scores (lower is better)",
        table="more",
        column=("image", "FPR95"),
        value=Deferred("curves:fpr_at_95_tpr"),
        by_score=True,
        chance=0.95,
        higher_is_better=False,
    ),
    Metric(
        slug="image_pg2",
        group="image",
        description="share of good images below the 2 % quantile of defective scores",
        table="more",
        column=("image", "PG2"),
        value=Deferred("curves:presorted_good"),
        by_score=True,
        chance=0.02,
    ),
    Metric(
        slug="image_pb2",
        group="image",
        description="share of defective images above the 98 % quantile of good scores",
        table="more",
        column=("image", "PB2"),
        value=Deferred("curves:presorted_bad"),
        by_score=True,
        chance=0.02,
    ),
    # What the evaluator counts does not say how many objects are defective, so their chance levels are unknown.
    Metric(
        slug="object_auroc",
        group="object",
        description="image_auroc over objects: the largest score of an object's views",
        table="object",
        column=("object", "AUROC"),
        value=Deferred("curves:auroc"),
    ),
    Metric(
        slug="object_ap",
        group="object",
        description="image_ap over objects",
        table="object",
        column=("object", "AP"),
        value=Deferred("curves:average_precision"),
    ),
    Metric(
        slug="object_f1max",
        group="object",
        description="image_f1max over objects",
        table="object",
        column=("object", "F1max"),
        value=Deferred("curves:f1_max"),
    ),
    Metric(
        slug="pixel_auroc",
        group="pixel",
        description="area under the ROC curve of all pixels, ties as half",
        table="main",
        column=("pixel", "AUROC"),
        value=Deferred("curves:auroc"),
        published={"ader": Deferred("published:auroc"), "invad": SAME},
        chance=0.5,
        per_defect=True,
    ),
    Metric(
        slug="pixel_ap",
        group="pixel",
        description="average precision of all pixels, step-wise",
        table="main",
        column=("pixel", "AP"),
        value=Deferred("curves:average_precision"),
        published={"ader": Deferred("published:average_precision"), "invad": SAME},
        chance=prevalence,
        per_defect=True,
    ),
    Metric(
        slug="pixel_f1max",
        group="pixel",
        description="largest F1 of all pixels over all thresholds",
        table="main",
        column=("pixel", "F1max"),
        value=Deferred("curves:f1_max"),
        published=_in_both("published:f1_max"),
        chance=f1_of_all,
    ),
    Metric(
        slug="pixel_aupro",
        group="pixel",
        description="area under the per-region overlap up to FPR 0.3",
        table="main",
        column=("pixel", "AUPRO"),
        value=Deferred("curves:aupro"),
        published={"ader": Deferred("published:aupro"), "invad": Deferred("published:aupro_of_steps")},
        chance=0.15,  # random scores overlap a region as often as they raise a false alarm: PRO = FPR, up to 0.3
        per_defect=True,
    ),
    Metric(
        slug="pixel_ioumax",
        group="pixel",
        description="largest intersection over union over all thresholds",
        table="more",
        column=("pixel", "IoUmax"),
        value=Deferred("curves:iou_max"),
        published=_in_both("published:iou_max"),
        chance=prevalence,
    ),
    # At 0.2 to 0.8 of the range, chance depends on how random scores are distributed over it.
    Metric(
        slug="pixel_f1_02_08",
        group="pixel",
        description="mean F1 at 0.2, 0.3, ... 0.8 of the score range",
        table="more",
        column=("pixel .2-.8", "F1"),
        value=Deferred("curves:range_f1"),
        by_score=True,
        why_nan=_NO_RANGE,
        published=_in_both("published:range_f1"),
    ),
    Metric(
        slug="pixel_acc_02_08",
        group="pixel",
        description="mean recall at 0.2, 0.3, ... 0.8 of the score range",
        table="more",
        column=("pixel .2-.8", "Acc"),
        value=Deferred("curves:range_recall"),
        by_score=True,
        why_nan=_NO_RANGE,
        published=_in_both("published:range_recall"),
    ),
    Metric(
        slug="pixel_iou_02_08",
        group="pixel",
        description="mean IoU at 0.2, 0.3, ... 0.8 of the score range",
        table="more",
        column=("pixel .2-.8", "IoU"),
        value=Deferred("curves:range_iou"),
        by_score=True,
        why_nan=_NO_RANGE,
        published=_in_both("published:range_iou"),
    ),
    Metric(
        slug="mad",
        group="average",
        description="mean of image and pixel AUROC, AP and F1max, and of AUPRO",
        table="main",
        column=("", "mAD"),
        components=(*_IMAGE_3, *_PIXEL_3, "pixel_aupro"),
    ),
    Metric(
        slug="mad_image",
        group="average",
        description="mean of image AUROC, AP and F1max",
        table="more",
        column=("mAD", "image"),
        components=_IMAGE_3,
    ),
    Metric(
        slug="mad_pixel",
        group="average",
        description="mean of pixel AUROC, AP and F1max",
        table="more",
        column=("mAD", "pixel"),
        components=_PIXEL_3,
    ),
    Metric(
        slug="mad_02_08",
        group="average",
        description="mean of F1, recall and IoU at 0.2, 0.3, ... 0.8 of the score range",
        table="more",
        column=("mAD", ".2-.8"),
        components=("pixel_f1_02_08", "pixel_acc_02_08", "pixel_iou_02_08"),
    ),
)


def in_group(group: Group) -> tuple[Metric, ...]:
    """The metrics of a group, in the order of the tables."""
    return tuple(each for each in METRICS if each.group == group)


SLUGS: tuple[str, ...] = tuple(each.slug for each in METRICS)
IMAGE_METRICS: tuple[str, ...] = tuple(each.slug for each in in_group("image"))
OBJECT_METRICS: tuple[str, ...] = tuple(each.slug for each in in_group("object"))
PIXEL_METRICS: tuple[str, ...] = tuple(each.slug for each in in_group("pixel"))
AVERAGES: dict[str, tuple[str, ...]] = {each.slug: each.components for each in in_group("average")}


def find_metric(slug: str) -> Metric:
    """The metric of that slug.

    Raises:
        UserError: there is none; the message names the near ones.
    """
    for each in METRICS:
        if each.slug == slug:
            return each
    raise UserError(f"metric {slug!r} does not exist: {suggest(slug, SLUGS)}")


def reserved(names: Iterable[str]) -> list[str]:
    """Which of some categories' names are those of a table's other rows (`RESERVED`), however they are written."""
    return [name for name in names if name.casefold() in RESERVED]


def check_kind(metric: str) -> str:
    """Returns ``metric`` if there is a kind of evaluation of that name.

    Raises:
        UserError: there is none; the message names the near ones.
    """
    if metric not in KINDS:
        raise UserError(f"metric={metric} does not exist: {suggest(metric, KINDS)}")
    return metric
