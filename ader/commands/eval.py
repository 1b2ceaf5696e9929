"""``ader eval``: evaluates a finished run's model again."""

from __future__ import annotations

from ader.commands._request import Request

SUMMARY = "ader eval RUN [key=value ...]  evaluates a finished run's model again: metric=ader, save_maps=true ..."

USAGE = """\
ader eval RUN [key=value ...]

Evaluates the model of a finished run again, without training. RUN is its results folder,
RESULTS/<dataset>/<setting>/<method>/<run>.

What may change: nothing that the model was trained with.
  metric=histogram|exact|ader|invad   metric.size=input|original|N   metric.by_defect=true
  metric.mask_interpolation=bilinear|nearest   metric.map_interpolation=bilinear|nearest
  metric.mask_rule=auto|any|half
  save_maps=true  gallery=off|worst|all
  trainer.device=  trainer.workers=  trainer.test_batch_size=  trainer.precision=
  dataset.root=DIR  paths.data=  paths.results=  paths.weights=  paths.cache=
  run=NAME  force=true
  --config-dir DIR              if the run had one and it was moved
  --cfg                         print the composed configuration

With nothing changed the tables in RUN are replaced. A configuration that gives other numbers has a
folder of its own, as any run has; its record says where the model is. A run that was named (run=NAME)
needs another name for those.
"""


def main(request: Request) -> int:
    """Evaluates, and prints the table that a run prints."""
    path, rest = request.take("the run's folder is not given: ader eval RUN")
    from ader.results.trained import open_run
    from ader.runs.evaluate_again import evaluate, recompose

    trained = open_run(path)
    config = request.show(recompose(trained, rest.words, rest.config_dir))
    if config is not None:
        evaluate(trained, config)
    return 0
