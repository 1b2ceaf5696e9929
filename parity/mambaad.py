"""MambaAD beside ADer's code, which is its authors' own (clone: ``ADer``; packages: einops, numpy-hilbert-curve,
pyzorder).

mamba-ssm's CUDA kernel, which upstream calls, is replaced by its recurrence, token after token (the definition in that
package's ``selective_scan_ref``), computed again in the backward pass, since otherwise its states fill 20 GB.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ader.methods import build
from ader.methods.mambaad import restoration_loss
from parity import (
    SIZE,
    Difference,
    Pair,
    Published,
    commit,
    import_ader,
    largest,
    smoothed,
    training_step,
)

PUBLISHED = Published(params=25.7, macs=8.3)

NOTE = (
    "the reference's CUDA kernel is replaced by its recurrence, token after token; its trainer's logging is left out, "
    "and so is stochastic depth on its side"
)


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, **more: Any) -> Tensor:
    """The selective scan by its definition; arguments as mamba-ssm's ``selective_scan_fn`` is given them."""
    given = (u, delta, A, B, C, D, more["delta_bias"])
    y: Tensor = checkpoint(_scan, *given, use_reentrant=False) if torch.is_grad_enabled() else _scan(*given)
    return y


def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    groups = B.shape[1]
    delta = F.softplus(delta + bias[:, None])
    shape = len(u), groups, len(A) // groups, u.shape[2]
    u_t, delta_t = (each.reshape(shape).permute(3, 0, 1, 2)[..., None] for each in (u, delta))
    b_t, c_t = (each.permute(3, 0, 1, 2)[..., None, :] for each in (B, C))
    decays = (delta_t * A.reshape(groups, -1, A.shape[1])).exp().unbind()
    states = list((delta_t * u_t * b_t).unbind())
    for t in range(1, len(states)):
        states[t] = torch.addcmul(states[t], decays[t], states[t - 1])
    y = (torch.stack(states) * c_t).sum(-1).permute(1, 2, 3, 0).flatten(1, 2)
    return y + u * D[:, None]


def pair(upstreams: Path, batch: int) -> Pair:
    """ADer's teacher, bottleneck and decoder with our weights."""
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        sys.modules[name] = types.ModuleType(name)
    interface: Any = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = interface.selective_scan_ref = scan
    sys.modules[interface.__name__] = interface
    code = import_ader(upstreams / "ADer", "mambaad")
    ours: Any = build("mambaad", backbone={"name": "resnet34", "pretrained": False})
    with torch.no_grad():  # what is one, zero or alike in random networks would hide what is not used
        for weight in [*ours.bottleneck.parameters(), *ours.decoder.parameters()]:
            weight.add_(0.05 * torch.randn_like(weight))
    decoder = {"depths_decoder": [3, 4, 6, 3], "scan_type": "hilbert", "num_direction": 8}
    reference = code.MAMBAAD(ours.teacher.net, decoder)
    state = reference.state_dict()
    for name, target in names(ours).items():
        state[target] = _as_theirs(name, ours.state_dict()[name], state[target])
    reference.load_state_dict(state)
    for part in reference.modules():
        if type(part).__name__ == "DropPath":
            part.drop_prob = 0.0
        if type(part).__name__ == "SS2D":
            part.forward_core = types.MethodType(_any_precision(code), part)
    return _pair(ours, reference, commit("zhangzjn/ADer", upstreams / "ADer"), batch)


def _any_precision(code: Any) -> Any:
    """Upstream's core of a scan, for float64 too: its ``.float()`` are left out, and its check of the result's type."""
    text = textwrap.dedent(inspect.getsource(code.SS2D.forward_core)).replace(".float()", "")
    text = text.replace("assert out_y.dtype == torch.float\n", "pass\n")
    scope = dict(vars(code))
    exec(text, scope)  # the clone's own source, a file at a known commit
    return scope["forward_core"]


def names(ours: nn.Module) -> dict[str, str]:
    """Our names of what is trained and of running statistics, and the reference's."""
    found = {}
    for name in ours.state_dict():
        part, _, rest = name.partition(".")
        if part == "bottleneck":
            found[name] = f"mff_oce.{_renamed(rest, BOTTLENECK)}"
        elif part == "decoder":
            kind, number, *others = rest.split(".")
            if kind == "expansions":
                found[name] = f"net_s.layers_up.{int(number) + 1}.upsample.{'.'.join(others)}"
            else:
                found[name] = f"net_s.layers_up.{number}.blocks.{_renamed('.'.join(others), DECODER)}"
    return found


def _renamed(name: str, parts: dict[str, str]) -> str:
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


BOTTLENECK = {
    "down1.0": "conv1",
    "down1.1": "bn1",
    "down2.0": "conv2",
    "down2.1": "bn2",
    "lateral2.0": "conv21",
    "lateral2.1": "bn21",
    "lateral3.0": "conv31",
    "lateral3.1": "bn31",
    "fuse.0": "convf",
    "fuse.1": "bnf",
    "blocks.": "bn_layer.",
}
DECODER = {
    ".blocks.": ".smm_blocks.",
    ".norm.": ".ln_1.",
    ".scan.ln_1.": ".scan.out_norm.",
    ".scan.": ".self_attention.",
    "enter.": "in_proj.",
    "leave.": "out_proj.",
    "self_attention.conv.": "self_attention.conv2d.",
    "select_KCD": "x_proj_weight",
    "step_KDR": "dt_projs_weight",
    "step_bias_KD": "dt_projs_bias",
    "log_decay_KDN": "A_logs",
    "skip_P": "Ds",
    "local5.0.": "conv1b5.0.",
    "local5.3.": "conv55.0.",
    "local5.6.": "conv1a5.0.",
    "local7.0.": "conv1b3.0.",
    "local7.3.": "conv77.0.",
    "local7.6.": "conv1a3.0.",
    "mix.": "finalconv11.",
}


def _as_theirs(name: str, value: Tensor, theirs: Tensor) -> Tensor:
    """Decays stand in one axis for directions and channels there; all else has one shape."""
    assert value.shape == theirs.shape or "log_decay" in name, name
    return value.reshape(theirs.shape).clone()


def _pair(ours: Any, reference: Any, upstream: str, batch: int) -> Pair:
    image_BCHW = torch.rand(batch, 3, SIZE, SIZE)
    trained = [(name, weight) for name, weight in reference.named_parameters() if "net_t" not in name]
    trained = [(name, weight) for name, weight in trained if weight.requires_grad]
    plain = [weight for name, weight in trained if weight.ndim == 1 or name.endswith(".bias")]
    decayed = [weight for name, weight in trained if not (weight.ndim == 1 or name.endswith(".bias"))]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": ours.weight_decay}]
    optimizer = torch.optim.AdamW(groups, lr=ours.lr, betas=ours.betas)

    def normalized(kind: torch.dtype = torch.float32) -> Tensor:
        tensor: Tensor = ours.teacher.normalize(image_BCHW.to(kind))
        return tensor

    def loss_of(features: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        """ADer's loss, written again."""
        return sum((5.0 * F.mse_loss(t, s) for t, s in zip(*features, strict=True)), torch.zeros(()))

    def train() -> None:
        reference.train()
        loss = loss_of(reference(normalized()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(reference.parameters(), ours.clip)
        optimizer.step()
        loss.clone().detach().item()

    @torch.no_grad()
    def test() -> tuple[Any, Any]:
        reference.eval()
        features = reference(normalized())
        loss_of(features).item()
        total: Any = np.zeros([batch, SIZE, SIZE])
        for t, s in zip(*features, strict=True):
            distance = (1 - F.cosine_similarity(t, s, dim=1)).unsqueeze(1)
            total = total + F.interpolate(distance, size=SIZE, mode="bilinear", align_corners=True).squeeze(1).numpy()
        map_BHW = smoothed(total / 9)
        return map_BHW, map_BHW.max(axis=(1, 2))

    @torch.no_grad()
    def test_ours() -> Any:
        ours.eval()
        return ours.predict(image_BCHW)

    def differences() -> Iterator[Difference]:
        ours.eval()
        reference.eval()
        with torch.no_grad():
            teacher, student = ours(image_BCHW)
            teacher_ref, student_ref = reference(normalized())
        yield largest("teacher features", teacher, teacher_ref)
        yield largest("student features", student, student_ref)
        map_ref, score_ref = test()
        score_B, map_BHW = test_ours()
        yield largest("map", map_BHW, 9 * map_ref)  # ADer divides the sum by 9
        yield largest("image score", score_B, 9 * score_ref)
        mine, theirs = dict(ours.named_parameters()), dict(reference.named_parameters())
        pairs = [(mine[name], theirs[target]) for name, target in names(ours).items() if name in mine]
        for kind in (torch.float32, torch.float64):
            ours.to(kind)
            reference.to(kind)
            ours.zero_grad()
            reference.zero_grad()
            teacher, student = ours(image_BCHW.to(kind))
            loss = restoration_loss(teacher, student, ours.loss_weight)
            loss_ref = loss_of(reference(normalized(kind)))
            loss.backward()  # type: ignore[no-untyped-call]
            loss_ref.backward()  # type: ignore[no-untyped-call]
            name = str(kind).removeprefix("torch.")
            yield largest(f"loss ({name})", loss, loss_ref)
            known = [(one.grad, other.grad) for one, other in pairs if one.grad is not None and other.grad is not None]
            assert len(known) == len(pairs), "one has gradients, the other has not"
            slopes = [(one, other.reshape(one.shape)) for one, other in known]
            yield largest(f"gradients ({name})", [one for one, _ in slopes], [other for _, other in slopes])
        ours.float()
        reference.float()

    runs = training_step(ours, image_BCHW)
    return Pair(ours, upstream, differences, (train, runs), (test, test_ours), batch, batch, NOTE)
