"""Short runs of every method on a folder of real images: do they all train, score and report?

    python -m benchmarks.short_runs --root my/images --results results --markdown results/bench/short_runs.md

Each method runs under its recipe ``small`` (random ResNet-18 features, narrow networks, few epochs), which takes a CPU
a minute or two; detectors learn from normal images, supervised methods from ``--shots`` defects of each category that
leave the test. The tables are those of the runs, every line a category.
Random weights and short training say that the machinery works on these images, not how good a method is. A run that is
finished is not made again, and tables of methods that are not named stay in the file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ader.config.options import options
from ader.metrics import METRICS
from ader.report.renderers import markdown
from ader.report.tables import Column, Row, Table
from ader.results import record

COLUMNS = ("image_auroc", "image_ap", "image_f1max", "image_fpr95", "pixel_auroc", "pixel_ap", "pixel_aupro", "mad")


def main() -> int:
    """Runs what is asked for; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="METHOD", help=f"any of {', '.join(options('method'))}; default: all"
    )
    parser.add_argument("--root", type=Path, required=True, help="images in the layout of MVTec AD")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results tree (default: results)")
    parser.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--shots", type=int, default=2, help="defects that supervised methods learn from (default 2)")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    choice = parser.parse_args()
    unknown = sorted(set(choice.names) - set(options("method")))
    if unknown:
        parser.error(f"there is no method {', '.join(unknown)}: choose from {', '.join(options('method'))}")
    failed, texts = [], sections(choice.markdown)
    for name in choice.names or options("method"):
        words = command(name, choice)
        print(f"$ ader {' '.join(words)}", flush=True)
        if subprocess.run([sys.executable, "-m", "ader", *words]).returncode:
            failed.append(name)
        else:
            texts[name] = section(name, choice.results, words)
    if choice.markdown:
        tables = (texts[name] for name in sorted(texts))
        choice.markdown.write_text("\n".join([HEAD.format(size=choice.size), *tables]), encoding="utf-8")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def sections(file: Path | None) -> dict[str, str]:
    """The parts of an earlier file, by method; none where there is no file."""
    parts = file.read_text(encoding="utf-8").split("\n## ")[1:] if file and file.is_file() else []
    return {part.split("\n", 1)[0]: f"## {part}".rstrip() + "\n" for part in parts}


def command(name: str, choice: argparse.Namespace) -> list[str]:
    """The words after ``ader``."""
    shots = f"setting.shots={choice.shots}"
    setting = {
        "wrn_classifier": ["setting=labeled", f"setting.k={choice.shots}"],
        "segad": ["setting=supervised", "setting.source=test", shots, "setting.detector_share=0.5"],
    }.get(name, [])
    where = ["dataset=folder", f"dataset.root={choice.root}", f"paths.results={choice.results}"]
    return [f"method={name}", "recipe=small", *where, *setting, f"image_size={choice.size}", "run=short"]


HEAD = """# Short runs of every method

Made by `benchmarks/short_runs.py`: {size}x{size} pixels, `recipe=small` (narrow networks with random weights, few
epochs), on a CPU. They show that every method trains, scores and reports on real images, not how good it is. Percent;
`-`: undefined.
"""


def section(name: str, results: Path, words: Sequence[str]) -> str:
    """A method's table and the command that made it."""
    folder = newest(results, name)
    frame = record.read_table(folder / "metrics.csv")
    frame = frame[[column for column in COLUMNS if column in frame]]
    headings = {metric.slug: metric.heading for metric in METRICS}
    columns = [Column("category"), *(Column(headings[str(slug)], kind="percent") for slug in frame)]
    rows = [Row.of(str(name), *map(float, values)) for name, values in zip(frame.index, frame.to_numpy(), strict=True)]
    shown = [word for word in words if not word.startswith(("dataset.root", "paths.results"))]
    table = markdown(Table(tuple(columns), tuple(rows)))
    return "\n".join([f"## {name}", "", f"`ader {' '.join(shown)}`", "", table])


def newest(results: Path, name: str) -> Path:
    """The folder that the last such run wrote."""
    return max(results.glob(f"*/*/{name}/short/record.json"), key=lambda file: file.stat().st_mtime).parent


if __name__ == "__main__":
    sys.exit(main())
