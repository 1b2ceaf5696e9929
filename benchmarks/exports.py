"""Which methods can be exported, learnt from trying: every option of ``configs/method``, small, after a few steps.

    python -m benchmarks.exports --markdown results/bench/exports.md

Each is trained for a few steps on noise (recipe ``small``, 64 pixels, CPU), exported as ``ader export`` does it, and
compared with its method on random images in batches of 2, 1 and 3.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ader.config.options import options
from ader.methods import Method
from ader.report.renderers import markdown as pipe_table
from ader.report.tables import Table
from ader.results.provenance import installed
from ader.runs.export import ENDINGS, Format, export_method
from ader.system.errors import UserError
from ader.system.interrupt import Stopped
from ader.testing.subject import Subject

#: A forest needs more rows than a few steps of two images give.
MORE_IMAGES = {"segad": {"batch_size": 8}}

HEADINGS = ("method", "gives", "images at once", "ONNX", "torch.export")


def main() -> int:
    """Tries, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="write the table here")
    given = parser.parse_args()
    text = pipe_table(Table.of_figures(HEADINGS, [row(name) for name in options("method")]))
    versions = ", ".join(f"{name} {installed(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime"))
    text += (
        "\n\nThe largest difference between the exported file and the method, as a share of the largest value, over "
        f"scores and maps of random images; or why there is no file. {versions}.\n"
    )
    print(text)
    if given.markdown:
        given.markdown.write_text(text, encoding="utf-8")
    return 0


def row(name: str) -> tuple[str, ...]:
    """One line of the table."""
    subject = Subject.named(name, **MORE_IMAGES.get(name, {}))
    method = subject.fitted.eval()
    gives = "score, map" if method.tags.maps else "score"
    tried = [attempt(method, subject.size, to) for to in ENDINGS]
    batches = dict.fromkeys(batch for _, batch in tried if batch)
    return name, gives, ", ".join(batches), *(said for said, _ in tried)


def attempt(method: Method, size: int, to: Format) -> tuple[str, str]:
    """The difference, or why there is no file; and how many images it takes at once."""
    try:
        made = export_method(method, size, to, {})
    except (UserError, Stopped) as error:
        return str(error), ""
    return f"{made.difference:.1e}", "any number" if made.batch is None else str(made.batch)


if __name__ == "__main__":
    raise SystemExit(main())
