"""Conditions on runs: what holds, and what is refused with help."""

from __future__ import annotations

import pytest

from ader.report.collection import Run
from ader.report.where import parse, select
from ader.system.errors import UserError


def run(folder, **keys):
    place = tuple(keys.get(key, "x") for key in ("dataset", "setting", "method", "run"))
    return Run(folder, place, "done", keys=keys)


@pytest.fixture
def runs(tmp_path):
    keys = [
        {"dataset": "mvtec", "method": "rd", "seed": 1, "method.lr": 0.005, "pretrained": True, "categories": None},
        {"dataset": "mvtec", "method": "invad", "seed": 2, "method.lr": 0.001, "categories": ["a", "b"]},
        {"dataset": "visa", "method": "rd", "seed": 1, "run": "my run"},
    ]
    return [run(tmp_path, **each) for each in keys]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", [0, 1, 2]),
        ("dataset=mvtec", [0, 1]),
        ("method=rd,invad  dataset=mvtec", [0, 1]),
        ("dataset=mvtec method=rd", [0]),
        ("seed=1", [0, 2]),
        ("seed=1.0", [0, 2]),
        ("method.lr=5e-3", [0]),
        ("pretrained=true", [0]),
        ("pretrained=null", [1, 2]),
        ("categories=[a,b]", [1]),
        ("categories=[a,b],null seed=1,2", [0, 1, 2]),
        ("run='my run'", [2]),
        ("method!=rd", [1]),
        ("method!=rd,invad categories=null", []),
        ("seed=1 dataset!=visa,btad", [0]),
    ],
)
def test_selected(runs, text, numbers):
    assert [*filter(parse(text), runs)] == [runs[number] for number in numbers]
    if numbers:
        assert select(runs, text) == [runs[number] for number in numbers]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datset=mvtec", "no run has the key 'datset': did you mean 'dataset'"),
        ("method.lrr=1", "did you mean 'method.lr'"),
        ("zzzzzz=1", "choose from: backbone, dataset"),
        ("mvtec", "'mvtec' is not key=value"),
        ("method=rd,", "'method=rd,' is not key=value"),
        ("=rd", "is not key=value"),
        ("method=rd method=invad", "write method=rd,invad"),
        ("method='rd", "cannot be read"),
        ("method!=rd method!=cfa", "write method!=rd,cfa"),
        ("datset!=mvtec", "did you mean 'dataset'"),
        ("method!=rd,invad", "all of them for none"),
        ("pretrained=1", "pretrained is null, true"),
        ("method=rdd", "holds for none of 3 runs: method is invad, rd"),
        ("dataset=visa method=invad", "each condition holds for some"),
    ],
)
def test_refused(runs, text, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        select(runs, text)


def test_a_key_of_any_tree_is_known_in_an_empty_one():
    with pytest.raises(UserError, match="there are no runs"):
        select([], "epochs=100")
    assert select([], "") == []


def test_a_condition_is_a_predicate(runs):
    assert [*filter(parse("dataset=visa"), runs)] == runs[2:]
