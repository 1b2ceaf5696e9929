"""``ader score``: evaluates maps that another program made."""

from __future__ import annotations

from ader.commands._request import Request

SUMMARY = "ader score MAPS dataset=NAME   evaluates anomaly maps that any program saved"

USAGE = """\
ader score MAPS dataset=NAME [key=value ...]

Evaluates anomaly maps that any program saved against a dataset's masks. MAPS is a folder with a map
for every test image, <category>/<defect>/<stem>.npy|npz|tiff|png (what save_maps=true writes; also
<category>/test/<defect>/<stem>, or the image's own path with another ending), or ADEval's .pkl.

  dataset.root=DIR  'dataset.categories=[a,b]'
  scores=FILE.csv               image scores (columns image, score); else the largest value of each map
  name=NAME                     stands for the maps in the results; else the name of their folder
  metric=histogram|exact|ader|invad   metric.size=input|original|N   metric.by_defect=true
  metric.mask_interpolation=bilinear|nearest   metric.map_interpolation=bilinear|nearest
  metric.mask_rule=auto|any|half
  device=cpu|cuda  workers=N  paths.data=DIR  paths.results=DIR  force=true  run=NAME
  --config-dir DIR              a folder with options of your own
  --cfg                         print the composed configuration

metric.size=input (the default) takes maps as they are and resizes the masks to them. Results are in
RESULTS/<dataset>/maps/<name>/<run>; the scores.csv of a run is a file for scores=.
"""


def main(request: Request) -> int:
    """Evaluates, and prints the table that a run prints."""
    maps, rest = request.take("the maps are not given: ader score MAPS dataset=NAME")
    from ader.config.schema import ScoreConfig

    config = rest.compose(ScoreConfig)
    if config is not None:
        from ader.runs.score_maps import score

        score(config, maps)
    return 0
