"""SegAD: a boosted random forest on statistics of detectors' anomaly maps inside segments of the image.

Paper: Baitieva et al., "Supervised Anomaly Detection for Complex Industrial Images", CVPR 2024.
Upstream: abc-125/segad at b946ee3 (MIT); only the part for one of the paper's three datasets is published, and neither
the detectors' training, nor the segment maps of the paper's own dataset, nor the generated defects.
The default recipe is the released code's, whose table of results is the paper's. ``recipe=paper`` leaves out what the
paper does not mention (``map_maximum``, ``forest.balance``); ``recipe=rf``, ``recipe=bt`` and ``recipe=max`` (the
maximum of each segment in place of four statistics) are the paper's ablations.

The paper's detectors are anomalib's (``options: {rd: {recipe: anomalib}, patchcore: {recipe: anomalib, coreset:
0.01}}`` and 200 epochs): SegAD's experiments and `scripts/protocols.py` have them, while a detector without options is
as ADer has it. The paper also has FastFlow and EfficientAD (``fastflow`` and ``efficientad_m``, each with its recipe
``segad``), which the default leaves out: its rows "All AD" are of more detectors. It has 2 to 8 segments in every
image. Their maps are published for VisA alone; without ``segments`` there is a single one, the paper's ablation "one
segment" (VAD high-shot: 88.6 in place of 90.1), and results say so.

`python -m parity segad` compares with upstream; differences, parameters and operations: `results/bench/methods.md`.
Parameters and operations are the detectors'.

Differences from upstream:
- All runs in one: detectors are trained on their share of the normal images and then looked at by the forest's pass.
  That no detector saw what the forest learns from is asserted, of finished runs by their list of training images.
  (Upstream's EfficientAD normalizes its maps by quantiles of the forest's normal images; here that is a hold-out of
  the detector's own.)
- Skewness and kurtosis of a constant segment are 0; SciPy has NaN, which XGBoost takes as missing.
- Statistics are computed in float64 for all images, maps and pixels of a segment at once.
- XGBoost's own interface in place of its estimator (which needs scikit-learn), one thread, the histogram method (the
  default of both versions); the seed is drawn from the run's, where upstream uses it as it is.
- The images that are the forest's are drawn by the setting: with ``splitter=scikit-learn`` (SegAD's settings for VisA
  and MVTec AD) as upstream draws them from images in the order of their names. Upstream's own order is that of a table
  which is published with its maps. VAD's five seeds are not published: its halves are draws of our own.
- Generated defects are of our own making, as the paper describes them; their ranges are arguments.

Shapes in names: B images, K detectors, L segments, H height, W width, N images of the forest, F features, R features
of whole images, S statistics.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ader.data.index import Index
from ader.data.labelmaps import MOST, LabelMaps, read_label_map, resized
from ader.methods._base import Batch, Count, FitPass, Method, Prediction, Share, Stage, Tags
from ader.methods._ensemble import Ensemble, finished_part, new_part, part_arguments
from ader.methods._options import option_class
from ader.nets.backbone import BackboneOptions
from ader.nets.scoring.maps import full
from ader.nets.scoring.segments import STATISTICS, Segments, segment_statistics
from ader.nets.state.forest import BoostedForest, ForestOptions
from ader.nets.state.late_tensor import LateTensor
from ader.nets.state.rows import Rows
from ader.nets.synthesis.blemishes import BlemishOptions, blemished
from ader.settings import FOREST
from ader.system.errors import UserError

#: Rows and columns of a grid of segments.
GRID = re.compile(r"(\d+)x(\d+)")

#: The declared input: each image's own label map. ``predict`` has an argument of this name.
LABELS = "segments"


class SegAD(Ensemble):
    """Detectors that learn from normal images, and a forest that learns from image labels what their maps mean.

    Args:
        detectors: methods with anomaly maps that learn from normal images alone, by name. Each has its own recipe,
            but for
        options: arguments of single detectors (or of the classifier): ``{rd: {lr: 0.001}}``; among them ``recipe``, one
            of the detector's own.
        runs: folders of finished runs whose models are taken in place of training: ``{rd: results/.../run}``.
        classifier: a method that learns from image labels, whose score is one more feature (``wrn_classifier``).
        classifier_share: of the forest's and the detectors' images, that the classifier learns from.
        segments: None: the image is one segment. ``"3x2"``: a grid of three rows and two columns of segments. A file:
            the label map of all images. A folder: a label map for every image (``ader.data.labelmaps``).
        statistics: of each map in each segment; the forest's features, in this order.
        quantile: which one; 1 is the maximum.
        map_maximum: the maximum of every whole map is a feature, too.
        forest: XGBoost's parameters.
        generated: defects that are made where the forest has none to learn from; None: make none.
        batch_size: images per step of the forest's pass; no effect on the result.
        epochs: of every detector that has such an argument, and of the classifier.
        backbone: weights of all backbones, and with a name the network itself. ``""`` leaves each its own.
        image_size: pixels.
    """

    label_1HW: Tensor
    tags: ClassVar[Tags] = Tags(
        maps=False, supervision="image", paper="Baitieva et al., CVPR 2024", reference="abc-125/segad at b946ee3"
    )

    def __init__(
        self,
        detectors: tuple[str, ...] = ("rd", "patchcore"),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        runs: Mapping[str, str] | None = None,
        classifier: str | None = None,
        classifier_share: Share = 0.8,
        segments: str | None = None,
        statistics: tuple[Literal["quantile", "skewness", "kurtosis", "mean"], ...] = STATISTICS,
        quantile: Share = 0.995,
        map_maximum: bool = True,
        forest: ForestOptions = ForestOptions(),  # noqa: B008 (frozen)
        generated: BlemishOptions | None = BlemishOptions(),  # noqa: B008 (frozen)
        batch_size: Count = 8,
        epochs: Count = 100,
        backbone: BackboneOptions = BackboneOptions(""),  # noqa: B008 (frozen)
        image_size: Count = 256,
    ) -> None:
        super().__init__()
        options, runs = options or {}, runs or {}
        check_names(detectors, options, runs, classifier)
        if not statistics or len(set(statistics)) < len(statistics):
            raise UserError(
                f"method.statistics={list(statistics)}: name one or more of {', '.join(STATISTICS)}, each once"
            )
        self.statistics = [STATISTICS.index(name) for name in statistics]
        self.quantile, self.map_maximum, self.generated = quantile, map_maximum, generated
        self.warning = "one segment for the whole image; the paper has 2 to 8" if segments is None else None
        self.batch_size = batch_size
        common = {"epochs": epochs, "backbone": backbone, "image_size": image_size}
        self.finished = {name: finished_part(name, runs[name], image_size) for name in runs}
        self.detectors = nn.ModuleDict()
        for name in detectors:
            own = options.get(name, {})
            self.detectors[name] = self.finished[name].restore() if name in runs else new_part(name, own, **common)
        self.classifier: Method | None = None
        self.classifier_name = classifier
        if classifier is not None:
            own = {"share": classifier_share, **options.get(classifier, {})}
            self.classifier = new_part(classifier, own, **common)
        self.per_image, label_HW = segment_source(segments, image_size)
        self.register_buffer("label_1HW", label_HW[None])  # saved: a forest needs the segments that it was grown with
        self._common: tuple[object, Segments] | None = None
        self.table = LateTensor()
        self.forest = BoostedForest(forest)
        self.rows = Rows()

    @classmethod
    def arguments_for(cls, arguments: Mapping[str, Any], training: Index, data_hash: str) -> Mapping[str, Any]:
        """As configured, but that ``runs`` name the models for these categories.

        Raises:
            UserError: nothing is set apart for the forest, it cannot learn from what is, or the detectors saw it.
        """
        given = {name: value.default for name, value in inspect.signature(cls).parameters.items()} | dict(arguments)
        options, runs = given["options"] or {}, given["runs"] or {}
        check_names(given["detectors"], options, runs, given["classifier"])
        common = {name: given[name] for name in ("epochs", "backbone", "image_size")}
        for name in (*given["detectors"], given["classifier"]):
            if name is not None and name not in runs:
                part_arguments(name, options.get(name, {}), **common)
        check_forest(training.split(FOREST), given["generated"] is not None, given["classifier"])
        models = {
            name: finished_part(name, folder, given["image_size"], training.categories) for name, folder in runs.items()
        }
        for model in models.values():
            model.check_data(training, data_hash)
        return {**arguments, "runs": {name: str(model.path) for name, model in models.items()} or None}

    @classmethod
    def inputs(cls, arguments: Mapping[str, Any]) -> Mapping[str, LabelMaps]:
        segments = arguments.get("segments")
        if segments is None or GRID.fullmatch(segments) or Path(segments).expanduser().is_file():
            return {}
        return {LABELS: LabelMaps(Path(segments).expanduser())}

    @classmethod
    def files(cls, arguments: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
        """Those of the parts that are trained here, the weights of the others, and a label map of all images."""
        given = {name: value.default for name, value in inspect.signature(cls).parameters.items()} | dict(arguments)
        options, runs, segments = given["options"] or {}, given["runs"] or {}, given["segments"]
        common = {name: given[name] for name in ("epochs", "backbone", "image_size")}
        found: dict[str, dict[str, Path]] = {}
        for name in (*given["detectors"], given["classifier"]):
            if name in runs:
                model = finished_part(name, runs[name], given["image_size"])
                own = {"finished runs": {f"{name}/{model.part}": model.trained.checkpoint(model.part)}}
            elif name is not None:
                own = option_class(name).files(part_arguments(name, options.get(name, {}), **common))
            else:
                own = {}
            for kind, files in own.items():
                found.setdefault(kind, {}).update(files)
        if segments is not None and not GRID.fullmatch(segments) and Path(segments).expanduser().is_file():
            found["label maps"] = {Path(segments).name: Path(segments).expanduser()}
        return found

    @property
    def trained(self) -> dict[str, Method]:
        methods = {name: each for name, each in self.detectors.items() if name not in self.finished}
        if self.classifier is not None and self.classifier_name is not None:
            methods[self.classifier_name] = self.classifier
        return methods  # type: ignore[return-value]

    def stages(self) -> Iterator[Stage]:
        for name in self.trained:
            if name == self.classifier_name:
                yield from self.stages_of(name)
            else:
                yield from self.stages_of(name, supervision="normal", barred=FOREST)
        common: dict[str, Any] = {"batch_size": self.batch_size, "split": FOREST}
        self.rows.clear()
        yield FitPass(name="forest", update=self._collect, finish=self._conclude, **common)
        if self.generated is not None and not self.table.get()[:, 0].any():
            self.rows.clear()
            yield FitPass(name="generated", update=self._collect_generated, finish=self._conclude_generated, **common)

    def _collect(self, batch: Batch) -> None:
        assert batch.label_B is not None  # the tags ask for it
        self._add(batch.label_B, batch.image_BCHW, batch.inputs.get(LABELS))

    def _collect_generated(self, batch: Batch) -> None:
        assert self.generated is not None
        label_BHW = batch.inputs[LABELS] if self.per_image else self._labels(batch.image_BCHW)
        for copy in range(self.generated.copies):
            image_BCHW = blemished(batch.image_BCHW, label_BHW, batch.seed_B, self.generated, f"{copy}")
            defective_B = torch.ones(len(image_BCHW), device=image_BCHW.device)
            self._add(defective_B, image_BCHW, batch.inputs.get(LABELS))

    def _add(self, label_B: Tensor, image_BCHW: Tensor, segment_BHW: Tensor | None) -> None:
        """A row for each image: its label, the number L of the batch's segments, what the image as a whole adds, and
        the statistics, for rows of one length those of as many segments as there can be."""
        stats_BLKS, rest_BR = self._features(image_BCHW, segment_BHW)
        segments = stats_BLKS.shape[1]
        filled_BF = nn.functional.pad(stats_BLKS, (0, 0, 0, 0, 0, MOST - segments)).flatten(1).float()
        facts_B2 = torch.stack([label_B.float(), torch.full_like(label_B, segments, dtype=torch.float)], dim=1)
        self.rows.add(torch.cat([facts_B2, rest_BR, filled_BF], dim=1))

    def _conclude(self) -> None:
        self.table.value = self._gathered()
        if self.generated is None or self.table.value[:, 0].any():
            self._grow()

    def _conclude_generated(self) -> None:
        self.table.value = torch.cat([self.table.get(), self._gathered()])
        self._grow()

    def _gathered(self) -> Tensor:
        """Labels and features of all processes' images, (N, 1 + F). Segments that a batch did not have are empty."""
        label_N, count_N, row_NF = self.rows.gathered().tensor_split([1, 2], dim=1)
        self.rows.clear()
        rest, most = self._width(0), int(count_N.max())
        statistics = self._width(most) - rest
        return torch.cat([label_N, row_NF[:, rest : rest + statistics], row_NF[:, :rest]], dim=1)

    def _grow(self) -> None:
        table_NF = self.table.get()
        seed = int(torch.randint(2**31 - 1, ()))
        self.forest.fit(table_NF[:, 1:], table_NF[:, 0], seed)

    def _features(
        self, image_BCHW: Tensor, segment_BHW: Tensor | None, count: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Statistics (B, L, K, S), and what the image as a whole adds (B, R); ``count`` fixes L."""
        maps = [method.predict(image_BCHW).map_BHW for method in self.detectors.values()]  # type: ignore[operator]
        map_BKHW = torch.stack([full(map_BHW) for map_BHW in maps], dim=1)
        every_BLK4 = segment_statistics(map_BKHW, self._segments(image_BCHW, segment_BHW, count), self.quantile)
        stats_BLKS = every_BLK4[..., self.statistics]
        rest = [map_BKHW.amax(dim=(2, 3))] if self.map_maximum else []
        if self.classifier is not None:
            rest.append(full(self.classifier.predict(image_BCHW).score_B)[:, None])
        rest_BR = torch.cat([map_BKHW.new_empty(map_BKHW.shape[0], 0), *rest], dim=1)
        return stats_BLKS, rest_BR

    def _segments(self, image_BCHW: Tensor, segment_BHW: Tensor | None, count: int | None) -> Segments:
        if self.per_image:
            if segment_BHW is None:
                raise UserError("segad with a folder of segment maps cannot score images without them: give the maps")
            return Segments.of(segment_BHW, count)
        state = (image_BCHW.shape[2:], image_BCHW.device, self.label_1HW._version)
        if self._common is None or self._common[0] != state:
            self._common = (state, Segments.of(self._labels(image_BCHW)))
        return self._common[1]

    def _labels(self, image_BCHW: Tensor) -> Tensor:
        """The label map of all images at their size, (1, H, W)."""
        size = image_BCHW.shape[2:]
        if self.label_1HW.shape[1:] == size:
            return self.label_1HW.long()
        return nn.functional.interpolate(self.label_1HW[None].float(), size=size, mode="nearest-exact")[0].long()

    def _width(self, segments: int) -> int:
        """How many features there are."""
        per_map = segments * len(self.statistics) + self.map_maximum
        return per_map * len(self.detectors) + (self.classifier is not None)

    def forward(self, image_BCHW: Tensor) -> list[Any]:
        """The networks' passes; the statistics and the forest multiply next to nothing."""
        parts = [*self.detectors.values(), *([self.classifier] if self.classifier is not None else [])]
        return [part(image_BCHW) for part in parts]

    def predict(self, image_BCHW: Tensor, segments: Tensor | None = None) -> Prediction:
        """Scores images.

        Args:
            image_BCHW: RGB in [0, 1].
            segments: (B, H, W) int64, each image's own label map, where the method was given a folder of them.

        Raises:
            UserError: the forest was grown with a label map for each image, and there is none.
        """
        per_segment = self._width(1) - self._width(0)
        count = (self.table.get().shape[1] - 1 - self._width(0)) // per_segment
        stats_BLKS, rest_BR = self._features(image_BCHW, segments, count)
        return Prediction(self.forest(torch.cat([stats_BLKS.flatten(1).float(), rest_BR], dim=1)))


def check_names(
    detectors: Sequence[str], options: Mapping[str, Any], runs: Mapping[str, Any], classifier: str | None
) -> None:
    """Refuses names that do not belong together.

    Raises:
        UserError: says which.
    """
    if not detectors or len(set(detectors)) < len(detectors):
        raise UserError(f"method.detectors={list(detectors)}: name one or more, each once")
    for name in detectors:
        tags = option_class(name).tags
        if not tags.maps or tags.supervision != "normal":
            what = "gives no anomaly maps" if not tags.maps else "learns from labeled defects"
            raise UserError(f"method.detectors: {name} {what}: name methods with maps that learn from normal images")
    if classifier is not None and option_class(classifier).tags.supervision == "normal":
        raise UserError(f"method.classifier={classifier} learns from no labels: name it among the detectors")
    for key, mapping, known in (
        ("options", options, {*detectors, classifier} - {None, *runs}),
        ("runs", runs, set(detectors)),
    ):
        unknown = [name for name in mapping if name not in known]
        if unknown:
            trained = " that is trained in this run" if unknown[0] in runs and key == "options" else ""
            raise UserError(f"method.{key}.{unknown[0]}: {unknown[0]} is none of method.detectors{trained}")


def check_forest(forest: Index, generates: bool, classifier: str | None) -> None:
    """Refuses a forest's share of the training data that it cannot learn from.

    Raises:
        UserError: says why.
    """
    normal, defective = (sum(sample.label == label for sample in forest) for label in (0, 1))
    if not normal:
        raise UserError(
            "segad needs normal training images that its detectors do not see, and the setting sets none apart: choose "
            "one with setting.detector_share below 1, such as setting=segad_mvtec or setting=vad_one_class"
        )
    if not defective and not generates:
        raise UserError(
            "segad has no defects to learn from: choose a setting with some (setting.shots), or leave method.generated"
        )
    if not defective and classifier is not None:
        raise UserError(f"method.classifier={classifier} needs labeled defects and the setting gives none: set it null")


def segment_source(segments: str | None, image_size: int) -> tuple[bool, Tensor]:
    """Whether every image has its own label map, and the one of all images, (H, W) uint8.

    Raises:
        UserError: the file is no label map, or the grid too fine for one.
    """
    label_HW = torch.zeros(image_size, image_size, dtype=torch.uint8)
    if segments is None:
        return False, label_HW
    if grid := GRID.fullmatch(segments):
        rows, columns = int(grid[1]), int(grid[2])
        if not 0 < rows * columns <= MOST or max(rows, columns) > image_size:
            raise UserError(f"method.segments={segments}: give rows and columns of 1 to {MOST} segments together")
        place_H = torch.arange(image_size)
        cell_HW = (place_H * rows // image_size)[:, None] * columns + place_H * columns // image_size
        return False, cell_HW.to(torch.uint8)
    if Path(segments).expanduser().is_file():
        return False, torch.from_numpy(resized(read_label_map(Path(segments).expanduser()), image_size))
    return True, label_HW
