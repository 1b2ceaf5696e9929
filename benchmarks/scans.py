"""MambaAD's selective scan: time and memory of its passes, by every way to compute it on this machine.

    python -m benchmarks.scans --json results/bench/scans.json --markdown results/bench/scans.md

One scan of each of the decoder's stages at 256x256 pixels, eight directions and sixteen states, random arguments. The
plain recurrence is what autograd makes of its definition, token after token: it keeps every state. Seconds are those of
the processor, the shortest of several runs, on one thread; memory is the peak of forward and backward pass above what
the arguments take (resident set, on Linux).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ader.nets.scan import selective_scan
from ader.nets.scan.orders import orders
from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Cell, Column, Row, Table
from ader.results.provenance import provenance
from ader.results.schema import plain
from benchmarks._common import forget_peak, resident, write_json

#: Side of the map and channels that are scanned, of each stage.
STAGES = ((8, 1024), (16, 512), (32, 256), (64, 128))
STATES = 16

COLUMNS = (
    Column("way"),
    *(Column(heading, kind="number", digits=0) for heading in ("pixels", "channels", "images")),
    Column("forward (s)", kind="number", digits=3),
    Column("both passes (s)", kind="number", digits=3),
    Column("memory (MiB)", kind="number", digits=0),
    Column("all states (MiB)", kind="number", digits=0),
)


def main() -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="of which the shortest counts (default 3)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for side, channels in STAGES:
        for name, (kernels, scan) in WAYS.items():
            os.environ["ADER_KERNELS"] = kernels
            rows.append({"way": name, **measured(scan, side, channels, options.images, options.repeats)})
            print(rows[-1], flush=True)
    text = markdown(rows)
    print(text)
    if options.json:
        write_json(options.json, {"rows": rows, "load": os.getloadavg()[2], **plain(provenance())})
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    return 0


def measured(scan: Callable[..., Tensor], side: int, channels: int, images: int, repeats: int) -> dict[str, Any]:
    """Figures of one way at one size."""
    tokens = side * side
    given = [torch.randn(images, tokens, channels), torch.randn(8, images, tokens, channels) - 3]
    given += [-torch.rand(8, STATES, channels) * 16, *torch.randn(2, 8, images, tokens, STATES).unbind()]
    given = [tensor.requires_grad_() for tensor in given]
    order_KL = orders("hilbert", side)
    forward, both = [], []
    scan(*given, order_KL).sum().backward()  # type: ignore[no-untyped-call]
    for tensor in given:
        tensor.grad = None
    known = forget_peak()
    before = resident()
    for repeat in range(repeats):
        began = time.process_time()
        y_BLD = scan(*given, order_KL)
        between = time.process_time()
        y_BLD.sum().backward()  # type: ignore[no-untyped-call]
        both.append(time.process_time() - began)
        forward.append(between - began)
        if not repeat:
            peak = resident("VmHWM") - before
        for tensor in given:
            tensor.grad = None
    return {
        "pixels": tokens,
        "channels": channels,
        "images": images,
        "forward_seconds": min(forward),
        "seconds": min(both),
        "bytes": peak if known else None,
        "states_bytes": images * 8 * tokens * STATES * channels * 4,
    }


def recurrence(
    x_BLD: Tensor, raw_KBLD: Tensor, decay_KND: Tensor, input_KBLN: Tensor, output_KBLN: Tensor, order_KL: Tensor
) -> Tensor:
    """The definition, token after token; autograd keeps all states and decays."""
    direction_K1 = torch.arange(len(order_KL))[:, None]
    x_LKBD = x_BLD[:, order_KL].permute(2, 1, 0, 3)
    delta_LKBD, input_LKBN, output_LKBN = (
        each[direction_K1, :, order_KL].transpose(0, 1) for each in (F.softplus(raw_KBLD), input_KBLN, output_KBLN)
    )
    decay_LKBND = (delta_LKBD[..., None, :] * decay_KND[:, None]).exp().unbind()
    states = list(((delta_LKBD * x_LKBD)[..., None, :] * input_LKBN[..., None]).unbind())
    for token in range(1, len(states)):
        states[token] = torch.addcmul(states[token], decay_LKBND[token], states[token - 1])
    y_LKBD = (torch.stack(states) * output_LKBN[..., None]).sum(dim=3)
    back_LK = order_KL.argsort(dim=1).T
    return y_LKBD.gather(0, back_LK[..., None, None].expand_as(y_LKBD)).sum(dim=1).transpose(0, 1)


#: Name, what ``ADER_KERNELS`` says, function.
WAYS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "compiled (Numba)": ("", selective_scan),
    "torch, in chunks": ("torch", selective_scan),
    "plain recurrence": ("torch", recurrence),
}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, with what one must know to read it."""
    cells = [
        [
            *(row[key] for key in ("way", "pixels", "channels", "images", "forward_seconds", "seconds")),
            *(None if row[key] is None else row[key] / 2**20 for key in ("bytes", "states_bytes")),
        ]
        for row in rows
    ]
    table = Table(COLUMNS, tuple(Row(tuple(Cell(value) for value in line)) for line in cells))
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    return f"# The selective scan\n\nMade by `python -m benchmarks.scans`. {text}\n\n{pipe_table(table)}"


if __name__ == "__main__":
    sys.exit(main())
