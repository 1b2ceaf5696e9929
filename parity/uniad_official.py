"""UniAD beside the official code (clone: ``UniAD``; package: ``einops``): its own EfficientNet, 7x7 neighbors.

The official EfficientNet fixes its paddings for images of 380 pixels, whatever their size. At 256 (and at 224) one
convolution, the first of stride 8, is then padded by (2, 2) instead of (1, 2): the two coarser feature maps are those
of an image moved by a pixel of stride 4. The first difference printed shows what that makes; for the others the padding
is what the image's size asks for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ader.methods import build
from parity import SIZE, Difference, Pair, commit, copy_weights, largest
from parity.uniad import INNER, no_cuda, renamed, restoration, settle

#: The first convolution of stride 8, padded (left, right, top, bottom) for an even number of pixels.
MOVED, PADDING = 6, (1, 2, 1, 2)

#: Layers of a block: timm's names and the official ones.
SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2", **SQUEEZE}
INVERTED = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
    **SQUEEZE,
}


def pair(upstreams: Path, batch: int) -> Pair:
    """The official code's three networks, put together by its own helper."""
    upstream = commit("zhiyuanyou/UniAD", upstreams / "UniAD")
    sys.path.insert(0, str(upstreams / "UniAD"))
    helper = importlib.import_module("models.model_helper")
    ours: Any = build(
        "uniad",
        image_size=SIZE,
        neighbor_size=7,
        clip=0.1,
        decay_norms_and_biases=True,
        backbone={"name": "tf_efficientnet_b4", "pretrained": False},
    )
    settle(ours)
    reference = helper.ModelHelper(_networks()).cpu()
    copy_weights(ours, reference, {**renamed("reconstruction"), **_backbone_names(ours.backbone.net)}, INNER)
    reference.eval()  # freezes the backbone

    def forward(normalized: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        with no_cuda():
            output = reference({"image": normalized})
        return output["features"], output["feature_align"], output["feature_rec"], output["pred"]

    base = restoration(
        ours,
        reference,
        reference.reconstruction,
        forward,
        forward,
        torch.optim.AdamW(
            reference.reconstruction.parameters(), lr=ours.lr, betas=ours.betas, weight_decay=ours.weight_decay
        ),
        renamed("reconstruction"),
        upstream,
        batch,
    )

    def differences() -> Iterator[Difference]:
        image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
        with torch.no_grad():
            maps = reference.eval().backbone({"image": ours.backbone.normalize(image_BCHW)})["features"]
            yield largest("backbone features, padded for 380", ours.backbone(image_BCHW), maps)
        reference.backbone._blocks[MOVED]._depthwise_conv.static_padding = nn.ZeroPad2d(PADDING)
        yield from base.differences()

    return replace(base, differences=differences)


def _networks() -> list[dict[str, Any]]:
    """As experiments/MVTec-AD/config.yaml has them, for images of SIZE pixels."""
    side = SIZE // 16
    backbone = {"pretrained": False, "outblocks": [1, 5, 9, 21], "outstrides": [2, 4, 8, 16]}
    restorer = {
        "feature_size": [side, side],
        "pos_embed_type": "learned",
        "hidden_dim": 256,
        "nhead": 8,
        "num_encoder_layers": 4,
        "num_decoder_layers": 4,
        "dim_feedforward": 1024,
        "dropout": 0.1,
        "activation": "relu",
        "normalize_before": False,
        "feature_jitter": SimpleNamespace(scale=20.0, prob=1.0),
        "neighbor_mask": SimpleNamespace(neighbor_size=[7, 7], mask=[True, True, True]),
        "save_recon": False,
        "initializer": {"method": "xavier_uniform"},
    }
    neck = {"outstrides": [16], "outplanes": [272]}
    return [
        {"name": "backbone", "type": "models.backbones.efficientnet_b4", "frozen": True, "kwargs": backbone},
        {"name": "neck", "prev": "backbone", "type": "models.necks.MFCN", "kwargs": neck},
        {"name": "reconstruction", "prev": "neck", "type": "models.reconstructions.UniAD", "kwargs": restorer},
    ]


def _backbone_names(net: Any) -> dict[str, str]:
    """Prefixes of timm's names and the official ones, which count blocks through."""
    names = {"backbone.net.conv_stem": "backbone._conv_stem", "backbone.net.bn1": "backbone._bn0"}
    places = [(stage, block) for stage, blocks in enumerate(net.blocks) for block in range(len(blocks))]
    for number, (stage, block) in enumerate(places):
        for mine, theirs in (INVERTED if stage else FIRST).items():
            names[f"backbone.net.blocks.{stage}.{block}.{mine}"] = f"backbone._blocks.{number}.{theirs}"
    return names
