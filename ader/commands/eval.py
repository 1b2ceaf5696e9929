"""``ader eval``: evaluates a finished run's model again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ader.system.errors import UserError

USAGE = """\
ader eval RUN [key=value ...]

Evaluates the model of a finished run again, without training. RUN is its results folder,
RESULTS/<dataset>/<setting>/<method>/<run>.

What may change: nothing that the model was trained with.
  metric=histogram|exact|ader   metric.size=input|original|N   metric.by_defect=true
  metric.mask_interpolation=bilinear|nearest   metric.map_interpolation=bilinear|nearest
  save_maps=true
  trainer.device=  trainer.workers=  trainer.test_batch_size=  trainer.precision=
  dataset.root=DIR  paths.data=  paths.results=  paths.weights=  paths.cache=
  run=NAME  force=true
  --config-dir DIR              if the run had one and it was moved
  --cfg                         print the composed configuration

With nothing changed the tables in RUN are replaced. A configuration that gives other numbers has a
folder of its own, as any run has; its record says where the model is. A run that was named (run=NAME)
needs another name for those.
"""


def main(arguments: Sequence[str]) -> int:
    """Evaluates, and prints the table that a run prints."""
    from ader.config.compose import take_flags

    flags, words = take_flags(arguments)
    if not words:
        raise UserError("the run's folder is not given: ader eval RUN [key=value ...] (ader eval --help)")
    from ader.results.trained import open_run
    from ader.runs.evaluate_again import evaluate, recompose

    path, *overrides = Path(words[0]), *words[1:]
    if flags.cfg:
        print(recompose(open_run(path), overrides, flags.config_dir).as_yaml(), end="")
    else:
        evaluate(path, overrides, flags.config_dir)
    return 0
