"""CFLOW-AD beside ADer's reproduction (clone: ``ADer``; package: FrEIA)."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ader.methods import build
from ader.methods._base import Batch
from ader.methods.cflow import as_vectors, division, likelihood_per_dimension
from parity import SIZE, Difference, Pair, Published, commit, import_ader, largest, training_step

PUBLISHED = Published(
    params=237.0,
    macs=28.7,
    why="the published parameters hold the flows' fixed rotations and their inverses (2 x 44.0 M), which are "
    "buffers here; the published multiply-accumulates leave the rotations out (6.4 G)",
)

NOTE = "the reference's loops written again without .cuda(); a step includes its logs (a host copy for each update)"


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's decoders and loops behind our encoder, whose code is timm's on both sides."""
    code = import_ader(upstreams / "ADer", "cflow")
    ours: Any = build("cflow", rotation=0.0, backbone={"name": "wide_resnet50_2", "pretrained": False})
    upstream = commit("zhangzjn/ADer", upstreams / "ADer")
    return compared(Reference(code, ours, ours.backbone.net, ours.backbone.net), ours, upstream, batch)


class Reference:
    """Decoders, training and inference as both codes have them, written again.

    Args:
        code: module that makes decoders and positional codes.
        ours: our method, whose weights the decoders get.
        encoder: the reference's.
        encode: normalized images to the encoder's three maps.
    """

    def __init__(self, code: Any, ours: Any, encoder: nn.Module, encode: Callable[[Tensor], list[Tensor]]) -> None:
        self.code, self.ours, self.encoder, self.encode = code, ours, encoder, encode
        options = types.SimpleNamespace(
            dec_arch="freia-cflow", condition_vec=ours.condition_dim, coupling_blocks=8, clamp_alpha=1.9
        )
        with identity_rotations():
            decoders = [code.load_decoder_arch(options, channels) for channels in ours.backbone.channels]
        self.decoders = nn.ModuleList(decoders)
        copy_flows(ours.flows, self.decoders)

    def adam(self) -> torch.optim.Optimizer:
        """One for all decoders; without gradients, weights stay as they are."""
        weights = [*self.encoder.parameters(), *self.decoders.parameters()]
        return torch.optim.Adam(weights, lr=self.ours.lr, betas=self.ours.betas)

    def features(self, image_BCHW: Tensor) -> list[Tensor]:
        """The encoder's maps."""
        self.encoder.eval()
        with torch.no_grad():
            return [feature.detach() for feature in self.encode(self.ours.backbone.normalize(image_BCHW))]

    def prepared(self, feature_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (E, C) and positional codes (E, P)."""
        count, channels, height, width = feature_BCHW.shape
        numbers = self.ours.condition_dim
        code_BPHW = self.code.positionalencoding2d(numbers, height, width).unsqueeze(0).repeat(count, 1, 1, 1)
        code_EP = code_BPHW.reshape(count, numbers, -1).transpose(1, 2).reshape(-1, numbers)
        return feature_BCHW.reshape(count, channels, -1).transpose(1, 2).reshape(-1, channels), code_EP

    @staticmethod
    def values(decoder: Any, vector_NC: Tensor, code_NP: Tensor) -> Tensor:
        """Log-likelihoods per dimension."""
        latent_NC, log_determinant_N = decoder(vector_NC, [code_NP])
        channels = vector_NC.shape[1]
        value_N: Tensor = channels * -0.9189385332046727 - 0.5 * torch.sum(latent_NC**2, 1) + log_determinant_N
        return value_N / channels

    def train(self, image_BCHW: Tensor, optimizer: torch.optim.Optimizer) -> list[float]:
        """All updates of one batch; mean loss of each decoder's."""
        self.decoders.train()
        means = []
        batch = Batch(image_BCHW=image_BCHW, seed_B=torch.arange(len(image_BCHW)))
        parts = zip(self.ours.names, self.decoders, self.features(image_BCHW), strict=True)
        for name, decoder, feature_BCHW in parts:
            vector_EC, code_EP = self.prepared(feature_BCHW)
            drawn = division(batch, feature_BCHW[0, 0].numel(), self.ours.fibers, f"cflow/{name}", vector_EC.device)
            order_E = torch.cat([place_N for place_N, _ in drawn])
            total, size = 0.0, self.ours.fibers
            for update in range(len(vector_EC) // size):
                index_N = torch.arange(update * size, (update + 1) * size)
                value_N = self.values(decoder, vector_EC[order_E[index_N]], code_EP[order_E[index_N]])
                loss_N = -F.logsigmoid(value_N)
                optimizer.zero_grad()
                loss_N.mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss_N.detach().cpu().numpy().sum()
            means.append(total / (len(vector_EC) // size * size))
        return means

    @torch.no_grad()
    def test(self, image_BCHW: Tensor) -> tuple[Any, Tensor, Tensor, float]:
        """Maps, image scores, the subtracted maxima of each scale and the largest sum, as if these were all images."""
        self.decoders.eval()
        total: Any = 0
        tops = []
        for decoder, feature_BCHW in zip(self.decoders, self.features(image_BCHW), strict=True):
            vector_EC, code_EP = self.prepared(feature_BCHW)
            values: list[float] = []
            for start in range(0, len(vector_EC), self.ours.fibers):
                index_N = torch.arange(start, min(start + self.ours.fibers, len(vector_EC)))
                values.extend(self.values(decoder, vector_EC[index_N], code_EP[index_N]).tolist())
            value_E = torch.tensor(values, dtype=torch.double)
            tops.append(value_E.max())
            normal_B1HW = torch.exp(value_E - tops[-1]).reshape(-1, 1, *feature_BCHW.shape[2:])
            total = total + F.interpolate(normal_B1HW, size=SIZE, mode="bilinear", align_corners=True)[:, 0].numpy()
        map_BHW = total.max() - total
        pooled_B1HW = F.avg_pool2d(torch.from_numpy(map_BHW)[:, None], self.ours.score_window, stride=1)
        return map_BHW, pooled_B1HW.amax(dim=(1, 2, 3)), torch.stack(tops), float(total.max())


@contextmanager
def identity_rotations() -> Iterator[None]:
    """FrEIA takes minutes to draw its rotations; ours are copied over them."""
    from FrEIA.modules import all_in_one_block  # type: ignore[import-not-found]

    kept = all_in_one_block.special_ortho_group
    all_in_one_block.special_ortho_group = types.SimpleNamespace(rvs=np.eye)
    try:
        yield
    finally:
        all_in_one_block.special_ortho_group = kept


@torch.no_grad()
def copy_flows(flows: nn.ModuleList, decoders: nn.ModuleList) -> None:
    """Gives both sides the same weights, with global scales and offsets as after some training."""
    for mine, theirs in paired_blocks(flows, decoders):
        torch.testing.assert_close(mine.scale_C, theirs.global_scale[0])  # initialized alike
        torch.testing.assert_close(mine.offset_C, theirs.global_offset[0])
        mine.scale_C += 0.3 * torch.randn_like(mine.scale_C)
        mine.offset_C += 0.1 * torch.randn_like(mine.offset_C)
        theirs.global_scale[0], theirs.global_offset[0] = mine.scale_C, mine.offset_C
        theirs.w_perm.copy_(mine.rotation_CC)
        theirs.w_perm_inv.copy_(mine.rotation_CC.T)
        theirs.subnet.load_state_dict(mine.subnet.state_dict())


def paired_blocks(flows: nn.ModuleList, decoders: nn.ModuleList) -> Iterator[tuple[Any, Any]]:
    """Our blocks and the reference's."""
    for flow, decoder in zip(flows, decoders, strict=True):
        yield from zip(flow.blocks, decoder.module_list, strict=True)  # type: ignore[arg-type]


def paired_weights(flows: nn.ModuleList, decoders: nn.ModuleList) -> tuple[list[Tensor], list[Tensor]]:
    """Trained weights of both sides in one order."""
    pairs = list(paired_blocks(flows, decoders))
    mine = [weight for block, _ in pairs for weight in (block.scale_C, block.offset_C, *block.subnet.parameters())]
    theirs = [w for _, block in pairs for w in (block.global_scale, block.global_offset, *block.subnet.parameters())]
    return mine, theirs


def compared(reference: Reference, ours: Any, upstream: str, batch: int) -> Pair:
    """The comparison with either code."""
    batch = max(batch, 4)  # with fewer images the reference has not one update of the coarsest scale
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    ours.offset.value = torch.zeros(len(ours.flows))
    step, adam = training_step(ours, image_BCHW), reference.adam()

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        features = reference.features(image_BCHW)
        yield largest("encoder's maps", ours.backbone(image_BCHW), features)
        prepared = [reference.prepared(feature_BCHW) for feature_BCHW in features]
        codes = [ours.codes(feature_BCHW).repeat(batch, 1) for feature_BCHW in features]
        yield largest("positional codes", codes, [code_EP for _, code_EP in prepared])
        with torch.no_grad():
            values = [
                reference.values(decoder, *pair) for decoder, pair in zip(reference.decoders, prepared, strict=True)
            ]
            yield largest("log-likelihood per dimension", [value.flatten() for value in ours(image_BCHW)], values)
        map_ref, score_ref, top_K, largest_sum = reference.test(image_BCHW)
        ours.offset.value = top_K.float()
        score_B, map_BHW = test_ours()
        shift = (
            len(values) - largest_sum
        )  # the reference subtracts from its largest sum, ours from the number of scales
        yield largest("map", map_BHW - shift, map_ref)
        yield largest("image score", score_B - shift, score_ref)
        yield from losses_and_gradients(reference, ours, features)
        ours.double()
        reference.encoder.double()
        reference.decoders.double()
        # in double precision: rounding decides the direction of Adam's first steps where gradients are tiny
        logged: Any = training_step(ours, image_BCHW.double())()
        means_ref = reference.train(image_BCHW.double(), reference.adam())
        yield largest("mean losses of a batch (float64)", list(logged.values()), means_ref)
        mine, theirs = paired_weights(ours.flows, reference.decoders)
        yield largest("weights after a batch (float64)", flat(mine), flat(theirs))
        ours.float()
        reference.encoder.float()
        reference.decoders.float()

    trains = (lambda: reference.train(image_BCHW, adam), step)
    tests = (lambda: reference.test(image_BCHW), test_ours)
    return Pair(ours, upstream, differences, trains, tests, batch, batch, NOTE)


def losses_and_gradients(reference: Reference, ours: Any, features: list[Tensor]) -> Iterator[Difference]:
    """Of one update of each flow, in single and in double precision."""
    for kind in (torch.float32, torch.float64):
        ours.flows.to(kind).zero_grad()
        reference.decoders.to(kind).zero_grad()
        losses, losses_ref = [], []
        for flow, decoder, feature_BCHW in zip(ours.flows, reference.decoders, features, strict=True):
            vector_NC, code_NP = (part[: ours.fibers].to(kind) for part in reference.prepared(feature_BCHW))
            mine = likelihood_per_dimension(flow, as_vectors(feature_BCHW.to(kind))[: ours.fibers], code_NP)
            losses.append(-F.logsigmoid(mine).mean())
            losses_ref.append(-F.logsigmoid(reference.values(decoder, vector_NC, code_NP)).mean())
            torch.stack([losses[-1], losses_ref[-1]]).sum().backward()  # type: ignore[no-untyped-call]
        name = str(kind).removeprefix("torch.")
        yield largest(f"loss ({name})", losses, losses_ref)
        pairs = zip(*paired_weights(ours.flows, reference.decoders), strict=True)
        grads = [(mine.grad, theirs.grad) for mine, theirs in pairs]
        yield largest(f"gradients ({name})", flat([a for a, _ in grads]), flat([b for _, b in grads]))
    ours.flows.float().zero_grad()
    reference.decoders.float().zero_grad()


def flat(tensors: list[Any]) -> list[Tensor]:
    """The reference's scales have a leading axis of length 1."""
    return [tensor.flatten() for tensor in tensors]
