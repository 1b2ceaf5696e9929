"""``record.json``: the same after writing and reading, earlier ones understood, damaged ones refused in one line."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from ader.results import schema
from ader.results.record import fields, read, write
from ader.results.schema import SCHEMA, Record, StageCost, plain
from ader.results.trained import open_run
from ader.system.errors import UserError
from tests.support.records import a_model, a_record, some_maps

#: Written by ader at the commit that they name (its last one with schema 2); only a folder's name was changed.
OLD = Path(__file__).parent / "records"


def placed(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    "record",
    [
        a_record(),
        a_record(models={"a": a_model(), "b": a_model()}, warnings=("w", "ü"), seed=0, config_dir="more"),
        a_record(models={}, source=some_maps(3), seed=None),
        a_record(evaluated_from=schema.EvaluatedFrom(run="../other", time="t", commit=None)),
    ],
)
def test_what_is_read_is_what_was_written(record, tmp_path):
    write(tmp_path, {"metrics.csv": "x"}, record)
    assert read(tmp_path) == record
    text = json.loads((tmp_path / "record.json").read_text())
    assert list(text)[:2] == ["schema", "status"]
    assert text["models"].keys() == record.models.keys()
    assert ("source" in text, "evaluated_from" in text) == (
        record.source is not None,
        record.evaluated_from is not None,
    )
    assert (tmp_path / "metrics.csv").read_text() == "x"


def test_no_record(tmp_path):
    assert read(tmp_path) is None


def test_values_are_finite():
    with pytest.raises(ValidationError, match="finite"):
        a_record(rows={"mean": {"mad": math.nan}})
    with pytest.raises(ValidationError, match="finite"):
        StageCost(seconds=math.inf, images=1, images_per_second=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_record().seed = 3
    assert StageCost.of(0.0, 0).images_per_second == 0


def test_a_run_of_schema_2(tmp_path):
    """Every number of the old file stands where today's names say."""
    old = json.loads((OLD / "schema2_run.json").read_text())
    record = read(placed(tmp_path, json.dumps(old)))
    assert record is not None
    assert (record.schema, record.metric, record.maps, record.by_defect) == (SCHEMA, "histogram", True, True)
    assert list(record.warnings) == old["caveats"] == ["backbone resnet18 has random weights (not pretrained)"]
    assert record.rows == old["rows"]
    assert {reason: list(where) for reason, where in record.undefined.items()} == old["undefined"]
    assert plain(record.provenance) == {key: old[key] for key in ("time", "commit", "versions", "hardware", "command")}
    assert record.models.keys() == old["parts"].keys() == {"bottle", "cable"}
    for name, model in record.models.items():
        facts = old["parts"][name]
        network, training, prediction = model.network, model.training, model.prediction
        assert [plain(weights) for weights in network.weights] == facts["weights"]
        assert (network.params, network.trainable_params, network.macs) == (
            *(facts["params"], facts["trainable_params"], facts["macs"]),
        )
        assert list(network.warnings) == facts["caveats"]
        assert plain(model.checkpoint) == facts["checkpoint"]
        assert {stage: cost.seconds for stage, cost in training.stages.items()} == facts["stage_seconds"]
        assert {stage: cost.images for stage, cost in training.stages.items()} == facts["stage_images"]
        paces = {stage: cost.images_per_second for stage, cost in training.stages.items()}
        assert paces == facts["stage_images_per_second"]
        assert (training.memory_bytes, training.processes, training.cached) == (facts["train_memory_bytes"], 1, False)
        assert (prediction.images, prediction.memory_bytes) == (facts["test_images"], facts["test_memory_bytes"])
        assert (prediction.seconds, prediction.evaluate_seconds, prediction.images_per_second) == (
            *(facts["predict_seconds"], facts["evaluate_seconds"], facts["predict_images_per_second"]),
        )
    same = ("title", "choices", "seed", "config", "config_hash", "data_root", "data_hash", "index_hash", "images")
    for key in same:
        assert getattr(record, key) == old[key], key
    assert open_run(tmp_path).checkpoint("cable") == tmp_path.resolve() / "parts" / "cable" / "checkpoint.pt"


def test_an_evaluation_of_schema_2(tmp_path):
    record = read(placed(tmp_path, (OLD / "schema2_evaluation.json").read_text()))
    assert record is not None
    assert record.evaluated_from is not None
    assert (record.metric, record.evaluated_from.run) == ("ader", "../old")
    assert record.evaluated_from.commit == record.provenance.commit
    assert open_run(tmp_path).home == (tmp_path / "../old").resolve()


def test_scored_maps_of_schema_2(tmp_path):
    old = json.loads((OLD / "schema2_maps.json").read_text())
    record = read(placed(tmp_path, json.dumps(old)))
    assert record is not None
    assert record.source is not None
    assert (record.models, record.seed) == ({}, None)
    facts, source = old["parts"]["maps"], plain(record.source)
    assert source.pop("reading") == {
        "images": facts["test_images"],
        "seconds": facts["read_seconds"],
        "evaluate_seconds": facts["evaluate_seconds"],
        "scores_from_maps": facts["scores_from_maps"],
    }
    assert source == old["source"]
    with pytest.raises(UserError, match="holds scored maps and no model"):
        open_run(tmp_path)


def test_a_newer_version(tmp_path):
    placed(tmp_path, json.dumps({**plain(a_record()), "schema": SCHEMA + 1}))
    with pytest.raises(UserError, match=r"record.json was written by a newer version of ader \(schema 4, this one"):
        read(tmp_path)


def changed(*path: str | int, **value: object) -> str:
    """A record with a value replaced (``to=``), or removed."""
    record = plain(a_record())
    place = record
    for key in path[:-1]:
        place = place[key]
    if value:
        place[path[-1]] = value["to"]
    else:
        del place[path[-1]]
    return json.dumps(record)


def old_without(*path: str) -> str:
    """A record of schema 2 that lacks a key."""
    record = json.loads((OLD / "schema2_run.json").read_text())
    place = record
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"schema": 3', "is not valid JSON"),
        ('{"schema": NaN}', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"schema": 3, "config": {"a": ' + "[" * 500 + "]" * 500 + "}}", "nest|recursion"),
        ("[]", "another version of ader"),
        ("null", "another version of ader"),
        ('{"schema": "2"}', "another version of ader"),
        ('{"schema": true}', "another version of ader"),
        ('{"schema": 1}', "another version of ader"),
        ('{"schema": 3}', "title is missing"),
        ('{"schema": 2}', "title is missing"),
        (changed("metric"), "metric is missing"),
        (changed("models", "all", "checkpoint", "sha256"), "models.all.checkpoint.sha256 is missing"),
        (changed("models", to=[]), "models does not fit"),
        (
            changed("models", "all", "training", "stages", "fit", "seconds", to="2"),
            "models.all.training.stages.fit.sec",
        ),
        (changed("provenance", "hardware", "cores", to=1.5), "provenance.hardware.cores does not fit"),
        (changed("seed", to="42"), "seed does not fit"),
        (changed("maps", to=1), "maps does not fit"),
        (changed("overrides", to="seed=1"), "overrides does not fit"),
        (changed("more", to=1), "more is not known"),
        (old_without("parts"), "models is missing"),
        (old_without("parts", "cable", "macs"), "models.cable.network.macs is missing"),
        (old_without("parts", "cable", "stage_images"), "models.cable.training.stages.bank.images is missing"),
        (old_without("parts", "cable", "checkpoint"), "models.cable.checkpoint is missing"),
        (old_without("time"), "provenance.time is missing"),
    ],
)
def test_damaged_records(text, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        read(placed(tmp_path, text))
    assert str(tmp_path / "record.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_a_folder(tmp_path):
    (tmp_path / "record.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not valid JSON"):
        read(tmp_path)
    (tmp_path / "record.json").unlink()
    (tmp_path / "record.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)


def keys(value: object, prefix: str = "") -> set[str]:
    """Dotted keys of a record's JSON, by position and not by name where any name may stand."""
    if not isinstance(value, dict):
        return set()
    found = set()
    for name, item in value.items():
        free = prefix in ("models.", "models.<name>.training.stages.")
        key = prefix + ("<name>" if free else name)
        found |= ({key} if not free else set()) | keys(item, f"{key}.")
    return found


def test_every_field_is_documented(tmp_path):
    """The documentation has every key that records have, and says something of each."""
    described = fields()
    texts = {field.key: field for field in described}
    assert len(texts) == len(described)
    record = plain(a_record(evaluated_from=schema.EvaluatedFrom(run=".", time="t", commit=None), source=some_maps()))
    tables = ("config.", "choices.", "images.", "rows.", "undefined.", "provenance.versions.", "source.format.")
    plain_keys = {key for key in keys(record) if not key.startswith(tables)}
    assert plain_keys <= texts.keys()
    assert all(field.description.endswith(".") and len(field.description) > 3 for field in described)
    assert texts["models.<name>.network.weights[].sha256"].type == "string or null"
    assert texts["rows"].type == "object of object of number or null"
    assert [field.name for field in dataclasses.fields(Record)] == [key for key in texts if "." not in key]
