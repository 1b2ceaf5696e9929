"""Boosted random forests of XGBoost as part of a method's state.

Shapes in names: B and N images, F features.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ader.config.ranges import Depth, LearningRate, NonNegative, Share
from ader.nets.state.late_tensor import LateTensor
from ader.system import dist
from ader.system.errors import UserError

Count = Annotated[int, Field(ge=1, le=10_000)]


@dataclass(frozen=True)
class ForestOptions:
    """What XGBoost is told; the defaults are SegAD's.

    Attributes:
        rounds: of boosting (``n_estimators``).
        trees: grown in each round (``num_parallel_tree``).
        depth: of a tree, at most (``max_depth``).
        rate: weight of a round (``learning_rate``).
        subsample: share of the images that a tree sees.
        colsample_bytree: share of the features that a tree sees.
        colsample_bynode: share of these that a split chooses from.
        reg_alpha: L1 penalty of the leaves.
        balance: defective images weigh as much in total as normal ones (``scale_pos_weight`` = normal / defective).
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    rounds: Count = 10
    trees: Count = 200
    depth: Depth = 5
    rate: LearningRate = 0.3
    subsample: Share = 0.6
    colsample_bytree: Share = 0.6
    colsample_bynode: Share = 0.6
    reg_alpha: NonNegative = 1.0
    balance: bool = True

    def parameters(self, seed: int, normal: int, defective: int) -> dict[str, Any]:
        """XGBoost's names. One thread and the histogram method, always: sums then have one order, and the images are
        few enough."""
        given = asdict(self)
        names = {"trees": "num_parallel_tree", "depth": "max_depth", "rate": "learning_rate"}
        balance, _ = given.pop("balance"), given.pop("rounds")
        return {
            **{names.get(name, name): value for name, value in given.items()},
            "scale_pos_weight": normal / defective if balance else 1.0,
            "objective": "binary:logitraw",
            "seed": seed,
            "nthread": 1,
            "tree_method": "hist",
        }


class BoostedForest(nn.Module):
    """A forest for two classes. Its state is XGBoost's own binary JSON as a tensor of bytes: nothing is pickled.

    Args:
        options: of the forest.

    Raises:
        UserError: XGBoost is not installed.
    """

    def __init__(self, options: ForestOptions) -> None:
        super().__init__()
        self.options = options
        self.model = LateTensor()
        self._booster: tuple[Tensor, Any] | None = None
        _xgboost()

    def fit(self, feature_NF: Tensor, label_N: Tensor, seed: int) -> None:
        """Grows the trees, in one process for all: it is the same forest everywhere.

        Args:
            feature_NF: float32.
            label_N: 0 normal, 1 defective; there must be both.
            seed: of the draws of images and features.
        """
        grown: bytes | None = None
        if dist.is_main():
            xgboost, label = _xgboost(), label_N.cpu().numpy()
            defective = int(label.sum())
            data = xgboost.DMatrix(feature_NF.cpu().numpy(), label=label, nthread=1)
            parameters = self.options.parameters(seed, len(label) - defective, defective)
            booster = xgboost.train(parameters, data, num_boost_round=self.options.rounds)
            grown = bytes(booster.save_raw(raw_format="ubj"))
        saved = dist.gather_objects(grown)[0]
        self.model.value = torch.frombuffer(bytearray(saved), dtype=torch.uint8).to(self.model.anchor.device)

    def forward(self, feature_BF: Tensor) -> Tensor:
        """Margins (B,), float32: log odds of "defective", but for the weights of the classes."""
        if torch.compiler.is_compiling():  # a graph cannot call XGBoost
            assert self._booster is not None, "predict once before the forest is traced"
            return TreeTables.of(self._booster[1]).margin(feature_BF.float())
        margin_B: Any = self._loaded().inplace_predict(feature_BF.float().cpu().numpy(), predict_type="margin")
        return torch.from_numpy(np.asarray(margin_B, np.float32).reshape(-1)).to(feature_BF.device)

    def _loaded(self) -> Any:
        """The forest as XGBoost's object, made again when the state has changed."""
        state = self.model.get()
        if self._booster is None or self._booster[0] is not state:
            booster = _xgboost().Booster({"nthread": 1})
            booster.load_model(bytearray(state.cpu().numpy().tobytes()))
            self._booster = (state, booster)
        return self._booster[1]


@dataclass(frozen=True)
class TreeTables:
    """A grown forest as tables, which tensor operations can walk: what an exported graph has in XGBoost's place.

    Nodes (T, N) of T trees, shorter trees filled up. A leaf is its own child.

    Attributes:
        feature_TN: that a node looks at.
        limit_TN: a smaller value of it goes left.
        missing_left_TN: so does one that is missing (NaN).
        left_TN, right_TN: children.
        value_TN: of leaves; 0 elsewhere.
        depth: of the deepest tree.
        base: margin before all trees.
    """

    feature_TN: Tensor
    limit_TN: Tensor
    missing_left_TN: Tensor
    left_TN: Tensor
    right_TN: Tensor
    value_TN: Tensor
    depth: int
    base: float

    @classmethod
    def of(cls, booster: Any) -> TreeTables:
        """Reads XGBoost's own JSON (its schema of ``tree_param``)."""
        learner = json.loads(bytes(booster.save_raw(raw_format="json")))["learner"]
        trees = learner["gradient_booster"]["model"]["trees"]
        width = max(len(tree["left_children"]) for tree in trees)
        leaf = [np.asarray(tree["left_children"]) < 0 for tree in trees]

        def table(rows: Iterable[Any], dtype: Any) -> Tensor:
            return torch.from_numpy(np.stack([np.pad(np.asarray(row, dtype), (0, width - len(row))) for row in rows]))

        def children(name: str) -> Tensor:
            own = (np.arange(len(tree[name])) for tree in trees)
            return table(
                (np.where(mine, node, tree[name]) for mine, node, tree in zip(leaf, own, trees, strict=True)), np.int64
            )

        split = [tree["split_conditions"] for tree in trees]  # of a leaf its value
        base = learner["learner_model_param"]["base_score"].strip("[]")
        return cls(
            feature_TN=table((tree["split_indices"] for tree in trees), np.int64),
            limit_TN=table(split, np.float32),
            missing_left_TN=table((tree["default_left"] for tree in trees), np.bool_),
            left_TN=children("left_children"),
            right_TN=children("right_children"),
            value_TN=table((np.where(mine, row, 0) for mine, row in zip(leaf, split, strict=True)), np.float32),
            depth=max(_depth(tree["left_children"], tree["right_children"]) for tree in trees),
            base=float(base),  # of logitraw a margin itself
        )

    def margin(self, feature_BF: Tensor) -> Tensor:
        """As ``BoostedForest.forward``, but for the order of sums."""
        trees = len(self.feature_TN)
        node_BT = torch.zeros(1, trees, dtype=torch.int64, device=feature_BF.device).expand(feature_BF.shape[0], -1)
        for _ in range(self.depth):
            value_BT = feature_BF.gather(1, self._at(self.feature_TN, node_BT))
            missing_BT = value_BT.isnan() & self._at(self.missing_left_TN, node_BT)
            left_BT = (value_BT < self._at(self.limit_TN, node_BT)) | missing_BT
            node_BT = torch.where(left_BT, self._at(self.left_TN, node_BT), self._at(self.right_TN, node_BT))
        margin_B: Tensor = self.base + self._at(self.value_TN, node_BT).sum(dim=1)
        return margin_B

    @staticmethod
    def _at(table_TN: Tensor, node_BT: Tensor) -> Tensor:
        """What a table has of each tree's node, (B, T)."""
        trees, width = table_TN.shape
        start_T = torch.arange(trees, device=node_BT.device) * width
        return table_TN.to(node_BT.device).flatten()[node_BT + start_T]


def _depth(left: Sequence[int], right: Sequence[int], node: int = 0) -> int:
    """Splits on the longest way from a node to a leaf."""
    return 0 if left[node] < 0 else 1 + max(_depth(left, right, left[node]), _depth(left, right, right[node]))


def _xgboost() -> Any:
    """The package, which takes a second to import."""
    try:
        return importlib.import_module("xgboost")
    except ModuleNotFoundError as error:
        raise UserError(
            "a boosted forest needs the package 'xgboost', which is not installed: pip install xgboost"
        ) from (error)
