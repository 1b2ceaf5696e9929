"""The words of a sweep stand for what Hydra's own sweeper makes of them."""

from __future__ import annotations

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from ader.config.options import options
from ader.config.sweep import divide, expand, refuse_own
from ader.system.errors import UserError


@pytest.mark.parametrize(
    "words",
    [
        ["method=rd,invad", "dataset=mvtec,visa", "seed=1,2,3"],
        ["seed=range(1,4)", "image_size=range(64,257,64)"],
        ["method=choice(rd,invad)", "trainer.epochs=choice(1,2)"],
        ["dataset.categories=[a,b],[c]", "+method.options={a:1,b:2},{a:3}"],
        ["seed=sort(3,1,2)", "seed=tag(t,choice(1,2))", "image_size=sort(range(1,4),reverse=true)"],
        ["experiment=demo,demo_rd", "run='a,b'", "x=\"a,b\",'c d'"],
        ["seed=1", "~method.clip=null", "method.lr=0.1"],
        ["seed=int(choice(1.5,2.5))"],
    ],
)
def test_jobs_are_hydras(words):
    expected = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0]
    found, _ = expand(words)
    assert [list(job) for job in found] == [list(job) for job in expected]


def test_a_glob_is_over_the_options_of_a_group():
    found, swept = expand(["method=glob(*,exclude=s*)", "dataset=demo"])
    named = [job[0] for job in found]
    assert named == [f"method={name}" for name in options("method") if not name.startswith("s")]
    assert swept == ["method"]


def test_values_of_a_list_stand_as_they_were_typed():
    assert [job[0] for job in expand(["run=1.10,010"])[0]] == ["run=1.10", "run=010"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lr=interval(0,1)"], "no single values"),
        (["method=glob(zzz*)"], "no option of method fits"),
        (["seed=range(0,101)", "image_size=range(0,101)"], "10,201 jobs"),
        (["seed"], "is not an override"),
    ],
)
def test_what_stands_for_no_jobs_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        expand(words)


def test_the_sweeps_own_words_are_taken_out():
    words = ["method=rd", "launcher=local", "launcher.slots=2", "retry=failed", "paths.results=/r", "seed=1,2"]
    own, jobs = divide(words)
    assert own == ["paths.results=/r", "launcher=local", "launcher.slots=2", "retry=failed"]
    assert jobs == ["method=rd", "paths.results=/r", "seed=1,2"]
    with pytest.raises(UserError, match="ader -m"):
        refuse_own(words)
