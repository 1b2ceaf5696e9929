"""Runs and papers as one table: what is told apart, what is refused; correlations, convergence and stability."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ader import published
from ader.report.collection import collect
from ader.report.statistics.correlation import ELEVEN, SEVEN, correlation, over_metrics, pearson
from ader.report.statistics.spread import by_study, convergence_table, stability_table
from ader.report.statistics.values import name_epochs, published_values, values_of
from ader.system.errors import UserError
from tests.support.trees import a_run

PAIRS = published.read("ablations").query("metric == 'pearson'").to_dict("records")


def test_published_correlations_are_there():
    assert len(PAIRS) == 30


@pytest.mark.parametrize("cell", PAIRS, ids=lambda cell: cell["params"])
def test_invads_table_3(cell):
    """Recomputed from its Table 5, the printed correlations come out."""
    metrics = ELEVEN if cell["params"].endswith("plus_four_new") else SEVEN
    values = published_values("invad", metrics, f"table=5 method={cell['row']}")
    one, other = cell["dataset"].split("|")
    found = pearson(over_metrics(values, cell["row"]))
    assert found.loc[one, other] == pytest.approx(cell["value"], abs=5e-4 + 1e-9)


def test_correlation_over_methods(tmp_path):
    rng = np.random.default_rng(0)
    table = {name: rng.uniform(size=4) for name in ("mvtec", "visa")}
    for dataset, values in table.items():
        for method, value in zip(("a", "b", "c", "d"), values, strict=True):
            a_run(tmp_path, dataset, method, values={(name, "mad"): value for name in ("bottle", "cable", "capsule")})
    found, over = correlation(values_of(collect(tmp_path), ["mad"]))
    assert found.loc["mvtec", "visa"] == pytest.approx(np.corrcoef(table["mvtec"], table["visa"])[0, 1])
    assert over == "4 methods"


def test_too_little_to_correlate(tmp_path):
    for dataset in ("mvtec", "visa"):
        for method in ("a", "b"):
            a_run(tmp_path, dataset, method)
    runs = collect(tmp_path)
    with pytest.raises(UserError, match="need 3 methods or metrics"):
        correlation(values_of(runs, ["mad"]))
    with pytest.raises(UserError, match="only mvtec"):
        correlation(values_of([run for run in runs if run.place[0] == "mvtec"], ["mad"]))
    assert np.isnan(pearson(pd.DataFrame({"a": [1.0, 1.0, 1.0], "b": [1.0, 2.0, 3.0]})).loc["a", "b"])


def test_runs_of_one_method_are_told_apart_by_the_fewest_keys(tmp_path):
    a_run(tmp_path, method="rd", epochs=100)
    a_run(tmp_path, method="rd", epochs=300)
    a_run(tmp_path, method="invad")
    frame = values_of(collect(tmp_path), ["mad"])
    assert set(frame["contender"]) == {"rd epochs=100", "rd epochs=300", "invad"}
    assert set(values_of(collect(tmp_path), ["mad"], study="epochs")["contender"]) == {"rd", "invad"}
    (invad,) = (run for run in collect(tmp_path) if run.keys["method"] == "invad")
    config = {**invad.record.config, "image_size": 320, "method": {**invad.record.config["method"], "lr": 0.1}}
    a_run(tmp_path, method="invad", run="other", config=config)
    names = set(values_of(collect(tmp_path), ["mad"])["contender"])
    assert names == {"rd epochs=100", "rd epochs=300", "invad image_size=256", "invad image_size=320"}


def test_other_metrics_and_settings_are_never_one_contender(tmp_path):
    a_run(tmp_path, method="rd", seed=1)
    a_run(tmp_path, method="rd", seed=2, metric="ader")
    assert set(values_of(collect(tmp_path), ["mad"])["contender"]) == {"rd metric=histogram", "rd metric=ader"}


def test_seeds_are_one_contender_and_twins_are_refused(tmp_path):
    a_run(tmp_path, seed=1)
    a_run(tmp_path, seed=2)
    assert set(values_of(collect(tmp_path), ["mad"])["contender"]) == {"rd"}
    a_run(tmp_path, seed=2, run="again")
    with pytest.raises(UserError, match=r"again and .*e100-s2 are the same but for their names"):
        values_of(collect(tmp_path), ["mad"])


def test_other_categories_or_data_of_a_dataset_are_another_dataset(tmp_path):
    a_run(tmp_path, seed=1)
    a_run(tmp_path, seed=2, categories=("bottle", "cable"))
    a_run(tmp_path, "visa", seed=1)
    a_run(tmp_path, "visa", seed=2, data_hash="other")
    found = set(values_of(collect(tmp_path), ["mad"])["dataset"])
    expected = {"mvtec (bottle, cable and 1 more)", "mvtec (bottle, cable)", "visa data x", "visa data other"}
    assert found == expected


def test_a_mean_over_seeds_of_which_one_is_undefined_is_undefined(tmp_path):
    for seed in (1, 2):
        for epochs in (100, 300):
            values = {("cable", "mad"): None} if (seed, epochs) == (2, 300) else {}
            a_run(tmp_path, seed=seed, epochs=epochs, values=values)
    values = values_of(collect(tmp_path), ["mad"], study="epochs")
    with pytest.raises(UserError, match="differ in epochs and in nothing else"):
        by_study(values, "mad")
    (row,) = stability_table(values_of(collect(tmp_path)[2:], ["mad"]), "mad").rows
    assert row.cells[2].empty


def test_nothing_finished():
    with pytest.raises(UserError, match="none of 0 runs is finished"):
        values_of([], ["mad"])
    with pytest.raises(UserError, match="did you mean 'mad'"):
        values_of([], ["madd"])


def test_published_convergence_is_the_difference_of_printed_cells():
    """ADer's Table 3: InvAD on MVTec AD has mAD 83.0 and more after 300 epochs than after 100."""
    values = published_values("ader", ["mad"], "dataset=mvtec,visa")
    table = by_study(values, "mad")
    raw = published.read("ader")
    for (dataset, method), line in table.iterrows():
        cells = raw[(raw["dataset"] == dataset) & (raw["method"] == method) & (raw["metric"] == "mad")]
        for epochs in (100, 300):
            printed = cells.loc[cells["epochs"] == str(epochs), "value"].item()
            assert 100 * line[epochs] == pytest.approx(printed)
    assert ("mvtec", "patchcore") not in table.index, "it is printed once, since it needs no training"
    shown = convergence_table(values, "mad")
    gains = {(row.cells[0].value, row.cells[1].value): row.cells[-1].value for row in shown.rows}
    assert gains["mvtec", "draem"] == pytest.approx(
        table.loc[("mvtec", "draem"), 300] - table.loc[("mvtec", "draem"), 100]
    )


def test_published_epochs_as_contenders():
    frame = name_epochs(published_values("ader", ["mad"], "dataset=mvtec"))
    assert {"rd epochs=100", "rd epochs=300", "patchcore"} <= set(frame["contender"])
    frame = name_epochs(published_values("ader", ["mad"], "dataset=mvtec epochs=100"))
    assert {"rd", "patchcore"} <= set(frame["contender"])


@pytest.mark.parametrize(
    ("source", "where", "message"),
    [
        ("aderr", "", "did you mean 'ader'"),
        ("ader", "dataset=none", "has no mad where dataset=none"),
        ("ader", "datset=mvtec", "has no 'datset': did you mean 'dataset'"),
    ],
)
def test_published_refusals(source, where, message):
    with pytest.raises(UserError, match=message):
        published_values(source, ["mad"], where)


def test_convergence_of_runs(tmp_path):
    for epochs, value in ((100, 0.5), (300, 0.75)):
        for seed in (1, 2):
            values = {(name, "mad"): value + seed / 100 for name in ("bottle", "cable", "capsule")}
            a_run(tmp_path, seed=seed, epochs=epochs, values=values)
    a_run(tmp_path, method="invad")
    (row,) = convergence_table(values_of(collect(tmp_path), ["mad"], study="epochs"), "mad").rows
    assert [cell.value for cell in row.cells] == pytest.approx(["mvtec", "rd", 0.515, 0.765, 0.25])
    one = [run for run in collect(tmp_path) if run.keys["epochs"] == 100]
    with pytest.raises(UserError, match="differ in epochs and in nothing else"):
        by_study(values_of(one, ["mad"], study="epochs"), "mad")


def test_stability(tmp_path):
    numbers = [0.5, 0.6, 0.8]
    for seed, value in enumerate(numbers):
        a_run(tmp_path, seed=seed, values={(name, "mad"): value for name in ("bottle", "cable", "capsule")})
    a_run(tmp_path, method="invad", values={(name, "mad"): 0.5 for name in ("bottle", "cable", "capsule")})
    invad, rd = stability_table(values_of(collect(tmp_path), ["mad"]), "mad").rows
    expected = ["mvtec", "rd", np.mean(numbers), np.std(numbers, ddof=1), 0.5, 0.8, 3]
    assert [cell.value for cell in rd.cells] == pytest.approx(expected)
    assert invad.cells[3].empty
    assert invad.cells[3].reason == "one seed has no deviation"
