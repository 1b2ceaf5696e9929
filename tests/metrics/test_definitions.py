"""A metric is one entry: what is derived from it, what chance reaches, and how little its listing imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ader.metrics import METRICS, Metric, chance, definitions, evaluate
from ader.report.result_tables import DEFECTS, MAIN, MORE, OBJECT
from ader.testing.metric_checks import CATEGORIES, toy_batch

ROOT = Path(__file__).parents[2]

# The share of defective pixels or images, a value that a test knows without the evaluator.
SHARE = "lambda bins: (bins.positives / (bins.positives + bins.negatives),) * 3"
MADE_UP = f"""
    Metric(
        slug="image_share", group="image", description="share of defective images",
        table="main", column=("image", "Share"), value={SHARE}, chance=prevalence,
    ),
    Metric(
        slug="pixel_share", group="pixel", description="share of defective pixels",
        table="more", column=("pixel", "PShar"), value={SHARE}, chance=lambda share: share / 2, per_defect=True,
        published={{
            "ader": lambda counts: counts.grid.positives / (counts.grid.positives + counts.grid.negatives) / 4,
            "invad": SAME,
        }},
    ),
    Metric(
        slug="pixel_new", group="pixel", description="a metric that published tables lack",
        table="more", column=("pixel", "New"), value={SHARE}, chance=0.125,
    ),
    Metric(
        slug="mad_new", group="average", description="mean of both",
        table="more", column=("mAD", "new"), components=("image_share", "pixel_new"),
    ),
"""
OPENING = "METRICS: tuple[Metric, ...] = (\n"
# Definitions from the file given, everything else as it is.
PROGRAM = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("ader.metrics.definitions", sys.argv[1])
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])

from ader.__main__ import main
from ader.metrics import KINDS, Evaluator, chance, evaluate
from ader.report.renderers import terminal
from ader.report.result_tables import category_tables, defect_table
from ader.testing.metric_checks import CATEGORIES, toy_batch
from tests.support.records import a_record

def told(frame):
    return {slug: dict(column) for slug, column in frame.items() if slug.endswith(("_share", "_new"))}

batch, found = toy_batch(), {}
for kind in KINDS:
    evaluator = Evaluator(CATEGORIES, metric=kind, by_defect=True)
    evaluator.update(**batch)
    frame = evaluator.compute()
    names = [CATEGORIES[each] for each in batch["category"]]
    once = evaluate(batch["map"], batch["mask"], batch["score"], batch["label"], names, metric=kind)
    reasons = {slug: reason for (name, slug), reason in evaluator.undefined().items() if name == CATEGORIES[0]}
    expected = chance(evaluator.counts())
    frame.loc["chance"] = expected
    made = category_tables(frame, evaluator.bounds(), a_record())
    tables = ["\\n".join(map(terminal, made)), terminal(defect_table(evaluator.breakdown()))]
    found[kind] = {"values": told(frame), "once": told(once), "reasons": reasons, "tables": tables}
print(json.dumps(found))
main(["list", "metrics"])
"""


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """What a package says in which metrics were added in one place, and what ``ader list metrics`` prints there."""
    source = Path(definitions.__file__).read_text(encoding="utf-8")
    assert source.count(OPENING) == 1
    file = tmp_path_factory.mktemp("metric") / "definitions.py"
    file.write_text(source.replace(OPENING, OPENING + MADE_UP), encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(file)]
    run = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"ADER_KERNELS": "torch", "PYTHONPATH": str(ROOT)}
    )
    assert run.returncode == 0, run.stderr
    found, _, listed = run.stdout.partition("\n")
    return json.loads(found), listed


@pytest.mark.parametrize("kind", definitions.KINDS)
def test_an_entry_is_evaluated(added, kind):
    batch, found = toy_batch(), added[0][kind]
    for number, name in enumerate(CATEGORIES):
        mine = batch["category"] == number
        of_images, of_pixels = batch["mask"][mine].any((1, 2)).mean(), batch["mask"][mine].mean()
        assert of_images == batch["label"][mine].mean()  # no mask is empty: labels from masks are the same
        expected = {"image_share": of_images, "pixel_share": of_pixels, "pixel_new": of_pixels}
        expected["mad_new"] = (of_images + of_pixels) / 2
        if kind in definitions.PUBLISHED:
            expected |= {"pixel_new": np.nan, "mad_new": np.nan}
        if kind == "ader":
            expected |= {"pixel_share": of_pixels / 4}
        for values in (found["values"], found["once"]):
            assert {slug: column[name] for slug, column in values.items()} == pytest.approx(expected, nan_ok=True)
    reason = f"{definitions.PUBLISHED.get(kind)} does not define it"
    lacking = {"pixel_new": reason, "mad_new": f"pixel_new is undefined: {reason}"}
    assert found["reasons"] == (lacking if kind in definitions.PUBLISHED else {})


def test_an_entry_has_its_chance_and_its_column(added):
    batch, found = toy_batch(), added[0]["histogram"]
    rows = [batch["category"] == number for number in range(len(CATEGORIES))]
    image = np.mean([batch["label"][mine].mean() for mine in rows])
    pixel = np.mean([batch["mask"][mine].mean() for mine in rows])
    expected = {"image_share": image, "pixel_share": pixel / 2, "pixel_new": 0.125, "mad_new": (image + 0.125) / 2}
    assert {slug: column["chance"] for slug, column in found["values"].items()} == pytest.approx(expected)
    tables, defects = found["tables"]
    main, more = tables.index("Share"), tables.index("PShar")
    assert 0 < main < tables.index("FPR95") < tables.index("IoUmax")
    assert more > tables.index("mean")
    assert {"New", "new"} <= set(tables.split())
    assert "PShar" in defects.split()
    assert "New" not in defects.split()


def test_an_entry_is_listed(added):
    lines = added[1].splitlines()
    for words in (["image_share", "image Share", "share of defective images"], ["mad_new", "mAD new", "mean of both"]):
        assert any(all(word in line for word in words) for line in lines), words


def test_an_entry_is_computed_or_an_average():
    common = {"slug": "x", "group": "pixel", "description": "", "table": "main", "column": ("", "X")}
    for fields in ({}, {"value": lambda bins: bins, "components": ("mad",)}):
        with pytest.raises(ValueError, match="x: expected a value or components"):
            Metric(**common, **fields)
    with pytest.raises(ValueError, match="x: published as 'adre': did you mean 'ader'"):
        Metric(**common, value=lambda bins: bins, published={"adre": "same"})


def test_tables_are_those_of_the_papers():
    """The order of ADer's tables (mAD last), with columns that fit 80 characters beside a category's name."""
    assert [slug for slug, *_ in MAIN] == [
        *("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro", "mad"),
    ]
    assert [name for _, _, name in OBJECT] == ["AUROC", "AP", "F1max"]
    assert [slug for slug, *_ in DEFECTS] == ["image_auroc", "pixel_auroc", "pixel_ap", "pixel_aupro"]
    assert len(MAIN) + len(MORE) + len(OBJECT) == len(METRICS)
    assert max(len(metric.column[1]) for metric in METRICS) <= 6


def test_chance_is_what_random_scores_reach():
    """Random scores of 6,000 images: as far off as so many leave to luck (standard deviation up to 0.006)."""
    rng = np.random.default_rng(0)
    label = np.arange(6000) % 4 == 0
    mask = np.zeros((6000, 6, 6), dtype=bool)
    mask[label, 2:4, 1:5] = True
    frame = evaluate(rng.random(mask.shape, dtype=np.float32), mask, rng.random(6000), label).loc["mean"]
    counts = {"normal": [4500], "defective": [1500], "normal_pixels": [216_000 - 12_000], "defective_pixels": [12_000]}
    expected = chance(pd.DataFrame(counts)).dropna()
    assert set(expected.index) == {
        *(metric.slug for metric in METRICS if metric.chance is not None),
        *("mad", "mad_image", "mad_pixel"),
    }
    assert frame[expected.index].to_dict() == pytest.approx(expected.to_dict(), abs=0.01)


def test_chance_is_the_mean_over_categories_with_both_kinds():
    counts = {"normal": [3, 1, 7], "defective": [1, 1, 0], "normal_pixels": [10, 0, 9], "defective_pixels": [0, 0, 0]}
    found = chance(pd.DataFrame(counts))
    assert found["image_ap"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert found["image_f1max"] == pytest.approx((2 / 5 + 2 / 3) / 2)  # precision 1/4 and 1/2, recall 1
    assert found["image_auroc"] == 0.5
    assert found.filter(like="pixel").isna().all()
    assert np.isnan(found["mad"])


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import ader.metrics", "torch numba numpy scipy pandas.plotting matplotlib torchvision timm hydra omegaconf"),
        ("from ader.metrics import chance", "torch numba matplotlib torchvision timm hydra omegaconf"),
        ("from ader.metrics import Evaluator, evaluate", "matplotlib torchvision timm hydra omegaconf"),
        ("import ader.__main__ as m; m.main(['list', 'metrics'])", "torch numba pandas torchvision timm"),
    ],
)
def test_imports_stay_light(statement, absent):
    code = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(absent.split()) & set(run.stdout.splitlines())
